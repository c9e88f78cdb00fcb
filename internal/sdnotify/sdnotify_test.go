package sdnotify

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// socket listens as systemd does and sets the environment for it.
func socket(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return conn
}

func received(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestMessagesArriveAsSystemdReadsThem(t *testing.T) {
	for name, address := range map[string]string{
		"a path":           filepath.Join(t.TempDir(), "notify"),
		"an abstract name": fmt.Sprintf("@podd-test-%d", os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			conn := socket(t, address)
			n, err := FromEnvironment()
			if err != nil {
				t.Fatal(err)
			}
			if n.Watchdog() != 30*time.Second {
				t.Errorf("watchdog %v; want 30s", n.Watchdog())
			}
			for _, c := range []struct {
				tell func() error
				want string // a regular expression
			}{
				{n.Ready, "READY=1"},
				{func() error { return n.Status("2 pods,\n1 ready") }, "STATUS=2 pods, 1 ready"},
				{n.Ping, "WATCHDOG=1"},
				{n.Reloading, "RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*"},
				{n.Stopping, "STOPPING=1"},
			} {
				if err := c.tell(); err != nil {
					t.Fatal(err)
				}
				if got := received(t, conn); !regexp.MustCompile("^(?:" + c.want + ")$").MatchString(got) {
					t.Errorf("sent %q; want %q", got, c.want)
				}
			}
		})
	}
}

// A child that inherited the socket could say that the agent is ready or alive.
func TestChildrenDoNotInheritTheSocket(t *testing.T) {
	socket(t, filepath.Join(t.TempDir(), "notify"))
	if _, err := FromEnvironment(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if value, found := os.LookupEnv(name); found {
			t.Errorf("%s=%s is still in the environment", name, value)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		name, socket, usec, pid string
		watchdog                time.Duration
		none, fails             bool
	}{
		{name: "no socket", usec: "1", none: true},
		{name: "no watchdog", socket: "/run/notify"},
		{name: "the watchdog is for another process", socket: "/run/notify", usec: "5000000", pid: "1"},
		{name: "a watchdog for whoever reads this", socket: "/run/notify", usec: "5000000", watchdog: 5 * time.Second},
		{name: "a socket of another kind", socket: "vsock:2:9", fails: true},
		{name: "a watchdog that is no number", socket: "@x", usec: "soon", fails: true},
		{name: "a watchdog of zero", socket: "@x", usec: "0", fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", c.socket)
			t.Setenv("WATCHDOG_USEC", c.usec)
			t.Setenv("WATCHDOG_PID", c.pid)
			n, err := FromEnvironment()
			if (err != nil) != c.fails || (n == nil) != (c.none || c.fails) || n.Watchdog() != c.watchdog {
				t.Errorf("notifier %v, watchdog %v, error %v", n, n.Watchdog(), err)
			}
		})
	}
}

func TestWithoutAServiceManagerNothingIsSaid(t *testing.T) {
	var n *Notifier
	for _, tell := range []func() error{n.Ready, n.Ping, n.Stopping, n.Reloading, func() error { return n.Status("x") }} {
		if err := tell(); err != nil {
			t.Error(err)
		}
	}
}

func TestAManagerThatIsGoneIsAnError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	n, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(); err == nil {
		t.Error("no error")
	}
}
