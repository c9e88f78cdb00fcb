package probes

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A tcpConn is a connection that costs less than one of the net package. Its
// errors read like that one's. Until it is polled it may only be closed.
type tcpConn struct {
	fd            int
	f             *os.File // owns fd once it is polled
	local, remote netip.AddrPort
}

// maxConnects is how often a connection is made anew that came to nothing, or to
// itself: where nobody listens on a port that local connections may get, one may
// be answered by itself. Source: package net, doDialTCPProto.
const maxConnects = 3

// connect makes a TCP connection. The handshake with a pod on this machine is
// over when the first connect returns; a second one says so, and the poller is
// not asked.
func connect(ctx context.Context, to netip.AddrPort) (*tcpConn, error) {
	for n := 1; ; n++ {
		c, err := connectOnce(ctx, to)
		if err == nil && c.local == c.remote {
			c.Close()
			c, err = nil, c.dialError(os.NewSyscallError("connect", unix.ECONNREFUSED))
		} else if !errors.Is(err, unix.EADDRNOTAVAIL) {
			return c, err
		}
		if n == maxConnects {
			return c, err
		}
	}
}

func connectOnce(ctx context.Context, to netip.AddrPort) (*tcpConn, error) {
	c := &tcpConn{remote: netip.AddrPortFrom(to.Addr().Unmap(), to.Port())}
	if err := ctx.Err(); err != nil {
		return nil, c.dialError(ended(err))
	}
	family, address := unix.AF_INET, unix.Sockaddr(nil)
	if ip := c.remote.Addr(); ip.Is4() {
		address = &unix.SockaddrInet4{Addr: ip.As4(), Port: int(to.Port())}
	} else {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Addr: ip.As16(), Port: int(to.Port())}
	}
	var err error
	if c.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
		return nil, c.dialError(os.NewSyscallError("socket", err))
	}
	for range 2 {
		if err = unix.Connect(c.fd, address); !underWay(err) {
			break
		}
	}
	if underWay(err) {
		err = c.await(ctx, address)
	} else {
		err = os.NewSyscallError("connect", err)
	}
	if err != nil {
		c.Close()
		return nil, c.dialError(err)
	}
	// Package unix asks for the protocol as well.
	if name, err := syscall.Getsockname(c.fd); err == nil {
		c.local = addrPort(name)
	}
	return c, nil
}

func underWay(err error) bool {
	return err == unix.EINPROGRESS || err == unix.EALREADY || err == unix.EINTR
}

// await waits for the connection until ctx ends.
func (c *tcpConn) await(ctx context.Context, address unix.Sockaddr) error {
	c.poll()
	rc, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { c.f.SetWriteDeadline(time.Unix(1, 0)) })()
	werr := rc.Write(func(fd uintptr) bool {
		err = unix.Connect(int(fd), address)
		return !underWay(err)
	})
	switch {
	case ctx.Err() != nil:
		return ended(ctx.Err())
	case werr != nil:
		return werr
	}
	return os.NewSyscallError("connect", err)
}

// ended is how the net package words the end of a context.
func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	return os.ErrDeadlineExceeded
}

// poll hands the socket to the poller.
func (c *tcpConn) poll() {
	if c.f == nil {
		c.f = os.NewFile(uintptr(c.fd), "tcp")
	}
}

func addrPort(name syscall.Sockaddr) netip.AddrPort {
	switch a := name.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func (c *tcpConn) dialError(err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: c.RemoteAddr(), Err: err}
}

// worded gives an error of the file the form of the net package's.
func (c *tcpConn) worded(op string, err error) error {
	var file *os.PathError
	if !errors.As(err, &file) {
		return err
	}
	e := &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: file.Err}
	if errno, ok := file.Err.(syscall.Errno); ok {
		e.Err = os.NewSyscallError(op, errno)
	} else if file.Err == os.ErrClosed {
		e.Err = net.ErrClosed
	}
	return e
}

func (c *tcpConn) Read(p []byte) (int, error) {
	n, err := c.f.Read(p)
	if err != nil && err != io.EOF {
		err = c.worded("read", err)
	}
	return n, err
}

func (c *tcpConn) Write(p []byte) (int, error) {
	n, err := c.f.Write(p)
	if err != nil {
		err = c.worded("write", err)
	}
	return n, err
}

func (c *tcpConn) Close() error {
	if c.f != nil {
		return c.f.Close()
	}
	return unix.Close(c.fd)
}

// SetLinger is called before anybody else has the connection.
func (c *tcpConn) SetLinger(sec int) error {
	return unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(sec)})
}

func (c *tcpConn) LocalAddr() net.Addr                { return net.TCPAddrFromAddrPort(c.local) }
func (c *tcpConn) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(c.remote) }
func (c *tcpConn) SetDeadline(t time.Time) error      { return c.f.SetDeadline(t) }
func (c *tcpConn) SetReadDeadline(t time.Time) error  { return c.f.SetReadDeadline(t) }
func (c *tcpConn) SetWriteDeadline(t time.Time) error { return c.f.SetWriteDeadline(t) }
