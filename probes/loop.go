package probes

import (
	"context"
	"time"
)

// maxTries is how often an attempt is repeated at once while it errs. A failure
// is never repeated. Source: kubelet, pkg/kubelet/prober/prober.go.
const maxTries = 3

// Result is one attempt and what it made of the verdict.
type Result struct {
	Attempt
	// At is when the attempt began, Took how long it and its repetitions lasted.
	At   time.Time
	Took time.Duration
	// Verdict is the one published after this attempt, Changed whether it
	// differs from the one before.
	Verdict Verdict
	Changed bool
	// Done says that this was the loop's last attempt: liveness failed, or
	// startup came to a verdict.
	Done bool
	// Excuse says why the outcome is Inconclusive.
	Excuse string
	Row
}

// Row is how many attempts in a row did not succeed: those that failed, and those
// that counted neither way. Since is when the first of them ended.
type Row struct {
	Failures, Uncounted int
	Since               time.Time
}

// after returns the row after one more attempt, which ended at the given time.
func (r Row) after(o Outcome, at time.Time) Row {
	if o == Success || o == Warning {
		return Row{}
	}
	if r.Since.IsZero() {
		r.Since = at
	}
	if o == Failure {
		r.Failures++
	} else {
		r.Uncounted++
	}
	return r
}

// Run makes attempts until the verdict is final or ctx ends, and hands each
// result to observe, which must not block for long. No attempt is made when the
// initial verdict is final already.
//
// The instants of the attempts are startedAt + InitialDelay + k × Period with
// k = 0, 1, 2, …, however long attempts take and whenever Run begins. An instant
// that passed while Run did not yet run, or during a slow attempt, is made up for
// at once; of several, one is. Attempts never overlap. A container adopted with
// the verdict Success after its first period waits for its next instant, so
// that an agent's restart does not begin with an attempt of every probe.
//
// startedAt is the start of the container; its distance from now is measured
// once, so that later steps of the wall clock move no attempt. initial is the
// verdict published so far, see [NewGate].
//
// With a machine, an attempt that ran into its timeout is Inconclusive where
// [Excuse] says so; without one, each timeout is a failure.
//
// Between attempts Run costs one timer. It does not call observe once ctx ended.
func Run(ctx context.Context, spec Spec, check Check, startedAt time.Time, initial Verdict, machine *Machine, observe func(Result)) {
	gate := NewGate(spec, initial)
	if gate.Done() || ctx.Err() != nil {
		return
	}
	begin := time.Now()
	// From here on only the monotonic clock counts.
	first := begin.Add(spec.InitialDelay - max(0, begin.Sub(startedAt)))
	k := dueIndex(begin.Sub(first), spec.Period)
	if k > 0 && initial == VerdictSuccess {
		k++
	}
	timer := time.NewTimer(time.Until(first.Add(time.Duration(k) * spec.Period)))
	defer timer.Stop()
	e := newExcuser(machine)
	var row Row
	// due is when the timer is to fire: an instant made up for is due at once.
	for due := later(begin, first.Add(time.Duration(k)*spec.Period)); ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		at := time.Now()
		attempt, excuse := e.try(ctx, spec.Timeout, check, due, at)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		changed := gate.Observe(attempt.Outcome)
		row = row.after(attempt.Outcome, now)
		observe(Result{
			Attempt: attempt,
			At:      at,
			Took:    now.Sub(at),
			Verdict: gate.Verdict(),
			Changed: changed,
			Done:    gate.Done(),
			Excuse:  excuse,
			Row:     row,
		})
		if gate.Done() {
			return
		}
		now = time.Now()
		k = max(k+1, dueIndex(now.Sub(first), spec.Period))
		due = later(now, first.Add(time.Duration(k)*spec.Period))
		timer.Reset(due.Sub(now))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// dueIndex returns the k of the newest instant that is due when since has passed
// from the first one, and 0 before the first.
func dueIndex(since, period time.Duration) int64 {
	if since <= 0 {
		return 0
	}
	return int64(since / period)
}

// try makes an attempt and repeats it while it errs, each time with the whole timeout.
func try(ctx context.Context, timeout time.Duration, check Check) Attempt {
	var last Attempt
	for range maxTries {
		attemptCtx, cancel := context.WithTimeout(ctx, timeout)
		last = check(attemptCtx)
		cancel()
		if last.Outcome != Unknown || ctx.Err() != nil {
			break
		}
	}
	return last
}
