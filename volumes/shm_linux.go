package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	shmBytes = 64 << 20 // as container runtimes have it
	shmAttrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
)

// Shm makes the memory that all containers of a pod see at /dev/shm: a tmpfs of
// 64 MiB at <pod directory>/shm. It is repeatable and keeps the content.
// [Remove] takes it away.
func Shm(ctx context.Context, p Pod) error {
	if err := os.MkdirAll(filepath.Join(p.Dir, "shm"), 0o700); err != nil {
		return fmt.Errorf("cannot make the pod's shared memory: %w", err)
	}
	dir, err := openIn(p.Dir, "shm", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("cannot make the pod's shared memory: %w", err)
	}
	defer dir.Close()
	mounted, err := mountRoot(dir)
	if err == nil && !mounted {
		err = tmpfs{sizeBytes: shmBytes, mode: 0o1777, attrs: shmAttrs}.attach(dir)
	}
	if err != nil {
		return fmt.Errorf("cannot make the pod's shared memory: %w", err)
	}
	return nil
}

// ShmTree returns a detached copy of the pod's shared memory for a container's
// /dev/shm, writable and without the restrictions it has on the host. [Shm]
// comes first.
func ShmTree(p Pod) (*os.File, error) {
	dir, err := openIn(p.Dir, "shm", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("cannot mount the pod's shared memory: %w", err)
	}
	defer dir.Close()
	mounted, err := mountRoot(dir)
	if err == nil && !mounted {
		err = fmt.Errorf("nothing is mounted at %s", dir.Name())
	}
	var tree *os.File
	if err == nil {
		tree, err = clone(dir, unix.MountAttr{Attr_clr: shmAttrs, Propagation: unix.MS_PRIVATE})
	}
	if err != nil {
		return nil, fmt.Errorf("cannot mount the pod's shared memory: %w", err)
	}
	return tree, nil
}
