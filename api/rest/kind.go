package rest

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/discovery"
	"podd/api/objects"
)

// Kind is one kind of object as the API serves it. Functions that are nil do
// nothing. Objects given as old are shared and must not be changed; those given
// as o belong to the request.
type Kind struct {
	discovery.Resource // its names, verbs and subresources

	New func() objects.Object // an empty one, to decode into

	// Name returns what is wrong with a name; prefix: with a generateName.
	// nil: a DNS subdomain.
	Name func(name string, prefix bool) []string

	Default        func(o objects.Object)                                 // fills in what was not given
	PrepareCreate  func(o objects.Object)                                 // drops what a client cannot set
	PrepareUpdate  func(o, old objects.Object)                            // the same, and keeps what only the server sets
	Validate       func(o objects.Object) field.ErrorList                 // but for metadata; old and new objects
	ValidateUpdate func(o, old objects.Object) field.ErrorList            // besides Validate
	Warnings       func(o, old objects.Object) []string                   // old is nil for a new object
	Admit          func(ctx context.Context, o, old objects.Object) error // after validation; may be slow, may refuse; o is nil for a deletion

	// SetStatus copies the status of src, which stays as it is, to dst. A kind
	// that has it has a status that only the subresource "status" changes.
	SetStatus func(dst, src objects.Object)

	Generations         bool // metadata.generation counts changes of what is neither metadata nor status
	UnconditionalUpdate bool // PUT needs no resourceVersion
	CreateOnUpdate      bool // PUT creates what is not there
	ReturnsDeleted      bool // DELETE answers with the object, not with a Status

	// Fields are the field selectors besides metadata.name and
	// metadata.namespace, which all kinds have.
	Fields map[string]func(o objects.Object) string

	// Serial, if not nil, is held while an object of this kind is written: for
	// what is unique over all objects.
	Serial sync.Locker

	// Grace returns how many seconds the deletion of an object takes, given what
	// the client asked for (nil: nothing). 0: it goes at once. nil: always 0.
	Grace func(o objects.Object, asked *int64) int64

	// PrepareDelete is told that deletionTimestamp was set because the object
	// cannot go yet.
	PrepareDelete func(o objects.Object)

	// Remains tells that an object whose finalizers are gone stays nevertheless,
	// until what it stands for is gone. nil: false.
	Remains func(o objects.Object) bool

	// Sub is what serves the subresources. One that is listed but not here does
	// not exist, except for "status" of a kind with SetStatus.
	Sub map[string]*Subresource

	// Unserved says of subresources that Kubernetes has why they are not served
	// here.
	Unserved map[string]string

	deprecated string // what everybody is told who asks for it; set by New

	View   *View   // another shape of a stored kind; nil: this is the stored shape
	Source *Source // objects that are not in the store; nil: they are
}

// Subresource serves one subresource of a kind. Exactly one of Handler, Call
// and Merge is set.
type Subresource struct {
	// Handler serves the request whole: log, exec, proxy. [RequestOf] tells what
	// was asked for.
	Handler func(w http.ResponseWriter, r *http.Request, o objects.Object)

	// Call serves a POST with a body of another kind, made by New: an eviction,
	// a token. What it returns is the answer, with 201.
	New  func() runtime.Object
	Call func(ctx context.Context, o objects.Object, body runtime.Object, dryRun bool) (runtime.Object, error)

	// Merge makes of what a client sent (o, after patching) the object to store,
	// starting from old, or refuses with an API error. It returns a new object.
	// Validate takes the place of the kind's functions.
	Merge    func(o, old objects.Object) (objects.Object, error)
	Validate func(o, old objects.Object) field.ErrorList
}

// View is a second shape of objects that another kind of the table stores.
type View struct {
	Of   schema.GroupResource
	From func(stored objects.Object) objects.Object    // a new object of this kind
	To   func(o, stored objects.Object) objects.Object // a new object; stored is nil for a new one
}

