package stage

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// Bytes of the conversation with the pause process; see package wire.
const (
	SyncJoined = 'j'
	SyncReady  = 'r' // only the execve is missing; of an exec: it runs
	SyncGo     = 'g'
	SyncFailed = 'f'
)

// stage is one container on its way to its command.
type stage struct {
	req  wire.Stage
	root int // of the container, first detached, then attached over ours
	proc int // detached procfs of the container's PID namespace
}

// Harden makes this process unreadable for others and gives it a clean start.
// It runs first, on the leader thread.
func Harden() {
	// Executed by descriptor, it would be called by a number.
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("podd-pause\x00")[0])), 0, 0, 0)
	// Undumpable: neither ptrace nor /proc/PID/mem nor /proc/PID/fd, but for
	// those who hold SYS_PTRACE over us (CVE-2016-9962).
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	restoreNofile()
}

// restoreNofile gives back the soft limit of open files that the runtime raised
// when it started; what we execute must get the inherited one. A failing Exec is
// the only way to ask package syscall for it.
func restoreNofile() { syscall.Exec("", []string{""}, []string{""}) }

// Main turns this process into the container's main process. It returns the
// exit code if it cannot. The caller is locked to the leader thread.
func Main() int {
	for fd := wire.StageSync; fd < wire.StageFiles+1+4096; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			break
		}
	}
	var s stage
	final, err := s.prepare()
	if err != nil {
		reportFailure(err)
		return 1
	}
	i, errno := run(final)
	// From here on we are the container's user, under its filter.
	if errno == unix.EACCES && final[i].NR == unix.SYS_EXECVE {
		reportFailure(permissionDenied(s.req.Process.Args[0]))
		return 1
	}
	if final[i].NR != unix.SYS_EXECVE {
		reportFailure(&Error{final[i].step(), errno})
		return 1
	}
	// The file is there and may be executed, but is of no executable format, or
	// its interpreter is missing. To a kubelet that is a container that started
	// and exited with 255.
	name := final[i].Name[len("execute "):]
	unix.Write(2, []byte("exec "+name+": "+errno.Error()+"\n"))
	return 255
}

// reportFailure tells the pause process why there will be no command, in a
// message that it can receive at once.
func reportFailure(err error) {
	f := Failure(err)
	const most = 400
	f.Step, f.Text = f.Step[:min(len(f.Step), most)], f.Text[:min(len(f.Text), most)]
	unix.Write(wire.StageSync, append([]byte{SyncFailed}, wire.Marshal(f)...))
}

// Failure words an error of this package for the wire.
func Failure(err error) *wire.Failed {
	switch e := err.(type) {
	case *wire.Failed:
		return e
	case *CommandError:
		return &wire.Failed{Code: wire.CodeCommand, Step: "", Text: e.Text}
	case *Error:
		return &wire.Failed{Step: e.Step, Text: e.Err.Error()}
	case *CallError:
		return &wire.Failed{Step: e.Name, Text: e.Errno.Error()}
	}
	return &wire.Failed{Text: err.Error()}
}

