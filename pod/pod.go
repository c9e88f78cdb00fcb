package pod

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Key names a pod as users do. A key outlives the pods that bear it.
type Key = types.NamespacedName

// Desired is what the user asked for: one pod, or that a pod be gone. It is
// immutable; a changed file makes a new Desired.
type Desired struct {
	Key Key
	// Pod is defaulted and validated. Nil when Gone.
	Pod    *v1.Pod
	Origin Origin
	// SpecHash identifies the spec as it was written, before defaulting. Two
	// manifests with the same hash are the same pod, also where a newer version
	// defaults more fields. Empty: the defaulted specs are compared.
	SpecHash string
	// Sources are the ConfigMaps, Secrets and claims that the pod names. Nil although it
	// names some: it is not known yet which of them there are.
	Sources *Sources
	// Warnings are about fields that are accepted and have no meaning on one node.
	Warnings []string
	Gone     bool
}

// Origin is where a Desired was read.
type Origin struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // of the document, from 1
	// API says that the object was made through the API, which keeps it in File. A
	// pod of this kind brings its own UID, creation time and generation.
	API bool `json:"api,omitempty"`
}

// DeclaredIn is the annotation of what a file of the user's declares: FILE:LINE.
const DeclaredIn = "podd/declared-in"

func (o Origin) String() string { return fmt.Sprintf("%s:%d", o.File, o.Line) }

// Record is what is kept of a pod on disk: what the kernel cannot know.
type Record struct {
	UID types.UID `json:"uid"`
	Key Key       `json:"key"`
	// Pod is the last good manifest.
	Pod      *v1.Pod `json:"pod"`
	Origin   Origin  `json:"origin"`
	SpecHash string  `json:"specHash,omitempty"`
	// Conditions are the conditions last shown, for their times of transition, and
	// for those that others have set.
	Conditions []v1.PodCondition `json:"conditions,omitempty"`
	// Resized are resources that were asked for since SpecHash was read.
	Resized Resources `json:"resized,omitempty"`
	// Observed is what was known of the pod. Of it, only what the kernel cannot
	// tell survives the next [Inspected].
	Observed Observed `json:"observed"`
	// Rebooted says that the machine was started since the record was written.
	// The store fills it in; it is not written.
	Rebooted bool `json:"-"`
}

// Desired is the pod as it was last wanted.
// Sources are not part of a record.
func (r Record) Desired() Desired {
	return Desired{Key: r.Key, Pod: r.Pod, Origin: r.Origin, SpecHash: r.SpecHash}
}

// onlyProbes says of two records that differ whether they do so in nothing but
// what failing probes saw.
func (r Record) onlyProbes(other Record) bool {
	r.Observed.Kept.Probes, other.Observed.Kept.Probes = nil, nil
	return reflect.DeepEqual(r, other)
}

// Observed is everything known about one pod. It is a value: [Apply] returns
// a new one and leaves the old one as it was. Maps and slices in it are never
// changed in place.
type Observed struct {
	// Inspected says that the kernel was looked at in this life of the agent.
	// Until then nothing is decided.
	Inspected bool `json:"-"`
	// Since is when the pod was accepted: its status.startTime.
	Since time.Time `json:"since"`
	// Volumes, Sandbox and Containers are the pod's parts. Containers has an
	// entry for each container, of either list, about which anything is known.
	Volumes    Volumes              `json:"volumes"`
	Sandbox    Sandbox              `json:"sandbox"`
	Containers map[string]Container `json:"containers,omitempty"`
	// Resize is about resources that are changed while the pod runs.
	Resize Resize `json:"resize,omitzero"`
	// RestartAll is set while all containers are ended to be restarted together.
	RestartAll *RestartAll `json:"restartAll,omitempty"`
	// Failure is set once the pod as a whole has failed.
	Failure *Failure `json:"failure,omitempty"`
	// Ending is set while the pod is being ended.
	Ending *EndingState `json:"ending,omitempty"`
	// Kept is what is remembered for whoever asks why; nothing is decided by it.
	Kept Kept `json:"kept,omitzero"`
}

