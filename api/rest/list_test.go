package rest

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/objects"
)

// names returns the names of a list or of a Table's rows.
func (r reply) names() (all []string) {
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
		Rows  []struct {
			Object struct{ Metadata struct{ Name string } }
		}
	}
	if err := json.Unmarshal(r.body, &list); err != nil {
		return []string{err.Error()}
	}
	for _, i := range list.Items {
		all = append(all, i.Metadata.Name)
	}
	for _, row := range list.Rows {
		all = append(all, row.Object.Metadata.Name)
	}
	return all
}

func TestLabelSelectors(t *testing.T) {
	s := newServer(t, nil)
	for name, labels := range map[string]string{"a": `{"app":"web","tier":"front"}`, "b": `{"app":"web","n":"5"}`, "c": `{"app":"db"}`, "d": `{}`} {
		do(t, s, "POST", configMapsPath, `{"metadata":{"name":"`+name+`","labels":`+labels+`}}`).want(t, 201)
	}
	for selector, want := range map[string]string{
		"":                       "a b c d",
		"app=web":                "a b",
		"app==web":               "a b",
		"app!=web":               "c d",
		"app in (web, db)":       "a b c",
		"app notin (web)":        "c d",
		"tier":                   "a",
		"!tier":                  "b c d",
		"app=web,!tier":          "b",
		"n>4":                    "b",
		"n<5":                    "",
		"app=web,tier in (back)": "",
	} {
		got := do(t, s, "GET", configMapsPath+"?labelSelector="+url.QueryEscape(selector), nil).want(t, 200).names()
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", selector, got, want)
		}
	}
	do(t, s, "GET", configMapsPath+"?labelSelector="+url.QueryEscape("a in ("), nil).wantStatus(t, 400, "BadRequest", "unable to parse requirement")
}

func TestFieldSelectors(t *testing.T) {
	s := newServer(t, nil)
	for _, path := range []string{configMapsPath, "/api/v1/namespaces/kube-system/configmaps"} {
		for _, name := range []string{"a", "b"} {
			do(t, s, "POST", path, configMapNamed(name)).want(t, 201)
		}
	}
	do(t, s, "POST", "/api/v1/nodes", `{"metadata":{"name":"node"}}`).want(t, 201)
	do(t, s, "POST", "/api/v1/nodes", `{"metadata":{"name":"cordoned"},"spec":{"unschedulable":true}}`).want(t, 201)
	for _, c := range []struct{ path, selector, want string }{
		{"/api/v1/configmaps", "metadata.name=a", "a a"},
		{"/api/v1/configmaps", "metadata.name=a,metadata.namespace=default", "a"},
		{"/api/v1/configmaps", "metadata.namespace!=default", "a b"},
		{"/api/v1/nodes", "spec.unschedulable=false", "node"}, // an absent field is false
		{"/api/v1/nodes", "spec.unschedulable!=false", "cordoned"},
		{"/api/v1/nodes", "metadata.name==node", "node"},
		{"/api/v1/namespaces", "status.phase=Active", "default kube-node-lease kube-public kube-system"},
		{"/api/v1/namespaces", "status.phase!=Active", ""},
	} {
		got := do(t, s, "GET", c.path+"?fieldSelector="+url.QueryEscape(c.selector), nil).want(t, 200).names()
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.selector, got, c.want)
		}
	}
	do(t, s, "GET", configMapsPath+"?fieldSelector=data.a%3D1", nil).wantStatus(t, 400, "BadRequest",
		`"data.a" is not a known field selector: only "metadata.name", "metadata.namespace"`)
	do(t, s, "GET", "/api/v1/nodes?fieldSelector=spec.podCIDR%3D1", nil).wantStatus(t, 400, "BadRequest", "field label not supported: spec.podCIDR")
	do(t, s, "GET", configMapsPath+"?watch=1&fieldSelector=data.a%3D1", nil).wantStatus(t, 400, "BadRequest", "is not a known field selector")
}

