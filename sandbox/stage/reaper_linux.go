package stage

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// Reaper is PID 1 of a PID namespace that the containers of a pod share. It
// holds nothing: no file system but an empty one, no capability, no descriptor
// but the pipe on [wire.StageSync] whose other end the pause process keeps. When
// that closes it exits, and the kernel kills the namespace.
func Reaper() int {
	// Ignored, SIGCHLD makes the kernel reap for us.
	type sigaction struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	act := sigaction{handler: 1}
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0); errno != 0 {
		return 1
	}
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil {
		return 1
	}
	root, err := newFS("tmpfs", "tmpfs", []wire.KV{{Key: "nr_inodes", Value: "2"}, {Key: "mode", Value: "0"}},
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return 1
	}
	s := stage{root: root}
	if unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH) != nil || s.pivot() != nil {
		return 1
	}
	const nobody = 65534
	var b block
	calls := identity(&b, &wire.Process{UID: nobody, GID: nobody, NoNewPrivs: true, Umask: 0o777})
	calls = append(calls, lastFilter(&b, &wire.Process{NoNewPrivs: true})...)
	calls = append(calls, Call{Name: "close descriptors", NR: unix.SYS_CLOSE_RANGE, A: [6]uintptr{0, 2}})
	calls = append(calls, closeAllBut(wire.StageSync)...)
	if b.err != nil {
		return 1
	}
	if i, _ := run(calls); i >= 0 {
		return 1
	}
	var buf [1]byte
	for {
		if _, err := unix.Read(wire.StageSync, buf[:]); err != unix.EINTR {
			return 0
		}
	}
}
