package pod

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// ephemeralContainers are the containers that were added to a pod that runs, as
// containers: their fields are a container's, but for the target.
func ephemeralContainers(pod *v1.Pod) []*v1.Container {
	var all []*v1.Container
	for i := range pod.Spec.EphemeralContainers {
		all = append(all, (*v1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return all
}

// Debug adds an ephemeral container to a pod. It shares the pod's namespaces, and
// with a target that container's processes. It is started once, never again, and ends
// with the pod. It returns as soon as the pod knows of it; [ErrNotFound] where there
// is no such pod.
func (m *Manager) Debug(ctx context.Context, key Key, c v1.EphemeralContainer) error {
	return m.ask(ctx, key, func(w *worker) error { return w.addEphemeral(c) })
}

// addEphemeral takes an ephemeral container into the pod's spec, as Kubernetes
// does. The record keeps it, with the manifest.
func (w *worker) addEphemeral(c v1.EphemeralContainer) error {
	pod := w.desired.Pod
	named := func(name string) bool {
		return containerNamed(pod, name) != nil
	}
	switch {
	case w.observed.Ending != nil || finished(pod, w.observed):
		return fmt.Errorf("cannot add a container to pod %s: it has ended or is ending", w.desired.Key)
	case len(validation.IsDNS1123Label(c.Name)) > 0:
		return fmt.Errorf("cannot add a container named %q: expected lower-case letters, digits and '-', at most 63", c.Name)
	case named(c.Name) || slices.ContainsFunc(ephemeralContainers(pod), func(e *v1.Container) bool { return e.Name == c.Name }):
		return fmt.Errorf("pod %s has a container %s already", w.desired.Key, c.Name)
	case c.Image == "":
		return fmt.Errorf("cannot add container %s without an image", c.Name)
	case c.TargetContainerName != "" && !named(c.TargetContainerName):
		return fmt.Errorf("pod %s has no container %s to target", w.desired.Key, c.TargetContainerName)
	}
	c.ImagePullPolicy = cmp.Or(c.ImagePullPolicy, v1.PullIfNotPresent)
	c.TerminationMessagePath = cmp.Or(c.TerminationMessagePath, v1.TerminationMessagePathDefault)
	c.TerminationMessagePolicy = cmp.Or(c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
	d := w.desired
	d.Pod = pod.DeepCopy()
	d.Pod.Spec.EphemeralContainers = append(d.Pod.Spec.EphemeralContainers, c)
	d.Pod.Generation++
	w.desired = d
	return nil
}

// withAdded returns the ephemeral containers that a pod has, and those of more that
// it does not have yet.
func withAdded(has, more []v1.EphemeralContainer) []v1.EphemeralContainer {
	for _, c := range more {
		if !slices.ContainsFunc(has, func(h v1.EphemeralContainer) bool { return h.Name == c.Name }) {
			has = append(slices.Clip(has), c)
		}
	}
	return has
}

// startEphemeral starts the ephemeral containers of which no start was tried, in
// any phase of the pod. One with a target waits for that to run.
// Source: kubelet, pkg/kubelet/kuberuntime/kuberuntime_manager.go, computePodActions.
func (p *planner) startEphemeral() {
	for i, c := range ephemeralContainers(p.pod) {
		if p.o.Containers[c.Name].Tried {
			continue
		}
		target := p.pod.Spec.EphemeralContainers[i].TargetContainerName
		if target == "" {
			p.start(c)
		} else if r := p.o.Containers[target].Running; r != nil {
			p.target = r.ID
			p.start(c)
			p.target = ""
		}
	}
}

// ephemeral is one ephemeral container's status. It is never ready and never
// waits for another start.
func (s reporter) ephemeral(c *v1.Container) v1.ContainerStatus {
	state := s.o.Containers[c.Name]
	exit := cmp.Or(state.Exit, state.Last)
	if state.Running == nil && state.Starting == nil && exit != nil {
		return v1.ContainerStatus{
			Name: c.Name, Image: cmp.Or(state.Made.Ref, state.Image.Ref, c.Image), ImageID: cmp.Or(state.Made.ID, state.Image.ID),
			ContainerID: containerID(exit.ID), User: userStatus(state.Made), State: v1.ContainerState{Terminated: terminated(exit)},
		}
	}
	status := s.container(c, false)
	status.Ready, status.Started, status.AllocatedResources, status.Resources = false, nil, nil, nil
	return status
}
