package declared

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/objects"
)

// handlers are the runtime handlers that this node has: its own, by two names.
var handlers = []string{"podd", "runc"}

// AdmitPod is what depends on other objects when a pod is made: its service account,
// whose imagePullSecrets it gets where it names none,
// its priority, its runtime class with the overhead, and its place on the node.
// Source: the admission plugins ServiceAccount, Priority and RuntimeClass.
func (k *Keeper) AdmitPod(p *v1.Pod) error {
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(podResource, p.Name, fmt.Errorf(format, args...))
	}
	account := objects.Key{Resource: serviceAccountResource, Namespace: p.Namespace, Name: p.Spec.ServiceAccountName}
	o, found := k.Store.Get(account)
	if !found && account.Name != "default" {
		return refuse("error looking up service account %s/%s: serviceaccount %q not found", account.Namespace, account.Name, account.Name)
	}
	if a, is := o.(*v1.ServiceAccount); is && len(p.Spec.ImagePullSecrets) == 0 {
		p.Spec.ImagePullSecrets = slices.Clone(a.ImagePullSecrets)
	}
	switch priority, known := systemPriorities[p.Spec.PriorityClassName]; {
	case p.Spec.PriorityClassName != "" && !known:
		return refuse("no PriorityClass with name %s was found", p.Spec.PriorityClassName)
	case p.Spec.Priority != nil && *p.Spec.Priority != priority:
		return refuse("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name",
			*p.Spec.Priority, priority)
	}
	if err := k.admitRuntimeClass(p, refuse); err != nil {
		return err
	}
	k.place(p)
	return nil
}

func (k *Keeper) admitRuntimeClass(p *v1.Pod, refuse func(string, ...any) error) error {
	name := p.Spec.RuntimeClassName
	if name == nil || *name == "" {
		if len(p.Spec.Overhead) > 0 {
			return refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
		}
		return nil
	}
	o, _ := k.Store.Get(objects.Key{Resource: runtimeClassResource, Name: *name})
	class, found := o.(*nodev1.RuntimeClass)
	if !found {
		return refuse("pod rejected: RuntimeClass %q not found", *name)
	}
	if !slices.Contains(handlers, class.Handler) {
		return refuse("pod rejected: RuntimeClass %q has the handler %q; this node has %v", *name, class.Handler, handlers)
	}
	var overhead v1.ResourceList
	if class.Overhead != nil {
		overhead = class.Overhead.PodFixed
	}
	if len(p.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(p.Spec.Overhead, overhead) {
		return refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	}
	p.Spec.Overhead = overhead.DeepCopy()
	return nil
}

// schedulable says that a pod waits for its place, and not for another scheduler.
func schedulable(p *v1.Pod) bool {
	return p.Spec.NodeName == "" && p.DeletionTimestamp == nil && p.Spec.SchedulerName == v1.DefaultSchedulerName
}

// place gives a pod its place on this node, or a condition that says why it has none.
func (k *Keeper) place(p *v1.Pod) {
	switch {
	case p.Spec.NodeName != "":
		scheduled(p, v1.ConditionTrue, "", "")
	case !schedulable(p):
	case len(p.Spec.SchedulingGates) > 0:
		scheduled(p, v1.ConditionFalse, v1.PodReasonSchedulingGated, "Scheduling is blocked due to non-empty scheduling gates")
	default:
		if why := misfits(p, k.node(), k.placed()); len(why) > 0 {
			scheduled(p, v1.ConditionFalse, v1.PodReasonUnschedulable, unschedulable(why))
			return
		}
		p.Spec.NodeName = k.Node
		scheduled(p, v1.ConditionTrue, "", "")
	}
}

func (k *Keeper) node() *v1.Node {
	o, _ := k.Store.Get(objects.Key{Resource: nodeResource, Name: k.Node})
	n, _ := o.(*v1.Node)
	return n
}

// placed are the pods that have their place and have not run to their end.
func (k *Keeper) placed() []*v1.Pod {
	stored, _ := k.Store.List(podResource, "")
	var pods []*v1.Pod
	for _, o := range stored {
		p := o.(*v1.Pod)
		if p.Spec.NodeName != "" && p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
			pods = append(pods, p)
		}
	}
	return pods
}

