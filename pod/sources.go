package pod

import (
	"iter"
	"maps"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Source is an object beside the pods; one of its pointers is set. It is
// immutable: a changed file makes a new one.
type Source struct {
	ConfigMap *v1.ConfigMap
	Secret    *v1.Secret
	Claim     *v1.PersistentVolumeClaim `json:",omitempty"`
	Volume    *v1.PersistentVolume      `json:",omitempty"`
	Origin    Origin
}

// The kinds of sources.
const (
	KindConfigMap = "ConfigMap"
	KindSecret    = "Secret"
	KindClaim     = "PersistentVolumeClaim"
	KindVolume    = "PersistentVolume"
)

// SourceID names a source: its kind, and its key among those of that kind.
type SourceID struct {
	Kind string
	Key  Key // a PersistentVolume has no namespace
}

func (id SourceID) String() string {
	if id.Kind == KindVolume {
		return id.Kind + " " + id.Key.Name
	}
	return id.Kind + " " + id.Key.String()
}

// Object is what the source is, and its kind. It is nil where no pointer is set.
func (s Source) Object() (kind string, object metav1.Object) {
	switch {
	case s.ConfigMap != nil:
		return KindConfigMap, s.ConfigMap
	case s.Secret != nil:
		return KindSecret, s.Secret
	case s.Claim != nil:
		return KindClaim, s.Claim
	case s.Volume != nil:
		return KindVolume, s.Volume
	}
	return "", nil
}

// ID returns the source's name.
func (s Source) ID() SourceID {
	kind, o := s.Object()
	if o == nil {
		return SourceID{}
	}
	return SourceID{kind, Key{Namespace: o.GetNamespace(), Name: o.GetName()}}
}

// String is the source's name: what it holds is printed nowhere.
func (s Source) String() string { return s.ID().String() }

// GoString is String, for the same reason.
func (s Source) GoString() string { return s.String() }

// Claim is a PersistentVolumeClaim with the volume that it is bound to.
type Claim struct {
	Claim *v1.PersistentVolumeClaim
	// Volume is nil where there is none; Message then says why.
	Volume  *v1.PersistentVolume
	Message string
}

// Sources are the ConfigMaps, Secrets and claims that one pod names, as they were
// at one moment. A nil *Sources holds none.
type Sources struct {
	namespace  string
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
	claims     map[string]Claim
}

// SourcesOf picks what a pod names. find returns a source that exists, bound a
// claim that exists. Nil: the pod names none.
func SourcesOf(p *v1.Pod, find func(SourceID) (Source, bool), bound func(Key) (Claim, bool)) *Sources {
	if !NamesSources(p) {
		return nil
	}
	s := &Sources{namespace: p.Namespace, configMaps: map[string]*v1.ConfigMap{}, secrets: map[string]*v1.Secret{}, claims: map[string]Claim{}}
	for id := range sourcesNamed(p) {
		if id.Kind == KindClaim {
			if c, ok := bound(id.Key); ok {
				c.Message = unlessBound(c)
				s.claims[id.Key.Name] = c
			}
			continue
		}
		if found, ok := find(id); ok && found.ConfigMap != nil {
			s.configMaps[id.Key.Name] = found.ConfigMap
		} else if ok {
			s.secrets[id.Key.Name] = found.Secret
		}
	}
	return s
}

// unlessBound leaves out what a pod need not know: a remark about a claim that has
// its volume.
func unlessBound(c Claim) string {
	if c.Volume != nil {
		return ""
	}
	return c.Message
}

// Claim finds a claim that the pod names.
func (s *Sources) Claim(namespace, name string) (Claim, bool) {
	if s == nil || s.namespace != namespace {
		return Claim{}, false
	}
	c, found := s.claims[name]
	return c, found
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
	return s.namespace == b.namespace && maps.Equal(s.configMaps, b.configMaps) && maps.Equal(s.secrets, b.secrets) &&
		maps.Equal(s.claims, b.claims)
}

// NamesSources says whether a pod names any ConfigMap, Secret or claim.
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
			named(KindSecret, ref.Name)
		}
	}
}

func volumeSources(v *v1.Volume, named func(kind, name string)) {
	switch {
	case v.ConfigMap != nil:
		named(KindConfigMap, v.ConfigMap.Name)
	case v.Secret != nil:
		named(KindSecret, v.Secret.SecretName)
	case v.PersistentVolumeClaim != nil:
		named(KindClaim, v.PersistentVolumeClaim.ClaimName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				named(KindConfigMap, s.ConfigMap.Name)
			}
			if s.Secret != nil {
				named(KindSecret, s.Secret.Name)
			}
		}
	}
}

func environmentSources(c *v1.Container, named func(kind, name string)) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			named(KindConfigMap, from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			named(KindSecret, from.SecretRef.Name)
		}
	}
	for _, e := range c.Env {
		switch from := e.ValueFrom; {
		case from == nil:
		case from.ConfigMapKeyRef != nil:
			named(KindConfigMap, from.ConfigMapKeyRef.Name)
		case from.SecretKeyRef != nil:
			named(KindSecret, from.SecretKeyRef.Name)
		}
	}
}

// ClaimsOf yields the claims that a pod names, some of them more than once.
func ClaimsOf(p *v1.Pod) iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for _, v := range p.Spec.Volumes {
			if c := v.PersistentVolumeClaim; c != nil && !yield(Key{Namespace: p.Namespace, Name: c.ClaimName}) {
				return
			}
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
