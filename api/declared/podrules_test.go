package declared

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// podFrom is a pod as a client sends it.
func podFrom(t testing.TB, text string) *v1.Pod {
	t.Helper()
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// plain is a pod with defaults that runs on the node.
func plain(t testing.TB) *v1.Pod {
	p := podFrom(t, `
metadata: {name: web, namespace: default}
spec:
  nodeName: node
  initContainers: [{name: init, image: "init:1"}, {name: side, image: "side:1", restartPolicy: Always}]
  containers: [{name: app, image: "app:1", resources: {requests: {cpu: 100m}}}, {name: other, image: "other:1"}]
  tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 5}]
`)
	defaultPod(p)
	newPod(p)
	return p
}

// says joins errors as clients read them.
func says(errs field.ErrorList) string {
	var lines []string
	for _, e := range errs {
		lines = append(lines, e.Error())
	}
	return strings.Join(lines, "\n")
}

func TestDefaultsOfAPodAreThoseOfAnAPIServer(t *testing.T) {
	p := plain(t)
	s := p.Spec
	if s.ServiceAccountName != "default" || s.DeprecatedServiceAccount != "default" || s.Priority == nil || *s.Priority != 0 ||
		s.PreemptionPolicy == nil || *s.PreemptionPolicy != v1.PreemptLowerPriority || *s.TerminationGracePeriodSeconds != 30 ||
		s.Containers[0].TerminationMessagePath != "/dev/termination-log" || !*s.EnableServiceLinks || s.SchedulerName != "default-scheduler" {
		t.Errorf("defaulted to %+v", s)
	}
	if p.Status.Phase != v1.PodPending || p.Status.QOSClass != v1.PodQOSBurstable {
		t.Errorf("status %+v", p.Status)
	}
	p.Spec.PriorityClassName, p.Spec.Priority = "system-node-critical", nil
	if defaultPod(p); *p.Spec.Priority != 2000001000 {
		t.Errorf("priority %d", *p.Spec.Priority)
	}
}

func TestOnlyAFewFieldsOfAPodMayChange(t *testing.T) {
	for name, test := range map[string]struct {
		change func(p, old *v1.Pod)
		want   string // in the message; empty: allowed
	}{
		"nothing":    {func(p, old *v1.Pod) {}, ""},
		"metadata":   {func(p, old *v1.Pod) { p.Labels = map[string]string{"a": "b"} }, ""},
		"an image":   {func(p, old *v1.Pod) { p.Spec.Containers[0].Image = "app:2" }, ""},
		"init image": {func(p, old *v1.Pod) { p.Spec.InitContainers[0].Image = "init:2" }, ""},
		"a toleration more": {func(p, old *v1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Key: "b", Operator: v1.TolerationOpExists})
		}, ""},
		"a toleration's seconds": {func(p, old *v1.Pod) { p.Spec.Tolerations[0].TolerationSeconds = new(int64(9)) }, ""},
		"a toleration less": {func(p, old *v1.Pod) { p.Spec.Tolerations = nil },
			"spec.tolerations[0]: Forbidden: existing toleration can not be modified except its tolerationSeconds"},
		"a deadline": {func(p, old *v1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(5)) }, ""},
		"a sooner one": {func(p, old *v1.Pod) {
			old.Spec.ActiveDeadlineSeconds, p.Spec.ActiveDeadlineSeconds = new(int64(5)), new(int64(4))
		}, ""},
		"a later deadline": {func(p, old *v1.Pod) {
			old.Spec.ActiveDeadlineSeconds, p.Spec.ActiveDeadlineSeconds = new(int64(5)), new(int64(6))
		}, "spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"},
		"no deadline": {func(p, old *v1.Pod) { old.Spec.ActiveDeadlineSeconds = new(int64(5)) }, "must not update from a positive integer to nil value"},
		"negative grace": {func(p, old *v1.Pod) {
			old.Spec.TerminationGracePeriodSeconds, p.Spec.TerminationGracePeriodSeconds = new(int64(-1)), new(int64(1))
		}, ""},
		"grace":            {func(p, old *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(1)) }, "pod updates may not change fields other than `spec.containers[*].image`"},
		"a command":        {func(p, old *v1.Pod) { p.Spec.Containers[0].Command = []string{"x"} }, "spec.containers[0].command: from nothing to [\"x\"]"},
		"resources":        {func(p, old *v1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("1") }, "spec: Forbidden: pod updates may not change fields other than"},
		"a container less": {func(p, old *v1.Pod) { p.Spec.Containers = p.Spec.Containers[:1] }, "spec.containers: Forbidden: pod updates may not add or remove containers"},
		"the node":         {func(p, old *v1.Pod) { p.Spec.NodeName = "other" }, "spec.nodeName: from node to other"},
		"ephemeral":        {func(p, old *v1.Pod) { p.Spec.EphemeralContainers = []v1.EphemeralContainer{{}} }, "spec.ephemeralContainers"},
		"a gate less":      {func(p, old *v1.Pod) { old.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "a/b"}} }, ""},
		"a gate more":      {func(p, old *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "a/b"}} }, "only deletion is allowed"},
		"selector of gated": {func(p, old *v1.Pod) {
			old.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "a/b"}}
			p.Spec.NodeSelector = map[string]string{"a": "b"}
		}, ""},
		"selector": {func(p, old *v1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }, "pod updates may not change"},
	} {
		t.Run(name, func(t *testing.T) {
			p, old := plain(t), plain(t)
			test.change(p, old)
			if got := says(checkPodUpdate(p, old)); got != test.want && (test.want == "" || !strings.Contains(got, test.want)) {
				t.Errorf("got %q; want %q", got, test.want)
			}
		})
	}
}

