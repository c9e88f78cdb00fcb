package auth

import (
	"slices"
	"strings"
)

// Role is what a user may do.
type Role string

const (
	// View reads everything but Secrets, logs included, and changes nothing.
	View Role = "view"
	// Edit reads and changes what lives in a namespace, Secrets included, and runs
	// commands in containers. Who may make pods can reach all of the machine: edit
	// protects from mistakes, not from malice.
	Edit Role = "edit"
	// Admin may do everything.
	Admin Role = "admin"
	// None is a user without a role: known, and allowed to ask who they are and what
	// they may do.
	None Role = ""
)

// GroupOf is the group that gives a role: the organisation of a certificate, or
// a group of a token's line.
func GroupOf(r Role) string { return "podd:" + string(r) }

// mastersGroup is what a cluster's administrators are in.
const mastersGroup = "system:masters"

// User is somebody who asks.
type User struct {
	Name   string
	UID    string
	Groups []string
	Role   Role
}

// newUser gives a user the highest role of their groups.
func newUser(name, uid string, groups []string) User {
	u := User{Name: name, UID: uid, Groups: append(slices.Clone(groups), "system:authenticated")}
	for _, r := range []Role{View, Edit, Admin} {
		if slices.Contains(groups, GroupOf(r)) {
			u.Role = r
		}
	}
	if slices.Contains(groups, mastersGroup) {
		u.Role = Admin
	}
	return u
}

// Attributes are what a request is about, in the words of Kubernetes. A request
// that is not about an object has Path only.
type Attributes struct {
	Verb, Group, Resource, Subresource string
	Namespace, Name                    string
	// Path is set, and Resource empty, where no object is asked for.
	Path string
}

// readVerbs change nothing.
var readVerbs = []string{"get", "list", "watch"}

// streams are subresources that are more than reading, with whatever verb.
var streams = []string{"exec", "attach", "portforward", "proxy"}

// clusterScoped are resources that only an admin changes.
var clusterScoped = []string{"nodes", "namespaces", "persistentvolumes", "runtimeclasses"}

// aboutOneself are the reviews that everybody who is known may create.
var aboutOneself = []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}

// public are the paths that show nothing but that the server lives, and what it is.
var public = []string{"/healthz", "/livez", "/readyz", "/version"}

// discovery are the paths that say what is served.
var discovery = []string{"/api", "/apis", "/openapi"}

// isPublic says whether a path is served to everybody.
func isPublic(path string) bool { return slices.ContainsFunc(public, within(path)) }

func within(path string) func(string) bool {
	return func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
}

// Allows says whether a role may do something. It is what Kubernetes' roles of
// the same names allow, as far as there are such resources here, and for all
// namespaces; nodes and volumes can be read by all three.
// Source: Kubernetes docs, "Using RBAC Authorization", user-facing roles.
func (r Role) Allows(a Attributes) bool {
	reads := slices.Contains(readVerbs, a.Verb)
	switch {
	case r == Admin:
		return true
	case a.Resource == "":
		return reads && (isPublic(a.Path) || slices.ContainsFunc(discovery, within(a.Path)))
	case slices.Contains(aboutOneself, a.Resource):
		return a.Verb == "create"
	case r == None, a.Verb == "impersonate":
		return false
	case slices.Contains(clusterScoped, a.Resource):
		return reads && a.Subresource != "proxy" && a.Subresource != "log"
	case r == Edit:
		return true
	case slices.Contains(streams, a.Subresource), a.Resource == "secrets":
		return false
	}
	return reads
}
