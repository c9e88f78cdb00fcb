package pod

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Resources are what each container of a pod, of either list, asks for and may
// use.
type Resources map[string]v1.ResourceRequirements

// ResizePod asks for other limits of the pod's control group and of those of
// running containers. A memory limit is not lowered below what is in use. Answer:
// [Resized] or [ResizeFailed].
type ResizePod struct {
	// Before is what the pod's control group was made for, After what it shall be.
	Before, After Resources
	// Containers are the IDs of the attempts to resize, by the container's name.
	Containers map[string]string
}

func (ResizePod) isAction() {}

// Resized answers [ResizePod].
type Resized struct {
	At
	ResizePod
}

// ResizeFailed answers [ResizePod]: nothing is wider or narrower than one of the
// two, and nothing was stopped.
type ResizeFailed struct {
	At
	ResizePod
	Message string
	// Infeasible says that this machine can never do it.
	Infeasible bool
}

// Resize is what is known about a resize that is not done.
type Resize struct {
	Busy bool `json:"-"` // a ResizePod is under way
	// Infeasible says that it is not tried again; Retry has the message.
	Infeasible bool  `json:"infeasible,omitempty"`
	Retry      Retry `json:"retry,omitzero"`
}

// resourcesOf are the resources that a manifest gives.
func resourcesOf(pod *v1.Pod) Resources {
	r := Resources{}
	for _, c := range allContainers(pod) {
		r[c.Name] = c.Resources
	}
	return r
}

// unequalResources says whether two requirements differ in what a control group
// or the scheduler would see.
func unequalResources(a, b v1.ResourceRequirements) bool {
	return !equality.Semantic.DeepEqual(a.Limits, b.Limits) || !equality.Semantic.DeepEqual(a.Requests, b.Requests)
}

// restartsToResize says whether a container's resizePolicy asks for a restart to
// get from what it was made of to what is wanted.
// Source: Kubernetes docs, "Resize CPU and Memory Resources assigned to Containers".
func restartsToResize(c *v1.Container, state Container) bool {
	if !state.toResize(c) {
		return false
	}
	made := state.Made.Resources
	for _, policy := range c.ResizePolicy {
		name := policy.ResourceName
		if policy.RestartPolicy == v1.RestartContainer &&
			(unequal(c.Resources.Limits, made.Limits, name) || unequal(c.Resources.Requests, made.Requests, name)) {
			return true
		}
	}
	return false
}

func unequal(a, b v1.ResourceList, name v1.ResourceName) bool {
	x, y := a[name], b[name]
	return x.Cmp(y) != 0
}

// resizing says whether the control groups of a pod that is up hold something
// else than its manifest asks for.
func resizing(pod *v1.Pod, o Observed) bool {
	if o.Sandbox.Phase != SandboxRunning || o.Sandbox.Resources == nil || o.Ending != nil {
		return false
	}
	for _, c := range allContainers(pod) {
		state := o.Containers[c.Name]
		if unequalResources(o.Sandbox.Resources[c.Name], c.Resources) || state.toResize(c) {
			return true
		}
	}
	return false
}

// toResize says whether a running attempt has other resources than wanted.
func (c Container) toResize(want *v1.Container) bool {
	return c.Running != nil && c.Made.Image != "" && unequalResources(c.Made.Resources, want.Resources)
}

// resize brings the running control groups to what the manifest asks for, once
// the containers that have to end for that have ended. It says whether starts are
// to wait: the pod's group is widened before a container needs the room.
func (p *planner) resize() (wait bool) {
	switch {
	case p.o.Resize.Busy:
		return true
	case p.o.Resize.Infeasible || !resizing(p.pod, p.o):
		return false
	}
	containers := map[string]string{}
	for _, c := range allContainers(p.pod) {
		state := p.o.Containers[c.Name]
		if state.Starting != nil && unequalResources(state.Made.Resources, c.Resources) {
			return true
		}
		if !state.toResize(c) {
			continue
		}
		ends := state.Running.Stop != nil || !p.isInit(c) || isSidecar(c)
		if ends && (state.Running.Stop != nil || restartsToResize(c, state) || state.definitionChanged(c)) {
			return true // it is made anew
		}
		containers[c.Name] = state.Running.ID
	}
	if !p.due(p.o.Resize.Retry.At) {
		return false
	}
	p.do(ResizePod{Before: p.o.Sandbox.Resources, After: resourcesOf(p.pod), Containers: containers})
	return true
}

