// Generate cuts Kubernetes' OpenAPI documents to what podd serves.
//
// It takes them from the source of the Kubernetes release named below, which
// the go command downloads (about 40 MB) and checks; podd does not depend on
// it. Into its first argument, a directory, it writes a compressed document of
// version 3 for each group and version, apis__node.k8s.io__v1.json.gz, and the
// one of version 2 in both of its encodings, swagger.json.gz and swagger.pb.gz.
package main

import (
	"bytes"
	"compress/gzip"
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
	source = filepath.Join(source, "api/openapi-spec")
	served := map[schema.GroupVersion][]discovery.Resource{}
	for _, r := range discovery.Served {
		served[r.GroupVersion()] = append(served[r.GroupVersion()], r)
	}
	all, err := readSwagger(filepath.Join(source, "swagger.json"))
	if err != nil {
		return err
	}
	for gv := range served {
		d := &document{}
		if gv.Group == "metrics.k8s.io" {
			decode(all.metricsV3(), d)
		} else if err := read(filepath.Join(source, "v3", name(gv)+"_openapi.json"), d); err != nil {
			return err
		}
		cut(d.Paths, served)
		dropUnmentioned(d.Paths, map[string]map[string]json.RawMessage{"#/components/schemas/": d.Components.Schemas})
		if err := write(filepath.Join(dir, name(gv)+".json.gz"), encode(d)); err != nil {
			return err
		}
	}
	cut(all.Paths, served)
	dropUnmentioned(all.Paths, map[string]map[string]json.RawMessage{"#/definitions/": all.Definitions, "#/parameters/": all.Parameters})
	if err := write(filepath.Join(dir, "swagger.json.gz"), encode(all)); err != nil {
		return err
	}
	protobuf, err := all.protobuf()
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, "swagger.pb.gz"), protobuf)
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

// cut leaves the paths and operations that are served.
func cut(paths map[string]item, served map[schema.GroupVersion][]discovery.Resource) {
	for path, item := range paths {
		verbs := verbsOf(path, served)
		for method, operation := range item {
			var o struct {
				Action string `json:"x-kubernetes-action"`
			}
			if method == "parameters" || method == "summary" || method == "description" {
				continue
			}
			decode(operation, &o)
			if !slices.Contains(verbs, verbOf(o.Action, method)) {
				delete(item, method)
				continue
			}
			var all any
			decode(operation, &all)
			item[method] = encode(withoutCBOR(all))
		}
		if _, only := item["parameters"]; len(item) == 0 || only && len(item) == 1 {
			delete(paths, path)
		}
	}
}

// verbsOf finds what is served at a path of a document:
// /api/v1/namespaces/{namespace}/pods/{name}/log. The paths of discovery have
// the verb "resources".
func verbsOf(path string, served map[schema.GroupVersion][]discovery.Resource) []string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var gv schema.GroupVersion
	switch {
	case path == "/api/", path == "/apis/", path == "/version/":
		return []string{"resources"}
	case parts[0] == "api":
		gv.Version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) == 2:
		for gv := range served {
			if gv.Group == parts[1] {
				return []string{"resources"}
			}
		}
		return nil
	case parts[0] == "apis":
		gv.Group, gv.Version, parts = parts[1], parts[2], parts[3:]
	}
	if len(parts) > 2 && parts[0] == "namespaces" && parts[1] == "{namespace}" {
		parts = parts[2:]
	}
	resources := served[gv]
	switch {
	case len(resources) == 0:
		return nil
	case len(parts) == 0:
		return []string{"resources"}
	case parts[0] == "watch":
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
func withoutCBOR(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if strings.Contains(key, "cbor") {
				delete(v, key)
				continue
			}
			v[key] = withoutCBOR(value)
		}
	case []any:
		v = slices.DeleteFunc(v, func(value any) bool {
			text, _ := value.(string)
			return strings.HasPrefix(text, "application/") && strings.Contains(text, "cbor")
		})
		for i := range v {
			v[i] = withoutCBOR(v[i])
		}
		return v
	}
	return v
}

// dropUnmentioned leaves, of the parts of a document, those that its paths
// mention, and those that these mention. parts are by name, by how a mention
// begins: "#/definitions/".
func dropUnmentioned(paths map[string]item, parts map[string]map[string]json.RawMessage) {
	used := map[string]bool{}
	var use func(text []byte)
	use = func(text []byte) {
		for prefix, named := range parts {
			for i, mention := range bytes.Split(text, []byte(`"`+prefix)) {
				name, _, _ := bytes.Cut(mention, []byte(`"`))
				if i > 0 && !used[prefix+string(name)] {
					used[prefix+string(name)] = true
					use(named[string(name)])
				}
			}
		}
	}
	use(encode(paths))
	for prefix, named := range parts {
		for name := range named {
			if !used[prefix+name] {
				delete(named, name)
			}
		}
	}
}

// read reads a file of the Kubernetes source.
func read(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// decode reads what came from a decoder before.
func decode(data []byte, into any) {
	if err := json.Unmarshal(data, into); err != nil {
		panic(err)
	}
}

// encode writes what came from a decoder.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// write writes a document, compressed as far as gzip can.
func write(path string, document []byte) error {
	var gz bytes.Buffer
	w, _ := gzip.NewWriterLevel(&gz, gzip.BestCompression)
	w.Write(document) // a buffer takes everything
	w.Close()
	fmt.Printf("%-45s %7d bytes, %6d compressed\n", filepath.Base(path), len(document), gz.Len())
	return os.WriteFile(path, gz.Bytes(), fs.FileMode(0o644))
}
