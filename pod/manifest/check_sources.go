package manifest

import (
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The rules for what a pod takes from ConfigMaps, Secrets and itself.

// oneSource says that exactly one of several fields must be given.
func (o *object) oneSource(at string, given map[string]bool) {
	names := slices.Sorted(maps.Keys(given))
	found := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !given[name] })
	switch {
	case len(found) > 1:
		o.say(at, "expected one source; found %s", strings.Join(found, " and "))
	case len(found) == 0 && !o.knownUnder(at):
		o.say(at, "expected one of %s; found none", strings.Join(names, ", "))
	}
}

// fieldRef checks a field of the pod: one of plain, or a single label or
// annotation.
func (o *object) fieldRef(at string, f *v1.ObjectFieldSelector, plain []string) {
	o.oneOf(at+".apiVersion", f.APIVersion, "v1")
	m := keyedFieldPath.FindStringSubmatch(f.FieldPath)
	if !slices.Contains(plain, f.FieldPath) && (m == nil || len(validation.IsQualifiedName(strings.ToLower(m[2]))) > 0) {
		o.bad(at+".fieldPath", strings.Join(plain, ", ")+", metadata.labels['key'] or metadata.annotations['key']")
	}
}

// keyRef checks a key of a ConfigMap or Secret.
func (o *object) keyRef(at, name, key string) {
	o.sourceName(at+".name", name)
	if len(validation.IsConfigMapKey(key)) > 0 {
		o.bad(at+".key", aSourceKey)
	}
}

// sourceName checks the name of a ConfigMap or Secret.
func (o *object) sourceName(at, name string) {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		o.bad(at, aSubdomain)
	}
}

func (o *object) checkEnvFrom(at string, from *v1.EnvFromSource) {
	if from.Prefix != "" && len(validation.IsRelaxedEnvVarName(from.Prefix)) > 0 {
		o.bad(at+".prefix", "printable ASCII without '='")
	}
	o.oneSource(at, map[string]bool{"configMapRef": from.ConfigMapRef != nil, "secretRef": from.SecretRef != nil})
	if r := from.ConfigMapRef; r != nil {
		o.sourceName(at+".configMapRef.name", r.Name)
	}
	if r := from.SecretRef; r != nil {
		o.sourceName(at+".secretRef.name", r.Name)
	}
}

// maxFileKey is how long a key of a fileKeyRef may be.
// Source: Kubernetes API, FileKeySelector.
const maxFileKey = 128

func (o *object) fileKeyRef(at string, f *v1.FileKeySelector, s *v1.PodSpec) {
	i := slices.IndexFunc(s.Volumes, func(v v1.Volume) bool { return v.Name == f.VolumeName })
	switch {
	case i < 0:
		o.bad(at+".volumeName", "the name of an emptyDir volume of this pod")
	case s.Volumes[i].EmptyDir == nil && !o.knownUnder(item("spec.volumes", i)):
		o.bad(at+".volumeName", "the name of an emptyDir volume")
	}
	if f.Path == "" {
		o.bad(at+".path", "a relative path without ..")
	}
	o.relative(at+".path", f.Path)
	if f.Key == "" || len(f.Key) > maxFileKey || len(validation.IsRelaxedEnvVarName(f.Key)) > 0 {
		o.bad(at+".key", "printable ASCII without '=', at most 128 characters")
	}
}