// Volumes is the state of the pod's volumes as a whole.
type Volumes struct {
	Ready bool `json:"-"`
	Busy  bool `json:"-"` // an EnsureVolumes or a RefreshVolumes is under way
	// Stale says that what the files of volumes are made of may have changed
	// since they were written. It matters to pods that mount such volumes.
	Stale bool  `json:"-"`
	Retry Retry `json:"retry,omitzero"`
}

// Sandbox is the pod's newest sandbox.
type Sandbox struct {
	// Phase says how far it is.
	Phase SandboxPhase `json:"phase,omitempty"`
	// ID is the newest sandbox's, also after it is gone. Empty: there was none.
	ID      string       `json:"id,omitempty"`
	Attempt int          `json:"attempt,omitempty"`
	IPs     []netip.Addr `json:"ips,omitempty"`
	UpAt    time.Time    `json:"upAt,omitzero"`
	// Resources are what the pod's control group was made for. Nil: not known.
	Resources Resources `json:"resources,omitempty"`
	// HalfMade says that an agent that ended had begun to make this sandbox, and
	// that something of it was found: it is to be completed.
	HalfMade bool `json:"-"`
	// Retry is about making the next sandbox, or about destroying this one.
	Retry Retry `json:"retry,omitzero"`
}

// SandboxPhase is the step that a sandbox is in.
type SandboxPhase string

const (
	SandboxNone       SandboxPhase = ""           // there is none, or none that lives
	SandboxStarting   SandboxPhase = "starting"   // an EnsureSandbox is under way
	SandboxRunning    SandboxPhase = "running"    // it is up
	SandboxDestroying SandboxPhase = "destroying" // a DestroySandbox is under way
)

// Retry is what is known about something that failed and is tried again.
type Retry struct {
	Failures int       `json:"failures,omitempty"` // in a row
	At       time.Time `json:"at,omitzero"`        // not before
	Reason   string    `json:"reason,omitempty"`
	Message  string    `json:"message,omitempty"`
}

// Container is what is known about one container of the pod. Running, Exit
// and Last describe the newest attempt and the one before it.
type Container struct {
	// Tried says that at least one attempt began; Attempt is then the number
	// of the newest one: the restart count.
	Tried   bool `json:"tried,omitempty"`
	Attempt int  `json:"attempt,omitempty"`
	// Sandbox is the ID of the sandbox in which the newest attempt began.
	Sandbox string `json:"sandbox,omitempty"`
	// Starting is the attempt under way that has neither started nor failed.
	Starting *Attempt `json:"starting,omitempty"`
	// Hold is what the attempt under way waits for, where that was told.
	Hold *Hold `json:"hold,omitempty"`
	// Running is the attempt whose main process runs.
	Running *Running `json:"running,omitempty"`
	// Exit is how the newest attempt ended. While Starting is set it is the
	// exit of the attempt before.
	Exit *Exit `json:"exit,omitempty"`
	// Last is how the attempt before the newest ended.
	Last *Exit `json:"last,omitempty"`
	// Old are the exited attempts of which anything is left, oldest first.
	Old []Attempt `json:"old,omitempty"`
	// Backoff is the crash loop's clock.
	Backoff Backoff `json:"backoff,omitzero"`
	// Retry is about starts that failed before anything ran.
	Retry Retry `json:"retry,omitzero"`
	// Image is about the image of the next attempt.
	Image Image `json:"image,omitzero"`
	// Made is what the newest attempt was made of, the one under way included.
	Made Made `json:"made,omitzero"`
}

// Attempt is one numbered try to run a container.
type Attempt struct {
	ID      string `json:"id"`
	Attempt int    `json:"attempt"`
}

// Hold is a volume that does not answer and keeps an attempt from starting.
type Hold struct {
	Since   time.Time `json:"since"`
	Volume  string    `json:"volume"`
	Message string    `json:"message"` // what does not answer, for how long
}

