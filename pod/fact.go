package pod

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Fact is something that happened, with its time. Facts are the only thing
// that changes an [Observed].
type Fact interface{ When() time.Time }

// At is the time of a fact; each fact embeds one.
type At struct{ Time time.Time }

// When returns the fact's time.
func (a At) When() time.Time { return a.Time }

// Begun says that an action was handed to the runtime.
type Begun struct {
	At
	Action Action
	// Pod is the manifest at that moment: what is made is made of it.
	Pod *v1.Pod
}

// Inspected is what the runtime found in the kernel when a worker started.
type Inspected struct {
	At
	// Sandbox is nil when no live sandbox was found.
	Sandbox *FoundSandbox
	// Volumes says whether the pod's volumes are set up.
	Volumes bool
	// Containers are the attempts found, running or exited, the newest last
	// for each name. Nothing that is not in this list exists.
	Containers []FoundContainer
	// Rebooted says that the machine was started since the record was written.
	Rebooted bool
}

// FoundSandbox is a live sandbox found by inspection.
type FoundSandbox struct {
	ID      string
	Attempt int
	IPs     []netip.Addr
	UpAt    time.Time
}

// FoundContainer is one attempt found by inspection. Exit is nil while it runs.
type FoundContainer struct {
	Container string
	ID        string
	Attempt   int
	Pid       int
	StartedAt time.Time
	Exit      *ContainerExited
}

// SandboxUp says that the sandbox holds and its network works.
type SandboxUp struct {
	At
	ID      string
	Attempt int
	IPs     []netip.Addr // empty for a pod on the host's network
}

// SandboxFailed says that a sandbox could not be made. What was half made is
// removed before the next EnsureSandbox.
type SandboxFailed struct {
	At
	ID      string
	Reason  string // FailedCreatePodSandBox, NodePorts, …
	Message string
}

// SandboxLost says that the pause process is gone. The runtime has killed
// what was left of the pod's processes.
type SandboxLost struct {
	At
	ID string
}

// SandboxGone answers [DestroySandbox].
type SandboxGone struct{ At }

// SourcesChanged says that what the pod is made of has changed without the pod
// becoming another: a ConfigMap or Secret that it names, its labels or
// annotations.
type SourcesChanged struct{ At }

// VolumesReady answers [EnsureVolumes] and [RefreshVolumes].
type VolumesReady struct{ At }

// VolumesFailed names the first volume that could not be set up.
type VolumesFailed struct {
	At
	Volume  string
	Message string
}

// ImageReady answers [EnsureImage].
type ImageReady struct {
	At
	Container string
	Image     string // as the manifest names it
	ImageRef  string // as the status shows it: the familiar name with tag
	ImageID   string // name@digest, or the config's digest for a loaded image
	Pulled    bool   // false when it was present already
	Took      time.Duration
	Waited    time.Duration // Took and the time in the queue
	Size      int64         // bytes
}

// ImageFailed answers [EnsureImage].
type ImageFailed struct {
	At
	Container string
	Image     string // what could not be had
	// Volume says that Image is one that the container mounts, not its own.
	Volume  bool
	Reason  string // ErrImagePull, ErrImageNeverPull, InvalidImageName, …
	Message string
}

// ContainerStarted says that the attempt's main process runs.
type ContainerStarted struct {
	At
	Container string
	ID        string
	Attempt   int
	Pid       int
	// User is who the main process began as; nil: not known.
	User *v1.LinuxContainerUser
	// StopSignal is the image's STOPSIGNAL; empty: it has none.
	StopSignal v1.Signal
}

// ContainerStartFailed says that an attempt never ran its main process.
type ContainerStartFailed struct {
	At
	Container string
	ID        string
	Attempt   int
	// Reason is CreateContainerConfigError, CreateContainerError or
	// RunContainerError.
	Reason  string
	Message string
	// ExitCode is 128 for a command that cannot be executed (StartError), 0
	// where nothing was tried.
	ExitCode int
}

// ContainerHeld says that the start of an attempt goes on and waits for a volume
// that does not answer. [ContainerStarted] or [ContainerStartFailed] comes once it
// does.
type ContainerHeld struct {
	At
	Container string
	ID        string
	Volume    string
	Message   string // what does not answer, for how long
}

