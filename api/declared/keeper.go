package declared

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/objects"
	"podd/pod"
	"podd/pod/manifest"
)

// Loader takes what pods are made of. [manifest.Watcher] is it.
type Loader interface {
	Declare(ctx context.Context, file string, r manifest.Result) error
	Withdraw(ctx context.Context, file string) error
}

// Runner does to pods that are there what only the API asks for. [pod.Manager] is it.
type Runner interface {
	End(ctx context.Context, key pod.Key, uid types.UID, grace time.Duration) error
	Replace(ctx context.Context, key pod.Key, grace time.Duration) error
	Debug(ctx context.Context, key pod.Key, c v1.EphemeralContainer) error
	Resize(ctx context.Context, key pod.Key, r pod.Resources) error
	SetConditions(ctx context.Context, key pod.Key, conditions []v1.PodCondition) error
}

// Config is what a [Keeper] works with.
type Config struct {
	Files  *Files
	Store  *objects.Store
	Board  *pod.Board
	Loader Loader
	Runner Runner
	// Node is this node's name.
	Node string
	// Namespace makes a namespace that is not there: what a file's object is in is
	// there by itself. Nil: nobody does.
	Namespace func(name string) error
	// EventsFile is where the newest events are kept for the next agent, in memory;
	// empty: nowhere.
	EventsFile string
	Logger     logr.Logger
}

// Keeper keeps what is made through the API, and has it done.
type Keeper struct {
	Config
	ctx context.Context // of the agent

	// scheduling is held while a pod is given its place.
	scheduling sync.Mutex
	mirror     mirror
}

// The resources that the package knows.
var (
	podResource            = schema.GroupResource{Resource: "pods"}
	nodeResource           = schema.GroupResource{Resource: "nodes"}
	claimResource          = schema.GroupResource{Resource: "persistentvolumeclaims"}
	volumeResource         = schema.GroupResource{Resource: "persistentvolumes"}
	eventResource          = schema.GroupResource{Resource: "events"}
	serviceAccountResource = schema.GroupResource{Resource: "serviceaccounts"}
	runtimeClassResource   = schema.GroupResource{Group: "node.k8s.io", Resource: "runtimeclasses"}
)

// New prepares a keeper whose work ends with ctx.
func New(ctx context.Context, c Config) *Keeper {
	k := &Keeper{Config: c, ctx: ctx}
	k.Store.Forget = withoutSecret
	k.mirror.init()
	return k
}

func keyOf(p *v1.Pod) pod.Key { return pod.Key{Namespace: p.Namespace, Name: p.Name} }

func podKey(key pod.Key) objects.Key {
	return objects.Key{Resource: podResource, Namespace: key.Namespace, Name: key.Name}
}

// DeclaredIn is where a file of the user's declares an object: FILE:LINE. Empty: the
// API made it.
func DeclaredIn(o objects.Object) string {
	if o == nil {
		return ""
	}
	return o.GetAnnotations()[pod.DeclaredIn]
}

// Admit refuses to change what a file declares. What such a pod may be told through its
// subresources goes through; so does its deletion, which warn is told of. old is nil
// for a new object, o for one that is to be deleted.
func (k *Keeper) Admit(resource schema.GroupResource, subresource string, o, old objects.Object, warn func(string)) error {
	if n, is := old.(*v1.Namespace); is && o == nil {
		return k.admitEnd(n)
	}
	file := DeclaredIn(old)
	if file == "" {
		if o != nil && DeclaredIn(o) != "" {
			all := o.GetAnnotations()
			delete(all, pod.DeclaredIn)
			o.SetAnnotations(all)
			warn(fmt.Sprintf("metadata.annotations[%s]: only files declare objects; it is left out", pod.DeclaredIn))
		}
		return nil
	}
	_, isPod := old.(*v1.Pod)
	switch {
	case o == nil && isPod:
		warn(comesBack(old, file))
		return nil
	case o != nil && sameMetadata(o, old) && (sameContent(o, old) || isPod && slices.Contains(podSubresources, subresource)):
		return nil
	}
	what := "changed"
	if o == nil {
		what = "deleted"
	}
	return apierrors.NewForbidden(resource, old.GetName(), fmt.Errorf("it is declared in %s and can only be %s there", file, what))
}

