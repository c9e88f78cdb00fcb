package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"podd/pod"
)

// apiPod is a pod as the API keeps it. It has its place where node is not empty.
func apiPod(name, image, node, more string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default, uid: uid-%s, creationTimestamp: "2026-01-02T03:04:05Z", generation: 7, finalizers: [example.com/wait]%s}
spec:
  nodeName: %q
  containers: [{name: app, image: %q}]
`, name, name, more, node, image)
}

// objectsDir makes a directory of the API's objects, with files by their paths in it.
func objectsDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "objects")
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// hand hands text over as the content of a file of the API's.
func (w *watched) hand(file, text string) {
	w.Helper()
	r := ParseObject(file, []byte(text))
	if errorsIn(r.Problems) > 0 {
		w.Fatal(r.Problems)
	}
	if err := w.w.Declare(w.Context(), file, r); err != nil {
		w.Fatal(err)
	}
}

func TestObjectsOfTheAPIAreReadAtTheStartAndHandedOverLater(t *testing.T) {
	dir := newDir(t)
	objects := objectsDir(t, map[string]string{
		"pods/default/web.yaml":      apiPod("web", "web:1", "node", ""),
		"pods/default/waiting.yaml":  apiPod("waiting", "waiting:1", "", ""),
		"leases/default/other.yaml":  "kind: nothing that pods are made of",
		"pods/default/.web.yaml.123": "half a fi",
	})
	file := func(name string) string { return filepath.Join(objects, "pods/default", name+".yaml") }
	w := watch(t, dir, func(c *Config) { c.Objects = objects })
	w.reaches("web=web:1")
	p := w.last[0]
	if p.Pod.UID != "uid-web" || p.Pod.Generation != 7 || p.Pod.CreationTimestamp.UTC().Hour() != 3 || len(p.Pod.Finalizers) != 1 || !p.Origin.API {
		t.Errorf("read as %+v from %+v", p.Pod.ObjectMeta, p.Origin)
	}
	w.hand(file("db"), apiPod("db", "db:1", "node", ""))
	w.reaches("db=db:1 web=web:1")
	w.hand(file("waiting"), apiPod("waiting", "waiting:1", "node", ""))
	w.reaches("db=db:1 waiting=waiting:1 web=web:1")
	w.hand(file("web"), apiPod("web", "web:2", "node", ""))
	w.reaches("db=db:1 waiting=waiting:1 web=web:2")
	for _, name := range []string{"db", "waiting", "unknown"} {
		if err := w.w.Withdraw(t.Context(), file(name)); err != nil {
			t.Fatal(err)
		}
	}
	w.reaches("web=web:2")
	if r := w.w.Problems(); len(r) > 0 {
		t.Errorf("reported %v", r)
	}
}

func TestAFileGoesBeforeAnObjectOfTheAPIOfTheSameName(t *testing.T) {
	dir := newDir(t)
	objects := objectsDir(t, map[string]string{
		"pods/default/web.yaml":            apiPod("web", "api:1", "node", ""),
		"configmaps/default/settings.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, uid: u}\ndata: {a: api}",
	})
	w := watch(t, dir, func(c *Config) { c.Objects = objects })
	w.reaches("web=api:1")
	// Its path comes after the API's.
	w.rename("zzz.yaml", manifest("web", "file:1")+"\n---\n"+settings("file"))
	w.reaches("web=file:1")
	w.reports("pod default/web is given twice; the one at " + filepath.Join(dir, "zzz.yaml"))
	if w.last[0].Pod.UID != "" || w.last[0].Origin.API {
		t.Errorf("the file's pod is %+v", w.last[0])
	}
	// Also where the file is broken by now.
	w.rename("zzz.yaml", strings.Replace(manifest("web", "file:2"), "image:", "imag:", 1)+"\n---\n"+settings("file"))
	w.reports("imag: unknown field")
	w.staysQuiet()
	if err := os.Remove(filepath.Join(dir, "zzz.yaml")); err != nil {
		t.Fatal(err)
	}
	w.reaches("web=api:1")
}

func TestPodsNameSourcesOfFilesAndOfTheAPI(t *testing.T) {
	dir := newDir(t)
	objects := objectsDir(t, map[string]string{
		"configmaps/default/api.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: api, uid: u}\ndata: {a: one}",
	})
	var kept []pod.Source
	w := watch(t, dir, func(c *Config) {
		c.Objects = objects
		c.Keep = func(s []pod.Source) { kept = s }
	})
	w.rename("web.yaml", settings("two")+`
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - {name: app, image: web:1, envFrom: [{configMapRef: {name: api}}, {configMapRef: {name: settings}}]}
`)
	w.reaches("web=web:1")
	value := func(name string) string {
		m, _ := w.last[0].Sources.ConfigMap("default", name)
		if m == nil {
			return "nothing"
		}
		return m.Data["a"]
	}
	if value("api") != "one" || value("settings") != "two" {
		t.Fatalf("the pod gets %q and %q", value("api"), value("settings"))
	}
	if len(kept) != 1 || kept[0].Origin.API {
		t.Errorf("kept as declared by files: %v", kept)
	}
	w.hand(filepath.Join(objects, "configmaps/default/api.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: api, uid: u}\ndata: {a: three}")
	w.wants("web=web:1")
	if value("api") != "three" {
		t.Errorf("after a change the pod gets %q", value("api"))
	}
}

func TestObjectsThatCannotBeReadStopNoPod(t *testing.T) {
	known := func(objects string) []pod.Desired {
		var all []pod.Desired
		for _, name := range []string{"web", "db"} {
			file := filepath.Join(objects, "pods/default", name+".yaml")
			all = append(all, ParseObject(file, []byte(apiPod(name, name+":1", "node", ""))).Desired...)
		}
		return all
	}
	for name, test := range map[string]struct {
		files map[string]string
		ruin  func(objects string)
		want  string
	}{
		"no directory":      {nil, func(string) {}, "db=db:1 web=web:1"},
		"not a directory":   {nil, func(o string) { os.WriteFile(o, nil, 0o600) }, "db=db:1 web=web:1"},
		"a broken file":     {map[string]string{"pods/default/web.yaml": "kind: [", "pods/default/db.yaml": apiPod("db", "db:2", "node", "")}, func(string) {}, "db=db:2 web=web:1"},
		"a file is missing": {map[string]string{"pods/default/web.yaml": apiPod("web", "web:1", "node", "")}, func(string) {}, "web=web:1"},
	} {
		t.Run(name, func(t *testing.T) {
			objects := objectsDir(t, test.files)
			test.ruin(objects)
			w := watch(t, newDir(t), func(c *Config) { c.Objects, c.Loaded = objects, known(objects) })
			w.wants(test.want)
		})
	}
}

func TestOnlyObjectsOfTheAPIHaveWhatNoManifestMayHave(t *testing.T) {
	text := `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  runtimeClassName: fast
  overhead: {cpu: 10m}
  schedulingGates: [{name: example.com/later}]
  containers: [{name: app, image: web:1}]
  ephemeralContainers: [{name: debug, image: "busybox:1", targetContainerName: app}]
`
	r := ParseObject("web.yaml", []byte(text))
	if len(r.Problems) > 0 || len(r.Desired) != 1 {
		t.Fatalf("refused: %v", r.Problems)
	}
	if e := r.Desired[0].Pod.Spec.EphemeralContainers; len(e) != 1 || e[0].TargetContainerName != "app" || e[0].ImagePullPolicy != "IfNotPresent" {
		t.Errorf("ephemeral containers: %+v", e)
	}
	if r := Parse("web.yaml", []byte(text)); errorsIn(r.Problems) != 4 {
		t.Errorf("in a manifest: %v", r.Problems)
	}
	for _, mistake := range []string{"debug, image: \"\"", "app, image: \"busybox:1\"", "debug, imag: x"} {
		broken := strings.Replace(text, `debug, image: "busybox:1"`, mistake, 1)
		if r := ParseObject("web.yaml", []byte(broken)); len(r.Desired) > 0 {
			t.Errorf("an ephemeral container with %s was accepted", mistake)
		}
	}
	if r := ParseObject("web.yaml", []byte(text+"---\n"+text)); len(r.Desired) > 0 {
		t.Errorf("two objects in one file were accepted")
	}
}
