package rest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"podd/api/objects"
)

// selector is which objects of a collection a client wants.
type selector struct {
	labels labels.Selector
	fields []fieldTerm
}

type fieldTerm struct {
	value  func(objects.Object) string
	equals bool // or not
	wanted string
}

// selector reads the arguments labelSelector and fieldSelector. A field that
// the kind cannot select by is refused.
func (c *call) selector() (selector, error) {
	sel := selector{}
	byLabel, err := labels.Parse(c.args.Get("labelSelector"))
	if err != nil {
		return sel, apierrors.NewBadRequest(err.Error())
	}
	if !byLabel.Empty() {
		sel.labels = byLabel
	}
	byField, err := fields.ParseSelector(c.args.Get("fieldSelector"))
	if err != nil {
		return sel, apierrors.NewBadRequest(err.Error())
	}
	for _, r := range byField.Requirements() {
		value := c.kind.field(r.Field)
		if value == nil {
			return sel, apierrors.NewBadRequest(c.kind.unknownField(r.Field))
		}
		sel.fields = append(sel.fields, fieldTerm{value: value, equals: r.Operator != selection.NotEquals, wanted: r.Value})
	}
	return sel, nil
}

func (sel selector) empty() bool { return sel.labels == nil && len(sel.fields) == 0 }

// matches tells whether an object, in the shape of the kind, is wanted.
func (sel selector) matches(o objects.Object) bool {
	if sel.labels != nil && !sel.labels.Matches(labels.Set(o.GetLabels())) {
		return false
	}
	for _, f := range sel.fields {
		if (f.value(o) == f.wanted) != f.equals {
			return false
		}
	}
	return true
}

// field returns how to read a field that objects of the kind can be selected
// by, or nil.
func (k *Kind) field(name string) func(objects.Object) string {
	switch name {
	case "metadata.name":
		return func(o objects.Object) string { return o.GetName() }
	case "metadata.namespace":
		return func(o objects.Object) string { return o.GetNamespace() }
	}
	return k.Fields[name]
}

// unknownField says that there is no such field, in the words of Kubernetes,
// and which there are.
func (k *Kind) unknownField(name string) string {
	if k.Fields == nil {
		return fmt.Sprintf("%q is not a known field selector: only %q, %q", name, "metadata.name", "metadata.namespace")
	}
	known := append(slices.Sorted(maps.Keys(k.Fields)), "metadata.name", "metadata.namespace")
	return fmt.Sprintf("field label not supported: %s; supported: %s", name, strings.Join(known, ", "))
}
