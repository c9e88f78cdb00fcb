package auth

import (
	"context"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
)

// ReviewAccess answers whether the user of ctx may do something, for `kubectl
// auth can-i`.
func ReviewAccess(ctx context.Context, r *authorization.SelfSubjectAccessReview) *authorization.SelfSubjectAccessReview {
	r = r.DeepCopy()
	var at Attributes
	switch {
	case r.Spec.ResourceAttributes != nil:
		a := r.Spec.ResourceAttributes
		at = Attributes{Verb: a.Verb, Group: a.Group, Resource: a.Resource, Subresource: a.Subresource, Namespace: a.Namespace, Name: a.Name}
	case r.Spec.NonResourceAttributes != nil:
		at = Attributes{Verb: r.Spec.NonResourceAttributes.Verb, Path: r.Spec.NonResourceAttributes.Path}
	}
	err := Allowed(ctx, at)
	r.Status = authorization.SubjectAccessReviewStatus{Allowed: err == nil}
	if err != nil {
		r.Status.Reason = err.Error()
	}
	return r
}

// ReviewRules answers what the user of ctx may do, for `kubectl auth can-i --list`.
func ReviewRules(ctx context.Context, r *authorization.SelfSubjectRulesReview) *authorization.SelfSubjectRulesReview {
	r = r.DeepCopy()
	u, _ := UserOf(ctx)
	r.Status = authorization.SubjectRulesReviewStatus{
		ResourceRules: []authorization.ResourceRule{
			{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}},
			{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"selfsubjectreviews"}},
		},
		NonResourceRules: []authorization.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: paths()}},
	}
	add := func(verbs []string, resources ...string) {
		r.Status.ResourceRules = append(r.Status.ResourceRules, authorization.ResourceRule{Verbs: verbs, APIGroups: []string{"*"}, Resources: resources})
	}
	switch u.Role {
	case Admin:
		add([]string{"*"}, "*")
		r.Status.NonResourceRules = []authorization.NonResourceRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}
	case Edit, View:
		add(readVerbs, clusterScoped...)
		add(readVerbs, namespacedReadable...)
		if u.Role == Edit {
			add([]string{"*"}, append([]string{"secrets", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy"}, namespacedReadable...)...)
		}
	}
	return r
}

// namespacedReadable are the namespaced resources that all roles read.
var namespacedReadable = []string{
	"pods", "pods/log", "pods/status", "configmaps", "endpoints", "endpointslices", "events", "leases", "persistentvolumeclaims",
	"podtemplates", "serviceaccounts", "services",
}

// paths are what everybody who is known may ask for.
func paths() []string {
	var all []string
	for _, list := range [][]string{public, discovery} {
		for _, p := range list {
			all = append(all, p, p+"/*")
		}
	}
	return all
}

// ReviewSelf answers who the user of ctx is, for `kubectl auth whoami`.
func ReviewSelf(ctx context.Context, r *authentication.SelfSubjectReview) *authentication.SelfSubjectReview {
	r = r.DeepCopy()
	u, _ := UserOf(ctx)
	r.Status.UserInfo = authentication.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	return r
}
