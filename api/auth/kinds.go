package auth

import (
	"context"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"

	"podd/api/objects"
	"podd/api/rest"
)

// Kinds serve the reviews by which users ask about themselves.
func Kinds() []rest.Kind {
	return []rest.Kind{
		review("authorization.k8s.io", "selfsubjectaccessreviews", func() *authorization.SelfSubjectAccessReview { return &authorization.SelfSubjectAccessReview{} }, ReviewAccess),
		review("authorization.k8s.io", "selfsubjectrulesreviews", func() *authorization.SelfSubjectRulesReview { return &authorization.SelfSubjectRulesReview{} }, ReviewRules),
		review("authentication.k8s.io", "selfsubjectreviews", func() *authentication.SelfSubjectReview { return &authentication.SelfSubjectReview{} }, ReviewSelf),
	}
}

// review is a kind that is answered and not kept.
func review[T objects.Object](group, plural string, empty func() T, answer func(context.Context, T) T) rest.Kind {
	return rest.Kind{
		Resource: rest.Served(group, plural),
		New:      func() objects.Object { return empty() },
		Source: &rest.Source{Create: func(ctx context.Context, o objects.Object) (objects.Object, error) {
			return answer(ctx, o.(T)), nil
		}},
	}
}
