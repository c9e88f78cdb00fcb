package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// Tree returns a fresh, detached copy of a volume's mounts for one container
// mount: mounts below the volume included, subPath resolved, read-only and
// propagation set as m says. The caller attaches it and closes it. Take it just
// before it is needed: what is mounted below the volume later arrives only by
// propagation.
//
// subPath is m.SubPath or m.SubPathExpr with its variables expanded. It is
// resolved once, here, and never leaves the volume; a path that is missing
// becomes a directory with the permissions of the volume's root.
func Tree(ctx context.Context, p Pod, v v1.Volume, m v1.VolumeMount, subPath string) (*os.File, error) {
	if err := check(p, v); err != nil {
		return nil, err
	}
	v = plain(v)
	tree, err := tree(p, v, m, subPath)
	if err != nil {
		return nil, fmt.Errorf("cannot mount volume %q at %s: %w", v.Name, m.MountPath, err)
	}
	if ctx.Err() != nil {
		tree.Close()
		return nil, ctx.Err()
	}
	return tree, nil
}

func tree(p Pod, v v1.Volume, m v1.VolumeMount, subPath string) (*os.File, error) {
	source, err := openVolume(p, v)
	if errors.Is(err, os.ErrNotExist) && v.HostPath != nil {
		// Container runtimes make a missing source at every start.
		if err = ensureHostPath(v.HostPath); err == nil {
			source, err = openVolume(p, v)
		}
	}
	if err != nil {
		return nil, err
	}
	defer source.Close()
	if subPath != "" {
		sub, err := resolveSubPath(source, subPath, v.Image == nil)
		if err != nil {
			return nil, err
		}
		defer sub.Close()
		source = sub
	}

	propagation := uint64(unix.MS_PRIVATE)
	if m.MountPropagation != nil {
		switch *m.MountPropagation {
		case v1.MountPropagationNone:
		case v1.MountPropagationHostToContainer:
			propagation = unix.MS_SLAVE
		case v1.MountPropagationBidirectional:
			propagation = unix.MS_SHARED
		default:
			return nil, fmt.Errorf("mount propagation %q is not one of None, HostToContainer, Bidirectional", *m.MountPropagation)
		}
	}
	if propagation != unix.MS_PRIVATE {
		if err := canPropagate(source, propagation); err != nil {
			return nil, err
		}
	}
	// A file system that is dead is met here, where the volume is known: the stage asks
	// whether the tree is a directory.
	if _, err := source.Stat(); err != nil {
		return nil, err
	}
	fd, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: source.Name(), Err: err}
	}
	copied := os.NewFile(uintptr(fd), source.Name())
	// Nobody can see the copy yet, so between the two calls nothing leaks.
	err = setattr(copied, unix.AT_RECURSIVE, unix.MountAttr{Propagation: propagation})
	if err == nil && (m.ReadOnly || v.Image != nil || HoldsFiles(v) || readOnly(v)) {
		flags := uint(0)
		if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
			flags = unix.AT_RECURSIVE
		}
		err = setattr(copied, flags, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		copied.Close()
		return nil, err
	}
	return copied, nil
}

// readOnly says that the pod asks for a volume to be read-only in all containers.
func readOnly(v v1.Volume) bool {
	return v.NFS != nil && v.NFS.ReadOnly || v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
}

// FileTree returns a detached copy of a single file that the agent made, such as
// a pod's /etc/hosts or a termination log, for mounting it into a container. Its
// name is not followed if it is a symbolic link.
func FileTree(path string, readOnly bool) (*os.File, error) {
	file, err := openPath(path, unix.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("cannot mount file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot mount file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot mount file: %s is not a regular file", path)
	}
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	return clone(file, attr)
}

// clone copies the one mount that f lies on, from f on.
func clone(f *os.File, attr unix.MountAttr) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: f.Name(), Err: err}
	}
	copied := os.NewFile(uintptr(fd), f.Name())
	if err := setattr(copied, 0, attr); err != nil {
		copied.Close()
		return nil, err
	}
	return copied, nil
}

func setattr(mount *os.File, flags uint, attr unix.MountAttr) error {
	err := unix.MountSetattr(int(mount.Fd()), "", flags|unix.AT_EMPTY_PATH, &attr)
	if err != nil {
		return &os.PathError{Op: "mount_setattr", Path: mount.Name(), Err: err}
	}
	return nil
}

