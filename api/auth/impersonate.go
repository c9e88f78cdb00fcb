package auth

import (
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The headers of a request in somebody else's name, `kubectl --as`.
const (
	impersonateUser   = "Impersonate-User"
	impersonateGroup  = "Impersonate-Group"
	impersonateUID    = "Impersonate-Uid"
	impersonateExtras = "Impersonate-Extra-" // they give nobody anything here
)

// impersonated returns in whose name u asks: u, or, if u may do everything, whom
// the request's headers name, with the role that their groups give. Whoever serves
// the request finds no such header any more.
//
// Source: Kubernetes docs, "Authenticating", user impersonation.
func impersonated(u User, r *http.Request) (User, error) {
	name, groups, uid := r.Header.Get(impersonateUser), r.Header.Values(impersonateGroup), r.Header.Get(impersonateUID)
	given := false
	for header := range r.Header {
		if header == impersonateUser || header == impersonateGroup || header == impersonateUID || strings.HasPrefix(header, impersonateExtras) {
			given = true
			r.Header.Del(header)
		}
	}
	switch {
	case !given:
		return u, nil
	case name == "":
		return u, apierrors.NewBadRequest("requested groups, a UID or extra values without impersonating a user: give " + impersonateUser)
	}
	if err := Allowed(WithUser(r.Context(), u), Attributes{Verb: "impersonate", Resource: "users", Name: name}); err != nil {
		return u, err
	}
	if account, is := strings.CutPrefix(name, "system:serviceaccount:"); is && len(groups) == 0 {
		namespace, _, _ := strings.Cut(account, ":")
		groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
	}
	return newUser(name, uid, slices.DeleteFunc(slices.Clone(groups), func(g string) bool { return g == "system:authenticated" })), nil
}
