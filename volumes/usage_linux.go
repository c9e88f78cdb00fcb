package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// Measure tells what a volume holds. Memory-backed ones are asked for in no time;
// one on disk is walked, which takes about a second per million files and ends
// early with ctx. Its capacity is that of the file system it shares with others.
// A claim that has a file system for itself is asked for in no time too.
// Kinds that belong to the host or to a server give [ErrNotMeasured].
func Measure(ctx context.Context, p Pod, v v1.Volume) (Usage, error) {
	if err := check(p, v); err != nil {
		return Usage{}, err
	}
	v = plain(v)
	if v.EmptyDir == nil && v.PersistentVolumeClaim == nil {
		return Usage{}, ErrNotMeasured
	}
	u, err := measure(ctx, p, v)
	if err != nil && err != ErrNotMeasured {
		err = fmt.Errorf("cannot measure volume %q: %w", v.Name, err)
	}
	return u, err
}

func measure(ctx context.Context, p Pod, v v1.Volume) (Usage, error) {
	if v.PersistentVolumeClaim != nil {
		plugin, _, err := claimPath(p, v.Name)
		if err == nil && plugin == nfsPlugin {
			err = ErrNotMeasured // asking could wait for ever
		}
		if err != nil {
			return Usage{}, err
		}
	}
	dir, err := openVolume(p, v)
	if err != nil {
		return Usage{}, err
	}
	defer dir.Close()
	alone := v.EmptyDir != nil && inMemory(v)
	if v.PersistentVolumeClaim != nil {
		if alone, err = isFileSystem(dir); err != nil {
			return Usage{}, err
		}
	}
	return measureDir(ctx, dir, alone)
}

// MeasureDir is [Measure] for a directory of the host that is a volume.
func MeasureDir(ctx context.Context, path string) (Usage, error) {
	dir, err := openPath(path, unix.O_DIRECTORY)
	if err != nil {
		return Usage{}, err
	}
	defer dir.Close()
	alone, err := mountRoot(dir)
	if err != nil {
		return Usage{}, err
	}
	return measureDir(ctx, dir, alone)
}

// isFileSystem says whether a mounted directory is a whole file system rather than a
// part of one.
func isFileSystem(dir *os.File) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return false, &os.PathError{Op: "statx", Path: dir.Name(), Err: err}
	}
	mounts, err := mountTable(func(m *mountinfo.Info) (skip, stop bool) {
		same := uint64(m.ID) == st.Mnt_id
		return !same, same
	})
	return len(mounts) > 0 && mounts[0].Root == "/", err
}

// measureDir measures a directory; alone says that it has its file system for itself.
func measureDir(ctx context.Context, dir *os.File, alone bool) (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return Usage{}, &os.PathError{Op: "statfs", Path: dir.Name(), Err: err}
	}
	block := uint64(st.Bsize)
	u := Usage{
		UsedBytes: (st.Blocks - st.Bfree) * block, CapacityBytes: st.Blocks * block, AvailableBytes: st.Bavail * block,
		InodesUsed: st.Files - st.Ffree, Inodes: st.Files, InodesFree: st.Ffree,
	}
	if !alone {
		w := walk{ctx: ctx}
		if err := w.add(dir, 0); err != nil {
			return Usage{}, err
		}
		u.UsedBytes, u.InodesUsed = w.bytes, w.inodes
	}
	return u, nil
}

// OverLimit tells whether an emptyDir on disk holds more than its sizeLimit. It
// stops counting there. A workload that hides data deeper than a walk can go
// counts as over its limit. Memory-backed volumes are never over theirs, and a
// volume without a limit has none to be over.
func OverLimit(ctx context.Context, p Pod, v v1.Volume) (bool, error) {
	if err := check(p, v); err != nil {
		return false, err
	}
	if v.EmptyDir == nil || inMemory(v) || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Value() <= 0 {
		return false, nil
	}
	dir, err := openEmptyDir(p, v)
	if err != nil {
		return false, fmt.Errorf("cannot measure volume %q: %w", v.Name, err)
	}
	defer dir.Close()
	w := walk{ctx: ctx, limit: uint64(v.EmptyDir.SizeLimit.Value())}
	err = w.add(dir, 0)
	if errors.Is(err, errLimit) || errors.Is(err, errTooDeep) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot measure volume %q: %w", v.Name, err)
	}
	return false, nil
}

var errLimit = errors.New("over the limit")

// walk sums up what is in a directory on one file system, as du(1) does: what
// is allocated, and a file with several names once.
type walk struct {
	ctx    context.Context
	limit  uint64 // stop with errLimit above it; 0: never
	bytes  uint64
	inodes uint64
	linked map[uint64]bool // inodes with several names that were counted
}

func (w *walk) add(f *os.File, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !dir && st.Nlink > 1 {
		if w.linked[st.Ino] {
			return nil
		}
		if w.linked == nil {
			w.linked = map[uint64]bool{}
		}
		w.linked[st.Ino] = true
	}
	w.bytes += uint64(st.Blocks) * 512
	w.inodes++
	if w.limit > 0 && w.bytes > w.limit {
		return errLimit
	}
	if !dir {
		return nil
	}
	return eachEntry(f, depth, func(entry *os.File) error { return w.add(entry, depth+1) })
}
