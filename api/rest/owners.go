package rest

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/objects"
)

// What a deletion does to an object's dependents, the objects whose ownerReferences
// name it, stands in its finalizers: foregroundDeletion, so that it stays until those
// that block it are gone, or orphan, so that it stays until nobody names it any more.
// Without either it goes, and what it owned goes after it. [Server.Run] does all this.
// Source: Kubernetes docs, "Garbage Collection", cascading deletion.

// eventResource is what owns nothing and is owned by nobody.
var eventResource = schema.GroupResource{Resource: "events"}

// propagated returns an object that is to be deleted with the finalizers that the
// options want, o itself if it has them. Options that say nothing of dependents leave
// what an earlier deletion, or the object's maker, wanted.
func (k *Kind) propagated(o objects.Object, options *metav1.DeleteOptions) objects.Object {
	if k.stored() == eventResource {
		return o
	}
	has := func(finalizer string) bool { return slices.Contains(o.GetFinalizers(), finalizer) }
	foreground, orphan := has(metav1.FinalizerDeleteDependents), has(metav1.FinalizerOrphanDependents)
	if policy := propagation(options); policy != "" {
		foreground, orphan = policy == metav1.DeletePropagationForeground, policy == metav1.DeletePropagationOrphan
	}
	if foreground == has(metav1.FinalizerDeleteDependents) && orphan == has(metav1.FinalizerOrphanDependents) {
		return o
	}
	finalizers := withoutFinalizers(o, metav1.FinalizerDeleteDependents, metav1.FinalizerOrphanDependents)
	if orphan {
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	o = o.DeepCopyObject().(objects.Object)
	o.SetFinalizers(finalizers)
	return o
}

// propagation is what a client wants of dependents, by the new option or the old one;
// "" if it says nothing.
func propagation(options *metav1.DeleteOptions) metav1.DeletionPropagation {
	switch {
	case options.PropagationPolicy != nil:
		return *options.PropagationPolicy
	case options.OrphanDependents == nil:
		return ""
	case *options.OrphanDependents:
		return metav1.DeletePropagationOrphan
	}
	return metav1.DeletePropagationBackground
}

func withoutFinalizers(o objects.Object, finalizers ...string) []string {
	return slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return slices.Contains(finalizers, f) })
}

// awaits says that an object is being deleted and stays for its dependents, for one
// of the two finalizers.
func awaits(o objects.Object, finalizer string) bool {
	return o.GetDeletionTimestamp() != nil && slices.Contains(o.GetFinalizers(), finalizer)
}

// member is an object that others can depend on, or that depends on others.
type member struct {
	objects.Object
	kind *Kind
}

func (m member) key() objects.Key { return m.kind.key(m.GetNamespace(), m.GetName()) }

// ownership is who depends on whom at one moment.
type ownership struct {
	owned     []member               // what has ownerReferences and is not a file's
	awaiting  []member               // what stays for its dependents
	remaining []member               // what is being deleted and may stay for other reasons than finalizers
	by        map[types.UID][]member // of each owner, its dependents
}

// ownership looks through everything that is stored.
func (s *Server) ownership() *ownership {
	g := &ownership{by: map[types.UID][]member{}}
	for _, res := range s.collectable() {
		k := s.stored(res)
		all, _ := s.Store.List(res, "")
		for _, o := range all {
			m := member{o, k}
			if awaits(o, metav1.FinalizerDeleteDependents) || awaits(o, metav1.FinalizerOrphanDependents) {
				g.awaiting = append(g.awaiting, m)
			}
			if k.Remains != nil && o.GetDeletionTimestamp() != nil {
				g.remaining = append(g.remaining, m)
			}
			refs := o.GetOwnerReferences()
			if len(refs) == 0 || s.DeclaredIn(o) != "" { // its file alone decides about it
				continue
			}
			g.owned = append(g.owned, m)
			for _, ref := range refs {
				g.by[ref.UID] = append(g.by[ref.UID], m)
			}
		}
	}
	return g
}

// collectable are the resources whose objects own and are owned.
func (s *Server) collectable() (all []schema.GroupResource) {
	for i := range s.Kinds {
		if k := &s.Kinds[i]; k.View == nil && k.Source == nil && k.GroupResource() != eventResource {
			all = append(all, k.GroupResource())
		}
	}
	return all
}

// blocking are the dependents for which an owner stays that is deleted in the
// foreground: those that say so.
func (g *ownership) blocking(owner member) (all []member) {
	for _, m := range g.by[owner.GetUID()] {
		if slices.ContainsFunc(m.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
			return ref.UID == owner.GetUID() && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
		}) {
			all = append(all, m)
		}
	}
	return all
}

// owners are an object's references, by what is known of the owners.
type owners struct {
	solid   []types.UID // they are there
	gone    []types.UID // there is none of that name, or another one
	waiting []types.UID // deleted in the foreground
	unknown bool        // of one nobody can say: its kind is not served or cannot own this, or it cannot be read
}

// owners looks for the owners of an object, each in the object's own namespace.
func (s *Server) owners(m member) (all owners) {
	for _, ref := range m.GetOwnerReferences() {
		switch owner, known := s.owner(m, ref); {
		case !known:
			all.unknown = true
		case owner == nil:
			all.gone = append(all.gone, ref.UID)
		case awaits(owner, metav1.FinalizerDeleteDependents):
			all.waiting = append(all.waiting, ref.UID)
		default:
			all.solid = append(all.solid, ref.UID)
		}
	}
	return all
}

// kindOf finds the kind of an owner; nil: it is not served.
func (s *Server) kindOf(ref metav1.OwnerReference) *Kind {
	for i := range s.Kinds {
		k := &s.Kinds[i]
		if gvk := k.GroupVersionKind(); k.View == nil && k.Source == nil && gvk.Kind == ref.Kind && gvk.GroupVersion().String() == ref.APIVersion {
			return k
		}
	}
	return nil
}

// owner finds the owner that a reference means; nil: it is gone. One that a file's
// object of the same name hides is still there. known is false where nobody can say.
func (s *Server) owner(m member, ref metav1.OwnerReference) (o objects.Object, known bool) {
	k, namespace := s.kindOf(ref), m.GetNamespace()
	switch {
	case k == nil, k.Namespaced && namespace == "":
		return nil, false
	case !k.Namespaced:
		namespace = ""
	}
	key := k.key(namespace, ref.Name)
	o, found := s.Store.Get(key)
	switch {
	case !found:
		return nil, true
	case o.GetUID() != ref.UID && s.DeclaredIn(o) != "" && s.Hidden != nil:
		var err error
		if o, err = s.Hidden(key); err != nil {
			s.Log.Error(err, "Cannot tell whether an owner is there", "owner", key.String())
			return nil, false
		}
	}
	if o == nil || o.GetUID() != ref.UID {
		return nil, true
	}
	return o, true
}
