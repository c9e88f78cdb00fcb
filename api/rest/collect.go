package rest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"podd/api/objects"
)

// collectorName is by what events tell who reports them.
const collectorName = "garbage-collector-controller"

// collector deletes what nobody owns any more. It belongs to one goroutine of
// [Server.Run].
type collector struct {
	*Server
	// told are the references that an event was recorded of already, by the UIDs of
	// dependent and owner.
	told map[[2]types.UID]bool
}

// collectAll looks through everything each time it is woken, until ctx ends. It owns
// nothing: what there is to do follows from the store alone.
func (s *Server) collectAll(ctx context.Context, wake <-chan struct{}) {
	if s.Settled != nil && s.Settled(ctx) != nil {
		return
	}
	c := &collector{Server: s, told: map[[2]types.UID]bool{}}
	for {
		var again <-chan time.Time
		if err := c.collect(); err != nil {
			s.Log.Error(err, "Cannot delete what nobody owns any more")
			again = time.After(namespaceRetry)
		}
		select {
		case <-wake:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// concernsOwners tells whether a change can make something to do for the collector:
// what vanishes may have been an owner or have blocked one, and what has owners or
// stays for dependents may have got them; claims stay for pods, and volumes for claims.
func concernsOwners(e objects.Event) bool {
	o := e.Object
	if _, is := o.(*v1.Event); is {
		return false
	}
	if hasEnded(o) && (e.Old == nil || !hasEnded(e.Old)) { // a claim may wait for it
		return true
	}
	switch o.(type) {
	case *v1.PersistentVolumeClaim, *v1.PersistentVolume:
		if o.GetDeletionTimestamp() != nil { // what held it may have gone in between, or goes with this change
			return true
		}
	}
	waits := awaits(o, metav1.FinalizerDeleteDependents) || awaits(o, metav1.FinalizerOrphanDependents)
	switch {
	case e.Type == watch.Deleted:
		return true
	case e.Old == nil:
		return waits || len(o.GetOwnerReferences()) > 0
	case !slices.EqualFunc(o.GetOwnerReferences(), e.Old.GetOwnerReferences(), sameOwner):
		return true
	}
	return waits && (e.Old.GetDeletionTimestamp() == nil || !slices.Equal(o.GetFinalizers(), e.Old.GetFinalizers()))
}

// sameOwner compares two references without a look at their type: the node's lease,
// which has an owner, changes every ten seconds.
func sameOwner(a, b metav1.OwnerReference) bool {
	is := func(b *bool) bool { return b != nil && *b }
	return a.UID == b.UID && a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name &&
		is(a.Controller) == is(b.Controller) && is(a.BlockOwnerDeletion) == is(b.BlockOwnerDeletion)
}

// collect does what can be done now. What becomes possible by that wakes it again.
func (c *collector) collect() error {
	g := c.ownership()
	var failed []error
	for _, m := range g.awaiting {
		failed = append(failed, c.release(g, m))
	}
	for _, m := range g.remaining {
		failed = append(failed, c.change(m, func(objects.Object) {})) // it goes if nothing holds it any more
	}
	still := map[[2]types.UID]bool{}
	for _, m := range g.owned {
		c.tell(m, still)
		failed = append(failed, c.collectOne(g, m))
	}
	c.told = still
	return errors.Join(failed...)
}

// release lets an object go that stayed for its dependents, once it may.
func (c *collector) release(g *ownership, m member) error {
	if awaits(m, metav1.FinalizerOrphanDependents) {
		if err := c.orphan(g, m.GetUID()); err != nil {
			return err
		}
		return c.unfinalize(m, metav1.FinalizerOrphanDependents)
	}
	if len(g.blocking(m)) > 0 {
		return nil
	}
	return c.unfinalize(m, metav1.FinalizerDeleteDependents)
}

// unfinalize takes a finalizer from an object that is being deleted.
func (s *Server) unfinalize(m member, finalizer string) error {
	return s.change(m, func(o objects.Object) { o.SetFinalizers(withoutFinalizers(o, finalizer)) })
}

// change changes an object if it is still there; one that nothing holds any more goes.
func (s *Server) change(m member, f func(o objects.Object)) error {
	_, err := s.put(m.key(), func(old objects.Object) (objects.Object, error) {
		if old == nil || old.GetUID() != m.GetUID() {
			return old, nil
		}
		o := old.DeepCopyObject().(objects.Object)
		if f(o); m.kind.unfinalized(o) {
			return nil, nil
		}
		return o, nil
	})
	return err
}

// orphan makes nobody depend on an owner any more.
func (s *Server) orphan(g *ownership, owner types.UID) error {
	var failed []error
	for _, m := range g.by[owner] {
		failed = append(failed, s.disown(m, owner))
	}
	return errors.Join(failed...)
}

// disown takes the references to some owners from an object.
func (s *Server) disown(m member, owners ...types.UID) error {
	return s.change(m, func(o objects.Object) {
		o.SetOwnerReferences(slices.DeleteFunc(o.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
			return slices.Contains(owners, ref.UID)
		}))
	})
}

// collectOne does what has to be done about one object that has owners.
func (c *collector) collectOne(g *ownership, m member) error {
	if m.GetDeletionTimestamp() != nil {
		return nil
	}
	owners := c.owners(m)
	lost := slices.Concat(owners.gone, owners.waiting)
	switch {
	case owners.unknown || len(lost) == 0:
		return nil
	case len(owners.solid) > 0:
		return c.disown(m, lost...)
	}
	options := &metav1.DeleteOptions{}
	if len(owners.waiting) > 0 {
		if inner := g.by[m.GetUID()]; len(inner) > 0 {
			options.PropagationPolicy = new(metav1.DeletePropagationForeground)
			if slices.ContainsFunc(inner, func(d member) bool { return awaits(d, metav1.FinalizerDeleteDependents) }) {
				// Perhaps a circle: each would wait for the other.
				if err := c.change(m, unblock); err != nil {
					return err
				}
			}
		}
	}
	return c.deleteOwned(m, options)
}

// unblock makes no owner wait for an object.
func unblock(o objects.Object) {
	refs := o.GetOwnerReferences()
	for i := range refs {
		refs[i].BlockOwnerDeletion = new(false)
	}
	o.SetOwnerReferences(refs)
}

// errOtherOwners is that an object got other owners meanwhile: that wakes the
// collector once more.
var errOtherOwners = errors.New("it has other owners by now")

func (c *collector) deleteOwned(m member, options *metav1.DeleteOptions) error {
	_, _, err := c.delete(m.kind, m.key(), options, func(now objects.Object) error {
		if now.GetUID() != m.GetUID() || !sameOwners(now, m) {
			return errOtherOwners
		}
		return nil
	})
	switch {
	case errors.Is(err, errOtherOwners), apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", m.key(), err)
	}
	c.Log.V(1).Info("Deleted what nobody owns any more", "object", m.key().String())
	return nil
}

// sameOwners compares who is named, and not whether they wait.
func sameOwners(a, b metav1.Object) bool {
	return slices.EqualFunc(a.GetOwnerReferences(), b.GetOwnerReferences(), func(a, b metav1.OwnerReference) bool { return a.UID == b.UID })
}

// tell records an event of each reference to an owner that lies in another namespace
// than it must, in Kubernetes' words; still gets what was told, so that it is told once.
func (c *collector) tell(m member, still map[[2]types.UID]bool) {
	for _, ref := range m.GetOwnerReferences() {
		if !c.misplaced(m, ref) {
			continue
		}
		pair := [2]types.UID{m.GetUID(), ref.UID}
		if still[pair] = true; !c.told[pair] && c.Event != nil {
			c.Event(ownerEvent(m, "OwnerRefInvalidNamespace", fmt.Sprintf("ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
				ref.APIVersion, ref.Kind, m.GetNamespace(), ref.Name, ref.UID, m.GetNamespace())))
		}
	}
}

// misplaced says that an owner is in another namespace than its dependent.
func (c *collector) misplaced(m member, ref metav1.OwnerReference) bool {
	k := c.kindOf(ref)
	if k == nil || !k.Namespaced || m.GetNamespace() == "" {
		return k != nil && k.Namespaced
	}
	if o, _ := c.owner(m, ref); o != nil {
		return false
	}
	all, _ := c.Store.List(k.stored(), "")
	return slices.ContainsFunc(all, func(o objects.Object) bool { return o.GetUID() == ref.UID })
}

// ownerEvent is an event about an object with owners.
func ownerEvent(m member, reason, message string) *v1.Event {
	now := metav1.Now()
	kind := m.kind.GroupVersionKind()
	namespace := m.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	name := m.GetName()
	return &v1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", name, now.UnixNano()), CreationTimestamp: now},
		InvolvedObject: v1.ObjectReference{
			APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Namespace: m.GetNamespace(), Name: name, UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(),
		},
		Type: v1.EventTypeWarning, Reason: reason, Message: message, FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source: v1.EventSource{Component: collectorName}, ReportingController: collectorName,
	}
}
