package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// emptyDirPlugin is the kubelet's directory for emptyDir volumes.
const emptyDirPlugin = "kubernetes.io~empty-dir"

func inMemory(v v1.Volume) bool { return v.EmptyDir.Medium == v1.StorageMediumMemory }

// ensureEmptyDir makes the directory, and mounts a tmpfs on it if the medium is
// memory. A directory gets its name only when its mode and group are right, so
// one that has its name is never touched again.
func ensureEmptyDir(ctx context.Context, p Pod, v v1.Volume) error {
	if !inMemory(v) {
		return ensureDir(ctx, p, emptyDirPlugin, v.Name, nil)
	}
	return ensureDir(ctx, p, emptyDirPlugin, v.Name, &tmpfs{sizeBytes: tmpfsSize(p, v.EmptyDir), mode: 0o1777})
}

// ensureDir makes a volume's directory, and mounts memory on it unless that is
// nil.
func ensureDir(ctx context.Context, p Pod, plugin, name string, memory *tmpfs) error {
	parent := filepath.Join(p.Dir, "volumes", plugin)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return err
	}
	target := filepath.Join(parent, name)
	if _, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) {
		if err := newEmptyDir(ctx, p, target, filepath.Join(parent, "."+name+".new")); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	dir, err := openDir(p, plugin, name, false)
	if err != nil {
		return err
	}
	defer dir.Close()
	if memory == nil {
		return nil
	}
	if mounted, err := mountRoot(dir); mounted || err != nil {
		return err
	}
	if p.FSGroup != nil {
		memory.mode, memory.gid = memory.mode|0o2000, *p.FSGroup
	}
	return memory.attach(dir)
}

func newEmptyDir(ctx context.Context, p Pod, target, unfinished string) error {
	if err := os.Mkdir(unfinished, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	// Not through Mkdir: the agent's umask would have its say.
	if err := os.Chmod(unfinished, 0o777); err != nil {
		return err
	}
	if p.FSGroup != nil {
		if err := SetGroup(ctx, unfinished, *p.FSGroup, false, v1.FSGroupChangeAlways); err != nil {
			return err
		}
	}
	return os.Rename(unfinished, target)
}

// tmpfsSize returns the size limit of a memory-backed volume in bytes: the
// smallest of those that exist, 0 if none does.
func tmpfsSize(p Pod, source *v1.EmptyDirVolumeSource) int64 {
	size := int64(0)
	bound := func(n int64) {
		if n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	bound(p.NodeMemoryBytes)
	bound(p.PodMemoryLimit)
	if source.SizeLimit != nil {
		bound(source.SizeLimit.Value())
	}
	return size
}

// openEmptyDir opens the volume's root if it is set up.
func openEmptyDir(p Pod, v v1.Volume) (*os.File, error) {
	return openDir(p, emptyDirPlugin, v.Name, inMemory(v))
}

// openDir opens a volume's directory, on which something must be mounted if it
// is a volume in memory.
func openDir(p Pod, plugin, name string, memory bool) (*os.File, error) {
	dir, err := openIn(p.Dir, filepath.Join("volumes", plugin, name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	if memory {
		mounted, err := mountRoot(dir)
		if err == nil && !mounted {
			err = fmt.Errorf("nothing is mounted at %s", dir.Name())
		}
		if err != nil {
			dir.Close()
			return nil, err
		}
	}
	return dir, nil
}