func TestAResizeChangesCPUAndMemoryOnly(t *testing.T) {
	set := func(p *v1.Pod, i int, limit bool, name, value string) {
		r := &p.Spec.Containers[i].Resources
		list := &r.Requests
		if limit {
			list = &r.Limits
		}
		if *list == nil {
			*list = v1.ResourceList{}
		}
		(*list)[v1.ResourceName(name)] = resource.MustParse(value)
	}
	for name, test := range map[string]struct {
		change func(p *v1.Pod)
		want   string
	}{
		"more cpu":        {func(p *v1.Pod) { set(p, 0, false, "cpu", "200m") }, ""},
		"memory too":      {func(p *v1.Pod) { set(p, 0, false, "memory", "1Gi") }, ""},
		"a limit":         {func(p *v1.Pod) { set(p, 0, true, "cpu", "1") }, ""},
		"none left":       {func(p *v1.Pod) { p.Spec.Containers[0].Resources = v1.ResourceRequirements{} }, "resource cpu cannot be removed"},
		"other resources": {func(p *v1.Pod) { set(p, 0, false, "ephemeral-storage", "1Gi") }, "only cpu and memory resources are mutable"},
		"an init one": {func(p *v1.Pod) {
			p.Spec.InitContainers[0].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("1")}
		}, "only sidecar containers can be resized"},
		"a sidecar": {func(p *v1.Pod) {
			p.Spec.InitContainers[1].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("1")}
		}, ""},
		"another class": {func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests = nil }, "Pod QOS Class may not change"},
		"the end of it": {func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded }, "has run to its end"},
		"nothing else": {func(p *v1.Pod) {
			p.Spec.Containers[0].Command = []string{"dropped"}
			p.Labels = map[string]string{"a": "b"}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sent, old := plain(t), plain(t)
			test.change(sent)
			old.Status.Phase = sent.Status.Phase
			merged := withResources(sent, old)
			if len(merged.Spec.Containers[0].Command)+len(merged.Labels) > 0 {
				t.Error("more than the resources was taken")
			}
			if got := says(checkResize(merged, old)); got != test.want && (test.want == "" || !strings.Contains(got, test.want)) {
				t.Errorf("got %q; want %q", got, test.want)
			}
		})
	}
}

