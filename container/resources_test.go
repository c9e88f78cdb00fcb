package container

import (
	"math"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func asks(name string, requests, limits v1.ResourceList) v1.Container {
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func asSidecar(c v1.Container) v1.Container {
	c.RestartPolicy = ptr(v1.ContainerRestartPolicyAlways)
	return c
}

func podOf(init, containers []v1.Container) *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{InitContainers: init, Containers: containers}}
}

func TestCPUNumbers(t *testing.T) {
	for _, tt := range []struct {
		milli  int64
		shares uint64
		quota  int64
	}{
		{0, 2, 0},
		{1, 2, 1000},
		{2, 2, 1000},
		{9, 9, 1000},
		{10, 10, 1000},
		{11, 11, 1100},
		{100, 102, 10000},
		{500, 512, 50000},
		{1000, 1024, 100000},
		{1500, 1536, 150000},
		{2000, 2048, 200000},
		{256000, 262144, 25600000},
		{math.MaxInt64, 262144, 0},
	} {
		s := shares(tt.milli)
		q, _ := quota(tt.milli)
		if s != tt.shares || q != tt.quota {
			t.Errorf("%dm: got shares %d, quota %d; want %+v", tt.milli, s, q, tt)
		}
	}
}

func TestContainerLimits(t *testing.T) {
	for _, tt := range []struct {
		name             string
		requests, limits v1.ResourceList
		podLimits        v1.ResourceList
		shares           uint64
		quota, memory    int64
	}{
		{name: "nothing asked", shares: 2},
		{name: "requests", requests: list("cpu", "500m", "memory", "1Gi"), shares: 512},
		{name: "limits", requests: list("cpu", "100m"), limits: list("cpu", "1", "memory", "64Mi"), shares: 102, quota: 100000, memory: 64 << 20},
		{name: "a request missing beside a limit", limits: list("cpu", "1"), shares: 1024, quota: 100000},
		{name: "a request of nothing beside a limit", requests: list("cpu", "0"), limits: list("cpu", "1"), shares: 2, quota: 100000},
		{name: "the pod's limits hold where there are none", podLimits: list("cpu", "2", "memory", "1Gi"), shares: 2, quota: 200000, memory: 1 << 30},
		{name: "own limits go before the pod's", limits: list("memory", "1Mi"), podLimits: list("memory", "1Gi"), shares: 2, memory: 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := podOf(nil, []v1.Container{asks("app", tt.requests, tt.limits)})
			if tt.podLimits != nil {
				pod.Spec.Resources = &v1.ResourceRequirements{Limits: tt.podLimits}
			}
			got := Resources(pod, &pod.Spec.Containers[0])
			if got.CPUShares != tt.shares || got.CPUQuotaMicros != tt.quota || got.MemoryBytes != tt.memory || !got.OOMGroup {
				t.Errorf("got %+v", got)
			}
			if (got.CPUQuotaMicros > 0) != (got.CPUPeriodMicros == 100000) {
				t.Errorf("quota %d with period %d", got.CPUQuotaMicros, got.CPUPeriodMicros)
			}
		})
	}
}

func TestLimitsAsOCI(t *testing.T) {
	v2 := Limits{CPUShares: 2, MemoryBytes: 5, PIDs: 7, OOMGroup: true}.OCI(true)
	if *v2.CPU.Shares != 2 || v2.CPU.Quota != nil || *v2.Memory.Limit != 5 || *v2.Memory.Swap != 5 || *v2.Pids.Limit != 7 ||
		v2.Unified["memory.oom.group"] != "1" {
		t.Errorf("v2: %+v", v2)
	}
	v1 := Limits{CPUShares: 3, CPUQuotaMicros: 1000, CPUPeriodMicros: 100000, OOMGroup: true}.OCI(false)
	if *v1.CPU.Quota != 1000 || *v1.CPU.Period != 100000 || v1.Memory != nil || v1.Pids != nil || v1.Unified != nil {
		t.Errorf("v1: %+v", v1)
	}
}

