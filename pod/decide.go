package pod

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Plan is what to do now, and when to look again.
type Plan struct {
	// Actions are begun in this order and carried out side by side.
	Actions []Action
	// WakeAt is when to decide again although nothing happened. Zero: never.
	WakeAt time.Time
	// Done says that nothing will ever be left to do: the worker ends.
	Done bool
}

const (
	// stopGrace is the least time between the stop signal and SIGKILL.
	stopGrace = 2 * time.Second
	// stopSlack is how long after the pod's grace period its processes may
	// still be found before its sandbox is destroyed under them.
	stopSlack = 10 * time.Second
)

// Decide says what a pod needs next. It is pure: the same arguments give the
// same plan. d.Pod is the pod that o was observed of, also while it ends.
// Actions already begun are not asked for again.
func Decide(d Desired, o Observed, now time.Time) Plan {
	if !o.Inspected || d.Pod == nil {
		return Plan{}
	}
	p := planner{pod: d.Pod, o: o, now: now, unknown: d.Sources == nil && NamesSources(d.Pod)}
	switch {
	case o.Ending != nil:
		p.end()
	case finished(d.Pod, o):
		p.finish()
	case o.RestartAll != nil:
		p.restartAll()
	default:
		p.run()
	}
	p.forget()
	return p.plan
}

// planner collects one plan.
type planner struct {
	pod *v1.Pod
	o   Observed
	now time.Time
	// unknown says that nobody told yet which of the ConfigMaps and Secrets that
	// the pod names exist. Nothing is made of them until then.
	unknown bool
	plan    Plan
	// why is the reason of the stops that are planned, where it is not to be seen
	// in the container's state.
	why StopReason
	// target is the attempt whose processes the next start shares.
	target string
}

func (p *planner) do(a Action) { p.plan.Actions = append(p.plan.Actions, a) }

// wake makes the worker look again at t at the latest.
func (p *planner) wake(t time.Time) {
	if p.plan.WakeAt.IsZero() || t.Before(p.plan.WakeAt) {
		p.plan.WakeAt = t
	}
}

// due says whether t has come; if not, the worker looks again then.
func (p *planner) due(t time.Time) bool {
	if p.now.Before(t) {
		p.wake(t)
		return false
	}
	return true
}

// run brings the pod up and keeps it up.
func (p *planner) run() {
	if at, limited := activeDeadline(p.pod, p.o); limited {
		p.wake(at)
	}
	p.volumes()
	p.prefetch()
	p.ensureSandbox()
	if p.o.Sandbox.Phase != SandboxRunning {
		return
	}
	if !p.resize() && p.startInit() {
		p.startRegular()
	}
	p.startEphemeral()
	p.probe()
}

// volumes sets the volumes up, and keeps their files up to date.
func (p *planner) volumes() {
	v := p.o.Volumes
	stale := v.Ready && v.Stale && ShowsSources(p.pod)
	if v.Busy || p.unknown || v.Ready && !stale || !p.due(v.Retry.At) {
		return
	}
	if stale {
		p.do(RefreshVolumes{})
	} else {
		p.do(EnsureVolumes{})
	}
}

// prefetch asks for the images of all containers of which no start was tried,
// so that a slow pull delays nobody but its own container.
func (p *planner) prefetch() {
	for _, c := range allContainers(p.pod) {
		if state := p.o.Containers[c.Name]; !state.Tried && state.Starting == nil && state.Retry.Failures == 0 {
			p.ensureImage(c)
		}
	}
}

// ensureImage says whether a container's image is there for its next attempt.
func (p *planner) ensureImage(c *v1.Container) bool {
	i := p.o.Containers[c.Name].Image
	known := !p.unknown || len(p.pod.Spec.ImagePullSecrets) == 0
	if known && !i.Ready && !i.Busy && !p.asked(c.Name) && p.due(i.Retry.At) {
		p.do(EnsureImage{Container: c.Name, Image: c.Image, Policy: c.ImagePullPolicy})
	}
	return i.Ready
}

