package node

import (
	"fmt"
	"hash/fnv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/objects"
)

// reporter is by what events of the node tell who reports them: it is what a
// kubelet says of itself.
const reporter = "kubelet"

// states are what an event says of a condition that is true, and of one that is not.
// Source: Kubernetes, pkg/kubelet/events.
var states = map[v1.NodeConditionType]map[v1.ConditionStatus]string{
	v1.NodeMemoryPressure: {v1.ConditionTrue: "NodeHasInsufficientMemory", v1.ConditionFalse: "NodeHasSufficientMemory"},
	v1.NodeDiskPressure:   {v1.ConditionTrue: "NodeHasDiskPressure", v1.ConditionFalse: "NodeHasNoDiskPressure"},
	v1.NodePIDPressure:    {v1.ConditionTrue: "NodeHasInsufficientPID", v1.ConditionFalse: "NodeHasSufficientPID"},
	v1.NodeReady:          {v1.ConditionTrue: "NodeReady"},
}

// tellState records an event for each state of the node that is another than the last
// time, and at first for all but that it takes pods.
func (k *Keeper) tellState(n *v1.Node, now time.Time) {
	if k.Event == nil {
		return
	}
	if k.states == nil {
		k.states = map[v1.NodeConditionType]string{"": "NodeSchedulable"}
		k.record(n, "Starting", "Starting kubelet.", now)
	}
	tell := func(of v1.NodeConditionType, state string) {
		if state != "" && k.states[of] != state {
			k.states[of] = state
			k.record(n, state, fmt.Sprintf("Node %s status is now: %s", n.Name, state), now)
		}
	}
	for _, c := range n.Status.Conditions {
		tell(c.Type, states[c.Type][c.Status])
	}
	if n.Spec.Unschedulable {
		tell("", "NodeNotSchedulable")
	} else {
		tell("", "NodeSchedulable")
	}
}

// record records an event of the node. One that is recorded already is counted.
func (k *Keeper) record(n *v1.Node, reason, message string, now time.Time) {
	digest := fnv.New64a()
	digest.Write([]byte(reason))
	at := metav1.NewTime(now)
	e := &v1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s.%x", n.Name, digest.Sum64()), CreationTimestamp: at},
		InvolvedObject: v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID},
		Type:           v1.EventTypeNormal, Reason: reason, Message: message, FirstTimestamp: at, LastTimestamp: at, Count: 1,
		Source: v1.EventSource{Component: reporter, Host: n.Name}, ReportingController: reporter, ReportingInstance: n.Name,
	}
	old, found := k.Store.Get(objects.Key{Resource: events, Namespace: e.Namespace, Name: e.Name})
	if was, is := old.(*v1.Event); found && is && was.InvolvedObject.UID == n.UID {
		e.UID, e.CreationTimestamp, e.FirstTimestamp, e.Count = was.UID, was.CreationTimestamp, was.FirstTimestamp, was.Count+1
	}
	k.Event(e)
}
