package declared

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"podd/pod"
	"podd/pod/manifest"
)

// The rules of a pod that is made or changed through the API. They are pure; what they
// refuse they refuse in the words of Kubernetes, as far as Kubernetes has the rule.
// Source: the Kubernetes API reference of Pod v1, and "Pod update and replacement" of
// its documentation.

// systemPriorities are the priority classes that every cluster has.
var systemPriorities = map[string]int32{
	"system-cluster-critical": 2_000_000_000,
	"system-node-critical":    2_000_001_000,
}

// defaultPod fills in what a client did not give.
func defaultPod(p *v1.Pod) {
	manifest.Default(p)
	admitted(&p.Spec)
}

// admitted fills in what Kubernetes' admission fills in for everybody. What s points to
// stays as it is.
func admitted(s *v1.PodSpec) {
	s.ServiceAccountName = cmp.Or(s.ServiceAccountName, "default")
	s.DeprecatedServiceAccount = s.ServiceAccountName
	if priority, known := systemPriorities[s.PriorityClassName]; s.Priority == nil && (known || s.PriorityClassName == "") {
		s.Priority = &priority
	}
	if s.PreemptionPolicy == nil && s.Priority != nil {
		s.PreemptionPolicy = new(v1.PreemptLowerPriority)
	}
}

// newPod takes from a pod that is made what a client cannot set.
func newPod(p *v1.Pod) {
	p.Status = v1.PodStatus{Phase: v1.PodPending, QOSClass: pod.QOSClass(p)}
}

// parsePod is what the loader says of a pod.
func parsePod(p *v1.Pod) (manifest.Result, error) {
	p = p.DeepCopy()
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	text, err := yaml.Marshal(p)
	if err != nil {
		return manifest.Result{}, err
	}
	return manifest.ParseObject(nameOf(p), text), nil
}

// checkNewPod are the mistakes of a pod that nobody made yet, beside those of
// [checkPod]. node is this node's name.
func checkNewPod(p *v1.Pod, node string) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if p.Spec.NodeName != "" && p.Spec.NodeName != node {
		errs = append(errs, field.Invalid(spec.Child("nodeName"), p.Spec.NodeName, fmt.Sprintf("there is one node here, %s", node)))
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}

const updateForbidden = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
	"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` " +
	"(allow it to be set to 1 if it was previously negative)"

