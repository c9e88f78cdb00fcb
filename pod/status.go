package pod

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node is what a pod's status tells about the machine.
type Node struct {
	Name string
	// IPs are the machine's addresses, the main one first.
	IPs []netip.Addr
}

// Status returns the snapshot that readers see: the pod with its status, in
// the form the kubelet gives it. shown are the conditions of the snapshot
// before; a condition that keeps its status keeps its time of transition.
func Status(d Desired, o Observed, n Node, shown []v1.PodCondition, now time.Time) *v1.Pod {
	// Shallow, as there is one at each step of a pod's life and readers change
	// nothing: all share the manifest's spec, labels and annotations.
	p := &v1.Pod{ObjectMeta: d.Pod.ObjectMeta, Spec: d.Pod.Spec}
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	p.Spec.NodeName = n.Name
	if d.Origin.File != "" && !d.Origin.API {
		p.Annotations = maps.Clone(p.Annotations)
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[DeclaredIn] = d.Origin.String()
	}
	started := metav1.NewTime(o.Since.Truncate(time.Second))
	if p.CreationTimestamp.IsZero() {
		p.CreationTimestamp = started
	}
	if e := o.Ending; e != nil && e.Then == ThenRemove && p.DeletionTimestamp == nil {
		deadline := metav1.NewTime(e.Deadline.Truncate(time.Second))
		grace := int64(e.Deadline.Sub(e.Since) / time.Second)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &deadline, &grace
		if !d.Origin.API {
			p.Generation++ // as an API server counts a deletion
		}
	}
	s := reporter{pod: d.Pod, o: o, now: now, generation: p.Generation}
	p.Status = v1.PodStatus{
		ObservedGeneration: p.Generation,
		StartTime:          &started,
		QOSClass:           QOSClass(d.Pod),
	}
	for i := range p.Spec.InitContainers {
		p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, s.container(&p.Spec.InitContainers[i], true))
	}
	for i := range p.Spec.Containers {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, s.container(&p.Spec.Containers[i], false))
	}
	for _, c := range ephemeralContainers(d.Pod) {
		p.Status.EphemeralContainerStatuses = append(p.Status.EphemeralContainerStatuses, s.ephemeral(c))
	}
	slices.SortFunc(p.Status.ContainerStatuses, func(a, b v1.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) })
	shareMessages(&p.Status)
	if p.Status.Phase = s.phase(); s.ended() {
		s.finalise(&p.Status)
	}
	s.explain(&p.Status)
	addresses(p, o.Sandbox.IPs, n.IPs)
	p.Status.Conditions = s.conditions(&p.Status, shown)
	return p
}

// reporter computes one snapshot.
type reporter struct {
	pod        *v1.Pod
	o          Observed
	now        time.Time
	generation int64 // of the pod, as it is shown
}

// container is one container's status.
func (s reporter) container(c *v1.Container, init bool) v1.ContainerStatus {
	state := s.o.Containers[c.Name]
	status := v1.ContainerStatus{
		Name:         c.Name,
		RestartCount: int32(state.Attempt),
		Image:        cmp.Or(state.Made.Ref, state.Image.Ref, c.Image),
		ImageID:      cmp.Or(state.Made.ID, state.Image.ID),
		Started:      new(started(c, state)),
		Ready:        ready(c, state),
		VolumeMounts: mountStatuses(c.VolumeMounts),
		StopSignal:   stopSignal(c),
		User:         userStatus(state.Made),

		AllocatedResources: c.Resources.Requests.DeepCopy(),
		Resources:          c.Resources.DeepCopy(),
	}
	if status.StopSignal == nil && state.Made.StopSignal != "" {
		status.StopSignal = &state.Made.StopSignal
	}
	if state.toResize(c) {
		status.Resources = state.Made.Resources.DeepCopy()
	}
	if init && !isSidecar(c) {
		*status.Started = state.Running != nil
		status.Ready = state.Exit != nil && state.Exit.succeeded()
	}
	last := state.Last
	switch {
	case state.Running != nil && !up(c, state):
		status.State.Waiting = s.postStarting(state)
		status.ContainerID = containerID(state.Running.ID)
	case state.Running != nil:
		status.State.Running = &v1.ContainerStateRunning{StartedAt: seconds(state.Running.StartedAt)}
		status.ContainerID = containerID(state.Running.ID)
	default:
		waiting := s.waiting(c, state)
		if waiting == nil {
			status.State.Terminated = terminated(state.Exit)
		} else {
			status.State.Waiting, status.Ready = waiting, false
			last = cmp.Or(state.Exit, state.Last)
		}
		if e := cmp.Or(state.Exit, state.Last); e != nil {
			status.ContainerID = containerID(e.ID)
		}
	}
	if last != nil {
		status.LastTerminationState.Terminated = terminated(last)
	}
	return status
}

