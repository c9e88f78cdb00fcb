package patch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

const pod = `
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: default
  labels: {app: web, tier: front}
  finalizers: [example.com/a]
spec:
  containers:
  - {name: app, image: app:1, env: [{name: A, value: "1"}, {name: B, value: "2"}]}
  - {name: sidecar, image: side:1}
  volumes:
  - {name: tmp, emptyDir: {}}
status:
  phase: Running
`

func podOf(t testing.TB, text string) *v1.Pod {
	t.Helper()
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPatchesChangeWhatTheySay(t *testing.T) {
	for _, tc := range []struct {
		name  string
		t     types.PatchType
		patch string
		want  func(*v1.Pod)
	}{
		{"a JSON patch adds, replaces and removes", types.JSONPatchType,
			`[{"op":"test","path":"/metadata/labels/app","value":"web"},{"op":"add","path":"/metadata/labels/a~1b","value":"x"},
			  {"op":"replace","path":"/spec/containers/0/image","value":"app:2"},{"op":"remove","path":"/spec/containers/1"}]`,
			func(p *v1.Pod) {
				p.Labels["a/b"] = "x"
				p.Spec.Containers[0].Image = "app:2"
				p.Spec.Containers = p.Spec.Containers[:1]
			}},
		{"a JSON patch moves and copies", types.JSONPatchType,
			`[{"op":"copy","from":"/metadata/labels/app","path":"/metadata/labels/copy"},{"op":"move","from":"/metadata/labels/tier","path":"/metadata/labels/moved"}]`,
			func(p *v1.Pod) { p.Labels = map[string]string{"app": "web", "copy": "web", "moved": "front"} }},
		{"a JSON patch may be empty", types.JSONPatchType, `[]`, func(*v1.Pod) {}},
		{"a merge patch sets, removes with null, and replaces lists", types.MergePatchType,
			`{"metadata":{"labels":{"tier":null,"new":"x"},"finalizers":["b"]},"spec":{"containers":[{"name":"other","image":"o"}]}}`,
			func(p *v1.Pod) {
				p.Labels = map[string]string{"app": "web", "new": "x"}
				p.Finalizers = []string{"b"}
				p.Spec.Containers = []v1.Container{{Name: "other", Image: "o"}}
			}},
		{"a strategic merge finds containers and variables by name", types.StrategicMergePatchType,
			`{"spec":{"containers":[{"name":"app","image":"app:2","env":[{"name":"B","value":"3"},{"name":"C","value":"4"}]}]}}`,
			func(p *v1.Pod) {
				p.Spec.Containers[0].Image = "app:2"
				p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "3"}, {Name: "C", Value: "4"}}
			}},
		{"a strategic merge deletes by key and by value", types.StrategicMergePatchType,
			`{"metadata":{"$deleteFromPrimitiveList/finalizers":["example.com/a"]},"spec":{"containers":[{"$patch":"delete","name":"sidecar"}],"volumes":[{"$patch":"replace"}]}}`,
			func(p *v1.Pod) {
				p.Finalizers = nil
				p.Spec.Containers = p.Spec.Containers[:1]
				p.Spec.Volumes = nil
			}},
		{"a strategic merge orders elements as it says", types.StrategicMergePatchType,
			`{"spec":{"$setElementOrder/containers":[{"name":"sidecar"},{"name":"app"}],"containers":[{"name":"app","image":"app:2"}]}}`,
			func(p *v1.Pod) {
				p.Spec.Containers[0].Image = "app:2"
				p.Spec.Containers[0], p.Spec.Containers[1] = p.Spec.Containers[1], p.Spec.Containers[0]
			}},
		{"a strategic merge retains only the keys it names", types.StrategicMergePatchType,
			`{"spec":{"volumes":[{"name":"tmp","$retainKeys":["name","hostPath"],"hostPath":{"path":"/x"}}]}}`,
			func(p *v1.Pod) {
				p.Spec.Volumes[0].VolumeSource = v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/x"}}
			}},
		{"a strategic merge adds an ephemeral container", types.StrategicMergePatchType,
			`{"spec":{"ephemeralContainers":[{"name":"debugger","image":"busybox"}]}}`,
			func(p *v1.Pod) {
				p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debugger", Image: "busybox"}}}
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			original, want := podOf(t, pod), podOf(t, pod)
			tc.want(want)
			got, err := Apply(tc.t, original, []byte(tc.patch))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("not as wanted:\n%s", diff)
			}
			if diff := cmp.Diff(podOf(t, pod), original); diff != "" {
				t.Errorf("the original changed:\n%s", diff)
			}
		})
	}
}

