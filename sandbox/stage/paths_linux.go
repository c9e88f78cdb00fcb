package stage

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is a failed step of the stage.
type Error struct {
	Step string // completes "cannot …"
	Err  error
}

func (e *Error) Error() string { return "cannot " + e.Step + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func fail(step string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{step, err}
}

type plainError string

func (e plainError) Error() string { return string(e) }

// openIn opens a path as the container will see it, below root, whatever
// symbolic links its image holds. Magic links (/proc/PID/fd and the like) are
// never followed.
func openIn(root int, p string, flags uint64, resolve uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(root, p, &how)
		// EAGAIN: something was renamed while ".." was being resolved.
		if err == unix.EINTR || err == unix.EAGAIN && try < 128 {
			continue
		}
		return fd, err
	}
}

// strictness forbids symbolic links where they have no business: below /proc,
// /sys and /dev everything is made by us or the kernel (CVE-2023-27561).
func strictness(p string) uint64 {
	for _, top := range [...]string{"/proc", "/sys", "/dev"} {
		if p == top || strings.HasPrefix(p, top+"/") {
			return unix.RESOLVE_NO_SYMLINKS
		}
	}
	return 0
}

// target returns a descriptor of the place for a mount, made if it is missing:
// a directory or an empty file.
func target(root int, p string, dir bool) (int, error) {
	return targetDepth(root, path.Clean("/"+p), dir, 0)
}

func targetDepth(root int, p string, dir bool, depth int) (int, error) {
	fd, err := openIn(root, p, unix.O_PATH, strictness(p))
	if err != unix.ENOENT || p == "/" {
		return fd, err
	}
	if depth > 40 {
		return -1, unix.ELOOP
	}
	parentPath, base := path.Split(p)
	parent, err := targetDepth(root, path.Clean(parentPath), true, depth+1)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if dir {
		err = unix.Mkdirat(parent, base, 0o755)
	} else {
		var f int
		if f, err = unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
			unix.Close(f)
		}
	}
	if err == unix.EEXIST {
		// A dangling symbolic link, as many images have at /etc/resolv.conf: what
		// it points to, inside the container, is made.
		buf := make([]byte, unix.PathMax)
		n, lerr := unix.Readlinkat(parent, base, buf)
		if lerr == nil && strictness(p) == 0 {
			link := string(buf[:n])
			if !strings.HasPrefix(link, "/") {
				link = parentPath + link
			}
			return targetDepth(root, path.Clean(link), dir, depth+1)
		}
	}
	if err != nil && err != unix.EEXIST {
		return -1, err
	}
	return openIn(root, p, unix.O_PATH, strictness(p))
}

// enter makes p the working directory of this thread, making it if it is
// missing. The kernel must call it by an absolute name afterwards: a directory
// outside the root shows as "(unreachable)" (CVE-2024-21626).
func enter(p string, create bool) error {
	if p == "" {
		p = "/"
	}
	step := "enter working directory " + p
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(step, err)
	}
	defer unix.Close(root)
	fd, err := openIn(root, p, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT && create {
		if fd, err = target(root, p, true); err == nil {
			unix.Close(fd)
			fd, err = openIn(root, p, unix.O_PATH|unix.O_DIRECTORY, 0)
		}
	}
	if err == unix.ELOOP {
		err = plainError("it leads through a link of the kernel's or in circles")
	}
	if err != nil {
		return fail(step, err)
	}
	defer unix.Close(fd)
	if err := unix.Fchdir(fd); err != nil {
		return fail(step, err)
	}
	buf := make([]byte, unix.PathMax)
	if n, err := unix.Getcwd(buf); err != nil || n == 0 || buf[0] != '/' {
		unix.Chdir("/")
		return fail(step, plainError("it is outside the container"))
	}
	return nil
}

// openNull opens the container's /dev/null, which must be the real one: an
// image may bring its own (CVE-2025-31133).
func openNull(root int, flags uint64) (int, error) {
	fd, err := openIn(root, "/dev/null", flags|unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, fail("open the container's /dev/null", err)
	}
	if !isNull(fd) {
		unix.Close(fd)
		return -1, fail("use the container's /dev/null", plainError("it is not the null device (character device 1:3)"))
	}
	return fd, nil
}

func isNull(fd int) bool {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// openTerminal makes a pseudo-terminal in the container's own devpts and
// returns both ends. The slave is never opened by a path (CVE-2025-52565).
func openTerminal(root int, height, width uint32) (master, slave int, err error) {
	const step = "open a terminal in the container's /dev/pts"
	fd, err := openIn(root, "/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, -1, fail(step, err)
	}
	var fs unix.Statfs_t
	if err = unix.Fstatfs(fd, &fs); err == nil && fs.Type != unix.DEVPTS_SUPER_MAGIC {
		err = plainError("another file system lies there")
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = ioctlRet(fd, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	}
	if err == nil && height > 0 {
		unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	}
	if err != nil {
		unix.Close(fd)
		return -1, -1, fail(step, err)
	}
	return fd, slave, nil
}

// ioctlRet is an ioctl with an integer argument that returns a descriptor.
func ioctlRet(fd int, req uint, arg int) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}
