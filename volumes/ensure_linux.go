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

// ErrNotMeasured is returned by [Measure] for kinds that belong to the host, whose
// use says nothing about the pod.
var ErrNotMeasured = errors.New("volumes of this kind are not measured")

// Ensure makes a volume ready: its directory, its mount, or for a hostPath the
// check of what is there. It is repeatable, keeps what a volume holds and the
// permissions a workload gave it, and completes what a crash left half-made. The
// files of a volume that has them are brought up to date; where they are not known
// the error is that of Pod.Files.
func Ensure(ctx context.Context, p Pod, v v1.Volume) error {
	if err := check(p, v); err != nil {
		return err
	}
	if HoldsFiles(v) {
		return ensureFiles(ctx, p, v)
	}
	if v.PersistentVolumeClaim != nil {
		return ensureClaim(ctx, p, v)
	}
	v = plain(v)
	var err error
	switch {
	case v.EmptyDir != nil:
		err = ensureEmptyDir(ctx, p, v)
	case v.Image != nil:
		err = ensureImageDir(p, v)
	case v.NFS != nil:
		err = ensureNFS(ctx, p, v.Name, v.NFS, nil)
	default:
		err = ensureHostPath(v.HostPath)
	}
	if err != nil {
		return fmt.Errorf("cannot set up volume %q: %w", v.Name, err)
	}
	return nil
}

// Present tells whether a volume is set up. After a reboot a memory-backed one is
// not; [Ensure] then makes it again, empty.
func Present(p Pod, v v1.Volume) bool {
	if check(p, v) != nil {
		return false
	}
	v = plain(v)
	switch {
	case v.Image != nil:
		return true // mounted when a container needs it
	case v.NFS != nil:
		mounted, err := isMounted(nfsPath(p, v.Name)) // its server may not answer
		return mounted && err == nil
	case v.PersistentVolumeClaim != nil:
		_, present, err := claimPath(p, v.Name)
		return present && err == nil
	}
	root, err := openVolume(p, v)
	if err != nil {
		return false
	}
	root.Close()
	return true
}

// openVolume opens the root of a volume that is set up.
func openVolume(p Pod, v v1.Volume) (*os.File, error) {
	switch {
	case HoldsFiles(v):
		return openFiles(p, v)
	case v.EmptyDir != nil:
		return openEmptyDir(p, v)
	case v.Image != nil:
		return openImage(p, v)
	case v.NFS != nil:
		return openNFS(p, v.Name)
	case v.PersistentVolumeClaim != nil:
		return openClaim(p, v)
	default:
		return openHostPath(v.HostPath)
	}
}

// openIn opens rel, which must stay below dir and name no symbolic link on its
// way. It is for paths that only root can change.
func openIn(dir, rel string, flags uint64) (*os.File, error) {
	base, err := openPath(dir, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	return openat2(base, rel, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
}

// openPath opens a path of the host's without being able to read it, only to
// refer to what it names now.
func openPath(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// openat2 opens name below dir. A name that is renamed at the same time makes the
// kernel say EAGAIN; somebody who keeps doing that gets an error in the end.
func openat2(dir *os.File, name string, flags, resolve uint64) (*os.File, error) {
	const rounds = 1000
	path := filepath.Join(dir.Name(), name)
	var err error
	for range rounds {
		var fd int
		fd, err = unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve})
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return nil, &os.PathError{Op: "open", Path: path, Err: err}
}

// mountRoot tells whether f, opened with O_PATH, is where something is mounted.
func mountRoot(f *os.File) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, &st); err != nil {
		return false, &os.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// tmpfs is a memory file system to be.
type tmpfs struct {
	sizeBytes int64 // 0: half of the machine's memory
	mode      uint32
	gid       int64
	attrs     int // MOUNT_ATTR_*
}

// attach mounts a new tmpfs on dir. It is complete when it appears there: size,
// mode and group are set before.
func (t tmpfs) attach(dir *os.File) error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	options := [][2]string{{"source", "tmpfs"}, {"mode", fmt.Sprintf("%o", t.mode)}, {"gid", fmt.Sprint(t.gid)}}
	if t.sizeBytes > 0 {
		options = append(options, [2]string{"size", fmt.Sprint(t.sizeBytes)})
	}
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fmt.Errorf("tmpfs option %s=%s: %w", o[0], o[1], os.NewSyscallError("fsconfig", err))
		}
	}
	// Since Linux 6.4; before, pages may go to swap like any others.
	if err := unix.FsconfigSetFlag(fs, "noswap"); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("tmpfs option noswap: %w", os.NewSyscallError("fsconfig", err))
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("create tmpfs: %w", os.NewSyscallError("fsconfig", err))
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, t.attrs)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mount)
	err = unix.MoveMount(mount, "", int(dir.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach tmpfs at %s: %w", dir.Name(), os.NewSyscallError("move_mount", err))
	}
	return nil
}