// ContainerExited says that an attempt's main process ended and its cgroup is
// empty. It may be reported more than once for the same ID.
type ContainerExited struct {
	At
	Container string
	ID        string
	Attempt   int
	ExitCode  int // 128+n after signal n
	Signal    int
	OOMKilled bool
	OOM       OOM // where OOMKilled
	// Message is the termination message, at most 4096 bytes.
	Message   string
	StartedAt time.Time
}

// ProbeResult is reported for each attempt that did not succeed and for each
// one that changes the verdict. Attempts that confirm a success stay silent.
type ProbeResult struct {
	At
	Container string
	ID        string
	Kind      ProbeKind
	Verdict   Verdict // published after this attempt
	Outcome   ProbeOutcome
	Output    string
	// Excuse says what made the machine, not the container, the cause of an
	// inconclusive attempt.
	Excuse string
	// Failures and Uncounted are how many attempts in a row, this one included,
	// did not succeed: those that failed, and those that counted neither way. Since
	// is when the first of them ended. The row begins with the loop.
	Failures, Uncounted int
	Since               time.Time
}

// ProbeOutcome is what a single attempt came to.
type ProbeOutcome string

const (
	ProbeSucceeded ProbeOutcome = "success"
	ProbeWarned    ProbeOutcome = "warning" // counts as success
	ProbeFailed    ProbeOutcome = "failure"
	ProbeErrored   ProbeOutcome = "unknown" // counts neither way
	// ProbeInconclusive is a timeout that the machine's own state explains; it
	// counts neither way.
	ProbeInconclusive ProbeOutcome = "inconclusive"
)

// ActionFailed says that an action with no failure fact of its own could not
// be completed. The worker tries again later.
type ActionFailed struct {
	At
	Action Action
	Err    string
	// CalledOff says that the worker itself ended the action early, so that it
	// is no failure.
	CalledOff bool
}

// Noted is something worth an event and nothing more.
type Noted struct {
	At
	Container string // empty: about the pod
	Warning   bool
	Reason    string
	Message   string
}

// Ending says that the pod is to end: its file is gone or changed, or someone
// asked for it. A later Ending may only shorten the grace period.
type Ending struct {
	At
	Grace time.Duration // of the whole pod, from At
	Then  EndingThen
}

// EndingThen is what follows once every process of the pod is gone.
type EndingThen string

const (
	// ThenRemove removes everything, the record too.
	ThenRemove EndingThen = "remove"
	// ThenStop keeps volumes and record: the next start of the agent runs the
	// pod again.
	ThenStop EndingThen = "stop"
	// ThenRestart runs the same pod again at once, in a new sandbox.
	ThenRestart EndingThen = "restart"
)

// PodFailed says that the pod as a whole has failed, whatever its containers do.
type PodFailed struct {
	At
	Reason  string // DeadlineExceeded, …
	Message string
}

// PodRemoved answers [RemovePod]: nothing is left.
type PodRemoved struct{ At }

// Apply returns what is known after f. It is the only way to a new Observed.
// A fact about an attempt or a sandbox that is no longer the newest changes
// nothing.
func Apply(o Observed, f Fact) Observed { return remember(o, apply(o, f), f) }

