package pod

import (
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// isSidecar says whether an init container is one that keeps running.
func isSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// ContainerNames lists a pod's containers: the init containers, the regular ones, and
// those added to it.
func ContainerNames(p *v1.Pod) []string {
	var names []string
	for _, c := range append(allContainers(p), ephemeralContainers(p)...) {
		names = append(names, c.Name)
	}
	return names
}

// allContainers lists init containers, then regular ones, in spec order.
func allContainers(pod *v1.Pod) []*v1.Container {
	all := make([]*v1.Container, 0, len(pod.Spec.InitContainers)+len(pod.Spec.Containers))
	for i := range pod.Spec.InitContainers {
		all = append(all, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		all = append(all, &pod.Spec.Containers[i])
	}
	return all
}

func sortedNames(containers map[string]Container) []string {
	return slices.Sorted(maps.Keys(containers))
}

// started says whether a container runs and has passed its postStart hook and
// its startup probe.
func started(c *v1.Container, state Container) bool {
	return up(c, state) && (c.StartupProbe == nil || state.Running.Startup == VerdictSuccess)
}

// ready says whether a container that keeps running is ready to serve.
func ready(c *v1.Container, state Container) bool {
	return started(c, state) && (c.ReadinessProbe == nil || state.Running.Readiness == VerdictSuccess)
}

// initDone says whether an init container has done its work in the given sandbox.
func initDone(state Container, sandbox string) bool {
	return state.Exit != nil && state.Exit.succeeded() && state.Sandbox == sandbox
}

// succeeded says of an init container's exit whether its work is done.
func (e *Exit) succeeded() bool { return e.Code == 0 && e.Reason != reasonOOMKilled }

// restarts says whether a regular container is started again after an exit.
// Source: Kubernetes docs, "Pod Lifecycle", restart policies and rules.
func restarts(pod *v1.Pod, c *v1.Container, e Exit) bool {
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = v1.RestartPolicy(*c.RestartPolicy)
	}
	if e.Stopped == StopChanged {
		return true // as the kubelet has it: what is wanted now has not run
	}
	if e.byProbe() {
		return policy != v1.RestartPolicyNever
	}
	if _, matched := ruleFor(c, e); matched {
		return true // alone or with all others
	}
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return e.Code != 0
	default:
		return true
	}
}

func matches(codes *v1.ContainerRestartRuleOnExitCodes, code int) bool {
	if codes == nil {
		return false
	}
	listed := slices.Contains(codes.Values, int32(code))
	switch codes.Operator {
	case v1.ContainerRestartRuleOnExitCodesOpIn:
		return listed
	case v1.ContainerRestartRuleOnExitCodesOpNotIn:
		return !listed
	default:
		return false
	}
}

// initFailed says whether an init container failed for good.
func initFailed(pod *v1.Pod, c *v1.Container, state Container) bool {
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = v1.RestartPolicy(*c.RestartPolicy)
	}
	if isSidecar(c) || policy != v1.RestartPolicyNever || state.Exit == nil || state.Starting != nil || state.Exit.succeeded() {
		return false
	}
	_, matched := ruleFor(c, *state.Exit)
	return !matched
}

// finished says whether no regular container will run again: the pod has
// succeeded or failed, whatever its sidecars do.
func finished(pod *v1.Pod, o Observed) bool {
	if o.Failure != nil {
		return true
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if initFailed(pod, c, o.Containers[c.Name]) {
			return true
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		state := o.Containers[c.Name]
		if state.Exit == nil || state.Starting != nil || restarts(pod, c, *state.Exit) {
			return false
		}
	}
	return len(pod.Spec.Containers) > 0
}

// finishedAt is when a finished pod finished.
func finishedAt(pod *v1.Pod, o Observed) time.Time {
	if o.Failure != nil {
		return o.Failure.At
	}
	var last time.Time
	for _, c := range allContainers(pod) {
		if e := o.Containers[c.Name].Exit; e != nil && !isSidecar(c) && e.FinishedAt.After(last) {
			last = e.FinishedAt
		}
	}
	return last
}

// podGrace is the pod's termination grace period.
func podGrace(pod *v1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return stopGrace
}

// endingGrace is what a whole pod gets to end when it is given grace: at least
// a second.
func endingGrace(grace time.Duration) time.Duration { return max(grace, time.Second) }

// probeGrace is the grace period of a container that failed a probe.
func probeGrace(pod *v1.Pod, probe *v1.Probe) time.Duration {
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		return time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	}
	return podGrace(pod)
}