// waiting says why a container that does not run is not running yet, or nil
// when it has exited and that is what there is to say.
func (s reporter) waiting(c *v1.Container, state Container) *v1.ContainerStateWaiting {
	if s.o.RestartAll != nil && s.o.Ending == nil && state.Tried {
		return &v1.ContainerStateWaiting{Reason: reasonRestartingAll}
	}
	if state.Exit != nil && (s.o.Ending != nil || !s.again(c, state)) {
		return nil
	}
	image := state.Image.Retry
	switch {
	case state.Hold != nil:
		return &v1.ContainerStateWaiting{Reason: s.creating(), Message: mountMessage(state.Hold.Volume, state.Hold.Message)}
	case state.Retry.Reason != "":
		return &v1.ContainerStateWaiting{Reason: state.Retry.Reason, Message: state.Retry.Message}
	case image.Failures > 0 && image.Reason == reasonErrImagePull && !state.Image.Busy:
		return &v1.ContainerStateWaiting{
			Reason:  reasonImagePullBackOff,
			Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, image.Reason, image.Message),
		}
	case image.Failures > 0:
		return &v1.ContainerStateWaiting{Reason: image.Reason, Message: image.Message}
	case state.Exit != nil && s.now.Before(restartAt(state)) && s.inTurn(state):
		return &v1.ContainerStateWaiting{
			Reason: reasonCrashLoopBackOff,
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
				state.Backoff.Delay, c.Name, s.pod.Name, s.pod.Namespace, s.pod.UID),
		}
	case state.Exit != nil && (state.Starting != nil || s.inSandbox(state)):
		return nil // it restarts this very moment
	}
	return &v1.ContainerStateWaiting{Reason: s.creating(), Message: s.holdUp()}
}

// creating is the reason of a container that is on its way.
func (s reporter) creating() string {
	if len(s.pod.Spec.InitContainers) > 0 {
		return "PodInitializing"
	}
	return "ContainerCreating"
}

// postStarting says of a container that runs that its postStart hook keeps it
// from being shown so.
func (s reporter) postStarting(state Container) *v1.ContainerStateWaiting {
	if failure := state.Running.postStartFailed(); failure != "" {
		return &v1.ContainerStateWaiting{Reason: reasonPostStartHookError, Message: failure}
	}
	return &v1.ContainerStateWaiting{Reason: s.creating(), Message: "waiting for its postStart hook"}
}

const (
	reasonImagePullBackOff = "ImagePullBackOff"
	reasonCrashLoopBackOff = "CrashLoopBackOff"
)

// holdUp is what keeps the whole pod from starting, if anything does.
func (s reporter) holdUp() string {
	switch {
	case s.o.Ending != nil:
		return ""
	case s.o.Volumes.Retry.Failures > 0 && !s.o.Volumes.Ready:
		return mountMessage(s.o.Volumes.Retry.Reason, s.o.Volumes.Retry.Message)
	case s.o.Sandbox.Phase != SandboxRunning:
		return s.o.Sandbox.Retry.Message
	}
	return ""
}

func (s reporter) inSandbox(c Container) bool {
	return s.o.Sandbox.Phase == SandboxRunning && c.Tried && c.Sandbox == s.o.Sandbox.ID
}

// inTurn says whether a container that has exited waits for nothing but its
// own delay: after a new sandbox the init containers run first.
func (s reporter) inTurn(c Container) bool {
	return s.inSandbox(c) || s.initialised() || len(s.pod.Spec.InitContainers) == 0
}

// again says whether a container that has exited is to be started again.
func (s reporter) again(c *v1.Container, state Container) bool {
	if finished(s.pod, s.o) {
		return false
	}
	for i := range s.pod.Spec.InitContainers {
		init := &s.pod.Spec.InitContainers[i]
		if init.Name == c.Name {
			return isSidecar(c) || !initDone(state, s.o.Sandbox.ID) && !s.initialised()
		}
	}
	return restarts(s.pod, c, *state.Exit)
}

// initialised says whether any regular container ever began.
func (s reporter) initialised() bool {
	return slices.ContainsFunc(s.pod.Spec.Containers, func(c v1.Container) bool {
		return s.o.Containers[c.Name].Tried && s.o.Containers[c.Name].Sandbox == s.o.Sandbox.ID
	})
}

