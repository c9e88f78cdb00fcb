package manifest

import (
	"path"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"podd/pod"
)

// onClaim is the type that a PersistentVolumeClaim is decoded into.
type onClaim struct {
	APIVersion string                         `json:"apiVersion"`
	Kind       string                         `json:"kind"`
	Metadata   metav1.ObjectMeta              `json:"metadata"`
	Spec       v1.PersistentVolumeClaimSpec   `json:"spec"`
	Status     v1.PersistentVolumeClaimStatus `json:"status"`
}

// onVolume is the type that a PersistentVolume is decoded into.
type onVolume struct {
	APIVersion string                    `json:"apiVersion"`
	Kind       string                    `json:"kind"`
	Metadata   metav1.ObjectMeta         `json:"metadata"`
	Spec       v1.PersistentVolumeSpec   `json:"spec"`
	Status     v1.PersistentVolumeStatus `json:"status"`
}

const (
	noCopies     = "a volume begins empty here, or with what its directory holds"
	noAttributes = "there are no classes of attributes here"
)

// claimFields are the fields of claims that are not honoured.
var claimFields = []Field{
	{Path: "status", Support: Ignored, Note: serverWritten},
	{Path: "spec.resources.limits", Support: Warned, Note: "the size of a volume is reported, not enforced"},
	{Path: "spec.dataSource", Support: Refused, Note: noCopies},
	{Path: "spec.dataSourceRef", Support: Refused, Note: noCopies},
	{Path: "spec.volumeAttributesClassName", Support: Refused, Note: noAttributes},
}

// volumeFields are the fields of volumes that are not honoured, beside the kinds of
// volume that are not in volumeSources.
var volumeFields = []Field{
	{Path: "status", Support: Ignored, Note: serverWritten},
	{Path: "spec.local.fsType", Support: Refused, Note: "a local volume is a directory"},
	{Path: "spec.claimRef.uid", Support: Ignored, Note: serverWritten},
	{Path: "spec.claimRef.resourceVersion", Support: Ignored, Note: serverWritten},
	{Path: "spec.claimRef.fieldPath", Support: Ignored, Note: serverWritten},
	{Path: "spec.volumeAttributesClassName", Support: Refused, Note: noAttributes},
}

// volumeSources are the kinds of PersistentVolume that are honoured.
var volumeSources = []string{"hostPath", "local", "nfs"}

func claimFieldAt(path string) *Field { return lineOf(claimFields, path) }

func volumeFieldAt(path string) *Field {
	kind, ok := strings.CutPrefix(path, "spec.")
	if _, isSource := fieldsOf(reflect.TypeFor[v1.PersistentVolumeSource]())[kind]; ok && isSource && !slices.Contains(volumeSources, kind) {
		return &Field{Path: path, Support: Refused, Note: "supported kinds: " + strings.Join(volumeSources, ", ")}
	}
	return lineOf(volumeFields, path)
}

// lineOf finds a path among the fields that are not honoured; all others are.
func lineOf(fields []Field, path string) *Field {
	if i := slices.IndexFunc(fields, func(f Field) bool { return f.Path == path }); i >= 0 {
		return &fields[i]
	}
	return sourceFieldAt(path)
}

// claim decodes and checks a PersistentVolumeClaim.
func (o *object) claim(root *yaml.Node) *v1.PersistentVolumeClaim {
	o.fieldAt = claimFieldAt
	var given onClaim
	o.decodeStruct(root, reflect.ValueOf(&given).Elem(), "", Honoured)
	c := &v1.PersistentVolumeClaim{ObjectMeta: o.sourceMeta(given.Metadata), Spec: given.Spec}
	c.APIVersion, c.Kind = "v1", pod.KindClaim
	o.checkClaimSpec("spec", &c.Spec)
	return c
}