func TestEphemeralContainersAreOnlyAdded(t *testing.T) {
	debug := func(name, image string) v1.EphemeralContainer {
		return v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: name, Image: image}}
	}
	old := plain(t)
	old = withEphemeral(&v1.Pod{Spec: v1.PodSpec{EphemeralContainers: []v1.EphemeralContainer{debug("first", "busybox:1")}}}, old)
	for name, test := range map[string]struct {
		change func(p *v1.Pod)
		want   string
	}{
		"another": {func(p *v1.Pod) {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, debug("second", "busybox:1"))
		}, ""},
		"none":  {func(p *v1.Pod) { p.Spec.EphemeralContainers = nil }, `existing ephemeral containers "first" may not be removed`},
		"other": {func(p *v1.Pod) { p.Spec.EphemeralContainers[0].Image = "busybox:2" }, `existing ephemeral containers "first" may not be changed`},
		"no such target": {func(p *v1.Pod) {
			c := debug("second", "busybox:1")
			c.TargetContainerName = "nobody"
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, c)
		}, `spec.ephemeralContainers[1].targetContainerName: Not found: "nobody"`},
		"one that is looked after": {func(p *v1.Pod) {
			c := debug("second", "busybox:1")
			c.Ports, c.Lifecycle, c.ReadinessProbe = []v1.ContainerPort{{ContainerPort: 80}}, &v1.Lifecycle{}, &v1.Probe{}
			c.Resources.Limits = v1.ResourceList{"cpu": resource.MustParse("1")}
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, c)
		}, strings.Join([]string{
			"spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container",
			"spec.ephemeralContainers[1].resources: Forbidden: cannot be set for an Ephemeral Container",
			"spec.ephemeralContainers[1].readinessProbe: Forbidden: cannot be set for an Ephemeral Container",
			"spec.ephemeralContainers[1].lifecycle: Forbidden: cannot be set for an Ephemeral Container",
		}, "\n")},
	} {
		t.Run(name, func(t *testing.T) {
			sent := old.DeepCopy()
			sent.Spec.Containers = nil // what else is sent does not count
			test.change(sent)
			merged := withEphemeral(sent, old)
			if len(merged.Spec.Containers) != 2 {
				t.Error("more than the ephemeral containers was taken")
			}
			if got := says(checkEphemeral(merged, old)); got != test.want && (test.want == "" || !strings.Contains(got, test.want)) {
				t.Errorf("got %q; want %q", got, test.want)
			}
		})
	}
	if e := old.Spec.EphemeralContainers[0]; e.TerminationMessagePath == "" || e.ImagePullPolicy == "" {
		t.Errorf("not defaulted: %+v", e)
	}
}