func TestPagesAreOfOneState(t *testing.T) {
	s := newServer(t, nil)
	for i := range 7 {
		do(t, s, "POST", configMapsPath, configMapNamed(fmt.Sprint("c", i))).want(t, 201)
	}
	page := do(t, s, "GET", configMapsPath+"?limit=3", nil).want(t, 200, "metadata.remainingItemCount", "4")
	version := page.at("metadata.resourceVersion")
	names := page.names()
	// What happens now is not seen on later pages.
	do(t, s, "DELETE", configMapsPath+"/c4", nil).want(t, 200)
	do(t, s, "POST", configMapsPath, configMapNamed("c9")).want(t, 201)
	second := do(t, s, "GET", configMapsPath+"?limit=3&continue="+page.at("metadata.continue"), nil).want(t, 200,
		"metadata.resourceVersion", version, "metadata.remainingItemCount", "1")
	third := do(t, s, "GET", configMapsPath+"?limit=3&continue="+second.at("metadata.continue"), nil).want(t, 200,
		"metadata.resourceVersion", version, "metadata.continue", "-", "metadata.remainingItemCount", "-")
	names = slices.Concat(names, second.names(), third.names())
	if got := strings.Join(names, " "); got != "c0 c1 c2 c3 c4 c5 c6" {
		t.Errorf("the pages have %s", got)
	}
	do(t, s, "GET", configMapsPath+"?limit=1&labelSelector=!x", nil).want(t, 200, "metadata.remainingItemCount", "-", "items.0.metadata.name", "c0")
	table := do(t, s, "GET", configMapsPath+"?limit=2", nil, "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").want(t, 200, "kind", "Table")
	do(t, s, "GET", configMapsPath+"?limit=2&continue="+table.at("metadata.continue"), nil).want(t, 200, "items.0.metadata.name", "c2")

	do(t, s, "GET", configMapsPath+"?continue=x&resourceVersion=5", nil).wantStatus(t, 400, "BadRequest", "specifying resource version is not allowed when using continue")
	for _, token := range []string{"x", "e30", "!!"} {
		do(t, s, "GET", configMapsPath+"?continue="+token, nil).wantStatus(t, 400, "BadRequest", "continue key is not valid")
	}
	do(t, s, "GET", configMapsPath+"?limit=many", nil).wantStatus(t, 400, "BadRequest", "limit")

	large := strings.Repeat("x", 900<<10)
	for i := range 20 { // more than the store remembers
		do(t, s, "PUT", configMapsPath+"/c0", configMapNamed("c0", "i", large+fmt.Sprint(i))).want(t, 200)
	}
	expired := do(t, s, "GET", configMapsPath+"?limit=3&continue="+page.at("metadata.continue"), nil)
	expired.wantStatus(t, 410, "Expired", "The provided continue parameter is too old to display a consistent list result.")
	rest := do(t, s, "GET", configMapsPath+"?continue="+expired.at("metadata.continue"), nil).want(t, 200)
	if got := strings.Join(rest.names(), " "); got != "c3 c5 c6 c9" {
		t.Errorf("the rest as it is now: %s", got)
	}
}

