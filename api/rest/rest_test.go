package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/objects"
)

// templateKind counts generations, and has lists in lists. Its rules are those of
// another package.
var templateKind = Kind{
	Resource: Served("", "podtemplates"), New: func() objects.Object { return &v1.PodTemplate{} },
	Generations: true, UnconditionalUpdate: true, ReturnsDeleted: true,
}

// newServer serves what is only stored; changes may be nil.
func newServer(t testing.TB, change func(*Config)) *Server {
	t.Helper()
	store := objects.New()
	config := Config{Store: store, Kinds: append(Kinds(KindOptions{Store: store}), templateKind), Log: logr.Discard()}
	if tt, ok := t.(*testing.T); ok {
		config.Log = testr.New(tt)
	}
	if change != nil {
		change(&config)
	}
	s := New(config)
	if err := s.ensureBuiltinNamespaces(); err != nil {
		t.Fatal(err)
	}
	return s
}

// reply is what came back.
type reply struct {
	code   int
	header http.Header
	body   []byte
}

// do sends a request; body may be nil, a string, bytes, or an object. Headers
// come in pairs.
func do(t testing.TB, s http.Handler, method, path string, body any, headers ...string) reply {
	t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	case []byte:
		reader = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	r := httptest.NewRequestWithContext(t.Context(), method, path, reader)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return reply{w.Code, w.Result().Header, w.Body.Bytes()}
}

// at reads a value of a JSON body by a path such as "metadata.name" or
// "items.0.metadata.name"; "-" if it is not there.
func (r reply) at(path string) string {
	var v any
	if err := json.Unmarshal(r.body, &v); err != nil {
		return "not JSON: " + err.Error()
	}
	return valueAt(v, path)
}

func valueAt(v any, path string) string {
	for part := range strings.SplitSeq(path, ".") {
		part = strings.ReplaceAll(part, "~", ".")
		switch in := v.(type) {
		case map[string]any:
			var found bool
			if v, found = in[part]; !found {
				return "-"
			}
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i >= len(in) {
				return "-"
			}
			v = in[i]
		default:
			return "-"
		}
	}
	if text, isText := v.(string); isText {
		return text
	}
	text, _ := json.Marshal(v)
	return string(text)
}

// want checks the code and values, in pairs of path and value.
func (r reply) want(t testing.TB, code int, pairs ...string) reply {
	t.Helper()
	if r.code != code {
		t.Fatalf("code %d, want %d: %s", r.code, code, r.body)
	}
	for i := 0; i < len(pairs); i += 2 {
		if got := r.at(pairs[i]); got != pairs[i+1] {
			t.Errorf("%s is %s, want %s\n%s", pairs[i], got, pairs[i+1], r.body)
		}
	}
	return r
}

// wantStatus checks that the answer is a Status of failure.
func (r reply) wantStatus(t testing.TB, code int, reason metav1.StatusReason, message string) {
	t.Helper()
	r.want(t, code, "kind", "Status", "apiVersion", "v1", "status", "Failure", "code", fmt.Sprint(code))
	if got := r.at("reason"); reason != "" && got != string(reason) {
		t.Errorf("reason %s, want %s", got, reason)
	}
	if got := r.at("message"); !strings.Contains(got, message) {
		t.Errorf("message %q, want %q", got, message)
	}
}

const configMapsPath = "/api/v1/namespaces/default/configmaps"

func configMapNamed(name string, data ...string) string {
	pairs := map[string]string{}
	for i := 0; i < len(data); i += 2 {
		pairs[data[i]] = data[i+1]
	}
	text, _ := json.Marshal(pairs)
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":%s}`, name, text)
}

