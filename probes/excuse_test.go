package probes

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestATimeoutIsExcusedOnlyByTheMachine(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		name    string
		strain  Strain
		excused time.Duration
		want    string
	}{
		{"an idle machine", Strain{Idle: 1}, 0, ""},
		{"a machine that counts nothing", Strain{}, 0, ""},
		{"suspended", Strain{Slept: 3 * s, Idle: 1}, 0, "the machine was suspended"},
		{"two clocks read slowly", Strain{Slept: 50 * time.Millisecond, Idle: 1}, 0, ""},
		{"suspended, by a container that is busy too", Strain{Slept: 3 * s, Own: 1}, 0, "the machine was suspended"},
		{"the agent late by a tenth of the timeout", Strain{Lag: 100 * time.Millisecond, Idle: 1}, 0, "the agent itself ran late"},
		{"the agent late by less", Strain{Lag: 99 * time.Millisecond, Idle: 1}, 0, ""},
		{"CPUs overcommitted", Strain{CPU: 0.97, Idle: 0.01}, 0, "the machine was short of CPU"},
		{"CPUs overcommitted, at the limits", Strain{CPU: 0.5, Idle: 0.1}, 0, "the machine was short of CPU"},
		{"CPUs contended now and then", Strain{CPU: 0.49}, 0, ""},
		{"tasks wait although CPUs are idle: limits hold them up", Strain{CPU: 1, Idle: 0.6}, 0, ""},
		{"all CPUs busy and nobody waits", Strain{CPU: 0.05}, 0, ""},
		{"the container spins on the machine's CPUs", Strain{CPU: 1, Lag: s, Own: 0.9}, 0, ""},
		{"the container has a part in it", Strain{CPU: 1, Own: 0.3}, 0, "the machine was short of CPU"},
		{"the container is held up by its own limit", Strain{CPU: 1, Throttled: 0.8}, 0, ""},
		{"everybody waits for the disk", Strain{IO: 0.5, Idle: 1}, 0, "the machine waited for its disks"},
		{"somebody waits for the disk now and then", Strain{IO: 0.4, Idle: 1}, 0, ""},
		{"everybody waits for memory", Strain{Memory: 0.7, Idle: 1}, 0, "the machine was short of memory"},
		{"excused for long, not too long", Strain{CPU: 1}, 5*time.Minute - 1, "the machine was short of CPU"},
		{"excused for too long", Strain{CPU: 1}, 5 * time.Minute, ""},
		{"suspended again and again", Strain{Slept: s}, time.Hour, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.strain.Timeout = s
			if got := Excuse(test.strain, test.excused); got != test.want {
				t.Errorf("%+v after %v: %q, want %q", test.strain, test.excused, got, test.want)
			}
		})
	}
}

// starvedMachine has both CPUs busy from the given time since its making on,
// with somebody waiting, until another.
func starvedMachine(from, until time.Duration) *Machine {
	begin := time.Now()
	return &Machine{
		Slept: func() time.Duration { return 0 },
		Read: func() Reading {
			now := time.Since(begin)
			short := max(0, min(now, until)-from)
			return Reading{CPU: short, Busy: 2 * short, Idle: 2 * (now - short)}
		},
	}
}

// outcomes runs a probe on a machine in virtual time, for runFor at most, and
// returns the letters of what each attempt came to: s, f, i or u, and the final
// verdict.
func outcomes(t *testing.T, spec Spec, machine func() *Machine, check Check, runFor time.Duration) (letters string, v Verdict) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), runFor)
		defer cancel()
		var m *Machine
		if machine != nil {
			m = machine()
		}
		Run(ctx, spec, check, time.Now(), "", m, func(r Result) {
			letters += string(r.Outcome[:1])
			v = r.Verdict
			if (r.Excuse != "") != (r.Outcome == Inconclusive) {
				t.Errorf("%s with the excuse %q", r.Outcome, r.Excuse)
			}
		})
	})
	return letters, v
}

