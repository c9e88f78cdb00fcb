package rest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/objects"
)

// enveloped returns an object as a protobuf body.
func enveloped(t testing.TB, o runtime.Object, apiVersion, kind string) []byte {
	t.Helper()
	o.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(apiVersion, kind))
	data, err := protobufOf(o)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestBodiesInThreeLanguages(t *testing.T) {
	for media, body := range map[string]any{
		"":                                    configMapNamed("web", "a", "1"),
		"application/json":                    configMapNamed("web", "a", "1"),
		"application/json; charset=utf-8":     configMapNamed("web", "a", "1"),
		"application/yaml":                    "metadata:\n  name: web\ndata:\n  a: '1'\n",
		"application/vnd.kubernetes.protobuf": enveloped(t, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Data: map[string]string{"a": "1"}}, "v1", "ConfigMap"),
	} {
		s := newServer(t, nil)
		do(t, s, "POST", configMapsPath, body, "Content-Type", media).want(t, 201, "metadata.name", "web", "data.a", "1")
		got := do(t, s, "GET", configMapsPath+"/web", nil, "Accept", "application/vnd.kubernetes.protobuf")
		c := &v1.ConfigMap{}
		kind := schema.GroupVersionKind{}
		if err := decodeProtobuf(got.body, &kind, c); err != nil || c.Data["a"] != "1" || kind.String() != "/v1, Kind=ConfigMap" {
			t.Errorf("%s: %v %v %v", media, err, kind, c)
		}
		list := do(t, s, "GET", configMapsPath, nil, "Accept", "application/vnd.kubernetes.protobuf")
		all := &v1.ConfigMapList{}
		if err := decodeProtobuf(list.body, &kind, all); err != nil || len(all.Items) != 1 || all.Items[0].Data["a"] != "1" ||
			all.ResourceVersion != c.ResourceVersion || kind.Kind != "ConfigMapList" {
			t.Errorf("%s: %v %v %v", media, err, kind, all)
		}
		if text := do(t, s, "GET", configMapsPath+"/web", nil, "Accept", "application/yaml"); !bytes.Contains(text.body, []byte("data:\n  a: \"1\"\n")) {
			t.Errorf("%s: %s", media, text.body)
		}
		if text := do(t, s, "GET", configMapsPath, nil, "Accept", "application/yaml"); !bytes.Contains(text.body, []byte("kind: ConfigMapList\n")) {
			t.Errorf("%s: %s", media, text.body)
		}
	}
}

