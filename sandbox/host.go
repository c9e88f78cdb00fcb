package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// Names in a sandbox's directory.
const (
	socketName = "pause.sock"
	pidName    = "pause.pid" // pid and start time of the pause process
	stderrName = "pause.log" // what it says when it panics

	containersName = "c" // of each container, below NAME/ATTEMPT, its exit file
)

// Host makes and finds the sandboxes of one run directory. It is safe for
// concurrent use, with one call at a time for the same pod.
type Host struct {
	cfg     Config
	program *os.File // podd-pause, sealed
}

// Open reads podd-pause into a sealed memory file, from which every pause
// process will be executed.
func Open(cfg Config) (*Host, error) {
	program, err := sealProgram(cfg.PauseBinary)
	if err != nil {
		return nil, cannot("prepare "+cfg.PauseBinary, err)
	}
	if err := os.MkdirAll(filepath.Join(cfg.RunDir, "pods"), 0o700); err != nil {
		program.Close()
		return nil, cannot("make the run directory", err)
	}
	return &Host{cfg: cfg, program: program}, nil
}

// Close lets go of the memory file. Sandboxes go on.
func (h *Host) Close() error { return h.program.Close() }

func (h *Host) dir(uid string) string { return filepath.Join(h.cfg.RunDir, "pods", uid) }

// Sandbox is a live sandbox. It is safe for concurrent use and holds nothing
// that must be closed.
type Sandbox struct {
	host *Host
	uid  string
}

// Ensure makes the sandbox, or completes or adopts a live one with the same ID.
// A live one with another ID is destroyed first, as are the remains of a dead one;
// exit files stay.
func (h *Host) Ensure(ctx context.Context, w Want) (*Sandbox, error) {
	if w.UID == "" || filepath.Base(w.UID) != w.UID || w.UID[0] == '.' {
		return nil, fmt.Errorf("cannot make a sandbox: %q is no pod uid", w.UID)
	}
	s := &Sandbox{h, w.UID}
	switch state, files, err := s.state(ctx); {
	case err == nil && state.Up.ID == w.ID && state.Trouble == "":
		defer closeAll(files)
		if w.HostNetwork || w.Network == nil {
			return s, nil
		}
		if err := w.Network(ctx, files[1]); err != nil {
			return nil, cannot("set up the pod's network", err)
		}
		return s, nil
	case err == nil:
		closeAll(files)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if err := h.end(ctx, w.UID); err != nil {
		return nil, cannot("end the pod's earlier sandbox", err)
	}
	if err := h.create(ctx, s, w); err != nil {
		// A caller that gave up still gets its remains removed.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return nil, errors.Join(err, h.end(clean, w.UID))
	}
	return s, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// create makes the pause process and, at the same time, the network.
func (h *Host) create(ctx context.Context, s *Sandbox, w Want) error {
	if err := os.MkdirAll(h.dir(w.UID), 0o700); err != nil {
		return cannot("make the sandbox's directory", err)
	}
	up := wire.Up{
		UID: w.UID, ID: w.ID, Attempt: w.Attempt, HostPID: w.HostPID,
		SharePID: w.ShareProcessNamespace, OOMScoreAdj: w.OOMScoreAdj,
	}
	flags := uintptr(0)
	if !w.HostNetwork {
		// A pod on the host's network shares the host's name with it.
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
		up.Hostname, up.Domainname = w.Hostname, w.Domainname
	}
	if !w.HostIPC {
		flags |= unix.CLONE_NEWIPC
	}
	for k, v := range w.Sysctls {
		up.Sysctls = append(up.Sysctls, wire.KV{Key: k, Value: v})
	}
	pid, err := h.spawn(w, flags, &up)
	if err != nil {
		return err
	}
	network := make(chan error, 1)
	if w.HostNetwork || w.Network == nil {
		network <- nil
	} else {
		// The pid is our child's and not reaped before its pidfd is closed, so it
		// cannot be another process's.
		netns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
		if err != nil {
			return cannot("open the pod's network namespace", err)
		}
		go func() { // ends with Network; awaited below
			network <- w.Network(ctx, netns)
			netns.Close()
		}()
	}
	state, files, err := s.state(ctx)
	closeAll(files)
	netErr := <-network
	if err != nil {
		return cannot("talk to the new pause process", err)
	}
	if state.Trouble != "" {
		return errors.New(state.Trouble)
	}
	if netErr != nil {
		return cannot("set up the pod's network", netErr)
	}
	return nil
}

// spawn executes podd-pause in new namespaces and in its cgroup.
func (h *Host) spawn(w Want, flags uintptr, up *wire.Up) (pid int, err error) {
	dir, err := os.OpenFile(h.dir(w.UID), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, cannot("open the sandbox's directory", err)
	}
	defer dir.Close()
	listener, err := listen(dir)
	if err != nil {
		return 0, cannot("make the control socket", err)
	}
	defer unix.Close(listener)
	request, err := wire.SealedFile("podd-sandbox", wire.Marshal(up))
	if err != nil {
		return 0, cannot("make the sandbox request", err)
	}
	defer request.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return 0, cannot("start the pause process", err)
	}
	defer null.Close()
	stderr, err := os.OpenFile(filepath.Join(h.dir(w.UID), stderrName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, cannot("start the pause process", err)
	}
	defer stderr.Close()

	pidfd := -1
	attr := &syscall.ProcAttr{
		Dir: "/",
		// disablethp: with transparent huge pages a Go heap of this size takes
		// several megabytes. One processor: each more costs 100 kB per pod, and one
		// copies logs faster than a disk takes them.
		Env:   []string{"GOGC=25", "GODEBUG=disablethp=1", "GOMAXPROCS=1"},
		Files: []uintptr{null.Fd(), null.Fd(), stderr.Fd(), uintptr(listener), request.Fd()},
		// No Pdeathsig: it follows the parent's thread, and Go's threads die.
		Sys: &syscall.SysProcAttr{Cloneflags: flags, Setsid: true, PidFD: &pidfd},
	}
	var tasks, procs []*os.File
	if c := w.Cgroup; c != nil {
		if c.Unified != nil {
			attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(c.Unified.Fd())
		}
		tasks, procs = c.Tasks, c.Procs
	}
	program := "/proc/self/fd/" + strconv.Itoa(int(h.program.Fd()))
	fork := func() (int, error) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		h.cfg.TimerSlack.Restore()
		for _, t := range tasks {
			if _, err := unix.Write(int(t.Fd()), []byte("0")); err != nil {
				return 0, cannot("join the pause process's cgroup", err)
			}
		}
		pid, err := syscall.ForkExec(program, []string{"podd-pause", wire.RolePause, w.UID}, attr)
		if err != nil {
			return 0, cannot("start the pause process", err)
		}
		return pid, nil
	}
	if len(tasks) > 0 {
		// By a thread that joins the cgroups itself and dies: that takes no lock,
		// where moving a process by cgroup.procs takes 5 to 12 ms per hierarchy.
		onSpentThread(func() { pid, err = fork() })
	} else {
		pid, err = fork()
	}
	if err != nil {
		return 0, err
	}
	unix.SetNonblock(pidfd, true)
	child := os.NewFile(uintptr(pidfd), "pidfd")
	if len(tasks) == 0 {
		for _, p := range procs {
			if _, werr := unix.Write(int(p.Fd()), []byte(strconv.Itoa(pid))); werr != nil && err == nil {
				err = cannot("put the pause process into its cgroup", werr)
			}
		}
	}
	if err == nil {
		err = writePid(h.dir(w.UID), pid)
	}
	if err != nil {
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	}
	go reap(pid, child) // ends with the pause process, or with us
	return pid, err
}

// onSpentThread runs f on a thread that ends afterwards, and waits for f. It is
// never the leader thread: that cannot end, and would stay where f put it.
func onSpentThread(f func()) {
	done := make(chan struct{})
	go func() { // awaited at once
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onSpentThread(f) // another thread, as this one is taken
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// reap waits for a child without keeping a thread.
func reap(pid int, pidfd *os.File) {
	defer pidfd.Close()
	rc, err := pidfd.SyscallConn()
	if err != nil {
		return
	}
	rc.Read(func(uintptr) bool {
		n, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		return n == pid || err != nil && err != unix.EINTR
	})
}

// listen makes the control socket. It is reached through the directory's
// descriptor, because a socket path has at most 107 bytes.
func listen(dir *os.File) (int, error) {
	if err := unix.Unlinkat(int(dir.Fd()), socketName, 0); err != nil && err != unix.ENOENT {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, socketAddress(dir)); err == nil {
		err = unix.Fchmodat(int(dir.Fd()), socketName, 0o600, 0)
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func socketAddress(dir *os.File) unix.Sockaddr {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + socketName}
}

// Adopt finds the pod's live sandbox, and what its pause process knows;
// [ErrNoSandbox] if there is none.
func (h *Host) Adopt(ctx context.Context, uid string) (*Sandbox, State, error) {
	s := &Sandbox{h, uid}
	state, files, err := s.state(ctx)
	closeAll(files)
	if errors.Is(err, ErrLost) {
		return nil, State{}, ErrNoSandbox
	}
	if err != nil {
		return nil, State{}, err
	}
	if state.Trouble != "" {
		return nil, State{}, ErrNoSandbox // its making was interrupted, and would have failed
	}
	return s, stateOf(&state), nil
}

// List returns the uids of all pods that have a directory here, alive or not.
func (h *Host) List() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(h.cfg.RunDir, "pods"))
	if err != nil {
		return nil, cannot("list sandboxes", err)
	}
	var uids []string
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, e.Name())
		}
	}
	return uids, nil
}

