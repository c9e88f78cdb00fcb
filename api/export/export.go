// Package export makes of objects of the node's API what their author would have
// written, for a cluster to take: without status and without what a server fills in.
//
// It is pure: objects come as they are in JSON, read by whoever asks.
//
// Read first: [Select] and [Clean].
package export

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"podd/api/discovery"
)

// Object is an object as it is in JSON.
type Object = map[string]any

// order is that in which a cluster needs objects: what others name comes first. Kinds
// that are not here are exported only when they are named.
var order = []string{
	"namespaces", "runtimeclasses", "serviceaccounts", "secrets", "configmaps", "persistentvolumes", "persistentvolumeclaims",
	"services", "endpoints", "endpointslices", "podtemplates", "pods",
}

// Wanted is one thing to export.
type Wanted struct {
	Resource discovery.Resource
	Name     string // empty: all
}

// Path is where the API has it. An empty namespace means all.
func (w Wanted) Path(namespace string) string {
	path := "/api/" + w.Resource.Version
	if w.Resource.Group != "" {
		path = "/apis/" + w.Resource.Group + "/" + w.Resource.Version
	}
	if w.Resource.Namespaced && namespace != "" {
		path += "/namespaces/" + namespace
	}
	path += "/" + w.Resource.Plural
	if w.Name != "" {
		path += "/" + w.Name
	}
	return path
}

// Select says what arguments such as pod/web, configmaps or secrets/login name, in
// their order; without arguments everything that a cluster can take. cluster: objects
// that are in no namespace too.
func Select(args []string, cluster bool) ([]Wanted, error) {
	var all []Wanted
	if len(args) == 0 {
		for _, plural := range order {
			r, _ := resource(plural)
			if r.Namespaced || cluster {
				all = append(all, Wanted{Resource: r})
			}
		}
		return all, nil
	}
	for _, arg := range args {
		kind, name, named := strings.Cut(arg, "/")
		r, known := resource(kind)
		if !known || named && name == "" || strings.Contains(name, "/") {
			return nil, fmt.Errorf("%s: expected KIND or KIND/NAME, such as pod/web or configmaps", arg)
		}
		all = append(all, Wanted{r, name})
	}
	return all, nil
}

// resource finds a kind by whatever name kubectl knows it.
func resource(name string) (discovery.Resource, bool) {
	name = strings.ToLower(name)
	for _, r := range discovery.Served {
		if slices.Contains(r.Verbs, "create") && slices.Contains(r.Verbs, "list") &&
			(name == r.Plural || name == r.Singular || name == strings.ToLower(r.Kind) || slices.Contains(r.ShortNames, name)) {
			return r, true
		}
	}
	return discovery.Resource{}, false
}

// Own says of an object that every cluster makes it by itself, so that exporting
// everything leaves it out.
func Own(o Object) bool {
	meta := child(o, "metadata")
	name, namespace := text(meta["name"]), text(meta["namespace"])
	system := func(n string) bool { return n == "default" || strings.HasPrefix(n, "kube-") }
	if at := text(child(meta, "annotations")["podd/declared-in"]); strings.HasPrefix(at, "claim ") {
		return true // a volume that was made for a claim
	}
	switch text(o["kind"]) {
	case "Namespace":
		return system(name)
	case "ConfigMap":
		return name == "kube-root-ca.crt"
	case "ServiceAccount":
		return name == "default"
	case "Secret":
		return text(o["type"]) == "kubernetes.io/service-account-token"
	case "Service", "Endpoints":
		return namespace == "default" && name == "kubernetes"
	case "EndpointSlice":
		return text(child(meta, "labels")["kubernetes.io/service-name"]) != "" // made of its Service
	}
	return false
}

// Clean returns an object as its author would have written it. o stays as it is.
func Clean(o Object) Object {
	clean := deepCopy(o).(Object)
	delete(clean, "status")
	meta := child(clean, "metadata")
	for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
		"deletionGracePeriodSeconds", "managedFields", "selfLink", "generateName",
		"ownerReferences"} { // they name UIDs that no cluster has, and it would collect the object
		delete(meta, field)
	}
	annotations := child(meta, "annotations")
	maps.DeleteFunc(annotations, func(name string, _ any) bool {
		return strings.HasPrefix(name, "podd/") || name == "kubectl.kubernetes.io/last-applied-configuration" ||
			strings.HasPrefix(name, "pv.kubernetes.io/")
	})
	if len(annotations) == 0 {
		delete(meta, "annotations")
	}
	spec := child(clean, "spec")
	switch text(clean["kind"]) {
	case "Pod":
		cleanPod(spec)
	case "Namespace":
		delete(clean, "spec") // its finalizer
		labels := child(meta, "labels")
		delete(labels, "kubernetes.io/metadata.name")
		if len(labels) == 0 {
			delete(meta, "labels")
		}
	case "Service":
		if text(spec["clusterIP"]) != "None" {
			delete(spec, "clusterIP")
			delete(spec, "clusterIPs")
		}
	case "PersistentVolumeClaim":
		if class := text(spec["storageClassName"]); class == "podd" || class == "podd-delete" {
			delete(spec, "storageClassName") // the cluster has one of its own
			delete(spec, "volumeName")
		}
	case "PersistentVolume":
		claim := child(spec, "claimRef")
		delete(claim, "uid")
		delete(claim, "resourceVersion")
	}
	return clean
}

// cleanPod takes out what admission fills in, and what only a pod that runs has.
func cleanPod(spec Object) {
	for _, field := range []string{"nodeName", "ephemeralContainers", "serviceAccount", "priority", "preemptionPolicy"} {
		delete(spec, field)
	}
	if text(spec["serviceAccountName"]) == "default" {
		delete(spec, "serviceAccountName")
	}
	if text(spec["runtimeClassName"]) != "" {
		delete(spec, "overhead") // the class has it
	}
	if c, is := spec["securityContext"].(Object); is && len(c) == 0 {
		delete(spec, "securityContext")
	}
}

// child is a part of an object; an empty one that is not in it where there is none.
func child(o Object, name string) Object {
	c, is := o[name].(Object)
	if !is {
		return Object{}
	}
	return c
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func deepCopy(v any) any {
	switch v := v.(type) {
	case Object:
		c := make(Object, len(v))
		for name, part := range v {
			c[name] = deepCopy(part)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, part := range v {
			c[i] = deepCopy(part)
		}
		return c
	}
	return v
}