func TestPatchesThatCannotBeAppliedAreRefusedAsKubernetesDoes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		t       types.PatchType
		patch   string
		code    int32
		message string // part of it
	}{
		{"no JSON patch", types.JSONPatchType, `{"op":"add"}`, 400, "error decoding patch: json: cannot unmarshal object into Go value of type []patch.jsonPatchOp"},
		{"no JSON", types.JSONPatchType, `[{`, 400, "error decoding patch: unexpected end of JSON input"},
		{"an unknown operation", types.JSONPatchType, `[{"op":"frob","path":"/x"}]`, 422, "Unexpected kind: frob"},
		{"a test that fails", types.JSONPatchType, `[{"op":"test","path":"/metadata/labels/app","value":"x"}]`, 422, "testing value /metadata/labels/app failed"},
		{"a path that is not there", types.JSONPatchType, `[{"op":"remove","path":"/spec/nothing"}]`, 422, "error in remove for path: '/spec/nothing': Unable to remove nonexistent key: nothing: missing value"},
		{"a result of the wrong type", types.JSONPatchType, `[{"op":"replace","path":"/spec/containers","value":"x"}]`, 422, "cannot unmarshal string into Go struct field"},
		{"another kind", types.JSONPatchType, `[{"op":"replace","path":"/kind","value":"Node"}]`, 422, "the object is /v1, Kind=Pod, not /v1, Kind=Node"},
		{"no merge patch", types.MergePatchType, `[]`, 400, "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"},
		{"a merge patch of the wrong type", types.MergePatchType, `{"spec":{"priority":"high"}}`, 422, "cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32"},
		{"no strategic merge patch", types.StrategicMergePatchType, `"x"`, 400, "cannot unmarshal string into Go value of type map[string]interface {}"},
		{"an element without its merge key", types.StrategicMergePatchType, `{"spec":{"containers":[{"image":"x"}]}}`, 422, "does not contain declared merge key: name"},
		{"an unknown directive", types.StrategicMergePatchType, `{"$patch":"frob"}`, 422, "unknown patch type"},
		{"a strategic merge patch of the wrong type", types.StrategicMergePatchType, `{"spec":{"priority":"high"}}`, 422, `Invalid value: "map[spec:map[priority:high]]": unrecognized type: int32`},
		{"an unknown type of patch", "application/x", `{}`, 415, "accepted media types include"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Apply(tc.t, podOf(t, pod), []byte(tc.patch))
			refused(t, err, tc.code, tc.message)
		})
	}
}

// refused expects an API error.
func refused(t testing.TB, err error, code int32, message string) {
	t.Helper()
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		t.Fatalf("got %v, no API error", err)
	}
	said := err.Error()
	if details := status.Status().Details; details != nil {
		for _, c := range details.Causes {
			said += "; " + c.Message
		}
	}
	if status.Status().Code != code || !strings.Contains(said, message) {
		t.Errorf("got %d %s, want %d %s", status.Status().Code, said, code, message)
	}
}

func TestFieldsAreValidatedAsAsked(t *testing.T) {
	for name, tc := range map[string]struct {
		t     types.PatchType
		patch string
		want  []string
	}{
		"unknown in a strategic merge patch": {types.StrategicMergePatchType, `{"spec":{"imge":"x"}}`, []string{`unknown field "spec.imge"`}},
		"twice in a strategic merge patch":   {types.StrategicMergePatchType, `{"metadata":{"labels":{"a":"1","a":"2"}}}`, []string{`duplicate field "metadata.labels.a"`}},
		"unknown in a merge patch":           {types.MergePatchType, `{"spec":{"containers":[{"name":"a","imge":"x"}]}}`, []string{`unknown field "spec.containers[0].imge"`}},
		"twice and unknown in a JSON patch": {types.JSONPatchType, `[{"op":"add","op":"add","path":"/spec/x","value":1}]`,
			[]string{`json patch duplicate field "[0].op"`, `unknown field "spec.x"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := Validated(tc.t, podOf(t, pod), []byte(tc.patch), metav1.FieldValidationWarn)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, warnings); diff != "" {
				t.Error(diff)
			}
			_, _, err = Validated(tc.t, podOf(t, pod), []byte(tc.patch), metav1.FieldValidationStrict)
			refused(t, err, http.StatusUnprocessableEntity, "strict decoding error: "+strings.Join(tc.want, ", "))
			if _, warnings, err := Validated(tc.t, podOf(t, pod), []byte(tc.patch), metav1.FieldValidationIgnore); err != nil || warnings != nil {
				t.Errorf("ignoring: %v, %v", warnings, err)
			}
		})
	}
}

func TestPatchesOfObjectsThatDoNotNameTheirKind(t *testing.T) {
	original := podOf(t, pod)
	original.TypeMeta = metav1.TypeMeta{}
	for _, patchType := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
		got, err := Apply(patchType, original, []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"x":"y"}}}`))
		if err != nil {
			t.Fatal(err)
		}
		if p := got.(*v1.Pod); p.Labels["x"] != "y" || p.Kind != "" {
			t.Errorf("got %v", p)
		}
	}
}

