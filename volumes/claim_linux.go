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

// Claimed is the volume that a claim is bound to: a directory of this machine, or
// one of a server.
type Claimed struct {
	// Dir is an absolute path, links followed.
	Dir string
	// Make is what is done about a Dir that is missing.
	Make Making
	// Group says that the pod's fsGroup gets the directory.
	Group bool

	// NFS is set instead of Dir, with the options that it is mounted with.
	NFS     *v1.NFSVolumeSource
	Options []string
}

// Making says who makes a directory that is missing.
type Making int

const (
	MakeNone   Making = iota // nobody: it must be there
	MakeParent               // it is made like any directory of the host
	MakeOwn                  // it is the agent's: everybody may write to it, and nobody reaches it but by a mount
)

// localPlugin is the kubelet's directory for local volumes.
const localPlugin = "kubernetes.io~local-volume"

// ensureClaim mounts what the claim is bound to below the pod's directory. Once it
// is there nobody is asked what the claim means: the pod keeps its volume whatever
// becomes of claim and volume.
func ensureClaim(ctx context.Context, p Pod, v v1.Volume) error {
	if _, present, err := claimPath(p, v.Name); present || err != nil {
		return err
	}
	if p.Claims == nil {
		return fmt.Errorf("cannot set up volume %q: nobody knows its claim", v.Name)
	}
	claimed, err := p.Claims(v.PersistentVolumeClaim)
	if err != nil {
		return err
	}
	if claimed.NFS != nil {
		err = ensureNFS(ctx, p, v.Name, claimed.NFS, claimed.Options)
	} else {
		err = attachDir(ctx, p, v, claimed)
	}
	if err != nil {
		return fmt.Errorf("cannot set up volume %q: %w", v.Name, err)
	}
	return nil
}

// attachDir mounts a directory of the host with what is mounted in it. Its group is
// changed before: what is mounted is ready.
func attachDir(ctx context.Context, p Pod, v v1.Volume, c Claimed) error {
	if err := makeClaimed(c); err != nil {
		return err
	}
	source, err := openPath(c.Dir, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer source.Close()
	if c.Group && p.FSGroup != nil && !v.PersistentVolumeClaim.ReadOnly {
		if err := setGroup(ctx, source, *p.FSGroup, false, p.FSGroupPolicy); err != nil {
			return err
		}
	}
	target := filepath.Join(p.Dir, "volumes", localPlugin, v.Name)
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	at, err := openIn(p.Dir, filepath.Join("volumes", localPlugin, v.Name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer at.Close()
	fd, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: c.Dir, Err: err}
	}
	copied := os.NewFile(uintptr(fd), c.Dir)
	defer copied.Close()
	err = unix.MoveMount(fd, "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach %s at %s: %w", c.Dir, target, os.NewSyscallError("move_mount", err))
	}
	return nil
}

// makeClaimed makes a directory that is missing, if that is wanted.
func makeClaimed(c Claimed) error {
	switch c.Make {
	case MakeParent:
		return makeHostDir(c.Dir)
	case MakeOwn:
		if _, err := os.Lstat(c.Dir); err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
		parent := filepath.Dir(c.Dir)
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return err
		}
		// It gets its name when its mode is right. A name of Kubernetes does not
		// begin with a dot.
		unfinished := filepath.Join(parent, "."+filepath.Base(c.Dir)[:min(len(filepath.Base(c.Dir)), 200)]+".new")
		if err := os.Mkdir(unfinished, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(unfinished, 0o777); err != nil {
			return err
		}
		return os.Rename(unfinished, c.Dir)
	}
	if info, err := os.Stat(c.Dir); err != nil || !info.IsDir() {
		return fmt.Errorf("%s is not a directory", c.Dir)
	}
	return nil
}

// There tells whether a directory that nobody makes is there. Of others that is not
// seen by looking.
func (c Claimed) There() bool {
	if c.NFS != nil || c.Make != MakeNone {
		return false
	}
	info, err := os.Stat(c.Dir)
	return err == nil && info.IsDir()
}

// claimPath is where a claim's volume is mounted, if it is. A server is not asked.
func claimPath(p Pod, volume string) (plugin string, present bool, err error) {
	dir, err := openIn(p.Dir, filepath.Join("volumes", localPlugin, volume), unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		defer dir.Close()
		present, err = mountRoot(dir)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", false, err
	}
	if present {
		return localPlugin, true, nil
	}
	present, err = isMounted(nfsPath(p, volume))
	return nfsPlugin, present, err
}

// openClaim opens the root of a claim's volume.
func openClaim(p Pod, v v1.Volume) (*os.File, error) {
	plugin, present, err := claimPath(p, v.Name)
	if err == nil && !present {
		err = errors.New("nothing is mounted for its claim")
	}
	if err != nil {
		return nil, err
	}
	return openIn(p.Dir, filepath.Join("volumes", plugin, v.Name), unix.O_PATH|unix.O_DIRECTORY)
}
