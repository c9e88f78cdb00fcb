package pod

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// ended says whether nothing runs any more of a pod that is being removed: its
// status is the last one.
func (s reporter) ended() bool {
	e := s.o.Ending
	return e != nil && e.Then == ThenRemove && (e.Destroyed || e.Removing || e.Removed) && !s.o.anyRunning()
}

const locatedMessage = "The container could not be located when the pod was terminated"

// finalise gives a pod that has ended its last status: every container is
// terminated, and the pod has succeeded or failed by their exit codes. Of the init
// containers that is said up to the last that ever started.
// Source: kubelet, pkg/kubelet/status/status_manager.go, TerminatePod.
func (s reporter) finalise(status *v1.PodStatus) {
	last := -1
	for i := range status.InitContainerStatuses {
		if s.o.Containers[status.InitContainerStatuses[i].Name].Tried {
			last = i
		}
	}
	for i := range status.InitContainerStatuses[:last+1] {
		s.terminate(&status.InitContainerStatuses[i])
	}
	status.Phase = v1.PodSucceeded
	for i := range status.ContainerStatuses {
		c := &status.ContainerStatuses[i]
		s.terminate(c)
		if c.State.Terminated.ExitCode != 0 {
			status.Phase = v1.PodFailed
		}
	}
	if s.o.Failure != nil {
		status.Phase = v1.PodFailed
	}
}

// terminate makes a container's last status that of one that has ended.
func (s reporter) terminate(c *v1.ContainerStatus) {
	if c.State.Terminated != nil {
		return
	}
	if e := s.o.Containers[c.Name].Exit; e != nil {
		c.State = v1.ContainerState{Terminated: terminated(e)}
		return
	}
	c.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		ExitCode: 137, Reason: reasonStatusUnknown, Message: locatedMessage,
	}}
}

// endHeldUp says what the end of a pod waits for that should be over; empty: it
// takes its time.
func (s reporter) endHeldUp() string {
	e, sandbox := s.o.Ending, s.o.Sandbox
	var late []string
	for _, name := range sortedNames(s.o.Containers) {
		if c := s.o.Containers[name]; c.Running != nil || c.Starting != nil {
			late = append(late, name)
		}
	}
	switch {
	case e.Retry.Failures > 0:
		return tries("cannot remove what is left of the pod", e.Retry)
	case sandbox.Retry.Failures > 0 && sandbox.Retry.At.After(e.Since):
		return tries("cannot end the pod's processes", sandbox.Retry)
	case len(late) > 0 && !s.now.Before(e.Deadline.Add(stopSlack)):
		return fmt.Sprintf("containers %s still run although the grace period ended at %s", late, e.Deadline.Format(time.TimeOnly))
	case len(late) == 0 && s.o.Volumes.Busy:
		return "waiting for volumes that are still being set up"
	}
	return ""
}

func tries(what string, r Retry) string {
	return fmt.Sprintf("%s: %s; it is tried again at least every %s (failures: %d)", what, r.Message, actionDelayMax, r.Failures)
}

// terminating is the condition Ready of a pod that is being ended: whatever its
// probes say, nobody shall send it anything any more.
func (s reporter) terminating() (ready v1.PodCondition, is bool) {
	if s.o.Ending == nil {
		return v1.PodCondition{}, false
	}
	return v1.PodCondition{Status: v1.ConditionFalse, Reason: "PodTerminating", Message: "the pod is being ended"}, true
}
