package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// SetGroup gives the directory dir and everything in it to the group gid, and
// lets the group read (and unless readOnly write) it, as the kubelet does for a
// pod's fsGroup: only bits are added, directories also get setgid, so that new
// files inherit the group, and symbolic links only change owner. Contents come
// before the directory itself. It does not cross into other mounts.
//
// With policy OnRootMismatch nothing is done if dir itself already is as wanted.
// Source: Kubernetes docs, "Configure volume permission and ownership change
// policy for Pods".
func SetGroup(ctx context.Context, dir string, gid int64, readOnly bool, policy v1.PodFSGroupChangePolicy) error {
	if gid < 0 || gid > 1<<32-2 {
		return fmt.Errorf("cannot set the group of %s: no group has the number %d", dir, gid)
	}
	root, err := openPath(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("cannot set the group: %w", err)
	}
	defer root.Close()
	return setGroup(ctx, root, gid, readOnly, policy)
}

// setGroup is [SetGroup] for a directory that is opened with O_PATH.
func setGroup(ctx context.Context, root *os.File, gid int64, readOnly bool, policy v1.PodFSGroupChangePolicy) error {
	g := grouping{ctx: ctx, gid: int(gid), bits: 0o660}
	if readOnly {
		g.bits = 0o440
	}
	if policy == v1.FSGroupChangeOnRootMismatch {
		var st unix.Stat_t
		if err := unix.Fstat(int(root.Fd()), &st); err != nil {
			return fmt.Errorf("cannot set the group: %w", &os.PathError{Op: "fstat", Path: root.Name(), Err: err})
		}
		if want := g.bits | dirBits; st.Gid == uint32(gid) && st.Mode&want == want {
			return nil
		}
	}
	if err := g.one(root, 0); err != nil {
		return fmt.Errorf("cannot set the group: %w", err)
	}
	return nil
}

// dirBits are what directories get beside the bits of files: search, and setgid.
const dirBits = 0o2110

type grouping struct {
	ctx  context.Context
	gid  int
	bits uint32
}

// one changes what f, opened with O_PATH, refers to, its contents first.
func (g *grouping) one(f *os.File, depth int) error {
	if err := g.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	bits := g.bits
	if kind == unix.S_IFDIR {
		bits |= dirBits
		if err := g.contents(f, depth); err != nil {
			return err
		}
	}
	if err := unix.Fchownat(int(f.Fd()), "", -1, g.gid, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "chown", Path: f.Name(), Err: err}
	}
	if kind == unix.S_IFLNK {
		return nil
	}
	// After chown, which takes setuid and setgid away. The descriptor cannot be
	// chmod'ed itself, only by its name.
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), st.Mode&0o7777|bits); err != nil {
		return &os.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	return nil
}

func (g *grouping) contents(f *os.File, depth int) error {
	return eachEntry(f, depth, func(entry *os.File) error { return g.one(entry, depth+1) })
}

// walkDepth bounds how deep a walk goes: each level takes two descriptors.
const walkDepth = 1000

// errTooDeep is why a walk ended early.
var errTooDeep = errors.New("directories are nested too deep")

// eachEntry opens each entry of the directory f, with O_PATH and without
// following links, and hands it to do. Entries that vanish meanwhile and those
// that are other mounts are left out.
func eachEntry(f *os.File, depth int, do func(*os.File) error) error {
	if depth >= walkDepth {
		return fmt.Errorf("%w: more than %d levels", errTooDeep, walkDepth)
	}
	dir, err := openat2(f, ".", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			entry, err := openat2(dir, name, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) {
				continue
			}
			if err != nil {
				return err
			}
			err = do(entry)
			entry.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", filepath.Base(name), err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
