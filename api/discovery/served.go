package discovery

var (
	everything     = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	noCollection   = []string{"create", "delete", "get", "list", "patch", "update", "watch"}
	statusVerbs    = []string{"get", "patch", "update"}
	proxyVerbs     = []string{"create", "delete", "get", "patch", "update"}
	streamVerbs    = []string{"create", "get"} // POST for SPDY, GET for WebSockets
	createOnly     = []string{"create"}
	readOnly       = []string{"get"}
	getAndList     = []string{"get", "list"}
	categoryAll    = []string{"all"}
	podSubresource = []Subresource{
		{Name: "attach", Kind: "PodAttachOptions", Verbs: streamVerbs},
		{Name: "binding", Kind: "Binding", Verbs: createOnly},
		{Name: "ephemeralcontainers", Kind: "Pod", Verbs: statusVerbs},
		{Name: "eviction", Group: "policy", Version: "v1", Kind: "Eviction", Verbs: createOnly},
		{Name: "exec", Kind: "PodExecOptions", Verbs: streamVerbs},
		{Name: "log", Kind: "Pod", Verbs: readOnly},
		{Name: "portforward", Kind: "PodPortForwardOptions", Verbs: streamVerbs},
		{Name: "proxy", Kind: "PodProxyOptions", Verbs: proxyVerbs},
		{Name: "resize", Kind: "Pod", Verbs: statusVerbs},
		statusOf("Pod"),
	}
)

func statusOf(kind string) Subresource {
	return Subresource{Name: "status", Kind: kind, Verbs: statusVerbs}
}

// Served is every resource of the API, in the order in which clients prefer
// groups. Names, verbs and subresources are Kubernetes' own, less what is not
// served here. Nobody changes it.
var Served = []Resource{
	{Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Singular: "configmap", ShortNames: []string{"cm"}, Namespaced: true, Verbs: everything},
	{Version: "v1", Kind: "Endpoints", Plural: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"}, Namespaced: true, Verbs: everything},
	{Version: "v1", Kind: "Event", Plural: "events", Singular: "event", ShortNames: []string{"ev"}, Namespaced: true, Verbs: everything},
	{Version: "v1", Kind: "Namespace", Plural: "namespaces", Singular: "namespace", ShortNames: []string{"ns"}, Verbs: noCollection,
		Subresources: []Subresource{{Name: "finalize", Kind: "Namespace", Verbs: []string{"update"}}, statusOf("Namespace")}},
	{Version: "v1", Kind: "Node", Plural: "nodes", Singular: "node", ShortNames: []string{"no"}, Verbs: everything,
		Subresources: []Subresource{{Name: "proxy", Kind: "NodeProxyOptions", Verbs: proxyVerbs}, statusOf("Node")}},
	{Version: "v1", Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"},
		Namespaced: true, Verbs: everything, Subresources: []Subresource{statusOf("PersistentVolumeClaim")}},
	{Version: "v1", Kind: "PersistentVolume", Plural: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"},
		Verbs: everything, Subresources: []Subresource{statusOf("PersistentVolume")}},
	{Version: "v1", Kind: "Pod", Plural: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: categoryAll, Namespaced: true,
		Verbs: everything, Subresources: podSubresource},
	{Version: "v1", Kind: "PodTemplate", Plural: "podtemplates", Singular: "podtemplate", Namespaced: true, Verbs: everything},
	{Version: "v1", Kind: "Secret", Plural: "secrets", Singular: "secret", Namespaced: true, Verbs: everything},
	{Version: "v1", Kind: "ServiceAccount", Plural: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"}, Namespaced: true, Verbs: everything},
	{Version: "v1", Kind: "Service", Plural: "services", Singular: "service", ShortNames: []string{"svc"}, Categories: categoryAll, Namespaced: true,
		Verbs: everything, Subresources: []Subresource{statusOf("Service")}},
	{Group: "events.k8s.io", Version: "v1", Kind: "Event", Plural: "events", Singular: "event", ShortNames: []string{"ev"}, Namespaced: true, Verbs: everything},
	{Group: "authentication.k8s.io", Version: "v1", Kind: "SelfSubjectReview", Plural: "selfsubjectreviews", Singular: "selfsubjectreview", Verbs: createOnly},
	{Group: "authorization.k8s.io", Version: "v1", Kind: "SelfSubjectAccessReview", Plural: "selfsubjectaccessreviews", Singular: "selfsubjectaccessreview", Verbs: createOnly},
	{Group: "authorization.k8s.io", Version: "v1", Kind: "SelfSubjectRulesReview", Plural: "selfsubjectrulesreviews", Singular: "selfsubjectrulesreview", Verbs: createOnly},
	{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Plural: "leases", Singular: "lease", Namespaced: true, Verbs: everything},
	{Group: "node.k8s.io", Version: "v1", Kind: "RuntimeClass", Plural: "runtimeclasses", Singular: "runtimeclass", Verbs: everything},
	{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice", Plural: "endpointslices", Singular: "endpointslice", Namespaced: true, Verbs: everything},
	{Group: "metrics.k8s.io", Version: "v1beta1", Kind: "NodeMetrics", Plural: "nodes", Verbs: getAndList},
	{Group: "metrics.k8s.io", Version: "v1beta1", Kind: "PodMetrics", Plural: "pods", Namespaced: true, Verbs: getAndList},
}
