package pod

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func webPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1", Generation: 3},
		Spec: v1.PodSpec{
			RestartPolicy: v1.RestartPolicyAlways,
			Containers: []v1.Container{{
				Name: "app", Image: "app",
				Resources:    v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}},
				VolumeMounts: []v1.VolumeMount{{Name: "data", MountPath: "/data", ReadOnly: true}},
			}},
		},
	}
}

// runningPod is webPod up and running since second 10.
func runningPod() (Desired, Observed) {
	p := webPod()
	return Desired{Key: Key{Namespace: "default", Name: "web"}, Pod: p}, Observed{
		Inspected: true, Since: at(0.7),
		Sandbox: Sandbox{Phase: SandboxRunning, ID: "s", IPs: []netip.Addr{netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00::5")}},
		Containers: map[string]Container{"app": {
			Tried: true, Sandbox: "s", Running: &Running{ID: "c1", StartedAt: at(10)},
			Image: Image{Ref: "example.com/app:1", ID: "example.com/app@sha256:1"},
			Made:  Made{User: &v1.LinuxContainerUser{UID: 7, GID: 8, SupplementalGroups: []int64{8, 9}}, StopSignal: v1.SIGQUIT},
		}},
	}
}

var testNode = Node{Name: "node", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}

func TestStatusOfARunningPod(t *testing.T) {
	d, o := runningPod()
	p := Status(d, o, testNode, nil, at(20.9))
	s := p.Status
	c := s.ContainerStatuses[0]
	for what, got := range map[string]string{
		"phase":           string(s.Phase),
		"host":            s.HostIP + " " + s.HostIPs[0].IP,
		"addresses":       s.PodIP + " " + s.PodIPs[0].IP + " " + s.PodIPs[1].IP,
		"qos":             string(s.QOSClass),
		"start":           s.StartTime.UTC().Format(time.RFC3339Nano),
		"created":         p.CreationTimestamp.UTC().Format(time.RFC3339Nano),
		"container":       c.ContainerID + " " + c.Image + " " + c.ImageID,
		"running since":   c.State.Running.StartedAt.UTC().Format(time.RFC3339Nano),
		"allocated":       c.AllocatedResources.Cpu().String(),
		"resources":       c.Resources.Requests.Cpu().String(),
		"volume mount":    c.VolumeMounts[0].MountPath + " " + string(*c.VolumeMounts[0].RecursiveReadOnly),
		"user":            fmt.Sprintf("%+v", *c.User.Linux),
		"stop signal":     string(*c.StopSignal),
		"node":            p.Spec.NodeName,
		"transition time": s.Conditions[0].LastTransitionTime.UTC().Format(time.RFC3339Nano),
	} {
		want := map[string]string{
			"phase": "Running", "host": "192.0.2.1 192.0.2.1", "addresses": "10.244.0.5 10.244.0.5 fd00::5",
			"qos": "Burstable", "start": "2026-01-01T00:00:00Z", "created": "2026-01-01T00:00:00Z",
			"container": "podd://c1 example.com/app:1 example.com/app@sha256:1", "running since": "2026-01-01T00:00:10Z",
			"allocated": "100m", "resources": "100m", "volume mount": "/data Disabled", "node": "node", "user": "{UID:7 GID:8 SupplementalGroups:[8 9]}", "stop signal": "SIGQUIT",
			"transition time": "2026-01-01T00:00:20Z",
		}[what]
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	var order []string
	for _, c := range s.Conditions {
		order = append(order, string(c.Type))
		if c.ObservedGeneration != 3 {
			t.Errorf("%s has observed generation %d; want 3", c.Type, c.ObservedGeneration)
		}
	}
	if got := strings.Join(order, " "); got != "PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled" {
		t.Errorf("order of conditions: %s", got)
	}
	if d.Pod.Status.Phase != "" || d.Pod.Spec.NodeName != "" {
		t.Error("the wanted pod was changed")
	}
}

func TestTransitionTimeChangesOnlyWithTheStatus(t *testing.T) {
	d, o := runningPod()
	before := Status(d, o, testNode, nil, at(20))
	d.Pod.Spec.Containers[0].ReadinessProbe = &v1.Probe{}
	after := Status(d, o, testNode, before.Status.Conditions, at(30))
	for _, c := range after.Status.Conditions {
		want := at(20)
		if c.Type == v1.PodReady || c.Type == v1.ContainersReady {
			want = at(30)
			if c.Status != v1.ConditionFalse || c.Reason != "ContainersNotReady" || c.Message != "containers with unready status: [app]" {
				t.Errorf("%s is %s, %s: %s", c.Type, c.Status, c.Reason, c.Message)
			}
		}
		if !c.LastTransitionTime.Time.Equal(want) {
			t.Errorf("%s changed at %v; want %v", c.Type, c.LastTransitionTime, want)
		}
	}
}

// A pod that is over a limit of its own is evicted for that, and for no disruption.
// Source: Kubernetes docs, "Disruptions", pod disruption conditions.
func TestAPodOverItsOwnLimitIsNoDisruptionsTarget(t *testing.T) {
	d, o := runningPod()
	o = Apply(o, PodFailed{At{at(21)}, "Evicted", "Usage of EmptyDir volume \"a\" exceeds the limit \"1Mi\". "})
	o = Apply(o, ContainerExited{At: At{at(22)}, Container: "app", ID: "c1", ExitCode: 137})
	p := Status(d, o, testNode, nil, at(23))
	if p.Status.Reason != "Evicted" || condition(p.Status.Conditions, v1.DisruptionTarget) != nil {
		t.Errorf("%+v", p.Status)
	}
}

func TestForeignConditionsAndReadinessGates(t *testing.T) {
	d, o := runningPod()
	d.Pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/open"}}
	p := Status(d, o, testNode, nil, at(20))
	ready := condition(p.Status.Conditions, v1.PodReady)
	if ready.Status != v1.ConditionFalse || ready.Reason != "ReadinessGatesNotReady" ||
		ready.Message != `corresponding condition of pod readiness gate "example.com/open" does not exist.` {
		t.Errorf("without the gate's condition: %+v", ready)
	}
	if c := condition(p.Status.Conditions, v1.ContainersReady); c.Status != v1.ConditionTrue {
		t.Errorf("containers are ready all the same: %+v", c)
	}
	open := append([]v1.PodCondition{{Type: "example.com/open", Status: v1.ConditionTrue}}, p.Status.Conditions...)
	p = Status(d, o, testNode, open, at(30))
	if p.Status.Conditions[0].Type != "example.com/open" || condition(p.Status.Conditions, v1.PodReady).Status != v1.ConditionTrue {
		t.Errorf("with the gate open: %+v", p.Status.Conditions)
	}
}

func TestReadinessGatesAreOpenedAndClosedByAnnotation(t *testing.T) {
	d, o := runningPod()
	d.Pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/warm"}, {ConditionType: "example.com/open"}}
	var shown []v1.PodCondition
	for i, step := range []struct {
		annotation string
		ready      v1.ConditionStatus
	}{
		{"", v1.ConditionFalse},
		{"example.com/open", v1.ConditionFalse},
		{"example.com/warm, example.com/open, example.com/none", v1.ConditionTrue},
		{"example.com/warm", v1.ConditionFalse},
	} {
		d.Pod.Annotations = map[string]string{GatesAnnotation: step.annotation}
		shown = Status(d, o, testNode, shown, at(float64(20+i))).Status.Conditions
		if c := condition(shown, v1.PodReady); c.Status != step.ready {
			t.Errorf("with %q: %+v", step.annotation, c)
		}
		if condition(shown, "example.com/none") != nil {
			t.Error("a condition that is no gate is shown")
		}
	}
	if c := condition(shown, "example.com/warm"); c == nil || !c.LastTransitionTime.Time.Equal(at(22)) {
		t.Errorf("the gate that stayed open: %+v", c)
	}
}

func TestAPodOnTheHostsNetworkHasTheHostsAddresses(t *testing.T) {
	d, o := runningPod()
	d.Pod.Spec.HostNetwork, o.Sandbox.IPs = true, nil
	if p := Status(d, o, testNode, nil, at(20)); p.Status.PodIP != "192.0.2.1" || len(p.Status.PodIPs) != 1 {
		t.Errorf("addresses %v", p.Status.PodIPs)
	}
}

func TestTerminationMessagesOfAPodShareTwelveKilobytes(t *testing.T) {
	d, o := runningPod()
	d.Pod.Spec.Containers = append(d.Pod.Spec.Containers, v1.Container{Name: "b"})
	d.Pod.Spec.InitContainers = []v1.Container{{Name: "c"}}
	d.Pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "d"}}}
	long := strings.Repeat("é", 2048) // 4096 bytes; the cut falls into a character
	o.Containers = map[string]Container{}
	for _, name := range []string{"app", "b", "c", "d"} {
		o.Containers[name] = Container{Tried: true, Sandbox: "s", Last: &Exit{Code: 1, Message: "x" + long}, Running: &Running{ID: name}}
	}
	s := Status(d, o, testNode, nil, at(20)).Status
	all := slices.Concat(s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses)
	if len(all) != 4 {
		t.Fatalf("%d statuses", len(all))
	}
	for _, c := range all {
		m := c.LastTerminationState.Terminated.Message
		if len(m) > 3072 || len(m) < 3070 || !strings.HasPrefix(long, m[1:]) {
			t.Errorf("message of %s: %d bytes", c.Name, len(m))
		}
	}
}

