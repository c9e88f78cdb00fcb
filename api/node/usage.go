package node

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeMetrics, PodMetrics and their lists are metrics.k8s.io/v1beta1's, under
// the same JSON names.
// Source: Kubernetes docs, "Kubernetes Metrics (v1beta1)".
type (
	NodeMetrics struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Timestamp         metav1.Time     `json:"timestamp"`
		Window            metav1.Duration `json:"window"`
		Usage             v1.ResourceList `json:"usage"`
	}
	PodMetrics struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Timestamp         metav1.Time        `json:"timestamp"`
		Window            metav1.Duration    `json:"window"`
		Containers        []ContainerMetrics `json:"containers"`
	}
	ContainerMetrics struct {
		Name  string          `json:"name"`
		Usage v1.ResourceList `json:"usage"`
	}
)

// Used and Over are what tables show.
func (m *NodeMetrics) Used() v1.ResourceList { return m.Usage }
func (m *NodeMetrics) Over() time.Duration   { return m.Window.Duration }

func (m *PodMetrics) Used() v1.ResourceList {
	sum := v1.ResourceList{}
	for _, c := range m.Containers {
		for name, q := range c.Usage {
			all := sum[name]
			all.Add(q)
			sum[name] = all
		}
	}
	return sum
}
func (m *PodMetrics) Over() time.Duration { return m.Window.Duration }

// Sample is what has been used up to a moment.
type Sample struct {
	CPU    time.Duration
	Memory uint64 // working set, in bytes
	// Run names what was measured; one that has another name began at zero.
	Run string
}

const (
	// window is how long a rate is measured when nobody asked before.
	window = time.Second
	// fresh is how long figures are told again without measuring.
	fresh = window
	// stale is how long a sample is good to compare with.
	stale = time.Minute
)

// Meter computes rates from samples, which are taken when somebody asks: who asks
// first waits for a second, who asks again within a minute is told the rate since.
// A machine that nobody asks about is not measured.
type Meter struct {
	// Machine and Pod sample the machine and the containers of a pod, by name.
	Machine func(context.Context) (Sample, error)
	Pod     func(context.Context, *v1.Pod) map[string]Sample
	// Pods are those there are.
	Pods func() []*v1.Pod
	// Node is the node's name, and Labels what selects it; nil: nothing does.
	Node   string
	Labels func() map[string]string

	asking sync.Mutex // held by who measures; the others wait and are told the same
	last   samples    // guarded by asking, as is told
	told   Usage
}

// samples are all samples of one moment.
type samples struct {
	at      time.Time
	machine Sample
	pods    map[types.UID]map[string]Sample
}

// Usage is what the node and its pods use.
type Usage struct {
	Node NodeMetrics
	Pods []PodMetrics // as Meter.Pods has them; those without a running container are left out

	at time.Time
}

// Usage measures, unless that was done within the last second.
func (m *Meter) Usage(ctx context.Context) (Usage, error) {
	m.asking.Lock()
	defer m.asking.Unlock()
	if time.Since(m.told.at) < fresh {
		return m.told, nil
	}
	before := m.last
	if time.Since(before.at) > stale {
		var err error
		if before, _, err = m.sample(ctx); err != nil {
			return Usage{}, err
		}
		select {
		case <-time.After(window):
		case <-ctx.Done():
			return Usage{}, ctx.Err()
		}
	}
	after, pods, err := m.sample(ctx)
	if err != nil {
		return Usage{}, err
	}
	m.last, m.told = after, m.compare(before, after, pods)
	return m.told, nil
}

func (m *Meter) sample(ctx context.Context) (samples, []*v1.Pod, error) {
	s := samples{at: time.Now(), pods: map[types.UID]map[string]Sample{}}
	var err error
	if s.machine, err = m.Machine(ctx); err != nil {
		return samples{}, nil, err
	}
	pods := m.Pods()
	for _, p := range pods {
		s.pods[p.UID] = m.Pod(ctx, p)
	}
	return s, pods, ctx.Err()
}

// compare makes rates of two samples.
func (m *Meter) compare(before, after samples, pods []*v1.Pod) Usage {
	elapsed := after.at.Sub(before.at)
	at, over := metav1.NewTime(after.at), metav1.Duration{Duration: elapsed.Round(time.Millisecond)}
	u := Usage{at: after.at, Node: NodeMetrics{
		TypeMeta:   metav1.TypeMeta{APIVersion: "metrics.k8s.io/v1beta1", Kind: "NodeMetrics"},
		ObjectMeta: metav1.ObjectMeta{Name: m.Node, CreationTimestamp: at}, Timestamp: at, Window: over,
		Usage: rate(before.machine, after.machine, elapsed),
	}}
	if m.Labels != nil {
		u.Node.Labels = m.Labels()
	}
	for _, p := range pods {
		all := after.pods[p.UID]
		pm := PodMetrics{
			TypeMeta:   metav1.TypeMeta{APIVersion: "metrics.k8s.io/v1beta1", Kind: "PodMetrics"},
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, CreationTimestamp: at},
			Timestamp:  at, Window: over,
		}
		for _, list := range [][]v1.Container{p.Spec.Containers, p.Spec.InitContainers} {
			for _, c := range list {
				s, running := all[c.Name]
				if !running {
					continue
				}
				old := before.pods[p.UID][c.Name]
				if old.Run != s.Run {
					old = Sample{}
				}
				pm.Containers = append(pm.Containers, ContainerMetrics{Name: c.Name, Usage: rate(old, s, elapsed)})
			}
		}
		if len(pm.Containers) > 0 {
			u.Pods = append(u.Pods, pm)
		}
	}
	return u
}

// rate is CPU in cores, to the nanocore, and memory as it is now.
func rate(before, after Sample, elapsed time.Duration) v1.ResourceList {
	nano := int64(0)
	if elapsed > 0 {
		nano = int64(float64(max(0, after.CPU-before.CPU)) / float64(elapsed) * 1e9)
	}
	return v1.ResourceList{
		v1.ResourceCPU:    *resource.NewScaledQuantity(nano, resource.Nano),
		v1.ResourceMemory: *resource.NewQuantity(int64(after.Memory), resource.BinarySI),
	}
}