// asked says whether this plan already asks for a container's image.
func (p *planner) asked(name string) bool {
	return slices.ContainsFunc(p.plan.Actions, func(a Action) bool {
		e, ok := a.(EnsureImage)
		return ok && e.Container == name
	})
}

// ensureSandbox makes a sandbox once the volumes are there: nothing of a pod
// exists before its volumes do.
func (p *planner) ensureSandbox() {
	s := p.o.Sandbox
	if s.Phase != SandboxNone || !p.o.Volumes.Ready || !p.due(s.Retry.At) {
		return
	}
	if s.HalfMade {
		p.do(EnsureSandbox{ID: s.ID, Attempt: s.Attempt})
		return
	}
	attempt := s.Attempt
	if !s.UpAt.IsZero() {
		attempt++ // the one before was up: this is another
	}
	p.do(EnsureSandbox{Attempt: attempt})
}

// startInit starts init containers in their order and keeps sidecars alive.
// It says whether regular containers may start.
func (p *planner) startInit() bool {
	inits := p.pod.Spec.InitContainers
	initialised := slices.ContainsFunc(p.pod.Spec.Containers, func(c v1.Container) bool { return p.inSandbox(c.Name) })
	newest := -1 // the newest init container of this sandbox; those before it were done once
	for i := range inits {
		if p.inSandbox(inits[i].Name) {
			newest = i
		}
	}
	for i := range inits {
		c := &inits[i]
		state := p.o.Containers[c.Name]
		gates := !initialised && i >= newest
		switch {
		case isSidecar(c):
			p.start(c)
			if gates && !started(c, state) {
				return false
			}
		case gates && !initDone(state, p.o.Sandbox.ID):
			p.start(c)
			return false
		}
	}
	return true
}

// inSandbox says whether a container was started in the present sandbox.
func (p *planner) inSandbox(name string) bool {
	c := p.o.Containers[name]
	return c.Starting != nil || c.Tried && c.Sandbox == p.o.Sandbox.ID
}

// startRegular starts the regular containers. Their first starts in a sandbox
// come in the order of the spec, each once the one before has started, its
// postStart hook included, or failed to; restarts wait for nobody.
func (p *planner) startRegular() {
	inTurn := true
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		state := p.o.Containers[c.Name]
		switch {
		case state.Exit != nil && !restarts(p.pod, c, *state.Exit):
		case inPostStart(c, state):
			inTurn = false
		case state.Starting == nil && p.inSandbox(c.Name):
			p.start(c)
		case inTurn:
			inTurn = !p.start(c)
		}
	}
}

// start begins the next attempt of a container that does not run, as soon as
// its back-offs allow and its image is there. It says whether an attempt is
// under way, or is only held up by an image that has not failed.
func (p *planner) start(c *v1.Container) (underWay bool) {
	state := p.o.Containers[c.Name]
	if state.Starting != nil {
		return true
	}
	if state.Running != nil || p.unknown || !p.due(restartAt(state)) || !p.due(state.Retry.At) {
		return false
	}
	if !p.ensureImage(c) {
		return state.Image.Retry.Failures == 0
	}
	attempt := 0
	if state.Tried {
		attempt = state.Attempt + 1
	}
	p.do(StartContainer{Container: c.Name, Attempt: attempt, Target: p.target})
	return true
}

