package metrics

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/pod"
)

// Counters counts what happens. Its methods may be called from any goroutine
// and return at once. What it counts of a pod as such, the attempts of its
// probes, goes when the pod goes.
type Counters struct {
	board *pod.Board
	now   func() time.Time

	startedPods, startedPodErrors               prometheus.Counter
	startedContainers, startedContainerErrors   *prometheus.CounterVec
	terminated                                  *prometheus.CounterVec
	operations, operationErrors                 *prometheus.CounterVec
	operationSeconds, workerSeconds             *prometheus.HistogramVec
	podStart, podStartSLI, heardAfter, interval prometheus.Histogram
	pull                                        *prometheus.HistogramVec
	collected                                   *prometheus.CounterVec
	evictions                                   *prometheus.CounterVec

	mu       sync.Mutex
	lastFact time.Time            // guarded by mu
	pods     map[pod.Key]*podWork // guarded by mu; a pod's entry goes when it is removed
	probes   map[probe]*attempts  // guarded by mu
}

// podWork is what is under way for one pod.
type podWork struct {
	seen       time.Time
	adopted    bool                    // it ran before we did: its start was not seen
	started    bool                    // all its containers have started at least once
	begun      map[operation]time.Time // actions without an answer yet
	running    map[string]time.Time    // containers that have started, by name
	exited     map[string]string       // the id of the newest exit, by container name
	pullsBegan time.Time               // zero: none yet
	pullsEnded time.Time               // zero: none that fetched anything
	inits      time.Duration           // init containers have run for
}

// operation is one action; a second one with the same fields replaces it.
type operation struct {
	kind      string // operation_type
	container string
}

// probe is one probe of one container.
type probe struct {
	uid                       types.UID
	namespace, pod, container string
	kind                      pod.ProbeKind
}

// attempts counts those of one probe.
type attempts struct {
	successful, failed, unknown uint64
	seconds                     float64 // of the attempts that took part in buckets
	buckets                     [len(defaultBuckets) + 1]uint64
}

// defaultBuckets are the upper bounds, in seconds, that Prometheus gives a
// histogram by default.
var defaultBuckets = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// The names of operations that the kubelet asks of a container runtime.
// Creating and starting a container is one operation here.
const (
	opRunSandbox    = "run_podsandbox"
	opStopSandbox   = "stop_podsandbox"
	opRemoveSandbox = "remove_podsandbox"
	opPull          = "pull_image"
	opImageStatus   = "image_status"
	opStart         = "start_container"
	opStop          = "stop_container"
)

// NewCounters returns counters at zero. The board tells which containers a pod
// has, and which pods are gone.
func NewCounters(board *pod.Board) *Counters {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	podBuckets := []float64{.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	return &Counters{
		board: board, now: time.Now,
		startedPods:            counter("kubelet_started_pods_total", "Cumulative number of pod sandboxes that were asked for."),
		startedPodErrors:       counter("kubelet_started_pods_errors_total", "Cumulative number of pod sandboxes that could not be made."),
		startedContainers:      counters("kubelet_started_containers_total", "Cumulative number of attempts to start a container.", "container_type"),
		startedContainerErrors: counters("kubelet_started_containers_errors_total", "Cumulative number of errors when starting containers.", "container_type", "code"),
		terminated:             counters("kubelet_terminated_containers_total", "Cumulative number of containers that exited.", "container_type", "exit_code", "reason"),
		operations:             counters("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type"),
		operationErrors:        counters("kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type"),
		operationSeconds: histograms("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations by operation type.",
			prometheus.ExponentialBuckets(.005, 2.5, 14), "operation_type"),
		workerSeconds: histograms("kubelet_pod_worker_duration_seconds", "Duration in seconds of what is done for a pod: create until all its containers have started, sync after that, kill, terminated.",
			defaultBuckets[:], "operation_type"),
		podStart:    histogram("kubelet_pod_start_duration_seconds", "Duration in seconds from a pod being seen for the first time to all its containers having started.", podBuckets),
		podStartSLI: histogram("kubelet_pod_start_sli_duration_seconds", "Duration in seconds to start a pod, without the time to pull images and to run init containers.", podBuckets),
		heardAfter:  histogram("kubelet_pleg_relist_duration_seconds", "Duration in seconds from something happening to the pod's worker knowing it. Nothing is listed here: the kernel tells.", defaultBuckets[:]),
		interval:    histogram("kubelet_pleg_relist_interval_seconds", "Interval in seconds between things that happened, of all pods.", defaultBuckets[:]),
		pull: histograms("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image, by its size.",
			[]float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}, "image_size_in_bytes"),
		collected: counters("kubelet_image_garbage_collected_total", "Total number of images removed because nobody used them.", "reason"),
		evictions: counters("kubelet_evictions", "Cumulative number of pod evictions by eviction signal.", "eviction_signal"),
		pods:      map[pod.Key]*podWork{},
		probes:    map[probe]*attempts{},
	}
}