// admitEnd refuses the end of a namespace that files use: it would never be empty.
func (k *Keeper) admitEnd(n *v1.Namespace) error {
	for _, resource := range append(slices.Collect(maps.Values(sourceResources)), podResource) {
		inside, _ := k.Store.List(resource, n.Name)
		for _, o := range inside {
			if file := DeclaredIn(o); o.GetNamespace() == n.Name && file != "" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, n.Name,
					fmt.Errorf("%s %s in it is declared in %s", resource.Resource, o.GetName(), file))
			}
		}
	}
	return nil
}

// ensureNamespace is there before the first object of a file's in it is shown.
func (k *Keeper) ensureNamespace(name string) {
	if k.Namespace == nil || name == "" {
		return
	}
	if _, found := k.Store.Get(objects.Key{Resource: schema.GroupResource{Resource: "namespaces"}, Name: name}); found {
		return
	}
	if err := k.Namespace(name); err != nil {
		k.Logger.Error(err, "the API does not show the namespace of what files declare", "namespace", name)
	}
}

// comesBack warns of what deleting a pod of a file's does.
func comesBack(o objects.Object, file string) string {
	return fmt.Sprintf("pod %s is declared in %s and starts again; remove it there to stop it", nameOf(o), file)
}

// podSubresources change a pod without its file.
var podSubresources = []string{"status", "ephemeralcontainers", "resize"}

// sameMetadata compares what belongs to whoever declares an object.
func sameMetadata(o, old objects.Object) bool {
	return equality.Semantic.DeepEqual(o.GetLabels(), old.GetLabels()) &&
		equality.Semantic.DeepEqual(o.GetAnnotations(), old.GetAnnotations()) &&
		equality.Semantic.DeepEqual(o.GetFinalizers(), old.GetFinalizers()) &&
		equality.Semantic.DeepEqual(o.GetOwnerReferences(), old.GetOwnerReferences())
}

// sameContent compares objects but for what a server writes into their metadata.
func sameContent(o, old objects.Object) bool {
	a, b := o.DeepCopyObject().(objects.Object), old.DeepCopyObject().(objects.Object)
	for _, x := range []objects.Object{a, b} {
		x.SetManagedFields(nil)
		x.SetResourceVersion("")
		x.SetGeneration(0)
	}
	return equality.Semantic.DeepEqual(a, b)
}

// Persist keeps a change before it is made in the store, and has done what follows from
// it. old is nil for a new object, o for one that goes. An error refuses the change.
func (k *Keeper) Persist(old, o objects.Object) error {
	err := k.persist(old, o)
	if p, is := o.(*v1.Pod); is && old != nil && err == nil {
		k.mirror.wrote(p, k.Board)
	}
	return err
}

func (k *Keeper) persist(old, o objects.Object) error {
	if _, is := o.(*v1.Event); is {
		k.mirror.tellEvents() // a client's; it is in the store a moment later
		return nil
	}
	was, _ := old.(*v1.Pod)
	is, _ := o.(*v1.Pod)
	switch {
	case was != nil && DeclaredIn(was) != "":
		return k.tellDeclared(was, is)
	case DeclaredIn(old) != "" || DeclaredIn(o) != "":
		return nil // a mirror's
	case was != nil && is == nil:
		return k.removePod(was)
	case o == nil:
		return k.remove(old)
	case was != nil && sameButStatus(is, was):
		err := k.persistStatus(was, is)
		if err == nil {
			k.tellPlace(was, is)
		}
		return err
	}
	err := k.write(o)
	if err == nil && is != nil {
		k.tellPlace(was, is)
	}
	return err
}

// write keeps an object and hands it over.
func (k *Keeper) write(o objects.Object) error {
	path, kept := k.Files.Path(o)
	if !kept {
		return nil
	}
	text, err := k.Files.Text(o)
	if err != nil {
		return err
	}
	var parsed manifest.Result
	handed := k.handsOver(o)
	if handed {
		parsed = manifest.ParseObject(path, text)
		if errs := fieldErrors(o, parsed.Problems); len(errs) > 0 {
			kind, _ := k.Files.kindOf(o)
			return apierrors.NewInvalid(kind.Kind.GroupKind(), o.GetName(), errs)
		}
	}
	if err := k.Files.Write(path, text); err != nil {
		return err
	}
	if handed {
		return k.Loader.Declare(k.ctx, path, parsed)
	}
	return nil
}