func TestTheLifeOfAConfigMap(t *testing.T) {
	s := newServer(t, nil)
	made := do(t, s, "POST", configMapsPath, configMapNamed("web", "a", "1"), "Content-Type", "application/json").want(t, 201,
		"kind", "ConfigMap", "apiVersion", "v1", "metadata.name", "web", "metadata.namespace", "default", "data.a", "1",
		"metadata.generation", "-")
	for _, field := range []string{"metadata.uid", "metadata.creationTimestamp", "metadata.resourceVersion"} {
		if v := made.at(field); v == "-" || v == "" {
			t.Errorf("%s is not set", field)
		}
	}
	do(t, s, "POST", configMapsPath, configMapNamed("web")).wantStatus(t, 409, metav1.StatusReasonAlreadyExists, `configmaps "web" already exists`)
	got := do(t, s, "GET", configMapsPath+"/web", nil).want(t, 200)
	if !bytes.Equal(got.body, made.body) {
		t.Errorf("get says\n%s, create said\n%s", got.body, made.body)
	}
	do(t, s, "GET", "/api/v1/configmaps", nil).want(t, 200, "kind", "ConfigMapList", "items.0.metadata.name", "web",
		"items.0.kind", "-", "metadata.resourceVersion", made.at("metadata.resourceVersion"))

	changed := do(t, s, "PUT", configMapsPath+"/web", strings.Replace(string(made.body), `"a":"1"`, `"a":"2"`, 1)).want(t, 200, "data.a", "2",
		"metadata.uid", made.at("metadata.uid"), "metadata.creationTimestamp", made.at("metadata.creationTimestamp"))
	do(t, s, "PUT", configMapsPath+"/web", string(made.body)).wantStatus(t, 409, metav1.StatusReasonConflict,
		`Operation cannot be fulfilled on configmaps "web": the object has been modified; please apply your changes to the latest version and try again`)
	do(t, s, "PUT", configMapsPath+"/web", string(changed.body)).want(t, 200, "metadata.resourceVersion", changed.at("metadata.resourceVersion"))

	do(t, s, "DELETE", configMapsPath+"/web", `{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}`).want(t, 200,
		"kind", "Status", "status", "Success", "details.name", "web", "details.kind", "configmaps", "details.uid", made.at("metadata.uid"))
	do(t, s, "GET", configMapsPath+"/web", nil).wantStatus(t, 404, metav1.StatusReasonNotFound, `configmaps "web" not found`)
	do(t, s, "DELETE", configMapsPath+"/web", nil).wantStatus(t, 404, metav1.StatusReasonNotFound, `configmaps "web" not found`)
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/api/v1/pods":                                     "v1 pods",
		"/api/v1/pods/":                                    "v1 pods",
		"/api/v1/namespaces":                               "v1 namespaces",
		"/api/v1/namespaces/a":                             "v1 namespaces name=a",
		"/api/v1/namespaces/a/status":                      "v1 namespaces name=a sub=status",
		"/api/v1/namespaces/a/finalize":                    "v1 namespaces name=a sub=finalize",
		"/api/v1/namespaces/a/pods":                        "v1 pods ns=a",
		"/api/v1/namespaces/a/pods/b":                      "v1 pods ns=a name=b",
		"/api/v1/namespaces/a/pods/b/log":                  "v1 pods ns=a name=b sub=log",
		"/api/v1/namespaces/a/pods/b/proxy/x//y%2Fz/":      "v1 pods ns=a name=b sub=proxy tail=x//y%2Fz/",
		"/api/v1/nodes/b/proxy/":                           "v1 nodes name=b sub=proxy",
		"/api/v1/nodes/b/proxy//":                          "v1 nodes name=b sub=proxy tail=/",
		"/api/v1/namespaces/a/":                            "v1 namespaces name=a",
		"/api/v1/namespaces/a/status/":                     "v1 namespaces name=a sub=status",
		"/api/v1/namespaces/a/pods/":                       "v1 pods ns=a",
		"/api/v1/namespaces/a/pods/b%3Ac":                  "v1 pods ns=a name=b:c",
		"/apis/node.k8s.io/v1/runtimeclasses/a":            "node.k8s.io/v1 runtimeclasses name=a",
		"/apis/coordination.k8s.io/v1/namespaces/a/leases": "coordination.k8s.io/v1 leases ns=a",
		"/apis/namespaces/v1/namespaces":                   "namespaces/v1 namespaces",
		"/api":                                             "",
		"/api/":                                            "",
		"/api/v1":                                          "",
		"/api/v1/":                                         "",
		"/apis/node.k8s.io/v1":                             "",
		"/apis/node.k8s.io/v1/":                            "",
		"/":                                                "",
		"":                                                 "",
		"//api/v1/pods":                                    "",
		"/api//v1/pods":                                    "",
		"/api/v1//pods":                                    "",
		"/api/v1/namespaces//pods":                         "",
		"/api/v1/namespaces/a//pods":                       "",
		"/api/v1/namespaces/../secrets":                    "",
		"/api/v1/namespaces/%2e%2e/pods":                   "",
		"/api/v1/namespaces/a%2Fpods":                      "",
		"/api/v1/namespaces/a/pods/b%2Flog":                "",
		"/api/v1/namespaces/a/pods/%00":                    "",
		"/api/v1/namespaces/a/pods/%zz":                    "",
		"/API/v1/pods":                                     "",
	} {
		q, ok := parsePath(path)
		got := ""
		if ok {
			got = strings.TrimPrefix(q.Group+"/"+q.Version, "/") + " " + q.Resource
			for _, part := range []string{"ns=" + q.Namespace, "name=" + q.Name, "sub=" + q.Subresource, "tail=" + q.Tail} {
				if !strings.HasSuffix(part, "=") {
					got += " " + part
				}
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestWhatIsNotServedIsAStatus(t *testing.T) {
	s := newServer(t, nil)
	for _, c := range []struct {
		method, path string
		code         int
		reason       metav1.StatusReason
		message      string
	}{
		{"GET", "/api/v1/nothings", 404, "NotFound", "the server could not find the requested resource"},
		{"GET", "/api/v2/configmaps", 404, "NotFound", "the server could not find the requested resource"},
		{"GET", "/apis/apps/v1/deployments/web", 404, "NotFound", "the server could not find the requested resource"},
		{"GET", "/apis/apps/v1/deployments?watch=1", 404, "NotFound", "the server could not find the requested resource"},
		{"POST", "/apis/apps/v1/namespaces/default/deployments", 404, "NotFound", "the server could not find the requested resource"},
		{"GET", "/apis/apps/v1beta1/deployments", 404, "NotFound", "the server could not find the requested resource"},
		{"GET", "/api/v1/configmaps/web", 404, "NotFound", "the server could not find the requested resource"},
		{"GET", "/api/v1/namespaces/default/nodes", 404, "NotFound", "the server could not find the requested resource"},
		{"GET", configMapsPath + "/web/status", 404, "NotFound", "the server could not find the requested resource"},
		{"GET", "/somewhere", 404, "NotFound", "the server could not find the requested resource"},
		{"POST", configMapsPath + "/web", 405, "MethodNotAllowed", `not supported on resources of kind "configmaps"`},
		{"PUT", configMapsPath, 405, "MethodNotAllowed", `not supported on resources of kind "configmaps"`},
		{"OPTIONS", configMapsPath, 405, "MethodNotAllowed", "not supported"},
		{"DELETE", "/api/v1/namespaces", 405, "MethodNotAllowed", "not supported"},
		{"POST", "/api/v1/namespaces/default/status", 405, "MethodNotAllowed", `not supported on resources of kind "namespaces/status"`},
		{"POST", "/api/v1/configmaps", 405, "MethodNotAllowed", "not supported"},
		{"DELETE", "/api/v1/configmaps", 405, "MethodNotAllowed", "not supported"}, // not of all namespaces at once
		{"POST", "/api/v1/namespaces/default/serviceaccounts/default/token", 404, "NotFound", "issues no tokens"},
		{"GET", "/api/v1/namespaces/none", 404, "NotFound", `namespaces "none" not found`},
		{"POST", "/api/v1/namespaces/none/configmaps", 404, "NotFound", `namespaces "none" not found`},
	} {
		var body any
		if c.method == "POST" {
			body = configMapNamed("web")
		}
		do(t, s, c.method, c.path, body).wantStatus(t, c.code, c.reason, c.message)
	}
	do(t, s, "GET", "/api/v1/namespaces/none/configmaps", nil).want(t, 200, "items", "[]")
}

// kubectl cluster-info dump and the set-up of Kubernetes' end-to-end suite list these,
// whatever discovery says.
func TestOfSomeKindsThereAreNone(t *testing.T) {
	asked := ""
	s := newServer(t, func(c *Config) {
		c.Allowed = func(_ context.Context, q Request) error {
			asked = fmt.Sprint(q.Verb, " ", q.Group, " ", q.Resource, " ", q.Namespace)
			return nil
		}
	})
	for path, want := range map[string]string{
		"/api/v1/namespaces/kube-system/replicationcontrollers":          "ReplicationControllerList v1 list  replicationcontrollers kube-system",
		"/apis/apps/v1/namespaces/kube-system/replicasets?limit=500":     "ReplicaSetList apps/v1 list apps replicasets kube-system",
		"/apis/apiextensions.k8s.io/v1/customresourcedefinitions":        "CustomResourceDefinitionList apiextensions.k8s.io/v1 list apiextensions.k8s.io customresourcedefinitions ",
		"/apis/apps/v1/daemonsets":                                       "DaemonSetList apps/v1 list apps daemonsets ",
		"/apis/apps/v1/namespaces/default/deployments?labelSelector=a=b": "DeploymentList apps/v1 list apps deployments default",
	} {
		got := do(t, s, "GET", path, nil)
		var list struct {
			metav1.TypeMeta `json:",inline"`
			metav1.ListMeta `json:"metadata"`
			Items           []any `json:"items"`
		}
		if err := json.Unmarshal(got.body, &list); err != nil {
			t.Fatal(err)
		}
		if found := fmt.Sprint(list.Kind, " ", list.APIVersion, " ", asked); found != want || list.ResourceVersion == "" || list.Items == nil {
			t.Errorf("%s: %s of %s", path, found, got.body)
		}
	}
}

func TestWhatIsNoResourceIsPassedOn(t *testing.T) {
	s := newServer(t, func(c *Config) {
		c.Other = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `"`+r.URL.Path+`"`) })
	})
	for _, path := range []string{"/api", "/apis/node.k8s.io/v1", "/version"} {
		if got := do(t, s, "GET", path, nil); string(got.body) != `"`+path+`"` {
			t.Errorf("%s: %s", path, got.body)
		}
	}
}

