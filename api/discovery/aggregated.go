package discovery

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The types of apidiscovery.k8s.io, as far as a server fills them: v2 and
// v2beta1 have the same form. k8s.io/api's own would bring their protobuf code.
type groupDiscovery struct {
	Metadata metadata           `json:"metadata"`
	Versions []versionDiscovery `json:"versions"`
}

type metadata struct {
	Name              string  `json:"name,omitempty"`
	CreationTimestamp *string `json:"creationTimestamp"` // always null, as Kubernetes writes it
}

type versionDiscovery struct {
	Version   string              `json:"version"`
	Resources []resourceDiscovery `json:"resources"`
	Freshness string              `json:"freshness"`
}

type resourceDiscovery struct {
	Resource         string                 `json:"resource"`
	ResponseKind     kind                   `json:"responseKind"`
	Scope            string                 `json:"scope"`
	SingularResource string                 `json:"singularResource"`
	Verbs            []string               `json:"verbs"`
	ShortNames       []string               `json:"shortNames,omitempty"`
	Categories       []string               `json:"categories,omitempty"`
	Subresources     []subresourceDiscovery `json:"subresources,omitempty"`
}

type subresourceDiscovery struct {
	Subresource  string   `json:"subresource"`
	ResponseKind kind     `json:"responseKind"`
	Verbs        []string `json:"verbs"`
}

type kind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

// aggregated makes the whole of /api or /apis one document.
func aggregated(resources []Resource, version form) func() document {
	return sync.OnceValue(func() document {
		list := struct {
			metav1.TypeMeta `json:",inline"`
			Metadata        struct{}         `json:"metadata"`
			Items           []groupDiscovery `json:"items"`
		}{
			TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/" + string(version)},
			Items:    []groupDiscovery{},
		}
		of := byGroupVersion(resources)
		for _, g := range groups(resources) {
			group := groupDiscovery{Metadata: metadata{Name: g.Name}}
			for _, v := range g.Versions {
				group.Versions = append(group.Versions, versionDiscovery{
					Version:   v.Version,
					Resources: discoveries(of[schema.GroupVersion{Group: g.Name, Version: v.Version}]),
					Freshness: "Current",
				})
			}
			list.Items = append(list.Items, group)
		}
		return newDocument("application/json;g=apidiscovery.k8s.io;v="+string(version)+";as=APIGroupDiscoveryList", list)
	})
}

func discoveries(resources []Resource) []resourceDiscovery {
	var all []resourceDiscovery
	for _, r := range resources {
		d := resourceDiscovery{
			Resource: r.Plural, ResponseKind: kind(r.GroupVersionKind()), Scope: "Cluster", SingularResource: r.Singular,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		}
		if r.Namespaced {
			d.Scope = "Namespaced"
		}
		for _, s := range r.Subresources {
			d.Subresources = append(d.Subresources, subresourceDiscovery{s.Name, kind(r.GroupVersionKindOf(s)), s.Verbs})
		}
		all = append(all, d)
	}
	return all
}