func TestMistakesOfAPodAreToldAsAnAPIServerTellsThem(t *testing.T) {
	for name, test := range map[string]struct{ pod, want string }{
		"none": {`{metadata: {name: web}, spec: {containers: [{name: app, image: "a:1"}]}}`, ""},
		"no image": {`{metadata: {name: web}, spec: {containers: [{name: app}]}}`,
			"spec.containers[0].image: Required value"},
		"no name": {`{metadata: {name: web}, spec: {containers: [{image: "a:1"}]}}`,
			"spec.containers[0].name: Required value"},
		"no containers": {`{metadata: {name: web}, spec: {}}`, "spec.containers: Required value"},
		"an empty list": {`{metadata: {name: web}, spec: {containers: []}}`, "spec.containers: Required value: expected at least one container"},
		"a probe of nothing": {`{metadata: {name: web}, spec: {containers: [{name: app, image: "a:1", livenessProbe: {periodSeconds: 5}}]}}`,
			"spec.containers[0].livenessProbe: Required value: expected exec, grpc, httpGet or tcpSocket"},
		"a bad name": {`{metadata: {name: web}, spec: {containers: [{name: App_1, image: "a:1"}]}}`,
			`spec.containers[0].name: Invalid value: "App_1": expected lower-case letters`},
		"twice": {`{metadata: {name: web}, spec: {containers: [{name: app, image: "a:1"}, {name: app, image: "a:1"}]}}`,
			`spec.containers[1].name: Duplicate value: "app"`},
		"a policy": {`{metadata: {name: web}, spec: {restartPolicy: Sometimes, containers: [{name: app, image: "a:1"}]}}`,
			`spec.restartPolicy: Invalid value: "Sometimes": expected Always, OnFailure or Never`},
		"not here": {`{metadata: {name: web}, spec: {hostUsers: false, containers: [{name: app, image: "a:1"}]}}`,
			"spec.hostUsers: Forbidden: false is not supported here"},
		"a number": {`{metadata: {name: web}, spec: {containers: [{name: app, image: "a:1", ports: [{containerPort: 70000}]}]}}`,
			"spec.containers[0].ports[0].containerPort: Invalid value: 70000: expected a port from 1 to 65535"},
	} {
		t.Run(name, func(t *testing.T) {
			p := podFrom(t, test.pod)
			defaultPod(p)
			parsed, err := parsePod(p)
			if err != nil {
				t.Fatal(err)
			}
			if got := says(fieldErrors(p, parsed.Problems)); got != test.want && (test.want == "" || !strings.HasPrefix(got, test.want)) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// A file's pod has no use for these fields; the API finds pods their place and keeps what
// finalizers hold.
func TestNobodyIsWarnedOfWhatHasAnEffectInTheAPI(t *testing.T) {
	for spec, want := range map[string]string{
		`nodeSelector: {a: b}, schedulerName: mine, tolerations: [{operator: Exists}], nodeName: node, readinessGates: [{conditionType: a.b/c}]`: "",
		`affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}`:                                                        "",
		`affinity: {podAntiAffinity: {}}, topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]`:        "spec.affinity spec.topologySpreadConstraints",
		`priorityClassName: system-node-critical`: "spec.priorityClassName",
	} {
		p := podFrom(t, `{metadata: {name: web, namespace: default, finalizers: [example.com/hold]}, spec: {containers: [{name: a, image: "a:1"}], `+spec+`}}`)
		defaultPod(p)
		var fields []string
		for _, text := range (&Keeper{}).warnings(p, nil) {
			field, _, _ := strings.Cut(text, ":")
			fields = append(fields, field)
		}
		if got := strings.Join(fields, " "); got != want {
			t.Errorf("%s: warned of %q, want %q", spec, got, want)
		}
	}
}

func TestGraceOfADeletion(t *testing.T) {
	for name, test := range map[string]struct {
		change func(p *v1.Pod)
		asked  *int64
		want   int64
	}{
		"its own":       {func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(7)) }, nil, 7},
		"as asked":      {func(p *v1.Pod) {}, new(int64(3)), 3},
		"at once":       {func(p *v1.Pod) {}, new(int64(0)), 0},
		"negative":      {func(p *v1.Pod) {}, new(int64(-5)), 1},
		"without place": {func(p *v1.Pod) { p.Spec.NodeName = "" }, nil, 0},
		"succeeded":     {func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded }, new(int64(9)), 0},
		"failed":        {func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := plain(t)
			test.change(p)
			if got := graceOf(p, test.asked); got != test.want {
				t.Errorf("%d s; want %d s", got, test.want)
			}
		})
	}
}

