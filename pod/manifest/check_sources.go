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

// checkFiles is about volumes whose files the agent writes.
func (o *object) checkFiles(at string, v *v1.Volume, s *v1.PodSpec) {
	paths := map[string]string{} // of the volume, with what gave them first
	if c := v.ConfigMap; c != nil {
		at := at + ".configMap"
		o.sourceName(at+".name", c.Name)
		o.mode(at+".defaultMode", c.DefaultMode)
		o.keyFiles(at, c.Items, paths)
	}
	if c := v.Secret; c != nil {
		at := at + ".secret"
		o.sourceName(at+".secretName", c.SecretName)
		o.mode(at+".defaultMode", c.DefaultMode)
		o.keyFiles(at, c.Items, paths)
	}
	if d := v.DownwardAPI; d != nil {
		at := at + ".downwardAPI"
		o.mode(at+".defaultMode", d.DefaultMode)
		o.downwardFiles(at, d.Items, paths, s)
	}
	if p := v.Projected; p != nil {
		at := at + ".projected"
		o.mode(at+".defaultMode", p.DefaultMode)
		for i := range p.Sources {
			o.checkProjection(item(at+".sources", i), &p.Sources[i], paths, s)
		}
	}
}

func (o *object) checkProjection(at string, p *v1.VolumeProjection, paths map[string]string, s *v1.PodSpec) {
	o.oneSource(at, map[string]bool{"configMap": p.ConfigMap != nil, "downwardAPI": p.DownwardAPI != nil, "secret": p.Secret != nil})
	if c := p.ConfigMap; c != nil {
		o.sourceName(at+".configMap.name", c.Name)
		o.keyFiles(at+".configMap", c.Items, paths)
	}
	if c := p.Secret; c != nil {
		o.sourceName(at+".secret.name", c.Name)
		o.keyFiles(at+".secret", c.Items, paths)
	}
	if d := p.DownwardAPI; d != nil {
		o.downwardFiles(at+".downwardAPI", d.Items, paths, s)
	}
}

// mode checks the permission bits of a file.
func (o *object) mode(at string, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		o.bad(at, "permission bits from 0 to 0777 (511)")
	}
}

func (o *object) keyFiles(at string, items []v1.KeyToPath, paths map[string]string) {
	for i, f := range items {
		at := item(at+".items", i)
		if len(validation.IsConfigMapKey(f.Key)) > 0 {
			o.bad(at+".key", aSourceKey)
		}
		o.mode(at+".mode", f.Mode)
		o.filePath(at+".path", f.Path, paths)
	}
}

// filesFieldPaths are what a file may take from its pod, beside single labels
// and annotations.
var filesFieldPaths = []string{
	"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
}

func (o *object) downwardFiles(at string, items []v1.DownwardAPIVolumeFile, paths map[string]string, s *v1.PodSpec) {
	for i, f := range items {
		at := item(at+".items", i)
		o.mode(at+".mode", f.Mode)
		o.filePath(at+".path", f.Path, paths)
		o.oneSource(at, map[string]bool{"fieldRef": f.FieldRef != nil, "resourceFieldRef": f.ResourceFieldRef != nil})
		if f.FieldRef != nil {
			o.fieldRef(at+".fieldRef", f.FieldRef, filesFieldPaths)
		}
		if r := f.ResourceFieldRef; r != nil {
			o.checkResourceRef(at+".resourceFieldRef", r, s)
			if r.ContainerName == "" {
				o.bad(at+".resourceFieldRef.containerName", "")
			}
		}
	}
}

// filePath checks the path of a file in a volume. paths are those given before.
func (o *object) filePath(at, value string, paths map[string]string) {
	const want = "a relative path that does not begin with .. and has no part .."
	switch {
	case value == "" || strings.HasPrefix(value, ".."):
		o.bad(at, want)
	default:
		o.relative(at, value)
	}
	o.unique(paths, value, at)
}
