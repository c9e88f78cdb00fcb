package discovery

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	openapi "k8s.io/kube-openapi/pkg/util/proto"
	"k8s.io/kube-openapi/pkg/util/proto/validation"
	"sigs.k8s.io/yaml"
)

const asOpenAPIv2 = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" // kubectl's

type swagger struct {
	Paths       map[string]map[string]json.RawMessage
	Definitions map[string]map[string]json.RawMessage
	Parameters  map[string]json.RawMessage
}

func readAll(t *testing.T, path string, headers ...string) []byte {
	t.Helper()
	resp := ask(t, path, headers...)
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return body
}

// methods lists the paths of documents with the methods of each.
func methods(paths map[string]map[string]json.RawMessage) []string {
	var all []string
	for path, item := range paths {
		for method := range item {
			if method != "parameters" {
				all = append(all, method+" "+path)
			}
		}
	}
	slices.Sort(all)
	return all
}

func TestOpenAPIv2HasThePathsOfAllDocumentsOfVersion3(t *testing.T) {
	want := map[string]map[string]json.RawMessage{"/api/": {"get": nil}, "/apis/": {"get": nil}, "/version/": {"get": nil}}
	for gv := range byGroupVersion(Served) {
		maps.Copy(want, read[openAPIDocument](t, "/openapi/v3/"+pathOf(gv)).Paths)
		if gv.Group != "" && gv.Group != "metrics.k8s.io" { // whose document is our own
			want["/apis/"+gv.Group+"/"] = map[string]json.RawMessage{"get": nil}
		}
	}
	if diff := cmp.Diff(methods(want), methods(read[swagger](t, "/openapi/v2").Paths)); diff != "" {
		t.Errorf("version 2 differs from all documents of version 3 (-3 +2):\n%s", diff)
	}
}

func TestOpenAPIv2HasEveryDefinitionThatItMentionsAndNoOther(t *testing.T) {
	text := readAll(t, "/openapi/v2")
	var d swagger
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	mentioned := map[string]bool{}
	for part := range strings.SplitSeq(string(text), `"#/`) {
		name, _, _ := strings.Cut(part, `"`)
		mentioned[name] = true
	}
	for name := range mentioned {
		section, name, _ := strings.Cut(name, "/")
		if _, ok := d.Definitions[name]; section == "definitions" && !ok {
			t.Errorf("definition %s is mentioned and not there", name)
		}
		if _, ok := d.Parameters[name]; section == "parameters" && !ok {
			t.Errorf("parameter %s is mentioned and not there", name)
		}
	}
	for name := range d.Definitions {
		if !mentioned["definitions/"+name] {
			t.Errorf("definition %s is there and not mentioned", name)
		}
	}
	for name := range d.Parameters {
		if !mentioned["parameters/"+name] {
			t.Errorf("parameter %s is there and not mentioned", name)
		}
	}
	if strings.Contains(string(text), "cbor") {
		t.Error("it has CBOR, which is not served")
	}
}

// What clients look up: kinds by group, version and kind, how a patch merges
// lists, and in the parameters of a patch whether the server validates fields.
func TestOpenAPIv2SaysHowKindsArePatched(t *testing.T) {
	d := read[swagger](t, "/openapi/v2")
	kinds := map[kind]bool{}
	for name, definition := range d.Definitions {
		var of []kind
		if text, has := definition["x-kubernetes-group-version-kind"]; has {
			if err := json.Unmarshal(text, &of); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, k := range of {
			kinds[k] = true
		}
	}
	for _, r := range Served {
		if !kinds[kind(r.GroupVersionKind())] {
			t.Errorf("no definition of %v", r.GroupVersionKind())
		}
	}
	for path, item := range d.Paths {
		if patch, has := item["patch"]; has && !strings.HasSuffix(path, "/proxy") && !strings.HasSuffix(path, "/proxy/{path}") && !strings.Contains(string(patch), "fieldValidation-") && !strings.Contains(string(patch), `"fieldValidation"`) {
			t.Errorf("%s: a patch knows no fieldValidation: %s", path, patch)
		}
	}
	var merged []string // in version 3, and not in version 2
	for gv := range byGroupVersion(Served) {
		var document struct {
			Components struct {
				Schemas map[string]map[string]json.RawMessage
			}
		}
		if err := json.Unmarshal(readAll(t, "/openapi/v3/"+pathOf(gv)), &document); err != nil {
			t.Fatal(err)
		}
		for name, schema := range document.Components.Schemas {
			want, got := mergeKeys(t, schema), mergeKeys(t, d.Definitions[name])
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-3 +2):\n%s", name, diff)
			}
			merged = append(merged, want...)
		}
	}
	if !slices.Contains(merged, `containers "name" "merge"`) {
		t.Errorf("containers are not merged by name: %q", merged)
	}
}

