package rest

import (
	"fmt"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
)

func nodeKind(proxy *Subresource) Kind {
	return Kind{
		Resource:            Served("", "nodes"),
		New:                 func() objects.Object { return &v1.Node{} },
		UnconditionalUpdate: true,
		Fields: map[string]func(objects.Object) string{
			"spec.unschedulable": typedResult(func(n *v1.Node) string { return strconv.FormatBool(n.Spec.Unschedulable) }),
		},
		Default: typed(func(n *v1.Node) {
			if n.Status.Allocatable == nil {
				n.Status.Allocatable = n.Status.Capacity.DeepCopy()
			}
		}),
		Validate: typedResult(validateTaints),
		ValidateUpdate: typed2(func(n, old *v1.Node) (errs field.ErrorList) {
			if old.Spec.ProviderID != "" {
				errs = append(errs, validation.ValidateImmutableField(n.Spec.ProviderID, old.Spec.ProviderID, field.NewPath("spec", "providerID"))...)
			}
			if old.Spec.PodCIDR != "" {
				errs = append(errs, validation.ValidateImmutableField(n.Spec.PodCIDR, old.Spec.PodCIDR, field.NewPath("spec", "podCIDR"))...)
			}
			return errs
		}),
		Warnings:  typed2(warnTaints),
		SetStatus: func(dst, src objects.Object) { dst.(*v1.Node).Status = src.(*v1.Node).Status },
		Sub:       map[string]*Subresource{"proxy": proxy},
	}
}

// warnTaints warns of new taints that would make pods go on a cluster.
func warnTaints(n, old *v1.Node) (warnings []string) {
	for i, taint := range n.Spec.Taints {
		if taint.Effect == v1.TaintEffectNoExecute && (old == nil || !slices.ContainsFunc(old.Spec.Taints, func(t v1.Taint) bool { return t.MatchTaint(&taint) })) {
			warnings = append(warnings, fmt.Sprintf("spec.taints[%d].effect: NoExecute keeps new pods away and evicts none", i))
		}
	}
	return warnings
}

func validateTaints(n *v1.Node) (errs field.ErrorList) {
	effects := []v1.TaintEffect{v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute}
	type unique struct {
		key    string
		effect v1.TaintEffect
	}
	seen := map[unique]bool{}
	for i, taint := range n.Spec.Taints {
		at := field.NewPath("spec", "taints").Index(i)
		for _, problem := range utilvalidation.IsQualifiedName(taint.Key) {
			errs = append(errs, field.Invalid(at.Child("key"), taint.Key, problem))
		}
		for _, problem := range utilvalidation.IsValidLabelValue(taint.Value) {
			errs = append(errs, field.Invalid(at.Child("value"), taint.Value, problem))
		}
		if taint.Effect == "" {
			errs = append(errs, field.Required(at.Child("effect"), ""))
		} else if !slices.Contains(effects, taint.Effect) {
			errs = append(errs, field.NotSupported(at.Child("effect"), taint.Effect, effects))
		}
		if u := (unique{taint.Key, taint.Effect}); seen[u] {
			errs = append(errs, field.Duplicate(at, taint))
		} else {
			seen[u] = true
		}
	}
	return errs
}

// persistentVolumeKind has volumes that are deleted wait for the claims that are bound
// to them.
func persistentVolumeKind() Kind {
	return Kind{
		Resource:            Served("", "persistentvolumes"),
		New:                 func() objects.Object { return &v1.PersistentVolume{} },
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Fields: map[string]func(objects.Object) string{
			"name": func(o objects.Object) string { return o.GetName() }, // an old name that Kubernetes keeps
		},
		Remains: typedResult(func(p *v1.PersistentVolume) bool { return p.Status.Phase == v1.VolumeBound }),
		Default: typed(func(p *v1.PersistentVolume) {
			setDefault(&p.Spec.PersistentVolumeReclaimPolicy, v1.PersistentVolumeReclaimRetain)
			setDefaultPointer(&p.Spec.VolumeMode, v1.PersistentVolumeFilesystem)
			if h := p.Spec.HostPath; h != nil {
				setDefaultPointer(&h.Type, v1.HostPathUnset)
			}
		}),
		PrepareCreate: typed(func(p *v1.PersistentVolume) { p.Status = v1.PersistentVolumeStatus{Phase: v1.VolumePending} }),
		Validate:      typedResult(validatePersistentVolume),
		ValidateUpdate: typed2(func(p, old *v1.PersistentVolume) (errs field.ErrorList) {
			if !equality.Semantic.DeepEqual(p.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
				errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
			}
			return append(errs, validation.ValidateImmutableField(p.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("spec", "volumeMode"))...)
		}),
		SetStatus: func(dst, src objects.Object) {
			dst.(*v1.PersistentVolume).Status = src.(*v1.PersistentVolume).Status
		},
	}
}

