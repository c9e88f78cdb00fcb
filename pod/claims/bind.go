package claims

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Classes of volumes that are made for claims: a directory each. They differ in
// what becomes of it once the claim is removed.
const (
	ClassRetain = "podd"        // it stays; also for claims that give no class
	ClassDelete = "podd-delete" // it is deleted
)

// Key is a claim's namespace and name.
type Key = types.NamespacedName

// Binding says which volume is a claim's.
type Binding struct {
	Claim Key `json:"claim"`
	// Volume is its name.
	Volume string `json:"volume"`
	// Made is the volume if it was made for the claim; nil: it has a document.
	Made *v1.PersistentVolume `json:"made,omitempty"`
	// Released is since when the claim has been gone; nil: it is there.
	Released *time.Time `json:"released,omitempty"`
}

// Input is what bindings are made of. Its objects are never changed.
type Input struct {
	Claims  []*v1.PersistentVolumeClaim
	Volumes []*v1.PersistentVolume
	// Complete says that objects which are missing were removed. Otherwise they may
	// be out of reach, and nothing is released.
	Complete bool
	// Removed says of a claim that it was removed, whatever may be out of reach. Nil:
	// of none.
	Removed func(Key) bool
	// Kept are the bindings so far.
	Kept []Binding
	// Used says whether a pod names a claim: no directory is made before. Nil:
	// each is used.
	Used func(Key) bool
	Node Node
	// Dir is where the directories of volumes that are made lie, as
	// <Dir>/<namespace>/<claim>.
	Dir string
	Now time.Time
}

// Node is what the affinity of volumes is about.
type Node struct {
	Name   string
	Labels map[string]string
}

// Bound is the outcome. It is immutable.
type Bound struct {
	// Bindings are what is to be kept, sorted by claim.
	Bindings []Binding

	claims  map[Key]Claim
	volumes map[string]*v1.PersistentVolume // documents and made ones
}

// Claim is what became of one claim.
type Claim struct {
	Claim *v1.PersistentVolumeClaim
	Phase v1.PersistentVolumeClaimPhase
	// Volume is set when Phase is Bound.
	Volume *v1.PersistentVolume
	// Message says why the claim is not bound, or in what its volume differs from
	// what the claim asks for by now.
	Message string
}

// Bind binds claims to volumes as Kubernetes does: to the volume that a claim or a
// volume names, else to the smallest one that is free and fits. A claim that gives
// no class, or one of ours, gets a directory once a pod uses it and no volume fits.
// Claims come in the order of their names, but those that name a volume, or are
// named by one, come first.
// Source: Kubernetes, pkg/controller/volume/persistentvolume and
// k8s.io/component-helpers/storage/volume.
func Bind(in Input) Bound {
	b := binder{Input: in, volumes: map[string]*v1.PersistentVolume{}, holder: map[string]Key{}, volumeOf: map[Key]string{}}
	for _, v := range in.Volumes {
		b.volumes[v.Name] = v
	}
	present := map[Key]*v1.PersistentVolumeClaim{}
	for _, c := range in.Claims {
		present[keyOf(c)] = c
	}
	var bindings []Binding
	for _, k := range in.Kept {
		c := present[k.Claim]
		if k, still := b.keep(k, c); still {
			bindings = append(bindings, k)
		}
	}
	order := slices.Clone(in.Claims)
	named := func(c *v1.PersistentVolumeClaim) int {
		if c.Spec.VolumeName != "" || slices.ContainsFunc(in.Volumes, func(v *v1.PersistentVolume) bool { return isFor(v, c) }) {
			return 0
		}
		return 1
	}
	slices.SortFunc(order, func(x, y *v1.PersistentVolumeClaim) int {
		return cmp.Or(cmp.Compare(named(x), named(y)), compareKeys(keyOf(x), keyOf(y)))
	})
	claims := map[Key]Claim{}
	for _, c := range order {
		key := keyOf(c)
		name, bound := b.volumeOf[key]
		why := ""
		if !bound {
			var made *v1.PersistentVolume
			if name, made, why = b.find(c); name != "" {
				b.bind(key, name, made)
				bindings = append(bindings, Binding{Claim: key, Volume: name, Made: made})
			}
		}
		claims[key] = b.claim(c, name, why)
	}
	slices.SortFunc(bindings, func(x, y Binding) int { return compareKeys(x.Claim, y.Claim) })
	return Bound{Bindings: bindings, claims: claims, volumes: b.volumes}
}

func keyOf(c *v1.PersistentVolumeClaim) Key { return Key{Namespace: c.Namespace, Name: c.Name} }

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// binder is one call of [Bind].
type binder struct {
	Input
	volumes  map[string]*v1.PersistentVolume
	holder   map[string]Key // by volume
	volumeOf map[Key]string
}