// Source answers for a kind that is not in the store: measurements, reviews.
type Source struct {
	Get    func(ctx context.Context, namespace, name string) (objects.Object, error)
	List   func(ctx context.Context, namespace string) ([]objects.Object, error)
	Create func(ctx context.Context, o objects.Object) (objects.Object, error)
}

// Served returns what [discovery.Served] has of a resource.
func Served(group, plural string) discovery.Resource {
	for _, r := range discovery.Served {
		if r.Group == group && r.Plural == plural {
			return r
		}
	}
	panic("rest: " + plural + "." + group + " is not served")
}

// stored returns under which resource the objects are in the store.
func (k *Kind) stored() schema.GroupResource {
	if k.View != nil {
		return k.View.Of
	}
	return k.GroupResource()
}

func (k *Kind) key(namespace, name string) objects.Key {
	return objects.Key{Resource: k.stored(), Namespace: namespace, Name: name}
}

// shape returns a stored object as this kind shows it.
func (k *Kind) shape(stored objects.Object) objects.Object {
	if k.View == nil || stored == nil {
		return stored
	}
	return k.View.From(stored)
}

// subresource returns what serves a subresource, and its verbs; nil if there is
// none.
func (k *Kind) subresource(name string) (*Subresource, discovery.Subresource) {
	sub := k.Sub[name]
	if sub == nil && name == "status" && k.SetStatus != nil {
		sub = &Subresource{Merge: k.mergeStatus}
	}
	for _, of := range k.Subresources {
		if of.Name == name {
			return sub, of
		}
	}
	return nil, discovery.Subresource{}
}

// errNoSubresource says that a subresource is not served, and why if it is known.
func (k *Kind) errNoSubresource(name string) error {
	why, known := k.Unserved[name]
	if !known {
		return errNoResource()
	}
	err := apierrors.NewNotFound(k.GroupResource(), name)
	err.ErrStatus.Message = why
	return err
}

// mergeStatus is the rule of every subresource "status": status and metadata
// move, nothing else.
func (k *Kind) mergeStatus(o, old objects.Object) (objects.Object, error) {
	merged := old.DeepCopyObject().(objects.Object)
	*metaOf(merged) = *metaOf(o)
	k.SetStatus(merged, o)
	return merged, nil
}

// hasProtobuf says whether the kind's objects have a form in protobuf.
func (k *Kind) hasProtobuf() bool {
	_, has := k.New().(runtime.ProtobufMarshaller)
	return has
}

// deprecation is what Kubernetes warns of who uses a kind; "" of one that stays.
func (k *Kind) deprecation() string {
	o := k.New()
	of, is := o.(interface{ APILifecycleDeprecated() (major, minor int) })
	if !is {
		return ""
	}
	major, minor := of.APILifecycleDeprecated()
	text := fmt.Sprintf("%s %s is deprecated in v%d.%d+", k.GroupVersion(), k.Resource.Kind, major, minor)
	if of, is := o.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); is {
		other := of.APILifecycleReplacement()
		text += fmt.Sprintf("; use %s %s", other.GroupVersion(), other.Kind)
	}
	return text
}

// defaults fills in what a client did not give.
func (k *Kind) defaults(o objects.Object) {
	if k.Default != nil {
		k.Default(o)
	}
}

// metaOf returns an object's metadata, to be changed in place.
func metaOf(o objects.Object) *metav1.ObjectMeta {
	return o.(metav1.ObjectMetaAccessor).GetObjectMeta().(*metav1.ObjectMeta)
}

// typed makes of a function of one Go type one of every object, for a [Kind].
func typed[T objects.Object](f func(T)) func(objects.Object) {
	return func(o objects.Object) { f(o.(T)) }
}

// typed2 is typed for two objects of the type; the second may be nil.
func typed2[T objects.Object, R any](f func(o, old T) R) func(o, old objects.Object) R {
	return func(o, old objects.Object) R {
		var t T
		if old != nil {
			t = old.(T)
		}
		return f(o.(T), t)
	}
}

// typedResult is typed for a function with a result.
func typedResult[T objects.Object, R any](f func(T) R) func(objects.Object) R {
	return func(o objects.Object) R { return f(o.(T)) }
}
