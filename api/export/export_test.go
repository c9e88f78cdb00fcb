package export

import (
	"errors"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestWhatAServerFilledInIsLeftOut(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"a pod": {`
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: default
  uid: u
  resourceVersion: "7"
  generation: 3
  generateName: we
  creationTimestamp: "2026-01-02T03:04:05Z"
  finalizers: [example.com/wait]
  labels: {app: web}
  annotations: {podd/declared-in: "/etc/web.yaml:1", kubectl.kubernetes.io/last-applied-configuration: "{}", example.com/note: kept}
  ownerReferences: [{uid: x}]
  managedFields: [{manager: kubectl}]
spec:
  nodeName: node
  serviceAccount: default
  serviceAccountName: default
  priority: 0
  preemptionPolicy: PreemptLowerPriority
  runtimeClassName: podd
  overhead: {cpu: 10m}
  securityContext: {}
  containers: [{name: app, image: "app:1"}]
  ephemeralContainers: [{name: debug}]
status: {phase: Running}
`, `
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: default
  finalizers: [example.com/wait]
  labels: {app: web}
  annotations: {example.com/note: kept}
spec:
  runtimeClassName: podd
  containers: [{name: app, image: "app:1"}]
`},
		"a pod with an account": {
			`{kind: Pod, spec: {serviceAccountName: mine, securityContext: {runAsUser: 7}}}`,
			`{kind: Pod, spec: {serviceAccountName: mine, securityContext: {runAsUser: 7}}}`},
		"a namespace": {
			`{kind: Namespace, metadata: {name: more, labels: {kubernetes.io/metadata.name: more}}, spec: {finalizers: [kubernetes]}}`,
			`{kind: Namespace, metadata: {name: more}}`},
		"a service": {`{kind: Service, spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: []}}`, `{kind: Service, spec: {ports: []}}`},
		"a headless service": {`{kind: Service, spec: {clusterIP: None, clusterIPs: [None]}}`,
			`{kind: Service, spec: {clusterIP: None, clusterIPs: [None]}}`},
		"a claim": {`{kind: PersistentVolumeClaim, metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}, spec: {storageClassName: podd, volumeName: pvc-1}}`,
			`{kind: PersistentVolumeClaim, metadata: {}, spec: {}}`},
		"a claim of a volume": {`{kind: PersistentVolumeClaim, spec: {storageClassName: "", volumeName: disk}}`,
			`{kind: PersistentVolumeClaim, spec: {storageClassName: "", volumeName: disk}}`},
		"a ConfigMap": {`{kind: ConfigMap, metadata: {name: a, uid: u}, data: {status: kept}}`, `{kind: ConfigMap, metadata: {name: a}, data: {status: kept}}`},
	} {
		t.Run(name, func(t *testing.T) {
			var in, want Object
			if err := errors.Join(yaml.Unmarshal([]byte(test.in), &in), yaml.Unmarshal([]byte(test.want), &want)); err != nil {
				t.Fatal(err)
			}
			before := render(t, in)
			if got := render(t, Clean(in)); got != render(t, want) {
				t.Errorf("got\n%s\nwant\n%s", got, render(t, want))
			}
			if render(t, in) != before {
				t.Error("the object itself was changed")
			}
		})
	}
}

func render(t *testing.T, o Object) string {
	t.Helper()
	data, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWhatEveryClusterMakesIsLeftOut(t *testing.T) {
	for text, want := range map[string]bool{
		`{kind: Namespace, metadata: {name: kube-system}}`:                                                                      true,
		`{kind: Namespace, metadata: {name: shop}}`:                                                                             false,
		`{kind: ConfigMap, metadata: {name: kube-root-ca.crt}}`:                                                                 true,
		`{kind: ConfigMap, metadata: {name: settings}}`:                                                                         false,
		`{kind: ServiceAccount, metadata: {name: default}}`:                                                                     true,
		`{kind: Service, metadata: {name: kubernetes, namespace: default}}`:                                                     true,
		`{kind: Service, metadata: {name: kubernetes, namespace: mine}}`:                                                        false,
		`{kind: PersistentVolume, metadata: {name: pvc-1, annotations: {podd/declared-in: claim default/data}}}`:                true,
		`{kind: PersistentVolume, metadata: {name: disk, annotations: {podd/declared-in: "/etc/podd/manifests/claim.yaml:1"}}}`: false,
		`{kind: EndpointSlice, metadata: {name: web-abc, labels: {kubernetes.io/service-name: web}}}`:                           true,
		`{kind: Pod, metadata: {name: default}}`:                                                                                false,
	} {
		var o Object
		if err := yaml.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		if Own(o) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
}

func TestArgumentsNameKindsAsKubectlDoes(t *testing.T) {
	paths := func(args []string, cluster bool, namespace string) string {
		all, err := Select(args, cluster)
		if err != nil {
			return err.Error()
		}
		var lines []string
		for _, w := range all {
			lines = append(lines, w.Path(namespace))
		}
		return strings.Join(lines, " ")
	}
	for _, test := range []struct {
		args      []string
		namespace string
		want      string
	}{
		{[]string{"pod/web", "po", "Pod"}, "default", "/api/v1/namespaces/default/pods/web /api/v1/namespaces/default/pods /api/v1/namespaces/default/pods"},
		{[]string{"cm/a"}, "shop", "/api/v1/namespaces/shop/configmaps/a"},
		{[]string{"ns/shop"}, "default", "/api/v1/namespaces/shop"},
		{[]string{"runtimeclass"}, "default", "/apis/node.k8s.io/v1/runtimeclasses"},
		{[]string{"secrets"}, "", "/api/v1/secrets"},
		{[]string{"nothing"}, "", "nothing: expected KIND or KIND/NAME, such as pod/web or configmaps"},
		{[]string{"pod/"}, "", "pod/: expected KIND or KIND/NAME, such as pod/web or configmaps"},
		{[]string{"pod/../../secrets"}, "", "pod/../../secrets: expected KIND or KIND/NAME, such as pod/web or configmaps"},
	} {
		if got := paths(test.args, false, test.namespace); got != test.want {
			t.Errorf("%v\ngot  %s\nwant %s", test.args, got, test.want)
		}
	}
	everything := paths(nil, true, "")
	if !strings.HasPrefix(everything, "/api/v1/namespaces ") || !strings.HasSuffix(everything, " /api/v1/pods") ||
		strings.Contains(everything, "events") || strings.Contains(everything, "nodes") {
		t.Errorf("everything is %s", everything)
	}
	if strings.Contains(paths(nil, false, "shop"), "/api/v1/namespaces ") {
		t.Error("one namespace has objects that are in none")
	}
}
