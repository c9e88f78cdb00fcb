package table

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"podd/pod"
)

const (
	none  = "<none>"
	unset = "<unset>"
)

// podRow is a pod with the columns that `podd get` has too.
type podRow struct {
	*v1.Pod
	pod.Row
}

func pods() shape {
	return shaped(func(p *v1.Pod, now time.Time) podRow { return podRow{p, pod.Columns(p, now)} },
		name,
		column("Ready", "containers that are ready, of all", func(r podRow) any { return r.Ready }),
		column("Status", "what the pod is doing", func(r podRow) any { return r.Row.Status }),
		column("Restarts", "how often containers were restarted, and when last", func(r podRow) any { return r.Restarts }),
		age,
		wide(column("IP", "address of the pod", func(r podRow) any {
			if len(r.Pod.Status.PodIPs) == 0 {
				return none
			}
			return or(r.Pod.Status.PodIPs[0].IP, none)
		})),
		wide(column("Node", "node of the pod", func(r podRow) any { return or(r.Spec.NodeName, none) })),
		wide(column("Nominated Node", "node that makes room for the pod", func(r podRow) any { return or(r.Pod.Status.NominatedNodeName, none) })),
		wide(column("Readiness Gates", "conditions that are true, of those that must be", readinessGates)),
	)
}

func readinessGates(r podRow) any {
	if len(r.Spec.ReadinessGates) == 0 {
		return none
	}
	open := 0
	for _, gate := range r.Spec.ReadinessGates {
		i := slices.IndexFunc(r.Pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == gate.ConditionType })
		if i >= 0 && r.Pod.Status.Conditions[i].Status == v1.ConditionTrue {
			open++
		}
	}
	return fmt.Sprintf("%d/%d", open, len(r.Spec.ReadinessGates))
}

func nodes() shape {
	info := func(name string, of func(*v1.NodeSystemInfo) string) field {
		return wide(column(name, "of the node", func(n *v1.Node) any { return of(&n.Status.NodeInfo) }))
	}
	address := func(name string, kind v1.NodeAddressType) field {
		return wide(column(name, "address of the node", func(n *v1.Node) any {
			for _, a := range n.Status.Addresses {
				if a.Type == kind {
					return a.Address
				}
			}
			return none
		}))
	}
	return shaped(same[*v1.Node],
		name,
		column("Status", "whether the node is ready, and whether pods may be scheduled to it", nodeStatus),
		column("Roles", "roles of the node, from its labels", nodeRoles),
		age,
		column("Version", "version of the agent", func(n *v1.Node) any { return n.Status.NodeInfo.KubeletVersion }),
		address("Internal-IP", v1.NodeInternalIP),
		address("External-IP", v1.NodeExternalIP),
		info("OS-Image", func(i *v1.NodeSystemInfo) string { return or(i.OSImage, "<unknown>") }),
		info("Kernel-Version", func(i *v1.NodeSystemInfo) string {
			version := or(i.KernelVersion, "<unknown>")
			if i.Architecture != "" {
				version += " (" + i.Architecture + ")"
			}
			return version
		}),
		info("Container-Runtime", func(i *v1.NodeSystemInfo) string { return or(i.ContainerRuntimeVersion, "<unknown>") }),
	)
}

func nodeStatus(n *v1.Node) any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type != v1.NodeReady:
		case c.Status == v1.ConditionTrue:
			status = "Ready"
		default:
			status = "NotReady"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *v1.Node) any {
	var roles []string
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if key == "kubernetes.io/role" && value != "" {
			roles = append(roles, value)
		}
	}
	slices.Sort(roles)
	return or(strings.Join(slices.Compact(roles), ","), none)
}

