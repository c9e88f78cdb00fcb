package discovery

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// form is how a client wants a page: plain, in a version of aggregated
// discovery, or in protobuf.
type form string

const (
	plain    form = ""
	v2       form = "v2"
	v2beta1  form = "v2beta1"
	protobuf form = "protobuf" // of /openapi/v2
)

// page is what one path has to offer. Documents are made when first asked for.
type page map[form]func() document

// New serves all that clients ask about the API: /api, /apis and the pages
// below them, /openapi/v2, /openapi/v3 and /version. Other paths are not found.
// Clients that ask for aggregated discovery get it in one answer at /api and
// /apis.
//
// Source: Kubernetes docs, "Kubernetes API Concepts", API Discovery.
func New(resources []Resource, info version.Info) http.Handler {
	pages := map[string]page{
		"/version": only(func() any { return info }),
		"/api":     {},
		"/apis":    {},
	}
	resources = inOrder(resources)
	var core, others []Resource
	for _, r := range resources {
		if r.Group == "" {
			core = append(core, r)
		} else {
			others = append(others, r)
		}
	}
	pages["/api"][plain] = once(func() any { return versions(core) })
	pages["/apis"][plain] = once(func() any {
		return metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: groups(others)}
	})
	for _, version := range []form{v2, v2beta1} {
		pages["/api"][version] = aggregated(core, version)
		pages["/apis"][version] = aggregated(others, version)
	}
	for _, g := range groups(others) {
		g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
		pages["/apis/"+g.Name] = only(func() any { return g })
	}
	openapi := map[string]func() document{}
	for gv, of := range byGroupVersion(resources) {
		pages["/"+pathOf(gv)] = only(func() any { return list(gv, of) })
		if open, ok := openAPI(gv); ok {
			pages["/openapi/v3/"+pathOf(gv)] = page{plain: open}
			openapi[pathOf(gv)] = open
		}
	}
	pages["/openapi/v2"] = openAPIv2()
	pages["/openapi/v3"] = only(func() any { return openAPIIndex(openapi) })
	return handler(pages)
}

// inOrder returns resources in the order of [Served], which is that of `kubectl get
// all`, whatever the order in which a server was put together.
func inOrder(resources []Resource) []Resource {
	at := func(r Resource) int {
		return slices.IndexFunc(Served, func(s Resource) bool { return s.GroupResource() == r.GroupResource() })
	}
	return slices.SortedStableFunc(slices.Values(resources), func(a, b Resource) int { return cmp.Compare(at(a), at(b)) })
}

// only is a page with one document.
func only(value func() any) page { return page{plain: once(value)} }

// once makes a document of a value when it is first asked for.
func once(value func() any) func() document {
	return sync.OnceValue(func() document { return newDocument("application/json", value()) })
}

type handler map[string]page

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, ok := h[strings.TrimSuffix(r.URL.Path, "/")]
	switch {
	case !ok:
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	default:
		p[wanted(p, r.Header.Get("Accept"))]().serve(w, r)
	}
}

// wanted finds the form that a client prefers among those of a page. Whoever
// asks for something else entirely gets plain JSON.
func wanted(p page, accept string) form {
	for _, c := range goautoneg.ParseAccept(accept) {
		as := form(c.Params["v"])
		switch {
		case c.Q > 0 && p[protobuf] != nil && slices.Contains(mediaOpenAPIv2, c.Type+"/"+c.SubType):
			return protobuf
		case c.Q == 0 || c.Type != "application" && c.Type != "*" || c.SubType != "json" && c.SubType != "*":
		case c.Params["as"] == "":
			return plain
		case c.Params["as"] == "APIGroupDiscoveryList" && c.Params["g"] == "apidiscovery.k8s.io" && p[as] != nil:
			return as
		}
	}
	return plain
}

// pathOf is where a group and version is served, without leading slash.
func pathOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.String()
}

func byGroupVersion(resources []Resource) map[schema.GroupVersion][]Resource {
	of := map[schema.GroupVersion][]Resource{}
	for _, r := range resources {
		of[r.GroupVersion()] = append(of[r.GroupVersion()], r)
	}
	return of
}

// versions is the page /api.
func versions(core []Resource) metav1.APIVersions {
	v := metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions", APIVersion: "v1"},
		Versions: []string{},
		// Clients go on at the address where they are.
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{},
	}
	for _, r := range core {
		if !slices.Contains(v.Versions, r.Version) {
			v.Versions = append(v.Versions, r.Version)
		}
	}
	return v
}

// groups lists groups and their versions in the order of the resources; the
// first version of a group is the preferred one.
func groups(resources []Resource) []metav1.APIGroup {
	groups := []metav1.APIGroup{}
	for _, r := range resources {
		version := metav1.GroupVersionForDiscovery{GroupVersion: r.GroupVersion().String(), Version: r.Version}
		i := slices.IndexFunc(groups, func(g metav1.APIGroup) bool { return g.Name == r.Group })
		if i < 0 {
			i = len(groups)
			groups = append(groups, metav1.APIGroup{Name: r.Group, PreferredVersion: version})
		}
		if !slices.Contains(groups[i].Versions, version) {
			groups[i].Versions = append(groups[i].Versions, version)
		}
	}
	return groups
}

// list is the page of one group and version.
func list(gv schema.GroupVersion, resources []Resource) metav1.APIResourceList {
	l := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String()}
	for _, r := range resources {
		l.APIResources = append(l.APIResources, metav1.APIResource{
			Name: r.Plural, SingularName: r.Singular, Namespaced: r.Namespaced, Kind: r.Kind,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		})
		for _, s := range r.Subresources {
			l.APIResources = append(l.APIResources, metav1.APIResource{
				Name: r.Plural + "/" + s.Name, Namespaced: r.Namespaced,
				Group: s.Group, Version: s.Version, Kind: s.Kind, Verbs: s.Verbs,
			})
		}
	}
	slices.SortFunc(l.APIResources, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	return l
}

// openAPIIndex is the page /openapi/v3, which names the documents by path. The
// hash in an address lets clients keep a document until it changes.
func openAPIIndex(documents map[string]func() document) any {
	type address struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]address{}
	for path, document := range documents {
		paths[path] = address{"/openapi/v3/" + path + "?hash=" + document().etag}
	}
	return map[string]any{"paths": paths}
}