func (c *Counters) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		c.startedPods, c.startedPodErrors, c.startedContainers, c.startedContainerErrors, c.terminated,
		c.operations, c.operationErrors, c.operationSeconds, c.workerSeconds,
		c.podStart, c.podStartSLI, c.heardAfter, c.interval, c.pull, c.collected, c.evictions,
	}
}

// ImagesCollected counts images that were removed for "space" or for their
// "age".
func (c *Counters) ImagesCollected(n int, reason string) {
	c.collected.WithLabelValues(reason).Add(float64(n))
}

// Fact counts what a fact tells. It fits [pod.Config.Trace].
func (c *Counters) Fact(key pod.Key, f pod.Fact) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	w := c.pods[key]
	if w == nil {
		w = &podWork{
			seen: f.When(), begun: map[operation]time.Time{}, running: map[string]time.Time{}, exited: map[string]string{},
		}
		c.pods[key] = w
	}
	switch f := f.(type) {
	case pod.Begun:
		c.begun(w, f)
		return
	case pod.Inspected:
		w.adopted = w.adopted || f.Sandbox != nil || len(f.Containers) > 0
		return
	case pod.ActionFailed:
		if o, ok := operationOf(f.Action); ok && !f.CalledOff {
			c.ended(w, o, f.At.Time, false)
		}
	case pod.SandboxUp:
		c.ended(w, operation{kind: opRunSandbox}, f.At.Time, true)
	case pod.SandboxFailed:
		c.startedPodErrors.Inc()
		c.ended(w, operation{kind: opRunSandbox}, f.At.Time, false)
	case pod.SandboxGone:
		c.ended(w, operation{kind: opStopSandbox}, f.At.Time, true)
	case pod.ImageReady:
		c.imageReady(w, f)
	case pod.ImageFailed:
		c.startedContainerErrors.WithLabelValues(c.containerType(key, f.Container), f.Reason).Inc()
		c.ended(w, operation{opPull, f.Container}, f.At.Time, false)
	case pod.ContainerStarted:
		c.startedContainers.WithLabelValues(c.containerType(key, f.Container)).Inc()
		c.ended(w, operation{opStart, f.Container}, f.At.Time, true)
		c.containerStarted(key, w, f)
	case pod.ContainerStartFailed:
		kind := c.containerType(key, f.Container)
		c.startedContainers.WithLabelValues(kind).Inc()
		c.startedContainerErrors.WithLabelValues(kind, f.Reason).Inc()
		c.ended(w, operation{opStart, f.Container}, f.At.Time, false)
	case pod.ContainerExited:
		c.containerExited(key, w, f)
	case pod.PodFailed:
		if f.Reason == "Evicted" {
			c.evictions.WithLabelValues("emptydirfs.limit").Inc()
		}
	case pod.PodRemoved:
		c.ended(w, operation{kind: opRemoveSandbox}, f.At.Time, true)
		delete(c.pods, key)
		for p := range c.probes {
			if p.namespace == key.Namespace && p.pod == key.Name {
				delete(c.probes, p)
			}
		}
	}
	c.heardAfter.Observe(max(0, now.Sub(f.When()).Seconds()))
	if !c.lastFact.IsZero() {
		c.interval.Observe(max(0, now.Sub(c.lastFact).Seconds()))
	}
	c.lastFact = now
}

func (c *Counters) begun(w *podWork, f pod.Begun) {
	if o, ok := operationOf(f.Action); ok {
		if _, again := w.begun[o]; again && o.kind == opStop {
			return // a shorter grace period for the same stop
		}
		w.begun[o] = f.At.Time
	}
	switch f.Action.(type) {
	case pod.EnsureSandbox:
		c.startedPods.Inc()
	case pod.EnsureImage:
		if w.pullsBegan.IsZero() {
			w.pullsBegan = f.At.Time
		}
	}
}