func TestAPodHasItsPlaceWhereItFits(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{"disk": "ssd", "cores": "4"}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("3")}}}
	pod := func(spec string) *v1.Pod {
		return podFrom(t, `{metadata: {name: x}, spec: {`+spec+`}}`)
	}
	const ported = `containers: [{ports: [{hostPort: 80, protocol: TCP}]}]`
	affinity := func(term string) string {
		return `containers: [{}], affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [` + term + `]}}}`
	}
	tainted := func(effect v1.TaintEffect) func(n *v1.Node) {
		return func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: "a", Value: "b", Effect: effect}} }
	}
	for name, test := range map[string]struct {
		node   func(n *v1.Node)
		pod    string
		others []string
		want   string
	}{
		"it fits":            {nil, `containers: [{resources: {requests: {cpu: "1"}}}]`, []string{`containers: [{resources: {requests: {cpu: "1"}}}]`}, ""},
		"too much":           {nil, `containers: [{resources: {requests: {cpu: "1", memory: 2Gi}}}]`, []string{`containers: [{resources: {requests: {cpu: 1500m}}}]`}, "Insufficient cpu; Insufficient memory"},
		"an init container":  {nil, `initContainers: [{resources: {requests: {cpu: "3"}}}], containers: [{}]`, nil, "Insufficient cpu"},
		"sidecars add up":    {nil, `initContainers: [{restartPolicy: Always, resources: {requests: {cpu: "1"}}}], containers: [{resources: {requests: {cpu: 1500m}}}]`, nil, "Insufficient cpu"},
		"overhead":           {nil, `overhead: {cpu: "3"}, containers: [{}]`, nil, "Insufficient cpu"},
		"unknown resources":  {nil, `containers: [{resources: {requests: {example.com/gpu: "1"}}}]`, nil, "Insufficient example.com/gpu"},
		"too many":           {nil, `containers: [{}]`, []string{`containers: [{}]`, `containers: [{}]`, `containers: [{}]`}, "Too many pods"},
		"a port":             {nil, ported, []string{ported}, "node(s) didn't have free ports for the requested pod ports"},
		"the port of udp":    {nil, ported, []string{`containers: [{ports: [{hostPort: 80, protocol: UDP}]}]`}, ""},
		"of another address": {nil, `containers: [{ports: [{hostPort: 80, protocol: TCP, hostIP: 127.0.0.1}]}]`, []string{`containers: [{ports: [{hostPort: 80, protocol: TCP, hostIP: 127.0.0.2}]}]`}, ""},
		"a selector":         {nil, `containers: [{}], nodeSelector: {disk: ssd}`, nil, ""},
		"another selector":   {nil, `containers: [{}], nodeSelector: {disk: hdd}`, nil, "node(s) didn't match Pod's node affinity/selector"},
		"affinity":           {nil, affinity(`{matchExpressions: [{key: cores, operator: Gt, values: ["2"]}, {key: gpu, operator: DoesNotExist}]}`), nil, ""},
		"any term":           {nil, affinity(`{matchExpressions: [{key: disk, operator: In, values: [hdd]}]}, {matchFields: [{key: metadata.name, operator: In, values: [node]}]}`), nil, ""},
		"no term":            {nil, affinity(`{matchExpressions: [{key: disk, operator: NotIn, values: [ssd]}]}, {}`), nil, "node(s) didn't match Pod's node affinity/selector"},
		"cordoned":           {func(n *v1.Node) { n.Spec.Unschedulable = true }, `containers: [{}]`, nil, "node(s) were unschedulable"},
		"tainted":            {tainted(v1.TaintEffectNoSchedule), `containers: [{}]`, nil, "node(s) had untolerated taint(s)"},
		"tainted for all":    {tainted(v1.TaintEffectNoExecute), `containers: [{}], tolerations: [{key: a, effect: NoSchedule, operator: Exists}]`, nil, "node(s) had untolerated taint(s)"},
		"tainted a little":   {tainted(v1.TaintEffectPreferNoSchedule), `containers: [{}]`, nil, ""},
		"tolerated":          {tainted(v1.TaintEffectNoSchedule), `containers: [{}], tolerations: [{key: a, operator: Equal, value: b}]`, nil, ""},
		"all tolerated":      {tainted(v1.TaintEffectNoExecute), `containers: [{}], tolerations: [{operator: Exists}]`, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := node.DeepCopy()
			if test.node != nil {
				test.node(n)
			}
			var others []*v1.Pod
			for _, o := range test.others {
				others = append(others, pod(o))
			}
			if got := strings.Join(misfits(pod(test.pod), n, others), "; "); got != test.want {
				t.Errorf("%q; want %q", got, test.want)
			}
		})
	}
	if len(misfits(pod(`containers: [{}], nodeSelector: {a: b}`), nil, nil)) > 0 {
		t.Error("a node that nobody knows has no room")
	}
}
