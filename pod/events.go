package pod

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Events tells what a fact is to the pod's owner, with the kubelet's reasons
// and messages. before and after are what was known around the fact. It is
// pure; most facts are worth no event.
func Events(d Desired, before, after Observed, f Fact) []Event {
	t := teller{pod: d.Pod, key: d.Key, at: f.When()}
	switch f := f.(type) {
	case Begun:
		t.begun(before, f.Action)
	case Inspected:
		if f.Rebooted && before.Sandbox.ID != "" {
			t.whole(v1.EventTypeWarning, "Rebooted", "The machine was started anew; the pod is started again with its restart counts.")
		}
	case SandboxFailed:
		t.sandboxFailed(f.Reason, f.Message)
	case VolumesFailed:
		t.whole(v1.EventTypeWarning, reasonFailedMount, mountMessage(f.Volume, f.Message))
	case ImageReady:
		t.container(f.Container, v1.EventTypeNormal, "Pulled", pulledMessage(f))
	case ImageFailed:
		t.imageFailed(f.Container, f.Image, f.Reason, f.Message)
	case ContainerStarted:
		if isStarting(before, f.Container, f.ID) {
			t.started(f.Container)
		}
	case ContainerStartFailed:
		if isStarting(before, f.Container, f.ID) {
			if f.Reason == reasonRunContainerError {
				t.container(f.Container, v1.EventTypeNormal, "Created", "Container created")
			}
			t.container(f.Container, v1.EventTypeWarning, reasonFailed, "Error: "+f.Message)
			t.backOff(after, f.Container)
		}
	case ContainerHeld:
		if isStarting(before, f.Container, f.ID) {
			t.whole(v1.EventTypeWarning, reasonFailedMount, mountMessage(f.Volume, f.Message))
		}
	case ContainerExited:
		if isStarting(before, f.Container, f.ID) {
			t.started(f.Container)
		}
		if before.Containers[f.Container].Exit == nil || isStarting(before, f.Container, f.ID) {
			t.backOff(after, f.Container)
		}
	case ProbeResult:
		t.probed(f)
	case HookDone:
		t.hookDone(f)
	case PodFailed:
		kind := v1.EventTypeWarning
		if f.Reason == reasonDeadlineExceeded {
			kind = v1.EventTypeNormal
		}
		t.whole(kind, f.Reason, f.Message)
	case Noted:
		kind := v1.EventTypeNormal
		if f.Warning {
			kind = v1.EventTypeWarning
		}
		t.container(f.Container, kind, f.Reason, f.Message)
	case ActionFailed:
		t.actionFailed(f)
	}
	t.resizeEvents(before, after, f)
	return t.events
}

const (
	reasonFailed        = "Failed"
	reasonFailedMount   = "FailedMount"
	reasonFailedKillPod = "FailedKillPod"
)

// teller collects events of one moment.
type teller struct {
	pod    *v1.Pod
	key    Key
	at     time.Time
	events []Event
}

// whole adds an event about the pod itself.
func (t *teller) whole(kind, reason, message string) { t.container("", kind, reason, message) }

// container adds an event about one container; an empty name means the pod.
func (t *teller) container(name, kind, reason, message string) {
	t.events = append(t.events, Event{
		Key: t.key, UID: t.pod.UID, FieldPath: fieldPath(t.pod, name),
		Type: kind, Reason: reason, Message: message, At: t.at,
	})
}

// fieldPath names a container within its pod.
func fieldPath(pod *v1.Pod, name string) string {
	if name == "" {
		return ""
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return "spec.initContainers{" + name + "}"
		}
	}
	for _, c := range ephemeralContainers(pod) {
		if c.Name == name {
			return "spec.ephemeralContainers{" + name + "}"
		}
	}
	return "spec.containers{" + name + "}"
}

func isStarting(o Observed, name, id string) bool {
	s := o.Containers[name].Starting
	return s != nil && s.ID == id
}

func (t *teller) begun(before Observed, a Action) {
	switch a := a.(type) {
	case EnsureSandbox:
		if a.Attempt > 0 && before.Sandbox.Retry.Failures == 0 {
			t.whole(v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
		}
	case StopContainer:
		if r := before.Containers[a.Container].Running; r != nil && r.Stop == nil && r.PreStop == nil {
			t.container(a.Container, v1.EventTypeNormal, "Killing", killingMessage(t.pod, before, a.Container, a.Reason))
		}
	case RunHook:
		if r := before.Containers[a.Container].Running; a.Kind == PreStop && r != nil && r.PreStop == nil {
			t.container(a.Container, v1.EventTypeNormal, "Killing", killingMessage(t.pod, before, a.Container, a.Reason))
		}
	case DestroySandbox:
		if before.anyRunning() {
			t.whole(v1.EventTypeWarning, "ExceededGracePeriod",
				"Container runtime did not kill the pod within specified grace period.")
		}
	}
}

// killingMessage says why a running container is stopped.
func killingMessage(pod *v1.Pod, o Observed, name string, reason StopReason) string {
	if reason == StopChanged {
		return changedMessage(pod, o, name)
	}
	r := o.Containers[name].Running
	probe := ""
	switch {
	case o.Ending != nil || finished(pod, o):
	case o.RestartAll != nil:
		return restartingAllMessage(name, o.RestartAll.Container)
	case r.postStartFailed() != "":
		return reasonFailedPostStartHook
	case r.Startup == VerdictFailure:
		probe = "startup"
	case r.Liveness == VerdictFailure:
		probe = "liveness"
	}
	if probe == "" {
		return "Stopping container " + name
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return fmt.Sprintf("Init container %s failed %s probe", name, probe)
		}
	}
	message := fmt.Sprintf("Container %s failed %s probe", name, probe)
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if c.Name == name && restarts(pod, c, Exit{Stopped: StopLiveness}) {
			message += ", will be restarted"
		}
	}
	return message
}

