// Package sdnotify tells systemd how a service fares, by the protocol of
// sd_notify(3): datagrams of NAME=value lines to the socket that the
// environment names.
//
// It does not decide when the service is ready or alive. A [Notifier] holds
// nothing but an address; any goroutine may use it. Where no socket is named, as
// in a shell, it is nil, and a nil Notifier's methods do nothing.
//
// Read [FromEnvironment] and [Notifier] first.
package sdnotify

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier reaches the service manager that started this process.
type Notifier struct {
	address  net.UnixAddr
	watchdog time.Duration
}

// FromEnvironment returns the notifier that NOTIFY_SOCKET, WATCHDOG_USEC and
// WATCHDOG_PID describe, and removes the three, so that no child speaks for this
// process. Without a socket it returns nil.
func FromEnvironment() (*Notifier, error) {
	socket, usec, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(name)
	}
	if socket == "" {
		return nil, nil
	}
	if !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@") {
		return nil, fmt.Errorf("NOTIFY_SOCKET: expected a path, or an abstract name that begins with @; found %q", socket)
	}
	n := &Notifier{address: net.UnixAddr{Name: socket, Net: "unixgram"}} // net knows the @
	if usec == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return n, nil
	}
	us, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || us <= 0 {
		return nil, fmt.Errorf("WATCHDOG_USEC: expected microseconds; found %q", usec)
	}
	n.watchdog = time.Duration(us) * time.Microsecond
	return n, nil
}

// Watchdog is the time between two pings after which systemd takes the service
// for hung; zero: it does not watch.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready says that the service serves, for the first time or after a reload.
func (n *Notifier) Ready() error { return n.send("READY=1") }

// Status sets the line that `systemctl status` shows.
func (n *Notifier) Status(text string) error {
	return n.send("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Ping says that the service is alive; see [Notifier.Watchdog].
func (n *Notifier) Ping() error { return n.send("WATCHDOG=1") }

// Stopping says that the service ends by itself or because it was asked to.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Reloading says that configuration is being read again; [Notifier.Ready] ends it.
func (n *Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10))
}

func (n *Notifier) send(state string) error {
	if n == nil {
		return nil
	}
	// A socket of its own for each message: systemd may have made a new one.
	conn, err := net.DialUnix("unixgram", nil, &n.address)
	if err != nil {
		return fmt.Errorf("cannot reach the service manager: %w", err)
	}
	defer conn.Close()
	// A manager that does not read must not hold anybody up.
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("cannot tell the service manager: %w", err)
	}
	return nil
}