func validatePersistentVolume(p *v1.PersistentVolume) field.ErrorList {
	at := field.NewPath("spec")
	errs := validateAccessModes(p.Spec.AccessModes, at.Child("accessModes"))
	if storage, given := p.Spec.Capacity[v1.ResourceStorage]; !given {
		errs = append(errs, field.NotSupported(at.Child("capacity"), p.Spec.Capacity, []v1.ResourceName{v1.ResourceStorage}))
	} else if storage.Sign() <= 0 {
		errs = append(errs, field.Invalid(at.Child("capacity").Key("storage"), storage.String(), "must be greater than zero"))
	}
	if p.Spec.PersistentVolumeSource == (v1.PersistentVolumeSource{}) {
		errs = append(errs, field.Required(at, "must specify a volume type"))
	}
	policies := []v1.PersistentVolumeReclaimPolicy{v1.PersistentVolumeReclaimDelete, v1.PersistentVolumeReclaimRecycle, v1.PersistentVolumeReclaimRetain}
	if !slices.Contains(policies, p.Spec.PersistentVolumeReclaimPolicy) {
		errs = append(errs, field.NotSupported(at.Child("persistentVolumeReclaimPolicy"), p.Spec.PersistentVolumeReclaimPolicy, policies))
	}
	return append(errs, validateVolumeMode(p.Spec.VolumeMode, at.Child("volumeMode"))...)
}

// persistentVolumeClaimKind has claims that are deleted wait for the pods that use
// them.
func persistentVolumeClaimKind(store *objects.Store) Kind {
	return Kind{
		Resource:            Served("", "persistentvolumeclaims"),
		New:                 func() objects.Object { return &v1.PersistentVolumeClaim{} },
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Fields: map[string]func(objects.Object) string{
			"name": func(o objects.Object) string { return o.GetName() }, // an old name that Kubernetes keeps
		},
		Remains: typedResult(func(c *v1.PersistentVolumeClaim) bool { return inUse(store, c) }),
		Default: typed(func(c *v1.PersistentVolumeClaim) {
			setDefaultPointer(&c.Spec.VolumeMode, v1.PersistentVolumeFilesystem)
			setDefault(&c.Status.Phase, v1.ClaimPending)
		}),
		PrepareCreate: typed(func(c *v1.PersistentVolumeClaim) {
			c.Status = v1.PersistentVolumeClaimStatus{Phase: v1.ClaimPending}
		}),
		Validate: typedResult(func(c *v1.PersistentVolumeClaim) field.ErrorList {
			at := field.NewPath("spec")
			errs := validateAccessModes(c.Spec.AccessModes, at.Child("accessModes"))
			storage, given := c.Spec.Resources.Requests[v1.ResourceStorage]
			if !given {
				errs = append(errs, field.Required(at.Child("resources").Key("storage"), ""))
			} else if storage.Sign() <= 0 {
				errs = append(errs, field.Invalid(at.Child("resources").Key("storage"), storage.String(), "must be greater than zero"))
			}
			return append(errs, validateVolumeMode(c.Spec.VolumeMode, at.Child("volumeMode"))...)
		}),
		ValidateUpdate: typed2(validateClaimUpdate),
		SetStatus: func(dst, src objects.Object) {
			dst.(*v1.PersistentVolumeClaim).Status = src.(*v1.PersistentVolumeClaim).Status
		},
	}
}

// inUse says whether a pod that has not run to its end names a claim.
// Source: Kubernetes docs, "Persistent Volumes", storage object in use protection.
func inUse(store *objects.Store, c *v1.PersistentVolumeClaim) bool {
	pods, _ := store.List(schema.GroupResource{Resource: "pods"}, c.Namespace)
	return slices.ContainsFunc(pods, func(o objects.Object) bool {
		p, is := o.(*v1.Pod)
		return is && !hasEnded(p) && slices.ContainsFunc(p.Spec.Volumes, func(v v1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == c.Name
		})
	})
}

func hasEnded(o objects.Object) bool {
	p, is := o.(*v1.Pod)
	return is && (p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed)
}

// validateClaimUpdate allows what Kubernetes allows: to name the volume once,
// and to ask for more.
func validateClaimUpdate(c, old *v1.PersistentVolumeClaim) (errs field.ErrorList) {
	compared := c.Spec.DeepCopy()
	if old.Spec.VolumeName == "" {
		compared.VolumeName = ""
	}
	wanted, before := compared.Resources.Requests[v1.ResourceStorage], old.Spec.Resources.Requests[v1.ResourceStorage]
	if old.Spec.Resources.Requests != nil && compared.Resources.Requests != nil {
		compared.Resources.Requests[v1.ResourceStorage] = before
	}
	if !equality.Semantic.DeepEqual(*compared, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"))
	}
	if less(wanted, before) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	return errs
}

func less(a, b resource.Quantity) bool { return a.Cmp(b) < 0 }

func validateAccessModes(modes []v1.PersistentVolumeAccessMode, at *field.Path) (errs field.ErrorList) {
	known := []v1.PersistentVolumeAccessMode{v1.ReadOnlyMany, v1.ReadWriteMany, v1.ReadWriteOnce, v1.ReadWriteOncePod}
	if len(modes) == 0 {
		errs = append(errs, field.Required(at, "at least 1 access mode is required"))
	}
	for _, mode := range modes {
		if !slices.Contains(known, mode) {
			errs = append(errs, field.NotSupported(at, mode, known))
		}
	}
	if len(modes) > 1 && slices.Contains(modes, v1.ReadWriteOncePod) {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func validateVolumeMode(mode *v1.PersistentVolumeMode, at *field.Path) field.ErrorList {
	known := []v1.PersistentVolumeMode{v1.PersistentVolumeBlock, v1.PersistentVolumeFilesystem}
	if mode != nil && !slices.Contains(known, *mode) {
		return field.ErrorList{field.NotSupported(at, *mode, known)}
	}
	return nil
}
