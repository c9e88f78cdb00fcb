package native

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"podd/internal/kerneltest"
	"podd/probes"
)

func TestPressureIsReadAsTheKernelWritesIt(t *testing.T) {
	const text = "some avg10=0.21 avg60=0.06 avg300=0.21 total=67205738\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=15\n"
	if some, full := pressure(text, "some"), pressure(text, "full"); some != 67205738*time.Microsecond || full != 15*time.Microsecond {
		t.Errorf("some %v, full %v", some, full)
	}
	for _, none := range []string{"", "some avg10=0.21\n", "some total=x\n", "full total=5"} {
		if d := pressure(none, "some"); d != 0 {
			t.Errorf("%q is %v", none, d)
		}
	}
}

// What the kernel counts while every CPU is overcommitted is an excuse, as the
// probe loop reads it.
func TestAnOvercommittedMachineIsSeenInWhatTheKernelCounts(t *testing.T) {
	kerneltest.Root(t)
	for range 3 * runtime.NumCPU() {
		c := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { c.Process.Kill(); c.Wait() }()
	}
	waitFor(t, "the machine is short of CPU", func() bool {
		before, begin := reading(&liveContainer{}), time.Now()
		time.Sleep(time.Second)
		after, window := reading(&liveContainer{}), time.Since(begin)
		all := float64(after.Busy - before.Busy + after.Idle - before.Idle)
		return probes.Excuse(probes.Strain{
			Timeout: time.Second,
			CPU:     float64(after.CPU-before.CPU) / float64(window),
			Idle:    float64(after.Idle-before.Idle) / all,
		}, 0) == "the machine was short of CPU"
	})
}

func TestAMachineThatWasNotSuspendedHasSleptNoLonger(t *testing.T) {
	before := slept()
	time.Sleep(200 * time.Millisecond)
	if d := slept() - before; d < -20*time.Millisecond || d > 20*time.Millisecond {
		t.Errorf("slept %v more", d)
	}
}

func BenchmarkReading(b *testing.B) {
	for b.Loop() {
		reading(&liveContainer{})
	}
}

func BenchmarkSlept(b *testing.B) {
	for b.Loop() {
		slept()
	}
}
