package network

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetNS runs f on a thread that is in the network namespace ns, or, when ns
// is nil, right here. f may start no goroutine that needs the namespace.
func inNetNS(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error, 1)
	// Started here, ended by f. It owns its thread while that is elsewhere.
	go func() { done <- onThreadIn(ns, f) }()
	return <-done
}

func onThreadIn(ns *os.File, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot open own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot enter network namespace: %w", err)
	}
	err = f()
	// A thread that cannot come home stays locked and so ends with its goroutine.
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