// Destroy kills the pause process and all containers, and removes what the sandbox has
// in its directory. The directory goes too unless others keep something in it, as the
// agent does with the pod's state. It tolerates anything missing.
func (h *Host) Destroy(ctx context.Context, uid string) error {
	if err := h.end(ctx, uid); err != nil {
		return cannot("end the sandbox", err)
	}
	for _, name := range []string{stderrName, containersName} {
		if err := os.RemoveAll(filepath.Join(h.dir(uid), name)); err != nil {
			return cannot("remove the sandbox's files", err)
		}
	}
	if err := os.Remove(h.dir(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return cannot("remove the sandbox's directory", err)
	}
	return nil
}

// patience is how long a pause process may take to kill its containers before
// it is killed itself.
const patience = 6 * time.Second

// end kills a sandbox's processes and removes its socket.
func (h *Host) end(ctx context.Context, uid string) error {
	dir := h.dir(uid)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Asked for it, the pause process kills its containers and records their
	// exits. What it cannot do any more is done here.
	s := &Sandbox{h, uid}
	short, cancel := context.WithTimeout(ctx, patience)
	err := s.ask(short, wire.KindShutdown, nil)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if p, perr := readPid(dir); perr == nil {
		if err == nil {
			p.wait(time.Second) // it is exiting
		}
		if err := p.kill(); err != nil {
			return err
		}
	}
	// As an fs.FS, because the directory's own name may hold what Glob takes for a
	// pattern.
	files, err := fs.Glob(os.DirFS(dir), containersName+"/*/*/exit")
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := killRecorded(filepath.Join(dir, f)); err != nil {
			return err
		}
	}
	for _, name := range []string{socketName, pidName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