// resized notes what the control groups hold now.
func resized(o Observed, f Resized) Observed {
	o.Resize = Resize{}
	o.Sandbox.Resources = f.After
	for name, id := range f.Containers {
		if c := o.Containers[name]; c.Running != nil && c.Running.ID == id {
			c.Made.Resources = f.After[name]
			o = o.with(name, c)
		}
	}
	return o
}

func resizeFailed(o Observed, f ResizeFailed) Observed {
	o.Resize = Resize{Infeasible: f.Infeasible, Retry: o.Resize.Retry.failed(f.Time, actionDelay, actionDelayMax, v1.PodReasonError, f.Message)}
	return o
}

// resizeConditions tell of a resize that is not done. Source: Kubernetes docs,
// "Resize CPU and Memory Resources assigned to Containers", pod resize status.
func (s reporter) resizeConditions() []v1.PodCondition {
	if !resizing(s.pod, s.o) {
		return nil
	}
	retry := s.o.Resize.Retry
	if s.o.Resize.Infeasible {
		return []v1.PodCondition{{
			Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: v1.PodReasonInfeasible, Message: retry.Message,
		}}
	}
	return []v1.PodCondition{{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue, Reason: retry.Reason, Message: retry.Message}}
}

// isResizeCondition says of a condition shown before that it is ours, also when it
// is not shown any more.
func isResizeCondition(t v1.PodConditionType) bool {
	return t == v1.PodResizePending || t == v1.PodResizeInProgress
}

// resizeEvents tell how a resize goes, in the kubelet's words.
func (t *teller) resizeEvents(before, after Observed, f Fact) {
	was, is := resizing(t.pod, before), resizing(t.pod, after)
	switch f := f.(type) {
	case Changed:
		if is && len(f.Resources) > 0 {
			t.whole(v1.EventTypeNormal, "ResizeStarted", "Pod resize started: "+resizeText(t.pod, ""))
		}
	case ResizeFailed:
		if f.Infeasible {
			t.whole(v1.EventTypeWarning, "ResizeInfeasible", "Pod resize infeasible: "+resizeText(t.pod, f.Message))
		} else {
			t.whole(v1.EventTypeWarning, "ResizeError", "Pod resize error: "+resizeText(t.pod, f.Message))
		}
	case Inspected, SandboxGone, SandboxLost:
		// What is gone was not resized.
	default:
		if was && !is && after.Ending == nil && after.Sandbox.Phase == SandboxRunning {
			t.whole(v1.EventTypeNormal, "ResizeCompleted", "Pod resize completed: "+resizeText(t.pod, ""))
		}
	}
}

// resizeText is what the kubelet says of a resize: all containers that have
// resources, as JSON.
func resizeText(pod *v1.Pod, problem string) string {
	type named struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	var all struct {
		Init       []named `json:"initContainers,omitempty"`
		Containers []named `json:"containers,omitempty"`
		Generation int64   `json:"generation,omitempty"`
		Error      string  `json:"error,omitempty"`
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) {
			all.Init = append(all.Init, named{c.Name, c.Resources})
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		all.Containers = append(all.Containers, named{c.Name, c.Resources})
	}
	all.Generation, all.Error = pod.Generation, problem
	data, err := json.Marshal(all)
	if err != nil {
		panic(fmt.Sprintf("pod: resources cannot be written: %v", err)) // they came from a manifest
	}
	return string(data)
}

// resize is [Manager.Resize] for one pod.
func (w *worker) resize(r Resources) error {
	if w.observed.Ending != nil || finished(w.desired.Pod, w.observed) {
		return fmt.Errorf("cannot resize pod %s: it has ended or is ending", w.desired.Key)
	}
	was := w.desired
	w.resized = maps.Clone(w.resized)
	if w.resized == nil {
		w.resized = Resources{}
	}
	maps.Copy(w.resized, r)
	w.setDesired(was)
	unhashed := was // whatever its hash says, this differs
	unhashed.SpecHash = ""
	if c := Compare(unhashed, w.desired); c.ofSpec() {
		w.nextGeneration()
		w.learn(Changed{At: At{time.Now()}, Resources: containersOf(c.Resources), Fields: c.Resources})
	}
	return nil
}

// With returns a pod that has these resources and is otherwise the same.
func (r Resources) With(pod *v1.Pod) *v1.Pod {
	p := *pod
	give := func(list []v1.Container) []v1.Container {
		all := make([]v1.Container, len(list))
		for i, c := range list {
			if given, known := r[c.Name]; known {
				c.Resources = given
			}
			all[i] = c
		}
		return all
	}
	p.Spec.InitContainers, p.Spec.Containers = give(pod.Spec.InitContainers), give(pod.Spec.Containers)
	return &p
}