// probe runs the postStart hooks and the probes of running containers and stops
// the containers that failed them. Probes wait for the hook, liveness and
// readiness for the startup probe.
func (p *planner) probe() {
	for _, c := range allContainers(p.pod) {
		state := p.o.Containers[c.Name]
		r := state.Running
		if r == nil {
			continue
		}
		switch {
		case r.postStartFailed() != "":
			p.stopAlone(c.Name, podGrace(p.pod))
		case r.Startup == VerdictFailure:
			p.stopAlone(c.Name, probeGrace(p.pod, c.StartupProbe))
		case r.Liveness == VerdictFailure:
			p.stopAlone(c.Name, probeGrace(p.pod, c.LivenessProbe))
		case p.replace(c):
		case r.Stop != nil:
		case !up(c, state):
			p.postStart(c)
		case c.StartupProbe != nil && r.Startup != VerdictSuccess:
			p.startProbe(c, StartupProbe, VerdictUnknown)
		default:
			p.stopProbe(c.Name, StartupProbe)
			if c.LivenessProbe != nil {
				p.startProbe(c, LivenessProbe, VerdictSuccess)
			}
			if c.ReadinessProbe != nil {
				p.startProbe(c, ReadinessProbe, VerdictFailure)
			}
		}
	}
}

// startProbe starts a loop that does not run yet. initial is the verdict that
// holds until the first one is reached.
func (p *planner) startProbe(c *v1.Container, kind ProbeKind, initial Verdict) {
	r := p.o.Containers[c.Name].Running
	if r.Probes[kind] {
		return
	}
	if published := r.verdict(kind); published != VerdictUnknown {
		initial = published
	}
	p.do(StartProbe{Container: c.Name, ID: r.ID, Kind: kind, StartedAt: r.StartedAt, Initial: initial})
}

// stopProbe ends a loop if it runs.
func (p *planner) stopProbe(name string, kind ProbeKind) {
	if r := p.o.Containers[name].Running; r != nil && r.Probes[kind] {
		p.do(StopProbe{Container: name, Kind: kind})
	}
}

// stopAlone ends one container of a pod that goes on, within grace from when
// that was begun.
func (p *planner) stopAlone(name string, grace time.Duration) {
	since := p.now
	switch r := p.o.Containers[name].Running; {
	case r.Stop != nil && r.Stop.Signalled:
		return
	case r.Stop != nil:
		since = r.Stop.Since
	case r.PreStop != nil: // begun by an agent that ended
		since = r.PreStop.Since
	}
	p.stop(name, since, since.Add(grace), true)
}

// stop asks a running container to end by the deadline, unless it was already
// asked to end as soon or sooner: its preStop hook first, then the stop signal
// once it is its turn. The signal comes at the deadline at the latest, and
// SIGKILL never less than [stopGrace] after it. What is left of the grace period
// counts in whole seconds, a begun one as a whole one.
// Source: kubelet, pkg/kubelet/kuberuntime/kuberuntime_container.go, killContainer.
func (p *planner) stop(name string, since, deadline time.Time, inTurn bool) {
	c := p.o.Containers[name]
	if c.Running == nil || !p.due(c.Retry.At) {
		return
	}
	stop := c.Running.Stop
	if stop != nil && stop.Deadline.Before(deadline) {
		deadline = stop.Deadline
	}
	if stop == nil || !stop.Signalled {
		switch waits := p.preStop(name, since, deadline); {
		case waits:
			return
		case !inTurn && p.now.Before(deadline):
			p.wake(deadline)
			return
		}
	}
	grace := max(wholeSeconds(deadline.Sub(p.now)), stopGrace)
	// Rounding alone makes nothing earlier.
	if stop != nil && stop.Signalled && stop.Deadline.Before(p.now.Add(grace+time.Second)) {
		return
	}
	p.do(StopContainer{Container: name, ID: c.Running.ID, Grace: grace, Reason: p.why})
}

// wholeSeconds counts a begun second as a whole one.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// finish ends what is left of a pod that has run to its end: sidecars do not
// keep a pod alive. Volumes, logs and record stay.
func (p *planner) finish() {
	at := finishedAt(p.pod, p.o)
	if p.stopAll(at, at.Add(endingGrace(podGrace(p.pod)))) {
		p.destroySandbox()
	}
}