func apply(o Observed, f Fact) Observed {
	now := f.When()
	switch f := f.(type) {
	case Begun:
		return made(begun(o, f.Action, now), f)
	case Inspected:
		return inspected(o, f)
	case SourcesChanged:
		return sourcesChanged(o, now)
	case CauseGone:
		return causeGone(o, f)
	case Changed:
		return changed(o, f)
	case Resized:
		return resized(o, f)
	case ResizeFailed:
		return resizeFailed(o, f)
	case VolumesReady:
		o.Volumes = Volumes{Ready: true, Stale: o.Volumes.Stale}
	case VolumesFailed:
		return volumesFailed(o, now, f.Volume, f.Message)
	case SandboxUp:
		if f.ID == o.Sandbox.ID && o.Sandbox.Phase == SandboxStarting {
			o.Sandbox.Phase, o.Sandbox.Attempt, o.Sandbox.IPs, o.Sandbox.UpAt = SandboxRunning, f.Attempt, f.IPs, now
		}
	case SandboxFailed:
		if f.ID == o.Sandbox.ID && o.Sandbox.Phase == SandboxStarting {
			return sandboxFailed(o, now, f.Reason, f.Message)
		}
	case SandboxLost:
		return sandboxLost(o, f)
	case SandboxGone:
		if o.Sandbox.Phase == SandboxDestroying {
			return sandboxGone(o, now)
		}
	case ImageReady:
		c := o.Containers[f.Container]
		if c.Image.Wanted != "" && c.Image.Wanted != f.Image {
			return o // the manifest names another one by now
		}
		c.Image = Image{Ready: true, Wanted: f.Image, Ref: f.ImageRef, ID: f.ImageID}
		return o.with(f.Container, c)
	case ImageFailed:
		image := f.Image
		if f.Volume {
			image = o.Containers[f.Container].Image.Wanted
		}
		return imageFailed(o, f.Container, image, now, f.Reason, f.Message)
	case ContainerStarted:
		if c := o.Containers[f.Container]; c.Starting != nil && c.Starting.ID == f.ID {
			c = c.attempted(*c.Starting, o.Sandbox.ID, now)
			c.Running = &Running{ID: f.ID, Pid: f.Pid, StartedAt: now}
			c.Made.User, c.Made.StopSignal = f.User, f.StopSignal
			return o.with(f.Container, c)
		}
	case ContainerStartFailed:
		return startFailed(o, f)
	case ContainerHeld:
		if c := o.Containers[f.Container]; c.Starting != nil && c.Starting.ID == f.ID {
			c.Hold = &Hold{Since: now, Volume: f.Volume, Message: f.Message}
			return o.with(f.Container, c)
		}
	case ContainerExited:
		return containerExited(o, f)
	case ProbeResult:
		return probeResult(o, f)
	case HookDone:
		return o.withRunning(f.Container, f.ID, func(r *Running) { r.hookDone(f.Kind, f.Failure) })
	case ActionFailed:
		return actionFailed(o, f)
	case Ending:
		o.Ending = ending(o.Ending, f)
	case RestartingAll:
		if o.RestartAll == nil {
			o.RestartAll = &RestartAll{Since: now, Container: f.Container}
		}
	case AllEnded:
		return allEnded(o, now)
	case PodFailed:
		if o.Failure == nil {
			o.Failure = &Failure{At: now, Reason: f.Reason, Message: f.Message}
		}
	case PodRemoved:
		if o.Ending != nil && o.Ending.Removing {
			e := *o.Ending
			e.Removing, e.Removed = false, true
			o.Ending = &e
		}
	}
	return o
}

// begun marks an action as under way, so that it is not asked for twice.
func begun(o Observed, a Action, now time.Time) Observed {
	switch a := a.(type) {
	case EnsureVolumes, RefreshVolumes:
		o.Volumes.Busy, o.Volumes.Stale = true, false
	case EnsureSandbox:
		o.Sandbox = Sandbox{Phase: SandboxStarting, ID: a.ID, Attempt: a.Attempt, Retry: o.Sandbox.Retry}
	case EnsureImage:
		c := o.Containers[a.Container]
		c.Image.Busy, c.Image.Wanted = true, a.Image
		return o.with(a.Container, c)
	case StartContainer:
		c := o.Containers[a.Container]
		c.Starting, c.Hold = &Attempt{ID: a.ID, Attempt: a.Attempt}, nil
		c.Image.Ready = false // a restart asks again, by the pull policy
		return o.with(a.Container, c)
	case StopContainer:
		return o.withRunning(a.Container, a.ID, func(r *Running) {
			r.stop(now, now.Add(a.Grace), a.Reason)
			r.Stop.Signalled = true
		})
	case RunHook:
		return o.withRunning(a.Container, a.ID, func(r *Running) { r.hookBegun(a) })
	case StartProbe:
		return o.withRunning(a.Container, a.ID, func(r *Running) {
			r.Probes = maps.Clone(r.Probes)
			if r.Probes == nil {
				r.Probes = map[ProbeKind]bool{}
			}
			r.Probes[a.Kind] = true
			r.publish(a.Kind, a.Initial)
		})
	case StopProbe:
		if r := o.Containers[a.Container].Running; r != nil {
			return o.withRunning(a.Container, r.ID, func(r *Running) {
				r.Probes = maps.Clone(r.Probes)
				delete(r.Probes, a.Kind)
			})
		}
	case ResizePod:
		o.Resize.Busy = true
	case ForgetContainer:
		c := o.Containers[a.Container]
		c.Old = slices.DeleteFunc(slices.Clone(c.Old), func(old Attempt) bool { return old.ID == a.ID })
		return o.with(a.Container, c)
	case DestroySandbox:
		o.Sandbox.Phase = SandboxDestroying
	case RemovePod:
		if o.Ending != nil {
			e := *o.Ending
			e.Removing = true
			o.Ending = &e
		}
	}
	return o
}

