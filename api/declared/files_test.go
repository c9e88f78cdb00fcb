package declared

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/objects"
)

func core(kind, plural string, of func() objects.Object) KeptKind {
	return KeptKind{schema.GroupResource{Resource: plural}, schema.GroupVersionKind{Version: "v1", Kind: kind}, of}
}

var testKinds = []KeptKind{
	core("Pod", "pods", func() objects.Object { return &v1.Pod{} }),
	core("ConfigMap", "configmaps", func() objects.Object { return &v1.ConfigMap{} }),
	core("Secret", "secrets", func() objects.Object { return &v1.Secret{} }),
	core("ServiceAccount", "serviceaccounts", func() objects.Object { return &v1.ServiceAccount{} }),
	{runtimeClassResource, nodev1.SchemeGroupVersion.WithKind("RuntimeClass"), func() objects.Object { return &nodev1.RuntimeClass{} }},
}

// keep writes an object as the API does.
func keep(t *testing.T, f *Files, o objects.Object) string {
	t.Helper()
	path, kept := f.Path(o)
	text, err := f.Text(o)
	if !kept || err != nil {
		t.Fatal(kept, err)
	}
	if err := f.Write(path, text); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestObjectsAreReadAsTheyWereWritten(t *testing.T) {
	f := OpenFiles(filepath.Join(t.TempDir(), "not", "there", "yet"), testKinds)
	if all, err := f.Load(); len(all) > 0 || err != nil {
		t.Fatalf("of nothing: %v, %v", all, err)
	}
	long := strings.Repeat("a.", 126) + "a"
	written := map[string]objects.Object{
		"pods/default/web.yaml": func() objects.Object { p := plain(t); p.UID = "u"; p.Finalizers = []string{"a/b"}; return p }(),
		"secrets/default/login.yaml": &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "login", ResourceVersion: "7"},
			Type: v1.SecretTypeOpaque, Data: map[string][]byte{"password": []byte("no: # text\x00")}},
		"configmaps/default/quoted.yaml": &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "quoted"},
			Data: map[string]string{"yes": "no", "number": "007", "lines": "a\n b\n", "empty": ""}},
		"runtimeclasses.node.k8s.io/fast.yaml": &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Handler: "podd"},
		"configmaps/default/" + fileName(long): &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: long}},
	}
	for name, o := range written {
		path := keep(t, f, o)
		if rel, _ := filepath.Rel(f.dir, path); rel != name {
			t.Errorf("%s is kept in %s", name, rel)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	all, err := f.Load()
	if err != nil || len(all) != len(written) {
		t.Fatalf("read %v, %v", slices.Collect(maps.Keys(all)), err)
	}
	for name, o := range written {
		o.SetResourceVersion("")
		var found bool
		for _, got := range all {
			found = found || reflect.DeepEqual(got, o)
		}
		if !found {
			t.Errorf("%s was read as something else", name)
		}
		path, _ := f.Path(o)
		if err := f.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if all, err := f.Load(); len(all) > 0 || err != nil {
		t.Errorf("left: %v, %v", all, err)
	}
	if err := f.Remove(filepath.Join(f.dir, "pods/default/web.yaml")); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestAFileThatIsNoObjectLeavesTheOthers(t *testing.T) {
	f := OpenFiles(t.TempDir(), testKinds)
	keep(t, f, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "good"}})
	for name, text := range map[string]string{
		"configmaps/default/broken.yaml":  "kind: [secret words",
		"configmaps/default/other.yaml":   "apiVersion: v1\nkind: Secret\nmetadata: {name: other, namespace: default}",
		"configmaps/default/renamed.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good, namespace: default}",
		"configmaps/default/.good.yaml.1": "half",
		"nothings/default/unknown.yaml":   "kind: Nothing",
	} {
		path := filepath.Join(f.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := f.Load()
	if len(all) != 1 {
		t.Errorf("read %v", all)
	}
	for _, name := range []string{"broken", "other", "renamed"} {
		if err == nil || !strings.Contains(err.Error(), name+".yaml: ") {
			t.Errorf("%v does not tell of %s", err, name)
		}
	}
	if err != nil && strings.Contains(err.Error(), "secret words") {
		t.Errorf("the error tells what is in a file: %v", err)
	}
}

func TestNamesOfClientsLeadNowhereElse(t *testing.T) {
	f := OpenFiles(filepath.Join(t.TempDir(), "objects"), testKinds)
	for _, o := range []objects.Object{
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "../../..", Name: "x"}},
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "../../../x"}},
	} {
		path, _ := f.Path(o)
		if err := f.Write(path, nil); err == nil {
			t.Errorf("%s was written", path)
		}
		if err := f.Remove(path); err == nil {
			t.Errorf("%s was removed", path)
		}
	}
}

func TestASecretThatIsGoneIsForgotten(t *testing.T) {
	w := newWorld(t)
	before := w.store.Version()
	const path = "/api/v1/namespaces/default/secrets"
	w.as(w.do("POST", path, `{"metadata":{"name":"login","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"xyzzy","kept":"yes"}},"stringData":{"password":"xyzzy"}}`), 201)
	if r := w.do("GET", path+"/login", nil); !strings.Contains(string(r.body), "xyzzy") {
		t.Errorf("while it is there: %s", r.body)
	}
	if r := w.do("DELETE", path+"/login", nil); r.code != 200 {
		t.Fatalf("%d %s", r.code, r.body)
	}
	watch, err := w.store.Watch(t.Context(), schema.GroupResource{Resource: "secrets"}, "", before)
	if err != nil {
		t.Fatal(err)
	}
	events, err := watch.Next(t.Context())
	if err != nil || len(events) != 2 {
		t.Fatalf("%v, %v", events, err)
	}
	for _, e := range events {
		if text := fmt.Sprintf("%s %+v", e.Object, e.Old); strings.Contains(text, "xyzzy") || e.Object.GetAnnotations()["kept"] != "yes" {
			t.Errorf("%s: %s", e.Type, text)
		}
	}
}
