package discovery

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

const (
	asV2      = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	asV2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
)

var served = New(Served, version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.2+podd"})

// ask sends a GET with headers given as name, value, name, value.
func ask(t *testing.T, path string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	served.ServeHTTP(w, r)
	return w.Result()
}

// read decodes a page.
func read[T any](t *testing.T, path string, headers ...string) T {
	t.Helper()
	resp := ask(t, path, headers...)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	var v T
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

func TestEveryPageNamesItself(t *testing.T) {
	for path, want := range map[string]metav1.TypeMeta{
		"/api":                      {Kind: "APIVersions", APIVersion: "v1"},
		"/apis":                     {Kind: "APIGroupList", APIVersion: "v1"},
		"/apis/":                    {Kind: "APIGroupList", APIVersion: "v1"},
		"/api/v1":                   {Kind: "APIResourceList", APIVersion: "v1"},
		"/apis/coordination.k8s.io": {Kind: "APIGroup", APIVersion: "v1"},
		"/apis/node.k8s.io/v1":      {Kind: "APIResourceList", APIVersion: "v1"},
	} {
		if got := read[metav1.TypeMeta](t, path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
	if v := read[version.Info](t, "/version"); v.GitVersion != "v1.37.2+podd" || v.Minor != "37" {
		t.Errorf("/version: %+v", v)
	}
}

func TestPathsThatAreNotServedAreNotFound(t *testing.T) {
	for _, path := range []string{"/", "/api/v2", "/apis/apps", "/apis/node.k8s.io/v2", "/apis//v1", "/openapi", "/openapi/v3/apis/apps/v1", "/api/v1/pods", "/openapi/v3/../v3"} {
		if resp := ask(t, path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	w := httptest.NewRecorder()
	served.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /api: %d", w.Code)
	}
}

func TestClientsGetTheFormTheyPrefer(t *testing.T) {
	for _, tc := range []struct{ accept, want string }{
		{"", "application/json"},
		{"*/*", "application/json"},
		{"application/json", "application/json"},
		{"application/json, */*", "application/json"},
		{"application/vnd.kubernetes.protobuf,application/json", "application/json"},
		{asV2, asV2},
		{asV2beta1, asV2beta1},
		{asV2 + "," + asV2beta1 + ",application/json", asV2}, // kubectl
		{asV2beta1 + ",application/json", asV2beta1},
		{"application/json;q=0.5," + asV2, asV2},
		{"application/json," + asV2, "application/json"},
		{strings.ReplaceAll(asV2, "v=v2", "v=v3") + "," + asV2beta1, asV2beta1},
		{asV2 + ";q=0," + asV2beta1, asV2beta1},
		{asV2 + ";profile=nopeer", asV2},
		{"application/json;as=Table;g=meta.k8s.io;v=v1,application/json", "application/json"},
	} {
		for _, path := range []string{"/api", "/apis"} {
			if got := ask(t, path, "Accept", tc.accept).Header.Get("Content-Type"); got != tc.want {
				t.Errorf("%s, Accept %s: got %s, want %s", path, tc.accept, got, tc.want)
			}
		}
	}
	if got := ask(t, "/api/v1", "Accept", asV2).Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("/api/v1 has one form, not %s", got)
	}
}

type aggregatedList struct {
	metav1.TypeMeta
	Items []groupDiscovery
}

// The aggregated pages and the lists say the same.
func TestAggregatedDiscoveryIsTheSumOfTheLists(t *testing.T) {
	for _, accept := range []string{asV2, asV2beta1} {
		var plain, aggregated []string
		for _, root := range []string{"/api", "/apis"} {
			all := read[aggregatedList](t, root, "Accept", accept)
			if !strings.Contains(accept, all.APIVersion[len("apidiscovery.k8s.io/"):]+";") || all.Kind != "APIGroupDiscoveryList" {
				t.Errorf("%s: %v", accept, all.TypeMeta)
			}
			for _, g := range all.Items {
				for _, v := range g.Versions {
					for _, r := range v.Resources {
						aggregated = append(aggregated, line(g.Metadata.Name, v.Version, r.Resource, r.ResponseKind, r.Verbs, r.ShortNames, r.Categories, r.SingularResource, r.Scope == "Namespaced"))
						for _, s := range r.Subresources {
							aggregated = append(aggregated, line(g.Metadata.Name, v.Version, r.Resource+"/"+s.Subresource, s.ResponseKind, s.Verbs, []string(nil), []string(nil), "", r.Scope == "Namespaced"))
						}
					}
				}
			}
		}
		paths := []string{"/api/v1"}
		for _, g := range read[metav1.APIGroupList](t, "/apis").Groups {
			for _, v := range g.Versions {
				paths = append(paths, "/apis/"+v.GroupVersion)
			}
		}
		for _, path := range paths {
			list := read[metav1.APIResourceList](t, path)
			gv, err := schema.ParseGroupVersion(list.GroupVersion)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range list.APIResources {
				k := kind{r.Group, r.Version, r.Kind}
				if r.Version == "" {
					k.Group, k.Version = gv.Group, gv.Version
				}
				plain = append(plain, line(gv.Group, gv.Version, r.Name, k, r.Verbs, r.ShortNames, r.Categories, r.SingularName, r.Namespaced))
			}
		}
		slices.Sort(plain)
		slices.Sort(aggregated)
		if diff := cmp.Diff(plain, aggregated); diff != "" {
			t.Errorf("%s differs from the lists:\n%s", accept, diff)
		}
		if !slices.Contains(plain, ` v1 pods/eviction {policy v1 Eviction} [create] [] []  true`) {
			t.Errorf("no pods/eviction as Kubernetes has it in\n%s", strings.Join(plain, "\n"))
		}
	}
}

func line(parts ...any) string { return strings.TrimSuffix(fmt.Sprintln(parts...), "\n") }

// `kubectl get all` asks in this order: pods before services, as everywhere.
func TestTheOrderIsThatOfServed(t *testing.T) {
	turned := slices.Clone(Served)
	slices.Reverse(turned)
	other := New(turned, version.Info{})
	for path, accept := range map[string]string{"/api": asV2, "/apis": asV2beta1, "/apis/": "", "/api/v1": ""} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		other.ServeHTTP(w, r)
		want, err := io.ReadAll(ask(t, path, "Accept", accept).Body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), w.Body.String()); diff != "" {
			t.Errorf("%s (-served in order +turned around):\n%s", path, diff)
		}
	}
}

func TestPagesAreCompressedAndKeptByClients(t *testing.T) {
	for _, path := range []string{"/api", "/apis/node.k8s.io/v1", "/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1", "/version"} {
		packed := ask(t, path, "Accept-Encoding", "deflate, gzip;q=0.5")
		if packed.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s is not compressed", path)
		}
		unpacking, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		unpacked, err := io.ReadAll(unpacking)
		if err != nil {
			t.Fatal(err)
		}
		for _, encoding := range []string{"", "identity", "gzip;q=0", "br"} {
			plain := ask(t, path, "Accept-Encoding", encoding)
			body, _ := io.ReadAll(plain.Body)
			if plain.Header.Get("Content-Encoding") != "" || string(body) != string(unpacked) || !json.Valid(body) {
				t.Errorf("%s with Accept-Encoding %q is not the same in plain", path, encoding)
			}
		}
		etag := packed.Header.Get("ETag")
		for _, tc := range []struct {
			ifNoneMatch string
			want        int
		}{
			{etag, http.StatusNotModified}, {`"x", W/` + etag, http.StatusNotModified}, {"*", http.StatusNotModified},
			{`"x"`, http.StatusOK}, {strings.Trim(etag, `"`), http.StatusOK},
		} {
			if got := ask(t, path, "If-None-Match", tc.ifNoneMatch); got.StatusCode != tc.want {
				t.Errorf("%s, If-None-Match %s: got %d, want %d", path, tc.ifNoneMatch, got.StatusCode, tc.want)
			}
		}
	}
}

func TestOpenAPIAddressesNeverChangeTheirContent(t *testing.T) {
	index := read[struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}](t, "/openapi/v3")
	groupVersions := byGroupVersion(Served)
	if len(index.Paths) != len(groupVersions) {
		t.Errorf("%d documents for %d groups and versions: go generate?", len(index.Paths), len(groupVersions))
	}
	for path, at := range index.Paths {
		resp := ask(t, at.ServerRelativeURL)
		if resp.StatusCode != http.StatusOK || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s at %s: %s, %s", path, at.ServerRelativeURL, resp.Status, resp.Header.Get("Cache-Control"))
		}
		if resp := ask(t, "/openapi/v3/"+path+"?hash=old"); resp.StatusCode != http.StatusOK || strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s with an old hash: %s, %s", path, resp.Status, resp.Header.Get("Cache-Control"))
		}
	}
}

