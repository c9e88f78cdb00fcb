// Generate makes of the OpenAPI documents that podd serves the schema for
// server-side apply: which lists are sets, which are maps and by which keys. Its
// arguments are the directory of the documents and the file to write.
package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"

	"podd/api/discovery"
	"podd/api/patch"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: generate DIR FILE")
		os.Exit(2)
	}
	if err := generate(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(dir, file string) error {
	schemas, err := read(dir)
	if err != nil {
		return err
	}
	converted, err := schemaconv.ToSchemaFromOpenAPI(schemas, false)
	if err != nil {
		return err
	}
	all := map[string]smd.TypeDef{}
	for _, t := range converted.Types {
		all[t.Name] = t
	}
	s := patch.Schema{Kinds: map[string]string{}}
	used := map[string]patch.Type{}
	for _, r := range discovery.Served {
		if !slices.Contains(r.Verbs, "patch") {
			continue
		}
		name, ok := typeName(schemas, r.GroupVersionKind())
		if !ok {
			return fmt.Errorf("no schema of %v", r.GroupVersionKind())
		}
		s.Kinds[r.GroupVersionKind().String()] = name
		use(name, all, used)
	}
	s.Types = slices.SortedFunc(maps.Values(used), func(a, b patch.Type) int { return cmp.Compare(a.Name, b.Name) })
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var gz bytes.Buffer
	w, _ := gzip.NewWriterLevel(&gz, gzip.BestCompression)
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	fmt.Printf("%d kinds, %d types, %d bytes, %d compressed\n", len(s.Kinds), len(s.Types), len(data), gz.Len())
	return os.WriteFile(file, gz.Bytes(), 0o644)
}

// read collects the schemas of all documents; the same name is the same schema.
func read(dir string) (map[string]*spec.Schema, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json.gz"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no documents in %s: %v", dir, err)
	}
	all := map[string]*spec.Schema{}
	for _, file := range files {
		packed, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer packed.Close()
		unpacking, err := gzip.NewReader(packed)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(unpacking)
		if err != nil {
			return nil, err
		}
		var document struct {
			Components struct{ Schemas map[string]*spec.Schema }
		}
		if err := json.Unmarshal(text, &document); err != nil {
			return nil, err
		}
		maps.Copy(all, document.Components.Schemas)
	}
	return all, nil
}

func typeName(schemas map[string]*spec.Schema, gvk schema.GroupVersionKind) (string, bool) {
	for name, s := range schemas {
		var kinds []schema.GroupVersionKind
		if s.Extensions.GetObject("x-kubernetes-group-version-kind", &kinds) == nil && slices.Equal(kinds, []schema.GroupVersionKind{gvk}) {
			return name, true
		}
	}
	return "", false
}

// use takes a type and those that it mentions.
func use(name string, all map[string]smd.TypeDef, used map[string]patch.Type) {
	if _, done := used[name]; done {
		return
	}
	t, ok := all[name]
	if !ok {
		panic("a schema mentions " + name + ", which is not there")
	}
	used[name] = patch.Type{}
	used[name] = patch.Type{Name: name, Atom: atom(t.Atom, all, used)}
}

func atom(a smd.Atom, all map[string]smd.TypeDef, used map[string]patch.Type) patch.Atom {
	out := patch.Atom{Scalar: a.Scalar}
	if a.List != nil {
		out.List = &patch.List{Of: ref(a.List.ElementType, all, used), Relationship: a.List.ElementRelationship, Keys: a.List.Keys}
	}
	if a.Map != nil {
		out.Map = &patch.Map{Of: ref(a.Map.ElementType, all, used), Relationship: a.Map.ElementRelationship}
		for _, f := range a.Map.Fields {
			out.Map.Fields = append(out.Map.Fields, patch.Field{Name: f.Name, Type: ref(f.Type, all, used), Default: f.Default})
		}
		if len(a.Map.Unions) != 0 {
			panic("unions are new: teach patch.Schema about them")
		}
	}
	return out
}

func ref(r smd.TypeRef, all map[string]smd.TypeDef, used map[string]patch.Type) patch.Ref {
	out := patch.Ref{Relationship: r.ElementRelationship, Nullable: r.Nullable}
	if r.NamedType != nil {
		out.Named = *r.NamedType
		use(*r.NamedType, all, used)
	} else {
		out.Atom = atom(r.Inlined, all, used)
	}
	return out
}