func TestPodLimits(t *testing.T) {
	small, big := list("cpu", "100m", "memory", "100Mi"), list("cpu", "1", "memory", "1Gi")
	for _, tt := range []struct {
		name             string
		init, containers []v1.Container
		pod              *v1.ResourceRequirements
		overhead         v1.ResourceList
		cpu, requested   int64 // requests, milli and bytes
		quota, memory    int64
	}{
		{name: "best effort", containers: []v1.Container{asks("a", nil, nil)}},
		{name: "the sum of the containers", containers: []v1.Container{asks("a", small, small), asks("b", big, big)},
			cpu: 1100, requested: 1124 << 20, quota: 110000, memory: 1124 << 20},
		{name: "one without limits frees the pod", containers: []v1.Container{asks("a", small, small), asks("b", small, nil)},
			cpu: 200, requested: 200 << 20},
		{name: "so does an init container", init: []v1.Container{asks("i", small, nil)}, containers: []v1.Container{asks("a", small, small)},
			cpu: 100, requested: 100 << 20},
		{name: "a big init container counts", init: []v1.Container{asks("i", big, big)}, containers: []v1.Container{asks("a", small, small)},
			cpu: 1000, requested: 1 << 30, quota: 100000, memory: 1 << 30},
		{name: "sidecars add to what follows",
			init:       []v1.Container{asks("i", big, big), asSidecar(asks("s", small, small)), asks("j", big, big)},
			containers: []v1.Container{asks("a", small, small)},
			cpu:        1100, requested: 1124 << 20, quota: 110000, memory: 1124 << 20},
		{name: "sidecars add to the containers",
			init:       []v1.Container{asSidecar(asks("s", big, big))},
			containers: []v1.Container{asks("a", small, small)},
			cpu:        1100, requested: 1124 << 20, quota: 110000, memory: 1124 << 20},
		{name: "the pod's own values", containers: []v1.Container{asks("a", small, nil)},
			pod: &v1.ResourceRequirements{Requests: list("cpu", "2"), Limits: big},
			cpu: 2000, requested: 100 << 20, quota: 100000, memory: 1 << 30},
		{name: "overhead", containers: []v1.Container{asks("a", small, small)}, overhead: small,
			cpu: 200, requested: 200 << 20, quota: 20000, memory: 200 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := podOf(tt.init, tt.containers)
			pod.Spec.Resources, pod.Spec.Overhead = tt.pod, tt.overhead
			cpu, memory := PodRequests(pod)
			if cpu != tt.cpu || memory != tt.requested {
				t.Errorf("requests: got %dm, %d; want %dm, %d", cpu, memory, tt.cpu, tt.requested)
			}
			got := PodResources(pod)
			if got.CPUShares != shares(tt.cpu) ||
				got.CPUQuotaMicros != tt.quota || got.MemoryBytes != tt.memory || got.OOMGroup || got.PIDs != 0 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestQOS(t *testing.T) {
	both := list("cpu", "1", "memory", "1Gi")
	for _, tt := range []struct {
		name             string
		init, containers []v1.Container
		pod              *v1.ResourceRequirements
		want             v1.PodQOSClass
	}{
		{"nothing", nil, []v1.Container{asks("a", nil, nil)}, nil, v1.PodQOSBestEffort},
		{"zeros are nothing", nil, []v1.Container{asks("a", list("cpu", "0"), list("memory", "0"))}, nil, v1.PodQOSBestEffort},
		{"other resources do not count", nil, []v1.Container{asks("a", list("ephemeral-storage", "1Gi"), nil)}, nil, v1.PodQOSBestEffort},
		{"equal limits and requests", nil, []v1.Container{asks("a", both, both)}, nil, v1.PodQOSGuaranteed},
		{"one container without", nil, []v1.Container{asks("a", both, both), asks("b", nil, nil)}, nil, v1.PodQOSBurstable},
		{"an init container without", []v1.Container{asks("i", nil, nil)}, []v1.Container{asks("a", both, both)}, nil, v1.PodQOSBurstable},
		{"limits above requests", nil, []v1.Container{asks("a", list("cpu", "1", "memory", "1Mi"), both)}, nil, v1.PodQOSBurstable},
		{"only cpu", nil, []v1.Container{asks("a", list("cpu", "1"), list("cpu", "1"))}, nil, v1.PodQOSBurstable},
		{"only requests", nil, []v1.Container{asks("a", both, nil)}, nil, v1.PodQOSBurstable},
		{"the pod's own decide", nil, []v1.Container{asks("a", nil, nil)}, &v1.ResourceRequirements{Requests: both, Limits: both}, v1.PodQOSGuaranteed},
		{"the pod's own decide against", nil, []v1.Container{asks("a", both, both)}, &v1.ResourceRequirements{Requests: both}, v1.PodQOSBurstable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := podOf(tt.init, tt.containers)
			pod.Spec.Resources = tt.pod
			if got := QOS(pod); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestOOMScoreAdj(t *testing.T) {
	const node = 10 << 30
	unknown := podOf(nil, []v1.Container{asks("a", list("memory", "1Gi"), nil)})
	if got := OOMScoreAdj(unknown, &unknown.Spec.Containers[0], 0); got != 999 {
		t.Errorf("on a node of unknown size: got %d, want 999", got)
	}
	gi := func(n string) v1.ResourceList { return list("memory", n+"Gi") }
	both := list("cpu", "1", "memory", "1Gi")
	for _, tt := range []struct {
		name             string
		init, containers []v1.Container
		podSpec          v1.PodSpec
		of               string
		want             int
	}{
		{"best effort goes first", nil, []v1.Container{asks("a", nil, nil)}, v1.PodSpec{}, "a", 1000},
		{"guaranteed goes last", nil, []v1.Container{asks("a", both, both)}, v1.PodSpec{}, "a", -997},
		{"critical to the node", nil, []v1.Container{asks("a", nil, nil)}, v1.PodSpec{PriorityClassName: "system-node-critical"}, "a", -997},
		{"critical by priority", nil, []v1.Container{asks("a", nil, nil)}, v1.PodSpec{Priority: ptr(int32(2000001000))}, "a", -997},
		{"burstable by its share of the node", nil, []v1.Container{asks("a", gi("4"), nil)}, v1.PodSpec{}, "a", 600},
		{"burstable without a memory request", nil, []v1.Container{asks("a", list("cpu", "1"), nil)}, v1.PodSpec{}, "a", 999},
		{"burstable with everything", nil, []v1.Container{asks("a", gi("20"), nil)}, v1.PodSpec{}, "a", 3},
		{"a sidecar outlives the smallest container", []v1.Container{asSidecar(asks("s", gi("1"), nil))},
			[]v1.Container{asks("a", gi("5"), nil), asks("b", gi("3"), nil)}, v1.PodSpec{}, "s", 700},
		{"a bigger sidecar keeps its own", []v1.Container{asSidecar(asks("s", gi("4"), nil))},
			[]v1.Container{asks("a", gi("3"), nil)}, v1.PodSpec{}, "s", 600},
		{"what a pod asks beyond its containers is shared out", nil,
			[]v1.Container{asks("a", gi("1"), nil), asks("b", nil, nil)},
			v1.PodSpec{Resources: &v1.ResourceRequirements{Requests: gi("5")}}, "b", 800},
		{"the sidecars of a pod take their part of that", []v1.Container{asSidecar(asks("s", gi("1"), nil)), asks("i", gi("9"), nil)},
			[]v1.Container{asks("a", gi("1"), nil)},
			v1.PodSpec{Resources: &v1.ResourceRequirements{Requests: gi("6")}}, "a", 700},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := podOf(nil, nil)
			pod.Spec = tt.podSpec
			pod.Spec.InitContainers, pod.Spec.Containers = tt.init, tt.containers
			if got := OOMScoreAdj(pod, findContainer(pod, tt.of), node); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
