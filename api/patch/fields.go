package patch

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"
)

// Fields keeps account of who manages which fields: metadata.managedFields. Its
// zero value is ready; it may be used by several goroutines. The schema of all
// kinds is read when it is first needed.
//
// Source: Kubernetes docs, "Server-Side Apply".
type Fields struct {
	once      sync.Once
	converter *converter
}

// Writer says who writes what.
type Writer struct {
	Kind        schema.GroupVersionKind
	Subresource string // "": the object itself
	Manager     string // fieldManager, or what the client calls itself
}

// Updated sets the managedFields of new, an object that a create, an update or a
// patch made of live (nil: there was none). live is not changed. On an error,
// which is no reason to refuse the write, new has the managedFields of live.
func (f *Fields) Updated(w Writer, live, new runtime.Object) error {
	after, err := meta.Accessor(new)
	if err != nil {
		return err
	}
	var kept []metav1.ManagedFieldsEntry
	if live == nil {
		live = empty(new)
	} else if before, err := meta.Accessor(live); err == nil {
		kept = before.GetManagedFields()
	}
	if err := shallow(after.GetManagedFields()); err != nil {
		after.SetManagedFields(kept)
		return err
	}
	manager, err := f.manager(w, new)
	if err != nil {
		after.SetManagedFields(kept)
		return err
	}
	kind := new.GetObjectKind().GroupVersionKind()
	new.GetObjectKind().SetGroupVersionKind(w.Kind)
	defer new.GetObjectKind().SetGroupVersionKind(kind)
	if _, err := manager.Update(named(live, w.Kind), new, w.Manager); err != nil {
		after.SetManagedFields(kept)
		return err
	}
	return nil
}

// Apply is server-side apply: it returns live with the configuration in data,
// YAML or JSON, merged into it and its managedFields set. live is not changed;
// it is an empty object where there is none yet. validation is the
// fieldValidation of the request. Errors are API errors: 400 for what is not an
// object of the kind, 409 for fields that others manage, each with a cause that
// names manager and field. The caller still checks name, resourceVersion and uid.
func (f *Fields) Apply(w Writer, live runtime.Object, data []byte, force bool, validation string) (applied runtime.Object, warnings []string, err error) {
	configuration, strict, err := decode(data)
	if err != nil {
		return nil, nil, err
	}
	manager, err := f.manager(w, live)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	applied, err = manager.Apply(named(live, w.Kind), configuration, w.Manager, force)
	var answer apierrors.APIStatus
	switch {
	case errors.As(err, &answer):
		return nil, nil, err
	case err != nil:
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	applied.GetObjectKind().SetGroupVersionKind(live.GetObjectKind().GroupVersionKind())
	switch {
	case strict == nil || validation == metav1.FieldValidationIgnore:
	case validation == metav1.FieldValidationStrict:
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding patch: %v", strict))
	default:
		warnings = append(warnings, strict.Error())
	}
	return applied, warnings, nil
}

// decode reads the body of an apply. strict tells of keys that are given twice.
func decode(data []byte) (configuration *unstructured.Unstructured, strict, err error) {
	text, err := yaml.YAMLToJSON(data)
	if err == nil && depth(text) > maxNesting {
		err = fmt.Errorf("nested deeper than %d levels", maxNesting)
	}
	configuration = &unstructured.Unstructured{}
	if err == nil {
		err = yaml.Unmarshal(text, &configuration.Object)
	}
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if configuration.Object == nil {
		configuration.Object = map[string]any{}
	}
	_, strict = yaml.YAMLToJSONStrict(data)
	return configuration, strict, nil
}

// shallow refuses managedFields that a client nested so deep that reading them
// would need a huge stack: in protobuf they are mere bytes.
func shallow(entries []metav1.ManagedFieldsEntry) error {
	for _, e := range entries {
		if e.FieldsV1 != nil && depth(e.FieldsV1.GetRawBytes()) > maxNesting {
			return fmt.Errorf("managedFields of %q are nested deeper than %d levels", e.Manager, maxNesting)
		}
	}
	return nil
}

// manager is who keeps account for one kind of write. sample is any object of
// the kind.
func (f *Fields) manager(w Writer, sample runtime.Object) (*managedfields.FieldManager, error) {
	f.once.Do(func() { f.converter = newConverter() })
	if _, err := f.converter.typeOf(w.Kind); err != nil {
		return nil, err
	}
	k := kind{w.Kind, sample}
	gv := w.Kind.GroupVersion()
	return managedfields.NewDefaultFieldManager(f.converter, k, k, k, w.Kind, gv, w.Subresource,
		map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(gv.String()): writable(w.Subresource)})
}

// writable is what a write changes: who writes does not manage the rest, even
// where it is given.
func writable(subresource string) fieldpath.Filter {
	under := func(parts ...any) fieldpath.Filter {
		return fieldpath.NewIncludeMatcherFilter(fieldpath.MakePrefixMatcherOrDie(parts...))
	}
	each := fieldpath.MatchAnyPathElement()
	switch subresource {
	case "status":
		return fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie("spec")))
	case "ephemeralcontainers":
		return under("spec", "ephemeralContainers")
	case "resize":
		return union{
			under("spec", "containers", each, "resources"), under("spec", "containers", each, "resizePolicy"),
			under("spec", "initContainers", each, "resources"), under("spec", "initContainers", each, "resizePolicy"),
		}
	default:
		return fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie("status")))
	}
}

// union leaves the fields that one of its filters leaves. A filter of several
// matchers would do, but the library's finds nothing where two have a wildcard
// in the same place.
type union []fieldpath.Filter

// Filter is part of fieldpath.Filter.
func (u union) Filter(set *fieldpath.Set) *fieldpath.Set {
	left := fieldpath.NewSet()
	for _, f := range u {
		left = left.Union(f.Filter(set))
	}
	return left
}

// kind makes and converts objects of one kind for the field manager. Each kind
// has one version here.
type kind struct {
	gvk    schema.GroupVersionKind
	sample runtime.Object
}

// New is part of runtime.ObjectCreater.
func (k kind) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if gvk != k.gvk {
		return nil, fmt.Errorf("no kind %v", gvk)
	}
	return named(empty(k.sample), k.gvk), nil
}

// Default is part of runtime.ObjectDefaulter. Defaults are set by the caller.
func (k kind) Default(runtime.Object) {}

// ConvertToVersion is part of runtime.ObjectConvertor: it makes typed objects of
// what was merged.
func (k kind) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	out := empty(k.sample)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, err
	}
	return out, nil
}

// Convert is part of runtime.ObjectConvertor.
func (k kind) Convert(_, _, _ any) error { return errors.ErrUnsupported }

// ConvertFieldLabel is part of runtime.ObjectConvertor.
func (k kind) ConvertFieldLabel(_ schema.GroupVersionKind, _, _ string) (string, string, error) {
	return "", "", errors.ErrUnsupported
}

// empty makes an object of the same type.
func empty(sample runtime.Object) runtime.Object {
	return reflect.New(reflect.TypeOf(sample).Elem()).Interface().(runtime.Object)
}

// named is an object that names its kind, and shares everything else with o.
func named(o runtime.Object, gvk schema.GroupVersionKind) runtime.Object {
	if o.GetObjectKind().GroupVersionKind() == gvk {
		return o
	}
	copied := empty(o)
	reflect.ValueOf(copied).Elem().Set(reflect.ValueOf(o).Elem())
	copied.GetObjectKind().SetGroupVersionKind(gvk)
	return copied
}
