package claims

import (
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// ReclaimDelay is how long a claim must have been gone before its data is: files
// are moved, written anew and checked out again.
const ReclaimDelay = time.Minute

// Reclaimable splits bindings: due are those whose volume was made here and is to
// be deleted, because its claim was removed some time ago and no pod uses it. next
// is when to look again, zero for no such time. Volumes with a document are never
// among them.
func Reclaimable(bindings []Binding, used func(Key) bool, now time.Time) (rest, due []Binding, next time.Time) {
	for _, b := range bindings {
		if b.Made == nil || b.Made.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete || b.Released == nil {
			rest = append(rest, b)
			continue
		}
		at := b.Released.Add(ReclaimDelay)
		switch {
		case used(b.Claim):
			at = now.Add(ReclaimDelay)
		case !now.Before(at):
			due = append(due, b)
			continue
		}
		rest = append(rest, b)
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return rest, due, next
}

// With returns the outcome with other bindings, those of some volumes that were made
// left out: these are gone.
func (b Bound) With(rest []Binding) Bound {
	slices.SortFunc(rest, func(x, y Binding) int { return compareKeys(x.Claim, y.Claim) })
	stays := map[string]bool{}
	for _, k := range rest {
		stays[k.Volume] = true
	}
	volumes := maps.Clone(b.volumes)
	for _, k := range b.Bindings {
		if !stays[k.Volume] {
			delete(volumes, k.Volume)
		}
	}
	return Bound{Bindings: rest, claims: b.claims, volumes: volumes}
}