func TestQOSClass(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != "" {
			l[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	of := func(requests, limits v1.ResourceList) v1.Container {
		return v1.Container{Resources: v1.ResourceRequirements{Requests: requests, Limits: limits}}
	}
	full := of(list("1", "1Gi"), list("1000m", "1024Mi"))
	for _, test := range []struct {
		name       string
		containers []v1.Container
		init       []v1.Container
		want       v1.PodQOSClass
	}{
		{"nothing asked", []v1.Container{{}}, nil, v1.PodQOSBestEffort},
		{"zero is nothing", []v1.Container{of(list("0", "0"), nil)}, nil, v1.PodQOSBestEffort},
		{"other resources do not count", []v1.Container{of(v1.ResourceList{"example.com/gpu": resource.MustParse("1")}, nil)}, nil, v1.PodQOSBestEffort},
		{"requests are limits", []v1.Container{full}, nil, v1.PodQOSGuaranteed},
		{"one container without", []v1.Container{full, {}}, nil, v1.PodQOSBurstable},
		{"an init container without", []v1.Container{full}, []v1.Container{{}}, v1.PodQOSBurstable},
		{"requests below limits", []v1.Container{of(list("1", "1Gi"), list("2", "1Gi"))}, nil, v1.PodQOSBurstable},
		{"only cpu", []v1.Container{of(list("1", ""), list("1", ""))}, nil, v1.PodQOSBurstable},
	} {
		p := &v1.Pod{Spec: v1.PodSpec{Containers: test.containers, InitContainers: test.init}}
		if got := QOSClass(p); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	whole := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{}}, Resources: &full.Resources}}
	if got := QOSClass(whole); got != v1.PodQOSGuaranteed {
		t.Errorf("resources of the pod alone decide: %s", got)
	}
}