// operationOf names an action that has an answer; others are not counted.
func operationOf(a pod.Action) (operation, bool) {
	switch a := a.(type) {
	case pod.EnsureSandbox:
		return operation{kind: opRunSandbox}, true
	case pod.DestroySandbox:
		return operation{kind: opStopSandbox}, true
	case pod.RemovePod:
		return operation{kind: opRemoveSandbox}, true
	case pod.EnsureImage:
		return operation{opPull, a.Container}, true
	case pod.StartContainer:
		return operation{opStart, a.Container}, true
	case pod.StopContainer:
		return operation{opStop, a.Container}, true
	}
	return operation{}, false
}

// ended counts an operation. One that was not seen to begin, because another
// agent began it, has no duration.
func (c *Counters) ended(w *podWork, o operation, at time.Time, ok bool) {
	c.endedAs(w, o, o.kind, at, ok)
}

func (c *Counters) endedAs(w *podWork, o operation, kind string, at time.Time, ok bool) {
	c.operations.WithLabelValues(kind).Inc()
	errors := c.operationErrors.WithLabelValues(kind)
	if !ok {
		errors.Inc()
	}
	began, known := w.begun[o]
	if !known {
		return
	}
	delete(w.begun, o)
	took := max(0, at.Sub(began).Seconds())
	c.operationSeconds.WithLabelValues(kind).Observe(took)
	sync := "sync"
	switch {
	case kind == opRemoveSandbox:
		sync = "terminated"
	case kind == opStopSandbox, kind == opStop:
		sync = "kill"
	case !w.started && !w.adopted:
		sync = "create"
	}
	c.workerSeconds.WithLabelValues(sync).Observe(took)
}

func (c *Counters) imageReady(w *podWork, f pod.ImageReady) {
	o := operation{opPull, f.Container}
	if !f.Pulled {
		c.endedAs(w, o, opImageStatus, f.At.Time, true)
		return
	}
	c.ended(w, o, f.At.Time, true)
	w.pullsEnded = f.At.Time
	c.pull.WithLabelValues(sizeRange(f.Size)).Observe(f.Took.Seconds())
}

// sizeRange is the kubelet's label for an image's size.
// Source: kubelet, pkg/kubelet/images/metrics.go.
func sizeRange(bytes int64) string {
	const mb, gb = 1 << 20, 1 << 30
	if bytes <= 0 {
		return "N/A"
	}
	for _, r := range []struct {
		below int64
		name  string
	}{
		{10 * mb, "0-10MB"}, {100 * mb, "10MB-100MB"}, {500 * mb, "100MB-500MB"}, {gb, "500MB-1GB"}, {5 * gb, "1GB-5GB"}, {10 * gb, "5GB-10GB"},
		{20 * gb, "10GB-20GB"}, {30 * gb, "20GB-30GB"}, {40 * gb, "30GB-40GB"}, {60 * gb, "40GB-60GB"}, {100 * gb, "60GB-100GB"},
	} {
		if bytes < r.below {
			return r.name
		}
	}
	return "GT100GB"
}

func (c *Counters) containerStarted(key pod.Key, w *podWork, f pod.ContainerStarted) {
	w.running[f.Container] = f.At.Time
	p, found := c.board.Get(key)
	if !found || w.started || w.adopted {
		return
	}
	for i := range p.Spec.Containers {
		if _, ran := w.running[p.Spec.Containers[i].Name]; !ran {
			return
		}
	}
	w.started = true
	took := f.At.Time.Sub(w.seen)
	c.podStart.Observe(took.Seconds())
	took -= w.inits
	if !w.pullsEnded.IsZero() {
		took -= w.pullsEnded.Sub(w.pullsBegan)
	}
	c.podStartSLI.Observe(max(0, took.Seconds()))
}

