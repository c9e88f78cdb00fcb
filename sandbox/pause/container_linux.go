package pause

import (
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"podd/sandbox/stage"
	"podd/sandbox/wire"
)

// container is one attempt. What is set in launch is not changed later, but for
// the fields below mu.
type container struct {
	req      wire.Start
	pid      int
	pidfd    *os.File
	exitFile *os.File
	unified  *os.File // cgroup v2 directory or nil
	procs    []*os.File
	tasks    []*os.File
	log      *logFile
	stdin    *os.File // our end of its stdin or terminal; nil: none
	output   []*os.File

	settled chan struct{} // closed when the start succeeded or failed
	failed  *wire.Failed  // set before settled is closed
	exited  chan struct{} // closed when the exit is recorded
	drained chan struct{} // closed when all output is in the log

	mu         sync.Mutex
	inputTaken bool      // by the one client that stdinOnce allows
	clients    []*client // attached; the slice is never changed, but replaced
	startedAt  time.Time
	exit       *wire.Container // complete record, nil while it runs
	holders    int             // execs, and the container itself while it runs
}

func (ct *container) state() wire.Container {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if ct.exit != nil {
		return *ct.exit
	}
	return wire.Container{ID: ct.req.ID, Name: ct.req.Name, Attempt: ct.req.Attempt, Pid: ct.pid, StartedAt: ct.startedAt.UnixNano()}
}

// running says whether the container was started and has not exited.
func (ct *container) running() bool {
	select {
	case <-ct.settled:
	default:
		return false
	}
	select {
	case <-ct.exited:
		return false
	default:
		return ct.failed == nil
	}
}

// splitStart distributes the descriptors of a start request.
func splitStart(req *wire.Start, files []*os.File) (ct *container, memfd, request *os.File, trees []*os.File, ok bool) {
	next := func() *os.File {
		if len(files) == 0 {
			return nil
		}
		f := files[0]
		files = files[1:]
		return f
	}
	ct = &container{req: *req, holders: 1, settled: make(chan struct{}), exited: make(chan struct{}), drained: make(chan struct{})}
	memfd, request, ct.exitFile = next(), next(), next()
	var logDir *os.File
	if req.LogName != "" {
		logDir = next()
	}
	if req.Unified {
		ct.unified = next()
	}
	if req.Procs < 0 || req.Tasks < 0 || len(files) < req.Procs+req.Tasks+1 {
		return nil, nil, nil, nil, false
	}
	for range req.Procs {
		ct.procs = append(ct.procs, next())
	}
	for range req.Tasks {
		ct.tasks = append(ct.tasks, next())
	}
	ct.log = &logFile{dir: logDir, name: req.LogName, maxBytes: req.LogMaxBytes, maxFiles: req.LogMaxFiles}
	return ct, memfd, request, files, true
}

