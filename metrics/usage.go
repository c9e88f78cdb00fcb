package metrics

import (
	"context"

	dto "github.com/prometheus/client_model/go"
	v1 "k8s.io/api/core/v1"
)

// cpuPeriod is the period of every CPU quota, in microseconds, as the kubelet
// sets it.
const cpuPeriod = 100000

// cadvisor shows cAdvisor's names: a row for each running container, one for
// each sandbox, which has the pod's network, and one for each pod.
// Source: cAdvisor, docs/storage/prometheus.md; labels as the kubelet sets them.
func (c Config) cadvisor(ctx context.Context, f *families) {
	t := groupFamilies(f)
	n := networkFamilies(f)
	spec := specFamilies(f)
	pods, _ := c.Board.Snapshot()
	for _, p := range pods {
		u := c.Source.Usage(ctx, p)
		if u.Pod != nil {
			row := rowLabels(p, *u.Pod, "", "")
			t.add(*u.Pod, row, c.seconds())
			spec.pod(p, *u.Pod, row)
		}
		if u.Sandbox != nil {
			row := rowLabels(p, *u.Sandbox, "", "")
			t.add(*u.Sandbox, row, c.seconds())
			if u.Network != nil {
				n.add(*u.Network, row)
			}
		}
		eachContainer(p, func(spc *v1.Container, status *v1.ContainerStatus, _ bool) {
			g, found := u.Containers[spc.Name]
			if !found {
				return
			}
			image := spc.Image
			if status != nil && status.Image != "" {
				image = status.Image
			}
			row := rowLabels(p, g, spc.Name, image)
			t.add(g, row, c.seconds())
			spec.container(spc, status, g, row)
		})
	}
	m, err := c.Source.Machine(ctx)
	f.gauge("container_scrape_error", "1 if the machine could not be measured, 0 otherwise.").addIf(err != nil)
	if err != nil {
		return
	}
	f.gauge("machine_cpu_cores", "Number of logical CPU cores.").add(float64(m.Cores))
	f.gauge("machine_memory_bytes", "Amount of memory installed on the machine.").add(float64(m.MemoryBytes))
	f.gauge("machine_swap_bytes", "Amount of swap memory available on the machine.").add(float64(m.SwapBytes))
}

func (c Config) seconds() float64 { return float64(c.Now().UnixMilli()) / 1000 }

// rowLabels are cAdvisor's labels; empty ones are kept, as cAdvisor does.
func rowLabels(p *v1.Pod, g GroupUsage, container, image string) []*dto.LabelPair {
	return labels("container", container, "id", g.Path, "image", image, "name", g.ID, "namespace", p.Namespace, "pod", p.Name)
}

// groupTable has the families that every cgroup has a sample in.
type groupTable struct {
	gauges   []groupFamily
	failures *family
	io       [4]*family
	lastSeen *family
}

type groupFamily struct {
	*family
	value func(*GroupUsage) (value float64, known bool)
}

