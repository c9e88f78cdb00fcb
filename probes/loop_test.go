package probes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// attemptTimes runs a loop in virtual time and returns, in seconds since the start
// of the container, when each attempt began. outcome tells what attempt n comes to
// and how long it takes.
func attemptTimes(t *testing.T, spec Spec, beginAfter, runFor time.Duration, initial Verdict, outcome func(n int) (Outcome, time.Duration)) string {
	t.Helper()
	var times []string
	synctest.Test(t, func(t *testing.T) {
		startedAt := time.Now().Round(0) // as read from a record: wall clock only
		time.Sleep(beginAfter)
		ctx, cancel := context.WithTimeout(t.Context(), runFor-beginAfter)
		defer cancel()
		n, running := 0, false
		check := func(ctx context.Context) Attempt {
			if running {
				t.Error("attempts overlap")
			}
			running = true
			defer func() { running = false }()
			times = append(times, fmt.Sprint(time.Since(startedAt).Seconds()))
			o, takes := outcome(n)
			n++
			select {
			case <-time.After(takes):
			case <-ctx.Done():
				return failed("timeout")
			}
			return Attempt{Outcome: o}
		}
		Run(ctx, spec, check, startedAt, initial, nil, func(r Result) {})
	})
	return strings.Join(times, " ")
}

func always(o Outcome) func(int) (Outcome, time.Duration) {
	return func(int) (Outcome, time.Duration) { return o, 0 }
}

