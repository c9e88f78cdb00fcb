package auth

import (
	"slices"
	"strings"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
)

func TestUsersAreToldWhatTheyMayDo(t *testing.T) {
	ctx := WithUser(t.Context(), newUser("ada", "7", []string{GroupOf(View)}))
	ask := func(verb, resource, subresource string) authorization.SubjectAccessReviewStatus {
		return ReviewAccess(ctx, &authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorization.ResourceAttributes{Verb: verb, Resource: resource, Subresource: subresource, Namespace: "default"},
		}}).Status
	}
	if s := ask("get", "pods", ""); !s.Allowed || s.Reason != "" {
		t.Errorf("%+v", s)
	}
	if s := ask("create", "pods", "exec"); s.Allowed || s.Reason == "" {
		t.Errorf("%+v", s)
	}
	path := ReviewAccess(ctx, &authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{
		NonResourceAttributes: &authorization.NonResourceAttributes{Verb: "get", Path: "/debug/pprof"},
	}})
	if path.Status.Allowed {
		t.Error("a viewer may not look into the agent")
	}
	for _, rule := range ReviewRules(ctx, &authorization.SelfSubjectRulesReview{}).Status.ResourceRules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				if about := slices.Contains(aboutOneself, resource); about && (resource == "selfsubjectreviews") != (group == "authentication.k8s.io") {
					t.Errorf("there are no %s in %s", resource, group)
				}
			}
		}
	}
	self := ReviewSelf(ctx, &authentication.SelfSubjectReview{}).Status.UserInfo
	if self.Username != "ada" || self.UID != "7" || !slices.Contains(self.Groups, "podd:view") {
		t.Errorf("%+v", self)
	}
}

// What a list of rules says and what is allowed are told by two functions; they
// must not drift apart.
func TestRulesThatAreToldAreThoseThatHold(t *testing.T) {
	for _, role := range []Role{None, View, Edit, Admin} {
		ctx := WithUser(t.Context(), newUser("ada", "", []string{GroupOf(role)}))
		rules := ReviewRules(ctx, &authorization.SelfSubjectRulesReview{}).Status.ResourceRules
		told := func(verb, resource string) bool {
			return slices.ContainsFunc(rules, func(r authorization.ResourceRule) bool {
				has := func(list []string, s string) bool { return slices.Contains(list, s) || slices.Contains(list, "*") }
				return has(r.Verbs, verb) && has(r.Resources, resource)
			})
		}
		for _, resource := range append([]string{"secrets", "pods/exec", "selfsubjectreviews", "nodes", "namespaces", "persistentvolumes"}, namespacedReadable...) {
			for _, verb := range []string{"get", "list", "watch", "create", "delete", "patch"} {
				at := Attributes{Verb: verb, Resource: resource, Namespace: "default"}
				if name, sub, cut := strings.Cut(resource, "/"); cut {
					at.Resource, at.Subresource = name, sub
				}
				if role.Allows(at) != told(verb, resource) {
					t.Errorf("%s: %s %s: allowed %v, told %v", role, verb, resource, role.Allows(at), told(verb, resource))
				}
			}
		}
	}
}
