package manifest

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// jsonPaths lists the fields of t below path, as far as follow answers true.
func jsonPaths(t reflect.Type, path string, follow func(path string) bool) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct {
		t, path = t.Elem(), path+"[]"
	}
	if t.Kind() != reflect.Struct || t == quantityType || t == intOrStringType {
		return nil
	}
	var paths []string
	for name, f := range fieldsOf(t) {
		at := join(path, name)
		paths = append(paths, at)
		if follow(at) {
			paths = append(paths, jsonPaths(f.typ, at, follow)...)
		}
	}
	return paths
}

func TestEveryFieldOfAPodHasALineAndEveryLineAField(t *testing.T) {
	honoured := func(path string) bool {
		f := fieldAt(path)
		return f != nil && f.Support == Honoured
	}
	known := map[string]bool{}
	for _, path := range jsonPaths(reflect.TypeFor[onPod](), "", honoured) {
		known[path] = true
		if fieldAt(path) == nil {
			t.Errorf("%s has no line in Fields", path)
		}
	}
	seen := map[string]bool{}
	for _, f := range Fields {
		if !known[strings.TrimSuffix(f.Path, "[]")] {
			t.Errorf("%s is no field of a Pod, or below one that is not honoured", f.Path)
		}
		if seen[f.Path] {
			t.Errorf("%s has two lines", f.Path)
		}
		seen[f.Path] = true
		if !slices.Contains([]Support{Honoured, Warned, Ignored, Refused}, f.Support) {
			t.Errorf("%s: support is %q", f.Path, f.Support)
		}
		if f.Support == Warned && f.Note == "" {
			t.Errorf("%s: a warning needs its reason", f.Path)
		}
	}
}

func TestEveryHonouredFieldIsInTheGoodExample(t *testing.T) {
	// A field that no good manifest has could be honoured by name only.
	given := map[string]bool{}
	for _, file := range inputs(t, "good") {
		data, _, err := read(file)
		must(t, err)
		for _, c := range documents(data) {
			for path := range placesOf(t, c) {
				given[sameAs.Replace(bare(path))] = true
			}
		}
	}
	for _, f := range Fields {
		if path := strings.TrimSuffix(f.Path, "[]"); f.Support == Honoured && !given[sameAs.Replace(path)] {
			t.Errorf("%s is in no good manifest", f.Path)
		}
	}
}

func placesOf(t *testing.T, c chunk) map[string]place {
	t.Helper()
	p := parser{file: "x"}
	all := map[string]place{}
	decoder := newDecoder(c)
	for {
		root, err := nextDocument(decoder)
		if err != nil {
			return all
		}
		if kindOf(root) != mapping || member(root, "kind").Value != "Pod" {
			continue
		}
		o := p.newObject(root, c, &visits{left: 1 << 20}, "")
		o.pod(root)
		for path, at := range o.places {
			all[path] = at
		}
	}
}

func TestTableHasALineForEachField(t *testing.T) {
	var b strings.Builder
	if err := WriteTable(&b, map[string][]string{"spec.containers[].image": {"TestX"}}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2+len(Fields) {
		t.Errorf("%d lines, want %d", len(lines), 2+len(Fields))
	}
	const want = "| `spec.nodeSelector` | warning | there is one node and nothing to choose |  |"
	if !slices.Contains(lines, want) {
		t.Errorf("no line %s", want)
	}
	for _, line := range lines {
		if strings.Count(strings.ReplaceAll(line, `\|`, ""), "|") != 5 {
			t.Errorf("%s: want 4 cells", line)
		}
	}
}
