package patch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/discovery"
)

var (
	fields        Fields
	podKind       = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	configMapKind = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
)

func configMap(data map[string]string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", UID: "1"}, Data: data}
}

// managers lists who manages what, a line each: kubectl Update: {"f:data":...}
func managers(o metav1.Object) string {
	var lines []string
	for _, e := range o.GetManagedFields() {
		who := e.Manager + " " + string(e.Operation)
		if e.Subresource != "" {
			who += "/" + e.Subresource
		}
		lines = append(lines, who+": "+e.FieldsV1.GetRawString())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func manage(t *testing.T, o metav1.Object, want ...string) {
	t.Helper()
	if diff := cmp.Diff(strings.Join(want, "\n"), managers(o)); diff != "" {
		t.Errorf("managed fields:\n%s", diff)
	}
	for _, e := range o.GetManagedFields() {
		if e.Time == nil || time.Since(e.Time.Time) > time.Hour || e.FieldsType != "FieldsV1" || e.APIVersion != "v1" {
			t.Errorf("entry %v", e)
		}
	}
}

// updated is what rest does for a create or an update.
func updated[T runtime.Object](t *testing.T, w Writer, live runtime.Object, new T) T {
	t.Helper()
	if err := fields.Updated(w, live, new); err != nil {
		t.Fatal(err)
	}
	return new
}

func apply(t *testing.T, manager string, live *v1.ConfigMap, configuration string, force bool) (*v1.ConfigMap, error) {
	t.Helper()
	before := live.DeepCopy()
	o, _, err := fields.Apply(Writer{Kind: configMapKind, Manager: manager}, live, []byte(configuration), force, metav1.FieldValidationStrict)
	if diff := cmp.Diff(before, live); diff != "" {
		t.Errorf("the live object changed:\n%s", diff)
	}
	if err != nil {
		return nil, err
	}
	applied := o.(*v1.ConfigMap)
	applied.UID = "1"
	return applied, nil
}

func mustApply(t *testing.T, manager string, live *v1.ConfigMap, configuration string) *v1.ConfigMap {
	t.Helper()
	o, err := apply(t, manager, live, configuration, false)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: default}\n"

func TestWritesAreAttributedToTheirManagers(t *testing.T) {
	created := updated(t, Writer{Kind: configMapKind, Manager: "kubectl-create"}, nil, configMap(map[string]string{"a": "1", "b": "2"}))
	manage(t, created, `kubectl-create Update: {"f:data":{".":{},"f:a":{},"f:b":{}}}`)
	edited := created.DeepCopy()
	edited.Data = map[string]string{"a": "1", "b": "3", "c": "4"}
	updated(t, Writer{Kind: configMapKind, Manager: "kubectl-edit"}, created, edited)
	manage(t, edited, `kubectl-create Update: {"f:data":{".":{},"f:a":{}}}`, `kubectl-edit Update: {"f:data":{"f:b":{},"f:c":{}}}`)
	cleared := edited.DeepCopy()
	cleared.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	updated(t, Writer{Kind: configMapKind, Manager: "kubectl-edit"}, edited, cleared)
	manage(t, cleared, "")
	if created.Kind != "" || edited.Kind != "" {
		t.Error("an object names its kind that did not")
	}
}

func TestAWriteThatForgetsManagedFieldsKeepsThem(t *testing.T) {
	created := updated(t, Writer{Kind: configMapKind, Manager: "a"}, nil, configMap(map[string]string{"a": "1"}))
	replaced := configMap(map[string]string{"a": "1", "b": "2"})
	updated(t, Writer{Kind: configMapKind, Manager: "b"}, created, replaced)
	manage(t, replaced, `a Update: {"f:data":{".":{},"f:a":{}}}`, `b Update: {"f:data":{"f:b":{}}}`)
}

func TestStatusAndResizeManageOnlyTheirFields(t *testing.T) {
	live := updated(t, Writer{Kind: podKind, Manager: "kubectl-run"}, nil, podOf(t, pod))
	live.UID = "1"
	withStatus := live.DeepCopy()
	withStatus.Status.Message = "x"
	withStatus.Spec.Priority = new(int32)
	updated(t, Writer{Kind: podKind, Subresource: "status", Manager: "gate"}, live, withStatus)
	resized := withStatus.DeepCopy()
	resized.Spec.Containers[0].Image = "other"
	resized.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: "NotRequired"}}
	updated(t, Writer{Kind: podKind, Subresource: "resize", Manager: "kubectl-patch"}, withStatus, resized)
	lines := strings.Split(managers(resized), "\n")
	if want := `gate Update/status: {"f:status":{"f:message":{}}}`; lines[0] != want {
		t.Errorf("got %s, want %s", lines[0], want)
	}
	if want := `kubectl-patch Update/resize: {"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{"f:resizePolicy":{}}}}}`; lines[1] != want {
		t.Errorf("got %s, want %s", lines[1], want)
	}
	if strings.Contains(lines[2], "f:status") || !strings.Contains(lines[2], `"k:{\"name\":\"sidecar\"}"`) {
		t.Errorf("got %s", lines[2])
	}
}