// checkClaimSpec is about a claim, and the template of one.
func (o *object) checkClaimSpec(at string, s *v1.PersistentVolumeClaimSpec) {
	o.accessModes(at+".accessModes", s.AccessModes)
	o.storage(at+".resources.requests", s.Resources.Requests)
	o.filesystem(at+".volumeMode", s.VolumeMode)
	if s.StorageClassName != nil {
		o.storageClass(at+".storageClassName", *s.StorageClassName)
	}
	if s.VolumeName != "" && len(validation.IsDNS1123Subdomain(s.VolumeName)) > 0 {
		o.bad(at+".volumeName", aSubdomain)
	}
	if s.Selector != nil {
		if _, err := metav1.LabelSelectorAsSelector(s.Selector); err != nil && !o.knownUnder(at+".selector") {
			o.say(at+".selector", "not a selector of labels: %v", err)
		}
	}
}

// volume decodes and checks a PersistentVolume.
func (o *object) volume(root *yaml.Node) *v1.PersistentVolume {
	o.fieldAt = volumeFieldAt
	var given onVolume
	o.decodeStruct(root, reflect.ValueOf(&given).Elem(), "", Honoured)
	if given.Metadata.Namespace != "" {
		o.say("metadata.namespace", "a PersistentVolume has no namespace")
	}
	meta := o.sourceMeta(given.Metadata)
	meta.Namespace = ""
	v := &v1.PersistentVolume{ObjectMeta: meta, Spec: given.Spec}
	v.APIVersion, v.Kind = "v1", pod.KindVolume
	s := &v.Spec
	setDefault(&s.PersistentVolumeReclaimPolicy, v1.PersistentVolumeReclaimRetain)
	o.accessModes("spec.accessModes", s.AccessModes)
	o.storage("spec.capacity", s.Capacity)
	o.filesystem("spec.volumeMode", s.VolumeMode)
	o.storageClass("spec.storageClassName", s.StorageClassName)
	switch s.PersistentVolumeReclaimPolicy {
	case v1.PersistentVolumeReclaimDelete:
		o.warnAt("spec.persistentVolumeReclaimPolicy", "accepted without effect: only directories that were made for a claim are deleted with it")
	default:
		o.oneOf("spec.persistentVolumeReclaimPolicy", string(s.PersistentVolumeReclaimPolicy), "Retain", "Delete")
	}
	o.checkVolumeSource(s)
	if r := s.ClaimRef; r != nil {
		setDefault(&r.Namespace, metav1.NamespaceDefault)
		o.sourceName("spec.claimRef.name", r.Name)
		o.label("spec.claimRef.namespace", r.Namespace)
		if r.Kind != "" {
			o.oneOf("spec.claimRef.kind", r.Kind, pod.KindClaim)
		}
	}
	o.checkAffinity("spec.nodeAffinity", s)
	return v
}

func (o *object) checkVolumeSource(s *v1.PersistentVolumeSpec) {
	if kinds := kindsOf(s.PersistentVolumeSource); len(kinds) > 1 {
		o.say("spec", "expected one kind of volume; found %s", strings.Join(kinds, " and "))
	} else if len(kinds) == 0 && !o.knownUnder("spec") {
		o.say("spec", "expected one of %s; found none", strings.Join(volumeSources, ", "))
	}
	directory := func(at, p string) {
		if !path.IsAbs(p) || hasDotDot(p) {
			o.bad(at, "an absolute path without ..")
		}
	}
	if h := s.HostPath; h != nil {
		directory("spec.hostPath.path", h.Path)
		setDefaultPointer(&h.Type, v1.HostPathUnset)
		o.oneOf("spec.hostPath.type", string(*h.Type), "", "DirectoryOrCreate", "Directory")
	}
	if l := s.Local; l != nil {
		directory("spec.local.path", l.Path)
		if s.NodeAffinity == nil && !o.knownUnder("spec.nodeAffinity") {
			o.say("spec.nodeAffinity", "required with local, not given")
		}
	}
	if s.NFS != nil {
		o.checkNFS("spec.nfs", s.NFS)
	}
	for i, option := range s.MountOptions {
		switch at := item("spec.mountOptions", i); {
		case s.Local != nil || s.HostPath != nil:
			o.say("spec.mountOptions", "a directory of this machine is mounted without options; found %s", quoted(option))
		case option == "" || strings.HasPrefix(option, "-") || strings.ContainsAny(option, " \t\n"):
			o.bad(at, "a mount option, such as nfsvers=4.2")
		}
	}
}