// prepare is the recipe. It returns the calls that remain.
func (s *stage) prepare() ([]Call, error) {
	body, err := readRequest()
	if err != nil {
		return nil, err
	}
	if err := wire.Unmarshal(body, &s.req); err != nil {
		return nil, fail("read the start request", err)
	}
	r, p := &s.req, &s.req.Process
	unix.Umask(0)
	if _, err := unix.Setsid(); err != nil {
		return nil, fail("start a session", err)
	}
	// A keyring of its own, or the container could use our keys. Kernels without
	// keyrings need none.
	if _, err := unix.KeyctlJoinSessionKeyring("_ses.podd"); err != nil && err != unix.ENOSYS {
		return nil, fail("join a new session keyring", err)
	}
	if s.proc, err = procFS(); err != nil {
		return nil, fail("make a proc file system", err)
	}

	// Nothing that we mount may show on the host, nor the host's here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fail("make mounts private", err)
	}
	s.root = wire.StageFiles
	if err := unix.MoveMount(s.root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fail("attach the root file system", err)
	}
	// The cgroup tree is mounted after we have been put into our cgroup, which
	// goes on meanwhile; so is everything that lies on it.
	later := len(r.Mounts)
	for i := range r.Mounts {
		if r.Mounts[i].Kind == wire.MountCgroup {
			later = i
			break
		}
		if err := s.mount(&r.Mounts[i]); err != nil {
			return nil, fail("mount "+r.Mounts[i].Target, err)
		}
	}
	if err := expect(SyncJoined); err != nil {
		return nil, err
	}
	if r.PrivateCgroupNS {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return nil, fail("make a cgroup namespace", err)
		}
	}
	for i := later; i < len(r.Mounts); i++ {
		if err := s.mount(&r.Mounts[i]); err != nil {
			return nil, fail("mount "+r.Mounts[i].Target, err)
		}
	}
	if r.MakeDev {
		if err := s.makeDev(); err != nil {
			return nil, err
		}
	}
	console := -1
	if p.TTY {
		if console, err = s.makeConsole(); err != nil {
			return nil, err
		}
	}
	// The container's image decided what lies at these paths, so the null device
	// is proven before it covers anything.
	if len(r.Masked) > 0 {
		null, err := openNull(s.root, unix.O_PATH)
		if err != nil {
			return nil, err
		}
		for _, m := range r.Masked {
			if err := s.mask(m, null); err != nil {
				return nil, fail("mask "+m, err)
			}
		}
		unix.Close(null)
	}
	// Before read-only paths, or /proc/sys could not be written any more.
	for _, kv := range r.Sysctls {
		if err := SetSysctl(s.proc, kv.Key, kv.Value); err != nil {
			return nil, err
		}
	}
	for _, f := range r.ReadonlyPaths {
		if err := s.freeze(f); err != nil {
			return nil, fail("make "+f+" read-only", err)
		}
	}
	if err := s.pivot(); err != nil {
		return nil, fail("change to the container's root", err)
	}
	if err := enter(p.Cwd, true); err != nil {
		return nil, err
	}
	if err := s.finishRoot(); err != nil {
		return nil, err
	}
	if err := s.openStdio(); err != nil {
		return nil, err
	}
	if len(p.Args) == 0 {
		return nil, &CommandError{"no command specified"}
	}
	files, err := candidates(p.Args[0], p.Env)
	if err != nil {
		return nil, err
	}
	var b block // never freed: it goes with the execve
	exec := execve(&b, files, p.Args, p.Env)

	// The agent sets resource limits between these two.
	if err := sendReady(console); err != nil {
		return nil, fail("report ready", err)
	}
	if console >= 0 {
		unix.Close(console)
	}
	if err := expect(SyncGo); err != nil {
		return nil, err
	}

	var final []Call
	final = append(final, limits(&b, p, s.proc)...)
	if p.TTY {
		final = append(final, Call{Name: "take the terminal", NR: unix.SYS_IOCTL, A: [6]uintptr{0, unix.TIOCSCTTY, 0}})
	}
	final = append(final, closeAllBut(wire.StageSync)...)
	final = append(final, identity(&b, p)...)
	final = append(final, lastFilter(&b, p)...)
	return append(final, exec...), fail("prepare the command", b.err)
}

func (s *stage) finishRoot() error {
	r := &s.req
	if r.ReadonlyRoot {
		if err := setAttr(s.root, 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fail("make the root file system read-only", err)
		}
	}
	if r.RootPropagation != 0 {
		if err := unix.Mount("", "/", "", uintptr(r.RootPropagation), ""); err != nil {
			return fail("set the propagation of the root file system", err)
		}
	}
	return nil
}