func TestApplyCreatesMergesAndRemoves(t *testing.T) {
	created := mustApply(t, "one", &v1.ConfigMap{}, head+"data: {a: '1', b: '2'}")
	manage(t, created, `one Apply: {"f:data":{"f:a":{},"f:b":{}}}`)
	both := mustApply(t, "two", created, head+"data: {a: '1', c: '3'}")
	manage(t, both, `one Apply: {"f:data":{"f:a":{},"f:b":{}}}`, `two Apply: {"f:data":{"f:a":{},"f:c":{}}}`)
	// What nobody else manages goes; what another one applied too stays.
	less := mustApply(t, "one", both, head)
	manage(t, less, `two Apply: {"f:data":{"f:a":{},"f:c":{}}}`)
	if diff := cmp.Diff(map[string]string{"a": "1", "c": "3"}, less.Data); diff != "" {
		t.Error(diff)
	}
	if less.Kind != "" {
		t.Error("an object names its kind that did not")
	}
}

func TestConflictsNameManagerAndField(t *testing.T) {
	live := updated(t, Writer{Kind: configMapKind, Manager: "kubectl-edit"}, nil, configMap(map[string]string{"a": "1"}))
	live = mustApply(t, "one", live, head+"data: {b: '2'}")
	_, err := apply(t, "two", live, head+"data: {a: x, b: x}", false)
	if !apierrors.IsConflict(err) {
		t.Fatalf("got %v, no conflict", err)
	}
	var causes []string
	for _, c := range err.(apierrors.APIStatus).Status().Details.Causes {
		causes = append(causes, fmt.Sprintf("%s %s: %s", c.Type, c.Field, c.Message))
	}
	slices.Sort(causes)
	if len(causes) != 2 || !strings.HasPrefix(causes[0], `FieldManagerConflict .data.a: conflict with "kubectl-edit" using v1`) ||
		causes[1] != `FieldManagerConflict .data.b: conflict with "one"` {
		t.Errorf("causes: %q", causes)
	}
	forced, err := apply(t, "two", live, head+"data: {a: x, b: x}", true)
	if err != nil {
		t.Fatal(err)
	}
	manage(t, forced, `kubectl-edit Update: {"f:data":{}}`, `two Apply: {"f:data":{"f:a":{},"f:b":{}}}`)
}

// What was there before anybody kept account: objects of files, and of the agent.
func TestApplyToAnObjectWithoutManagers(t *testing.T) {
	live := configMap(map[string]string{"a": "1", "b": "2"})
	_, err := apply(t, "one", live, head+"data: {a: x}", false)
	refused(t, err, 409, `conflict with "before-first-apply"`)
	applied := mustApply(t, "one", live, head+"data: {a: '1', c: '3'}")
	manage(t, applied, `before-first-apply Update: {"f:data":{".":{},"f:a":{},"f:b":{}}}`, `one Apply: {"f:data":{"f:a":{},"f:c":{}}}`)
}