// mergeKeys lists the properties that a patch merges, each with its key.
func mergeKeys(t *testing.T, schema map[string]json.RawMessage) []string {
	t.Helper()
	var properties map[string]map[string]json.RawMessage
	if text, has := schema["properties"]; has {
		if err := json.Unmarshal(text, &properties); err != nil {
			t.Fatal(err)
		}
	}
	var all []string
	for name, p := range properties {
		if strategy, has := p["x-kubernetes-patch-strategy"]; has {
			all = append(all, strings.Join([]string{name, string(p["x-kubernetes-patch-merge-key"]), string(strategy)}, " "))
		}
	}
	slices.Sort(all)
	return all
}

func TestOpenAPIv2InProtobufIsTheSameDocument(t *testing.T) {
	want, err := openapi_v2.ParseDocument(readAll(t, "/openapi/v2"))
	if err != nil {
		t.Fatal(err)
	}
	if got := protobufOpenAPI(t); !proto.Equal(got, want) {
		t.Error("the two encodings differ: go generate?")
	}
}

func protobufOpenAPI(t *testing.T) *openapi_v2.Document {
	t.Helper()
	d := &openapi_v2.Document{}
	if err := proto.Unmarshal(readAll(t, "/openapi/v2", "Accept", asOpenAPIv2), d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOpenAPIv2IsServedInTheEncodingThatAClientPrefers(t *testing.T) {
	const json, protobuf = "application/json", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	for _, c := range []struct{ accept, want string }{
		{"", json},
		{"*/*", json},
		{json, json},
		{asOpenAPIv2, protobuf},
		{protobuf, protobuf},
		{json + "," + protobuf, json},
		{json + ";q=0.5," + protobuf, protobuf},
		{protobuf + ";q=0,*/*", json},
		{"text/html, */*", json},
	} {
		if got := ask(t, "/openapi/v2", "Accept", c.accept).Header.Get("Content-Type"); got != c.want {
			t.Errorf("Accept %s: got %s, want %s", c.accept, got, c.want)
		}
	}
	if got := ask(t, "/openapi/v3", "Accept", asOpenAPIv2).Header.Get("Content-Type"); got != json {
		t.Errorf("/openapi/v3 has one encoding, not %s", got)
	}
	if a, b := ask(t, "/openapi/v2").Header.Get("ETag"), ask(t, "/openapi/v2", "Accept", asOpenAPIv2).Header.Get("ETag"); a == b {
		t.Errorf("both encodings have the entity tag %s", a)
	}
}

// kubectl before 1.27 checks manifests with this document and these functions.
func TestOldClientsValidateWithOpenAPIv2(t *testing.T) {
	models, err := openapi.NewOpenAPIData(protobufOpenAPI(t))
	if err != nil {
		t.Fatal(err)
	}
	for manifest, want := range map[string][]string{
		"{metadata: {name: a}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 80}]}]}}": nil,
		"{metadata: {name: a}, spec: {containers: [{name: a, imag: b}]}}":                                {`unknown field "imag" in io.k8s.api.core.v1.Container`},
		"{metadata: {name: a}, spec: {containers: {name: a}}}":                                           {`invalid type for io.k8s.api.core.v1.PodSpec.containers: got "map", expected "array"`},
		"{metadata: {name: a}, spec: {restartPolicy: Never}}":                                            {`missing required field "containers" in io.k8s.api.core.v1.PodSpec`},
	} {
		var object any
		if err := yaml.Unmarshal([]byte(manifest), &object); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, err := range validation.ValidateModel(object, models.LookupModel("io.k8s.api.core.v1.Pod"), "Pod") {
			got = append(got, err.Error())
		}
		if len(got) != len(want) || len(want) == 1 && !strings.Contains(got[0], want[0]) {
			t.Errorf("%s: got %q, want %q", manifest, got, want)
		}
	}
}
