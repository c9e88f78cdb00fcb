// Package metrics shows pods, their resource use and the agent's own work to
// Prometheus, under the names that the kubelet, cAdvisor and
// kube-state-metrics gave them, so that dashboards and alerts made for a
// cluster work unchanged.
//
// What pods are and what they use is asked for when somebody scrapes: a pod
// that is gone leaves no series. Only [Counters] remembers anything. Nothing
// here changes a pod, and no pod waits for a scrape.
//
// Read first: [Handlers], [Source], [Counters].
package metrics

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	v1 "k8s.io/api/core/v1"

	"podd/pod"
)

// Config is what the handlers show.
type Config struct {
	Board    *pod.Board
	Source   Source
	Counters *Counters
	Node     Node
	Version  string // of the agent
	// Problems counts the mistakes in manifests and the files of which something
	// is refused. Nil: nobody knows.
	Problems func() (problems, refusedFiles int)
	Now      func() time.Time // nil: time.Now
}

// Node is what does not change about the machine while the agent runs.
type Node struct {
	Name          string
	InternalIP    string // empty: none
	KernelVersion string
	OSImage       string // PRETTY_NAME of os-release
	PodCIDR       string
	SystemUUID    string
	Booted        time.Time
}

// Source measures. It is asked at each scrape, from many goroutines.
type Source interface {
	// Usage measures a pod of the board. What has no cgroup is left out; a pod
	// that is gone has an empty usage.
	Usage(ctx context.Context, p *v1.Pod) PodUsage
	// Volumes measures those of the pod's volumes that can be measured. It may
	// answer with figures that are a minute old.
	Volumes(ctx context.Context, p *v1.Pod) []VolumeUsage
	// Machine measures the whole machine.
	Machine(ctx context.Context) (MachineUsage, error)
}

// PodUsage is what one pod uses.
type PodUsage struct {
	Pod        *GroupUsage           // all containers together; nil: nothing runs
	Sandbox    *GroupUsage           // the pause process; nil: there is none
	Containers map[string]GroupUsage // the running ones, by container name
	Network    *NetworkUsage         // nil for a pod on the host's network
}

// GroupUsage is what one cgroup uses. Bytes and counts since it was made.
type GroupUsage struct {
	Path string // of the cgroup, absolute below its hierarchy's root
	ID   string // container or sandbox id; empty for a pod

	CPU, CPUUser, CPUSystem time.Duration
	Periods, Throttled      uint64 // of the CPU quota
	ThrottledTime           time.Duration

	Memory, WorkingSet, RSS, Cache, MappedFile uint64
	MaxMemory                                  uint64 // 0: not known
	MemoryLimit                                uint64 // 0: none
	Swap, SwapLimit                            uint64
	FailCount, PageFaults, MajorPageFaults     uint64
	OOMKills                                   uint64

	Threads, ThreadsMax uint64 // ThreadsMax 0: no limit
	IO                  []IOUsage
}

// IOUsage is what one block device did for a cgroup.
type IOUsage struct {
	Device                string // such as "8:0"
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// NetworkUsage counts at a pod's interface, seen from the pod.
type NetworkUsage struct {
	Interface                               string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// VolumeUsage is what one volume holds.
type VolumeUsage struct {
	Name                                     string
	UsedBytes, CapacityBytes, AvailableBytes uint64
	InodesUsed, Inodes, InodesFree           uint64
}

// MachineUsage is about the whole machine.
type MachineUsage struct {
	Cores                         int
	CPU                           time.Duration // of all cores, since boot, idle time left out
	MemoryBytes, SwapBytes        uint64        // capacity
	WorkingSetBytes, SwapInUse    uint64
	DiskBytes, AvailableDiskBytes uint64 // of the file system that holds the pods
}

// Handlers returns a handler for each path: /metrics, /metrics/cadvisor,
// /metrics/probes, /metrics/resource and /metrics/state.
func Handlers(c Config) map[string]http.Handler {
	if c.Now == nil {
		c.Now = time.Now
	}
	own := prometheus.NewRegistry()
	own.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	own.MustRegister(c.Counters.collectors()...)
	gather := func(show func(ctx context.Context, f *families)) prometheus.Gatherer {
		return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
			defer cancel()
			f := newFamilies()
			show(ctx, f)
			return f.sorted(), nil
		})
	}
	return map[string]http.Handler{
		"/metrics":          handler(prometheus.Gatherers{own, gather(c.kubelet)}),
		"/metrics/probes":   handler(gather(c.probes)),
		"/metrics/cadvisor": handler(gather(c.cadvisor)),
		"/metrics/resource": handler(gather(c.resource)),
		"/metrics/state":    handler(gather(c.state)),
	}
}

