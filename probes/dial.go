package probes

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
)

// Dial connects a network probe. nil in its place dials from the namespace that
// the program is in, which is where a kubelet probes from.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

const lingerSeconds = 1

// overDeadline says of a connection's error whether a deadline caused it. The
// context may not know yet: the connection has a timer of its own.
func overDeadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// probeDialer asks for no keep-alive: a probe's connection does not live long
// enough, and every socket option is a system call per attempt.
var probeDialer = net.Dialer{KeepAlive: -1}

// orDefault returns a Dial whose connections linger for a second when closed,
// so that the thousands which probes open do not pile up.
// Source: kubelet, pkg/probe/dialer_others.go.
func (d Dial) orDefault() Dial {
	if d == nil {
		d = dialHere
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := d(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
			tcp.SetLinger(lingerSeconds) // fails only on a socket that is broken anyway
		}
		return conn, nil
	}
}

// dialHere connects to an address by few system calls, and to a name as the net
// package does.
func dialHere(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := touch(ctx, network, addr)
	if c, ok := conn.(*tcpConn); ok {
		c.poll()
	}
	return conn, err
}

// touch is dialHere for those who will do nothing but close the connection.
func touch(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if network != "tcp" || err != nil || to.Addr().Zone() != "" {
		return probeDialer.DialContext(ctx, network, addr)
	}
	c, err := connect(ctx, to)
	if err != nil {
		return nil, err
	}
	return c, nil
}
