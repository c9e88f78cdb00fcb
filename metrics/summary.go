package metrics

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The types of the kubelet's /stats/summary, with the JSON names of
// k8s.io/kubelet/pkg/apis/stats/v1alpha1. What is not measured here is left out:
// system containers, file systems of containers and logs, limits of processes.
type (
	summary struct {
		Node nodeStats  `json:"node"`
		Pods []podStats `json:"pods"`
	}
	nodeStats struct {
		NodeName  string        `json:"nodeName"`
		StartTime metav1.Time   `json:"startTime"` // of the machine
		CPU       *cpuStats     `json:"cpu,omitempty"`
		Memory    *memoryStats  `json:"memory,omitempty"`
		FS        *fsStats      `json:"fs,omitempty"`
		Runtime   *runtimeStats `json:"runtime,omitempty"`
		Swap      *swapStats    `json:"swap,omitempty"`
	}
	// runtimeStats are about images and writable layers, which lie where pods do.
	runtimeStats struct {
		ImageFS     *fsStats `json:"imageFs,omitempty"`
		ContainerFS *fsStats `json:"containerFs,omitempty"`
	}
	podStats struct {
		PodRef     podReference     `json:"podRef"`
		StartTime  metav1.Time      `json:"startTime"`
		Containers []containerStats `json:"containers"`
		CPU        *cpuStats        `json:"cpu,omitempty"`
		Memory     *memoryStats     `json:"memory,omitempty"`
		Network    *networkStats    `json:"network,omitempty"`
		Volumes    []volumeStats    `json:"volume,omitempty"`
		Processes  *processStats    `json:"process_stats,omitempty"`
		Swap       *swapStats       `json:"swap,omitempty"`
	}
	podReference struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	}
	containerStats struct {
		Name      string       `json:"name"`
		StartTime metav1.Time  `json:"startTime"`
		CPU       *cpuStats    `json:"cpu,omitempty"`
		Memory    *memoryStats `json:"memory,omitempty"`
		Swap      *swapStats   `json:"swap,omitempty"`
	}
	cpuStats struct {
		Time                 metav1.Time `json:"time"`
		UsageNanoCores       *uint64     `json:"usageNanoCores,omitempty"`
		UsageCoreNanoSeconds uint64      `json:"usageCoreNanoSeconds"`
	}
	memoryStats struct {
		Time            metav1.Time `json:"time"`
		AvailableBytes  *uint64     `json:"availableBytes,omitempty"` // of the limit; nil: there is none
		UsageBytes      *uint64     `json:"usageBytes,omitempty"`
		WorkingSetBytes uint64      `json:"workingSetBytes"`
		RSSBytes        *uint64     `json:"rssBytes,omitempty"`
		PageFaults      *uint64     `json:"pageFaults,omitempty"`
		MajorPageFaults *uint64     `json:"majorPageFaults,omitempty"`
	}
	swapStats struct {
		Time           metav1.Time `json:"time"`
		AvailableBytes *uint64     `json:"swapAvailableBytes,omitempty"`
		UsageBytes     uint64      `json:"swapUsageBytes"`
	}
	fsStats struct {
		Time           metav1.Time `json:"time"`
		AvailableBytes uint64      `json:"availableBytes"`
		CapacityBytes  uint64      `json:"capacityBytes"`
		UsedBytes      uint64      `json:"usedBytes"`
		InodesFree     *uint64     `json:"inodesFree,omitempty"`
		Inodes         *uint64     `json:"inodes,omitempty"`
		InodesUsed     *uint64     `json:"inodesUsed,omitempty"`
	}
	volumeStats struct {
		fsStats
		Name string        `json:"name"`
		PVC  *pvcReference `json:"pvcRef,omitempty"`
	}
	pvcReference struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	}
	interfaceStats struct {
		Name     string `json:"name"`
		RxBytes  uint64 `json:"rxBytes"`
		RxErrors uint64 `json:"rxErrors"`
		TxBytes  uint64 `json:"txBytes"`
		TxErrors uint64 `json:"txErrors"`
	}
	networkStats struct {
		Time           metav1.Time      `json:"time"`
		interfaceStats                  // the default one
		Interfaces     []interfaceStats `json:"interfaces"`
	}
	processStats struct {
		Count uint64 `json:"process_count"`
	}
)