func TestBodiesThatCannotBe(t *testing.T) {
	s := newServer(t, nil)
	other := enveloped(t, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "web"}}, "v1", "Secret")
	for _, c := range []struct {
		media   string
		body    any
		code    int
		message string
	}{
		{"text/plain", "x", 415, "the body of the request was in an unknown format - accepted media types include: application/json"},
		{"nonsense;;", "x", 415, "unknown format"},
		{"", "", 400, "the body is empty"},
		{"", "null", 400, "name or generateName is required"},
		{"", "[]", 400, `ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal array`},
		{"", `{"kind":"ConfigMap"`, 400, "unexpected end of JSON input"},
		{"", `{"metadata":{"name":"web"},"data":{"a":1}}`, 400, "cannot unmarshal number into Go struct field ConfigMap.data of type string"},
		{"", `{"apiVersion":"v2","metadata":{"name":"web"}}`, 400, "the API version in the data (v2) does not match the expected API version (v1)"},
		{"", `{"apiVersion":"a/b/c"}`, 400, "unexpected GroupVersion string"},
		{"", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"web"}}`, 400, `Secret in version "v1" cannot be handled as a ConfigMap`},
		{"", `{"metadata":{"name":"web","namespace":"other"}}`, 400, "the namespace of the provided object does not match the namespace sent on the request"},
		{"", `{"metadata":{"name":"web","resourceVersion":"5"}}`, 400, "resourceVersion should not be set on objects to be created"},
		{"application/yaml", "a: [", 400, "yaml"},
		{"application/yaml", "&a [*a,*a]", 400, "cannot be handled"},
		{"application/vnd.kubernetes.protobuf", "{}", 400, "provided data does not appear to be a protobuf message"},
		{"application/vnd.kubernetes.protobuf", "k8s\x00\xff\xff\xff\xff", 400, "cannot be handled as a ConfigMap"},
		{"application/vnd.kubernetes.protobuf", []byte("k8s\x00"), 422, "name or generateName is required"},
		{"application/vnd.kubernetes.protobuf", other, 400, `Secret in version "v1" cannot be handled as a ConfigMap`},
		{"", `{"metadata":{"name":"web"},"data":{"a":"` + strings.Repeat("x", maxBody) + `"}}`, 413, "limit is 3145728"},
	} {
		r := do(t, s, "POST", configMapsPath, c.body, "Content-Type", c.media)
		if c.message == "name or generateName is required" {
			c.code = 422
		}
		r.wantStatus(t, c.code, "", c.message)
	}
	if all, _ := s.Store.List(schema.GroupResource{Resource: "configmaps"}, ""); len(all) != 0 {
		t.Errorf("stored: %v", all)
	}
}

func TestUnknownFieldsByFieldValidation(t *testing.T) {
	s := newServer(t, nil)
	body := `{"metadata":{"name":"%s","name":"%[1]s","nmae":"x"},"dta":{}}`
	strict := do(t, s, "POST", configMapsPath+"?fieldValidation=Strict", fmt.Sprintf(body, "strict"))
	strict.wantStatus(t, 400, "BadRequest", `ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: `)
	for _, unknown := range []string{`unknown field "dta"`, `unknown field "metadata.nmae"`, `duplicate field "metadata.name"`} {
		if !strings.Contains(strict.at("message"), unknown) {
			t.Errorf("%s is not in %s", unknown, strict.at("message"))
		}
	}
	for _, query := range []string{"", "?fieldValidation=Warn"} {
		warned := do(t, s, "POST", configMapsPath+query, fmt.Sprintf(body, "warn"+fmt.Sprint(len(query)))).want(t, 201)
		if got := warned.header.Values("Warning"); len(got) != 3 || !strings.Contains(strings.Join(got, "\n"), `299 - "unknown field \"metadata.nmae\""`) {
			t.Errorf("%s: warnings %q", query, got)
		}
	}
	ignored := do(t, s, "POST", configMapsPath+"?fieldValidation=Ignore", fmt.Sprintf(body, "ignore")).want(t, 201)
	if got := ignored.header.Values("Warning"); len(got) != 0 {
		t.Errorf("warnings %q", got)
	}
	do(t, s, "POST", configMapsPath+"?fieldValidation=Lax", fmt.Sprintf(body, "lax")).wantStatus(t, 422, "Invalid", `CreateOptions.meta.k8s.io "" is invalid: fieldValidation`)
	do(t, s, "POST", configMapsPath+"?fieldValidation=Strict", "metadata:\n  name: yaml\ndata:\n  a: one\n  a: two\n", "Content-Type", "application/yaml").
		wantStatus(t, 400, "BadRequest", `strict decoding error: line 5: key "a" already set in map`)
}

func TestADryRunChangesNothing(t *testing.T) {
	persisted := 0
	s := newServer(t, nil)
	do(t, s, "POST", configMapsPath, configMapNamed("web", "a", "1")).want(t, 201)
	s.Persist = func(_, _ objects.Object) error { persisted++; return nil }
	before := s.Store.Version()
	do(t, s, "POST", configMapsPath+"?dryRun=All", configMapNamed("new")).want(t, 201, "metadata.name", "new")
	do(t, s, "POST", configMapsPath+"?dryRun=All", configMapNamed("web")).wantStatus(t, 409, "AlreadyExists", "")
	do(t, s, "POST", configMapsPath+"?dryRun=All", configMapNamed("web/x")).wantStatus(t, 422, "Invalid", "")
	do(t, s, "PUT", configMapsPath+"/web?dryRun=All", configMapNamed("web", "a", "2")).want(t, 200, "data.a", "2")
	do(t, s, "PUT", configMapsPath+"/none?dryRun=All", configMapNamed("none", "a", "2")).wantStatus(t, 404, "NotFound", "")
	do(t, s, "DELETE", configMapsPath+"/web?dryRun=All", nil).want(t, 200, "status", "Success")
	do(t, s, "DELETE", configMapsPath+"/web", `{"dryRun":["All"]}`).want(t, 200, "status", "Success")
	do(t, s, "DELETE", configMapsPath+"?dryRun=All", nil).want(t, 200, "items.0.metadata.name", "web")
	do(t, s, "POST", "/api/v1/namespaces?dryRun=All", `{"metadata":{"name":"new"}}`).want(t, 201)
	if persisted != 0 || s.Store.Version() != before {
		t.Errorf("%d changes were persisted, the version went on by %d", persisted, s.Store.Version()-before)
	}
	do(t, s, "POST", configMapsPath+"?dryRun=Some", configMapNamed("new")).wantStatus(t, 422, "Invalid", `dryRun: Unsupported value`)
}

func TestGeneratedNames(t *testing.T) {
	s := newServer(t, nil)
	for range 3 {
		name := do(t, s, "POST", configMapsPath, `{"metadata":{"generateName":"web-"}}`).want(t, 201, "metadata.generateName", "web-").at("metadata.name")
		if !regexp.MustCompile(`^web-[a-z0-9]{5}$`).MatchString(name) {
			t.Errorf("got name %s", name)
		}
	}
	long := do(t, s, "POST", configMapsPath, `{"metadata":{"generateName":"`+strings.Repeat("x", 80)+`"}}`).want(t, 201).at("metadata.name")
	if len(long) != 63 {
		t.Errorf("got name %s of %d characters", long, len(long))
	}
}

func TestWhatAClientCannotSetIsNotTaken(t *testing.T) {
	s := newServer(t, nil)
	body := `{"metadata":{"name":"web","uid":"mine","creationTimestamp":"2001-01-01T00:00:00Z","deletionTimestamp":"2001-01-01T00:00:00Z",
		"deletionGracePeriodSeconds":5,"generation":7,"selfLink":"/x"}}`
	made := do(t, s, "POST", configMapsPath, body).want(t, 201, "metadata.deletionTimestamp", "-", "metadata.deletionGracePeriodSeconds", "-",
		"metadata.generation", "-", "metadata.selfLink", "-")
	if made.at("metadata.uid") == "mine" || strings.HasPrefix(made.at("metadata.creationTimestamp"), "2001") {
		t.Errorf("got %s", made.body)
	}
	do(t, s, "PUT", configMapsPath+"/web", `{"metadata":{"name":"web","uid":"mine"}}`).wantStatus(t, 409, "Conflict", "Precondition failed: UID in precondition: mine, UID in object meta: ")
	do(t, s, "PUT", configMapsPath+"/web", `{"metadata":{"name":"web","deletionTimestamp":"2001-01-01T00:00:00Z","generation":9,"labels":{"a":"b"}}}`).
		want(t, 200, "metadata.deletionTimestamp", "-", "metadata.generation", "-", "metadata.labels.a", "b")
	do(t, s, "PUT", configMapsPath+"/web", `{"metadata":{"name":"other"}}`).wantStatus(t, 400, "BadRequest", "the name of the object (other) does not match the name on the URL (web)")
	do(t, s, "PUT", configMapsPath+"/web", `{"metadata":{}}`).wantStatus(t, 400, "BadRequest", "name must be provided")
	do(t, s, "PUT", configMapsPath+"/web", `{"metadata":{"name":"web","creationTimestamp":"2001-01-01T00:00:00Z"}}`).
		wantStatus(t, 422, "Invalid", "metadata.creationTimestamp: Invalid value")
}

func TestPutCreatesWhereKubernetesDoes(t *testing.T) {
	s := newServer(t, nil)
	leases := "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node"
	lease := enveloped(t, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, "coordination.k8s.io/v1", "Lease")
	made := do(t, s, "PUT", leases, lease, "Content-Type", mediaProtobuf).want(t, 201, "metadata.name", "node")
	do(t, s, "PUT", leases, `{"metadata":{"name":"node"}}`).wantStatus(t, 422, "Invalid", "metadata.resourceVersion: Invalid value: 0: must be specified for an update")
	do(t, s, "PUT", leases, string(made.body)).want(t, 200)
	do(t, s, "PUT", configMapsPath+"/web", configMapNamed("web")).wantStatus(t, 404, "NotFound", `configmaps "web" not found`)

	s.Allowed = func(_ context.Context, q Request) error {
		if q.Verb == "create" {
			return apierrors.NewForbidden(schema.GroupResource{Resource: q.Resource}, q.Name, errors.New("no"))
		}
		return nil
	}
	do(t, s, "PUT", leases+"2", `{"metadata":{"name":"node2"}}`).wantStatus(t, 403, "Forbidden", `leases "node2" is forbidden: no`)
}

func TestDeletionWaitsForFinalizers(t *testing.T) {
	s := newServer(t, nil)
	do(t, s, "POST", configMapsPath, `{"metadata":{"name":"web","finalizers":["example.com/hold"]}}`).want(t, 201)
	going := do(t, s, "DELETE", configMapsPath+"/web", nil).want(t, 200, "kind", "ConfigMap", "metadata.deletionGracePeriodSeconds", "0")
	if going.at("metadata.deletionTimestamp") == "-" {
		t.Errorf("no deletionTimestamp: %s", going.body)
	}
	again := do(t, s, "DELETE", configMapsPath+"/web", nil).want(t, 200, "metadata.resourceVersion", going.at("metadata.resourceVersion"))
	more := strings.Replace(string(again.body), `"example.com/hold"`, `"example.com/hold","example.com/more"`, 1)
	do(t, s, "PUT", configMapsPath+"/web", more).wantStatus(t, 422, "Invalid", "no new finalizers can be added if the object is being deleted")
	w := startWatch(t, listen(t, s)+configMapsPath+"?watch=1")
	w.want("ADDED web")
	last := do(t, s, "PUT", configMapsPath+"/web", strings.Replace(string(again.body), `,"finalizers":["example.com/hold"]`, "", 1)).want(t, 200, "metadata.finalizers", "-")
	w.want("DELETED web metadata.resourceVersion=" + last.at("metadata.resourceVersion"))
	do(t, s, "GET", configMapsPath+"/web", nil).wantStatus(t, 404, "NotFound", "")
	do(t, s, "POST", configMapsPath, `{"metadata":{"name":"web","finalizers":["example.com/hold"]}}`).want(t, 201)
	do(t, s, "DELETE", configMapsPath+"/web?propagationPolicy=Foreground", nil).want(t, 202, "kind", "ConfigMap")
}

func TestDeleteOptions(t *testing.T) {
	s := newServer(t, nil)
	make := func() (uid, version string) {
		r := do(t, s, "POST", configMapsPath, configMapNamed("web")).want(t, 201)
		return r.at("metadata.uid"), r.at("metadata.resourceVersion")
	}
	uid, version := make()
	path := configMapsPath + "/web"
	do(t, s, "DELETE", path, `{"preconditions":{"uid":"other"}}`).wantStatus(t, 409, "Conflict", "Precondition failed: UID in precondition: other, UID in object meta: "+uid)
	do(t, s, "DELETE", path, `{"preconditions":{"resourceVersion":"1"}}`).wantStatus(t, 409, "Conflict", "Precondition failed: ResourceVersion in precondition: 1, ResourceVersion in object meta: "+version)
	do(t, s, "DELETE", path, `{"propagationPolicy":"Sideways"}`).wantStatus(t, 422, "Invalid", "propagationPolicy")
	do(t, s, "DELETE", path+"?gracePeriodSeconds=soon", nil).wantStatus(t, 400, "BadRequest", "gracePeriodSeconds")
	do(t, s, "DELETE", path, `{"kind":"Pod"}`).wantStatus(t, 400, "BadRequest", "decoded object cannot be converted to DeleteOptions")
	do(t, s, "DELETE", path, `{"preconditions":{"uid":"`+uid+`","resourceVersion":"`+version+`"}}`).want(t, 200)
	for media, body := range map[string][]byte{
		mediaProtobuf: enveloped(t, &metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, "v1", "DeleteOptions"),
		mediaJSON:     []byte(`{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1"}`),
		mediaYAML:     []byte("gracePeriodSeconds: 0\n"),
	} {
		make()
		do(t, s, "DELETE", path, body, "Content-Type", media).want(t, 200, "status", "Success")
	}
}

