package declared

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// misfits says, in the scheduler's words and order, why a pod cannot have its place
// on the node beside others; empty: it can. A nil node is one of which nothing is known.
// Source: kube-scheduler, plugins NodeUnschedulable, TaintToleration, NodeAffinity,
// NodePorts and NodeResourcesFit.
func misfits(p *v1.Pod, node *v1.Node, others []*v1.Pod) []string {
	var why []string
	if node == nil {
		if slices.ContainsFunc(others, func(o *v1.Pod) bool { return portsClash(p, o) }) {
			why = append(why, noFreePorts)
		}
		return why
	}
	if node.Spec.Unschedulable {
		why = append(why, "node(s) were unschedulable")
	}
	if !toleratesAll(p, node.Spec.Taints) {
		why = append(why, "node(s) had untolerated taint(s)")
	}
	if !selects(p, node) {
		why = append(why, "node(s) didn't match Pod's node affinity/selector")
	}
	if slices.ContainsFunc(others, func(o *v1.Pod) bool { return portsClash(p, o) }) {
		why = append(why, noFreePorts)
	}
	if most, limited := node.Status.Allocatable[v1.ResourcePods]; limited && int64(len(others)) >= most.Value() {
		why = append(why, "Too many pods")
	}
	for _, name := range sortedResources(requestsOf(p)) {
		want := requestsOf(p)[name]
		most, known := node.Status.Allocatable[name]
		if want.IsZero() || !known && (name == v1.ResourceCPU || name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage) {
			continue // what the node does not tell it has enough of
		}
		for _, o := range others {
			q := requestsOf(o)[name]
			want.Add(q)
		}
		if want.Cmp(most) > 0 {
			why = append(why, "Insufficient "+string(name))
		}
	}
	return why
}

const noFreePorts = "node(s) didn't have free ports for the requested pod ports"

// unschedulable is the message of a pod that has no place.
func unschedulable(why []string) string {
	all := slices.Clone(why)
	for i := range all {
		all[i] = "1 " + all[i]
	}
	return fmt.Sprintf("0/1 nodes are available: %s.", strings.Join(all, ", "))
}

// toleratesAll says whether a pod tolerates each taint that keeps new pods away.
func toleratesAll(p *v1.Pod, taints []v1.Taint) bool {
	for i := range taints {
		tolerated := taints[i].Effect == v1.TaintEffectPreferNoSchedule || slices.ContainsFunc(p.Spec.Tolerations, func(t v1.Toleration) bool {
			return t.ToleratesTaint(logr.Discard(), &taints[i], true)
		})
		if !tolerated {
			return false
		}
	}
	return true
}

// selects says whether a pod's nodeSelector and required node affinity match.
func selects(p *v1.Pod, node *v1.Node) bool {
	if !labels.SelectorFromSet(p.Spec.NodeSelector).Matches(labels.Set(node.Labels)) {
		return false
	}
	if p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return true
	}
	required := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	return required == nil || slices.ContainsFunc(required.NodeSelectorTerms, func(t v1.NodeSelectorTerm) bool {
		return len(t.MatchExpressions)+len(t.MatchFields) > 0 &&
			allMatch(t.MatchExpressions, node.Labels) && allMatch(t.MatchFields, map[string]string{"metadata.name": node.Name})
	})
}

var nodeOperators = map[v1.NodeSelectorOperator]selection.Operator{
	v1.NodeSelectorOpIn: selection.In, v1.NodeSelectorOpNotIn: selection.NotIn,
	v1.NodeSelectorOpExists: selection.Exists, v1.NodeSelectorOpDoesNotExist: selection.DoesNotExist,
	v1.NodeSelectorOpGt: selection.GreaterThan, v1.NodeSelectorOpLt: selection.LessThan,
}

func allMatch(requirements []v1.NodeSelectorRequirement, has map[string]string) bool {
	for _, r := range requirements {
		match, err := labels.NewRequirement(r.Key, nodeOperators[r.Operator], r.Values)
		if err != nil || !match.Matches(labels.Set(has)) {
			return false
		}
	}
	return true
}

// portsClash says whether two pods want the same port of the host's.
func portsClash(a, b *v1.Pod) bool {
	for _, x := range hostPorts(a) {
		for _, y := range hostPorts(b) {
			if x.HostPort == y.HostPort && x.Protocol == y.Protocol && (x.HostIP == y.HostIP || anyIP(x.HostIP) || anyIP(y.HostIP)) {
				return true
			}
		}
	}
	return false
}

func anyIP(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

func hostPorts(p *v1.Pod) []v1.ContainerPort {
	var ports []v1.ContainerPort
	take := func(c v1.Container) {
		for _, port := range c.Ports {
			if port.HostPort > 0 {
				ports = append(ports, port)
			}
		}
	}
	for _, c := range p.Spec.Containers {
		take(c)
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			take(c)
		}
	}
	return ports
}

// requestsOf is what a pod asks for as a whole: its containers and sidecars together,
// or an init container with the sidecars before it if that is more, and its overhead.
// Source: Kubernetes docs, "Sidecar Containers", resource sharing within containers.
func requestsOf(p *v1.Pod) v1.ResourceList {
	running, most := v1.ResourceList{}, v1.ResourceList{}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(running, c.Resources.Requests)
			continue
		}
		now := running.DeepCopy()
		add(now, c.Resources.Requests)
		for name, q := range now {
			if m := most[name]; q.Cmp(m) > 0 {
				most[name] = q
			}
		}
	}
	for _, c := range p.Spec.Containers {
		add(running, c.Resources.Requests)
	}
	for name, q := range most {
		if r := running[name]; q.Cmp(r) > 0 {
			running[name] = q
		}
	}
	add(running, p.Spec.Overhead)
	return running
}

func add(to, more v1.ResourceList) {
	for name, q := range more {
		sum := to[name]
		sum.Add(q)
		to[name] = sum
	}
}

// sortedResources puts cpu, memory and ephemeral-storage first, as the scheduler does.
func sortedResources(list v1.ResourceList) []v1.ResourceName {
	rank := func(n v1.ResourceName) string {
		first := []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage}
		if i := slices.Index(first, n); i >= 0 {
			return strconv.Itoa(i)
		}
		return "9" + string(n)
	}
	names := make([]v1.ResourceName, 0, len(list))
	for n := range list {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b v1.ResourceName) int { return strings.Compare(rank(a), rank(b)) })
	return names
}
