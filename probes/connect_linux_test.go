package probes

import (
	"context"
	"net"
	"os"
	"regexp"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// ownPort is what differs between two connections to the same server.
var ownPort = regexp.MustCompile(`:[0-9]+->`)

// What an event shows of a failed attempt is what the net package says.
func TestConnectionErrorsReadLikeThoseOfTheNetPackage(t *testing.T) {
	dead, full, silent := refusing(t), fullBacklog(t), listen(t, waitForClose)
	reset := listen(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1))
		conn.(*net.TCPConn).SetLinger(0)
	})
	nothing := func(net.Conn) error { return nil }
	for _, test := range []struct {
		name, addr string
		timeout    time.Duration
		use        func(net.Conn) error
	}{
		{"nobody listens", dead, long, nothing},
		{"nobody listens, by IPv6", "[::1]:1", long, nothing},
		{"nobody listens, by IPv4 in IPv6", "[::ffff:127.0.0.1]:1", long, nothing},
		{"no answer", full, 100 * time.Millisecond, nothing},
		{"time was over before", silent, -time.Second, nothing},
		{"an address that is none", "255.255.255.255:80", long, nothing},
		{"reset", reset, long, func(c net.Conn) error {
			c.Write([]byte("x"))
			_, err := c.Read(make([]byte, 1))
			return err
		}},
		{"end", silent, long, func(c net.Conn) error {
			c.SetDeadline(time.Unix(1, 0))
			_, err := c.Read(make([]byte, 1))
			return err
		}},
		{"closed", silent, long, func(c net.Conn) error {
			c.Close()
			_, err := c.Write([]byte("x"))
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			said := func(dial Dial) (string, bool) {
				ctx, cancel := context.WithTimeout(t.Context(), test.timeout)
				defer cancel()
				conn, err := dial(ctx, "tcp", test.addr)
				if err == nil {
					err = test.use(conn)
					conn.Close()
				}
				if err == nil {
					t.Fatal("nothing failed")
				}
				return ownPort.ReplaceAllString(err.Error(), ":PORT->"), overDeadline(err)
			}
			want, wantLate := said(probeDialer.DialContext)
			if got, late := said(dialHere); got != want || late != wantLate {
				t.Errorf("got  %q, over its deadline: %v\nwant %q, %v", got, late, want, wantLate)
			}
		})
	}
}

func TestConnectionThatTakesLongIsAwaited(t *testing.T) {
	fd, addr := bound(t)
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	// One more than the backlog has room for, until somebody is accepted.
	for range 2 {
		conn, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		for range 2 {
			if conn, _, err := unix.Accept(fd); err == nil {
				unix.Close(conn)
			}
		}
	}()
	wantAttempt(t, attempt(t, TCP(addr, nil), long), Success, "")
}

// Where nobody listens on a port that connections get for themselves, one may
// meet itself.
func TestConnectionToItselfIsNoSuccess(t *testing.T) {
	kerneltest.Root(t)
	const addr = "127.0.0.1:40000"
	done := make(chan Attempt)
	go func() { // awaited below
		runtime.LockOSThread() // for good: the thread stays in a namespace of its own
		if err := loopbackAlone("40000 40000"); err != nil {
			done <- errored(err)
			return
		}
		done <- attempt(t, TCP(addr, nil), long)
	}()
	if got := <-done; got.Outcome != Failure {
		t.Errorf("got %+v", got)
	}
}

// loopbackAlone gives the calling thread a network namespace with nothing but
// loopback, whose connections get these ports.
func loopbackAlone(ports string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(ports), 0)
}