// scrapeTimeout is Prometheus' default; nobody waits for an answer longer.
const scrapeTimeout = 10 * time.Second

// handler answers without compression: scrapers are near, and compressing
// would cost more than all the rest.
func handler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{DisableCompression: true})
}

// kubelet shows what is true at this moment; the counters are beside it.
func (c Config) kubelet(ctx context.Context, f *families) {
	pods, _ := c.Board.Snapshot()
	var running, desired, active, containersRunning, containersExited int
	for _, p := range pods {
		if isTrue(p, v1.PodReadyToStartContainers) {
			running++
		}
		if p.DeletionTimestamp == nil {
			desired++
		}
		if p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
			active++
		}
		for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
			for i := range list {
				switch {
				case list[i].State.Running != nil:
					containersRunning++
				case list[i].State.Terminated != nil || list[i].LastTerminationState.Terminated != nil:
					containersExited++
				}
			}
		}
	}
	static := labels("static", "true")
	f.gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox.").add(float64(running))
	containers := f.gauge("kubelet_running_containers", "Number of containers, by state.")
	containers.add(float64(containersRunning), labels("container_state", "running"))
	containers.add(float64(containersExited), labels("container_state", "exited"))
	f.gauge("kubelet_desired_pods", "The number of pods the node is being instructed to run. Static is true as all pods come from files.").add(float64(desired), static)
	f.gauge("kubelet_active_pods", "The number of pods that are active, which means neither succeeded nor failed.").add(float64(active), static)
	f.gauge("kubelet_node_name", "The node's name. The count is always 1.").add(1, labels("node", c.Node.Name))
	f.gauge("podd_build_info", "The version of the agent. The value is always 1.").
		add(1, labels("goversion", runtime.Version(), "version", c.Version))
	if c.Problems != nil {
		problems, refused := c.Problems()
		f.gauge("podd_manifest_problems", "Number of mistakes in manifests, warnings left out.").add(float64(problems))
		f.gauge("podd_manifest_files_refused", "Number of manifest files, the directory included, of which something is refused or cannot be read.").add(float64(refused))
	}
	c.volumes(ctx, f, pods)
}

// volumes shows volumes under the name of their claim, each claim once. Those that
// have none are shown under the one that a claim made for them would have:
// <pod>-<volume>, as with generic ephemeral volumes.
func (c Config) volumes(ctx context.Context, f *families, pods []*v1.Pod) {
	used := f.gauge("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume.")
	capacity := f.gauge("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume, or of the file system that it shares.")
	available := f.gauge("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume.")
	inodes := f.gauge("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume.")
	inodesFree := f.gauge("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume.")
	inodesUsed := f.gauge("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume.")
	shown := map[pod.Key]bool{}
	for _, p := range pods {
		for _, v := range c.Source.Volumes(ctx, p) {
			key := pod.Key{Namespace: p.Namespace, Name: p.Name + "-" + v.Name}
			if claim := claimOf(p, v.Name); claim != nil {
				key.Name = claim.Name
			}
			if shown[key] {
				continue // several pods use it, or a pod several times
			}
			shown[key] = true
			l := labels("namespace", p.Namespace, "persistentvolumeclaim", key.Name)
			used.add(float64(v.UsedBytes), l)
			capacity.add(float64(v.CapacityBytes), l)
			available.add(float64(v.AvailableBytes), l)
			inodes.add(float64(v.Inodes), l)
			inodesFree.add(float64(v.InodesFree), l)
			inodesUsed.add(float64(v.InodesUsed), l)
		}
	}
}

// isTrue says whether a pod has the condition, and that it holds.
func isTrue(p *v1.Pod, kind v1.PodConditionType) bool {
	c := condition(p, kind)
	return c != nil && c.Status == v1.ConditionTrue
}

func condition(p *v1.Pod, kind v1.PodConditionType) *v1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}
