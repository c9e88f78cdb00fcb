package metrics

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// state shows pods under the names of kube-state-metrics.
// Source: kube-state-metrics, docs/metrics/{workload/pod,cluster/node}-metrics.md.
func (c Config) state(ctx context.Context, f *families) {
	pods, _ := c.Board.Snapshot()
	whole := podFamilies(f)
	regular := containerFamilies(f, "kube_pod_container_", "container")
	inits := containerFamilies(f, "kube_pod_init_container_", "init container")
	namespace := f.gauge("kube_namespace_status_phase", "Namespace status phase, of the namespaces that have pods.")
	var namespaces []string
	for _, p := range pods {
		whole.add(p)
		id := podLabels(p)
		eachContainer(p, func(spec *v1.Container, status *v1.ContainerStatus, init bool) {
			t := &regular
			if init {
				t = &inits
			}
			t.add(id, p.Spec.NodeName, spec, status, init)
		})
		namespaces = append(namespaces, p.Namespace)
	}
	for _, n := range slices.Compact(namespaces) { // the board is sorted
		for _, phase := range []v1.NamespacePhase{v1.NamespaceActive, v1.NamespaceTerminating} {
			namespace.addIf(phase == v1.NamespaceActive, labels("namespace", n, "phase", string(phase)))
		}
	}
	c.node(ctx, f)
}

func podLabels(p *v1.Pod) []*dto.LabelPair {
	return labels("namespace", p.Namespace, "pod", p.Name, "uid", string(p.UID))
}

// podTable has the families about whole pods.
type podTable struct {
	info, owner, labels, created, start, completion, deletion, restartPolicy *family
	phase, ready, scheduled, initialized, containersReady, reason, qos       *family
	readyTime, scheduledTime, ips                                            *family
}

func podFamilies(f *families) podTable {
	return podTable{
		info:            f.gauge("kube_pod_info", "Information about pod."),
		owner:           f.gauge("kube_pod_owner", "Information about the Pod's owner."),
		labels:          f.gauge("kube_pod_labels", "Kubernetes labels converted to Prometheus labels."),
		created:         f.gauge("kube_pod_created", "Unix creation timestamp."),
		start:           f.gauge("kube_pod_start_time", "Start time in unix timestamp for a pod."),
		completion:      f.gauge("kube_pod_completion_time", "Completion time in unix timestamp for a pod."),
		deletion:        f.gauge("kube_pod_deletion_timestamp", "Unix deletion timestamp."),
		restartPolicy:   f.gauge("kube_pod_restart_policy", "Describes the restart policy in use by this pod."),
		phase:           f.gauge("kube_pod_status_phase", "The pods current phase."),
		ready:           f.gauge("kube_pod_status_ready", "Describes whether the pod is ready to serve requests."),
		readyTime:       f.gauge("kube_pod_status_ready_time", "Time when pod passed readiness, in unix timestamp."),
		scheduled:       f.gauge("kube_pod_status_scheduled", "Describes the status of the scheduling process for the pod."),
		scheduledTime:   f.gauge("kube_pod_status_scheduled_time", "Unix timestamp when pod moved into scheduled status."),
		initialized:     f.gauge("kube_pod_status_initialized", "Describes whether all init work of the pod was done."),
		containersReady: f.gauge("kube_pod_status_containers_ready", "Describes whether all containers of the pod are ready."),
		reason:          f.gauge("kube_pod_status_reason", "The pod status reasons."),
		qos:             f.gauge("kube_pod_status_qos_class", "The pods current qosClass."),
		ips:             f.gauge("kube_pod_ips", "Pod IP addresses."),
	}
}

var (
	phases     = []v1.PodPhase{v1.PodPending, v1.PodSucceeded, v1.PodFailed, v1.PodUnknown, v1.PodRunning}
	qosClasses = []v1.PodQOSClass{v1.PodQOSBestEffort, v1.PodQOSBurstable, v1.PodQOSGuaranteed}
	podReasons = []string{"Evicted", "NodeAffinity", "NodeLost", "Shutdown", "UnexpectedAdmissionError"}
	truths     = []v1.ConditionStatus{v1.ConditionTrue, v1.ConditionFalse, v1.ConditionUnknown}
)