func (b *binder) bind(claim Key, volume string, made *v1.PersistentVolume) {
	b.holder[volume], b.volumeOf[claim] = claim, volume
	if made != nil {
		b.volumes[volume] = made
	}
}

// keep brings a kept binding up to date. c is its claim, nil when that is gone.
func (b *binder) keep(k Binding, c *v1.PersistentVolumeClaim) (Binding, bool) {
	_, taken := b.holder[k.Volume]
	document := b.volumes[k.Volume]
	gone := c == nil && (b.Complete || b.Removed != nil && b.Removed(k.Claim))
	switch {
	case taken || b.volumeOf[k.Claim] != "":
		return k, false
	case k.Made != nil && document != nil:
		return k, false // a document of that name came
	case gone && k.Made == nil && (document == nil || isForAnother(document, k.Claim)):
		return k, false // both are gone, or the volume is given to another claim
	case gone && k.Released == nil:
		now := b.Now
		k.Released = &now
	case c != nil:
		k.Released = nil
		if k.Made != nil {
			k.Made = grown(k.Made, c)
		}
	}
	b.bind(k.Claim, k.Volume, k.Made)
	return k, true
}

// grown is a made volume with what its claim asks for by now. Directories have no
// size of their own.
func grown(v *v1.PersistentVolume, c *v1.PersistentVolumeClaim) *v1.PersistentVolume {
	size := requested(c)
	if had := v.Spec.Capacity[v1.ResourceStorage]; had.Cmp(size) == 0 && slices.Equal(v.Spec.AccessModes, c.Spec.AccessModes) {
		return v
	}
	v = v.DeepCopy()
	v.Spec.Capacity = v1.ResourceList{v1.ResourceStorage: size}
	v.Spec.AccessModes = slices.Clone(c.Spec.AccessModes)
	return v
}

// find looks for a volume for a claim that has none. It returns its name, or why
// there is none; made is set if it is a new one.
func (b *binder) find(c *v1.PersistentVolumeClaim) (name string, made *v1.PersistentVolume, why string) {
	if c.Spec.VolumeName != "" {
		why := b.cannotTake(c, c.Spec.VolumeName)
		if why == "" {
			name = c.Spec.VolumeName
		}
		return name, nil, why
	}
	var best *v1.PersistentVolume
	var misfits []string
	for _, v := range b.Volumes {
		switch why := b.misfit(c, v); {
		case why == "" && isFor(v, c):
			return v.Name, nil, "" // kept for it
		case why == "" && (best == nil || compareVolumes(v, best) < 0):
			best = v
		case why != "" && (isFor(v, c) || hasClassOf(v, c)):
			misfits = append(misfits, fmt.Sprintf("volume %q: %s", v.Name, why))
		}
	}
	if best != nil {
		return best.Name, nil, ""
	}
	slices.Sort(misfits)
	if class, ours := madeClass(c); ours && c.Spec.Selector == nil {
		if b.Used != nil && !b.Used(keyOf(c)) {
			return "", nil, "waiting for first consumer to be created before binding"
		}
		made := b.made(c, class)
		if held, taken := b.holder[made.Name]; taken || b.volumes[made.Name] != nil {
			return "", nil, fmt.Sprintf("volume %q is there already, for claim %s", made.Name, held)
		}
		return made.Name, made, ""
	}
	return "", nil, noVolume(c, misfits)
}

// compareVolumes orders volumes that fit: those with the fewest access modes
// first, then the smallest.
func compareVolumes(a, b *v1.PersistentVolume) int {
	x, y := a.Spec.Capacity[v1.ResourceStorage], b.Spec.Capacity[v1.ResourceStorage]
	return cmp.Or(cmp.Compare(len(a.Spec.AccessModes), len(b.Spec.AccessModes)), x.Cmp(y), cmp.Compare(a.Name, b.Name))
}

// maxMisfits is how many volumes a message names.
const maxMisfits = 3

// noVolume says why a claim has no volume.
func noVolume(c *v1.PersistentVolumeClaim, misfits []string) string {
	if len(misfits) > 0 {
		more := ""
		if n := len(misfits) - maxMisfits; n > 0 {
			misfits, more = misfits[:maxMisfits], fmt.Sprintf("; and %d more", n)
		}
		return "no persistent volume fits this claim: " + strings.Join(misfits, "; ") + more
	}
	class, given := Class(c)
	switch {
	case c.Spec.Selector != nil:
		return "no persistent volume fits this claim, and no directory is made for a claim with a selector"
	case given && class != "":
		return fmt.Sprintf("there is no persistent volume of class %q; directories are made for claims without a class and of class %s or %s",
			class, ClassRetain, ClassDelete)
	}
	return `no persistent volumes available for this claim and no storage class is set: with storageClassName "" no directory is made`
}

