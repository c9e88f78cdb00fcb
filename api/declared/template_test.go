package declared

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"podd/pod/manifest"
)

func templateFrom(t testing.TB, text string) *v1.PodTemplateSpec {
	t.Helper()
	template := &v1.PodTemplateSpec{}
	if err := yaml.UnmarshalStrict([]byte(text), template); err != nil {
		t.Fatal(err)
	}
	return template
}

func TestMistakesOfATemplateAreThoseOfPodsWithItsPath(t *testing.T) {
	for name, test := range map[string]struct{ template, want string }{
		"none":    {`{metadata: {labels: {a: b}, annotations: {a/b: c}}, spec: {containers: [{name: app, image: "a:1"}]}}`, ""},
		"no name": {`{spec: {containers: [{image: "a:1"}]}}`, "template.spec.containers[0].name: Required value"},
		"no spec": {`{}`, "template.spec.containers: Required value"},
		"two": {`{spec: {restartPolicy: Sometimes, containers: [{name: App_1, image: "a:1"}]}}`,
			`template.spec.containers[0].name: Invalid value: "App_1": expected lower-case letters`},
		"a value": {`{spec: {containers: [{name: app, image: "a:1", ports: [{containerPort: 70000}]}]}}`,
			"template.spec.containers[0].ports[0].containerPort: Invalid value: 70000: expected a port from 1 to 65535"},
		"a label":        {`{metadata: {labels: {a: "b c"}}, spec: {containers: [{name: app, image: "a:1"}]}}`, `template.labels: Invalid value: "b c": a valid label must be`},
		"an annotation":  {`{metadata: {annotations: {"a b": c}}, spec: {containers: [{name: app, image: "a:1"}]}}`, `template.annotations: Invalid value: "a b": name part must consist of`},
		"not served":     {`{spec: {hostUsers: false, containers: [{name: app, image: "a:1"}]}}`, "template.spec.hostUsers: Forbidden: false is not supported here"},
		"ephemeral":      {`{spec: {containers: [{name: app, image: "a:1"}], ephemeralContainers: [{name: debug, image: "a:1"}]}}`, "template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template"},
		"a name of it":   {`{metadata: {name: A_B, generateName: "C_", namespace: D_}, spec: {containers: [{name: app, image: "a:1"}]}}`, ""},
		"a node":         {`{spec: {nodeName: elsewhere, containers: [{name: app, image: "a:1"}]}}`, ""},
		"a bad node":     {`{spec: {nodeName: "a b", containers: [{name: app, image: "a:1"}]}}`, `template.spec.nodeName: Invalid value: "a b"`},
		"a runtimeclass": {`{spec: {runtimeClassName: any, containers: [{name: app, image: "a:1"}]}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			template := templateFrom(t, test.template)
			manifest.DefaultTemplate(&template.Spec)
			before := template.DeepCopy()
			if got := says(checkTemplate(template, field.NewPath("template"))); got != test.want && (test.want == "" || !strings.HasPrefix(got, test.want) && !strings.Contains(got, "\n"+test.want)) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
			if !equal(before, template) {
				t.Error("the check changed the template")
			}
		})
	}
}

func equal(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// A template has the defaults of a pod, but for those that pods alone have, and for
// what admission gives a pod.
func TestDefaultsOfATemplateAreThoseOfAnAPIServer(t *testing.T) {
	text := `
spec:
  hostNetwork: true
  serviceAccount: sa
  containers:
  - {name: app, image: "app", ports: [{containerPort: 80}], resources: {limits: {cpu: 100.5m}}, livenessProbe: {httpGet: {port: 80}},
    env: [{name: F, valueFrom: {fileKeyRef: {volumeName: a, path: f, key: F}}}]}
  volumes: [{name: a}, {name: b, configMap: {name: c}}, {name: d, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}}]
  terminationGracePeriodSeconds: -5
`
	want := templateFrom(t, `
spec:
  hostNetwork: true
  serviceAccount: sa
  serviceAccountName: sa
  containers:
  - name: app
    image: "app"
    imagePullPolicy: Always
    ports: [{containerPort: 80, protocol: TCP}]
    resources: {limits: {cpu: 101m}}
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    livenessProbe: {httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    env: [{name: F, valueFrom: {fileKeyRef: {volumeName: a, path: f, key: F, optional: false}}}]
  volumes:
  - {name: a, emptyDir: {}}
  - {name: b, configMap: {name: c, defaultMode: 420}}
  - {name: d, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], volumeMode: Filesystem}}}}
  restartPolicy: Always
  dnsPolicy: ClusterFirst
  schedulerName: default-scheduler
  terminationGracePeriodSeconds: -5
  securityContext: {}