// end carries out an [Ending].
func (p *planner) end() {
	e := p.o.Ending
	if !p.stopAll(e.Since, e.Deadline) {
		return
	}
	switch {
	case !e.Destroyed:
		if p.o.Sandbox.Phase == SandboxNone && p.o.Sandbox.ID == "" && e.Then != ThenRestart {
			p.endWithoutSandbox()
			return
		}
		p.destroySandbox()
		if p.o.Sandbox.Phase == SandboxNone {
			p.do(DestroySandbox{}) // perhaps half made: nothing may be left of it
		}
	default:
		p.endWithoutSandbox()
	}
}

// endWithoutSandbox is the rest of [planner.end] once no sandbox is left.
func (p *planner) endWithoutSandbox() {
	e := p.o.Ending
	switch {
	case e.Then == ThenStop || e.Removed:
		p.plan.Done = true
	case !e.Removing && !p.o.Volumes.Busy && p.due(e.Retry.At):
		p.do(RemovePod{})
	}
}

// destroySandbox destroys a sandbox that is up.
func (p *planner) destroySandbox() {
	if p.o.Sandbox.Phase == SandboxRunning && p.due(p.o.Sandbox.Retry.At) {
		p.do(DestroySandbox{})
	}
}

// stopAll stops every container within what is left until the deadline. All
// preStop hooks begin at once; the stop signal of a sidecar comes after all
// others have exited, the last sidecar's first. Liveness and startup probes
// end; readiness goes on while the pod drains. It says whether nothing runs any
// more, or whether waiting for it has been long enough.
func (p *planner) stopAll(since, deadline time.Time) bool {
	late := !p.now.Before(deadline)
	var sidecars []string // first to last
	for i := range p.pod.Spec.InitContainers {
		if c := &p.pod.Spec.InitContainers[i]; isSidecar(c) {
			sidecars = append(sidecars, c.Name)
		}
	}
	waiting := false
	for _, name := range sortedNames(p.o.Containers) {
		p.stopProbe(name, LivenessProbe)
		p.stopProbe(name, StartupProbe)
		if slices.Contains(sidecars, name) {
			continue
		}
		p.stop(name, since, deadline, true)
		waiting = waiting || p.alive(name)
	}
	for _, name := range slices.Backward(sidecars) {
		p.stop(name, since, deadline, !waiting)
		waiting = waiting || p.alive(name)
	}
	if !waiting {
		return true
	}
	if !late {
		p.wake(deadline)
		return false
	}
	return p.due(deadline.Add(stopSlack))
}

// alive says whether a container has a process, or may have one soon. Nobody knows
// when a start that waits for a volume goes on.
func (p *planner) alive(name string) bool {
	c := p.o.Containers[name]
	return c.Running != nil || c.Starting != nil && c.Hold == nil
}

// forget lets go of old attempts. The newest exited one is kept for its logs;
// the one before goes as soon as a newer attempt runs.
func (p *planner) forget() {
	if p.o.Ending != nil {
		return
	}
	for _, name := range sortedNames(p.o.Containers) {
		c := p.o.Containers[name]
		keep := 1
		if c.Running == nil {
			keep = 2
		}
		for _, old := range c.Old[:max(0, len(c.Old)-keep)] {
			p.do(ForgetContainer{Container: name, ID: old.ID, Attempt: old.Attempt})
		}
	}
}

// overdue says whether the pod has been active for longer than it may be.
func overdue(pod *v1.Pod, o Observed, now time.Time) (PodFailed, bool) {
	at, limited := activeDeadline(pod, o)
	if !limited || now.Before(at) || o.Failure != nil || finished(pod, o) {
		return PodFailed{}, false
	}
	return PodFailed{
		At: At{now}, Reason: reasonDeadlineExceeded,
		Message: "Pod was active on the node longer than the specified deadline",
	}, true
}

const reasonDeadlineExceeded = "DeadlineExceeded"

// activeDeadline is when the pod has been active for as long as it may be.
func activeDeadline(pod *v1.Pod, o Observed) (at time.Time, limited bool) {
	seconds := pod.Spec.ActiveDeadlineSeconds
	if seconds == nil {
		return time.Time{}, false
	}
	return o.Since.Add(time.Duration(*seconds) * time.Second), true
}
