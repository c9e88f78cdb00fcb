package pause

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"podd/sandbox/stage"
	"podd/sandbox/wire"
)

// keptResults is how many fetched results are kept, for an agent that died
// between fetching one and using it.
const keptResults = 8

// execution is one exec request, under way or finished.
type execution struct {
	id        string
	container *container
	process   wire.Process
	req       wire.Exec

	pid    int
	pidfd  *os.File
	leaf   *os.File // cgroup v2 directory of its own, or nil
	name   string   // of the leaf below the container's directory
	master *os.File // of its terminal, until it is sent
	output *os.File

	started chan struct{} // closed when it runs or cannot
	done    chan struct{} // closed when result or failed is final
	result  wire.ExecDone
	failed  *wire.Failed
	fetched bool // under process.mu

	killing  sync.Mutex
	timedOut bool
	ended    bool
}

// exec serves an exec conversation.
func (p *process) exec(c *wire.Conn, m wire.Message) {
	var req wire.Exec
	if err := wire.Unmarshal(m.Body, &req); err != nil {
		m.CloseFiles()
		answer(c, failedStep("understand the request", err))
		return
	}
	p.mu.Lock()
	e := p.execs[req.RequestID]
	if e == nil {
		e = &execution{id: req.RequestID, req: req, started: make(chan struct{}), done: make(chan struct{})}
		p.execs[req.RequestID] = e
		go p.runExec(e, m.Files) // ends with the command; owns the files
	} else {
		m.CloseFiles()
	}
	p.mu.Unlock()

	gone := make(chan struct{})
	go func() { // ends when the agent hangs up or we do
		c.Receive()
		close(gone)
	}()
	<-e.started
	if e.master != nil {
		c.Send(wire.KindTerminal, nil, e.master)
		e.master.Close()
		e.master = nil
	}
	select {
	case <-e.done:
	case <-gone:
		if !req.KeepOnHangup {
			p.killExec(e, false)
			<-e.done
			p.fetchedExec(e)
		}
		return
	}
	var err error
	if e.failed != nil {
		err = c.Send(wire.KindFailed, e.failed)
	} else {
		err = c.Send(wire.KindExecDone, &e.result)
	}
	if err == nil {
		p.fetchedExec(e)
	}
}

// fetchedExec lets the oldest fetched results go.
func (p *process) fetchedExec(e *execution) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.fetched {
		return
	}
	e.fetched = true
	p.execOrder = append(p.execOrder, e.id)
	for len(p.execOrder) > keptResults {
		delete(p.execs, p.execOrder[0])
		p.execOrder = p.execOrder[1:]
	}
}

// forgetExecs drops the results nobody fetched with their container.
func (p *process) forgetExecs(ct *container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, e := range p.execs {
		select {
		case <-e.done:
			if e.container == ct && !e.fetched {
				delete(p.execs, id)
			}
		default:
		}
	}
}

// runExec runs the command and sets the result.
func (p *process) runExec(e *execution, files []*os.File) {
	defer close(e.done)
	err := p.startExec(e, files)
	if e.container != nil {
		defer e.container.release()
	}
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		e.failed = stage.Failure(err)
		p.removeLeaf(e)
		if e.output != nil {
			e.output.Close()
		}
		close(e.started)
		return
	}
	close(e.started)

	if e.req.TimeoutNano > 0 {
		t := time.AfterFunc(time.Duration(e.req.TimeoutNano), func() { p.killExec(e, true) })
		defer t.Stop()
	}
	collected := make(chan []byte, 1)
	if e.output != nil {
		go collect(e.output, e.req.OutputLimit, collected)
	} else {
		collected <- nil
	}
	code, _ := wait(e.pid, e.pidfd)
	e.killing.Lock()
	e.ended = true
	timedOut := e.timedOut
	e.killing.Unlock()
	if e.output != nil {
		// What the command itself wrote is in the pipe by now; what it left behind
		// running may hold the pipe forever.
		e.output.SetReadDeadline(time.Now().Add(drainBeforeAnnounce))
	}
	e.result = wire.ExecDone{ExitCode: code, TimedOut: timedOut, Output: <-collected}
	e.pidfd.Close()
	p.removeLeaf(e)
}

// collect reads output up to limit and throws the rest away. It owns r.
func collect(r *os.File, limit int, result chan<- []byte) {
	defer r.Close()
	var kept []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if late {
			// On a busy machine the deadline passes before anything was read.
			n = readNow(r, buf)
		}
		kept = append(kept, buf[:min(n, max(0, limit-len(kept)))]...)
		if err != nil && !(late && n == len(buf) && len(kept) < limit) {
			result <- kept
			return
		}
	}
}

