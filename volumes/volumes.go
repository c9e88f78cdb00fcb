package volumes

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Pod is what its volumes need to know about a pod.
type Pod struct {
	UID string

	// Dir is the pod's directory, <root dir>/pods/<uid>. Only root can write to
	// it. Below it, volumes/ and shm/ belong to this package.
	Dir string

	// FSGroup becomes the group of volumes that support ownership; nil: none.
	// FSGroupPolicy says how for volumes that hold something already.
	FSGroup       *int64
	FSGroupPolicy v1.PodFSGroupChangePolicy

	// Images finds the image that a name means now, by its id (<algorithm>:<hex>),
	// and how to mount it: read-only, detached, the caller closes it. nil where no
	// volume is an image.
	Images func(reference string) (id string, mount func() (*os.File, error), err error)

	// Files tells what a volume of files holds now. Its errors are given as they
	// are to whoever sets the volume up. nil where there are no such volumes.
	Files func(v1.Volume) (Files, error)

	// Claims tells what a claim's volume is. Its errors are given as they are to
	// whoever sets the volume up. nil where no volume is a claim.
	Claims func(*v1.PersistentVolumeClaimVolumeSource) (Claimed, error)

	// NodeMemoryBytes and PodMemoryLimit bound each memory-backed volume; 0 is
	// unknown and none.
	NodeMemoryBytes, PodMemoryLimit int64
}

// UnsupportedError says that a volume is of a kind, or asks for a variant of one,
// that is not served here. [Ensure] and [Tree] return it.
type UnsupportedError struct {
	Volume string // its name
	Found  string // such as `nfs`, or `emptyDir.medium "HugePages"`
	Served []string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("volume %q: %s not supported here; supported: %s", e.Volume, e.Found, strings.Join(e.Served, ", "))
}

// Usage is what a volume holds and may hold, as the kubelet_volume_stats_*
// metrics want it.
type Usage struct {
	UsedBytes, CapacityBytes, AvailableBytes uint64
	InodesUsed, Inodes, InodesFree           uint64
}

// Kinds lists the field names of the volume kinds that are served, sorted.
func Kinds() []string {
	return []string{"configMap", "downwardAPI", "emptyDir", "ephemeral", "hostPath", "image", "nfs", "persistentVolumeClaim", "projected", "secret"}
}

// kindOf returns the field name of the source that v has, "" without one.
func kindOf(v v1.Volume) string {
	source := reflect.ValueOf(v.VolumeSource)
	for i := range source.NumField() {
		if !source.Field(i).IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return ""
}

// plain returns the volume with a generic ephemeral source as the emptyDir on
// disk that it is here: a directory that comes and goes with the pod.
func plain(v v1.Volume) v1.Volume {
	if v.Ephemeral != nil {
		v.VolumeSource = v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}
	}
	return v
}

// check refuses what never may become a path or reach a kind.
func check(p Pod, v v1.Volume) error {
	if p.Dir == "" || p.Dir[0] != '/' {
		return fmt.Errorf("volume %q: pod directory %q is not an absolute path", v.Name, p.Dir)
	}
	if v.Name == "" || v.Name[0] == '.' || len(v.Name) > 63 || strings.ContainsAny(v.Name, "/\x00") {
		return fmt.Errorf("volume %q: not a name a volume can have", v.Name)
	}
	kind := kindOf(v)
	if !slices.Contains(Kinds(), kind) {
		found := "volume kind " + kind
		if kind == "" {
			found = "a volume without a kind is"
		}
		return &UnsupportedError{Volume: v.Name, Found: found, Served: Kinds()}
	}
	if v.EmptyDir != nil {
		switch v.EmptyDir.Medium {
		case v1.StorageMediumDefault, v1.StorageMediumMemory:
		default:
			return &UnsupportedError{Volume: v.Name, Found: fmt.Sprintf("emptyDir.medium %q", v.EmptyDir.Medium), Served: []string{`""`, `"Memory"`}}
		}
	}
	return nil
}
