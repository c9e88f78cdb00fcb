package manifest

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Default fills in what Kubernetes fills in where a pod does not say.
func Default(p *v1.Pod) { applyDefaults(p) }

// applyDefaults fills in what Kubernetes fills in. Fields that Kubernetes
// leaves nil stay nil. Where a number has a default, 0 counts as not given.
// Source: the "Defaults to" of each field in the API reference of Pod v1.
func applyDefaults(p *v1.Pod) {
	setDefault(&p.Namespace, metav1.NamespaceDefault)
	s := &p.Spec
	DefaultTemplate(s)
	if *s.TerminationGracePeriodSeconds < 0 {
		s.TerminationGracePeriodSeconds = new(int64(1))
	}
	setDefaultPointer(&s.EnableServiceLinks, v1.DefaultEnableServiceLinks)
	for _, list := range [][]v1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			if s.HostNetwork {
				hostPorts(list[i].Ports)
			}
			requestLimits(&list[i].Resources)
		}
	}
}

// DefaultTemplate fills in what Kubernetes fills in where the spec of a pod
// template does not say. What is left is filled in when a pod is made of it:
// requests, for example.
func DefaultTemplate(s *v1.PodSpec) {
	setDefault(&s.RestartPolicy, v1.RestartPolicyAlways)
	setDefault(&s.DNSPolicy, v1.DNSClusterFirst)
	setDefault(&s.SchedulerName, v1.DefaultSchedulerName)
	setDefaultPointer(&s.TerminationGracePeriodSeconds, int64(v1.DefaultTerminationGracePeriodSeconds))
	setDefaultPointer(&s.SecurityContext, v1.PodSecurityContext{})
	// Two names of one field; the API server keeps them equal.
	if s.ServiceAccountName == "" {
		s.ServiceAccountName = s.DeprecatedServiceAccount
	}
	s.DeprecatedServiceAccount = s.ServiceAccountName
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if v.VolumeSource == (v1.VolumeSource{}) {
			v.EmptyDir = &v1.EmptyDirVolumeSource{}
		}
		fileDefaults(v)
		if v.HostPath != nil {
			setDefaultPointer(&v.HostPath.Type, v1.HostPathUnset)
		}
		if v.Image != nil {
			setDefault(&v.Image.PullPolicy, pullPolicy(v.Image.Reference))
		}
		if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			setDefaultPointer(&v.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, v1.PersistentVolumeFilesystem)
		}
		if v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil {
			v.EmptyDir.SizeLimit.RoundUp(resource.Milli)
		}
	}
	for i := range s.InitContainers {
		containerDefaults(&s.InitContainers[i])
	}
	for i := range s.Containers {
		containerDefaults(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		containerDefaults((*v1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// fileDefaults are those of volumes whose files the agent writes.
func fileDefaults(v *v1.Volume) {
	downward := func(items []v1.DownwardAPIVolumeFile) {
		for i := range items {
			if f := items[i].FieldRef; f != nil {
				setDefault(&f.APIVersion, "v1")
			}
		}
	}
	switch {
	case v.ConfigMap != nil:
		setDefaultPointer(&v.ConfigMap.DefaultMode, v1.ConfigMapVolumeSourceDefaultMode)
	case v.Secret != nil:
		setDefaultPointer(&v.Secret.DefaultMode, v1.SecretVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		setDefaultPointer(&v.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode)
		downward(v.DownwardAPI.Items)
	case v.Projected != nil:
		setDefaultPointer(&v.Projected.DefaultMode, v1.ProjectedVolumeSourceDefaultMode)
		for i := range v.Projected.Sources {
			if d := v.Projected.Sources[i].DownwardAPI; d != nil {
				downward(d.Items)
			}
		}
	}
}

// hostPorts are those of containers in the network of the host.
func hostPorts(ports []v1.ContainerPort) {
	for i := range ports {
		setDefault(&ports[i].HostPort, ports[i].ContainerPort)
	}
}

// requestLimits requests what is limited, where nothing is requested.
func requestLimits(r *v1.ResourceRequirements) {
	for name, limit := range r.Limits {
		if _, given := r.Requests[name]; !given {
			if r.Requests == nil {
				r.Requests = v1.ResourceList{}
			}
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

func containerDefaults(c *v1.Container) {
	setDefault(&c.ImagePullPolicy, pullPolicy(c.Image))
	setDefault(&c.TerminationMessagePath, v1.TerminationMessagePathDefault)
	setDefault(&c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
	for i := range c.Ports {
		setDefault(&c.Ports[i].Protocol, v1.ProtocolTCP)
	}
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from != nil && from.FieldRef != nil {
			setDefault(&from.FieldRef.APIVersion, "v1")
		}
		if from != nil && from.FileKeyRef != nil {
			setDefaultPointer(&from.FileKeyRef.Optional, false)
		}
	}
	for _, list := range []v1.ResourceList{c.Resources.Limits, c.Resources.Requests} {
		for name, q := range list {
			q.RoundUp(resource.Milli)
			list[name] = q
		}
	}
	for _, probe := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe == nil {
			continue
		}
		setDefault(&probe.TimeoutSeconds, 1)
		setDefault(&probe.PeriodSeconds, 10)
		setDefault(&probe.SuccessThreshold, 1)
		setDefault(&probe.FailureThreshold, 3)
		defaultRequest(probe.HTTPGet)
		if grpc := probe.GRPC; grpc != nil {
			setDefaultPointer(&grpc.Service, "")
		}
	}
	for _, hook := range hooksOf(c) {
		if hook != nil {
			defaultRequest(hook.HTTPGet)
		}
	}
}

func defaultRequest(get *v1.HTTPGetAction) {
	if get != nil {
		setDefault(&get.Path, "/")
		setDefault(&get.Scheme, v1.URISchemeHTTP)
	}
}

// pullPolicy is Always for the tag latest, given or implied, and IfNotPresent
// for another tag or a digest alone.
func pullPolicy(image string) v1.PullPolicy {
	name, _, hasDigest := strings.Cut(image, "@")
	tag := ""
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		tag = name[colon+1:]
	}
	if tag == "latest" || tag == "" && !hasDigest {
		return v1.PullAlways
	}
	return v1.PullIfNotPresent
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func setDefaultPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