func TestAttemptsOnAStarvedMachine(t *testing.T) {
	spec := Spec{Kind: Liveness, Period: 10 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 3}
	hangs := func(ctx context.Context) Attempt {
		<-ctx.Done()
		return timedOut("no answer")
	}
	always := func() *Machine { return starvedMachine(0, time.Hour) }
	forAMinute := func() *Machine { return starvedMachine(0, time.Minute) }
	var began time.Time
	slowFor := func(d time.Duration) Check { // hangs for so long after the first attempt
		began = time.Time{}
		return func(ctx context.Context) Attempt {
			if began.IsZero() {
				began = time.Now()
			}
			if time.Since(began) < d {
				return hangs(ctx)
			}
			return succeeded("")
		}
	}
	for _, test := range []struct {
		name    string
		machine func() *Machine
		check   Check
		runFor  time.Duration
		want    string
		verdict Verdict
	}{
		{"no answer on an idle machine", func() *Machine { return starvedMachine(time.Hour, time.Hour) }, hangs, time.Minute, "fff", VerdictFailure},
		{"strict: no answer is a failure however starved", nil, hangs, time.Minute, "fff", VerdictFailure},
		{"no answer while all starve", always, hangs, time.Minute, "iiiiii", VerdictSuccess},
		{"the machine recovers and the container does not", forAMinute, hangs, 2 * time.Minute, "iiiiiifff", VerdictFailure},
		{"the machine recovers and so does the container", forAMinute, slowFor(55 * time.Second), 75 * time.Second, "iiiiiiss", VerdictSuccess},
		{"a container that hangs for ever is restarted on a machine that starves for ever", always, hangs, time.Hour,
			strings.Repeat("i", 30) + "fff", VerdictFailure},
		{"an answer that says no counts however starved", always, func(context.Context) Attempt {
			time.Sleep(900 * time.Millisecond)
			return failed("HTTP probe failed with statuscode: 500")
		}, time.Minute, "fff", VerdictFailure},
		{"what errs is no excuse's matter", always, func(context.Context) Attempt { return errored(context.DeadlineExceeded) },
			25 * time.Second, "uuu", VerdictSuccess},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, verdict := outcomes(t, spec, test.machine, test.check, test.runFor)
			if got != test.want || verdict != test.verdict {
				t.Errorf("attempts %s, verdict %s; want %s, %s", got, verdict, test.want, test.verdict)
			}
		})
	}
	t.Run("an attempt that follows a slow one at once is not late", func(t *testing.T) {
		spec := spec
		spec.Period = time.Second
		slow := func(ctx context.Context) Attempt { // as of a command that takes its time to die
			<-ctx.Done()
			time.Sleep(300 * time.Millisecond)
			return timedOut("killed")
		}
		if got, _ := outcomes(t, spec, func() *Machine { return starvedMachine(time.Hour, time.Hour) }, slow, time.Minute); got != "fff" {
			t.Errorf("attempts %s, want fff", got)
		}
	})
	t.Run("a success begins the patience anew", func(t *testing.T) {
		var n int
		check := func(ctx context.Context) Attempt {
			if n++; n%20 == 0 {
				return succeeded("")
			}
			return hangs(ctx)
		}
		if got, verdict := outcomes(t, spec, always, check, 30*time.Minute); verdict != VerdictSuccess || strings.Contains(got, "f") {
			t.Errorf("attempts %s, verdict %s", got, verdict)
		}
	})
}

func TestASuspendExplainsTheAttemptDuringAndTheOneAfterIt(t *testing.T) {
	var got []string
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 55*time.Second)
		defer cancel()
		n := 0
		m := starvedMachine(time.Hour, time.Hour)
		m.Slept = func() time.Duration { // during the second attempt
			if n < 2 {
				return 0
			}
			return time.Hour
		}
		Run(ctx, Spec{Kind: Readiness, Period: 10 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 9},
			func(ctx context.Context) Attempt {
				<-ctx.Done()
				n++
				return timedOut("")
			}, time.Now(), "", m, func(r Result) {
				line := string(r.Outcome)
				if r.Excuse != "" {
					line += ": " + r.Excuse
				}
				got = append(got, line)
			})
	})
	want := "failure; inconclusive: the machine was suspended; inconclusive: the machine was suspended; failure"
	if s := strings.Join(got[:4], "; "); s != want {
		t.Errorf("%s, want %s", s, want)
	}
}

// A machine is read for attempts only that take long, and twice at most.
func TestQuickAttemptsReadNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 95*time.Second)
		defer cancel()
		reads, attempts := 0, 0
		m := &Machine{Slept: func() time.Duration { return 0 }, Read: func() Reading { reads++; return Reading{} }}
		Run(ctx, Spec{Kind: Readiness, Period: 10 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 9},
			func(ctx context.Context) Attempt {
				if attempts++; attempts == 10 {
					<-ctx.Done()
					return timedOut("")
				}
				time.Sleep(400 * time.Millisecond)
				return failed("no")
			}, time.Now(), "", m, func(r Result) {
				if want := attempts / 10 * 2; reads != want {
					t.Errorf("attempt %d: %d readings, want %d", attempts, reads, want)
				}
			})
		if attempts != 10 {
			t.Errorf("%d attempts", attempts)
		}
	})
}

// The lag is measured by timers of the agent's own; here it is the whole process
// that a lock holds up, as a starved one is.
func TestTheAgentsOwnLagIsMeasured(t *testing.T) {
	m := &Machine{Slept: func() time.Duration { return 0 }, Read: func() Reading { return Reading{} }}
	begin := time.Now()
	g := startGauge(m, begin.Add(-30*time.Millisecond), begin, 100*time.Millisecond)
	defer g.stop()
	if s := g.strain(); s.Lag < 30*time.Millisecond {
		t.Errorf("an attempt that began 30 ms late has a lag of %v", s.Lag)
	}
	g.mu.Lock()
	time.Sleep(300 * time.Millisecond)
	g.mu.Unlock()
	if s := g.strain(); s.Lag < 200*time.Millisecond {
		t.Errorf("a timer held up for 250 ms beyond its time has a lag of %v", s.Lag)
	}
}