func TestDeleteCollection(t *testing.T) {
	s := newServer(t, nil)
	for _, name := range []string{"a", "b", "c"} {
		do(t, s, "POST", configMapsPath, strings.Replace(configMapNamed(name), `"metadata":{`, `"metadata":{"labels":{"is":"`+name+`"},`, 1)).want(t, 201)
	}
	do(t, s, "DELETE", configMapsPath+"?labelSelector=is+in+(a,b)", nil).want(t, 200, "kind", "ConfigMapList", "items.0.metadata.name", "a", "items.1.metadata.name", "b", "items.2", "-")
	do(t, s, "GET", configMapsPath, nil).want(t, 200, "items.0.metadata.name", "c", "items.1", "-")
}

// The hooks see every change before it is made, and can refuse it.
func TestHooks(t *testing.T) {
	var seen []string
	var refuse error
	name := func(o objects.Object) string {
		if o == nil {
			return "nothing"
		}
		return o.GetName() + "=" + o.(*v1.ConfigMap).Data["a"]
	}
	s := newServer(t, nil)
	s.Persist = func(old, o objects.Object) error {
		seen = append(seen, name(old)+" to "+name(o))
		return refuse
	}
	s.Admit = func(_ context.Context, q Request, o, old objects.Object) error {
		seen = append(seen, q.Verb+" "+q.Name)
		return nil
	}
	expect := func(want ...string) {
		t.Helper()
		if fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("saw %q, want %q", seen, want)
		}
		seen = nil
	}
	do(t, s, "POST", configMapsPath, configMapNamed("web", "a", "1")).want(t, 201)
	expect("create web", "nothing to web=1")
	do(t, s, "PUT", configMapsPath+"/web", configMapNamed("web", "a", "2")).want(t, 200)
	expect("update web", "web=1 to web=2")
	do(t, s, "PUT", configMapsPath+"/web", configMapNamed("web", "a", "2")).want(t, 200)
	expect("update web")
	refuse = errors.New("disk full")
	do(t, s, "PUT", configMapsPath+"/web", configMapNamed("web", "a", "3")).wantStatus(t, 500, "InternalError", "disk full")
	refuse = apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "web", errors.New("web.yaml:3 declares it"))
	do(t, s, "DELETE", configMapsPath+"/web", nil).wantStatus(t, 403, "Forbidden", `configmaps "web" is forbidden: web.yaml:3 declares it`)
	refuse = nil
	do(t, s, "GET", configMapsPath+"/web", nil).want(t, 200, "data.a", "2")
	seen = nil
	do(t, s, "DELETE", configMapsPath+"/web", nil).want(t, 200)
	expect("delete web", "web=2 to nothing")
}