func groupFamilies(f *families) groupTable {
	var t groupTable
	add := func(m *family, value func(*GroupUsage) float64) {
		t.gauges = append(t.gauges, groupFamily{m, func(g *GroupUsage) (float64, bool) { return value(g), true }})
	}
	add(f.counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds."), func(g *GroupUsage) float64 { return g.CPU.Seconds() })
	add(f.counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds."), func(g *GroupUsage) float64 { return g.CPUUser.Seconds() })
	add(f.counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds."), func(g *GroupUsage) float64 { return g.CPUSystem.Seconds() })
	add(f.counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals."), func(g *GroupUsage) float64 { return float64(g.Periods) })
	add(f.counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals."), func(g *GroupUsage) float64 { return float64(g.Throttled) })
	add(f.counter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled."), func(g *GroupUsage) float64 { return g.ThrottledTime.Seconds() })
	add(f.gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed."), func(g *GroupUsage) float64 { return float64(g.Memory) })
	add(f.gauge("container_memory_working_set_bytes", "Current working set in bytes: usage without inactive file pages."), func(g *GroupUsage) float64 { return float64(g.WorkingSet) })
	add(f.gauge("container_memory_rss", "Size of anonymous memory in bytes."), func(g *GroupUsage) float64 { return float64(g.RSS) })
	add(f.gauge("container_memory_cache", "Number of bytes of page cache memory."), func(g *GroupUsage) float64 { return float64(g.Cache) })
	add(f.gauge("container_memory_mapped_file", "Size of memory mapped files in bytes."), func(g *GroupUsage) float64 { return float64(g.MappedFile) })
	add(f.gauge("container_memory_swap", "Container swap usage in bytes."), func(g *GroupUsage) float64 { return float64(g.Swap) })
	add(f.counter("container_memory_failcnt", "Number of memory usage hits limits."), func(g *GroupUsage) float64 { return float64(g.FailCount) })
	add(f.counter("container_oom_events_total", "Count of out of memory events observed for the container."), func(g *GroupUsage) float64 { return float64(g.OOMKills) })
	add(f.gauge("container_threads", "Number of threads running inside the container."), func(g *GroupUsage) float64 { return float64(g.Threads) })
	add(f.gauge("container_threads_max", "Maximum number of threads allowed inside the container, 0 if unlimited."), func(g *GroupUsage) float64 { return float64(g.ThreadsMax) })
	t.gauges = append(t.gauges, groupFamily{
		f.gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes."),
		func(g *GroupUsage) (float64, bool) { return float64(g.MaxMemory), g.MaxMemory > 0 },
	})
	t.failures = f.counter("container_memory_failures_total", "Cumulative count of memory allocation failures.")
	t.io = [4]*family{
		f.counter("container_fs_reads_bytes_total", "Cumulative count of bytes read."),
		f.counter("container_fs_writes_bytes_total", "Cumulative count of bytes written."),
		f.counter("container_fs_reads_total", "Cumulative count of reads completed."),
		f.counter("container_fs_writes_total", "Cumulative count of writes completed."),
	}
	t.lastSeen = f.gauge("container_last_seen", "Last time a container was seen by the exporter.")
	return t
}

var (
	minorFault = labels("failure_type", "pgfault", "scope", "hierarchy")
	majorFault = labels("failure_type", "pgmajfault", "scope", "hierarchy")
)

func (t *groupTable) add(g GroupUsage, row []*dto.LabelPair, now float64) {
	for _, m := range t.gauges {
		if value, known := m.value(&g); known {
			m.add(value, row)
		}
	}
	t.failures.add(float64(g.PageFaults), row, minorFault)
	t.failures.add(float64(g.MajorPageFaults), row, majorFault)
	for _, d := range g.IO {
		device := labels("device", d.Device)
		for i, n := range [4]uint64{d.ReadBytes, d.WriteBytes, d.Reads, d.Writes} {
			t.io[i].add(float64(n), row, device)
		}
	}
	t.lastSeen.add(now, row)
}

// networkTable has the families of a pod's interface.
type networkTable [8]*family

func networkFamilies(f *families) networkTable {
	return networkTable{
		f.counter("container_network_receive_bytes_total", "Cumulative count of bytes received."),
		f.counter("container_network_receive_packets_total", "Cumulative count of packets received."),
		f.counter("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving."),
		f.counter("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving."),
		f.counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted."),
		f.counter("container_network_transmit_packets_total", "Cumulative count of packets transmitted."),
		f.counter("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting."),
		f.counter("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting."),
	}
}

func (t *networkTable) add(n NetworkUsage, row []*dto.LabelPair) {
	link := labels("interface", n.Interface)
	for i, count := range [8]uint64{n.RxBytes, n.RxPackets, n.RxErrors, n.RxDropped, n.TxBytes, n.TxPackets, n.TxErrors, n.TxDropped} {
		t[i].add(float64(count), row, link)
	}
}

// specTable has the families about what containers were given.
type specTable struct{ period, quota, shares, memory, swap, start *family }

func specFamilies(f *families) specTable {
	return specTable{
		period: f.gauge("container_spec_cpu_period", "CPU period of the container."),
		quota:  f.gauge("container_spec_cpu_quota", "CPU quota of the container."),
		shares: f.gauge("container_spec_cpu_shares", "CPU share of the container."),
		memory: f.gauge("container_spec_memory_limit_bytes", "Memory limit for the container, 0 if there is none."),
		swap:   f.gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container."),
		start:  f.gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds."),
	}
}

func (t *specTable) pod(p *v1.Pod, g GroupUsage, row []*dto.LabelPair) {
	t.memory.add(float64(g.MemoryLimit), row)
	t.swap.add(float64(g.SwapLimit), row)
	if p.Status.StartTime != nil {
		t.start.add(float64(p.Status.StartTime.Unix()), row)
	}
}

func (t *specTable) container(c *v1.Container, status *v1.ContainerStatus, g GroupUsage, row []*dto.LabelPair) {
	t.memory.add(float64(g.MemoryLimit), row)
	t.swap.add(float64(g.SwapLimit), row)
	// The kubelet's arithmetic: 1024 shares a core, at least 2.
	t.shares.add(float64(max(2, c.Resources.Requests.Cpu().MilliValue()*1024/1000)), row)
	if limit := c.Resources.Limits.Cpu().MilliValue(); limit > 0 {
		t.period.add(cpuPeriod, row)
		t.quota.add(float64(max(1000, limit*cpuPeriod/1000)), row)
	}
	if status != nil && status.State.Running != nil {
		t.start.add(float64(status.State.Running.StartedAt.Unix()), row)
	}
}

// resource shows the kubelet's resource metrics, which metrics servers read,
// each with the time of its measurement.
// Source: kubelet, pkg/kubelet/metrics/collectors/resource_metrics.go.
func (c Config) resource(ctx context.Context, f *families) {
	stamped := func(m *family) *family {
		m.stamp = c.Now().UnixMilli()
		return m
	}
	cpu := stamped(f.counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds."))
	memory := stamped(f.gauge("container_memory_working_set_bytes", "Current working set of the container in bytes."))
	swap := stamped(f.gauge("container_swap_usage_bytes", "Current amount of the container swap usage in bytes."))
	swapLimit := stamped(f.gauge("container_swap_limit_bytes", "Current amount of the container swap limit in bytes."))
	start := f.gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.")
	podCPU := stamped(f.counter("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds."))
	podMemory := stamped(f.gauge("pod_memory_working_set_bytes", "Current working set of the pod in bytes."))
	podSwap := stamped(f.gauge("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes."))
	pods, _ := c.Board.Snapshot()
	for _, p := range pods {
		u := c.Source.Usage(ctx, p)
		eachContainer(p, func(spec *v1.Container, status *v1.ContainerStatus, _ bool) {
			g, found := u.Containers[spec.Name]
			if !found {
				return
			}
			row := labels("container", spec.Name, "namespace", p.Namespace, "pod", p.Name)
			cpu.add(g.CPU.Seconds(), row)
			memory.add(float64(g.WorkingSet), row)
			swap.add(float64(g.Swap), row)
			swapLimit.add(float64(g.SwapLimit), row)
			if status != nil && status.State.Running != nil {
				start.add(float64(status.State.Running.StartedAt.Unix()), row)
			}
		})
		if u.Pod != nil {
			row := labels("namespace", p.Namespace, "pod", p.Name)
			podCPU.add(u.Pod.CPU.Seconds(), row)
			podMemory.add(float64(u.Pod.WorkingSet), row)
			podSwap.add(float64(u.Pod.Swap), row)
		}
	}
	m, err := c.Source.Machine(ctx)
	f.gauge("scrape_error", "1 if there was an error while getting container metrics, 0 otherwise.").addIf(err != nil)
	f.gauge("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise.").addIf(err != nil)
	if err != nil {
		return
	}
	stamped(f.counter("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds.")).add(m.CPU.Seconds())
	stamped(f.gauge("node_memory_working_set_bytes", "Current working set of the node in bytes.")).add(float64(m.WorkingSetBytes))
	stamped(f.gauge("node_swap_usage_bytes", "Current swap usage of the node in bytes.")).add(float64(m.SwapInUse))
}

// eachContainer calls see for every container of the pod, init containers
// first; status is nil where the pod's status has none.
func eachContainer(p *v1.Pod, see func(c *v1.Container, status *v1.ContainerStatus, init bool)) {
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		see(c, statusOf(p.Status.InitContainerStatuses, c.Name), true)
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		see(c, statusOf(p.Status.ContainerStatuses, c.Name), false)
	}
}

func statusOf(all []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}
