package probes

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen serves connections on loopback until the test ends.
func listen(tb testing.TB, serve func(net.Conn)) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	tb.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().String()
}

// waitForClose swallows what a client sends until it hangs up.
func waitForClose(conn net.Conn) { io.Copy(io.Discard, conn) }

// bound returns a socket that has a port, and its address.
func bound(tb testing.TB) (fd int, addr string) {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		tb.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	in4 := name.(*unix.SockaddrInet4)
	return fd, (&net.TCPAddr{IP: in4.Addr[:], Port: in4.Port}).String()
}

// refusing returns an address that nobody listens on: its port is bound.
func refusing(tb testing.TB) string {
	tb.Helper()
	_, addr := bound(tb)
	return addr
}

func TestTCP(t *testing.T) {
	closed := make(chan struct{})
	addr := listen(t, func(conn net.Conn) { waitForClose(conn); closed <- struct{}{} })
	wantAttempt(t, attempt(t, TCP(addr, nil), long), Success, "")
	select {
	case <-closed:
	case <-time.After(long):
		t.Error("the connection was not closed")
	}
	dead := refusing(t)
	wantAttempt(t, attempt(t, TCP(dead, nil), long), Failure, "dial tcp "+dead+": connect: connection refused")

	hanging := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	full := fullBacklog(t)
	wantAttempt(t, attempt(t, TCP(full, hanging), 200*time.Millisecond), Failure, "dial tcp "+full+": i/o timeout")
}

// fullBacklog returns the address of a socket that takes no more connections, so
// that a connect gets no answer.
func fullBacklog(tb testing.TB) string {
	tb.Helper()
	fd, addr := bound(tb)
	if err := unix.Listen(fd, 0); err != nil {
		tb.Fatal(err)
	}
	for { // until one does not come through
		conn, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		tb.Cleanup(func() { conn.Close() })
	}
}

func TestConnectionsLingerForASecond(t *testing.T) {
	addr := listen(t, waitForClose)
	conn, err := Dial(nil).orDefault()(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	linger, err := unix.GetsockoptLinger(conn.(*tcpConn).fd, unix.SOL_SOCKET, unix.SO_LINGER)
	if err != nil || linger.Onoff != 1 || linger.Linger != 1 {
		t.Errorf("got %+v, %v", linger, err)
	}
}

// benchmark measures a check. With a server in the same process, the CPU time it
// reports holds the server's, too.
func benchmark(b *testing.B, check Check) {
	b.Helper()
	b.ReportAllocs()
	begin := cpuTime(b)
	n := 0
	for b.Loop() {
		if got := attempt(b, check, long); got.Outcome != Success {
			b.Fatalf("got %+v", got)
		}
		n++
	}
	b.ReportMetric(float64(cpuTime(b)-begin)/float64(n)/1000, "cpu-µs/op")
}

func cpuTime(tb testing.TB) int64 {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func BenchmarkTCP(b *testing.B) {
	benchmark(b, TCP(listen(b, waitForClose), nil))
}
