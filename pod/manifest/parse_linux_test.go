package manifest

import (
	"golang.org/x/sys/unix"
	"podd/pod"

	"encoding/json"
	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the expected outputs instead of comparing")

// golden compares got with a file beside the input.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n--- got\n%s--- want\n%s", path, got, want)
	}
}

func inputs(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.yaml", "*.yml", "*.json"} {
		found, err := filepath.Glob(filepath.Join("testdata", dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Fatalf("no files in testdata/%s", dir)
	}
	return files
}

// Each file is named after the mistake in it; the messages are beside it.
// Fields that have one value here are shown by the refusal of others.
//
//shows:spec.containers[].env[].valueFrom.fieldRef.apiVersion spec.containers[].resizePolicy[]
//shows:spec.containers[].resizePolicy[].resourceName spec.containers[].resizePolicy[].restartPolicy
//shows:spec.containers[].securityContext.procMount spec.os spec.os.name spec.hostUsers
func TestMistakesAreShownWithPlaceExpectationAndFinding(t *testing.T) {
	files := inputs(t, "bad")
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r := Parse(filepath.Base(file), data)
			var b strings.Builder
			for _, p := range r.Problems {
				b.WriteString(p.String() + "\n")
			}
			for _, d := range r.Desired {
				b.WriteString("loaded: " + d.Key.String() + "\n")
			}
			for _, s := range r.Sources {
				b.WriteString("loaded: " + s.String() + "\n")
			}
			if errorsIn(r.Problems) == 0 {
				t.Errorf("no problem found in %s", file)
			}
			golden(t, strings.TrimSuffix(file, filepath.Ext(file))+".out", b.String())
		})
	}
}

// Beside each file is what it means: warnings, and the defaulted pods.
func TestGoodManifestsAreDefaultedAsAServerWould(t *testing.T) {
	for _, file := range inputs(t, "good") {
		t.Run(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r := Parse(filepath.Base(file), data)
			var b strings.Builder
			for _, p := range r.Problems {
				b.WriteString("# " + p.String() + "\n")
				if !p.Warning {
					t.Errorf("refused: %s", p)
				}
			}
			for _, d := range r.Desired {
				out, err := yaml.Marshal(d.Pod)
				if err != nil {
					t.Fatal(err)
				}
				b.WriteString("--- # " + d.Origin.String() + "\n" + string(out))
			}
			for _, s := range r.Sources {
				_, object := s.Object()
				out, err := yaml.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				b.WriteString("--- # " + s.Origin.String() + "\n" + string(out))
			}
			golden(t, strings.TrimSuffix(file, filepath.Ext(file))+".out", b.String())
			isRepeatable(t, r)
			agreesWithKubernetes(t, data, r)
		})
	}
}

// isRepeatable asserts that what was accepted can be written and means the
// same when it is read again.
func isRepeatable(t testing.TB, r Result) {
	t.Helper()
	for _, d := range r.Desired {
		out, err := yaml.Marshal(d.Pod)
		if err != nil {
			t.Fatalf("%s: %v", d.Key, err)
		}
		again := Parse("again.yaml", out)
		if len(again.Desired) != 1 {
			t.Fatalf("%s is not accepted again: %v\n%s", d.Key, again.Problems, out)
		}
		if got := again.Desired[0]; got.Key != d.Key || !equality.Semantic.DeepEqual(got.Pod, d.Pod) {
			t.Fatalf("%s is not the same again: %s\n%s", d.Key, cmp.Diff(d.Pod, got.Pod), out)
		}
	}
	for _, s := range r.Sources {
		_, object := s.Object()
		out, err := yaml.Marshal(object)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		again := Parse("again.yaml", out)
		if len(again.Sources) != 1 || again.Sources[0].ID() != s.ID() || !sameSource(again.Sources[0], s) {
			t.Fatalf("%s is not the same again: %v\n%s", s, again.Problems, out)
		}
	}
}

// agreesWithKubernetes asserts that Kubernetes' own decoder reads the same pod
// from a file of one Pod, defaults aside.
func agreesWithKubernetes(t testing.TB, data []byte, r Result) {
	t.Helper()
	if len(r.Desired) != 1 || len(r.Objects) != 1 || r.Objects[0].Kind != "Pod" || len(r.Problems) > 0 {
		return
	}
	var theirs v1.Pod
	decode := func(data []byte, into any) error { return yaml.Unmarshal(data, into) }
	if json.Valid(data) {
		decode = json.Unmarshal
	}
	if err := decode(data, &theirs); err != nil {
		t.Fatalf("Kubernetes refuses what was accepted: %v\n%s", err, data)
	}
	theirs.Status = v1.PodStatus{}
	meta := theirs.ObjectMeta
	theirs.ObjectMeta = metav1.ObjectMeta{Name: meta.Name, Namespace: meta.Namespace, Labels: meta.Labels, Annotations: meta.Annotations}
	applyDefaults(&theirs)
	if ours := r.Desired[0].Pod; !equality.Semantic.DeepEqual(ours, &theirs) {
		t.Fatalf("Kubernetes reads another pod (-ours +theirs):\n%s\n%s", cmp.Diff(ours, &theirs), data)
	}
}

func podKey(name string) pod.Key { return pod.Key{Namespace: "default", Name: name} }

func mkfifo(path string) error { return unix.Mkfifo(path, 0o644) }

func TestSpecHashIsOfWhatWasWritten(t *testing.T) {
	parse := func(spec string) string {
		t.Helper()
		r := Parse("p.yaml", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n"+spec))
		if len(r.Desired) != 1 {
			t.Fatalf("not accepted: %v", r.Problems)
		}
		return r.Desired[0].SpecHash
	}
	plain := parse("  - name: a\n    image: b:1\n")
	if plain == "" || plain != parse("  - {image: 'b:1', name: a}   # the same\n") {
		t.Error("another way to write the same spec has another hash")
	}
	if plain == parse("  - name: a\n    image: b:2\n") {
		t.Error("another image has the same hash")
	}
	if plain == parse("  - name: a\n    image: b:1\n    imagePullPolicy: IfNotPresent\n") {
		t.Error("a default that is written down counts as not written")
	}
}

// A field that is not given stands on the line of what it belongs to.
func TestLineOfAField(t *testing.T) {
	const file = "# first\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: app, image: a}]\n---\n" +
		"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n  spec:\n    hostname: h\n" +
		"    containers:\n    - name: app\n      image: b\n      resources:\n        limits:\n          cpu: 1\n"
	objects := Parse("web.yaml", []byte(file)).Objects
	if len(objects) != 2 {
		t.Fatalf("%d objects", len(objects))
	}
	for _, c := range []struct {
		object int
		field  string
		line   int
	}{
		{0, "spec.containers[0].image", 6}, {0, "spec.hostname", 5}, {0, "metadata.labels", 4},
		{1, "spec.containers[0].image", 18}, {1, "spec.containers[0].resources.limits.cpu", 21},
		{1, "spec.containers[0].resources.limits.memory", 20}, {1, "spec.containers[0].env[3].value", 17}, {1, "spec.hostname", 15},
	} {
		if got := objects[c.object].LineOf(c.field); got != c.line {
			t.Errorf("%s of object %d: line %d; want %d", c.field, c.object, got, c.line)
		}
	}
}