// withRunning returns o after change to a copy of the running attempt id of
// a container; without such an attempt it returns o as it is.
func (o Observed) withRunning(name, id string, change func(*Running)) Observed {
	c := o.Containers[name]
	if c.Running == nil || c.Running.ID != id {
		return o
	}
	r := *c.Running
	change(&r)
	c.Running = &r
	return o.with(name, c)
}

// stop notes that SIGKILL comes at the deadline. The first reason stays: what
// a probe began, the end of the pod only shortens.
func (r *Running) stop(now, deadline time.Time, why StopReason) {
	if r.Stop != nil {
		again := *r.Stop
		again.Deadline = deadline
		r.Stop = &again
		return
	}
	reason := StopEnding
	switch {
	case why != "":
		reason = why
	case r.postStartFailed() != "":
		reason = StopHook
	case r.Startup == VerdictFailure:
		reason = StopStartup
	case r.Liveness == VerdictFailure:
		reason = StopLiveness
	}
	r.Stop = &Stop{Since: now, Deadline: deadline, Reason: reason}
}

// publish replaces one of the verdicts.
func (r *Running) publish(kind ProbeKind, v Verdict) {
	switch kind {
	case StartupProbe:
		r.Startup = v
	case LivenessProbe:
		r.Liveness = v
	case ReadinessProbe:
		r.Readiness = v
	}
}

// verdict returns what was published last.
func (r *Running) verdict(kind ProbeKind) Verdict {
	switch kind {
	case StartupProbe:
		return r.Startup
	case LivenessProbe:
		return r.Liveness
	default:
		return r.Readiness
	}
}

// attempted returns c after attempt a began: what was the newest exit becomes
// the one before, and the crash loop's clock goes on.
func (c Container) attempted(a Attempt, sandbox string, now time.Time) Container {
	c.Backoff = restarted(c, now)
	if c.Exit != nil {
		c.Last = c.Exit
	}
	c.Exit, c.Running, c.Starting, c.Hold, c.Retry = nil, nil, nil, nil, Retry{}
	c.Tried, c.Attempt, c.Sandbox = true, a.Attempt, sandbox
	return c
}

// exited returns c after its newest attempt ended.
func (c Container) exited(e Exit) Container {
	if failure := c.Running.postStartFailed(); failure != "" {
		c.Retry = Retry{Reason: reasonPostStartHookError, Message: failure}
	}
	c.Running, c.Starting, c.Exit = nil, nil, &e
	c.Old = withAttempt(c.Old, Attempt{ID: e.ID, Attempt: e.Attempt})
	return c
}

// withAttempt returns old with a in its place, oldest first.
func withAttempt(old []Attempt, a Attempt) []Attempt {
	if slices.ContainsFunc(old, func(o Attempt) bool { return o.ID == a.ID }) {
		return old
	}
	all := append(slices.Clone(old), a)
	slices.SortStableFunc(all, func(a, b Attempt) int { return cmp.Compare(a.Attempt, b.Attempt) })
	return all
}

// vanished returns c after its running attempt ended in a way that nobody saw.
func (c Container) vanished(code int, reason, message string, now time.Time) Container {
	r := c.Running
	return c.exited(Exit{
		ID: r.ID, Attempt: c.Attempt, Code: code, Reason: reason, Message: message,
		StartedAt: r.StartedAt, FinishedAt: now, Stopped: cmp.Or(r.stopReason(), StopLost),
	})
}

func (r *Running) stopReason() StopReason {
	if r == nil || r.Stop == nil {
		return ""
	}
	return r.Stop.Reason
}

func sandboxFailed(o Observed, now time.Time, reason, message string) Observed {
	first, most := sandboxDelay, sandboxDelayMax
	if reason == reasonNodePorts {
		first, most = portDelay, portDelay
	}
	o.Sandbox.Phase = SandboxNone
	o.Sandbox.Retry = o.Sandbox.Retry.failed(now, first, most, reason, message)
	return o
}

// reasonNodePorts is the Reason of a [SandboxFailed] whose host port is taken.
const reasonNodePorts = "NodePorts"

