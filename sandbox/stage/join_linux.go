package stage

import (
	"errors"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// Joiner is a command that joins a running container.
type Joiner struct {
	Process *wire.Process
	// Target is a pidfd of the container's main process.
	Target int
	// PID and Cgroup say which namespaces to join besides the mount namespace;
	// network, IPC and UTS are the pause process's own.
	PID, Cgroup bool
	// CgroupFD is a cgroup v2 directory to be cloned into, or -1.
	CgroupFD int
	// Tasks are `tasks` files of cgroup v1 to join by.
	Tasks []int
	// Stdio are the standard streams; -1: /dev/null. Unused with a TTY.
	Stdio [3]int
	// Proc is a detached procfs of the caller's PID namespace.
	Proc int
	// Report is a file of [NewReport] that this process's parent reads, whose
	// child the command then is; -1: the command is this process's child.
	Report int
}

// Join starts a command in a running container and returns when it has been
// executed: its pid, and the master of its terminal or -1. The calling thread is
// spent: it stays in the container's mount namespace, so the caller has locked
// its goroutine to it, never unlocks it, and is not on the leader thread of a
// process that goes on. The thread gives up nothing else: identity, filter and
// descriptors change in forked children only, where no Go code runs.
func Join(j *Joiner) (pid, master int, err error) {
	p := j.Process
	// A thread that shares its working directory cannot change mount namespaces.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return 0, -1, fail("leave the shared working directory", err)
	}
	for _, t := range j.Tasks {
		// ESRCH and the like show when the cgroup is going away with its container.
		if _, err := unix.Write(t, []byte("0")); err != nil {
			return 0, -1, fail("join the container's cgroup", err)
		}
	}
	if err := unix.Setns(j.Target, unix.CLONE_NEWNS); err != nil {
		return 0, -1, fail("join the container's mount namespace", err)
	}
	stdio, master, opened, err := j.openStdio()
	defer func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
		if err != nil && master >= 0 {
			unix.Close(master)
			master = -1
		}
	}()
	if err != nil {
		return 0, master, err
	}
	if err := enter(p.Cwd, false); err != nil {
		return 0, master, err
	}
	if len(p.Args) == 0 {
		return 0, master, &CommandError{"no command specified"}
	}
	files, err := candidates(p.Args[0], p.Env)
	if err != nil {
		return 0, master, err
	}
	var b block
	defer b.free()
	exec := execve(&b, files, p.Args, p.Env)
	var shared *report
	if j.Report >= 0 {
		if shared, err = mapReport(j.Report); err != nil {
			return 0, master, err
		}
	}
	var status [2]int
	if err := unix.Pipe2(status[:], unix.O_CLOEXEC); err != nil {
		return 0, master, fail("make a pipe", err)
	}
	defer unix.Close(status[0])

	first, second := make([]Call, 0, manyCalls), make([]Call, 0, 8)
	for fd, from := range stdio {
		first = append(first, Call{Name: "set standard streams", NR: unix.SYS_DUP3, A: [6]uintptr{uintptr(from), uintptr(fd), 0}})
	}
	first = append(first, limits(&b, p, j.Proc)...)
	if j.PID {
		first = append(first, Call{Name: "join the container's PID namespace", NR: unix.SYS_SETNS,
			A: [6]uintptr{uintptr(j.Target), unix.CLONE_NEWPID}})
	}
	if j.Cgroup {
		// In the child only: with the mount option nsdelegate, which systemd gives,
		// the kernel refuses (ENOENT) to clone into a cgroup from another one that
		// the cloning thread's cgroup namespace does not hold.
		first = append(first, Call{Name: "join the container's cgroup namespace", NR: unix.SYS_SETNS,
			A: [6]uintptr{uintptr(j.Target), unix.CLONE_NEWCGROUP}})
	}
	first = append(first, closeAllBut(status[1])...)
	first = append(first, identity(&b, p)...)

	second = append(second, Call{Name: "start a session", NR: unix.SYS_SETSID})
	if p.TTY {
		second = append(second, Call{Name: "take the terminal", NR: unix.SYS_IOCTL, A: [6]uintptr{0, unix.TIOCSCTTY, 0}})
	}
	second = append(second, lastFilter(&b, p)...)
	second = append(second, exec...)

	pid, err = forkInto(&b, j.CgroupFD, status, shared, first, second)
	var ce *CallError
	if errors.As(err, &ce) && ce.Exec {
		err = &CommandError{`exec: "` + p.Args[0] + `": ` + ce.Errno.Error()}
	}
	return pid, master, err
}

func (j *Joiner) openStdio() (stdio [3]int, master int, opened []int, err error) {
	stdio, master = j.Stdio, -1
	if j.Process.TTY {
		m, slave, err := openTerminal(unix.AT_FDCWD, j.Process.Height, j.Process.Width)
		if err != nil {
			return stdio, -1, nil, err
		}
		unix.Fchown(slave, int(j.Process.UID), -1)
		return [3]int{slave, slave, slave}, m, []int{slave}, nil
	}
	null := -1
	for i := range stdio {
		if stdio[i] >= 0 {
			continue
		}
		if null < 0 {
			if null, err = openNull(unix.AT_FDCWD, unix.O_RDWR); err != nil {
				return stdio, -1, nil, err
			}
			opened = append(opened, null)
		}
		stdio[i] = null
	}
	return stdio, -1, opened, nil
}

// ExecMain is the whole life of a stage that runs an exec: it joins on the
// leader thread of a process of its own and says when the command runs, which
// becomes the pause process's child. It returns the exit code.
func ExecMain() int {
	var req wire.ExecStage
	body, err := readRequest()
	if err == nil {
		err = fail("read the exec request", wire.Unmarshal(body, &req))
	}
	proc := -1
	if err == nil {
		proc, err = ProcFS()
	}
	if err != nil {
		reportFailure(err)
		return 1
	}
	stdio := [3]int{0, 1, 2}
	for fd := range 3 {
		// The pause process passes its own null device where nothing else is asked.
		if isNull(fd) {
			stdio[fd] = -1
		} else if moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, StageFree); err == nil {
			stdio[fd] = moved
		}
	}
	for fd := wire.StageSync; fd <= wire.StageFiles+1; fd++ {
		unix.CloseOnExec(fd)
	}
	_, master, err := Join(&Joiner{
		Process: &req.Process, Target: wire.StageFiles, PID: req.JoinPID, Cgroup: req.JoinCgroup,
		CgroupFD: -1, Stdio: stdio, Proc: proc, Report: wire.StageFiles + 1,
	})
	if err != nil {
		reportFailure(err)
		return 1
	}
	var oob []byte
	if master >= 0 {
		oob = unix.UnixRights(master)
	}
	unix.Sendmsg(wire.StageSync, []byte{SyncReady}, oob, nil, unix.MSG_NOSIGNAL)
	return 0
}

// StageFree is the first descriptor number an exec's stage uses for itself.
const StageFree = 8
