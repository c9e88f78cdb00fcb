// Generate cuts Kubernetes' OpenAPI v3 documents to what podd serves.
//
// It takes them from the source of the Kubernetes release named below, which
// the go command downloads (about 40 MB) and checks; podd does not depend on
// it. It writes one compressed document per group and version into its first
// argument, a directory: apis__node.k8s.io__v1.json.gz.
package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/discovery"
)

const release = "k8s.io/kubernetes@v1.37.2"

// metrics.k8s.io is not part of a Kubernetes release.
//
//go:embed metrics.json
var metrics []byte

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate DIR")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(dir string) error {
	source, err := download()
	if err != nil {
		return err
	}
	served := map[schema.GroupVersion][]discovery.Resource{}
	for _, r := range discovery.Served {
		served[r.GroupVersion()] = append(served[r.GroupVersion()], r)
	}
	var core *document
	read := func(gv schema.GroupVersion) (*document, error) {
		if gv.Group == "metrics.k8s.io" {
			return withMeta(metrics, core)
		}
		data, err := os.ReadFile(filepath.Join(source, "api/openapi-spec/v3", name(gv)+"_openapi.json"))
		if err != nil {
			return nil, err
		}
		d := &document{}
		return d, json.Unmarshal(data, d)
	}
	// The core first: what others share with it is taken from there.
	versions := slices.SortedFunc(func(yield func(schema.GroupVersion) bool) {
		for gv := range served {
			if !yield(gv) {
				return
			}
		}
	}, func(a, b schema.GroupVersion) int { return cmp.Compare(a.String(), b.String()) })
	slices.SortStableFunc(versions, func(a, b schema.GroupVersion) int { return cmp.Compare(len(a.Group), len(b.Group)) })
	for _, gv := range versions {
		d, err := read(gv)
		if err != nil {
			return err
		}
		if gv.Group == "" {
			core = &document{}
			*core = *d
		}
		d.cut(served[gv])
		size, err := d.write(filepath.Join(dir, name(gv)+".json.gz"))
		if err != nil {
			return err
		}
		fmt.Printf("%-30s %6d bytes, %d schemas, %d paths\n", gv, size, len(d.Components.Schemas), len(d.Paths))
	}
	return nil
}

// download returns the directory of the Kubernetes source.
func download() (string, error) {
	cmd := exec.Command("go", "mod", "download", "-json", release)
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
	cmd.Stderr = os.Stderr
	fmt.Println("downloading", release)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cannot download %s: %w", release, err)
	}
	var module struct{ Dir string }
	return module.Dir, json.Unmarshal(out, &module)
}

// name is the name of a document, as in the Kubernetes source.
func name(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api__" + gv.Version
	}
	return "apis__" + gv.Group + "__" + gv.Version
}

// document is an OpenAPI v3 document, as far as it is looked at.
type document struct {
	OpenAPI    string          `json:"openapi"`
	Info       json.RawMessage `json:"info"`
	Paths      map[string]item `json:"paths"`
	Components struct {
		Schemas         map[string]json.RawMessage `json:"schemas"`
		SecuritySchemes json.RawMessage            `json:"securitySchemes,omitempty"`
	} `json:"components"`
}

// item is what one path has: an operation by HTTP method, and parameters.
type item map[string]json.RawMessage

// withMeta adds the schemas of metadata, which every document has.
func withMeta(data []byte, core *document) (*document, error) {
	d := &document{}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, err
	}
	d.Components.SecuritySchemes = core.Components.SecuritySchemes
	for name, schema := range core.Components.Schemas {
		if strings.HasPrefix(name, "io.k8s.apimachinery.") {
			d.Components.Schemas[name] = schema
		}
	}
	return d, nil
}

// cut leaves the paths and operations of the resources, and the schemas that
// these mention.
func (d *document) cut(resources []discovery.Resource) {
	for path, item := range d.Paths {
		verbs := verbsOf(path, resources)
		for method, operation := range item {
			var o struct {
				Action string `json:"x-kubernetes-action"`
			}
			if method == "parameters" || method == "summary" || method == "description" {
				continue
			}
			if err := json.Unmarshal(operation, &o); err != nil {
				panic(err) // it came from a decoder
			}
			if !slices.Contains(verbs, verbOf(o.Action, method)) {
				delete(item, method)
				continue
			}
			item[method] = withoutCBOR(operation)
		}
		if _, only := item["parameters"]; len(item) == 0 || only && len(item) == 1 {
			delete(d.Paths, path)
		}
	}
	used := map[string]bool{}
	for _, item := range d.Paths {
		for _, part := range item {
			d.use(part, used)
		}
	}
	for name := range d.Components.Schemas {
		if !used[name] {
			delete(d.Components.Schemas, name)
		}
	}
}

// verbsOf finds what is served at a path of a document:
// /api/v1/namespaces/{namespace}/pods/{name}/log. The paths that only list
// resources have the verb "list" there.
func verbsOf(path string, resources []discovery.Resource) []string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "api" {
		parts = parts[2:]
	} else {
		parts = parts[3:]
	}
	if len(parts) > 2 && parts[0] == "namespaces" && parts[1] == "{namespace}" {
		parts = parts[2:]
	}
	if len(parts) == 0 {
		return []string{"resources"}
	}
	if parts[0] == "watch" {
		return nil // ?watch=true has replaced it
	}
	i := slices.IndexFunc(resources, func(r discovery.Resource) bool { return r.Plural == parts[0] })
	switch {
	case i < 0:
		return nil
	case len(parts) < 3:
		return resources[i].Verbs
	}
	s, _ := resources[i].Subresource(parts[2])
	return s.Verbs
}

// verbOf is the verb of an operation, whose action is named as in documents.
func verbOf(action, method string) string {
	switch action {
	case "post":
		return "create"
	case "put":
		return "update"
	case "":
		return "resources"
	case "connect":
		return map[string]string{"get": "get", "post": "create", "put": "update", "delete": "delete", "patch": "patch"}[method]
	default: // get, list, patch, delete, deletecollection
		return action
	}
}

// withoutCBOR removes an encoding that is not served.
func withoutCBOR(operation json.RawMessage) json.RawMessage {
	var o any
	if err := json.Unmarshal(operation, &o); err != nil {
		panic(err) // it came from a decoder
	}
	remove(o)
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return data
}

func remove(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if strings.Contains(key, "cbor") {
				delete(v, key)
				continue
			}
			remove(value)
		}
	case []any:
		for _, value := range v {
			remove(value)
		}
	}
}

// use marks the schemas that a part of the document mentions, and those that
// these mention.
func (d *document) use(part []byte, used map[string]bool) {
	const ref = `"#/components/schemas/`
	for {
		_, rest, found := bytes.Cut(part, []byte(ref))
		if !found {
			return
		}
		name, rest, _ := bytes.Cut(rest, []byte(`"`))
		if part = rest; !used[string(name)] {
			used[string(name)] = true
			d.use(d.Components.Schemas[string(name)], used)
		}
	}
}

// write writes the document, compressed as far as gzip can.
func (d *document) write(path string) (size int, err error) {
	data, err := json.Marshal(d)
	if err != nil {
		return 0, err
	}
	var gz bytes.Buffer
	w, _ := gzip.NewWriterLevel(&gz, gzip.BestCompression)
	if _, err := w.Write(data); err != nil {
		return 0, err
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	return gz.Len(), os.WriteFile(path, gz.Bytes(), fs.FileMode(0o644))
}