// Running is an attempt whose main process runs.
type Running struct {
	ID        string    `json:"id"`
	Pid       int       `json:"pid,omitempty"`
	StartedAt time.Time `json:"startedAt"`
	// The verdicts published so far; unknown where there is no such probe.
	Startup   Verdict `json:"startup,omitempty"`
	Liveness  Verdict `json:"liveness,omitempty"`
	Readiness Verdict `json:"readiness,omitempty"`
	// PostStart and PreStop are its lifecycle hooks; nil: not begun.
	PostStart *Hook `json:"postStart,omitempty"`
	PreStop   *Hook `json:"preStop,omitempty"`
	// Probes are the loops that were started in this life of the agent.
	Probes map[ProbeKind]bool `json:"-"`
	// Stop outlives the agent so that an exit it missed has its reason; a container
	// that still runs is then stopped again.
	Stop *Stop `json:"stop,omitempty"`
}

// Stop is the end of a container that was begun: with its preStop hook if it
// has one, with a StopContainer otherwise.
type Stop struct {
	Since     time.Time  `json:"since"`
	Deadline  time.Time  `json:"deadline"` // SIGKILL follows
	Reason    StopReason `json:"reason"`
	Signalled bool       `json:"signalled,omitempty"` // a StopContainer was begun
}

// StopReason is why a running container is stopped.
type StopReason string

const (
	StopEnding   StopReason = "ending"   // the pod ends
	StopLiveness StopReason = "liveness" // its liveness probe failed
	StopStartup  StopReason = "startup"  // its startup probe failed
	StopHook     StopReason = "hook"     // its postStart hook failed
	StopChanged  StopReason = "changed"  // its image or its resources changed
	StopAll      StopReason = "all"      // another one's exit restarts all containers
	StopLost     StopReason = "lost"     // it ended with its sandbox or the machine
)

// Exit is how an attempt ended.
type Exit struct {
	ID         string    `json:"id"`
	Attempt    int       `json:"attempt"`
	Code       int       `json:"code"`
	Signal     int       `json:"signal,omitempty"`
	Reason     string    `json:"reason"` // Completed, Error, OOMKilled, StartError, …
	Message    string    `json:"message,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt"`
	// Stopped is why we stopped it; empty when it exited by itself.
	Stopped StopReason `json:"stopped,omitempty"`
}

// Image is what is known about a container's image.
type Image struct {
	Busy bool `json:"-"` // an EnsureImage is under way
	// Wanted is the image that was last asked for.
	Wanted string `json:"-"`
	// Ready says that the image was ensured for the next attempt.
	Ready bool   `json:"-"`
	Ref   string `json:"ref,omitempty"` // as the status shows it
	ID    string `json:"id,omitempty"`
	Retry Retry  `json:"retry,omitzero"`
}

// Failure is why a whole pod failed, whatever its containers do.
type Failure struct {
	At      time.Time `json:"at"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
}

// EndingState is an [Ending] under way.
type EndingState struct {
	Since    time.Time  `json:"since"`
	Deadline time.Time  `json:"deadline"` // of the pod's grace period
	Then     EndingThen `json:"then"`
	// Removing says that a RemovePod is under way; Removed that nothing is left.
	Removing bool `json:"-"`
	Removed  bool `json:"-"`
	// Destroyed says that the sandbox was destroyed.
	Destroyed bool  `json:"-"`
	Retry     Retry `json:"-"`
}

// with returns o with one container replaced.
func (o Observed) with(name string, c Container) Observed {
	containers := maps.Clone(o.Containers)
	if containers == nil {
		containers = map[string]Container{}
	}
	containers[name] = c
	o.Containers = containers
	return o
}

// running lists the names of containers whose main process runs.
func (o Observed) anyRunning() bool {
	for _, c := range o.Containers {
		if c.Running != nil || c.Starting != nil {
			return true
		}
	}
	return false
}