func (t *teller) started(name string) {
	t.container(name, v1.EventTypeNormal, "Created", "Container created")
	t.container(name, v1.EventTypeNormal, "Started", "Container started")
}

// backOff tells that a container that exited has to wait.
func (t *teller) backOff(after Observed, name string) {
	c := after.Containers[name]
	if after.Ending != nil || c.Exit == nil || !t.at.Before(restartAt(c)) {
		return
	}
	s := reporter{pod: t.pod, o: after, now: t.at}
	for _, spec := range allContainers(t.pod) {
		if spec.Name == name && s.again(spec, c) {
			t.container(name, v1.EventTypeWarning, "BackOff",
				fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", name, t.pod.Name, t.pod.Namespace, t.pod.UID))
		}
	}
}

func (t *teller) sandboxFailed(reason, message string) {
	if reason == reasonFailedCreatePodSandBox {
		message = "Failed to create pod sandbox: " + message
	}
	t.whole(v1.EventTypeWarning, reason, message)
}

const reasonFailedCreatePodSandBox = "FailedCreatePodSandBox"

// mountMessage names the volume that could not be set up; an empty name means
// that it is not known which.
func mountMessage(volume, message string) string {
	if volume == "" {
		return "Unable to attach or mount volumes: " + message
	}
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %s", volume, message)
}

func pulledMessage(f ImageReady) string {
	if !f.Pulled {
		return fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", f.Image)
	}
	return fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		f.Image, f.Took.Truncate(time.Millisecond), f.Waited.Truncate(time.Millisecond), f.Size)
}

func (t *teller) imageFailed(name, image, reason, message string) {
	switch reason {
	case reasonErrImagePull:
		t.container(name, v1.EventTypeWarning, reasonFailed, fmt.Sprintf("Failed to pull image %q: %s", image, message))
	case "ErrImageNeverPull":
		t.container(name, v1.EventTypeWarning, reason,
			fmt.Sprintf("Container image %q is not present with pull policy of Never", image))
	case "InvalidImageName", "ImageInspectError":
		t.container(name, v1.EventTypeWarning, "InspectFailed", message)
	default:
		t.container(name, v1.EventTypeWarning, reasonFailed, message)
	}
	t.container(name, v1.EventTypeWarning, reasonFailed, "Error: "+reason)
	if reason == reasonErrImagePull {
		t.container(name, v1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", image))
		t.container(name, v1.EventTypeWarning, reasonFailed, "Error: "+reasonImagePullBackOff)
	}
}

// hookDone tells of a hook that failed. Why stays out of the event: what a hook
// says may be secret. The status of the container tells it.
func (t *teller) hookDone(f HookDone) {
	switch {
	case f.Failure == "":
	case f.Kind == PostStart:
		t.container(f.Container, v1.EventTypeWarning, reasonFailedPostStartHook, "PostStartHook failed")
	default:
		t.container(f.Container, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}

const reasonFailedPostStartHook = "FailedPostStartHook"

func (t *teller) probed(f ProbeResult) {
	switch f.Outcome {
	case ProbeFailed:
		t.container(f.Container, v1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", f.Kind, f.Output))
	case ProbeErrored:
		t.container(f.Container, v1.EventTypeWarning, "Unhealthy",
			fmt.Sprintf("%s probe errored and resulted in %s state: %s", f.Kind, f.Outcome, f.Output))
	case ProbeInconclusive:
		t.container(f.Container, v1.EventTypeWarning, "ProbeInconclusive",
			fmt.Sprintf("%s probe does not count: %s: %s", f.Kind, f.Excuse, f.Output))
	case ProbeWarned:
		t.container(f.Container, v1.EventTypeWarning, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", f.Kind, f.Output))
	}
}

// actionFailed tells of failures that have no fact of their own. What was
// called off because the pod ends is no failure.
func (t *teller) actionFailed(f ActionFailed) {
	switch f.Action.(type) {
	case DestroySandbox, RemovePod, StopContainer:
		t.whole(v1.EventTypeWarning, reasonFailedKillPod, "error killing pod: "+f.Err)
		return
	}
	if f.CalledOff {
		return
	}
	switch a := f.Action.(type) {
	case EnsureVolumes, RefreshVolumes:
		t.whole(v1.EventTypeWarning, reasonFailedMount, mountMessage("", f.Err))
	case EnsureSandbox:
		t.sandboxFailed(reasonFailedCreatePodSandBox, f.Err)
	case EnsureImage:
		t.imageFailed(a.Container, a.Image, reasonErrImagePull, f.Err)
	case StartContainer:
		t.container(a.Container, v1.EventTypeWarning, reasonFailed, "Error: "+f.Err)
	}
}
