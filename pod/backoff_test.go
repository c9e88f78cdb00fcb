package pod

import (
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a time of a test, in seconds after its beginning.
func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

func TestRestartAt(t *testing.T) {
	crashed := func(s float64) *Exit { return &Exit{FinishedAt: at(s)} }
	killed := func(s float64) *Exit { return &Exit{FinishedAt: at(s), Stopped: StopLiveness} }
	for _, test := range []struct {
		name string
		c    Container
		want time.Time // zero: at once
	}{
		{"never ran", Container{}, time.Time{}},
		{"first crash", Container{Exit: crashed(5)}, time.Time{}},
		{"second crash waits from its exit", Container{Exit: crashed(5), Backoff: Backoff{10 * time.Second, at(1)}}, at(15)},
		{"exactly ten minutes up are not enough", Container{Exit: crashed(601), Backoff: Backoff{40 * time.Second, at(1)}}, at(641)},
		{"more than ten minutes up are", Container{Exit: crashed(601.1), Backoff: Backoff{40 * time.Second, at(1)}}, time.Time{}},
		{"first probe kill", Container{Exit: killed(5), Backoff: Backoff{10 * time.Second, at(1)}}, time.Time{}},
		{"probe kill long after the exit before", Container{Exit: killed(30), Last: crashed(5), Backoff: Backoff{20 * time.Second, at(6)}}, time.Time{}},
		{"probe kill soon after the exit before", Container{Exit: killed(20), Last: crashed(5), Backoff: Backoff{20 * time.Second, at(6)}}, at(40)},
		{"stopped with its pod", Container{Exit: &Exit{FinishedAt: at(5), Stopped: StopEnding}, Backoff: Backoff{time.Minute, at(1)}}, time.Time{}},
		{"ended with its sandbox", Container{Exit: &Exit{FinishedAt: at(5), Stopped: StopLost}, Backoff: Backoff{time.Minute, at(1)}}, time.Time{}},
	} {
		if got := restartAt(test.c); !got.Equal(test.want) {
			t.Errorf("%s: restart at %v, want %v", test.name, got, test.want)
		}
	}
}

func TestCrashDelaysDoubleToFiveMinutesAndBeginAnew(t *testing.T) {
	var c Container
	now := at(0)
	var delays []time.Duration
	for range 9 {
		c = c.attempted(Attempt{}, "s", now).exited(Exit{FinishedAt: now})
		next := restartAt(c)
		if next.IsZero() {
			next = now
		}
		delays = append(delays, next.Sub(now))
		now = next
	}
	want := []time.Duration{0, 10, 20, 40, 80, 160, 300, 300, 300}
	for i := range want {
		if delays[i] != want[i]*time.Second {
			t.Fatalf("delays %v; want 0, 10, 20, 40, 80, 160, 300, 300, 300 s", delays)
		}
	}
	c = c.attempted(Attempt{}, "s", now).exited(Exit{FinishedAt: now.Add(11 * time.Minute)})
	c = c.attempted(Attempt{}, "s", now.Add(11*time.Minute))
	if c.Backoff.Delay != 10*time.Second {
		t.Errorf("after eleven minutes of life the next delay is %v; want 10s", c.Backoff.Delay)
	}
}