// devices that every container has (OCI runtime spec, default devices).
var devices = []wire.Device{
	{Path: "/dev/null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3},
	{Path: "/dev/zero", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 5},
	{Path: "/dev/full", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 7},
	{Path: "/dev/random", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 8},
	{Path: "/dev/urandom", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 9},
	{Path: "/dev/tty", Mode: unix.S_IFCHR | 0o666, Major: 5, Minor: 0},
}

// makeDev fills /dev. What is there already, because a volume lies there, stays.
func (s *stage) makeDev() error {
	for _, d := range append(devices, s.req.Devices...) {
		if err := s.makeDevice(d); err != nil && err != unix.EEXIST {
			return fail("make device "+d.Path, err)
		}
	}
	dev, err := openIn(s.root, "/dev", unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return fail("open /dev", err)
	}
	defer unix.Close(dev)
	for _, l := range [...][2]string{
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}, {"/proc/kcore", "core"}, {"pts/ptmx", "ptmx"},
	} {
		if err := unix.Symlinkat(l[0], dev, l[1]); err != nil && err != unix.EEXIST {
			return fail("make link /dev/"+l[1], err)
		}
	}
	return nil
}

func (s *stage) makeDevice(d wire.Device) error {
	dir, base := splitPath(d.Path)
	parent, err := target(s.root, dir, true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Mknodat(parent, base, d.Mode, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
		return err
	}
	return unix.Fchownat(parent, base, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

func splitPath(p string) (dir, base string) {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] == '/' {
			return p[:i+1], p[i+1:]
		}
	}
	return "/", p
}

// makeConsole gives the container a terminal as its standard streams and
// /dev/console, and returns the master.
func (s *stage) makeConsole() (master int, err error) {
	p := &s.req.Process
	master, slave, err := openTerminal(s.root, p.Height, p.Width)
	if err != nil {
		return -1, err
	}
	defer unix.Close(slave)
	unix.Fchown(slave, int(p.UID), -1)
	const step = "make /dev/console"
	dev, err := openIn(s.root, "/dev", unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, fail(step, err)
	}
	defer unix.Close(dev)
	file, err := unix.Openat(dev, "console", unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_RDONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fail(step, err)
	}
	defer unix.Close(file)
	tree, err := unix.OpenTree(slave, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fail(step, err)
	}
	defer unix.Close(tree)
	if err := attach(tree, file); err != nil {
		return -1, fail(step, err)
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return -1, fail(step, err)
		}
	}
	return master, nil
}

// openStdio replaces an unused stdin by the container's /dev/null, and lets the
// container's user reopen its streams by /dev/stdout and the like.
func (s *stage) openStdio() error {
	p := &s.req.Process
	if p.TTY {
		return nil
	}
	var st unix.Stat_t
	for fd := range 3 {
		if err := unix.Fstat(fd, &st); err != nil {
			return fail("look at standard streams", err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFIFO {
			unix.Fchown(fd, int(p.UID), -1)
			continue
		}
		null, err := openNull(s.root, unix.O_RDWR)
		if err != nil {
			return err
		}
		if err := unix.Dup3(null, fd, 0); err != nil {
			return fail("set standard streams", err)
		}
		unix.Close(null)
	}
	return nil
}

func readRequest() ([]byte, error) {
	const step = "read the start request"
	var st unix.Stat_t
	if err := unix.Fstat(wire.StageRequest, &st); err != nil {
		return nil, fail(step, err)
	}
	b := make([]byte, st.Size)
	n, err := unix.Pread(wire.StageRequest, b, 0)
	if err == nil && n != len(b) {
		err = wire.ErrMalformed
	}
	return b, fail(step, err)
}

// expect waits for one byte from the pause process.
func expect(want byte) error {
	var b [1]byte
	for {
		n, err := unix.Read(wire.StageSync, b[:])
		if err == unix.EINTR {
			continue
		}
		if err == nil && (n != 1 || b[0] != want) {
			err = plainError("the start was given up")
		}
		return fail("go on", err)
	}
}

func sendReady(console int) error {
	var oob []byte
	if console >= 0 {
		oob = unix.UnixRights(console)
	}
	return unix.Sendmsg(wire.StageSync, []byte{SyncReady}, oob, nil, unix.MSG_NOSIGNAL)
}