// volumesFailed has it tried again later. Volumes that were set up before stay
// as they are: running containers lose nothing.
func volumesFailed(o Observed, now time.Time, volume, message string) Observed {
	o.Volumes.Busy, o.Volumes.Stale = false, true
	o.Volumes.Retry = o.Volumes.Retry.failed(now, volumeDelay, volumeDelayMax, volume, message)
	return o
}

// sourcesChanged has everything tried again at once that the change may have
// cured.
func sourcesChanged(o Observed, now time.Time) Observed {
	o.Volumes.Stale = true
	if o.Volumes.Retry.Failures > 0 {
		o.Volumes.Retry.At = now
	}
	for name, c := range o.Containers {
		if c.Retry.Reason == reasonCreateContainerConfigError {
			c.Retry.At = now
		}
		if c.Image.Retry.Reason == reasonErrImagePull {
			c.Image.Retry.At = now // it may have failed for want of a pull secret
		}
		o = o.with(name, c)
	}
	return o
}

const reasonCreateContainerConfigError = "CreateContainerConfigError"

// sandboxLost ends the containers with their sandbox. A sandbox that did not
// last is made again with a delay, otherwise at once.
func sandboxLost(o Observed, f SandboxLost) Observed {
	if f.ID != o.Sandbox.ID || o.Sandbox.Phase != SandboxRunning {
		return o
	}
	o.Sandbox.Phase = SandboxNone
	if f.Time.Sub(o.Sandbox.UpAt) < sandboxDelayMax {
		o.Sandbox.Retry = o.Sandbox.Retry.failed(f.Time, sandboxDelay, sandboxDelayMax, "", "")
	} else {
		o.Sandbox.Retry = Retry{}
	}
	return endContainers(o, f.Time)
}

// endContainers notes the end of every container whose exit nobody reported.
func endContainers(o Observed, now time.Time) Observed {
	for name, c := range o.Containers {
		c.Starting, c.Hold = nil, nil
		if c.Running != nil {
			c = c.vanished(137, reasonStatusUnknown, "the container ended with its sandbox and its exit was not recorded", now)
		}
		o = o.with(name, c)
	}
	return o
}

const (
	reasonStatusUnknown = "ContainerStatusUnknown"
	reasonUnknown       = "Unknown"
)

func sandboxGone(o Observed, now time.Time) Observed {
	o = endContainers(o, now)
	o.Sandbox.Phase, o.Sandbox.Retry = SandboxNone, Retry{}
	if o.Ending == nil {
		return o
	}
	if o.Ending.Then == ThenRestart {
		return again(o)
	}
	e := *o.Ending
	e.Destroyed = true
	o.Ending = &e
	return o
}

// again makes every container wait for a new attempt, as if none had exited,
// and forgets what stood in the way of one.
func again(o Observed) Observed {
	o.RestartAll = nil
	o.Ending, o.Failure, o.Sandbox.Retry, o.Volumes.Retry = nil, nil, Retry{}, Retry{}
	for name, c := range o.Containers {
		if c.Exit != nil {
			c.Last, c.Exit = c.Exit, nil
		}
		c.Backoff, c.Retry, c.Image.Retry = Backoff{}, Retry{}, Retry{}
		o = o.with(name, c)
	}
	return o
}

func imageFailed(o Observed, name, image string, now time.Time, reason, message string) Observed {
	c := o.Containers[name]
	if c.Image.Wanted != "" && c.Image.Wanted != image {
		return o // the manifest names another one by now
	}
	c.Image.Busy, c.Image.Ready = false, false
	c.Image.Retry = c.Image.Retry.failed(now, imageDelay, imageDelayMax, reason, message)
	return o.with(name, c)
}

// startFailed distinguishes a start that got as far as the command, which
// counts as an attempt, from one that did not, which is tried again.
func startFailed(o Observed, f ContainerStartFailed) Observed {
	c := o.Containers[f.Container]
	if c.Starting == nil || c.Starting.ID != f.ID {
		return o
	}
	if f.Reason != reasonRunContainerError {
		c.Starting, c.Hold = nil, nil
		c.Retry = c.Retry.failed(f.Time, startDelay, startDelay, f.Reason, f.Message)
		return o.with(f.Container, c)
	}
	c = c.attempted(*c.Starting, o.Sandbox.ID, f.Time)
	c.Retry = Retry{Reason: f.Reason, Message: f.Message}
	return o.with(f.Container, c.exited(Exit{
		ID: f.ID, Attempt: f.Attempt, Code: f.ExitCode, Reason: reasonStartError,
		Message: f.Message, FinishedAt: f.Time,
	}))
}