func (t *podTable) add(p *v1.Pod) {
	id := podLabels(p)
	s := &p.Status
	kind, name, controls := "", "", ""
	if len(p.OwnerReferences) > 0 {
		o := p.OwnerReferences[0]
		kind, name, controls = o.Kind, o.Name, strconv.FormatBool(o.Controller != nil && *o.Controller)
	}
	t.info.add(1, id, labels(
		"created_by_kind", kind, "created_by_name", name, "host_ip", s.HostIP, "host_network", strconv.FormatBool(p.Spec.HostNetwork),
		"node", p.Spec.NodeName, "pod_ip", s.PodIP, "priority_class", p.Spec.PriorityClassName))
	t.owner.add(1, id, labels("owner_is_controller", controls, "owner_kind", kind, "owner_name", name))
	t.labels.add(1, id, userLabels(p.Labels))
	if !p.CreationTimestamp.IsZero() {
		t.created.add(float64(p.CreationTimestamp.Unix()), id)
	}
	if s.StartTime != nil {
		t.start.add(float64(s.StartTime.Unix()), id)
	}
	if at := completedAt(p); at > 0 {
		t.completion.add(float64(at), id)
	}
	if p.DeletionTimestamp != nil {
		t.deletion.add(float64(p.DeletionTimestamp.Unix()), id)
	}
	t.restartPolicy.add(1, id, labels("type", string(p.Spec.RestartPolicy)))
	if s.Phase != "" {
		for _, phase := range phases {
			t.phase.addIf(s.Phase == phase, id, labels("phase", string(phase)))
		}
	}
	addCondition(t.ready, t.readyTime, p, v1.PodReady, id)
	addCondition(t.scheduled, t.scheduledTime, p, v1.PodScheduled, id)
	addCondition(t.initialized, nil, p, v1.PodInitialized, id)
	addCondition(t.containersReady, nil, p, v1.ContainersReady, id)
	for _, r := range podReasons {
		t.reason.addIf(s.Reason == r, id, labels("reason", r))
	}
	for _, class := range qosClasses {
		t.qos.addIf(s.QOSClass == class, id, labels("qos_class", string(class)))
	}
	for _, ip := range s.PodIPs {
		family := "4"
		if strings.Contains(ip.IP, ":") {
			family = "6"
		}
		t.ips.add(1, id, labels("ip", ip.IP, "ip_family", family))
	}
}

// addCondition adds three samples, one for each status a condition can have,
// and the time since when it holds.
func addCondition(m, since *family, p *v1.Pod, kind v1.PodConditionType, id []*dto.LabelPair) {
	found := condition(p, kind)
	if found == nil {
		return
	}
	for _, status := range truths {
		m.addIf(found.Status == status, id, labels("condition", strings.ToLower(string(status))))
	}
	if since != nil && found.Status == v1.ConditionTrue && !found.LastTransitionTime.IsZero() {
		since.add(float64(found.LastTransitionTime.Unix()), id)
	}
}

// completedAt is when the last container of a pod that has ended exited, in
// seconds since 1970; 0 for other pods.
func completedAt(p *v1.Pod) int64 {
	if p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
		return 0
	}
	last := int64(0)
	eachContainer(p, func(_ *v1.Container, s *v1.ContainerStatus, _ bool) {
		if s != nil && s.State.Terminated != nil {
			last = max(last, s.State.Terminated.FinishedAt.Unix())
		}
	})
	return last
}

// userLabels turns labels of a pod into labels of a metric: label_ and the
// name, with _ for what a metric's label cannot have. Names that become the same
// are told apart by _conflict1, _conflict2, ….
func userLabels(all map[string]string) []*dto.LabelPair {
	names := make([]string, 0, len(all))
	taken := map[string]int{}
	for name := range all {
		names = append(names, name)
		taken[labelName(name)]++
	}
	slices.Sort(names)
	given := map[string]int{}
	pairs := make([]string, 0, 2*len(names))
	for _, name := range names {
		l := labelName(name)
		if taken[l] > 1 {
			given[l]++
			l = fmt.Sprintf("%s_conflict%d", l, given[l])
		}
		pairs = append(pairs, l, all[name])
	}
	return labels(pairs...)
}

func labelName(name string) string { return "label_" + sanitized(name) }

func sanitized(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, name)
}

// containerTable has the families about containers of one list.
type containerTable struct {
	info, requests, limits                                *family
	ready, running, waiting, waitingReason                *family
	terminated, terminatedReason, restarts                *family
	lastReason, lastExitCode, lastTimestamp, stateStarted *family
}

func containerFamilies(f *families, prefix, what string) containerTable {
	return containerTable{
		info:             f.gauge(prefix+"info", "Information about "+article(what)+" in a pod."),
		requests:         f.gauge(prefix+"resource_requests", "The number of requested request resource by "+article(what)+"."),
		limits:           f.gauge(prefix+"resource_limits", "The number of requested limit resource by "+article(what)+"."),
		ready:            f.gauge(prefix+"status_ready", "Describes whether the "+what+"'s readiness check succeeded."),
		running:          f.gauge(prefix+"status_running", "Describes whether the "+what+" is currently in running state."),
		waiting:          f.gauge(prefix+"status_waiting", "Describes whether the "+what+" is currently in waiting state."),
		waitingReason:    f.gauge(prefix+"status_waiting_reason", "Describes the reason the "+what+" is currently in waiting state."),
		terminated:       f.gauge(prefix+"status_terminated", "Describes whether the "+what+" is currently in terminated state."),
		terminatedReason: f.gauge(prefix+"status_terminated_reason", "Describes the reason the "+what+" is currently in terminated state."),
		restarts:         f.counter(prefix+"status_restarts_total", "The number of "+what+" restarts per container."),
		lastReason:       f.gauge(prefix+"status_last_terminated_reason", "Describes the last reason the "+what+" was in terminated state."),
		lastExitCode:     f.gauge(prefix+"status_last_terminated_exitcode", "Describes the exit code for the last "+what+" in terminated state."),
		lastTimestamp:    f.gauge(prefix+"status_last_terminated_timestamp", "Last terminated time for "+article(what)+" in a pod, in unix timestamp."),
		stateStarted:     f.gauge(prefix+"state_started", "Start time in unix timestamp for "+article(what)+" in a pod."),
	}
}

