package container

import (
	"math"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Limits are the values of one cgroup. Zero means: no limit.
type Limits struct {
	CPUShares       uint64 // in the scale of cgroup v1: 1024 for each CPU, at least 2
	CPUQuotaMicros  int64
	CPUPeriodMicros uint64 // set with CPUQuotaMicros
	MemoryBytes     int64
	PIDs            int64
	// OOMGroup: the kernel kills everything in the cgroup at once when it runs
	// out of memory (cgroup v2).
	OOMGroup bool
}

const (
	minShares    = 2
	maxShares    = 262144
	periodMicros = 100000 // cpuCFSQuotaPeriod
	// minQuotaMicros makes every limit below 10m act as 10m.
	minQuotaMicros = 1000
)

// Resources returns the values of a container's cgroup. A container without a
// limit of its own has the pod's, where the pod has one for all its containers.
func Resources(pod *v1.Pod, c *v1.Container) Limits {
	cpuLimit := ownOrPods(pod, c, v1.ResourceCPU)
	request, ok := c.Resources.Requests[v1.ResourceCPU]
	if !ok {
		request = c.Resources.Limits[v1.ResourceCPU]
	}
	memory := ownOrPods(pod, c, v1.ResourceMemory)
	l := Limits{CPUShares: shares(request.MilliValue()), MemoryBytes: memory.Value(), OOMGroup: true}
	l.CPUQuotaMicros, l.CPUPeriodMicros = quota(cpuLimit.MilliValue())
	return l
}

func ownOrPods(pod *v1.Pod, c *v1.Container, name v1.ResourceName) resource.Quantity {
	if q, ok := c.Resources.Limits[name]; ok && !q.IsZero() {
		return q
	}
	if pod.Spec.Resources != nil {
		return pod.Spec.Resources.Limits[name]
	}
	return resource.Quantity{}
}

// PodResources returns the values of a pod's cgroup. PIDs is the node's to set.
func PodResources(pod *v1.Pod) Limits {
	cpuRequest, _ := PodRequests(pod)
	l := Limits{CPUShares: shares(cpuRequest)}
	if QOS(pod) == v1.PodQOSBestEffort {
		return l
	}
	if limit, ok := podLimit(pod, v1.ResourceCPU); ok {
		l.CPUQuotaMicros, l.CPUPeriodMicros = quota(limit.MilliValue())
	}
	if limit, ok := podLimit(pod, v1.ResourceMemory); ok {
		l.MemoryBytes = limit.Value()
	}
	return l
}

// PodRequests returns what a pod asks for, as the scheduler would count it. The
// burstable cgroup's shares follow from the sum over its pods.
func PodRequests(pod *v1.Pod) (cpuMilli, memoryBytes int64) {
	requests := func(c *v1.Container) v1.ResourceList { return c.Resources.Requests }
	cpu, memory := podTotal(pod, v1.ResourceCPU, requests), podTotal(pod, v1.ResourceMemory, requests)
	if r := pod.Spec.Resources; r != nil {
		if q, ok := r.Requests[v1.ResourceCPU]; ok {
			cpu = q
		}
		if q, ok := r.Requests[v1.ResourceMemory]; ok {
			memory = q
		}
	}
	cpu.Add(pod.Spec.Overhead[v1.ResourceCPU])
	memory.Add(pod.Spec.Overhead[v1.ResourceMemory])
	return cpu.MilliValue(), memory.Value()
}

// podLimit returns !ok unless the pod itself or each of its containers has a
// limit.
func podLimit(pod *v1.Pod, name v1.ResourceName) (q resource.Quantity, ok bool) {
	if r := pod.Spec.Resources; r != nil {
		if q, ok = r.Limits[name]; ok && !q.IsZero() {
			q.Add(pod.Spec.Overhead[name])
			return q, true
		}
	}
	for c := range containers(pod) {
		if limit := c.Resources.Limits[name]; limit.IsZero() {
			return resource.Quantity{}, false
		}
	}
	q = podTotal(pod, name, func(c *v1.Container) v1.ResourceList { return c.Resources.Limits })
	q.Add(pod.Spec.Overhead[name])
	return q, true
}

// podTotal returns the most that a pod's containers use of a resource together
// at any time: all containers with all sidecars, or an init container with the
// sidecars before it. Source: Kubernetes docs, "Resource sharing within
// containers".
func podTotal(pod *v1.Pod, name v1.ResourceName, of func(*v1.Container) v1.ResourceList) resource.Quantity {
	var sidecars, most resource.Quantity
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if sidecar(c) {
			sidecars.Add(of(c)[name])
			continue
		}
		here := sidecars.DeepCopy()
		here.Add(of(c)[name])
		if here.Cmp(most) > 0 {
			most = here
		}
	}
	running := sidecars
	for i := range pod.Spec.Containers {
		running.Add(of(&pod.Spec.Containers[i])[name])
	}
	if running.Cmp(most) > 0 {
		return running
	}
	return most
}

func sidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// containers yields init containers and containers.
func containers(pod *v1.Pod) func(yield func(*v1.Container) bool) {
	return func(yield func(*v1.Container) bool) {
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

func shares(milli int64) uint64 {
	if milli > maxShares {
		return maxShares // before the product can overflow
	}
	return uint64(min(max(milli*1024/1000, minShares), maxShares))
}

func quota(milli int64) (quotaMicros int64, period uint64) {
	if milli <= 0 {
		return 0, 0
	}
	if milli > math.MaxInt64/periodMicros {
		return 0, 0 // more than any machine has
	}
	return max(milli*periodMicros/1000, minQuotaMicros), periodMicros
}

// OCI returns the limits in the form of a runtime spec. A memory limit bounds
// memory and swap together, so that no swap is used.
func (l Limits) OCI(cgroupV2 bool) *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &l.CPUShares}}
	if l.CPUQuotaMicros > 0 {
		r.CPU.Quota, r.CPU.Period = &l.CPUQuotaMicros, &l.CPUPeriodMicros
	}
	if l.MemoryBytes > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &l.MemoryBytes, Swap: &l.MemoryBytes}
	}
	if l.PIDs > 0 {
		r.Pids = &specs.LinuxPids{Limit: &l.PIDs}
	}
	if cgroupV2 && l.OOMGroup {
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// QOS returns a pod's quality of service class. Only cpu and memory count.
// Source: Kubernetes docs, "Pod Quality of Service Classes".
func QOS(pod *v1.Pod) v1.PodQOSClass {
	requests, limits := map[v1.ResourceName]resource.Quantity{}, map[v1.ResourceName]resource.Quantity{}
	add := func(sum map[v1.ResourceName]resource.Quantity, list v1.ResourceList) (found int) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			if q := list[name]; q.Sign() > 0 {
				total := sum[name]
				total.Add(q)
				sum[name] = total
				found++
			}
		}
		return found
	}
	limited := true // each container limits both
	if r := pod.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		add(requests, r.Requests)
		limited = add(limits, r.Limits) == 2
	} else {
		for c := range containers(pod) {
			add(requests, c.Resources.Requests)
			limited = add(limits, c.Resources.Limits) == 2 && limited
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return v1.PodQOSBestEffort
	}
	if !limited || len(requests) != len(limits) {
		return v1.PodQOSBurstable
	}
	for name, limit := range limits {
		if request := requests[name]; request.Cmp(limit) != 0 {
			return v1.PodQOSBurstable
		}
	}
	return v1.PodQOSGuaranteed
}

// Scores of oom_score_adj: the kernel kills the highest first.
const (
	guaranteedScore = -997
	bestEffortScore = 1000
	// Priority of the class system-node-critical.
	nodeCritical = 2000001000
)

// OOMScoreAdj returns a container's oom_score_adj: the less of the node's memory
// it asked for, the higher. Source: Kubernetes docs, "Node out of memory
// behavior".
func OOMScoreAdj(pod *v1.Pod, c *v1.Container, nodeMemoryBytes int64) int {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= nodeCritical || pod.Spec.PriorityClassName == "system-node-critical" {
		return guaranteedScore
	}
	switch QOS(pod) {
	case v1.PodQOSGuaranteed:
		return guaranteedScore
	case v1.PodQOSBestEffort:
		return bestEffortScore
	}
	if nodeMemoryBytes <= 0 {
		return bestEffortScore - 1
	}
	var share int64 // of what the pod asks beyond its containers
	if r := pod.Spec.Resources; r != nil {
		if q, ok := r.Requests[v1.ResourceMemory]; ok {
			total, n := q.Value(), int64(0)
			for i := range pod.Spec.InitContainers {
				if each := &pod.Spec.InitContainers[i]; sidecar(each) {
					total, n = total-memoryRequest(each), n+1
				}
			}
			for i := range pod.Spec.Containers {
				total, n = total-memoryRequest(&pod.Spec.Containers[i]), n+1
			}
			share = max(total, 0) / max(n, 1)
		}
	}
	score := func(request int64) int64 {
		return bestEffortScore - int64(float64(bestEffortScore)*float64(request+share)/float64(nodeMemoryBytes))
	}
	own := score(memoryRequest(c))
	if sidecar(c) && len(pod.Spec.Containers) > 0 {
		smallest := memoryRequest(&pod.Spec.Containers[0])
		for i := range pod.Spec.Containers {
			smallest = min(smallest, memoryRequest(&pod.Spec.Containers[i]))
		}
		own = min(own, score(smallest))
	}
	return int(min(max(own, bestEffortScore+guaranteedScore), bestEffortScore-1))
}

func memoryRequest(c *v1.Container) int64 {
	q := c.Resources.Requests[v1.ResourceMemory]
	return q.Value()
}
