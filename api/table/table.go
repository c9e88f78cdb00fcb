package table

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// For returns the columns of a kind, and a function for the cells of one object
// of it: a string or an int64 for each column. A kind without columns of its own
// has its name and its age. An object of another type than the kind's has its
// name and empty cells.
//
// Source: what `kubectl get KIND -o wide` shows on a cluster of Kubernetes 1.37, and
// of metrics.k8s.io with the metrics server.
func For(gk schema.GroupKind) ([]metav1.TableColumnDefinition, func(obj runtime.Object, now time.Time) []any) {
	s := shapeOf(gk)
	return s.columns, s.cells
}

const metricsGroup = "metrics.k8s.io"

// Used is what an object of metrics.k8s.io says, which is no type of k8s.io/api.
type Used interface {
	metav1.Object
	Used() v1.ResourceList // of all containers together
	Over() time.Duration   // in which that was measured
}

// shapeOf finds the shape of a kind.
func shapeOf(gk schema.GroupKind) shape {
	switch gk {
	case schema.GroupKind{Kind: "Pod"}:
		return pods()
	case schema.GroupKind{Kind: "Node"}:
		return nodes()
	case schema.GroupKind{Kind: "Event"}:
		return events(func(e *v1.Event) *v1.Event { return e })
	case schema.GroupKind{Group: eventsv1.GroupName, Kind: "Event"}:
		return events(asCoreEvent)
	case schema.GroupKind{Kind: "Service"}:
		return services()
	case schema.GroupKind{Kind: "Endpoints"}:
		return shaped(same[*v1.Endpoints], name, column("Endpoints", "addresses and ports, the first three", endpoints), age)
	case schema.GroupKind{Group: discoveryv1.GroupName, Kind: "EndpointSlice"}:
		return shaped(same[*discoveryv1.EndpointSlice], name,
			column("AddressType", "IPv4, IPv6 or FQDN", func(s *discoveryv1.EndpointSlice) any { return string(s.AddressType) }),
			column("Ports", "ports, the first three", slicePorts),
			column("Endpoints", "addresses, the first three", sliceEndpoints),
			age)
	case schema.GroupKind{Kind: "ConfigMap"}:
		return shaped(same[*v1.ConfigMap], name,
			column("Data", "number of keys", func(c *v1.ConfigMap) any { return int64(len(c.Data) + len(c.BinaryData)) }),
			age)
	case schema.GroupKind{Kind: "Secret"}:
		return shaped(same[*v1.Secret], name,
			column("Type", "what the data is for", func(s *v1.Secret) any { return string(s.Type) }),
			column("Data", "number of keys", func(s *v1.Secret) any { return int64(len(s.Data)) }),
			age)
	case schema.GroupKind{Kind: "Namespace"}:
		return shaped(same[*v1.Namespace], name,
			column("Status", "phase of the namespace", func(n *v1.Namespace) any { return string(n.Status.Phase) }),
			age)
	case schema.GroupKind{Kind: "PodTemplate"}:
		return shaped(same[*v1.PodTemplate], name,
			column("Containers", "names of the containers", func(t *v1.PodTemplate) any { return containerNames(t.Template.Spec.Containers) }),
			column("Images", "images of the containers", func(t *v1.PodTemplate) any { return containerImages(t.Template.Spec.Containers) }),
			column("Pod Labels", "labels of the template", func(t *v1.PodTemplate) any { return labels.FormatLabels(t.Template.Labels) }))
	case schema.GroupKind{Kind: "PersistentVolume"}:
		return persistentVolumes()
	case schema.GroupKind{Kind: "PersistentVolumeClaim"}:
		return persistentVolumeClaims()
	case schema.GroupKind{Group: coordinationv1.GroupName, Kind: "Lease"}:
		return shaped(same[*coordinationv1.Lease], name,
			column("Holder", "who holds the lease", func(l *coordinationv1.Lease) any { return deref(l.Spec.HolderIdentity, "") }),
			age)
	case schema.GroupKind{Group: nodev1.GroupName, Kind: "RuntimeClass"}:
		return shaped(same[*nodev1.RuntimeClass], name,
			column("Handler", "configuration of the runtime", func(c *nodev1.RuntimeClass) any { return c.Handler }),
			age)
	case schema.GroupKind{Group: metricsGroup, Kind: "NodeMetrics"}, schema.GroupKind{Group: metricsGroup, Kind: "PodMetrics"}:
		return shaped(same[Used], name, quantity(v1.ResourceCPU), quantity(v1.ResourceMemory),
			column("Window", "time in which the use was measured", func(u Used) any { return u.Over().String() }))
	default:
		return shaped(same[metav1.Object], name, age)
	}
}