func article(what string) string {
	if strings.HasPrefix(what, "i") {
		return "an " + what
	}
	return "a " + what
}

func (t *containerTable) add(pod []*dto.LabelPair, node string, c *v1.Container, s *v1.ContainerStatus, init bool) {
	id := slices.Concat(labels("container", c.Name), pod)
	addResources(t.requests, c.Resources.Requests, node, id)
	addResources(t.limits, c.Resources.Limits, node, id)
	if s == nil {
		return
	}
	info := labels("container_id", s.ContainerID, "image", s.Image, "image_id", s.ImageID, "image_spec", c.Image)
	if init {
		policy := ""
		if c.RestartPolicy != nil {
			policy = string(*c.RestartPolicy)
		}
		info = append(info, labels("restart_policy", policy)...)
	}
	t.info.add(1, id, info)
	t.ready.addIf(s.Ready, id)
	t.running.addIf(s.State.Running != nil, id)
	t.waiting.addIf(s.State.Waiting != nil, id)
	t.terminated.addIf(s.State.Terminated != nil, id)
	t.restarts.add(float64(s.RestartCount), id)
	if w := s.State.Waiting; w != nil && w.Reason != "" {
		t.waitingReason.add(1, id, labels("reason", w.Reason))
	}
	if e := s.State.Terminated; e != nil {
		t.terminatedReason.add(1, id, labels("reason", e.Reason))
		addTime(t.stateStarted, e.StartedAt.Unix(), id)
	}
	if r := s.State.Running; r != nil {
		addTime(t.stateStarted, r.StartedAt.Unix(), id)
	}
	if last := s.LastTerminationState.Terminated; last != nil {
		t.lastReason.add(1, id, labels("reason", last.Reason))
		t.lastExitCode.add(float64(last.ExitCode), id)
		addTime(t.lastTimestamp, last.FinishedAt.Unix(), id)
	}
}

// addTime leaves out times that are not known.
func addTime(m *family, unix int64, id []*dto.LabelPair) {
	if unix > 0 {
		m.add(float64(unix), id)
	}
}

func addResources(m *family, list v1.ResourceList, node string, id []*dto.LabelPair) {
	for _, name := range sortedNames(list) {
		value, unit := amount(name, list[name])
		m.add(value, id, labels("node", node, "resource", sanitized(string(name)), "unit", unit))
	}
}

func sortedNames(list v1.ResourceList) []v1.ResourceName {
	names := make([]v1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// amount is a quantity in the unit that its resource is counted in.
func amount(name v1.ResourceName, q resource.Quantity) (value float64, unit string) {
	switch {
	case name == v1.ResourceCPU:
		return float64(q.MilliValue()) / 1000, "core"
	case name == v1.ResourceMemory, name == v1.ResourceEphemeralStorage, strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix):
		return float64(q.Value()), "byte"
	}
	return float64(q.Value()), "integer"
}

// node shows this machine as the one node there is.
func (c Config) node(ctx context.Context, f *families) {
	n := c.Node
	name := labels("node", n.Name)
	f.gauge("kube_node_info", "Information about a cluster node.").add(1, name, labels(
		"container_runtime_version", "podd://"+c.Version, "internal_ip", n.InternalIP, "kernel_version", n.KernelVersion,
		"kubelet_version", c.Version, "os_image", n.OSImage, "pod_cidr", n.PodCIDR, "system_uuid", n.SystemUUID))
	f.gauge("kube_node_spec_unschedulable", "Whether a node can schedule new pods.").add(0, name)
	ready := f.gauge("kube_node_status_condition", "The condition of a cluster node.")
	for _, status := range truths {
		ready.addIf(status == v1.ConditionTrue, name, labels("condition", string(v1.NodeReady), "status", strings.ToLower(string(status))))
	}
	m, err := c.Source.Machine(ctx)
	if err != nil {
		return // the cadvisor and resource endpoints tell
	}
	for _, g := range []*family{
		f.gauge("kube_node_status_capacity", "The total amount of resources available for a node."),
		f.gauge("kube_node_status_allocatable", "The amount of resources allocatable for pods."),
	} {
		g.add(float64(m.Cores), name, labels("resource", "cpu", "unit", "core"))
		g.add(float64(m.DiskBytes), name, labels("resource", "ephemeral_storage", "unit", "byte"))
		g.add(float64(m.MemoryBytes), name, labels("resource", "memory", "unit", "byte"))
	}
}