// Each of these made the libraries busy for a minute and more, or is what a
// fuzzer would find next.
func TestHostilePatchesAreBounded(t *testing.T) {
	deep := func(n int, inside string) string {
		return strings.Repeat(`{"a":`, n) + inside + strings.Repeat("}", n)
	}
	list := func(n int, element func(int) string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = element(i)
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	env := func(n int) string {
		return `{"spec":{"containers":[{"name":"app","env":` + list(n, func(i int) string { return fmt.Sprintf(`{"name":"V%d"}`, i) }) + `}]}}`
	}
	grow := func(i int) string {
		return fmt.Sprintf(`{"op":"add","path":"%s","value":{}}`, strings.Repeat("/a", i+1))
	}
	for name, tc := range map[string]struct {
		t       types.PatchType
		patch   string
		code    int32
		message string
	}{
		"deep merge patch":           {types.MergePatchType, deep(9_000, `"x"`), 400, "nested deeper than 100 levels"},
		"deep strategic merge patch": {types.StrategicMergePatchType, deep(9_000, `"x"`), 400, "nested deeper than 100 levels"},
		"deep value":                 {types.JSONPatchType, `[{"op":"add","path":"/spec","value":` + deep(9_000, `"x"`) + `}]`, 400, "nested deeper than 100 levels"},
		"deep path":                  {types.JSONPatchType, list(200, grow), 400, "more than 100 parts"},
		"many operations":            {types.JSONPatchType, list(10_001, func(int) string { return `{"op":"test","path":"/kind","value":"Pod"}` }), 413, "The allowed maximum operations in a JSON patch is 10000, got 10001"},
		"copies of copies": {types.JSONPatchType, `[{"op":"add","path":"/x","value":[0]},` +
			list(40, func(int) string { return `{"op":"copy","from":"/x","path":"/x/-"}` })[1:], 422, "Unable to complete the copy, the accumulated size increase of copy is"},
		"many elements": {types.StrategicMergePatchType, env(100_000), 413, "too many elements"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Apply(tc.t, podOf(t, pod), []byte(tc.patch))
			refused(t, err, tc.code, tc.message)
		})
	}
	for patchType, large := range map[types.PatchType]string{
		types.StrategicMergePatchType: env(1_000),
		types.JSONPatchType: list(1_000, func(i int) string {
			return fmt.Sprintf(`{"op":"add","path":"/metadata/finalizers/0","value":"%d"}`, i)
		}),
	} {
		if _, err := Apply(patchType, podOf(t, pod), []byte(large)); err != nil {
			t.Errorf("a large patch is no hostile one: %v", err)
		}
	}
}

// Whatever is sent, the answer is an object or an API error, and the original
// is as it was.
func FuzzApply(f *testing.F) {
	patchTypes := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}
	for _, seed := range []string{
		`[{"op":"add","path":"/metadata/labels/a~1b","value":"x"},{"op":"copy","from":"/spec","path":"/spec/x"},{"op":"move","from":"/spec/containers/0","path":"/spec/containers/-"}]`,
		`[{"op":"test","path":"","value":null},{"op":"remove","path":"/spec/containers/1"},{"op":"replace","path":"/spec/containers/-1"}]`,
		`{"metadata":{"labels":{"tier":null}},"spec":{"containers":[{"$patch":"delete","name":"app"},null,1]}}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"sidecar"},{"name":"app"}],"containers":[{"name":"app","env":[{"name":"A","$patch":"replace"}]}]}}`,
		`{"metadata":{"$deleteFromPrimitiveList/finalizers":["example.com/a"]},"spec":{"volumes":[{"name":"tmp","$retainKeys":["name"]}],"$patch":"merge"}}`,
	} {
		for i := range patchTypes {
			f.Add(i, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		if i < 0 || i >= len(patchTypes) {
			return
		}
		original := podOf(t, pod)
		patched, err := Apply(patchTypes[i], original, data)
		if _, ok := err.(apierrors.APIStatus); err != nil && !ok {
			t.Errorf("%v is no API error", err)
		}
		if err == nil {
			if _, err := json.Marshal(patched); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff(podOf(t, pod), original); diff != "" {
			t.Errorf("the original changed:\n%s", diff)
		}
	})
}