// canPropagate says, in the container runtimes' words, why mounts cannot travel
// between source and a container.
func canPropagate(source *os.File, propagation uint64) error {
	var st unix.Statx_t
	if err := unix.Statx(int(source.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return &os.PathError{Op: "statx", Path: source.Name(), Err: err}
	}
	mounts, err := mountTable(func(m *mountinfo.Info) (skip, stop bool) {
		same := uint64(m.ID) == st.Mnt_id
		return !same, same
	})
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return fmt.Errorf("the mount of %s is gone", source.Name())
	}
	shared, slave := false, false
	for option := range strings.FieldsSeq(mounts[0].Optional) {
		shared = shared || strings.HasPrefix(option, "shared:")
		slave = slave || strings.HasPrefix(option, "master:")
	}
	at := mounts[0].Mountpoint
	if propagation == unix.MS_SHARED && !shared {
		return fmt.Errorf("mount propagation Bidirectional: path %q is mounted on %q but it is not a shared mount", source.Name(), at)
	}
	if !shared && !slave {
		return fmt.Errorf("mount propagation HostToContainer: path %q is mounted on %q but it is not a shared or slave mount", source.Name(), at)
	}
	return nil
}

// mountTable reads the mounts of the caller's namespace: not the process's, for
// threads may have one of their own.
func mountTable(filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(f, filter)
}

// beneath is how anything inside a volume is looked up: links may be followed as
// long as they lead to something below the volume's root, wherever a workload
// moves things meanwhile.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

// resolveSubPath opens subPath below root and makes the directories that are
// missing. Source: openat2(2), RESOLVE_BENEATH.
// Without create nothing is made.
func resolveSubPath(root *os.File, subPath string, create bool) (*os.File, error) {
	if path.IsAbs(subPath) {
		return nil, fmt.Errorf("subPath %q must be a relative path", subPath)
	}
	parts := strings.Split(subPath, "/")
	if slices.Contains(parts, "..") {
		return nil, fmt.Errorf("subPath %q must not contain '..'", subPath)
	}
	parts = slices.DeleteFunc(parts, func(part string) bool { return part == "" || part == "." })
	if len(parts) == 0 {
		parts = []string{"."}
	}
	// Somebody else may make or remove the same directories at the same time.
	const rounds = 100
	var err error
	for range rounds {
		var found *os.File
		found, err = openat2(root, path.Join(parts...), unix.O_PATH, beneath)
		if err == nil {
			return found, nil
		}
		if !errors.Is(err, unix.ENOENT) {
			break
		}
		if !create {
			return nil, fmt.Errorf("subPath %q is not in the volume", subPath)
		}
		if err = makeMissing(root, parts); err != nil && !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EXDEV):
		return nil, fmt.Errorf("subPath %q leads out of the volume", subPath)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("subPath %q: too many symbolic links", subPath)
	case errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("subPath %q: a part of it is not a directory", subPath)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("subPath %q changes while it is looked up: %w", subPath, err)
	}
	return nil, fmt.Errorf("subPath %q: %w", subPath, err)
}

// makeMissing makes the directories of parts that are missing below root, each
// with the root's permissions.
func makeMissing(root *os.File, parts []string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: root.Name(), Err: err}
	}
	mode := st.Mode & 0o7777
	parent, err := openat2(root, ".", unix.O_PATH|unix.O_DIRECTORY, beneath)
	if err != nil {
		return err
	}
	defer func() { parent.Close() }()
	made := false
	for i, part := range parts {
		var next *os.File
		if !made {
			next, err = openat2(root, path.Join(parts[:i+1]...), unix.O_PATH|unix.O_DIRECTORY, beneath)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		if next == nil {
			if next, err = makeDir(parent, part, mode); err != nil {
				return err
			}
			made = true // what is new is followed step by step, not by name
		}
		parent.Close()
		parent = next
	}
	return nil
}

// makeDir makes one directory in parent and opens it.
func makeDir(parent *os.File, name string, mode uint32) (*os.File, error) {
	where := path.Join(parent.Name(), name)
	if err := unix.Mkdirat(int(parent.Fd()), name, mode&0o777); err != nil {
		if err == unix.EEXIST {
			// Either somebody was faster, or it is a link to nowhere, which is
			// not ours to fill.
			var st unix.Stat_t
			if unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
				return nil, fmt.Errorf("%s is a symbolic link to something that is missing", where)
			}
			return nil, &os.PathError{Op: "mkdir", Path: where, Err: unix.ENOENT}
		}
		return nil, &os.PathError{Op: "mkdir", Path: where, Err: err}
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: where, Err: err}
	}
	dir := os.NewFile(uintptr(fd), where)
	// mkdir gave less than asked for where the agent's umask says so.
	if err := unix.Fchmod(fd, mode); err != nil {
		dir.Close()
		return nil, &os.PathError{Op: "chmod", Path: where, Err: err}
	}
	return dir, nil
}