// terminated is an exit as the status shows it.
func terminated(e *Exit) *v1.ContainerStateTerminated {
	return &v1.ContainerStateTerminated{
		ExitCode: int32(e.Code), Signal: int32(e.Signal), Reason: e.Reason, Message: e.Message,
		StartedAt: seconds(e.StartedAt), FinishedAt: seconds(e.FinishedAt), ContainerID: containerID(e.ID),
	}
}

func containerID(id string) string {
	if id == "" {
		return ""
	}
	return "podd://" + id
}

// seconds is a time as the API shows it.
func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

// userStatus is who a container's main process began as.
func userStatus(m Made) *v1.ContainerUser {
	if m.User == nil {
		return nil
	}
	return &v1.ContainerUser{Linux: m.User}
}

func mountStatuses(mounts []v1.VolumeMount) []v1.VolumeMountStatus {
	var shown []v1.VolumeMountStatus
	for _, m := range mounts {
		status := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			status.RecursiveReadOnly = new(v1.RecursiveReadOnlyDisabled)
			if r := m.RecursiveReadOnly; r != nil && *r != v1.RecursiveReadOnlyDisabled {
				*status.RecursiveReadOnly = v1.RecursiveReadOnlyEnabled
			}
		}
		shown = append(shown, status)
	}
	return shown
}

// messagesBytes is how much all termination messages of a pod may take.
const messagesBytes = 12 << 10

// shareMessages cuts termination messages so that all fit.
func shareMessages(s *v1.PodStatus) {
	all := [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses}
	share := messagesBytes / max(1, len(all[0])+len(all[1])+len(all[2]))
	for _, list := range all {
		for i := range list {
			for _, t := range []*v1.ContainerStateTerminated{list[i].State.Terminated, list[i].LastTerminationState.Terminated} {
				if t != nil && len(t.Message) > share {
					t.Message = strings.ToValidUTF8(t.Message[:share], "")
				}
			}
		}
	}
}

// phase is the pod's phase. A terminal one is told only once nothing runs any
// more. Source: Kubernetes docs, "Pod Lifecycle", pod phase.
func (s reporter) phase() v1.PodPhase {
	done := finished(s.pod, s.o)
	if done && !s.o.anyRunning() {
		if s.allSucceeded() {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	}
	began := false // any regular container
	for i := range s.pod.Spec.Containers {
		c := s.o.Containers[s.pod.Spec.Containers[i].Name]
		began = began || c.Tried
	}
	for i := range s.pod.Spec.InitContainers {
		c := &s.pod.Spec.InitContainers[i]
		state := s.o.Containers[c.Name]
		if isSidecar(c) && !began && !started(c, state) {
			return v1.PodPending
		}
		if !isSidecar(c) && !s.initialised() && !initDone(state, s.o.Sandbox.ID) && !done {
			return v1.PodPending
		}
	}
	for i := range s.pod.Spec.Containers {
		spec := &s.pod.Spec.Containers[i]
		if c := s.o.Containers[spec.Name]; !up(spec, c) && c.Exit == nil && c.Last == nil {
			return v1.PodPending
		}
	}
	return v1.PodRunning
}

// allSucceeded says of a finished pod whether it did its work.
func (s reporter) allSucceeded() bool {
	if s.o.Failure != nil {
		return false
	}
	for _, c := range allContainers(s.pod) {
		state := s.o.Containers[c.Name]
		if initFailed(s.pod, c, state) {
			return false
		}
	}
	for i := range s.pod.Spec.Containers {
		if e := s.o.Containers[s.pod.Spec.Containers[i].Name].Exit; e == nil || e.Code != 0 {
			return false
		}
	}
	return true
}

// explain fills the pod's own reason and message.
func (s reporter) explain(status *v1.PodStatus) {
	switch {
	case status.Phase == v1.PodFailed && s.o.Failure != nil:
		status.Reason, status.Message = s.o.Failure.Reason, s.o.Failure.Message
	case s.o.Ending != nil:
		status.Message = s.endHeldUp()
	case status.Phase == v1.PodPending && s.o.Sandbox.Retry.Reason == reasonNodePorts:
		status.Message = s.holdUp()
	}
}

// addresses fills in the machine's addresses and the pod's: of a pod on the
// host's network they are the same.
func addresses(p *v1.Pod, pod, host []netip.Addr) {
	for i, ip := range host {
		if i == 0 {
			p.Status.HostIP = ip.String()
		}
		p.Status.HostIPs = append(p.Status.HostIPs, v1.HostIP{IP: ip.String()})
	}
	if p.Spec.HostNetwork {
		pod = host
	}
	for i, ip := range pod {
		if i == 0 {
			p.Status.PodIP = ip.String()
		}
		p.Status.PodIPs = append(p.Status.PodIPs, v1.PodIP{IP: ip.String()})
	}
}
