package patch

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

//go:generate go run ./generate ../discovery/openapi schema.json.gz

//go:embed schema.json.gz
var schemaFile []byte

// Schema is what the fields of all kinds are, as far as merging needs to know:
// the form of schema.json.gz. It mirrors the schema of structured-merge-diff,
// which has a form in YAML only that takes 6 MB to read.
type Schema struct {
	Kinds map[string]string `json:"kinds"` // name of the type by schema.GroupVersionKind.String
	Types []Type            `json:"types"`
}

// Type is a named type.
type Type struct {
	Name string `json:"name"`
	Atom
}

// Atom is what a value may be; usually one of the three.
type Atom struct {
	Scalar *smd.Scalar `json:"scalar,omitempty"`
	List   *List       `json:"list,omitempty"`
	Map    *Map        `json:"map,omitempty"`
}

// List is a list: atomic, or associative, by keys or (without keys) as a set.
type List struct {
	Of           Ref                     `json:"of"`
	Relationship smd.ElementRelationship `json:"relationship,omitempty"`
	Keys         []string                `json:"keys,omitempty"`
}

// Map is a struct with fields, or a map of whatever keys.
type Map struct {
	Fields       []Field                 `json:"fields,omitempty"`
	Of           Ref                     `json:"of,omitzero"`
	Relationship smd.ElementRelationship `json:"relationship,omitempty"`
}

// Field is a field of a struct. Default is nil, or what a key is where it is not
// given.
type Field struct {
	Name    string `json:"name"`
	Type    Ref    `json:"type"`
	Default any    `json:"default,omitempty"`
}

// Ref is a named type, or one of its own.
type Ref struct {
	Named string `json:"named,omitempty"`
	Atom
	Relationship *smd.ElementRelationship `json:"relationship,omitempty"` // in place of the named type's
	Nullable     bool                     `json:"nullable,omitempty"`
}

// converter turns objects of the served kinds into values that know their
// fields, and back. It implements managedfields.TypeConverter.
type converter struct {
	parser typed.Parser
	kinds  map[string]string
}

// newConverter reads the schema: about 250 KB that stay in memory.
func newConverter() *converter {
	unpacking, err := gzip.NewReader(bytes.NewReader(schemaFile))
	if err != nil {
		panic(err) // it is ours
	}
	var s Schema
	if err := json.NewDecoder(unpacking).Decode(&s); err != nil {
		panic(err)
	}
	c := &converter{kinds: s.Kinds}
	for _, t := range s.Types {
		c.parser.Schema.Types = append(c.parser.Schema.Types, smd.TypeDef{Name: t.Name, Atom: t.atom()})
	}
	return c
}

func (a Atom) atom() smd.Atom {
	out := smd.Atom{Scalar: a.Scalar}
	if a.List != nil {
		out.List = &smd.List{ElementType: a.List.Of.ref(), ElementRelationship: a.List.Relationship, Keys: a.List.Keys}
	}
	if a.Map != nil {
		out.Map = &smd.Map{ElementType: a.Map.Of.ref(), ElementRelationship: a.Map.Relationship}
		for _, f := range a.Map.Fields {
			if n, ok := f.Default.(float64); ok && n == float64(int64(n)) {
				f.Default = int64(n) // as objects have it
			}
			out.Map.Fields = append(out.Map.Fields, smd.StructField{Name: f.Name, Type: f.Type.ref(), Default: f.Default})
		}
	}
	return out
}

func (r Ref) ref() smd.TypeRef {
	out := smd.TypeRef{Inlined: r.atom(), ElementRelationship: r.Relationship, Nullable: r.Nullable}
	if r.Named != "" {
		out.NamedType = &r.Named
	}
	return out
}

// ObjectToTyped finds the fields of an object, which names its kind.
func (c *converter) ObjectToTyped(o runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	t, err := c.typeOf(o.GetObjectKind().GroupVersionKind())
	if err != nil {
		return nil, err
	}
	if u, ok := o.(*unstructured.Unstructured); ok {
		return t.FromUnstructured(u.Object, options...)
	}
	return t.FromStructured(o, options...)
}

func (c *converter) typeOf(gvk schema.GroupVersionKind) (typed.ParseableType, error) {
	name, ok := c.kinds[gvk.String()]
	if !ok {
		return typed.ParseableType{}, fmt.Errorf("no corresponding type for %v", gvk)
	}
	return c.parser.Type(name), nil
}

// TypedToObject is the way back.
func (c *converter) TypedToObject(value *typed.TypedValue) (runtime.Object, error) {
	content, ok := value.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("cannot make an object of %T", value.AsValue().Unstructured())
	}
	return &unstructured.Unstructured{Object: content}, nil
}
