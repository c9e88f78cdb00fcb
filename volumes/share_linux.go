package volumes

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Share makes mounts below dir able to travel to containers and back, as volumes
// with mount propagation need it: where dir lies on a mount that is not shared,
// it is mounted on itself, shared. That mount stays when the agent ends; a second
// call finds it. dir is the agent's root directory, which kubelets treat the same
// way; machines run by systemd need nothing.
func Share(dir string) error {
	base, err := openPath(dir, unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("cannot share mounts: %w", err)
	}
	defer base.Close()
	if canPropagate(base, unix.MS_SHARED) == nil {
		return nil
	}
	fd, err := unix.OpenTree(int(base.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("cannot share mounts: %w", &os.PathError{Op: "open_tree", Path: dir, Err: err})
	}
	copied := os.NewFile(uintptr(fd), dir)
	defer copied.Close()
	if err := setattr(copied, unix.AT_RECURSIVE, unix.MountAttr{Propagation: unix.MS_SHARED}); err != nil {
		return fmt.Errorf("cannot share mounts: %w", err)
	}
	err = unix.MoveMount(fd, "", int(base.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("cannot share mounts: %w", &os.PathError{Op: "move_mount", Path: dir, Err: err})
	}
	return nil
}