// checkPodUpdate are the changes that a pod that exists does not take.
func checkPodUpdate(p, old *v1.Pod) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(spec.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	deadline := spec.Child("activeDeadlineSeconds")
	switch is, was := p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; {
	case was == nil:
	case is == nil:
		errs = append(errs, field.Invalid(deadline, is, "must not update from a positive integer to nil value"))
	case *is > *was:
		errs = append(errs, field.Invalid(deadline, *is, "must be less than or equal to previous value"))
	}
	for i, t := range old.Spec.Tolerations {
		if !slices.ContainsFunc(p.Spec.Tolerations, func(n v1.Toleration) bool { return sameToleration(n, t) }) {
			errs = append(errs, field.Forbidden(spec.Child("tolerations").Index(i), "existing toleration can not be modified except its tolerationSeconds"))
		}
	}
	if !fewerGates(p.Spec.SchedulingGates, old.Spec.SchedulingGates) {
		errs = append(errs, field.Forbidden(spec.Child("schedulingGates"), "only deletion is allowed, but found new scheduling gates"))
	}
	if len(errs) > 0 {
		return errs
	}
	allowed := p.DeepCopy()
	allowed.Spec.ActiveDeadlineSeconds, allowed.Spec.Tolerations, allowed.Spec.SchedulingGates =
		old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations, old.Spec.SchedulingGates
	for i := range allowed.Spec.Containers {
		allowed.Spec.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range allowed.Spec.InitContainers {
		allowed.Spec.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	if was, is := old.Spec.TerminationGracePeriodSeconds, p.Spec.TerminationGracePeriodSeconds; was != nil && *was < 0 && is != nil && *is == 1 {
		allowed.Spec.TerminationGracePeriodSeconds = was
	}
	if len(old.Spec.SchedulingGates) > 0 { // it has no place yet
		allowed.Spec.NodeSelector, allowed.Spec.Affinity = old.Spec.NodeSelector, old.Spec.Affinity
	}
	if fields := changed(allowed, old); fields != "" {
		errs = append(errs, field.Forbidden(spec, updateForbidden+"\n"+fields))
	}
	return errs
}

func sameToleration(a, b v1.Toleration) bool {
	a.TolerationSeconds, b.TolerationSeconds = nil, nil
	return a == b
}

func fewerGates(is, was []v1.PodSchedulingGate) bool {
	return !slices.ContainsFunc(is, func(g v1.PodSchedulingGate) bool { return !slices.Contains(was, g) })
}

// changed lists what differs between two pods' specs, a line each.
func changed(p, old *v1.Pod) string {
	if equality.Semantic.DeepEqual(p.Spec, old.Spec) {
		return ""
	}
	with := func(q *v1.Pod) pod.Desired {
		c := &v1.Pod{Spec: q.Spec}
		return pod.Desired{Pod: c}
	}
	c := pod.Compare(with(old), with(p))
	var text string
	for _, f := range slices.Concat(c.Shown, c.Images, c.Resources, c.Recreate) {
		text += fmt.Sprintf("%s: from %s to %s\n", f.Path, cmp.Or(f.Before, "nothing"), cmp.Or(f.After, "nothing"))
	}
	return cmp.Or(text, "spec.ephemeralContainers\n")
}

// checkEphemeral are the changes that pods/ephemeralcontainers does not take: all but
// new containers, which have neither ports nor resources nor anything that restarts
// or looks after them.
func checkEphemeral(p, old *v1.Pod) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "ephemeralContainers")
	is := map[string]v1.EphemeralContainer{}
	for _, c := range p.Spec.EphemeralContainers {
		is[c.Name] = c
	}
	for _, was := range old.Spec.EphemeralContainers {
		now, found := is[was.Name]
		switch {
		case !found:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !equality.Semantic.DeepEqual(now, was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n", was.Name)))
		}
	}
	for i, c := range p.Spec.EphemeralContainers {
		if c.TargetContainerName != "" && containerOf(old, c.TargetContainerName) == nil {
			errs = append(errs, field.NotFound(path.Index(i).Child("targetContainerName"), c.TargetContainerName))
		}
		for _, given := range []struct {
			name string
			is   bool
		}{
			{"ports", len(c.Ports) > 0}, {"resources", !equality.Semantic.DeepEqual(c.Resources, v1.ResourceRequirements{})},
			{"resizePolicy", len(c.ResizePolicy) > 0}, {"restartPolicy", c.RestartPolicy != nil}, {"restartPolicyRules", len(c.RestartPolicyRules) > 0},
			{"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
			{"lifecycle", c.Lifecycle != nil},
		} {
			if given.is {
				errs = append(errs, field.Forbidden(path.Index(i).Child(given.name), "cannot be set for an Ephemeral Container"))
			}
		}
	}
	return errs
}

// withEphemeral is old with the ephemeral containers that a client wants.
func withEphemeral(p, old *v1.Pod) *v1.Pod {
	merged := old.DeepCopy()
	merged.Spec.EphemeralContainers = p.DeepCopy().Spec.EphemeralContainers
	manifest.Default(merged)
	return merged
}

func containerOf(p *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// withResources is old with the resources that a client wants for its containers.
func withResources(p, old *v1.Pod) *v1.Pod {
	merged := old.DeepCopy()
	for _, list := range [][]v1.Container{merged.Spec.InitContainers, merged.Spec.Containers} {
		for i := range list {
			if c := containerOf(p, list[i].Name); c != nil {
				list[i].Resources = *c.Resources.DeepCopy()
				list[i].ResizePolicy = slices.Clone(c.ResizePolicy)
			}
		}
	}
	return merged
}

// checkResize are the changes that pods/resize does not take: all but cpu and memory.
// sent is what the client sent, p what becomes of it.
func checkResize(p, old *v1.Pod) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
		return append(errs, field.Forbidden(field.NewPath("status", "phase"), "pod that has run to its end cannot be resized"))
	}
	if before, after := pod.QOSClass(old), pod.QOSClass(p); before != after {
		errs = append(errs, field.Invalid(spec, string(after), fmt.Sprintf("Pod QOS Class may not change as a result of resizing: it would be %s instead of %s", after, before)))
	}
	for list, name := range map[string]func(*v1.Pod) []v1.Container{
		"containers":     func(q *v1.Pod) []v1.Container { return q.Spec.Containers },
		"initContainers": func(q *v1.Pod) []v1.Container { return q.Spec.InitContainers },
	} {
		for i, c := range name(p) {
			was, at := name(old)[i], spec.Child(list).Index(i).Child("resources")
			if equality.Semantic.DeepEqual(was.Resources, c.Resources) {
				continue
			}
			if list == "initContainers" && (c.RestartPolicy == nil || *c.RestartPolicy != v1.ContainerRestartPolicyAlways) {
				errs = append(errs, field.Forbidden(at, "only sidecar containers can be resized"))
			}
			errs = append(errs, checkResized(c.Resources, was.Resources, at)...)
		}
	}
	return errs
}

func checkResized(is, was v1.ResourceRequirements, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, part := range []struct {
		name    string
		is, was v1.ResourceList
	}{{"limits", is.Limits, was.Limits}, {"requests", is.Requests, was.Requests}} {
		for name, q := range part.was {
			if _, still := part.is[name]; !still && (name == v1.ResourceCPU || name == v1.ResourceMemory) {
				errs = append(errs, field.Forbidden(at.Child(part.name), fmt.Sprintf("resource %s cannot be removed", name)))
			}
			if now, still := part.is[name]; name != v1.ResourceCPU && name != v1.ResourceMemory && (!still || now.Cmp(q) != 0) {
				errs = append(errs, field.Forbidden(at, "only cpu and memory resources are mutable"))
			}
		}
		for name := range part.is {
			if _, had := part.was[name]; !had && name != v1.ResourceCPU && name != v1.ResourceMemory {
				errs = append(errs, field.Forbidden(at, "only cpu and memory resources are mutable"))
			}
		}
	}
	if !equality.Semantic.DeepEqual(is.Claims, was.Claims) {
		errs = append(errs, field.Forbidden(at, "only cpu and memory resources are mutable"))
	}
	return errs
}

// graceOf is how many seconds the deletion of a pod takes, given what the client asked
// for. A pod that has no place, or has run to its end, goes at once.
// Source: Kubernetes API, DeleteOptions.gracePeriodSeconds.
func graceOf(p *v1.Pod, asked *int64) int64 {
	grace := int64(v1.DefaultTerminationGracePeriodSeconds)
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		grace = *s
	}
	if asked != nil {
		grace = *asked
	}
	switch {
	case p.Spec.NodeName == "" || p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed:
		return 0
	case grace < 0:
		return 1
	}
	return grace
}
