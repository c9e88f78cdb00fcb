package pause

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"podd/internal/timerslack"
	"podd/sandbox/stage"
	"podd/sandbox/wire"
)

// slack is by how much our timers may be late. It halves what an exec costs us, of
// which 45 looks of the runtime's monitor were the larger part.
const slack = 2 * time.Millisecond

// process is the state of a pause process.
type process struct {
	up      wire.Up
	upAt    time.Time
	trouble string // why the sandbox is of no use; set before serving
	proc    int    // detached procfs of our PID namespace
	slack   timerslack.Inherited

	forks chan struct{} // bounds the throw-away threads alive at once

	mu         sync.Mutex
	containers map[string]*container
	order      []*container
	execs      map[string]*execution
	execOrder  []string // finished and fetched, the oldest first
	watchers   map[chan struct{}]struct{}
	held       []int
	reaper     *os.File // pidfd of PID 1 of the shared PID namespace
	reaperLife *os.File // our end of the pipe that it lives by
	leaf       int      // counts exec cgroups
	execCount  int      // on threads
}

// Main runs the role that the program was executed for and returns its exit
// code. The caller is the main goroutine, locked to the leader thread in an init
// function.
func Main(args []string) int {
	stage.Harden()
	role := ""
	if len(args) > 1 {
		role = args[1]
	}
	switch role {
	case wire.RolePause:
		return runPause()
	case wire.RoleStage:
		return stage.Main()
	case wire.RoleExec:
		return stage.ExecMain()
	case wire.RoleReaper:
		return stage.Reaper()
	}
	os.Stderr.WriteString("podd-pause is started by podd; it is of no use by itself\n")
	return 2
}

func runPause() int {
	unix.CloseOnExec(wire.PauseListener)
	request := os.NewFile(wire.PauseRequest, "request")
	body, err := wire.ReadSealed(request)
	request.Close()
	p := &process{
		upAt:       time.Now(),
		forks:      make(chan struct{}, 16),
		containers: map[string]*container{},
		execs:      map[string]*execution{},
		watchers:   map[chan struct{}]struct{}{},
		slack:      timerslack.Relax(slack),
	}
	// The zone is read now, on this side of every mount namespace: a thread inside
	// a container would read the container's.
	p.upAt.Zone()
	if err == nil {
		err = wire.Unmarshal(body, &p.up)
	}
	if err == nil {
		p.proc, err = stage.ProcFS()
	}
	if err == nil {
		p.setOOMScore()
		err = p.setNames()
	}
	for _, kv := range p.up.Sysctls {
		if err == nil {
			err = stage.SetSysctl(p.proc, kv.Key, kv.Value)
		}
	}
	if err != nil {
		p.trouble = err.Error()
	}
	go p.serve(wire.PauseListener)
	select {}
}

// setOOMScore takes the wanted score or, without CAP_SYS_RESOURCE, the lowest
// that the kernel lets us have.
func (p *process) setOOMScore() {
	fd, err := unix.Openat(p.proc, "self/oom_score_adj", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	try := func(n int) bool {
		_, err := unix.Pwrite(fd, []byte(strconv.Itoa(n)), 0)
		return err == nil
	}
	low := p.up.OOMScoreAdj
	if try(low) {
		return
	}
	buf := make([]byte, 16)
	n, _ := unix.Pread(fd, buf, 0)
	if n > 0 && buf[n-1] == '\n' {
		n--
	}
	high, err := strconv.Atoi(string(buf[:n])) // permitted, since we have it
	for err == nil && high-low > 1 {
		if mid := low + (high-low)/2; try(mid) {
			high = mid
		} else {
			low = mid
		}
	}
}

func (p *process) setNames() error {
	if p.up.Hostname != "" {
		if err := unix.Sethostname([]byte(p.up.Hostname)); err != nil {
			return &wire.Failed{Step: "set the host name", Text: err.Error()}
		}
	}
	if p.up.Domainname != "" {
		if err := unix.Setdomainname([]byte(p.up.Domainname)); err != nil {
			return &wire.Failed{Step: "set the domain name", Text: err.Error()}
		}
	}
	return nil
}

// program describes a process to be made from the stage's memory file.
type program struct {
	role   string
	memfd  *os.File
	files  []uintptr // from descriptor 0 on
	flags  uintptr   // of clone
	cgroup int       // cgroup v2 directory or -1
	tasks  []*os.File
	pidns  *os.File // of whom to share the PID namespace; nil: see flags
}

// spawn makes a process and returns its pid and pidfd.
//
// The tasks files of cgroup v1 and the PID namespace are joined by the thread
// that forks: a thread writing itself into tasks takes no lock, moving a finished
// process by cgroup.procs takes a global one for 5 to 12 ms per hierarchy.
func (p *process) spawn(g program) (int, *os.File, error) {
	if len(g.tasks) == 0 && g.pidns == nil {
		return p.fork(g)
	}
	type result struct {
		pid  int
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	p.onThread(func() {
		var r result
		for _, t := range g.tasks {
			if r.err == nil {
				_, err := unix.Write(rawFD(t), []byte("0"))
				r.err = failedStep("join the cgroup", err)
			}
		}
		if r.err == nil && g.pidns != nil {
			r.err = failedStep("join the pod's PID namespace", unix.Setns(rawFD(g.pidns), unix.CLONE_NEWPID))
		}
		if r.err == nil {
			r.pid, r.file, r.err = p.fork(g)
		}
		done <- r
	})
	r := <-done
	return r.pid, r.file, r.err
}

func (p *process) fork(g program) (int, *os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.slack.Restore()
	pidfd := -1
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOGC=off", "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1"},
		Files: g.files,
		Sys:   &syscall.SysProcAttr{Cloneflags: g.flags, PidFD: &pidfd},
	}
	if g.role == wire.RoleReaper {
		attr.Env = []string{"GOGC=off", "GODEBUG=disablethp=1", "GOMAXPROCS=1"}
	}
	if g.cgroup >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, g.cgroup
	}
	memfd, err := aboveRemapped(rawFD(g.memfd), g.files)
	if err != nil {
		return 0, nil, failedStep("start a "+g.role+" process", err)
	}
	defer unix.Close(memfd)
	path := "/proc/self/fd/" + strconv.Itoa(memfd)
	pid, err := syscall.ForkExec(path, []string{"podd-pause", g.role}, attr)
	if err != nil {
		return 0, nil, failedStep("start a "+g.role+" process", err)
	}
	unix.SetNonblock(pidfd, true) // so that its end is waited for by the poller
	return pid, os.NewFile(uintptr(pidfd), "pidfd"), nil
}

