package native

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"podd/probes"
)

// machine is what the probe loops of a container ask when it does not answer in
// time, nil where each timeout counts.
func (r *Runtime) machine(lc *liveContainer) *probes.Machine {
	if r.StrictProbes {
		return nil
	}
	return &probes.Machine{Slept: slept, Read: func() probes.Reading { return reading(lc) }}
}

// slept is the time that the machine was suspended since boot: one clock counts
// it, the other does not. Source: clock_gettime(2).
func slept() time.Duration {
	const atOnce = time.Millisecond
	var boot, awake, after unix.Timespec
	for range 3 { // whoever waits for a CPU between two clocks measures that
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) // every kernel has these two
		unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)
		if time.Duration(after.Nano()-awake.Nano()) < atOnce {
			break
		}
	}
	return time.Duration(boot.Nano() - after.Nano())
}

// reading reads what the kernel counts; what it does not stays zero.
func reading(lc *liveContainer) probes.Reading {
	var r probes.Reading
	file := func(path string) string {
		data, _ := os.ReadFile(path) // a kernel without it has no such pressure to tell
		return string(data)
	}
	r.CPU = pressure(file("/proc/pressure/cpu"), "some")
	r.IO = pressure(file("/proc/pressure/io"), "full")
	r.Memory = pressure(file("/proc/pressure/memory"), "full")
	r.Busy, r.Idle, _ = cpuTimes(file("/proc/stat"))
	if lc.group != nil {
		if s, err := lc.group.Stats(); err == nil {
			r.Own, r.Throttled = s.CPU.Usage, s.CPU.ThrottledTime
		}
	}
	return r
}

// pressure is the total of one line of a file in /proc/pressure, such as
// "some avg10=0.21 avg60=0.06 avg300=0.21 total=67205738", in microseconds.
// Source: kernel documentation, accounting/psi.
func pressure(text, line string) time.Duration {
	for l := range strings.Lines(text) {
		if !strings.HasPrefix(l, line+" ") {
			continue
		}
		if _, total, found := strings.Cut(l, " total="); found {
			n, _ := strconv.ParseInt(strings.TrimSpace(total), 10, 64)
			return time.Duration(n) * time.Microsecond
		}
	}
	return 0
}
