package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// DialLocal connects to a TCP port on the loopback addresses of a network
// namespace: to 127.0.0.1, and where that fails to ::1. A socket belongs to the
// namespace in which it was made, whoever uses it later; see network_namespaces(7).
//
// A kubelet's containerd does the same. There is no time limit of its own but the
// half minute that keeps a thread from being held by a listener that takes nobody.
func DialLocal(ctx context.Context, ns *os.File, port uint16) (c net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	// Go makes the socket of an address without a name on the calling thread.
	err = inNetNS(ns, func() error {
		var d net.Dialer
		var err4, err6 error
		if c, err4 = d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))); err4 == nil {
			return nil
		}
		if c, err6 = d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port)))); err6 == nil {
			return nil
		}
		return fmt.Errorf("IPv4: %w; IPv6: %w", withoutAddress(err4), withoutAddress(err6))
	})
	return c, err
}

// withoutAddress leaves out what the reader of the error knows.
func withoutAddress(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