func TestAttemptsAreMadeAtExactTimes(t *testing.T) {
	const s = time.Second
	slowOnce := func(n int) (Outcome, time.Duration) {
		if n == 1 {
			return Success, 25 * s
		}
		return Success, 0
	}
	defaults := func(kind Kind) Spec {
		return Spec{Kind: kind, Period: 10 * s, Timeout: s, SuccessThreshold: 1, FailureThreshold: 3}
	}
	with := func(spec Spec, change func(*Spec)) Spec { change(&spec); return spec }
	for _, test := range []struct {
		name       string
		spec       Spec
		beginAfter time.Duration
		runFor     time.Duration
		initial    Verdict
		outcome    func(int) (Outcome, time.Duration)
		want       string
	}{
		{"liveness with defaults", defaults(Liveness), 0, 35 * s, "", always(Success), "0 10 20 30"},
		{"readiness with defaults", defaults(Readiness), 0, 35 * s, "", always(Failure), "0 10 20 30"},
		{"startup with defaults, killed after its budget", defaults(Startup), 0, 100 * s, "", always(Failure), "0 10 20"},
		{"liveness with defaults, failing", defaults(Liveness), 0, 100 * s, "", always(Failure), "0 10 20"},
		{"startup ends with its first success", defaults(Startup), 0, 100 * s, "", always(Success), "0"},
		{"nothing to find out any more", defaults(Startup), 0, 100 * s, VerdictSuccess, always(Success), ""},
		{"initial delay", with(defaults(Liveness), func(p *Spec) { p.InitialDelay = 7 * s }), 0, 35 * s, "", always(Success), "7 17 27"},
		{"initial delay longer than the period", with(defaults(Startup), func(p *Spec) { p.InitialDelay = 25 * s; p.Period = 3 * s }),
			0, 60 * s, "", always(Failure), "25 28 31"},
		{"a loop that begins a little late keeps the times", defaults(Liveness), 4 * time.Millisecond, 35 * s, "", always(Success), "0.004 10 20 30"},
		{"a loop that begins within the initial delay", with(defaults(Liveness), func(p *Spec) { p.InitialDelay = 7 * s }),
			5 * s, 35 * s, "", always(Success), "7 17 27"},
		{"readiness after a startup success probes at once", defaults(Readiness), 33 * s, 55 * s, "", always(Failure), "33 40 50"},
		{"an adopted, ready container waits for its next time", defaults(Readiness), 33 * s, 55 * s, VerdictSuccess, always(Success), "40 50"},
		{"an adopted container that is not ready is probed at once", defaults(Readiness), 33 * s, 55 * s, VerdictFailure, always(Success), "33 40 50"},
		{"an adopted container in its first period", defaults(Liveness), 3 * s, 25 * s, VerdictSuccess, always(Success), "3 10 20"},
		{"a slow attempt is followed at once by the one that was missed",
			with(defaults(Readiness), func(p *Spec) { p.Timeout = 60 * s }), 0, 55 * s, "", slowOnce, "0 10 35 40 50"},
		{"timeouts as long as the period", with(defaults(Liveness), func(p *Spec) { p.Period = s }), 0, 20 * s, "",
			func(int) (Outcome, time.Duration) { return Failure, 10 * s }, "0 1 2"},
		{"timeouts longer than the period", with(defaults(Liveness), func(p *Spec) { p.Period = s; p.Timeout = 5 * s }), 0, 60 * s, "",
			func(int) (Outcome, time.Duration) { return Failure, 10 * s }, "0 5 10"},
		{"an error is tried three times at once", with(defaults(Liveness), func(p *Spec) { p.FailureThreshold = 1 }),
			0, 15 * s, "", always(Unknown), "0 0 0 10 10 10"},
		{"an error that passes counts as what follows it", with(defaults(Startup), func(p *Spec) { p.FailureThreshold = 1 }),
			0, 15 * s, "", func(n int) (Outcome, time.Duration) {
				if n < 2 {
					return Unknown, 0
				}
				return Success, 0
			}, "0 0 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := attemptTimes(t, test.spec, test.beginAfter, test.runFor, test.initial, test.outcome); got != test.want {
				t.Errorf("attempts at %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestAttemptsDoNotDriftInADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		startedAt := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		n := 0
		Run(ctx, Spec{Kind: Liveness, InitialDelay: 5 * time.Second, Period: 7 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 1},
			func(context.Context) Attempt {
				if at, want := time.Since(startedAt), 5*time.Second+time.Duration(n)*7*time.Second; at != want {
					t.Fatalf("attempt %d after %v, want %v", n, at, want)
				}
				n++
				time.Sleep(123 * time.Millisecond)
				return succeeded("")
			}, startedAt, "", nil, func(Result) {})
		if n != 24*3600/7+1 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestAStartInTheFutureDelaysNothing(t *testing.T) {
	// The wall clock was set back since the container was started.
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		times := ""
		Run(ctx, Spec{Kind: Liveness, Period: 10 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 1},
			func(context.Context) Attempt { times += fmt.Sprint(time.Since(begin), " "); return succeeded("") },
			begin.Add(time.Hour).Round(0), "", nil, func(Result) {})
		if times != "0s 10s " {
			t.Errorf("attempts after %s", times)
		}
	})
}

func TestResultsTellOutcomeTimeAndVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		startedAt := time.Now()
		outcomes := []Attempt{failed("a"), succeeded("b"), errored(errors.New("c")), errored(errors.New("c")), errored(errors.New("c")),
			{Outcome: Warning, Output: "d"}, failed("e"), failed("f"), failed("g")}
		n := 0
		got := ""
		Run(t.Context(), Spec{Kind: Liveness, Period: 10 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 3},
			func(ctx context.Context) Attempt {
				if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != time.Second {
					t.Errorf("attempt %d has the deadline %v, %t", n, deadline, ok)
				}
				time.Sleep(100 * time.Millisecond)
				n++
				return outcomes[n-1]
			}, startedAt, "", nil, func(r Result) {
				got += fmt.Sprintln(r.At.Sub(startedAt), r.Took, r.Outcome, r.Output, r.Err, r.Verdict, r.Changed, r.Done)
			})
		want := `0s 100ms failure a <nil> success false false
10s 100ms success b <nil> success false false
20s 300ms unknown  c success false false
30s 100ms warning d <nil> success false false
40s 100ms failure e <nil> success false false
50s 100ms failure f <nil> success false false
1m0s 100ms failure g <nil> failure true true
`
		if got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestALoopThatIsEndedIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		Run(ctx, Spec{Kind: Readiness, Period: time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 1},
			func(ctx context.Context) Attempt {
				cancel()
				<-ctx.Done()
				return errored(ctx.Err())
			}, time.Now(), "", nil, func(r Result) { t.Errorf("observed %+v", r) })
		Run(ctx, Spec{Kind: Readiness, Period: time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 1},
			func(ctx context.Context) Attempt { t.Error("attempt of an ended loop"); return succeeded("") },
			time.Now(), "", nil, func(r Result) { t.Errorf("observed %+v", r) })
	})
}
