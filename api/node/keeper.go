package node

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/objects"
)

// The kubelet's times.
// Source: Kubernetes docs, "Node Status", heartbeats.
const (
	looked        = 10 * time.Second // between two looks at the machine, and two renewals of the lease
	told          = 5 * time.Minute  // until the Node tells that nothing has changed
	leaseDuration = 40 * time.Second
)

// LeaseNamespace is where nodes have their leases.
const LeaseNamespace = "kube-node-lease"

// Resources that a Keeper writes, and the one that it counts its events by.
var (
	Nodes  = schema.GroupResource{Resource: "nodes"}
	Leases = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	events = schema.GroupResource{Resource: "events"}
)

// Keeper keeps the Node and its Lease in the store.
type Keeper struct {
	Store *objects.Store
	Facts Facts
	// Look measures the machine; it is called every ten seconds.
	Look func(context.Context) (Load, error)
	// Event records an event as it is now; it returns at once. nil: nobody is told.
	Event  func(*v1.Event)
	Logger logr.Logger

	states map[v1.NodeConditionType]string // that were told, that of taking pods under ""; Run's own
}

// Run keeps both until ctx ends. The first Node is there before Run waits.
func (k *Keeper) Run(ctx context.Context) {
	ticker := time.NewTicker(looked)
	defer ticker.Stop()
	failing := false
	for {
		load, err := k.Look(ctx)
		if err == nil {
			err = k.show(load, time.Now())
		}
		if err != nil && ctx.Err() == nil && !failing {
			k.Logger.Error(err, "the Node is not up to date")
		}
		failing = err != nil
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// show puts the Node and its Lease into the store.
func (k *Keeper) show(load Load, now time.Time) error {
	stored, err := k.Store.Update(objects.Key{Resource: Nodes, Name: k.Facts.Name}, func(old objects.Object) (objects.Object, error) {
		present, _ := old.(*v1.Node)
		n := Describe(present, k.Facts, load, now)
		if present == nil || present.UID == "" {
			n.UID = k.uid(Nodes)
		} else if !differs(present, n) && now.Sub(heartbeat(present)) < told {
			return present, nil
		}
		return n, nil
	})
	if err != nil {
		return err
	}
	k.tellState(stored.(*v1.Node), now)
	_, err = k.Store.Renew(objects.Key{Resource: Leases, Namespace: LeaseNamespace, Name: k.Facts.Name}, func(old objects.Object) (objects.Object, error) {
		lease := &coordination.Lease{ObjectMeta: metav1.ObjectMeta{
			Namespace: LeaseNamespace, Name: k.Facts.Name, UID: k.uid(Leases), CreationTimestamp: metav1.NewTime(now).Rfc3339Copy(),
		}}
		if present, found := old.(*coordination.Lease); found {
			lease = present.DeepCopy()
		}
		seconds, renewed := int32(leaseDuration.Seconds()), metav1.NewMicroTime(now)
		lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &k.Facts.Name, &seconds, &renewed
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: k.Facts.Name, UID: stored.GetUID()}}
		return lease, nil
	})
	return err
}

// uid is the same whenever the agent of this node is started.
func (k *Keeper) uid(of schema.GroupResource) types.UID {
	return objects.NamedUID(of.String(), k.Facts.MachineID, k.Facts.Name)
}

// heartbeat is when the Node was last told of.
func heartbeat(n *v1.Node) time.Time {
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.LastHeartbeatTime.Time
		}
	}
	return time.Time{}
}