func (o *object) checkNFS(at string, n *v1.NFSVolumeSource) {
	if n.Server == "" || strings.ContainsAny(n.Server, " \t\n/") {
		o.bad(at+".server", "a host name or an IP address")
	}
	if !path.IsAbs(n.Path) {
		o.bad(at+".path", "an absolute path")
	}
}

func (o *object) checkAffinity(at string, s *v1.PersistentVolumeSpec) {
	if s.NodeAffinity == nil {
		return
	}
	at += ".required"
	if s.NodeAffinity.Required == nil || len(s.NodeAffinity.Required.NodeSelectorTerms) == 0 {
		o.say(at+".nodeSelectorTerms", "required, not given")
		return
	}
	for i, term := range s.NodeAffinity.Required.NodeSelectorTerms {
		at := item(at+".nodeSelectorTerms", i)
		for j := range term.MatchExpressions {
			o.requirement(item(at+".matchExpressions", j), &term.MatchExpressions[j])
		}
		for j := range term.MatchFields {
			at := item(at+".matchFields", j)
			o.requirement(at, &term.MatchFields[j])
			o.oneOf(at+".key", term.MatchFields[j].Key, "metadata.name")
		}
	}
}

func (o *object) requirement(at string, r *v1.NodeSelectorRequirement) {
	if len(validation.IsQualifiedName(r.Key)) > 0 {
		o.bad(at+".key", aKey)
	}
	o.oneOf(at+".operator", string(r.Operator), "In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
	want, ok := "at least one value", len(r.Values) > 0
	switch r.Operator {
	case v1.NodeSelectorOpExists, v1.NodeSelectorOpDoesNotExist:
		want, ok = "no values", len(r.Values) == 0
	case v1.NodeSelectorOpGt, v1.NodeSelectorOpLt:
		want, ok = "one whole number", len(r.Values) == 1
	}
	if !ok && !o.knownUnder(at) {
		o.say(at+".values", "expected %s with %s; found %d", want, r.Operator, len(r.Values))
	}
}

func (o *object) accessModes(at string, modes []v1.PersistentVolumeAccessMode) {
	if len(modes) == 0 {
		o.bad(at, "a list of access modes")
	}
	for i, mode := range modes {
		o.oneOf(item(at, i), string(mode), "ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
		if mode == v1.ReadWriteOncePod && len(modes) > 1 {
			o.say(at, "ReadWriteOncePod excludes other access modes")
		}
	}
}

// storage checks a size, the only thing that a claim may ask for and a volume have.
func (o *object) storage(at string, list v1.ResourceList) {
	size, given := list[v1.ResourceStorage]
	switch {
	case !given:
		o.say(at, "expected storage: a size; found none")
	case size.Sign() <= 0:
		o.bad(at+".storage", "a size above 0")
	}
	for _, name := range sortedKeys(list) {
		if name != v1.ResourceStorage {
			o.say(keyed(at, string(name)), "expected storage only")
		}
	}
	if given {
		size.RoundUp(resource.Scale(0))
		list[v1.ResourceStorage] = size
	}
}

// filesystem refuses raw block devices.
func (o *object) filesystem(at string, mode *v1.PersistentVolumeMode) {
	if mode != nil && *mode == v1.PersistentVolumeBlock {
		o.say(at, "Block is not supported here: volumes are directories; expected Filesystem")
	} else if mode != nil {
		o.oneOf(at, string(*mode), "Filesystem")
	}
}

func (o *object) storageClass(at, class string) {
	if class != "" && len(validation.IsDNS1123Subdomain(class)) > 0 {
		o.bad(at, aSubdomain)
	}
}