func (c *Counters) containerExited(key pod.Key, w *podWork, f pod.ContainerExited) {
	if w.exited[f.Container] == f.ID {
		return // told again
	}
	w.exited[f.Container] = f.ID
	reason := "Completed"
	switch {
	case f.OOMKilled:
		reason = "OOMKilled"
	case f.ExitCode != 0:
		reason = "Error"
	}
	kind := c.containerType(key, f.Container)
	c.terminated.WithLabelValues(kind, strconv.Itoa(f.ExitCode), reason).Inc()
	o := operation{opStop, f.Container}
	if _, stopped := w.begun[o]; stopped {
		c.ended(w, o, f.At.Time, true)
	}
	if began, ran := w.running[f.Container]; ran && kind == initContainer && !w.started {
		w.inits += f.At.Time.Sub(began)
	}
}

const initContainer = "init_container"

// containerType is the kubelet's label: init_container, sidecars included, or
// container.
func (c *Counters) containerType(key pod.Key, name string) string {
	p, found := c.board.Get(key)
	if found && slices.ContainsFunc(p.Spec.InitContainers, func(c v1.Container) bool { return c.Name == name }) {
		return initContainer
	}
	return "container"
}

// ProbeAttempt is one attempt of a probe.
type ProbeAttempt struct {
	UID                       types.UID
	Namespace, Pod, Container string
	Kind                      pod.ProbeKind
	Outcome                   pod.ProbeOutcome
	Took                      time.Duration
}

// Probe counts an attempt.
func (c *Counters) Probe(a ProbeAttempt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := probe{a.UID, a.Namespace, a.Pod, a.Container, a.Kind}
	n := c.probes[key]
	if n == nil {
		n = &attempts{}
		c.probes[key] = n
	}
	switch a.Outcome {
	case pod.ProbeSucceeded, pod.ProbeWarned:
		n.successful++
	case pod.ProbeFailed:
		n.failed++
		return // the kubelet's histogram leaves failures out
	default:
		n.unknown++
	}
	took := a.Took.Seconds()
	n.seconds += took
	i, _ := slices.BinarySearch(defaultBuckets[:], took)
	n.buckets[i]++
}

// probes shows what was counted of the probes of pods on the board, and forgets
// the rest.
func (c Config) probes(_ context.Context, f *families) {
	total := f.counter("prober_probe_total", "Cumulative number of a liveness, readiness or startup probe for a container by result.")
	duration := f.new(dto.MetricType_HISTOGRAM, "prober_probe_duration_seconds", "Duration in seconds for a probe response, of attempts that did not fail.")
	pods, _ := c.Board.Snapshot()
	present := map[types.UID]bool{}
	for _, p := range pods {
		present[p.UID] = true
	}
	c.Counters.eachProbe(func(p probe, n *attempts) (keep bool) {
		if !present[p.uid] {
			return false
		}
		id := labels("container", p.container, "namespace", p.namespace, "pod", p.pod, "probe_type", string(p.kind))
		for _, r := range []struct {
			result string
			n      uint64
		}{{"successful", n.successful}, {"failed", n.failed}, {"unknown", n.unknown}} {
			if r.n > 0 {
				total.add(float64(r.n), id, labels("pod_uid", string(p.uid), "result", r.result))
			}
		}
		if h := n.histogram(); h.GetSampleCount() > 0 {
			duration.sample(&dto.Metric{Histogram: h}, [][]*dto.LabelPair{id})
		}
		return true
	})
}

// eachProbe shows the counts of every probe, in order, and forgets those that
// see does not want kept.
func (c *Counters) eachProbe(see func(probe, *attempts) (keep bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]probe, 0, len(c.probes))
	for p := range c.probes {
		all = append(all, p)
	}
	slices.SortFunc(all, compareProbes)
	for _, p := range all {
		if !see(p, c.probes[p]) {
			delete(c.probes, p)
		}
	}
}

func compareProbes(a, b probe) int {
	return cmp.Or(
		cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.pod, b.pod), cmp.Compare(a.uid, b.uid),
		cmp.Compare(a.container, b.container), cmp.Compare(a.kind, b.kind))
}

func (n *attempts) histogram() *dto.Histogram {
	sum := n.seconds
	h := &dto.Histogram{SampleSum: &sum}
	var count uint64
	for i := range defaultBuckets {
		count += n.buckets[i]
		upTo := count
		h.Bucket = append(h.Bucket, &dto.Bucket{CumulativeCount: &upTo, UpperBound: &defaultBuckets[i]})
	}
	count += n.buckets[len(defaultBuckets)]
	h.SampleCount = &count
	return h
}