// launch runs a container up to its command. ready is called when only the
// execve is missing.
func (p *process) launch(ct *container, memfd, request *os.File, trees []*os.File, ready func(pid int) error) error {
	req := &ct.req
	if ct.log.dir != nil {
		if err := ct.log.reopen(); err != nil {
			return err
		}
	}
	// Theirs are closed here once the stage has them.
	var theirs []int
	defer func() {
		for _, fd := range theirs {
			unix.Close(fd)
		}
	}()
	stdio := []uintptr{0, 0, 0} // our null device: the stage opens the container's
	pipe := func(reading bool, fd int) error {
		var e [2]int
		if err := unix.Pipe2(e[:], unix.O_CLOEXEC); err != nil {
			return failedStep("make a pipe", err)
		}
		ours, their := e[0], e[1]
		if !reading {
			ours, their = e[1], e[0]
		}
		unix.SetNonblock(ours, true)
		stdio[fd] = uintptr(their)
		theirs = append(theirs, their)
		f := os.NewFile(uintptr(ours), "container's stdio")
		if reading {
			unix.FcntlInt(uintptr(ours), unix.F_SETPIPE_SZ, 256<<10) // may be refused
			ct.output = append(ct.output, f)
		} else {
			ct.stdin = f
		}
		return nil
	}
	if !req.TTY {
		if req.Stdin {
			if err := pipe(false, 0); err != nil {
				return err
			}
		}
		for fd := 1; fd <= 2; fd++ {
			if err := pipe(true, fd); err != nil {
				return err
			}
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failedStep("make a socket", err)
	}
	theirs = append(theirs, pair[1])
	unix.SetNonblock(pair[0], true)
	sync := os.NewFile(uintptr(pair[0]), "stage")
	defer sync.Close()

	g := program{role: wire.RoleStage, memfd: memfd, flags: unix.CLONE_NEWNS, cgroup: -1, tasks: ct.tasks}
	g.files = append(stdio, uintptr(pair[1]), uintptr(rawFD(request)))
	for _, t := range trees {
		g.files = append(g.files, uintptr(rawFD(t)))
	}
	if ct.unified != nil {
		g.cgroup = rawFD(ct.unified)
	}
	switch {
	case p.up.HostPID:
	case p.up.SharePID:
		if g.pidns, err = p.sharedPID(memfd); err != nil {
			return err
		}
	case req.PIDOf != "":
		if g.pidns, err = p.pidOf(req.PIDOf); err != nil {
			return err
		}
		defer g.pidns.Close()
	default:
		g.flags |= unix.CLONE_NEWPID
	}
	if ct.pid, ct.pidfd, err = p.spawn(g); err != nil {
		return err
	}
	for _, fd := range theirs {
		unix.Close(fd)
	}
	theirs = nil
	if err := p.guide(ct, sync, ready); err != nil {
		// Not by cgroup.kill, as a stage has no children: some kernels (6.18 among
		// them) kill whatever is cloned into a cgroup after that was once used on it,
		// and the start may be tried again.
		unix.PidfdSendSignal(rawFD(ct.pidfd), unix.SIGKILL, nil, 0)
		wait(ct.pid, ct.pidfd)
		return err
	}
	return nil
}

// guide leads the stage to its execve; see package wire for the conversation.
func (p *process) guide(ct *container, sync *os.File, ready func(pid int) error) error {
	if len(ct.tasks) == 0 {
		pid := []byte(strconv.Itoa(ct.pid))
		for _, f := range ct.procs {
			if _, err := unix.Write(rawFD(f), pid); err != nil {
				return failedStep("put the container into its cgroup", err)
			}
		}
	}
	if err := say(sync, stage.SyncJoined); err != nil {
		return stageGone(sync, err)
	}
	b, files, err := hear(sync)
	if err == nil && len(b) > 0 && b[0] == stage.SyncFailed {
		return heardFailure(b)
	}
	if err != nil || len(b) == 0 || b[0] != stage.SyncReady {
		return failedStep("prepare the container", errStageDied)
	}
	if ct.req.TTY {
		if len(files) != 1 {
			return failedStep("prepare the container", errStageDied)
		}
		unix.SetNonblock(files[0], true)
		console := os.NewFile(uintptr(files[0]), "terminal")
		ct.output = append(ct.output, console)
		if ct.req.Stdin {
			ct.stdin = console
		}
	}
	if err := ready(ct.pid); err != nil {
		return err
	}
	started := time.Now()
	ct.mu.Lock()
	ct.startedAt = started
	ct.mu.Unlock()
	if err := ct.recordStart(p.startTicks(ct.pid)); err != nil {
		return failedStep("write the exit file", err)
	}
	if err := say(sync, stage.SyncGo); err != nil {
		return stageGone(sync, err)
	}
	// The hang-up means that the command runs: the socket closes on exec.
	b, _, err = hear(sync)
	if err == nil && len(b) > 0 && b[0] == stage.SyncFailed {
		return heardFailure(b)
	}
	return nil
}

// stageGone prefers what the stage said before it hung up.
func stageGone(sync *os.File, err error) error {
	if b, _, herr := hear(sync); herr == nil && len(b) > 0 && b[0] == stage.SyncFailed {
		return heardFailure(b)
	}
	return failedStep("prepare the container", err)
}

type plainError string

func (e plainError) Error() string { return string(e) }

const errStageDied = plainError("its first process was killed before the command ran; a memory or pids limit may be too small")

func heardFailure(b []byte) error {
	var f wire.Failed
	if err := wire.Unmarshal(b[1:], &f); err != nil {
		return failedStep("understand the stage", err)
	}
	return &f
}

func say(f *os.File, b byte) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	werr := rc.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte{b}, nil, nil, unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if werr != nil {
		return werr
	}
	return err
}

// hear waits for a message of a stage; an empty one is its hang-up.
func hear(f *os.File) (b []byte, fds []int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	buf, oob := make([]byte, 1024), make([]byte, unix.CmsgSpace(4))
	n, oobn := 0, 0
	rerr := rc.Read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.ECONNRESET {
			// The stage ended before it read what was said to it. The kernel tells
			// that first, and once; what the stage said before is still there.
			n, oobn, _, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		}
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if rerr != nil {
		err = rerr
	}
	if err == unix.ECONNRESET {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if oobn > 0 {
		if cmsgs, perr := unix.ParseSocketControlMessage(oob[:oobn]); perr == nil && len(cmsgs) == 1 {
			fds, _ = unix.ParseUnixRights(&cmsgs[0])
		}
	}
	return buf[:n], fds, nil
}

// startTicks returns when a process started, in clock ticks since boot
// (/proc/PID/stat, field 22): with the pid it names a process for good.
func (p *process) startTicks(pid int) string {
	fd, err := unix.Openat(p.proc, strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "0"
	}
	defer unix.Close(fd)
	buf := make([]byte, 1024)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return "0"
	}
	return statTicks(string(buf[:n]))
}