`)
	got := templateFrom(t, text)
	if manifest.DefaultTemplate(&got.Spec); !equal(got, want) {
		g, _ := yaml.Marshal(got)
		w, _ := yaml.Marshal(want)
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	p := podFrom(t, text)
	defaultPod(p)
	c := p.Spec.Containers[0]
	if c.Ports[0].HostPort != 80 || c.Resources.Requests.Cpu().String() != "101m" || !*p.Spec.EnableServiceLinks || *p.Spec.Priority != 0 ||
		*p.Spec.TerminationGracePeriodSeconds != 1 {
		t.Errorf("a pod of it has %+v", p.Spec)
	}
}

func TestAPodTemplateIsDefaultedAndCheckedByTheAPI(t *testing.T) {
	w := newWorld(t)
	const path = "/api/v1/namespaces/default/podtemplates"
	template := func(spec string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: PodTemplate\nmetadata: {name: t}\ntemplate: {metadata: {labels: {a: b}}, spec: %s}\n", spec)
	}
	causes := func(r reply) []string {
		var s metav1.Status
		if err := json.Unmarshal(r.body, &s); err != nil || r.code != 422 || s.Reason != metav1.StatusReasonInvalid || s.Details == nil || s.Details.Kind != "PodTemplate" {
			t.Fatalf("%d, %v: %s", r.code, err, r.body)
		}
		var all []string
		for _, c := range s.Details.Causes {
			all = append(all, string(c.Type)+" "+c.Field)
		}
		return all
	}
	bad := template(`{containers: [{image: "a:1"}, {name: b}], restartPolicy: Sometimes}`)
	want := []string{"FieldValueInvalid template.spec.restartPolicy", "FieldValueRequired template.spec.containers[0].name", "FieldValueRequired template.spec.containers[1].image"}
	slices.Sort(want)
	for _, check := range []func() reply{
		func() reply { return w.do("POST", path, bad) },
		func() reply {
			r := w.do("POST", path, template(`{tolerations: [{operator: Exists}], containers: [{name: a, image: "a:1"}]}`))
			made := &v1.PodTemplate{}
			if err := json.Unmarshal(r.body, made); err != nil || r.code != 201 || made.Template.Spec.RestartPolicy != "Always" || made.Template.Spec.Containers[0].TerminationMessagePolicy != "File" {
				t.Errorf("%d: %s", r.code, r.body)
			}
			if len(r.warnings) != 1 || !strings.Contains(r.warnings[0], "template.spec.tolerations") {
				t.Errorf("warnings: %q", r.warnings)
			}
			return w.do("PUT", path+"/t", bad)
		},
	} {
		got := causes(check())
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("causes %q, want %q", got, want)
		}
	}
	r := w.do("PUT", path+"/t", strings.Replace(template(`{tolerations: [{operator: Exists}], containers: [{name: a, image: "a:1"}]}`), "metadata: {name: t}", "metadata: {name: t, labels: {c: d}}", 1))
	if r.code != 200 || len(r.warnings) != 0 {
		t.Errorf("%d, a template that did not change warns: %q", r.code, r.warnings)
	}
}