// kubectl apply --server-side after kubectl apply: it applies, hands the fields
// of the client-side manager over with a JSON patch, and applies again.
func TestServerSideApplyAfterClientSideApply(t *testing.T) {
	live := configMap(map[string]string{"a": "1", "b": "2"})
	live.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"default"},"data":{"a":"1","b":"2"}}`}
	updated(t, Writer{Kind: configMapKind, Manager: "kubectl-client-side-apply"}, nil, live)
	const configuration = head + "data: {a: x}"
	applied := mustApply(t, "kubectl", live, configuration) // no conflict: the annotation says that kubectl set it
	if applied.Data["b"] != "2" {
		t.Error("b is gone before it was handed over")
	}
	var migrated []string
	for i, e := range applied.ManagedFields {
		if e.Operation == metav1.ManagedFieldsOperationUpdate {
			migrated = append(migrated, fmt.Sprintf(`{"op":"replace","path":"/metadata/managedFields/%d/operation","value":"Apply"},{"op":"replace","path":"/metadata/managedFields/%d/manager","value":"kubectl"}`, i, i))
		} else {
			migrated = append([]string{fmt.Sprintf(`{"op":"remove","path":"/metadata/managedFields/%d"}`, i)}, migrated...)
		}
	}
	slices.Reverse(migrated) // the last index first
	patched, err := Apply(types.JSONPatchType, applied, []byte("["+strings.Join(migrated, ",")+"]"))
	if err != nil {
		t.Fatal(err)
	}
	handedOver := updated(t, Writer{Kind: configMapKind, Manager: "kubectl"}, applied, patched.(*v1.ConfigMap))
	again := mustApply(t, "kubectl", handedOver, configuration)
	if diff := cmp.Diff(map[string]string{"a": "x"}, again.Data); diff != "" {
		t.Errorf("b, which the configuration has no more, stays:\n%s", diff)
	}
}

func TestApplyFindsElementsByTheirKeys(t *testing.T) {
	live := podOf(t, pod)
	live.Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 80, Protocol: "TCP", Name: "http"}, {ContainerPort: 80, Protocol: "UDP"}}
	o, _, err := fields.Apply(Writer{Kind: podKind, Manager: "one"}, live, []byte(`
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  containers: [{name: app, ports: [{containerPort: 80, hostPort: 8080}]}]
`), false, metav1.FieldValidationStrict)
	if err != nil {
		t.Fatal(err)
	}
	want := live.DeepCopy()
	want.Spec.Containers[0].Ports[0].HostPort = 8080
	got := o.(*v1.Pod).DeepCopy()
	got.ManagedFields = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConfigurationsThatCannotBeAppliedAreRefusedAsKubernetesDoes(t *testing.T) {
	for name, tc := range map[string]struct {
		configuration, message string
	}{
		"no YAML":           {"a: [", "error decoding patch: "},
		"no object":         {"[]", "error decoding patch: "},
		"nothing":           {"", "invalid object type: /, Kind="},
		"another kind":      {"apiVersion: v1\nkind: Pod\nmetadata: {name: c}", "invalid object type: /v1, Kind=Pod"},
		"managed fields":    {strings.TrimSuffix(head, "}\n") + ", managedFields: []}", "metadata.managedFields must be nil"},
		"an unknown field":  {head + "dta: {a: b}", "failed to create typed patch object (default/c; /v1, Kind=ConfigMap): .dta: field not declared in schema"},
		"a wrong type":      {head + "data: [a]", "failed to create typed patch object (default/c; /v1, Kind=ConfigMap): .data: expected map, got &{[a]}"},
		"a key given twice": {head + "data: {a: b, a: c}", `key "a" already set in map`},
		"a deep one":        {head + "data: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested deeper than 100 levels"},
		"many aliases": {"a: &a [x,x,x,x,x,x,x,x,x]\n" + func() string {
			var bomb strings.Builder
			for c := 'b'; c < 'k'; c++ {
				fmt.Fprintf(&bomb, "%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 9), ","))
			}
			return bomb.String()
		}(), "document contains excessive aliasing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := apply(t, "one", configMap(nil), tc.configuration, false)
			refused(t, err, 400, tc.message)
		})
	}
	o, warnings, err := fields.Apply(Writer{Kind: configMapKind, Manager: "one"}, configMap(nil), []byte(head+"data: {a: b, a: c}"), false, metav1.FieldValidationWarn)
	if err != nil || len(warnings) != 1 || o.(*v1.ConfigMap).Data["a"] != "c" {
		t.Errorf("a key given twice, and a warning asked for: %v, %q, %v", o, warnings, err)
	}
}

func TestHostileManagedFieldsAreIgnored(t *testing.T) {
	live := updated(t, Writer{Kind: configMapKind, Manager: "a"}, nil, configMap(map[string]string{"a": "1"}))
	for name, raw := range map[string]string{
		"deep":    strings.Repeat(`{"f:a":`, 400_000) + "{}" + strings.Repeat("}", 400_000),
		"no JSON": "x",
	} {
		t.Run(name, func(t *testing.T) {
			new := live.DeepCopy()
			new.Data["b"] = "2"
			new.ManagedFields[0].FieldsV1 = metav1.NewFieldsV1(raw)
			err := fields.Updated(Writer{Kind: configMapKind, Manager: "b"}, live, new)
			if (err != nil) != (name == "deep") {
				t.Errorf("got %v", err)
			}
			if entries := managers(new); !strings.Contains(entries, `a Update: {"f:data":{".":{},"f:a":{}}}`) {
				t.Errorf("the former entries are gone: %s", entries)
			}
		})
	}
}

func TestTheSchemaHasEveryKindThatCanBePatched(t *testing.T) {
	c := newConverter()
	for _, r := range discovery.Served {
		_, err := c.typeOf(r.GroupVersionKind())
		if patched := slices.Contains(r.Verbs, "patch"); patched != (err == nil) {
			t.Errorf("%v: %v (go generate ./api/patch)", r.GroupVersionKind(), err)
		}
	}
	if err := fields.Updated(Writer{Kind: schema.GroupVersionKind{Group: "metrics.k8s.io", Version: "v1beta1", Kind: "PodMetrics"}}, nil, configMap(nil)); err == nil {
		t.Error("a kind without schema is accepted")
	}
}

// Whatever is applied, the answer is a pod or an API error, the live one is as it
// was, and the account can be read again.
func FuzzServerSideApply(f *testing.F) {
	f.Add([]byte(pod), "")
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: null}}\nspec: {containers: [{name: app, ports: [{containerPort: 80}]}]}"), `{"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{".":{},"f:image":{}}}}}`)
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"app"},{"name":"app"}],"volumes":[null,1]},"status":{"conditions":[{"type":"x"}]}}`), `{"f:status":{"i:0":{},"v:1":{}}}`)
	f.Fuzz(func(t *testing.T, data []byte, account string) {
		live := podOf(t, pod)
		live.UID = "1"
		if account != "" {
			live.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "a", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(account)}}
		}
		before := live.DeepCopy()
		o, _, err := fields.Apply(Writer{Kind: podKind, Manager: "b"}, live, data, true, metav1.FieldValidationIgnore)
		if diff := cmp.Diff(before, live); diff != "" {
			t.Errorf("the live object changed:\n%s", diff)
		}
		if _, ok := err.(apierrors.APIStatus); err != nil && !ok {
			t.Errorf("%v is no API error", err)
		}
		if err != nil {
			return
		}
		again := o.DeepCopyObject()
		if err := fields.Updated(Writer{Kind: podKind, Manager: "c"}, o, again); err != nil {
			t.Error(err)
		}
	})
}

// The schema is in memory from the first write on; decision 0431 says how much
// that is.
func BenchmarkSchema(b *testing.B) {
	b.ReportAllocs()
	for range b.N {
		newConverter()
	}
}

func BenchmarkUpdated(b *testing.B) {
	live := podOf(b, pod)
	if err := fields.Updated(Writer{Kind: podKind, Manager: "a"}, nil, live); err != nil {
		b.Fatal(err)
	}
	live.UID = "1"
	b.ReportAllocs()
	for range b.N {
		new := live.DeepCopy()
		new.Labels["x"] = "y"
		if err := fields.Updated(Writer{Kind: podKind, Manager: "b"}, live, new); err != nil {
			b.Fatal(err)
		}
	}
}