// aboveRemapped duplicates fd to a number that the new process does not reuse
// while it moves its files to 0 and up: before that, ForkExec puts copies of
// those in the way above the highest of them.
func aboveRemapped(fd int, files []uintptr) (int, error) {
	high := len(files)
	for _, f := range files {
		high = max(high, int(f))
	}
	const pipe = 2 // ForkExec's own descriptor and the step behind it
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, high+len(files)+pipe+1)
}

func failedStep(step string, err error) error {
	if err == nil {
		return nil
	}
	return &wire.Failed{Step: step, Text: err.Error()}
}

// rawFD returns a file's descriptor number and leaves its mode alone.
func rawFD(f *os.File) int {
	n := -1
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { n = int(fd) })
	}
	return n
}

// wait reaps the process that a pidfd is of and returns how it ended. No thread
// is kept waiting.
func wait(pid int, pidfd *os.File) (code, signal int) {
	var ws unix.WaitStatus
	rc, err := pidfd.SyscallConn()
	if err == nil {
		err = rc.Read(func(uintptr) bool {
			n, err := unix.Wait4(pid, &ws, unix.WNOHANG|unix.WALL, nil)
			return n == pid || err != nil && err != unix.EINTR
		})
	}
	if err != nil {
		unix.Wait4(pid, &ws, unix.WALL, nil)
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal()), int(ws.Signal())
	}
	return ws.ExitStatus(), 0
}

// pidOf returns a pidfd of a running container's main process. The caller closes it.
func (p *process) pidOf(id string) (*os.File, error) {
	ct, err := p.find(id)
	if err != nil {
		return nil, err
	}
	if !ct.hold() {
		return nil, &wire.Failed{Code: wire.CodeNoContainer, Text: "the container whose processes are to be shared is not running"}
	}
	defer ct.release()
	fd, err := unix.FcntlInt(uintptr(rawFD(ct.pidfd)), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, failedStep("refer to the container's process", err)
	}
	return os.NewFile(uintptr(fd), "process of a container"), nil
}

// sharedPID returns a pidfd of the reaper, which is made with the first
// container that shares the PID namespace.
func (p *process) sharedPID(memfd *os.File) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaper != nil {
		if unix.PidfdSendSignal(rawFD(p.reaper), 0, nil, 0) == nil {
			return p.reaper, nil
		}
		p.reaper.Close()
		p.reaperLife.Close()
		p.reaper = nil
	}
	var life [2]int
	if err := unix.Pipe2(life[:], unix.O_CLOEXEC); err != nil {
		return nil, failedStep("make a pipe", err)
	}
	defer unix.Close(life[0])
	pid, pidfd, err := p.fork(program{
		role: wire.RoleReaper, memfd: memfd, cgroup: -1,
		files: []uintptr{0, 0, 0, uintptr(life[0])},
		flags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
	})
	if err != nil {
		unix.Close(life[1])
		return nil, err
	}
	p.reaper, p.reaperLife = pidfd, os.NewFile(uintptr(life[1]), "life of the reaper")
	go wait(pid, pidfd) // ends with the reaper
	return pidfd, nil
}
