package sandbox

import (
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// sealProgram returns a descriptor to execute podd-pause from, of a copy that
// nobody can change: a container that gets hold of its pause process's or its own
// stage's executable (/proc/PID/exe, #!/proc/self/exe) cannot replace the program
// for others (CVE-2019-5736).
func sealProgram(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	f, err := sealedCopy(src)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		// Where executable memory files are forbidden (sysctl vm.memfd_noexec=2).
		return readOnlyMount(path)
	}
	return f, err
}

func sealedCopy(src io.Reader) (*os.File, error) {
	fd, err := unix.MemfdCreate("podd-pause", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 every memory file is executable
		fd, err = unix.MemfdCreate("podd-pause", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "podd-pause")
	defer f.Close()
	if _, err := io.Copy(f, src); err != nil {
		return nil, err
	}
	if err := f.Chmod(0o555); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		return nil, err
	}
	// A file that is open for writing is not executed.
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}

// readOnlyMount returns the program seen through a mount that nobody can reach
// and through which nobody can write.
func readOnlyMount(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "podd-pause"), nil
}
