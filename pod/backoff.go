package pod

import "time"

const (
	crashDelay    = 10 * time.Second
	crashDelayMax = 5 * time.Minute
	// crashForgotten is how long a container must stay up for its crashes to
	// be forgotten.
	crashForgotten = 2 * crashDelayMax

	imageDelay    = 10 * time.Second
	imageDelayMax = 5 * time.Minute

	volumeDelay    = 500 * time.Millisecond
	volumeDelayMax = 2*time.Minute + 2*time.Second

	sandboxDelay    = time.Second
	sandboxDelayMax = 10 * time.Second
	// portDelay is between two tries to get a host port that someone holds.
	portDelay = 3 * time.Second
	// startDelay is between two starts that failed before anything ran.
	startDelay = 10 * time.Second

	actionDelay    = time.Second
	actionDelayMax = 10 * time.Second
)

// Backoff is the clock of a container that keeps exiting. The first restart
// comes at once; the delays before the next ones are 10 s, 20 s, … 5 min,
// counted from the exit. It begins anew once the container has stayed up for
// ten minutes. Source: Kubernetes docs, "Pod Lifecycle", container restarts.
type Backoff struct {
	// Delay is the delay before the next restart; zero before the first one.
	Delay time.Duration `json:"delay,omitempty"`
	// Since is when Delay was last raised: the start of the newest attempt.
	Since time.Time `json:"since,omitzero"`
}

// forgotten says whether an attempt that exited at the given time had been up
// long enough to begin anew.
func (b Backoff) forgotten(exited time.Time) bool {
	return b.Delay == 0 || exited.Sub(b.Since) > crashForgotten
}

// raised returns the clock after a restart at now of an attempt that exited
// at the given time.
func (b Backoff) raised(exited, now time.Time) Backoff {
	if b.forgotten(exited) {
		return Backoff{Delay: crashDelay, Since: now}
	}
	return Backoff{Delay: min(2*b.Delay, crashDelayMax), Since: now}
}

// restartAt returns the earliest time for a container's next attempt.
//
// A container that a probe had killed is judged by the exit before that one,
// as the kubelet does: the first such restarts come at once, and a container
// that is killed again and again still slows down.
func restartAt(c Container) time.Time {
	switch {
	case c.Exit == nil || c.Exit.notItsOwn() || c.Backoff.forgotten(c.Exit.FinishedAt):
		return time.Time{}
	case c.Exit.byProbe() && !c.killedEarly():
		return time.Time{}
	}
	return c.Exit.FinishedAt.Add(c.Backoff.Delay)
}

// restarted returns the clock after an attempt began at now.
func restarted(c Container, now time.Time) Backoff {
	switch {
	case c.Exit == nil || c.Exit.notItsOwn():
		return c.Backoff
	case c.Exit.byProbe() && c.Last == nil:
		return c.Backoff
	}
	return c.Backoff.raised(c.Exit.FinishedAt, now)
}

// killedEarly says of a container that a probe had killed whether it was
// killed before the delay after its exit before that was over.
func (c Container) killedEarly() bool {
	return c.Last != nil && c.Exit.FinishedAt.Sub(c.Last.FinishedAt) < c.Backoff.Delay
}

// notItsOwn says that the container did nothing to end: its pod, its sandbox or
// its manifest or another container did.
func (e *Exit) notItsOwn() bool {
	switch e.Stopped {
	case StopEnding, StopLost, StopChanged, StopAll:
		return true
	}
	return false
}

// byProbe says that a probe had the container killed.
func (e *Exit) byProbe() bool {
	return e.Stopped == StopLiveness || e.Stopped == StopStartup
}

// failed returns r after one more failure at now; the delay doubles from
// first up to most.
func (r Retry) failed(now time.Time, first, most time.Duration, reason, message string) Retry {
	delay := first
	for range r.Failures {
		if delay = min(2*delay, most); delay == most {
			break
		}
	}
	return Retry{Failures: r.Failures + 1, At: now.Add(delay), Reason: reason, Message: message}
}