// cannotTake says why a claim does not get the volume that it names; "": it does.
func (b *binder) cannotTake(c *v1.PersistentVolumeClaim, name string) string {
	v := b.volumes[name]
	if v == nil {
		return fmt.Sprintf("volume %q not found", name)
	}
	why := b.misfit(c, v)
	if why != "" {
		why = fmt.Sprintf("cannot bind to requested volume %q: %s", name, why)
	}
	return why
}

// misfit says in what a volume does not fit a claim, "" if it does. A volume that
// names the claim needs neither its class nor its labels.
func (b *binder) misfit(c *v1.PersistentVolumeClaim, v *v1.PersistentVolume) string {
	size, want := v.Spec.Capacity[v1.ResourceStorage], requested(c)
	if by, taken := b.holder[v.Name]; taken {
		return fmt.Sprintf("already bound to claim %s", by)
	}
	if isForAnother(v, keyOf(c)) {
		return fmt.Sprintf("kept for claim %s/%s by its claimRef", v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
	}
	if size.Cmp(want) < 0 {
		return fmt.Sprintf("too small, %s of %s", size.String(), want.String())
	}
	for _, mode := range c.Spec.AccessModes {
		if !slices.Contains(v.Spec.AccessModes, mode) {
			return fmt.Sprintf("incompatible accessMode, it has no %s", mode)
		}
	}
	if why := misplaced(v, b.Node); why != "" {
		return why
	}
	if isFor(v, c) {
		return ""
	}
	if c.Spec.VolumeName == "" && !selects(c, v) {
		return "not selected by its labels"
	}
	if !hasClassOf(v, c) {
		return "storageClassName does not match"
	}
	return ""
}

func selects(c *v1.PersistentVolumeClaim, v *v1.PersistentVolume) bool {
	if c.Spec.Selector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(c.Spec.Selector)
	return err == nil && s.Matches(labels.Set(v.Labels)) // checked before
}

// isFor says that a volume's claimRef names the claim, isForAnother that it names
// another one.
func isFor(v *v1.PersistentVolume, c *v1.PersistentVolumeClaim) bool {
	return v.Spec.ClaimRef != nil && !isForAnother(v, keyOf(c))
}

func isForAnother(v *v1.PersistentVolume, claim Key) bool {
	r := v.Spec.ClaimRef
	return r != nil && (r.Namespace != claim.Namespace || r.Name != claim.Name)
}

// Class is the storage class that a claim asks for. given tells "" from none.
func Class(c *v1.PersistentVolumeClaim) (class string, given bool) {
	if class, given = c.Annotations[v1.BetaStorageClassAnnotation]; given {
		return class, true
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName, true
	}
	return "", false
}

// hasClassOf compares classes. A claim that gives none takes volumes of none and
// of the class that it gets a directory of.
func hasClassOf(v *v1.PersistentVolume, c *v1.PersistentVolumeClaim) bool {
	has, old := v.Annotations[v1.BetaStorageClassAnnotation]
	if !old {
		has = v.Spec.StorageClassName
	}
	class, given := Class(c)
	return has == class || !given && has == ClassRetain
}

// madeClass is the class of the directory that a claim gets.
func madeClass(c *v1.PersistentVolumeClaim) (class string, ours bool) {
	class, given := Class(c)
	if !given {
		class = ClassRetain
	}
	return class, class == ClassRetain || class == ClassDelete
}

// made is the volume of a directory for a claim.
func (b *binder) made(c *v1.PersistentVolumeClaim, class string) *v1.PersistentVolume {
	policy := v1.PersistentVolumeReclaimRetain
	if class == ClassDelete {
		policy = v1.PersistentVolumeReclaimDelete
	}
	mode := v1.PersistentVolumeFilesystem
	v := &v1.PersistentVolume{}
	v.APIVersion, v.Kind = "v1", "PersistentVolume"
	v.Name = madeName(keyOf(c))
	v.CreationTimestamp = metav1.NewTime(b.Now.UTC().Truncate(time.Second))
	v.Annotations = map[string]string{ProvisionedBy: Provisioner}
	v.Spec = v1.PersistentVolumeSpec{
		Capacity:                      v1.ResourceList{v1.ResourceStorage: requested(c)},
		PersistentVolumeSource:        v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: filepath.Join(b.Dir, c.Namespace, c.Name)}},
		AccessModes:                   slices.Clone(c.Spec.AccessModes),
		ClaimRef:                      claimRef(keyOf(c)),
		PersistentVolumeReclaimPolicy: policy,
		StorageClassName:              class,
		VolumeMode:                    &mode,
		NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{b.Node.Name}}},
		}}}},
	}
	return v
}

// Provisioner is who makes the directories, and ProvisionedBy the annotation that
// says so of a volume.
const (
	Provisioner   = "podd"
	ProvisionedBy = "pv.kubernetes.io/provisioned-by"
)

func claimRef(claim Key) *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name}
}

func requested(c *v1.PersistentVolumeClaim) resource.Quantity {
	return c.Spec.Resources.Requests[v1.ResourceStorage]
}
