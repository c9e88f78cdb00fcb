package pod

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// HookKind is one of the two lifecycle hooks a container may have. Its text is
// the field's name.
type HookKind string

const (
	PostStart HookKind = "postStart"
	PreStop   HookKind = "preStop"
)

// RunHook asks for a lifecycle hook of a running attempt. Asked for again after
// a restart of the agent, a command that ran or runs is not run a second time,
// and a sleep goes on from Since. The hook ends with the attempt.
// Answer: [HookDone], unless the attempt exits first.
type RunHook struct {
	Container string
	ID        string
	Kind      HookKind
	Since     time.Time // when it was begun first
	// Deadline is when a preStop is no longer waited for; zero for a postStart,
	// which has none.
	Deadline time.Time
	// Reason is that of the stop that a preStop begins, as in [StopContainer].
	Reason StopReason
}

func (RunHook) isAction() {}

// HookDone answers [RunHook].
type HookDone struct {
	At
	Container string
	ID        string
	Kind      HookKind
	// Failure says what went wrong; empty: nothing did.
	Failure string
}

// Hook is how far a lifecycle hook of an attempt is.
type Hook struct {
	Since   time.Time `json:"since"`
	Done    bool      `json:"done,omitempty"`
	Failure string    `json:"failure,omitempty"`
	Busy    bool      `json:"-"` // a RunHook is under way
}

// hook returns the place of one of the two hooks.
func (r *Running) hook(kind HookKind) **Hook {
	if kind == PostStart {
		return &r.PostStart
	}
	return &r.PreStop
}

// hookBegun notes that a hook is under way. With its preStop hook begins the
// end of a container.
func (r *Running) hookBegun(a RunHook) {
	*r.hook(a.Kind) = &Hook{Since: a.Since, Busy: true}
	if a.Kind == PreStop {
		r.stop(a.Since, a.Deadline, a.Reason)
	}
}

func (r *Running) hookDone(kind HookKind, failure string) {
	h := r.hook(kind)
	if *h == nil {
		return
	}
	done := **h
	done.Done, done.Busy, done.Failure = true, false, failure
	*h = &done
}

// forgetErrands notes that what an earlier agent had under way is nobody's now.
func (r *Running) forgetErrands() {
	r.Probes, r.Stop = nil, nil
	for _, kind := range []HookKind{PostStart, PreStop} {
		if h := r.hook(kind); *h != nil {
			idle := **h
			idle.Busy = false
			*h = &idle
		}
	}
}

// handler returns a container's hook of a kind, nil if it has none.
func handler(c *v1.Container, kind HookKind) *v1.LifecycleHandler {
	switch {
	case c == nil || c.Lifecycle == nil:
		return nil
	case kind == PostStart:
		return c.Lifecycle.PostStart
	default:
		return c.Lifecycle.PreStop
	}
}

// up says whether a container runs and its postStart hook has succeeded: until
// then it is still being started.
func up(c *v1.Container, state Container) bool {
	r := state.Running
	return r != nil && (handler(c, PostStart) == nil || r.PostStart != nil && r.PostStart.Done && r.PostStart.Failure == "")
}

// postStartFailed says why a running container's postStart hook failed; empty:
// it did not.
func (r *Running) postStartFailed() string {
	if r == nil || r.PostStart == nil {
		return ""
	}
	return r.PostStart.Failure
}

// inPostStart says whether a container runs and waits for its postStart hook.
func inPostStart(c *v1.Container, state Container) bool {
	return state.Running != nil && !up(c, state) && state.Running.postStartFailed() == ""
}

// HasProcess says whether a container's status is that of one whose main process
// runs: also one that is shown as waiting for its postStart hook.
func HasProcess(s *v1.ContainerStatus) bool {
	if s.State.Waiting == nil {
		return s.State.Running != nil
	}
	last := s.LastTerminationState.Terminated
	return s.ContainerID != "" && (last == nil || last.ContainerID != s.ContainerID)
}

// stopSignal is the signal that a container's manifest names; nil: the image's.
func stopSignal(c *v1.Container) *v1.Signal {
	if c.Lifecycle == nil {
		return nil
	}
	return c.Lifecycle.StopSignal
}

const reasonPostStartHookError = "PostStartHookError"

// postStart runs the hook of a container that has just started.
func (p *planner) postStart(c *v1.Container) {
	r := p.o.Containers[c.Name].Running
	switch h := r.PostStart; {
	case h == nil:
		p.do(RunHook{Container: c.Name, ID: r.ID, Kind: PostStart, Since: p.now})
	case !h.Busy && !h.Done: // an agent that ended had begun it
		p.do(RunHook{Container: c.Name, ID: r.ID, Kind: PostStart, Since: h.Since})
	}
}

// preStop runs the hook of a container that is to end by the deadline, and says
// whether its stop signal has to wait for it: until the deadline, but no longer.
// Without a grace period there is no hook.
func (p *planner) preStop(name string, since, deadline time.Time) (waits bool) {
	r := p.o.Containers[name].Running
	if !deadline.After(since) || handler(containerNamed(p.pod, name), PreStop) == nil || !p.now.Before(deadline) {
		return false
	}
	switch h := r.PreStop; {
	case h == nil:
		p.do(RunHook{Container: name, ID: r.ID, Kind: PreStop, Since: p.now, Deadline: deadline, Reason: p.why})
	case h.Done:
		return false
	case !h.Busy:
		p.do(RunHook{Container: name, ID: r.ID, Kind: PreStop, Since: h.Since, Deadline: deadline, Reason: p.why})
	}
	p.wake(deadline)
	return true
}

// containerNamed finds a container of a pod, nil if it has none of that name.
func containerNamed(pod *v1.Pod, name string) *v1.Container {
	for _, c := range allContainers(pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}