// startExec starts the command.
func (p *process) startExec(e *execution, files []*os.File) error {
	req := &e.req
	ct, err := p.find(req.ID)
	if err != nil {
		return err
	}
	if !ct.hold() {
		return errNotRunning
	}
	e.container = ct // released by runExec
	e.process = ct.req.Process
	e.process.Args = req.Args
	if req.SetEnv {
		e.process.Env = req.Env
	}
	if req.Cwd != "" {
		e.process.Cwd = req.Cwd
	}
	e.process.TTY, e.process.Height, e.process.Width = req.TTY, req.Height, req.Width

	next := func() *os.File {
		if len(files) == 0 {
			return nil
		}
		f := files[0]
		files = files[1:]
		return f
	}
	memfd := next()
	if memfd == nil {
		return &wire.Failed{Step: "understand the request", Text: "descriptors are missing"}
	}
	stdio := [3]int{-1, -1, -1}
	for i, given := range [...]bool{req.Stdin, req.Stdout, req.Stderr} {
		if given {
			f := next()
			if f == nil {
				return &wire.Failed{Step: "understand the request", Text: "descriptors are missing"}
			}
			stdio[i] = rawFD(f)
		}
	}
	cgroup := -1
	if req.Unified {
		if f := next(); f != nil {
			cgroup = rawFD(f)
		}
	} else if ct.unified != nil {
		cgroup = p.makeLeaf(e, ct)
	}
	tasks := ct.tasks
	if req.Tasks > 0 && req.Tasks <= len(files) {
		tasks = files[:req.Tasks]
	}
	if req.OutputLimit > 0 && !req.TTY {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return failedStep("make a pipe", err)
		}
		defer unix.Close(pipe[1])
		unix.SetNonblock(pipe[0], true)
		e.output = os.NewFile(uintptr(pipe[0]), "output")
		stdio[1], stdio[2] = pipe[1], pipe[1]
	}
	if ct.req.UseStageForExec {
		return p.execByStage(e, ct, memfd, stdio, cgroup, tasks)
	}
	return p.execOnThread(e, ct, stdio, cgroup, tasks)
}

// joinPID says whether the container has a PID namespace to join.
func (p *process) joinPID() bool { return !p.up.HostPID }

func (p *process) execOnThread(e *execution, ct *container, stdio [3]int, cgroup int, tasks []*os.File) error {
	j := &stage.Joiner{
		Process: &e.process, Target: rawFD(ct.pidfd), PID: p.joinPID(), Cgroup: true,
		CgroupFD: cgroup, Stdio: stdio, Proc: p.proc, Report: -1,
	}
	for _, t := range tasks {
		j.Tasks = append(j.Tasks, rawFD(t))
	}
	p.mu.Lock()
	p.execCount++
	n := p.execCount
	p.mu.Unlock()
	if n&(n-1) == 0 {
		// The first execs make the runtime map more memory, later ones hardly any.
		stage.KeepFromForks(p.proc)
	}
	type result struct {
		pid, master int
		err         error
	}
	done := make(chan result, 1)
	p.onThread(func() {
		var r result
		p.slack.Restore()
		r.pid, r.master, r.err = stage.Join(j)
		done <- r
	})
	r := <-done
	if r.err != nil {
		return r.err
	}
	return e.adopt(r.pid, r.master)
}

// adopt takes over a command that is a child of ours.
func (e *execution) adopt(pid, master int) error {
	if master >= 0 {
		e.master = os.NewFile(uintptr(master), "terminal")
	}
	e.pid = pid
	// Nobody else reaps it, so the pid is its own.
	pidfd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		unix.Kill(pid, unix.SIGKILL)
		unix.Wait4(pid, nil, unix.WALL, nil)
		return failedStep("open a pidfd", err)
	}
	e.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	return nil
}

// execByStage runs the exec from a process of its own, which shares no memory
// with us while it is inside the container.
func (p *process) execByStage(e *execution, ct *container, memfd *os.File, stdio [3]int, cgroup int, tasks []*os.File) error {
	request, err := wire.SealedFile("podd-exec", wire.Marshal(&wire.ExecStage{
		Process: e.process, JoinPID: p.joinPID(), JoinCgroup: true,
	}))
	if err != nil {
		return failedStep("make the exec request", err)
	}
	defer request.Close()
	report, err := stage.NewReport()
	if err != nil {
		return err
	}
	defer report.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failedStep("make a socket", err)
	}
	unix.SetNonblock(pair[0], true)
	sync := os.NewFile(uintptr(pair[0]), "stage")
	defer sync.Close()
	g := program{role: wire.RoleExec, memfd: memfd, cgroup: cgroup, tasks: tasks}
	for _, fd := range stdio {
		g.files = append(g.files, uintptr(max(fd, 0)))
	}
	g.files = append(g.files, uintptr(pair[1]), uintptr(rawFD(request)), uintptr(rawFD(ct.pidfd)), uintptr(rawFD(report)))
	pid, pidfd, err := p.spawn(g)
	unix.Close(pair[1])
	if err != nil {
		return err
	}
	defer pidfd.Close()
	master := -1
	var said error
	for {
		b, fds, herr := hear(sync)
		if herr != nil || len(b) == 0 {
			break
		}
		switch b[0] {
		case stage.SyncReady:
			if len(fds) == 1 {
				master = fds[0]
			}
		case stage.SyncFailed:
			said = heardFailure(b)
		}
	}
	wait(pid, pidfd)
	middle, command := stage.Forked(report)
	if middle != 0 {
		unix.Wait4(middle, nil, unix.WALL, nil)
	}
	if said == nil && (command == 0 || e.process.TTY && master < 0) {
		said = failedStep("run the command", errStageDied)
	}
	if said != nil {
		if command != 0 && p.isCommand(command) {
			unix.Kill(command, unix.SIGKILL)
			unix.Wait4(command, nil, unix.WALL, nil)
		}
		return said
	}
	if !p.isCommand(command) {
		return failedStep("run the command", unix.ECHILD)
	}
	return e.adopt(command, master)
}