type openAPIDocument struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas map[string]struct {
			Kinds []kind `json:"x-kubernetes-group-version-kind"`
		}
	}
}

// kubectl looks for kinds by group, version and kind to explain them, and in
// the parameters of their patch for whether the server validates fields.
func TestOpenAPIHasWhatIsServedAndNothingElse(t *testing.T) {
	for gv, resources := range byGroupVersion(Served) {
		text, err := io.ReadAll(ask(t, "/openapi/v3/"+pathOf(gv)).Body)
		if err != nil {
			t.Fatal(err)
		}
		var d openAPIDocument
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		kinds := map[kind]bool{}
		for _, s := range d.Components.Schemas {
			for _, k := range s.Kinds {
				kinds[k] = true
			}
		}
		want := map[string]bool{"/" + pathOf(gv) + "/": true}
		for _, r := range resources {
			if !kinds[kind(r.GroupVersionKind())] {
				t.Errorf("no schema of %v", r.GroupVersionKind())
			}
			all := "/" + pathOf(gv) + "/" + r.Plural
			in := all
			if r.Namespaced {
				in = "/" + pathOf(gv) + "/namespaces/{namespace}/" + r.Plural
				if slices.Contains(r.Verbs, "list") {
					want[all] = true
				}
			}
			want[in] = true
			if slices.Contains(r.Verbs, "get") {
				want[in+"/{name}"] = true
			}
			for _, s := range r.Subresources {
				want[in+"/{name}/"+s.Name] = true
				if s.Name == "proxy" {
					want[in+"/{name}/proxy/{path}"] = true
				}
			}
			for verb, method := range map[string]string{"create": "post", "list": "get", "deletecollection": "delete"} {
				if has := d.Paths[in][method] != nil; has != slices.Contains(r.Verbs, verb) {
					t.Errorf("%s: %s is in the document: %v", in, method, has)
				}
			}
			for verb, method := range map[string]string{"get": "get", "update": "put", "patch": "patch", "delete": "delete"} {
				if has := d.Paths[in+"/{name}"][method] != nil; has != slices.Contains(r.Verbs, verb) {
					t.Errorf("%s/{name}: %s is in the document: %v", in, method, has)
				}
			}
			if patch, ok := d.Paths[in+"/{name}"]["patch"]; ok && !strings.Contains(string(patch), `"name":"fieldValidation"`) {
				t.Errorf("%s: a patch knows no fieldValidation: %s", in, patch)
			}
		}
		for path := range d.Paths {
			if !want[path] {
				t.Errorf("%v has %s, which is not served", gv, path)
			}
			delete(want, path)
		}
		for path := range want {
			t.Errorf("%v lacks %s", gv, path)
		}
		for part := range strings.SplitSeq(string(text), `"#/components/schemas/`) {
			name, _, _ := strings.Cut(part, `"`)
			if _, ok := d.Components.Schemas[name]; !ok && name != "{" && !strings.HasPrefix(part, "{") {
				t.Errorf("%v mentions schema %s, which is not there", gv, name)
			}
		}
	}
}
