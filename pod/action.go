package pod

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Action is something the worker asks a [Runtime] to do. Every action may be
// asked for again after a crash: performing one that is already done succeeds
// and reports the same facts.
type Action interface{ isAction() }

// EnsureSandbox asks for the pod's namespaces, pause process, cgroup, network
// and host ports. Answer: [SandboxUp] or [SandboxFailed].
type EnsureSandbox struct {
	ID      string // 64 hex digits, chosen by Decide's caller when the action begins; one that was half made keeps it
	Attempt int    // 0 for the first sandbox of the pod
}

// EnsureVolumes asks for every volume that a container of the pod mounts.
// Answer: [VolumesReady] or [VolumesFailed].
type EnsureVolumes struct{}

// RefreshVolumes asks for the files of volumes that are set up to be brought up
// to date: those of configMap, secret, downwardAPI and projected volumes.
// Answer: [VolumesReady] or [VolumesFailed].
type RefreshVolumes struct{}

// EnsureImage asks for a container's image by the rules of its pull policy.
// Answer: [ImageReady] or [ImageFailed], with [Noted] (Pulling) before a pull.
type EnsureImage struct {
	Container string
	Image     string
	Policy    v1.PullPolicy
}

// StartContainer asks for one attempt of a container. The image is present.
// Answer: [ContainerStarted] or [ContainerStartFailed], with [ContainerHeld] before
// where a volume does not answer; later, from
// [Runtime.Watch], [ContainerExited].
type StartContainer struct {
	Container string
	ID        string // 64 hex digits
	Attempt   int    // the restart count this attempt will show, from 0
	// Target is the ID of the running attempt whose processes the container shares;
	// empty: it has its own, or the pod's.
	Target string
}

// StopContainer asks for a running attempt to end: the stop signal, then
// SIGKILL when Grace is over. A later StopContainer with a smaller Grace shortens
// the one under way. Answer: [ContainerExited] from [Runtime.Watch].
type StopContainer struct {
	Container string
	ID        string
	Grace     time.Duration
	// Reason is set where the container's own state does not tell it.
	Reason StopReason
}

// StartProbe asks for one probe loop on a running attempt. The loop ends with
// [StopProbe], with the attempt, or with the worker's context.
// Answers: [ProbeResult] for what the worker must know.
type StartProbe struct {
	Container string
	ID        string
	Kind      ProbeKind
	StartedAt time.Time // of the attempt: the times of attempts are counted from it
	Initial   Verdict   // published so far: an adopted container keeps its verdict
}

// StopProbe ends one probe loop. Stopping one that does not run is no error.
// No answer.
type StopProbe struct {
	Container string
	Kind      ProbeKind
}

// ForgetContainer removes what a dead attempt left: its upper directory, exit
// record, logs and cgroup. No answer.
type ForgetContainer struct {
	Container string
	ID        string
	Attempt   int
}

// DestroySandbox ends every process of the pod, then removes its network,
// host ports and sandbox. Volumes, records and logs stay.
// Answer: [SandboxGone] or [ActionFailed].
type DestroySandbox struct{}

// RemovePod removes everything that is left of the pod: sandbox, volumes,
// container directories, cgroups, logs, addresses.
// Answer: [PodRemoved] or [ActionFailed].
type RemovePod struct{}

func (EnsureSandbox) isAction()   {}
func (EnsureVolumes) isAction()   {}
func (RefreshVolumes) isAction()  {}
func (EnsureImage) isAction()     {}
func (StartContainer) isAction()  {}
func (StopContainer) isAction()   {}
func (StartProbe) isAction()      {}
func (StopProbe) isAction()       {}
func (ForgetContainer) isAction() {}
func (DestroySandbox) isAction()  {}
func (RemovePod) isAction()       {}

// ProbeKind is one of the three probes a container may have. Its text is the
// value of Kubernetes' probe_type label.
type ProbeKind string

const (
	StartupProbe   ProbeKind = "Startup"
	LivenessProbe  ProbeKind = "Liveness"
	ReadinessProbe ProbeKind = "Readiness"
)

// Verdict is what a probe's thresholds make of its attempts.
type Verdict string

const (
	VerdictUnknown Verdict = ""
	VerdictSuccess Verdict = "success"
	VerdictFailure Verdict = "failure"
)