func TestTheAnswerHasTheFormThatWasAskedFor(t *testing.T) {
	for accept, want := range map[string]string{
		"":                                    "application/json",
		"*/*":                                 "application/json",
		"application/json":                    "application/json",
		"application/yaml":                    "application/yaml",
		"application/vnd.kubernetes.protobuf": "application/vnd.kubernetes.protobuf",
		"application/vnd.kubernetes.protobuf,application/json":                                      "application/vnd.kubernetes.protobuf",
		"application/json;q=0.5, application/yaml":                                                  "application/yaml",
		"text/html,*/*;q=0.1":                                                                       "application/json",
		"application/cbor,application/json":                                                         "application/json",
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json":                             "application/json Table v1",
		"application/json;as=Table;v=v1beta1;g=meta.k8s.io":                                         "application/json Table v1beta1",
		"application/json;as=Table;v=v9;g=meta.k8s.io,application/json":                             "application/json",
		"application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,*/*;q=0.8": "application/vnd.kubernetes.protobuf PartialObjectMetadata v1",
		"text/html":                            "406",
		"application/json;q=0":                 "406",
		"application/json;as=Table":            "406",
		"application/json;as=Foo;v=v1;g=other": "406",
	} {
		f, err := negotiate(accept, func() bool { return true })
		got := strings.TrimSpace(f.media + " " + f.as + " " + f.version)
		if err != nil {
			got = "406"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
	do(t, newServer(t, nil), "GET", configMapsPath, nil, "Accept", "text/html").wantStatus(t, 406, "NotAcceptable",
		"only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf")
}

func TestWhoMayNotIsTold(t *testing.T) {
	var asked []Request
	s := newServer(t, func(c *Config) {
		c.Allowed = func(_ context.Context, q Request) error {
			asked = append(asked, q)
			return apierrors.NewForbidden(schema.GroupResource{Resource: q.Resource}, q.Name, errors.New("no"))
		}
	})
	do(t, s, "GET", configMapsPath+"/web", nil).wantStatus(t, 403, "Forbidden", `configmaps "web" is forbidden: no`)
	do(t, s, "DELETE", configMapsPath+"?watch=1", nil).wantStatus(t, 403, "Forbidden", "")
	do(t, s, "GET", "/api/v1/nodes?watch=true", nil).wantStatus(t, 403, "Forbidden", "")
	want := []Request{
		{Verb: "get", Version: "v1", Resource: "configmaps", Namespace: "default", Name: "web"},
		{Verb: "deletecollection", Version: "v1", Resource: "configmaps", Namespace: "default"},
		{Verb: "watch", Version: "v1", Resource: "nodes"},
	}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("asked about %+v, want %+v", asked, want)
	}
}

func TestOnlyAProxyHasMoreOfAPath(t *testing.T) {
	tail := func(w http.ResponseWriter, r *http.Request, _ objects.Object) {
		fmt.Fprint(w, RequestOf(r.Context()).Tail)
	}
	s := newServer(t, func(c *Config) {
		c.Kinds = append(c.Kinds, Kind{
			Resource: Served("", "pods"), New: func() objects.Object { return &v1.Pod{} },
			Sub: map[string]*Subresource{"log": {Handler: tail}, "proxy": {Handler: tail}},
		})
	})
	path := "/api/v1/namespaces/default/pods"
	do(t, s, "POST", path, `{"metadata":{"name":"a"}}`).want(t, 201)
	for sub, want := range map[string]string{"proxy": "", "proxy/": "", "proxy/x/y": "x/y", "proxy/x/": "x/", "log": "", "log/": ""} {
		if got := do(t, s, "GET", path+"/a/"+sub, nil); got.code != 200 || string(got.body) != want {
			t.Errorf("%s: %d, %s", sub, got.code, got.body)
		}
	}
	do(t, s, "GET", path+"/a/log/x", nil).wantStatus(t, 404, "NotFound", "the server could not find the requested resource")
}

// The words are Kubernetes'; kubectl prints them.
func TestWhoeverUsesADeprecatedKindIsWarned(t *testing.T) {
	s := newServer(t, nil)
	path := "/api/v1/namespaces/default/endpoints"
	for _, r := range []reply{
		do(t, s, "GET", path, nil).want(t, 200),
		do(t, s, "GET", path+"/none", nil).want(t, 404),
		do(t, s, "POST", path, `{"metadata":{"name":"a"}}`).want(t, 201),
	} {
		if got, want := r.header["Warning"], `299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"`; len(got) != 1 || got[0] != want {
			t.Errorf("got %q, want %s", got, want)
		}
	}
	if got := do(t, s, "GET", configMapsPath, nil).header["Warning"]; got != nil {
		t.Errorf("ConfigMaps: %q", got)
	}
}

func TestTheTextOfAnObjectIsThatOfItsNewestVersion(t *testing.T) {
	s := newServer(t, nil)
	path := "/api/v1/namespaces/default/configmaps/a"
	do(t, s, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"a"},"data":{"k":"1"}}`).want(t, 201)
	for _, value := range []string{"2", "3"} {
		do(t, s, "PATCH", path, `{"data":{"k":"`+value+`"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
		first := do(t, s, "GET", path, nil)
		first.want(t, 200)
		again := do(t, s, "GET", path, nil)
		for _, want := range []string{`"kind":"ConfigMap"`, `"apiVersion":"v1"`, `"k":"` + value + `"`} {
			if !strings.Contains(string(first.body), want) {
				t.Errorf("without %s: %s", want, first.body)
			}
		}
		if string(again.body) != string(first.body) {
			t.Errorf("first %s\nthen %s", first.body, again.body)
		}
	}
}

func TestTextsAreFewAndNoneIsOfASecret(t *testing.T) {
	s := newServer(t, nil)
	for _, plural := range []string{"configmaps", "secrets"} {
		for i := range textsMost + 5 {
			path := "/api/v1/namespaces/default/" + plural
			do(t, s, "POST", path, fmt.Sprintf(`{"metadata":{"name":"o%d"}}`, i)).want(t, 201)
			do(t, s, "GET", fmt.Sprintf("%s/o%d", path, i), nil).want(t, 200)
		}
	}
	do(t, s, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"big"},"data":{"k":"`+strings.Repeat("x", textMost)+`"}}`).want(t, 201)
	do(t, s, "GET", "/api/v1/namespaces/default/configmaps/big", nil).want(t, 200)
	if len(s.texts.made) != textsMost {
		t.Errorf("%d texts are kept", len(s.texts.made))
	}
	for o := range s.texts.made {
		if m, is := o.(*v1.ConfigMap); !is || m.Name == "big" {
			t.Errorf("kept: %T %s", o, o.GetName())
		}
	}
}