// isCommand says whether a pid that a container could have written is that of a
// child of ours, and of no container's main process.
func (p *process) isCommand(pid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ct := range p.order {
		if ct.pid == pid {
			return false
		}
	}
	return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil) == nil
}

// makeLeaf makes a cgroup for the exec below its container's. Without one the
// exec runs in the container's.
func (p *process) makeLeaf(e *execution, ct *container) int {
	p.mu.Lock()
	p.leaf++
	name := leafPrefix + strconv.Itoa(p.leaf)
	p.mu.Unlock()
	dir := rawFD(ct.unified)
	if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return dir
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		return dir
	}
	e.leaf, e.name = os.NewFile(uintptr(fd), name), name
	return fd
}

const leafPrefix = "podd-exec-"

// removeLeaf removes the exec's cgroup. Where the command left something running
// it stays, and goes with the container.
func (p *process) removeLeaf(e *execution) {
	if e.leaf == nil {
		return
	}
	e.killing.Lock()
	defer e.killing.Unlock()
	e.leaf.Close()
	e.leaf = nil
	dir, name := rawFD(e.container.unified), e.name
	if !e.timedOut {
		removedWithin(1, 0, dir, name)
		return
	}
	// A process that was killed leaves its cgroup a moment after its death shows.
	if removedWithin(20, time.Millisecond, dir, name) {
		return
	}
	// On a starved machine it takes longer. The result does not wait for that.
	if ct := e.container; ct.hold() {
		go func() { // ends with the cgroup, or after a minute; owns nothing
			defer ct.release()
			removedWithin(600, 100*time.Millisecond, dir, name)
		}()
	}
}

// removedWithin removes a cgroup as soon as it is empty. It reports false if
// that was not so in all the rounds.
func removedWithin(rounds int, pause time.Duration, dir int, name string) bool {
	for range rounds {
		if unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) != unix.EBUSY {
			return true
		}
		time.Sleep(pause)
	}
	return false
}

// removeLeaves removes exec cgroups that outlived their execs, once their
// processes were killed.
func removeLeaves(dir int) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	d := os.NewFile(uintptr(fd), "cgroup")
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, n := range names {
		if len(n) <= len(leafPrefix) || n[:len(leafPrefix)] != leafPrefix {
			continue
		}
		removedWithin(50, time.Millisecond, dir, n)
	}
}

// killExec kills the command and everything it started.
func (p *process) killExec(e *execution, timedOut bool) {
	e.killing.Lock()
	defer e.killing.Unlock()
	if e.ended || e.pidfd == nil {
		return
	}
	if timedOut {
		e.timedOut = true
	}
	if e.leaf == nil || killUnified(rawFD(e.leaf)) != nil {
		p.killTree(e.pid)
	}
	unix.PidfdSendSignal(rawFD(e.pidfd), unix.SIGKILL, nil, 0)
}

// killTree kills a process and its descendants, where there is no cgroup for
// them: each is stopped before its children are listed. A process that was
// disowned by a dead parent is not found.
func (p *process) killTree(pid int) {
	if pid <= 1 {
		return
	}
	unix.Kill(pid, unix.SIGSTOP)
	n := strconv.Itoa(pid)
	if fd, err := unix.Openat(p.proc, n+"/task/"+n+"/children", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		buf := make([]byte, 4096)
		m, _ := unix.Read(fd, buf)
		unix.Close(fd)
		child := 0
		for _, c := range buf[:max(m, 0)] {
			if c >= '0' && c <= '9' {
				child = child*10 + int(c-'0')
			} else {
				p.killTree(child)
				child = 0
			}
		}
	}
	unix.Kill(pid, unix.SIGKILL)
}