const (
	// rateWindow is how long a rate is measured for who asks first, and for how long
	// figures are told again.
	rateWindow = time.Second
	// rateStale is how long a sample is good to compare with.
	rateStale = time.Minute
)

// Summary returns the handler of the kubelet's /stats/summary: JSON of what the node,
// its pods and their containers and volumes use. ?only_cpu_and_memory=true leaves out
// the rest.
func Summary(c Config) http.Handler {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &summarizer{Config: c}
}

// summarizer makes summaries. A rate is what has been used since the last summary;
// who asks first in a while waits for a second.
type summarizer struct {
	Config

	mu     sync.Mutex // held by who measures; the others wait and are told the same
	before cpuSample  // guarded by mu, as is told
	told   measured
}

// cpuSample is the CPU time used up to a moment, by cgroup id; by UID of pods, and
// the machine's without a name.
type cpuSample struct {
	at   time.Time
	used map[string]time.Duration
}

// measured is what one summary is made of.
type measured struct {
	cpuSample
	rates   map[string]uint64 // nanocores by the names of a sample
	machine MachineUsage
	pods    []*v1.Pod
	usage   []PodUsage // of the pods
}

// ServeHTTP answers with a summary.
func (s *summarizer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m, err := s.measure(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(s.summary(r.Context(), m, r.URL.Query().Get("only_cpu_and_memory") != "true")) // a client that went away has its own error
}

// measure measures everything, unless that was done within the last second.
func (s *summarizer) measure(ctx context.Context) (measured, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Now().Sub(s.told.at) < rateWindow {
		return s.told, nil
	}
	before := s.before
	if s.Now().Sub(before.at) > rateStale {
		first, err := s.sample(ctx)
		if err != nil {
			return measured{}, err
		}
		before = first.cpuSample
		select {
		case <-time.After(rateWindow):
		case <-ctx.Done():
			return measured{}, ctx.Err()
		}
	}
	m, err := s.sample(ctx)
	if err != nil {
		return measured{}, err
	}
	m.rates = map[string]uint64{}
	elapsed := m.at.Sub(before.at)
	for name, used := range m.used {
		if old, known := before.used[name]; known && used >= old && elapsed > 0 {
			m.rates[name] = uint64(float64(used-old) / float64(elapsed) * 1e9)
		}
	}
	s.before, s.told = m.cpuSample, m
	return m, nil
}

func (s *summarizer) sample(ctx context.Context) (measured, error) {
	m := measured{cpuSample: cpuSample{at: s.Now(), used: map[string]time.Duration{}}}
	var err error
	if m.machine, err = s.Source.Machine(ctx); err != nil {
		return measured{}, err
	}
	m.used[""] = m.machine.CPU
	m.pods, _ = s.Board.Snapshot()
	for _, p := range m.pods {
		u := s.Source.Usage(ctx, p)
		m.usage = append(m.usage, u)
		if u.Pod != nil {
			m.used[string(p.UID)] = u.Pod.CPU
		}
		for _, g := range u.Containers {
			m.used[g.ID] = g.CPU
		}
	}
	return m, ctx.Err()
}

func (s *summarizer) summary(ctx context.Context, m measured, all bool) summary {
	now := metav1.NewTime(m.at)
	out := summary{Pods: []podStats{}, Node: nodeStats{
		NodeName: s.Node.Name, StartTime: metav1.NewTime(s.Node.Booted), CPU: m.cpu("", m.machine.CPU),
		Memory: &memoryStats{Time: now, WorkingSetBytes: m.machine.WorkingSetBytes, AvailableBytes: left(m.machine.MemoryBytes, m.machine.WorkingSetBytes)},
		Swap:   &swapStats{Time: now, UsageBytes: m.machine.SwapInUse, AvailableBytes: left(m.machine.SwapBytes, m.machine.SwapInUse)},
	}}
	if all {
		disk := &fsStats{Time: now, AvailableBytes: m.machine.AvailableDiskBytes, CapacityBytes: m.machine.DiskBytes,
			UsedBytes: m.machine.DiskBytes - min(m.machine.DiskBytes, m.machine.AvailableDiskBytes)}
		out.Node.FS, out.Node.Runtime = disk, &runtimeStats{ImageFS: disk, ContainerFS: disk}
	}
	for i, p := range m.pods {
		u := m.usage[i]
		if u.Pod == nil {
			continue // it has ended, or has not begun
		}
		ps := podStats{
			PodRef: podReference{p.Name, p.Namespace, string(p.UID)}, Containers: []containerStats{},
			CPU: m.cpu(string(p.UID), u.Pod.CPU), Memory: memoryOf(now, u.Pod), Swap: swapOf(now, u.Pod),
		}
		if p.Status.StartTime != nil {
			ps.StartTime = *p.Status.StartTime
		}
		eachContainer(p, func(c *v1.Container, status *v1.ContainerStatus, _ bool) {
			g, running := u.Containers[c.Name]
			if !running {
				return
			}
			cs := containerStats{Name: c.Name, CPU: m.cpu(g.ID, g.CPU), Memory: memoryOf(now, &g), Swap: swapOf(now, &g)}
			if status != nil && status.State.Running != nil {
				cs.StartTime = status.State.Running.StartedAt
			}
			ps.Containers = append(ps.Containers, cs)
		})
		if all {
			ps.Processes = &processStats{u.Pod.Threads}
			if n := u.Network; n != nil {
				eth := interfaceStats{n.Interface, n.RxBytes, n.RxErrors, n.TxBytes, n.TxErrors}
				ps.Network = &networkStats{now, eth, []interfaceStats{eth}}
			}
			for _, v := range s.Source.Volumes(ctx, p) {
				ps.Volumes = append(ps.Volumes, volumeStats{
					fsStats{now, v.AvailableBytes, v.CapacityBytes, v.UsedBytes, &v.InodesFree, &v.Inodes, &v.InodesUsed}, v.Name, claimOf(p, v.Name),
				})
			}
		}
		out.Pods = append(out.Pods, ps)
	}
	return out
}

func (m *measured) cpu(name string, used time.Duration) *cpuStats {
	c := &cpuStats{Time: metav1.NewTime(m.at), UsageCoreNanoSeconds: uint64(used)}
	if rate, known := m.rates[name]; known {
		c.UsageNanoCores = &rate
	}
	return c
}

func memoryOf(now metav1.Time, g *GroupUsage) *memoryStats {
	return &memoryStats{
		Time: now, WorkingSetBytes: g.WorkingSet, UsageBytes: &g.Memory, RSSBytes: &g.RSS,
		PageFaults: &g.PageFaults, MajorPageFaults: &g.MajorPageFaults, AvailableBytes: left(g.MemoryLimit, g.WorkingSet),
	}
}

func swapOf(now metav1.Time, g *GroupUsage) *swapStats {
	return &swapStats{Time: now, UsageBytes: g.Swap, AvailableBytes: left(g.SwapLimit, g.Swap)}
}

// left is what may still be used; nil without a limit.
func left(limit, used uint64) *uint64 {
	if limit == 0 {
		return nil
	}
	n := limit - min(limit, used)
	return &n
}

// claimOf names the claim of a volume that has one.
func claimOf(p *v1.Pod, volume string) *pvcReference {
	for _, v := range p.Spec.Volumes {
		switch {
		case v.Name != volume:
		case v.PersistentVolumeClaim != nil:
			return &pvcReference{v.PersistentVolumeClaim.ClaimName, p.Namespace}
		case v.Ephemeral != nil:
			return &pvcReference{p.Name + "-" + v.Name, p.Namespace}
		}
	}
	return nil
}