func TestSecretsInEveryShape(t *testing.T) {
	s := newServer(t, nil)
	path := "/api/v1/namespaces/default/secrets"
	encode := base64.StdEncoding.EncodeToString
	do(t, s, "POST", path, `{"metadata":{"name":"web"},"data":{"a":"`+encode([]byte("1"))+`","b":"`+encode([]byte("2"))+`"},"stringData":{"a":"text"}}`).
		want(t, 201, "type", "Opaque", "stringData", "-", "data.a", encode([]byte("text")), "data.b", encode([]byte("2")))
	do(t, s, "GET", path+"?fieldSelector=type%3DOpaque", nil).want(t, 200, "items.0.metadata.name", "web")
	do(t, s, "GET", path+"?fieldSelector=type!%3DOpaque", nil).want(t, 200, "items", "[]")
	do(t, s, "PUT", path+"/web", `{"metadata":{"name":"web"},"type":"other"}`).wantStatus(t, 422, "Invalid", `Secret "web" is invalid: type: Invalid value: "other": field is immutable`)
}

// What takes its time to end, as pods do, has a time at which it goes.
func TestGracefulDeletion(t *testing.T) {
	s := newServer(t, func(c *Config) {
		c.Kinds = append(c.Kinds, Kind{
			Resource: Served("", "pods"), New: func() objects.Object { return &v1.Pod{} }, Generations: true, ReturnsDeleted: true,
			Grace: func(_ objects.Object, asked *int64) int64 {
				if asked != nil {
					return *asked
				}
				return 30
			},
		})
	})
	const path = "/api/v1/namespaces/default/pods"
	do(t, s, "POST", path, `{"metadata":{"name":"web"}}`).want(t, 201, "metadata.generation", "1")
	w := startWatch(t, listen(t, s)+path+"?watch=1")
	w.want("ADDED web")
	first := do(t, s, "DELETE", path+"/web", nil).want(t, 200, "kind", "Pod", "metadata.deletionGracePeriodSeconds", "30", "metadata.generation", "2")
	do(t, s, "DELETE", path+"/web", nil).want(t, 200, "metadata.resourceVersion", first.at("metadata.resourceVersion"))
	do(t, s, "DELETE", path+"/web?gracePeriodSeconds=60", nil).want(t, 200, "metadata.resourceVersion", first.at("metadata.resourceVersion"))
	shorter := do(t, s, "DELETE", path+"/web", `{"gracePeriodSeconds":5}`).want(t, 200, "metadata.deletionGracePeriodSeconds", "5", "metadata.generation", "2")
	var times [2]metav1.Time
	for i, r := range []reply{first, shorter} {
		if err := times[i].UnmarshalQueryParameter(r.at("metadata.deletionTimestamp")); err != nil {
			t.Fatal(err)
		}
	}
	if sooner := times[0].Sub(times[1].Time).Seconds(); sooner != 25 {
		t.Errorf("the end comes %v seconds sooner, want 25", sooner)
	}
	do(t, s, "DELETE", path+"/web?gracePeriodSeconds=0", nil).want(t, 200, "kind", "Pod")
	do(t, s, "GET", path+"/web", nil).wantStatus(t, 404, "NotFound", "")
	w.want("MODIFIED web metadata.deletionGracePeriodSeconds=30", "MODIFIED web metadata.deletionGracePeriodSeconds=5",
		"MODIFIED web metadata.deletionGracePeriodSeconds=0", "DELETED web metadata.deletionGracePeriodSeconds=0")

	do(t, s, "POST", path, `{"metadata":{"name":"web","finalizers":["example.com/hold"]}}`).want(t, 201)
	do(t, s, "DELETE", path+"/web", nil).want(t, 200)
	do(t, s, "DELETE", path+"/web?gracePeriodSeconds=0", nil).want(t, 200, "metadata.deletionGracePeriodSeconds", "0")
	do(t, s, "PUT", path+"/web", `{"metadata":{"name":"web","resourceVersion":"`+do(t, s, "GET", path+"/web", nil).at("metadata.resourceVersion")+`"}}`).want(t, 200)
	do(t, s, "GET", path+"/web", nil).wantStatus(t, 404, "NotFound", "")
}
