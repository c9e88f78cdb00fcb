package probes

import (
	"context"
	"sync"
	"time"
)

// Machine reads what the kernel has counted, for [Run] to tell a container that
// does not answer from a machine that lets nobody answer.
type Machine struct {
	// Read is called for attempts only that last longer than half of their
	// timeout, twice at most.
	Read func() Reading
	// Slept is for how long the machine has been suspended since its boot. It is
	// called for each attempt.
	Slept func() time.Duration
}

// Reading is what was counted since boot at one moment. What a kernel does not
// count stays zero.
type Reading struct {
	// CPU is how long some task waited for a CPU; IO and Memory are how long all
	// tasks that had something to do waited for a disk or for memory to be freed.
	// Source: kernel documentation, accounting/psi.
	CPU, IO, Memory time.Duration
	// Busy and Idle are the time of all CPUs together. Source: proc_stat(5).
	Busy, Idle time.Duration
	// Own is the CPU time that the probed container used, Throttled how long its
	// own CPU limit held it up.
	Own, Throttled time.Duration
}

// Strain is what the machine did to one attempt that ran into its timeout.
// Shares are of the second half of the attempt, from 0 to 1.
type Strain struct {
	// Timeout is the attempt's own.
	Timeout time.Duration
	// Lag is how late the agent itself ran: the longest of the times by which its
	// timers were late at the attempt's begin, half and end.
	Lag time.Duration
	// Slept is for how long the machine was suspended since the attempt before
	// this one began.
	Slept time.Duration
	// CPU, IO and Memory are the shares in which work stood still, see [Reading];
	// Idle is the share of all CPUs that nobody used.
	CPU, IO, Memory, Idle float64
	// Own is the share of all CPUs that the probed container used, Throttled the
	// share of the time in which its own limit held it up.
	Own, Throttled float64
}

const (
	// lagExcused is how late the agent's timers must be, as a share of the timeout.
	lagExcused = 10
	// sleptAtLeast is what counts as a suspended machine, and no slow reading of
	// two clocks.
	sleptAtLeast = 100 * time.Millisecond
	// starved is the share of the time for which work must have stood still.
	starved = 0.5
	// idleAtMost is the share of the CPUs that may be unused where CPU is short:
	// a task that its own limit holds up waits on an idle machine too.
	idleAtMost = 0.1
	// maxExcused is for how long timeouts may go uncounted without a success in
	// between: whoever answers nobody for so long is restarted, be the machine as
	// it may.
	maxExcused = 5 * time.Minute
)

// Excuse says why an attempt that ran into its timeout tells nothing about the
// container, or "" when it does. excused is the time since the first such
// attempt, without a success in between.
//
// A container that keeps half of the machine's CPUs busy, or that its own CPU
// limit holds up, has nobody else to blame.
func Excuse(s Strain, excused time.Duration) string {
	ownDoing := s.Own >= starved || s.Throttled >= starved
	switch {
	case excused >= maxExcused:
		return ""
	case s.Slept >= sleptAtLeast:
		return "the machine was suspended"
	case ownDoing:
		return ""
	case s.Lag*lagExcused >= s.Timeout:
		return "the agent itself ran late"
	case s.CPU >= starved && s.Idle <= idleAtMost:
		return "the machine was short of CPU"
	case s.IO >= starved:
		return "the machine waited for its disks"
	case s.Memory >= starved:
		return "the machine was short of memory"
	}
	return ""
}

// excuser makes the attempts of one loop and finds excuses for them.
type excuser struct {
	machine *Machine      // nil: nothing is excused
	slept   time.Duration // until the attempt before began
	since   time.Time     // of the first excused attempt since the last success
}

func newExcuser(m *Machine) *excuser {
	e := &excuser{machine: m}
	if m != nil {
		e.slept = m.Slept()
	}
	return e
}

// try makes an attempt that begins now and should have begun at due. excuse says
// why it is Inconclusive.
func (e *excuser) try(ctx context.Context, timeout time.Duration, check Check, due, now time.Time) (a Attempt, excuse string) {
	if e.machine == nil {
		return try(ctx, timeout, check), ""
	}
	slept := e.machine.Slept()
	var strain Strain
	a = try(ctx, timeout, func(ctx context.Context) Attempt {
		g := startGauge(e.machine, due, now, timeout)
		defer g.stop()
		a := check(ctx)
		if a.TimedOut {
			strain = g.strain()
		}
		now = time.Now() // of a repetition
		due = now
		return a
	})
	switch {
	case a.Outcome == Success || a.Outcome == Warning:
		e.since = time.Time{}
	case a.TimedOut:
		strain.Slept = e.machine.Slept() - e.slept
		var excused time.Duration
		if !e.since.IsZero() {
			excused = now.Sub(e.since)
		}
		if excuse = Excuse(strain, excused); excuse != "" {
			a.Outcome = Inconclusive
			if e.since.IsZero() {
				e.since = now
			}
		}
	}
	e.slept = slept
	return a, excuse
}

// gauge measures the strain on one attempt. Its timer fires at half of the
// timeout and at its end; an attempt that is over sooner costs the timer only.
type gauge struct {
	machine *Machine
	begin   time.Time
	timeout time.Duration

	mu     sync.Mutex
	timer  *time.Timer   // guarded by mu
	fired  int           // how often; guarded by mu
	lag    time.Duration // guarded by mu
	half   Reading       // guarded by mu
	halfAt time.Time     // guarded by mu
}

// startGauge begins to measure an attempt that begins now and should have begun
// at due.
func startGauge(m *Machine, due, now time.Time, timeout time.Duration) *gauge {
	g := &gauge{machine: m, begin: now, timeout: timeout, lag: max(0, now.Sub(due))}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timer = time.AfterFunc(timeout/2, g.fire)
	return g
}

// due is when the timer fires next. g.mu is held.
func (g *gauge) due() time.Time {
	if g.fired == 0 {
		return g.begin.Add(g.timeout / 2)
	}
	return g.begin.Add(g.timeout)
}

func (g *gauge) fire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.lag = max(g.lag, now.Sub(g.due()))
	g.fired++
	if g.fired == 1 {
		g.half, g.halfAt = g.machine.Read(), now
		g.timer.Reset(time.Until(g.due()))
	}
}

func (g *gauge) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timer.Stop()
}

// strain is what the attempt went through. Call it at the attempt's end.
func (g *gauge) strain() Strain {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	s := Strain{Timeout: g.timeout, Lag: g.lag}
	if g.fired < 2 { // it is overdue, however late the goroutine of the timer is
		s.Lag = max(s.Lag, now.Sub(g.due()))
	}
	if g.fired == 0 {
		return s
	}
	end, window := g.machine.Read(), now.Sub(g.halfAt)
	all := end.Busy - g.half.Busy + end.Idle - g.half.Idle
	s.CPU, s.IO = share(end.CPU-g.half.CPU, window), share(end.IO-g.half.IO, window)
	s.Memory, s.Throttled = share(end.Memory-g.half.Memory, window), share(end.Throttled-g.half.Throttled, window)
	s.Idle, s.Own = share(end.Idle-g.half.Idle, all), share(end.Own-g.half.Own, all)
	return s
}

func share(part, whole time.Duration) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, float64(max(0, part))/float64(whole))
}