const (
	reasonRunContainerError = "RunContainerError"
	reasonStartError        = "StartError"
)

// containerExited takes the exit of a running attempt, or of one whose start
// has not been reported yet.
func containerExited(o Observed, f ContainerExited) Observed {
	c := o.Containers[f.Container]
	switch {
	case c.Running != nil && c.Running.ID == f.ID:
	case c.Starting != nil && c.Starting.ID == f.ID:
		started := f.StartedAt
		if started.IsZero() {
			started = f.Time
		}
		c = c.attempted(*c.Starting, o.Sandbox.ID, started)
	default:
		return o
	}
	return o.with(f.Container, c.exited(c.exitOf(f)))
}

// exitOf is the exit that f reports of the newest attempt.
func (c Container) exitOf(f ContainerExited) Exit {
	e := Exit{
		ID: f.ID, Attempt: f.Attempt, Code: f.ExitCode, Signal: f.Signal, Reason: exitReason(f),
		Message: f.Message, StartedAt: f.StartedAt, FinishedAt: f.Time, Stopped: c.Running.stopReason(),
	}
	if e.StartedAt.IsZero() && c.Running != nil {
		e.StartedAt = c.Running.StartedAt
	}
	if e.Stopped == StopAll {
		e.Code, e.Signal, e.Reason = 137, 0, reasonRestartingAll
	}
	return e
}

func exitReason(f ContainerExited) string {
	switch {
	case f.OOMKilled:
		return reasonOOMKilled
	case f.ExitCode == 0:
		return reasonCompleted
	default:
		return reasonError
	}
}

const (
	reasonOOMKilled = "OOMKilled"
	reasonCompleted = "Completed"
	reasonError     = "Error"
)

func probeResult(o Observed, f ProbeResult) Observed {
	if f.Verdict == VerdictUnknown {
		return o
	}
	return o.withRunning(f.Container, f.ID, func(r *Running) { r.publish(f.Kind, f.Verdict) })
}

// calledOff frees what an action had marked as under way that was ended early.
func calledOff(o Observed, a Action) Observed {
	switch a := a.(type) {
	case EnsureVolumes, RefreshVolumes:
		o.Volumes.Busy, o.Volumes.Stale = false, true
	case EnsureSandbox:
		if o.Sandbox.Phase == SandboxStarting && o.Sandbox.ID == a.ID {
			o.Sandbox.Phase = SandboxNone
		}
	case EnsureImage:
		c := o.Containers[a.Container]
		c.Image.Busy = false
		return o.with(a.Container, c)
	}
	return o
}

// actionFailed frees what the action had marked as under way, and has it tried
// again later.
func actionFailed(o Observed, f ActionFailed) Observed {
	if f.CalledOff {
		return calledOff(o, f.Action)
	}
	switch a := f.Action.(type) {
	case EnsureVolumes, RefreshVolumes:
		return volumesFailed(o, f.Time, "", f.Err)
	case EnsureSandbox:
		if o.Sandbox.Phase == SandboxStarting && o.Sandbox.ID == a.ID {
			return sandboxFailed(o, f.Time, reasonFailedCreatePodSandBox, f.Err)
		}
	case EnsureImage:
		return imageFailed(o, a.Container, a.Image, f.Time, reasonErrImagePull, f.Err)
	case ResizePod:
		return resizeFailed(o, ResizeFailed{At: f.At, ResizePod: a, Message: f.Err})
	case StartContainer:
		return startFailed(o, ContainerStartFailed{
			At: f.At, Container: a.Container, ID: a.ID, Attempt: a.Attempt, Reason: "CreateContainerError", Message: f.Err,
		})
	case StopContainer:
		c := o.Containers[a.Container]
		if c.Running != nil && c.Running.ID == a.ID {
			c.Retry = c.Retry.failed(f.Time, actionDelay, actionDelayMax, "", f.Err)
			o = o.with(a.Container, c)
			return o.withRunning(a.Container, a.ID, func(r *Running) {
				r.Stop = &Stop{Since: r.Stop.Since, Deadline: r.Stop.Deadline, Reason: r.Stop.Reason}
			})
		}
	case DestroySandbox:
		if o.Sandbox.Phase == SandboxDestroying {
			o.Sandbox.Phase = SandboxRunning
			o.Sandbox.Retry = o.Sandbox.Retry.failed(f.Time, actionDelay, actionDelayMax, "", f.Err)
		}
	case RemovePod:
		if o.Ending != nil {
			e := *o.Ending
			e.Removing, e.Retry = false, e.Retry.failed(f.Time, actionDelay, actionDelayMax, "", f.Err)
			o.Ending = &e
		}
	}
	return o
}

