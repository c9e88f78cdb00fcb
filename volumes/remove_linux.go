package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Remove unmounts and deletes what [Ensure] and [Shm] made for a pod, with
// everything workloads mounted and wrote in there. What hostPath volumes name is
// not touched, not even where a container mounted it into another volume. It
// tolerates anything missing and goes on where a crash interrupted it.
//
// The pod's containers are gone when it is called.
func Remove(ctx context.Context, p Pod) error {
	if p.Dir == "" || p.Dir[0] != '/' {
		return fmt.Errorf("cannot remove the volumes of pod %s: pod directory %q is not an absolute path", p.UID, p.Dir)
	}
	err := detachNFS(p.Dir)
	if err == nil {
		err = detachBelow(ctx, p.Dir, "volumes", "shm")
	}
	if err == nil {
		err = errors.Join(deleteTree(ctx, p.Dir, "volumes"), deleteTree(ctx, p.Dir, "shm"))
	}
	if err != nil {
		return fmt.Errorf("cannot remove the volumes of pod %s: %w", p.UID, err)
	}
	return nil
}

// RemoveDir deletes name in dir with everything in it, but nothing that is mounted
// there. It is for a directory that was a volume by itself.
func RemoveDir(ctx context.Context, dir, name string) error {
	if err := deleteTree(ctx, dir, name); err != nil {
		return fmt.Errorf("cannot remove %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// detachBelow unmounts whatever is mounted at dir's named children and below
// them, until nothing is.
func detachBelow(ctx context.Context, dir string, names ...string) error {
	// The mount table has no symbolic links in its paths.
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// Several mounts on one spot take a round each; the bound is for a mount that
	// comes back faster than it is taken away.
	const rounds = 1000
	for range rounds {
		mounts, err := mountTable(func(m *mountinfo.Info) (skip, stop bool) {
			for _, name := range names {
				if at := filepath.Join(real, name); m.Mountpoint == at || strings.HasPrefix(m.Mountpoint, at+"/") {
					return false, false
				}
			}
			return true, false
		})
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			return nil
		}
		detached := map[string]bool{}
		for _, m := range mounts {
			if err := ctx.Err(); err != nil {
				return err
			}
			// With a mount goes what is mounted inside it.
			if below(m.Mountpoint, detached) {
				continue
			}
			if err := detach(real, m.Mountpoint); err != nil {
				return err
			}
			detached[m.Mountpoint] = true
		}
	}
	return fmt.Errorf("something keeps mounting below %s", dir)
}

func below(path string, tops map[string]bool) bool {
	for ; len(path) > 1; path = filepath.Dir(path) {
		if tops[path] {
			return true
		}
	}
	return false
}

// detach unmounts the mount at path, with the mounts inside it. A workload may
// have chosen names on the way, so the way is walked without following links.
func detach(dir, path string) error {
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	mount, err := openIn(dir, rel, unix.O_PATH)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer mount.Close()
	if is, err := mountRoot(mount); err != nil || !is {
		return err
	}
	// A container with Bidirectional propagation can have mounted a tree of the
	// host's here. Unmounting a member of it would unmount the original too, by
	// propagation, unless the copies are private first.
	if err := setattr(mount, unix.AT_RECURSIVE, unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return err
	}
	if err := unix.Unmount("/proc/self/fd/"+strconv.Itoa(int(mount.Fd())), unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	return nil
}

// deleteTree deletes name in dir with everything in it, but nothing that is
// mounted there, and nothing that links point to.
func deleteTree(ctx context.Context, dir, name string) error {
	parent, err := openIn(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	d := deletion{ctx: ctx}
	return d.entry(parent, name, 0)
}

// deletion is one descent.
type deletion struct {
	ctx   context.Context
	top   *os.File // the directory it began with; what lies too deep is moved here
	moved int
}

// deepest is how many directories deep a descent goes: each takes a descriptor,
// and workloads can nest them without limit.
const deepest = 100

// entry deletes one name in dir.
func (d *deletion) entry(dir *os.File, name string, depth int) error {
	where := filepath.Join(dir.Name(), name)
	if err := d.ctx.Err(); err != nil {
		return err
	}
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return &os.PathError{Op: "remove", Path: where, Err: err}
	}
	rmdirErr := unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	switch rmdirErr {
	case nil, unix.ENOENT:
		return nil
	case unix.ENOTDIR:
		// It is no directory and could not be removed: immutable, perhaps.
		return &os.PathError{Op: "remove", Path: where, Err: err}
	case unix.ENOTEMPTY, unix.EEXIST:
	default:
		return &os.PathError{Op: "remove", Path: where, Err: rmdirErr}
	}
	if depth >= deepest {
		return d.moveUp(dir, name)
	}
	sub, err := openat2(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("%s is still mounted", where)
	}
	if err != nil {
		return err
	}
	defer sub.Close()
	if depth == 0 {
		d.top = sub
	}
	// Removing while reading may skip entries, and others are moved here,
	// therefore until there are none.
	for {
		names, err := sub.Readdirnames(1024)
		for _, name := range names {
			if err := d.entry(sub, name, depth+1); err != nil {
				return err
			}
		}
		if err != nil && err != io.EOF {
			return err
		}
		if len(names) > 0 {
			continue
		}
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.ENOTEMPTY && err != unix.EEXIST {
			return &os.PathError{Op: "remove", Path: where, Err: err}
		}
		if _, err := sub.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// moveUp moves a directory to the top, where its turn comes again.
func (d *deletion) moveUp(dir *os.File, name string) error {
	for {
		d.moved++
		to := ".deep-" + strconv.Itoa(d.moved)
		err := unix.Renameat2(int(dir.Fd()), name, int(d.top.Fd()), to, unix.RENAME_NOREPLACE)
		if err == unix.EEXIST {
			continue // from an earlier attempt
		}
		if err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "move", Path: filepath.Join(dir.Name(), name), Err: err}
		}
		return nil
	}
}
