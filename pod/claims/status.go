package claims

import (
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// claim is what became of a claim. volume is the name of the one that it is bound
// to, "" for none; why says why there is none.
func (b *binder) claim(c *v1.PersistentVolumeClaim, volume, why string) Claim {
	found := b.volumes[volume]
	switch {
	case volume == "":
		return Claim{Claim: c, Phase: v1.ClaimPending, Message: why}
	case found == nil:
		return Claim{Claim: c, Phase: v1.ClaimLost, Message: fmt.Sprintf("bound to volume %q, which is not there any more", volume)}
	}
	if why := misplaced(found, b.Node); why != "" {
		return Claim{Claim: c, Phase: v1.ClaimLost, Message: fmt.Sprintf("volume %q cannot be used here: %s", volume, why)}
	}
	return Claim{Claim: c, Phase: v1.ClaimBound, Volume: found, Message: differs(c, found)}
}

// differs says in what a bound volume differs from what the claim asks for since
// it was edited.
func differs(c *v1.PersistentVolumeClaim, v *v1.PersistentVolume) string {
	size, want := v.Spec.Capacity[v1.ResourceStorage], requested(c)
	switch {
	case c.Spec.VolumeName != "" && c.Spec.VolumeName != v.Name:
		return fmt.Sprintf("bound to volume %q before it named %q", v.Name, c.Spec.VolumeName)
	case size.Cmp(want) < 0:
		return fmt.Sprintf("its volume has %s of the %s that it asks for by now", size.String(), want.String())
	case !hasClassOf(v, c) && !isFor(v, c):
		return "its volume is of another class than it asks for by now"
	}
	return ""
}

// Claim finds what became of a claim.
func (b Bound) Claim(key Key) (Claim, bool) {
	c, found := b.claims[key]
	return c, found
}

// Claims lists the claims with their status, sorted by namespace and name. The
// objects are new; the condition Bound carries the message.
func (b Bound) Claims() []*v1.PersistentVolumeClaim {
	var list []*v1.PersistentVolumeClaim
	for _, key := range slices.SortedFunc(maps.Keys(b.claims), compareKeys) {
		list = append(list, b.claims[key].Object())
	}
	return list
}

// Object is the claim as users see it: with its volume and its status.
func (c Claim) Object() *v1.PersistentVolumeClaim {
	o := c.Claim.DeepCopy()
	o.APIVersion, o.Kind = "v1", "PersistentVolumeClaim"
	o.Status = v1.PersistentVolumeClaimStatus{Phase: c.Phase}
	if o.Spec.VolumeMode == nil {
		mode := v1.PersistentVolumeFilesystem
		o.Spec.VolumeMode = &mode
	}
	if v := c.Volume; v != nil {
		o.Spec.VolumeName = v.Name
		if _, given := Class(o); !given {
			class := v.Spec.StorageClassName
			o.Spec.StorageClassName = &class
		}
		o.Status.AccessModes = slices.Clone(v.Spec.AccessModes)
		o.Status.Capacity = v.Spec.Capacity.DeepCopy()
	}
	if c.Message != "" {
		bound := v1.PersistentVolumeClaimCondition{Type: "Bound", Status: v1.ConditionFalse, Reason: string(c.Phase), Message: c.Message}
		if c.Phase == v1.ClaimBound {
			bound.Status = v1.ConditionTrue
		}
		o.Status.Conditions = []v1.PersistentVolumeClaimCondition{bound}
	}
	return o
}

// Volumes lists the volumes, made ones too, with claimRef and status, sorted by
// name. The objects are new.
func (b Bound) Volumes() []*v1.PersistentVolume {
	by := map[string]Binding{}
	for _, k := range b.Bindings {
		by[k.Volume] = k
	}
	var list []*v1.PersistentVolume
	for _, name := range slices.Sorted(maps.Keys(b.volumes)) {
		o := b.volumes[name].DeepCopy()
		o.APIVersion, o.Kind = "v1", "PersistentVolume"
		o.Status = v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable}
		if k, bound := by[name]; bound {
			o.Spec.ClaimRef = claimRef(k.Claim)
			o.Status.Phase = v1.VolumeBound
			if k.Released != nil {
				o.Status.Phase = v1.VolumeReleased
				at := metav1.NewTime(*k.Released)
				o.Status.LastPhaseTransitionTime = &at
			}
		}
		list = append(list, o)
	}
	return list
}
