package container

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// variables are environment variables in the order of their first appearance;
// the latest value counts.
type variables struct {
	names  []string
	values map[string]string
}

func (v *variables) set(name, value string) {
	if v.values == nil {
		v.values = map[string]string{}
	}
	if _, ok := v.values[name]; !ok {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

func (v *variables) get(name string) (string, bool) {
	value, ok := v.values[name]
	return value, ok
}

func (v *variables) setDefault(name, value string) {
	if _, ok := v.values[name]; !ok {
		v.set(name, value)
	}
}

// list returns the variables as NAME=value.
func (v *variables) list() []string {
	list := make([]string, 0, len(v.names))
	for _, name := range v.names {
		list = append(list, name+"="+v.values[name])
	}
	return list
}

// Env returns the environment that a pod gives to a container, as NAME=value:
// what it is told of Services, envFrom, then env. It is what the container's command, args and subPathExpr
// are expanded with; the image's own variables are not part of it. Mounts of
// the input are not looked at, so it may be asked before they are resolved.
// Every error is a [ConfigError].
func Env(in Input) ([]string, error) {
	v, err := podVariables(in)
	if err != nil {
		return nil, err
	}
	return v.list(), nil
}

// podVariables: Kubernetes API, EnvVar and EnvFromSource.
func podVariables(in Input) (*variables, error) {
	vars := serviceVariables(in)
	for _, from := range in.Container.EnvFrom {
		if err := setAll(vars, in, from); err != nil {
			return nil, err
		}
	}
	for _, e := range in.Container.Env {
		if e.Value != "" || e.ValueFrom == nil {
			vars.set(e.Name, expand(e.Value, vars.get))
			continue
		}
		value, ok, err := valueFrom(in, e.ValueFrom)
		if err != nil {
			return nil, err
		}
		if ok {
			vars.set(e.Name, value)
		}
	}
	return vars, nil
}

// setAll sets every key of a ConfigMap or Secret.
func setAll(vars *variables, in Input, from v1.EnvFromSource) error {
	values := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		m, err := configMap(in, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		if err != nil || m == nil {
			return err
		}
		values = m.Data
	case from.SecretRef != nil:
		s, err := secret(in, from.SecretRef.Name, from.SecretRef.Optional)
		if err != nil || s == nil {
			return err
		}
		for k, v := range s.Data {
			values[k] = string(v)
		}
	}
	for _, k := range sortedKeys(values) {
		vars.set(from.Prefix+k, values[k])
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// configMap returns nil when an optional ConfigMap is missing.
func configMap(in Input, name string, optional *bool) (*v1.ConfigMap, error) {
	if in.Objects != nil {
		if m, ok := in.Objects.ConfigMap(in.Pod.Namespace, name); ok {
			return m, nil
		}
	}
	if optional != nil && *optional {
		return nil, nil
	}
	return nil, configError("configmap %q not found", name)
}

// secret returns nil when an optional Secret is missing.
func secret(in Input, name string, optional *bool) (*v1.Secret, error) {
	if in.Objects != nil {
		if s, ok := in.Objects.Secret(in.Pod.Namespace, name); ok {
			return s, nil
		}
	}
	if optional != nil && *optional {
		return nil, nil
	}
	return nil, configError("secret %q not found", name)
}

// valueFrom returns !ok for what is optional and missing.
func valueFrom(in Input, from *v1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = fieldValue(in, from.FieldRef.FieldPath)
		return value, err == nil, err

	case from.ResourceFieldRef != nil:
		value, err = resourceValue(in, from.ResourceFieldRef)
		return value, err == nil, err

	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		m, err := configMap(in, ref.Name, ref.Optional)
		if err != nil || m == nil {
			return "", false, err
		}
		value, ok = m.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, configError("couldn't find key %v in ConfigMap %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
		}
		return value, ok, nil

	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := secret(in, ref.Name, ref.Optional)
		if err != nil || s == nil {
			return "", false, err
		}
		data, ok := s.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, configError("couldn't find key %v in Secret %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
		}
		return string(data), ok, nil

	case from.FileKeyRef != nil:
		return fileValue(in, from.FileKeyRef)
	}
	return "", true, nil
}

// fieldValue returns a field of the pod. Paths are those that Kubernetes allows
// in env.
func fieldValue(in Input, path string) (string, error) {
	if of, key, ok := strings.Cut(path, "['"); ok && strings.HasSuffix(key, "']") {
		key = strings.TrimSuffix(key, "']")
		switch of {
		case "metadata.labels":
			return in.Pod.Labels[key], nil
		case "metadata.annotations":
			return in.Pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return in.Pod.Name, nil
	case "metadata.namespace":
		return in.Pod.Namespace, nil
	case "metadata.uid":
		return string(in.Pod.UID), nil
	case "spec.nodeName":
		return in.NodeName, nil
	case "spec.serviceAccountName":
		return in.Pod.Spec.ServiceAccountName, nil
	case "status.podIP":
		return first(in.PodIPs), nil
	case "status.podIPs":
		return join(in.PodIPs), nil
	case "status.hostIP":
		return first(in.HostIPs), nil
	case "status.hostIPs":
		return join(in.HostIPs), nil
	}
	return "", configError("unsupported fieldPath: %v", path)
}

func first(ips []netip.Addr) string {
	if len(ips) == 0 {
		return ""
	}
	return ips[0].String()
}

func join(ips []netip.Addr) string {
	var texts []string
	for _, ip := range ips {
		texts = append(texts, ip.String())
	}
	return strings.Join(texts, ",")
}

// resourceValue returns a container's limit or request, in units of the
// divisor, rounded up. What has no limit may use the whole pod's, or the node.
func resourceValue(in Input, ref *v1.ResourceFieldSelector) (string, error) {
	c := in.Container
	if ref.ContainerName != "" && ref.ContainerName != c.Name {
		if c = findContainer(in.Pod, ref.ContainerName); c == nil {
			return "", configError("container %s not found", ref.ContainerName)
		}
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	resourceName := v1.ResourceName(name)
	known := resourceName == v1.ResourceCPU || resourceName == v1.ResourceMemory ||
		resourceName == v1.ResourceEphemeralStorage || strings.HasPrefix(name, v1.ResourceHugePagesPrefix)

	var quantity resource.Quantity
	switch {
	case kind == "limits" && known:
		var ok bool
		if quantity, ok = c.Resources.Limits[resourceName]; !ok || quantity.IsZero() {
			quantity = podOrNode(in, resourceName)
		}
	case kind == "requests" && known:
		quantity = c.Resources.Requests[resourceName]
	default:
		return "", configError("unsupported container resource : %v", ref.Resource)
	}

	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	value, unit := quantity.Value(), divisor.Value()
	if resourceName == v1.ResourceCPU {
		value, unit = quantity.MilliValue(), divisor.MilliValue()
	}
	return strconv.FormatInt(int64(math.Ceil(float64(value)/float64(unit))), 10), nil
}

func podOrNode(in Input, name v1.ResourceName) resource.Quantity {
	if r := in.Pod.Spec.Resources; r != nil {
		if q, ok := r.Limits[name]; ok {
			return q
		}
	}
	switch name {
	case v1.ResourceCPU:
		return *resource.NewMilliQuantity(in.NodeCPUMilli, resource.DecimalSI)
	case v1.ResourceMemory:
		return *resource.NewQuantity(in.NodeMemoryBytes, resource.BinarySI)
	case v1.ResourceEphemeralStorage:
		return *resource.NewQuantity(in.NodeEphemeralBytes, resource.BinarySI)
	}
	return resource.Quantity{}
}

func findContainer(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// fileValue returns a variable that an init container wrote into a file of an
// emptyDir volume.
func fileValue(in Input, ref *v1.FileKeySelector) (value string, ok bool, err error) {
	optional := ref.Optional != nil && *ref.Optional
	read := in.EnvFile
	if read == nil {
		read = func(string, string) ([]byte, error) { return nil, fs.ErrNotExist }
	}
	text, err := read(ref.VolumeName, ref.Path)
	if err != nil {
		if optional && errors.Is(err, fs.ErrNotExist) {
			return "", false, nil
		}
		return "", false, configError("cannot read environment file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	value, ok, err = envFileValue(string(text), ref.Key)
	if err != nil {
		return "", false, configError("environment file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	if !ok && !optional {
		return "", false, configError("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, ok, nil
}

// envFileValue finds a variable in the text of an environment file: lines of
// NAME='value', where the value may span lines and holds no single quote;
// comments and empty lines. The first one of a name counts. The whole file
// must be well-formed. Source: Kubernetes API, FileKeySelector.
func envFileValue(text, key string) (value string, ok bool, err error) {
	for line := 1; text != ""; line++ {
		if trimmed := strings.TrimLeft(text, " \t\r"); trimmed == "" || trimmed[0] == '\n' || trimmed[0] == '#' {
			_, text, _ = strings.Cut(text, "\n")
			continue
		}
		name, rest, found := strings.Cut(text, "=")
		if !found || strings.ContainsAny(name, "\n") {
			return "", false, fmt.Errorf("line %d: expected NAME='value'", line)
		}
		name = strings.TrimLeft(name, " \t")
		if name == "" || strings.ContainsAny(name, " \t") {
			return "", false, fmt.Errorf("line %d: expected a name and no blank before =", line)
		}
		var v string
		switch {
		case strings.HasPrefix(rest, "'"):
			if v, rest, found = strings.Cut(rest[1:], "'"); !found {
				return "", false, fmt.Errorf("line %d: the value of %s has no closing quote", line, name)
			}
			line += strings.Count(v, "\n")
		case rest == "" || strings.ContainsAny(rest[:1], " \t\r\n"):
			// A blank after = is an empty value.
		default:
			return "", false, fmt.Errorf("line %d: the value of %s must be in single quotes", line, name)
		}
		_, rest, _ = strings.Cut(rest, "\n")
		if name == key && !ok {
			value, ok = v, true
		}
		text = rest
	}
	return value, ok, nil
}