// scheduled sets the condition PodScheduled.
func scheduled(p *v1.Pod, status v1.ConditionStatus, reason, message string) {
	setCondition(p, v1.PodScheduled, status, reason, message)
}

// setCondition sets a condition; one that keeps its status keeps its time.
func setCondition(p *v1.Pod, kind v1.PodConditionType, status v1.ConditionStatus, reason, message string) {
	c := v1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)), ObservedGeneration: p.Generation}
	for i, old := range p.Status.Conditions {
		if old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			p.Status.Conditions[i] = c
			return
		}
	}
	p.Status.Conditions = append(p.Status.Conditions, c)
}

// tellPlace tells, as the scheduler's event, that a pod was given its place, or why it
// was not. was is nil for a new pod.
func (k *Keeper) tellPlace(was, is *v1.Pod) {
	kind, reason, message := v1.EventTypeNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s to %s", nameOf(is), is.Spec.NodeName)
	var before string
	if was != nil {
		before = unplaced(was)
	}
	switch {
	case is.Spec.NodeName == "":
		kind, reason, message = v1.EventTypeWarning, "FailedScheduling", unplaced(is)
		if message == "" || message == before {
			return
		}
	case was != nil && was.Spec.NodeName != "":
		return
	}
	now := metav1.Now()
	k.Event(&v1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: is.Namespace, Name: fmt.Sprintf("%s.%x", is.Name, now.UnixNano()), CreationTimestamp: now},
		InvolvedObject: v1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: is.Namespace, Name: is.Name, UID: is.UID,
		},
		Type: kind, Reason: reason, Message: message, FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source: v1.EventSource{Component: v1.DefaultSchedulerName}, ReportingController: v1.DefaultSchedulerName, ReportingInstance: k.Node,
	})
}

// unplaced is why a pod has no place.
func unplaced(p *v1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
			return c.Message
		}
	}
	return ""
}

// scheduleAll gives pods their place that had none, where there is room by now.
func (k *Keeper) scheduleAll() {
	stored, _ := k.Store.List(podResource, "")
	for _, o := range stored {
		if p := o.(*v1.Pod); !schedulable(p) {
			continue
		}
		k.scheduling.Lock()
		k.update(podKey(keyOf(o.(*v1.Pod))), func(old objects.Object) (objects.Object, error) {
			was, _ := old.(*v1.Pod)
			if was == nil || !schedulable(was) {
				return old, nil
			}
			is := was.DeepCopy()
			if k.place(is); equality.Semantic.DeepEqual(is, was) {
				return old, nil
			}
			return is, k.Persist(was, is)
		})
		k.scheduling.Unlock()
	}
}

// bind gives a pod its place because somebody says so.
func (k *Keeper) bind(p *v1.Pod, to v1.ObjectReference) error {
	switch {
	case to.Name == "":
		return apierrors.NewBadRequest("target.name: Required value")
	case to.Name != k.Node:
		return apierrors.NewConflict(podResource, p.Name, fmt.Errorf("there is no node %q here; this one is %q", to.Name, k.Node))
	}
	_, err := k.Store.Update(podKey(keyOf(p)), func(old objects.Object) (objects.Object, error) {
		was, _ := old.(*v1.Pod)
		switch {
		case was == nil || was.UID != p.UID:
			return nil, apierrors.NewNotFound(podResource, p.Name)
		case was.DeletionTimestamp != nil:
			return nil, apierrors.NewConflict(podResource, p.Name, fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", p.Name))
		case was.Spec.NodeName != "":
			return nil, apierrors.NewConflict(podResource, p.Name, fmt.Errorf("pod %s is already assigned to node %q", p.Name, was.Spec.NodeName))
		case len(was.Spec.SchedulingGates) > 0:
			return nil, apierrors.NewConflict(podResource, p.Name, fmt.Errorf("pod %s has non-empty .spec.schedulingGates", p.Name))
		}
		is := was.DeepCopy()
		is.Spec.NodeName = k.Node
		scheduled(is, v1.ConditionTrue, "", "")
		return is, k.Persist(was, is)
	})
	return err
}
