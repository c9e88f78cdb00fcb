package discovery

import "k8s.io/apimachinery/pkg/runtime/schema"

// Resource is one kind of object as the API serves it.
type Resource struct {
	Group, Version string // Group "" is core
	Kind           string // Pod
	Plural         string // pods: the name in paths
	Singular       string // pod; "" where Kubernetes has none
	ShortNames     []string
	Categories     []string // "all" makes `kubectl get all` include it
	Namespaced     bool
	Verbs          []string // sorted, as Kubernetes has them
	Subresources   []Subresource
}

// Subresource is what is served below one object: pods/log.
type Subresource struct {
	Name string // log
	// What a request carries or returns. Group and Version are those of the
	// resource when both are empty.
	Group, Version, Kind string
	Verbs                []string
}

// GroupVersion is the resource's group and version.
func (r Resource) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: r.Group, Version: r.Version}
}

// GroupVersionKind is the kind of the resource's objects.
func (r Resource) GroupVersionKind() schema.GroupVersionKind {
	return r.GroupVersion().WithKind(r.Kind)
}

// GroupResource is the resource's name in keys and messages.
func (r Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Plural}
}

// Subresource finds a subresource by name.
func (r Resource) Subresource(name string) (Subresource, bool) {
	for _, s := range r.Subresources {
		if s.Name == name {
			return s, true
		}
	}
	return Subresource{}, false
}

// GroupVersionKindOf is the kind that a subresource's requests carry or return.
func (r Resource) GroupVersionKindOf(s Subresource) schema.GroupVersionKind {
	if s.Group == "" && s.Version == "" {
		return r.GroupVersion().WithKind(s.Kind)
	}
	return schema.GroupVersionKind{Group: s.Group, Version: s.Version, Kind: s.Kind}
}
