package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// imagePlugin is the directory of image volumes. Kubelets have none: there the
// container runtime mounts them.
const imagePlugin = "kubernetes.io~image"

// ensureImageDir makes the directory below which the volume's image is mounted.
// The mount itself comes with the first container that needs it: only then the
// image is there, by the rules of its pull policy.
func ensureImageDir(p Pod, v v1.Volume) error {
	return os.MkdirAll(filepath.Join(p.Dir, "volumes", imagePlugin, v.Name), 0o750)
}

// openImage opens the root of the volume's image, which is mounted read-only at a
// directory named after the image. Where the name has come to mean another
// image, that one is mounted in its own directory and the older one is taken
// away: containers that have it keep their copies of the mount.
func openImage(p Pod, v v1.Volume) (*os.File, error) {
	if p.Images == nil {
		return nil, errors.New("no images can be mounted here")
	}
	id, mount, err := p.Images(v.Image.Reference)
	if err != nil {
		return nil, err
	}
	name := strings.ReplaceAll(id, ":", "-")
	if !filepath.IsLocal(name) || strings.Contains(name, "/") {
		return nil, fmt.Errorf("image id %q: not a name a directory can have", id)
	}
	if err := ensureImageDir(p, v); err != nil {
		return nil, err
	}
	volume := filepath.Join("volumes", imagePlugin, v.Name)
	all, err := openIn(p.Dir, volume, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	if err := unix.Mkdirat(int(all.Fd()), name, 0o755); err != nil && err != unix.EEXIST {
		return nil, &os.PathError{Op: "mkdir", Path: filepath.Join(all.Name(), name), Err: err}
	}
	root, err := openIn(p.Dir, filepath.Join(volume, name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	if mounted, err := mountRoot(root); mounted || err != nil {
		if err != nil {
			root.Close()
			return nil, err
		}
		return root, nil
	}
	err = attachImage(root, mount)
	root.Close()
	if err != nil {
		return nil, err
	}
	if err := detachOthers(p, volume, name); err != nil {
		return nil, err
	}
	return openIn(p.Dir, filepath.Join(volume, name), unix.O_PATH|unix.O_DIRECTORY)
}

// attachImage attaches an image's mount at dir.
func attachImage(dir *os.File, mount func() (*os.File, error)) error {
	tree, err := mount()
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := setattr(tree, 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}); err != nil {
		return err
	}
	err = unix.MoveMount(int(tree.Fd()), "", int(dir.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach image at %s: %w", dir.Name(), os.NewSyscallError("move_mount", err))
	}
	return nil
}

// detachOthers unmounts what else than name is mounted below volume.
func detachOthers(p Pod, volume, name string) error {
	entries, err := os.ReadDir(filepath.Join(p.Dir, volume))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == name {
			continue
		}
		if err := detach(p.Dir, filepath.Join(p.Dir, volume, e.Name())); err != nil {
			return err
		}
		// Not everything below: where unmounting was refused, nothing is deleted.
		if err := os.Remove(filepath.Join(p.Dir, volume, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// MountedImages lists the ids of the images that are mounted as volumes of any
// pod below podsDir, the directory that holds the pods' directories.
func MountedImages(podsDir string) (map[string]bool, error) {
	dirs, err := filepath.Glob(filepath.Join(escaped(podsDir), "*", "volumes", imagePlugin, "*", "*"))
	if err != nil {
		return nil, fmt.Errorf("cannot list mounted images: %w", err)
	}
	ids := map[string]bool{}
	for _, dir := range dirs {
		ids[strings.Replace(filepath.Base(dir), "-", ":", 1)] = true
	}
	return ids, nil
}

// escaped is a path for [filepath.Glob] that means itself.
func escaped(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
