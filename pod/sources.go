package pod

import (
	"maps"

	v1 "k8s.io/api/core/v1"
)

// Source is a ConfigMap or a Secret; one of the two is set. It is immutable: a
// changed file makes a new one.
type Source struct {
	ConfigMap *v1.ConfigMap
	Secret    *v1.Secret
	Origin    Origin
}

// SourceID names a source: its kind, and its key among those of that kind.
type SourceID struct {
	Kind string // ConfigMap or Secret
	Key  Key
}

func (id SourceID) String() string { return id.Kind + " " + id.Key.String() }

// ID returns the source's name.
func (s Source) ID() SourceID {
	if s.ConfigMap != nil {
		return SourceID{"ConfigMap", Key{Namespace: s.ConfigMap.Namespace, Name: s.ConfigMap.Name}}
	}
	return SourceID{"Secret", Key{Namespace: s.Secret.Namespace, Name: s.Secret.Name}}
}

// String is the source's name: what it holds is printed nowhere.
func (s Source) String() string { return s.ID().String() }

// GoString is String, for the same reason.
func (s Source) GoString() string { return s.String() }

// Sources are the ConfigMaps and Secrets that one pod names, as they were at
// one moment. A nil *Sources holds none.
type Sources struct {
	namespace  string
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
}

// SourcesOf picks what a pod names. find returns a source that exists. Nil: the
// pod names none.
func SourcesOf(p *v1.Pod, find func(SourceID) (Source, bool)) *Sources {
	if !NamesSources(p) {
		return nil
	}
	s := &Sources{namespace: p.Namespace, configMaps: map[string]*v1.ConfigMap{}, secrets: map[string]*v1.Secret{}}
	for id := range sourcesNamed(p) {
		if found, ok := find(id); ok && found.ConfigMap != nil {
			s.configMaps[id.Key.Name] = found.ConfigMap
		} else if ok {
			s.secrets[id.Key.Name] = found.Secret
		}
	}
	return s
}

// ConfigMap finds a ConfigMap that the pod names.
func (s *Sources) ConfigMap(namespace, name string) (*v1.ConfigMap, bool) {
	if s == nil || s.namespace != namespace {
		return nil, false
	}
	m, found := s.configMaps[name]
	return m, found
}

// Secret finds a Secret that the pod names.
func (s *Sources) Secret(namespace, name string) (*v1.Secret, bool) {
	if s == nil || s.namespace != namespace {
		return nil, false
	}
	secret, found := s.secrets[name]
	return secret, found
}

// Same says whether a and b hold the same versions of the same objects.
func (s *Sources) Same(b *Sources) bool {
	if s == nil || b == nil {
		return s == b
	}
	return s.namespace == b.namespace && maps.Equal(s.configMaps, b.configMaps) && maps.Equal(s.secrets, b.secrets)
}

// NamesSources says whether a pod names any ConfigMap or Secret.
func NamesSources(p *v1.Pod) bool {
	for range sourcesNamed(p) {
		return true
	}
	return false
}

// sourcesNamed yields what a pod names, some of it more than once.
func sourcesNamed(p *v1.Pod) func(yield func(SourceID) bool) {
	return func(yield func(SourceID) bool) {
		more := true
		named := func(kind, name string) {
			more = more && yield(SourceID{kind, Key{Namespace: p.Namespace, Name: name}})
		}
		for i := range p.Spec.Volumes {
			volumeSources(&p.Spec.Volumes[i], named)
		}
		for _, c := range allContainers(p) {
			environmentSources(c, named)
		}
		for _, ref := range p.Spec.ImagePullSecrets {
			named("Secret", ref.Name)
		}
	}
}

func volumeSources(v *v1.Volume, named func(kind, name string)) {
	switch {
	case v.ConfigMap != nil:
		named("ConfigMap", v.ConfigMap.Name)
	case v.Secret != nil:
		named("Secret", v.Secret.SecretName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				named("ConfigMap", s.ConfigMap.Name)
			}
			if s.Secret != nil {
				named("Secret", s.Secret.Name)
			}
		}
	}
}

func environmentSources(c *v1.Container, named func(kind, name string)) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			named("ConfigMap", from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			named("Secret", from.SecretRef.Name)
		}
	}
	for _, e := range c.Env {
		switch from := e.ValueFrom; {
		case from == nil:
		case from.ConfigMapKeyRef != nil:
			named("ConfigMap", from.ConfigMapKeyRef.Name)
		case from.SecretKeyRef != nil:
			named("Secret", from.SecretKeyRef.Name)
		}
	}
}

// ShowsSources says whether a pod mounts a volume whose files are made of what
// the pod names or of the pod itself, and follow it when it changes.
func ShowsSources(p *v1.Pod) bool {
	for _, v := range p.Spec.Volumes {
		if (v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil) && mounts(p, v.Name) {
			return true
		}
	}
	return false
}

// mounts says whether a container of the pod mounts the volume.
func mounts(p *v1.Pod, volume string) bool {
	for _, c := range allContainers(p) {
		for _, m := range c.VolumeMounts {
			if m.Name == volume {
				return true
			}
		}
	}
	return false
}