const reasonErrImagePull = "ErrImagePull"

// ending merges a new wish for the pod's end with one under way: the grace
// period is at least a second and only shrinks, and a removal is never taken back.
func ending(under *EndingState, f Ending) *EndingState {
	e := EndingState{Since: f.Time, Deadline: f.Time.Add(endingGrace(f.Grace)), Then: f.Then}
	if under == nil {
		return &e
	}
	merged := *under
	if e.Deadline.Before(merged.Deadline) {
		merged.Deadline = e.Deadline
	}
	if merged.Then != ThenRemove {
		merged.Then = e.Then
	}
	return &merged
}

// inspected reconciles what was recorded with what exists: the kernel is the
// truth, the record adds verdicts, counts and clocks.
func inspected(o Observed, f Inspected) Observed {
	o.Inspected = true
	// Files may have changed while nobody looked.
	o.Volumes.Ready, o.Volumes.Busy, o.Volumes.Stale = f.Volumes, false, true
	if s := f.Sandbox; s != nil && o.Sandbox.Phase == SandboxStarting && o.Sandbox.ID == s.ID {
		o.Sandbox.Phase, o.Sandbox.HalfMade = SandboxNone, true
	} else if s != nil {
		o.Sandbox = Sandbox{Phase: SandboxRunning, ID: s.ID, Attempt: s.Attempt, IPs: s.IPs, UpAt: s.UpAt, Retry: o.Sandbox.Retry, Resources: o.Sandbox.Resources}
	} else {
		o.Sandbox.Phase = SandboxNone
	}
	found := map[string][]FoundContainer{}
	for _, c := range f.Containers {
		found[c.Container] = append(found[c.Container], c)
	}
	for name := range o.Containers {
		if _, there := found[name]; !there {
			found[name] = nil
		}
	}
	for name, attempts := range found {
		o = o.with(name, foundAttempts(o.Containers[name], attempts, o.Sandbox.ID, f))
	}
	return o
}

// foundAttempts brings c up to date with the attempts found, oldest first.
func foundAttempts(c Container, attempts []FoundContainer, sandbox string, f Inspected) Container {
	c.Image.Busy, c.Image.Ready = false, false
	recorded := c.Running // what the record says still runs
	for _, a := range attempts {
		known := c.Exit != nil && c.Exit.ID == a.ID || c.Last != nil && c.Last.ID == a.ID
		if recorded == nil || recorded.ID != a.ID {
			if known || c.Tried && a.Attempt <= c.Attempt {
				if a.Exit != nil {
					c.Old = withAttempt(c.Old, Attempt{ID: a.ID, Attempt: a.Attempt})
				}
				continue
			}
			if c.Running != nil { // and nothing of it was found
				c = c.vanished(137, reasonStatusUnknown, vanishedMessage, f.Time)
			}
			c = c.attempted(Attempt{ID: a.ID, Attempt: a.Attempt}, sandbox, a.StartedAt)
			c.Running = &Running{ID: a.ID, StartedAt: a.StartedAt}
		}
		r := *c.Running
		r.Pid = a.Pid
		if a.Exit == nil {
			r.forgetErrands()
		}
		c.Running, recorded = &r, nil
		if a.Exit != nil {
			e := c.exitOf(*a.Exit)
			c = c.exited(e)
		}
	}
	c.Starting, c.Hold = nil, nil
	if c.Running != nil && (recorded != nil || f.Sandbox == nil) {
		if f.Rebooted {
			c = c.vanished(255, reasonUnknown, "the machine was started anew", f.Time)
		} else {
			c = c.vanished(137, reasonStatusUnknown, vanishedMessage, f.Time)
		}
	}
	return c
}

// vanishedMessage is the kubelet's text for a container whose end nobody saw.
const vanishedMessage = "The container could not be located when the pod was deleted.  The container used to be Running"