// events is the shape of events of type E, which asCore makes core events of.
func events[E any](asCore func(E) *v1.Event) shape {
	ago := func(title, description string, when func(*v1.Event) time.Time) field {
		f := column(title, description, func(*v1.Event) any { return nil })
		f.cell = func(row any, _ metav1.Object, now time.Time) any { return since(when(row.(*v1.Event)), now) }
		return f
	}
	return shaped(func(e E, _ time.Time) *v1.Event { return asCore(e) },
		ago("Last Seen", "time since it happened last", lastSeen),
		column("Type", "Normal or Warning", func(e *v1.Event) any { return e.Type }),
		column("Reason", "what happened, in one word", func(e *v1.Event) any { return e.Reason }),
		column("Object", "what it happened to", func(e *v1.Event) any {
			if e.InvolvedObject.Name == "" {
				return strings.ToLower(e.InvolvedObject.Kind)
			}
			return strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name
		}),
		wide(column("Subobject", "which part of the object", func(e *v1.Event) any { return e.InvolvedObject.FieldPath })),
		wide(column("Source", "who tells it", func(e *v1.Event) any {
			source := or(e.Source.Component, e.ReportingController)
			if instance := or(e.Source.Host, e.ReportingInstance); instance != "" {
				source += ", " + instance
			}
			return source
		})),
		column("Message", "what happened, in a sentence", func(e *v1.Event) any { return strings.TrimSpace(e.Message) }),
		wide(ago("First Seen", "time since it happened first", firstSeen)),
		wide(column("Count", "how often it happened", func(e *v1.Event) any {
			if e.Series != nil {
				return int64(e.Series.Count)
			}
			return int64(max(e.Count, 1))
		})),
		wide(name),
	)
}

func firstSeen(e *v1.Event) time.Time {
	if e.FirstTimestamp.IsZero() {
		return e.EventTime.Time
	}
	return e.FirstTimestamp.Time
}

func lastSeen(e *v1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case e.LastTimestamp.IsZero():
		return firstSeen(e)
	default:
		return e.LastTimestamp.Time
	}
}

// asCoreEvent is an event of events.k8s.io as the older group has it.
func asCoreEvent(e *eventsv1.Event) *v1.Event {
	core := &v1.Event{
		ObjectMeta: e.ObjectMeta, InvolvedObject: e.Regarding, Type: e.Type, Reason: e.Reason, Message: e.Note, Count: e.DeprecatedCount,
		FirstTimestamp: e.DeprecatedFirstTimestamp, LastTimestamp: e.DeprecatedLastTimestamp, EventTime: e.EventTime,
		Source: e.DeprecatedSource, ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
	}
	if e.Series != nil {
		core.Series = &v1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return core
}

func services() shape {
	return shaped(same[*v1.Service],
		name,
		column("Type", "how the service is reached", func(s *v1.Service) any { return string(s.Spec.Type) }),
		column("Cluster-IP", "address of the service", func(s *v1.Service) any {
			if len(s.Spec.ClusterIPs) == 0 {
				return none
			}
			return s.Spec.ClusterIPs[0]
		}),
		column("External-IP", "addresses from outside", externalIP),
		column("Port(s)", "ports and protocols", func(s *v1.Service) any {
			var ports []string
			for _, p := range s.Spec.Ports {
				if p.NodePort > 0 {
					ports = append(ports, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
				} else {
					ports = append(ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
				}
			}
			return or(strings.Join(ports, ","), none)
		}),
		age,
		wide(column("Selector", "labels of the pods behind the service", func(s *v1.Service) any { return labels.FormatLabels(s.Spec.Selector) })),
	)
}

func externalIP(s *v1.Service) any {
	switch s.Spec.Type {
	case v1.ServiceTypeClusterIP, v1.ServiceTypeNodePort:
		return or(strings.Join(s.Spec.ExternalIPs, ","), none)
	case v1.ServiceTypeLoadBalancer:
		var ingress []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			if at := or(i.IP, i.Hostname); at != "" {
				ingress = append(ingress, at)
			}
		}
		slices.Sort(ingress)
		return or(strings.Join(append(slices.Compact(ingress), s.Spec.ExternalIPs...), ","), "<pending>")
	case v1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	default:
		return "<unknown>"
	}
}

// shown is how many addresses and ports are shown; the others are counted.
const shown = 3

// someOf lists the first few, and says how many more there are.
func someOf(all []string, nothing string) string {
	if len(all) <= shown {
		return or(strings.Join(all, ","), nothing)
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(all[:shown], ","), len(all)-shown)
}

func endpoints(e *v1.Endpoints) any {
	if len(e.Subsets) == 0 {
		return none
	}
	var all []string
	for _, s := range e.Subsets {
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	return someOf(all, "")
}

func slicePorts(s *discoveryv1.EndpointSlice) any {
	var all []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			all = append(all, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			all = append(all, *p.Name)
		default:
			all = append(all, "*")
		}
	}
	return someOf(all, unset)
}

func sliceEndpoints(s *discoveryv1.EndpointSlice) any {
	var all []string
	for _, e := range s.Endpoints {
		all = append(all, e.Addresses...)
	}
	return someOf(all, unset)
}

func persistentVolumes() shape {
	return shaped(same[*v1.PersistentVolume],
		name,
		column("Capacity", "size", func(v *v1.PersistentVolume) any { return size(v.Spec.Capacity) }),
		column("Access Modes", "how it may be mounted", func(v *v1.PersistentVolume) any { return accessModes(v.Spec.AccessModes) }),
		column("Reclaim Policy", "what becomes of it after its claim", func(v *v1.PersistentVolume) any { return string(v.Spec.PersistentVolumeReclaimPolicy) }),
		column("Status", "phase of the volume", func(v *v1.PersistentVolume) any { return phase(v, string(v.Status.Phase)) }),
		column("Claim", "namespace and name of its claim", func(v *v1.PersistentVolume) any {
			if v.Spec.ClaimRef == nil {
				return ""
			}
			return v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
		}),
		column("StorageClass", "class of the volume", func(v *v1.PersistentVolume) any { return storageClass(v, v.Spec.StorageClassName) }),
		column("VolumeAttributesClass", "class of its attributes", func(v *v1.PersistentVolume) any { return deref(v.Spec.VolumeAttributesClassName, unset) }),
		column("Reason", "why it is in this phase", func(v *v1.PersistentVolume) any { return v.Status.Reason }),
		age,
		wide(column("VolumeMode", "Filesystem or Block", func(v *v1.PersistentVolume) any { return string(deref(v.Spec.VolumeMode, unset)) })),
	)
}

func persistentVolumeClaims() shape {
	return shaped(same[*v1.PersistentVolumeClaim],
		name,
		column("Status", "phase of the claim", func(c *v1.PersistentVolumeClaim) any { return phase(c, string(c.Status.Phase)) }),
		column("Volume", "name of its volume", func(c *v1.PersistentVolumeClaim) any { return c.Spec.VolumeName }),
		column("Capacity", "size of its volume", func(c *v1.PersistentVolumeClaim) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return size(c.Status.Capacity)
		}),
		column("Access Modes", "how its volume may be mounted", func(c *v1.PersistentVolumeClaim) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return accessModes(c.Status.AccessModes)
		}),
		column("StorageClass", "class of the claim", func(c *v1.PersistentVolumeClaim) any {
			return storageClass(c, deref(c.Spec.StorageClassName, ""))
		}),
		column("VolumeAttributesClass", "class of its attributes", func(c *v1.PersistentVolumeClaim) any { return deref(c.Spec.VolumeAttributesClassName, unset) }),
		age,
		wide(column("VolumeMode", "Filesystem or Block", func(c *v1.PersistentVolumeClaim) any { return string(deref(c.Spec.VolumeMode, unset)) })),
	)
}