// recordStart and recordExit write the lines that sandbox.ReadExitFile reads.
func (ct *container) recordStart(ticks string) error {
	r := &ct.req
	_, err := ct.exitFile.WriteString("started id=" + r.ID + " name=" + r.Name + " attempt=" + strconv.Itoa(r.Attempt) +
		" pid=" + strconv.Itoa(ct.pid) + " ticks=" + ticks + " at=" + strconv.FormatInt(ct.startedAt.UnixNano(), 10) + "\n")
	return err
}

func (ct *container) recordExit(x *wire.Container) {
	// The run directory is in memory; if even that is full, the record here, in
	// this process, still serves.
	ct.exitFile.WriteString("exited code=" + strconv.Itoa(x.Code) + " signal=" + strconv.Itoa(x.Signal) +
		" at=" + strconv.FormatInt(x.ExitedAt, 10) + "\n")
	ct.exitFile.Close()
}

// drainBeforeAnnounce is how long an exit waits for its last output. Usually it
// is there: everything that could write is dead.
const (
	drainBeforeAnnounce = 20 * time.Millisecond
	drain               = time.Second
)

// follow waits for the container's exit and records it. It is started by
// process.start once the command runs, ends with the container, and owns its
// output.
func (p *process) follow(ct *container) {
	var streams sync.WaitGroup
	tags := []string{"stdout", "stderr"}
	for i, r := range ct.output {
		streams.Add(1)
		go copyLog(r, tags[i], ct.log, func(p []byte) { ct.tee(i, p) }, streams.Done)
	}
	go func() { streams.Wait(); close(ct.drained) }()

	code, signal := wait(ct.pid, ct.pidfd)
	x := ct.state()
	x.Exited, x.Code, x.Signal, x.ExitedAt = true, code, signal, time.Now().UnixNano()
	p.killCgroup(ct)
	for _, r := range ct.output {
		r.SetReadDeadline(time.Now().Add(drain))
	}
	select {
	case <-ct.drained:
	case <-time.After(drainBeforeAnnounce):
	}
	ct.recordExit(&x)
	ct.mu.Lock()
	ct.exit = &x
	ct.mu.Unlock()
	close(ct.exited)
	p.announce()

	<-ct.drained
	if ct.stdin != nil {
		ct.stdin.Close()
	}
	ct.log.Close()
	ct.release()
}

// hold keeps the descriptors of a running container open until release, so that
// their numbers are no other files'. It reports false if the container does not
// run.
func (ct *container) hold() bool {
	if !ct.running() {
		return false
	}
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if ct.holders == 0 {
		return false
	}
	ct.holders++
	return true
}

// release lets go of what only a running container and its execs need.
func (ct *container) release() {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if ct.holders--; ct.holders > 0 {
		return
	}
	for _, f := range append(append([]*os.File{ct.unified, ct.pidfd}, ct.procs...), ct.tasks...) {
		if f != nil {
			f.Close()
		}
	}
}

// killCgroup kills everything in a container's cgroup, the execs' included.
func (p *process) killCgroup(ct *container) {
	if ct.unified != nil && killUnified(rawFD(ct.unified)) == nil {
		removeLeaves(rawFD(ct.unified))
		return
	}
	for _, f := range ct.procs {
		if p.killListed(f) {
			return
		}
	}
}

func killUnified(dir int) error {
	fd, err := unix.Openat(dir, "cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("1"))
	return err
}

// killListed kills what a cgroup.procs file lists until it lists nothing but us:
// a thread on its way to fork an exec into the cgroup shows there by our pid. It
// reports false if the file cannot be read.
func (p *process) killListed(f *os.File) bool {
	self := unix.Getpid()
	for range 1000 {
		buf := make([]byte, 8192)
		n, err := unix.Pread(rawFD(f), buf, 0)
		if err != nil {
			return false
		}
		pid, killed := 0, 0
		for _, c := range buf[:n] {
			if c >= '0' && c <= '9' {
				pid = pid*10 + int(c-'0')
				continue
			}
			if pid > 1 && pid != self {
				unix.Kill(pid, unix.SIGKILL)
				killed++
			}
			pid = 0
		}
		if killed == 0 {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return true
}

// announce wakes everybody who watches.
func (p *process) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watchers {
		select {
		case w <- struct{}{}:
		default: // it is awake already
		}
	}
}