func TestListsOfAVersion(t *testing.T) {
	s := newServer(t, nil)
	first := do(t, s, "POST", configMapsPath, configMapNamed("a")).at("metadata.resourceVersion")
	do(t, s, "POST", configMapsPath, configMapNamed("b")).want(t, 201)
	for query, want := range map[string]string{
		"":                  "a b",
		"resourceVersion=0": "a b",
		"resourceVersion=0&resourceVersionMatch=NotOlderThan":             "a b",
		"resourceVersion=" + first:                                        "a b",
		"resourceVersion=" + first + "&resourceVersionMatch=NotOlderThan": "a b",
		"resourceVersion=" + first + "&resourceVersionMatch=Exact":        "a",
		"resourceVersion=" + first + "&limit=500":                         "a",
		"timeout=30s&pretty=false&fieldManager=x&fieldValidation=Strict":  "a b", // noise
	} {
		got := do(t, s, "GET", configMapsPath+"?"+query, nil).want(t, 200).names()
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
	do(t, s, "GET", configMapsPath+"?resourceVersion=1&resourceVersionMatch=Exact", nil).wantStatus(t, 410, "Expired", "too old")
	do(t, s, "GET", configMapsPath+"?resourceVersion=9999999999999999999", nil).wantStatus(t, 504, "Timeout", "Too large resource version: 9999999999999999999, current: ")
	do(t, s, "GET", configMapsPath+"?resourceVersionMatch=Exact", nil).wantStatus(t, 422, "Invalid", "resourceVersionMatch is forbidden unless resourceVersion is provided")
	do(t, s, "GET", configMapsPath+"?resourceVersion=1&resourceVersionMatch=About", nil).wantStatus(t, 422, "Invalid", "resourceVersionMatch: Unsupported value")
	do(t, s, "GET", configMapsPath+"?resourceVersion=0&resourceVersionMatch=Exact", nil).wantStatus(t, 422, "Invalid", `is forbidden for resourceVersion "0"`)
}

func TestTablesAndPartialObjects(t *testing.T) {
	s := newServer(t, nil)
	do(t, s, "POST", configMapsPath, configMapNamed("web", "a", "1")).want(t, 201)
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	rows := do(t, s, "GET", configMapsPath, nil, "Accept", table).want(t, 200, "kind", "Table", "apiVersion", "meta.k8s.io/v1",
		"columnDefinitions.0.name", "Name", "rows.0.cells.0", "web", "rows.0.object.kind", "PartialObjectMetadata", "rows.0.object.metadata.name", "web", "rows.0.object.data", "-")
	if rows.at("metadata.resourceVersion") == "-" {
		t.Error("a Table of a list has no version")
	}
	do(t, s, "GET", configMapsPath+"/web?includeObject=Object", nil, "Accept", table).want(t, 200, "rows.0.object.kind", "ConfigMap", "rows.0.object.data.a", "1")
	do(t, s, "GET", configMapsPath+"?includeObject=None", nil, "Accept", table).want(t, 200, "rows.0.object", "null")
	do(t, s, "GET", configMapsPath+"?includeObject=Some", nil, "Accept", table).wantStatus(t, 400, "BadRequest", "unrecognized includeObject value")
	do(t, s, "GET", configMapsPath+"/none", nil, "Accept", table).wantStatus(t, 404, "NotFound", "")
	const partial = "as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	do(t, s, "GET", configMapsPath+"/web", nil, "Accept", "application/json;"+partial).want(t, 200, "kind", "PartialObjectMetadata", "apiVersion", "meta.k8s.io/v1", "data", "-", "metadata.name", "web")
	do(t, s, "GET", configMapsPath, nil, "Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").want(t, 200, "kind", "PartialObjectMetadataList",
		"items.0.metadata.name", "web", "items.0.data", "-")
	list := &metav1.PartialObjectMetadataList{}
	kind := schema.GroupVersionKind{}
	if err := decodeProtobuf(do(t, s, "GET", configMapsPath, nil, "Accept", mediaProtobuf+";"+partial).body, &kind, list); err != nil || len(list.Items) != 1 || list.Items[0].Name != "web" {
		t.Errorf("%v %v", err, list)
	}
	if got := do(t, s, "GET", configMapsPath+"/web?pretty=true", nil); !strings.Contains(string(got.body), "{\n  \"kind\": \"ConfigMap\",\n") {
		t.Errorf("pretty: %s", got.body)
	}
}

func TestBigAnswersAreCompressed(t *testing.T) {
	s := newServer(t, nil)
	do(t, s, "POST", configMapsPath, configMapNamed("big", "a", strings.Repeat("0123456789abcdef", 12<<10))).want(t, 201)
	do(t, s, "POST", configMapsPath, configMapNamed("small")).want(t, 201)
	for path, compressed := range map[string]bool{"/big": true, "": true, "/small": false} {
		plain := do(t, s, "GET", configMapsPath+path, nil, "Accept-Encoding", "gzip;q=0").want(t, 200)
		got := do(t, s, "GET", configMapsPath+path, nil, "Accept-Encoding", "deflate, gzip")
		if got.header.Get("Content-Encoding") == "gzip" != compressed {
			t.Errorf("%s: Content-Encoding %q", path, got.header.Get("Content-Encoding"))
		}
		if !compressed {
			continue
		}
		unpacked, err := gzip.NewReader(strings.NewReader(string(got.body)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(unpacked)
		if err != nil || string(text) != string(plain.body) || len(got.body) > len(text)/4 {
			t.Errorf("%s: %d bytes unpack to %d, want %d; %v", path, len(got.body), len(text), len(plain.body), err)
		}
	}
}

// An object that a source computes is served like a stored one.
func TestSources(t *testing.T) {
	measured := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	s := newServer(t, func(c *Config) {
		c.Kinds = append(c.Kinds, Kind{
			Resource: Served("metrics.k8s.io", "nodes"),
			New:      func() objects.Object { return &v1.Node{} },
			Source: &Source{
				Get: func(context.Context, string, string) (objects.Object, error) { return measured, nil },
				List: func(context.Context, string) ([]objects.Object, error) {
					return []objects.Object{measured, measured}, nil
				},
			},
		})
	})
	const path = "/apis/metrics.k8s.io/v1beta1/nodes"
	do(t, s, "GET", path, nil).want(t, 200, "kind", "NodeMetricsList", "apiVersion", "metrics.k8s.io/v1beta1", "items.0.metadata.name", "node")
	do(t, s, "GET", path+"?limit=1", nil).want(t, 200, "items.1.metadata.name", "node", "metadata.continue", "-")
	do(t, s, "GET", path+"/node", nil).want(t, 200, "kind", "NodeMetrics", "metadata.name", "node")
	do(t, s, "GET", path+"?watch=1", nil).wantStatus(t, 405, "MethodNotAllowed", "")
	do(t, s, "DELETE", path+"/node", nil).wantStatus(t, 405, "MethodNotAllowed", "")
}