// handsOver says of what kinds of objects pods are made.
func (k *Keeper) handsOver(o objects.Object) bool {
	kind, kept := k.Files.kindOf(o)
	return kept && kind.Resource.Group == "" && slices.Contains(manifest.ObjectDirs, kind.Resource.Resource)
}

// remove forgets an object.
func (k *Keeper) remove(o objects.Object) error {
	path, kept := k.Files.Path(o)
	if !kept {
		return nil
	}
	if err := k.Files.Remove(path); err != nil {
		return err
	}
	if k.handsOver(o) {
		return k.Loader.Withdraw(k.ctx, path)
	}
	return nil
}

// removePod forgets a pod. One that still runs ends at once: that it was deleted is
// kept first, so an agent that is killed before the end of this ends it too.
func (k *Keeper) removePod(p *v1.Pod) error {
	if shown, found := k.Board.Get(keyOf(p)); found && shown.UID == p.UID {
		if p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds > 0 {
			p = p.DeepCopy()
			p.DeletionGracePeriodSeconds = new(int64(0))
			p.DeletionTimestamp = &metav1.Time{Time: time.Now().Truncate(time.Second)}
			if err := k.write(p); err != nil {
				return err
			}
		}
	}
	if err := k.Runner.End(k.ctx, keyOf(p), p.UID, 0); err != nil {
		return err
	}
	return k.remove(p)
}

// sameButStatus says that two versions of a pod differ in the status at most.
func sameButStatus(p, old *v1.Pod) bool {
	a, b := *p, *old
	a.Status, b.Status = v1.PodStatus{}, v1.PodStatus{}
	a.ResourceVersion, b.ResourceVersion = "", ""
	return equality.Semantic.DeepEqual(&a, &b)
}

// persistStatus keeps a status that a client wrote: the conditions of a pod that runs
// are its worker's to keep.
func (k *Keeper) persistStatus(was, is *v1.Pod) error {
	if is.Spec.NodeName == "" {
		return k.write(is)
	}
	err := k.setConditions(was, is)
	if errors.Is(err, pod.ErrNotFound) { // it has ended, and finalizers hold it
		return k.write(is)
	}
	return err
}

func (k *Keeper) setConditions(was, is *v1.Pod) error {
	if equality.Semantic.DeepEqual(was.Status.Conditions, is.Status.Conditions) {
		return nil
	}
	return k.Runner.SetConditions(k.ctx, keyOf(is), is.Status.Conditions)
}

// tellDeclared has done what a client wants of a pod that a file declares. is is nil
// for a pod that is to go at once.
func (k *Keeper) tellDeclared(was, is *v1.Pod) error {
	key := keyOf(was)
	if is == nil {
		if shown, found := k.Board.Get(key); !found || shown.UID != was.UID {
			return nil
		}
		k.mirror.forget(was.UID)
		return k.Runner.Replace(k.ctx, key, 0)
	}
	if d := is.DeletionTimestamp; d != nil && !d.Equal(was.DeletionTimestamp) {
		grace := graceOf(is, is.DeletionGracePeriodSeconds)
		return k.Runner.Replace(k.ctx, key, time.Duration(grace)*time.Second)
	}
	for _, c := range is.Spec.EphemeralContainers {
		known := slices.ContainsFunc(was.Spec.EphemeralContainers, func(h v1.EphemeralContainer) bool { return h.Name == c.Name })
		if known {
			continue
		}
		if err := k.Runner.Debug(k.ctx, key, c); err != nil {
			return apierrors.NewConflict(podResource, was.Name, err)
		}
	}
	resized := pod.Resources{}
	for _, list := range [][]v1.Container{is.Spec.InitContainers, is.Spec.Containers} {
		for _, c := range list {
			if had := containerOf(was, c.Name); had != nil && !equality.Semantic.DeepEqual(had.Resources, c.Resources) {
				resized[c.Name] = c.Resources
			}
		}
	}
	if len(resized) > 0 {
		if err := k.Runner.Resize(k.ctx, key, resized); err != nil {
			return apierrors.NewConflict(podResource, was.Name, err)
		}
	}
	return k.setConditions(was, is)
}
