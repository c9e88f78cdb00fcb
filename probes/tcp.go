package probes

import "context"

// TCP returns a check that succeeds when a connection to addr ("host:port", an
// IPv6 host in brackets) can be made. It is closed at once.
// Source: kubelet, pkg/probe/tcp.
func TCP(addr string, dial Dial) Check {
	if dial == nil {
		dial = touch
	}
	dial = dial.orDefault()
	return func(ctx context.Context) Attempt {
		conn, err := dial(ctx, "tcp", addr)
		if err != nil {
			if ctx.Err() == context.Canceled {
				return errored(context.Canceled)
			}
			return Attempt{Outcome: Failure, Output: err.Error(), TimedOut: overDeadline(err)}
		}
		conn.Close() // the connection was made, nothing else counts
		return succeeded("")
	}
}
