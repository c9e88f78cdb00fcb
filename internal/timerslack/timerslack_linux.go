// Package timerslack lets the timers of a process be a little late, so that fewer
// of them cost a wake-up of their own.
//
// It is for the Go runtime's monitor: a thread that looks, every 20 µs while
// anything runs, after those who wait in system calls. In a process that is woken
// to do one short thing, those looks cost as much as the thing itself. With a
// slack, the kernel puts them together.
//
// What it costs is exactness: a timer fires late by the slack at most, and who
// waits for a processor that another goroutine has taken into a system call may
// wait as long.
//
// It keeps no state. Read first: [Relax], [Inherited.Restore].
package timerslack

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Inherited is the slack in nanoseconds that a process began with and its children
// must have; 0 changes nothing.
type Inherited int

// Relax gives slack to every thread of this process; threads to come have it from
// those that make them, and so do children: see [Inherited.Restore]. Without
// CAP_SYS_NICE all stays as it is.
// Source: prctl(2), PR_SET_TIMERSLACK; proc_pid_timerslack_ns(5).
func Relax(slack time.Duration) Inherited {
	inherited, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0
	}
	threads, err := os.Open("/proc/self/task")
	if err != nil {
		return 0
	}
	defer threads.Close()
	names, err := threads.Readdirnames(-1)
	if err != nil {
		return 0
	}
	text := strconv.AppendInt(nil, int64(slack), 10)
	for _, tid := range names {
		fd, err := unix.Open("/proc/"+tid+"/timerslack_ns", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // it has just ended, or we may not
		}
		unix.Write(fd, text)
		unix.Close(fd)
	}
	return Inherited(inherited)
}

// Restore gives the calling thread, and what is forked from it, the inherited
// slack. The caller has locked its goroutine to the thread.
func (i Inherited) Restore() {
	if i > 0 {
		unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(i), 0, 0, 0)
	}
}
