package pod

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// conditions lists the pod's conditions in the kubelet's order. Those of shown
// that are not ours come first and stay as they are.
func (s reporter) conditions(status *v1.PodStatus, shown []v1.PodCondition) []v1.PodCondition {
	shown = s.withGates(shown)
	ready := s.containersReady(status)
	containersReady := ready
	containersReady.Type = v1.ContainersReady
	if ready.Status == v1.ConditionTrue {
		ready = s.gated(shown)
	}
	if end, is := s.terminating(); is && ready.Status == v1.ConditionTrue {
		ready = end
	}
	ready.Type = v1.PodReady
	ours := append(s.resizeConditions(),
		v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: truth(s.o.Sandbox.Phase == SandboxRunning)},
		s.initializedCondition(status),
		ready,
		containersReady,
		v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	)
	if c, has := s.restartingAllCondition(); has {
		ours = append(ours, c)
	}
	var all []v1.PodCondition
	for _, c := range shown {
		if !isResizeCondition(c.Type) && !slices.ContainsFunc(ours, func(o v1.PodCondition) bool { return o.Type == c.Type }) {
			all = append(all, c)
		}
	}
	for _, c := range ours {
		c.ObservedGeneration = s.generation
		c.LastTransitionTime = seconds(s.now)
		if old := condition(shown, c.Type); old != nil && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		all = append(all, c)
	}
	return all
}

// ownConditions are the agent's; all others belong to who sets them.
var ownConditions = []v1.PodConditionType{
	v1.PodResizePending, v1.PodResizeInProgress, v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady,
	v1.ContainersReady, v1.PodScheduled, v1.AllContainersRestarting,
}

// setConditions is [Manager.SetConditions] for one pod.
func (w *worker) setConditions(conditions []v1.PodCondition) error {
	w.conditions = WithConditions(w.conditions, conditions)
	return nil
}

// WithConditions returns the conditions of a pod with those of set that are not the
// agent's own in place of all others that are not.
func WithConditions(shown, set []v1.PodCondition) []v1.PodCondition {
	own := func(c v1.PodCondition) bool { return slices.Contains(ownConditions, c.Type) }
	all := slices.DeleteFunc(slices.Clone(set), own)
	for _, c := range shown {
		if own(c) {
			all = append(all, c)
		}
	}
	return all
}

func condition(all []v1.PodCondition, kind v1.PodConditionType) *v1.PodCondition {
	for i := range all {
		if all[i].Type == kind {
			return &all[i]
		}
	}
	return nil
}

func truth(b bool) v1.ConditionStatus {
	if b {
		return v1.ConditionTrue
	}
	return v1.ConditionFalse
}

// initializedCondition is true once all init work was done.
func (s reporter) initializedCondition(status *v1.PodStatus) v1.PodCondition {
	done := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if status.Phase == v1.PodSucceeded {
		done.Reason = "PodCompleted"
		return done
	}
	for i := range s.pod.Spec.Containers {
		if s.o.Containers[s.pod.Spec.Containers[i].Name].Tried {
			return done
		}
	}
	var incomplete []string
	for i := range s.pod.Spec.InitContainers {
		c := &s.pod.Spec.InitContainers[i]
		state := s.o.Containers[c.Name]
		switch {
		case isSidecar(c) && started(c, state), !isSidecar(c) && state.Exit != nil && state.Exit.succeeded():
		default:
			incomplete = append(incomplete, c.Name)
		}
	}
	if len(incomplete) == 0 {
		return done
	}
	return v1.PodCondition{
		Type: v1.PodInitialized, Status: v1.ConditionFalse,
		Reason: "ContainersNotInitialized", Message: containersWith("incomplete", incomplete),
	}
}

// containersReady says whether all regular containers and sidecars are ready.
func (s reporter) containersReady(status *v1.PodStatus) v1.PodCondition {
	switch status.Phase {
	case v1.PodSucceeded:
		return v1.PodCondition{Status: v1.ConditionFalse, Reason: "PodCompleted"}
	case v1.PodFailed:
		return v1.PodCondition{Status: v1.ConditionFalse, Reason: "PodFailed"}
	}
	var unready []string
	for _, c := range allContainers(s.pod) {
		if isInit(s.pod, c) && !isSidecar(c) {
			continue
		}
		if !ready(c, s.o.Containers[c.Name]) {
			unready = append(unready, c.Name)
		}
	}
	if len(unready) == 0 {
		return v1.PodCondition{Status: v1.ConditionTrue}
	}
	return v1.PodCondition{
		Status: v1.ConditionFalse, Reason: "ContainersNotReady", Message: containersWith("unready", unready),
	}
}

// gated says whether the pod's readiness gates allow what its containers are ready for.
func (s reporter) gated(shown []v1.PodCondition) v1.PodCondition {
	var missing []string
	for _, gate := range s.pod.Spec.ReadinessGates {
		switch c := condition(shown, gate.ConditionType); {
		case c == nil:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case c.Status != v1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
		}
	}
	if len(missing) == 0 {
		return v1.PodCondition{Status: v1.ConditionTrue}
	}
	return v1.PodCondition{Status: v1.ConditionFalse, Reason: "ReadinessGatesNotReady", Message: strings.Join(missing, ", ")}
}

// containersWith is the kubelet's list of containers that keep a condition false.
func containersWith(word string, names []string) string {
	return fmt.Sprintf("containers with %s status: %s", word, names)
}