func phase(o metav1.Object, phase string) string {
	if o.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	return phase
}

func size(of v1.ResourceList) string {
	q := of[v1.ResourceStorage]
	return q.String()
}

// storageClass is the class of a volume or a claim; the annotation is older than
// the field.
func storageClass(o metav1.Object, field string) string {
	if class, ok := o.GetAnnotations()[v1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return field
}

func accessModes(modes []v1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode  v1.PersistentVolumeAccessMode
		short string
	}{
		{v1.ReadWriteOnce, "RWO"}, {v1.ReadOnlyMany, "ROX"}, {v1.ReadWriteMany, "RWX"}, {v1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.short)
		}
	}
	return strings.Join(short, ",")
}

func containerNames(containers []v1.Container) string {
	return joined(containers, func(c v1.Container) string { return c.Name })
}

func containerImages(containers []v1.Container) string {
	return joined(containers, func(c v1.Container) string { return c.Image })
}

func joined(containers []v1.Container, of func(v1.Container) string) string {
	var all []string
	for _, c := range containers {
		all = append(all, of(c))
	}
	return strings.Join(all, ",")
}

// deref is what p points to, or what stands for nothing.
func deref[T any](p *T, nothing T) T {
	if p == nil {
		return nothing
	}
	return *p
}

// quantity is the column of a resource that is used, named like it.
func quantity(of v1.ResourceName) field {
	return column(string(of), "use of "+string(of), func(u Used) any {
		q := u.Used()[of]
		return q.String()
	})
}
