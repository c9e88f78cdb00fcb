package pause

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// serve answers the control socket until the process dies.
func (p *process) serve(listener int) {
	// Listening again makes the socket's peer credentials ours instead of those of
	// the agent that made it.
	unix.Listen(listener, 128)
	unix.SetNonblock(listener, true)
	f := os.NewFile(uintptr(listener), "control socket")
	rc, err := f.SyscallConn()
	if err != nil {
		panic("podd-pause: control socket: " + err.Error())
	}
	for {
		fd := -1
		rerr := rc.Read(func(l uintptr) bool {
			fd, _, err = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return err != unix.EAGAIN
		})
		if rerr != nil {
			panic("podd-pause: control socket: " + rerr.Error())
		}
		if err != nil {
			if err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOMEM {
				time.Sleep(10 * time.Millisecond)
			}
			continue
		}
		// The directory lets nobody but root in; this holds even where it does not.
		if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil || cred.Uid != uint32(unix.Geteuid()) {
			unix.Close(fd)
			continue
		}
		c, err := wire.NewConn(fd)
		if err != nil {
			continue
		}
		go p.converse(c) // ends with its connection
	}
}

// converse serves one conversation.
func (p *process) converse(c *wire.Conn) {
	defer c.Close()
	m, err := c.Receive()
	if err != nil {
		if err == wire.ErrVersion {
			c.Send(wire.KindFailed, &wire.Failed{Code: wire.CodeVersion, Text: err.Error()})
		}
		return
	}
	switch m.Kind {
	case wire.KindState:
		p.sendState(c)
	case wire.KindHold:
		p.hold(m.Files)
		c.Send(wire.KindDone, nil)
		return
	case wire.KindStart:
		p.start(c, m) // takes the files
		return
	case wire.KindExec:
		p.exec(c, m) // takes the files
		return
	case wire.KindAttach:
		p.attach(c, m) // takes the files
		return
	case wire.KindWatch:
		p.watch(c)
	case wire.KindShutdown:
		p.shutdown()
		c.Send(wire.KindDone, nil)
		os.Exit(0)
	default:
		answer(c, p.command(m))
	}
	m.CloseFiles()
}

// answer ends a conversation that has no result of its own.
func answer(c *wire.Conn, err error) {
	if err == nil {
		c.Send(wire.KindDone, nil)
		return
	}
	f, ok := err.(*wire.Failed)
	if !ok {
		f = &wire.Failed{Text: err.Error()}
	}
	c.Send(wire.KindFailed, f)
}

func (p *process) sendState(c *wire.Conn) {
	s := wire.State{Up: p.up, Pid: unix.Getpid(), UpAt: p.upAt.UnixNano(), Trouble: p.trouble}
	p.mu.Lock()
	order := append([]*container(nil), p.order...)
	p.mu.Unlock()
	for _, ct := range order {
		select {
		case <-ct.settled:
			if ct.failed == nil {
				s.Containers = append(s.Containers, ct.state())
			}
		default: // not started yet
		}
	}
	pidfd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		answer(c, failedStep("open a pidfd", err))
		return
	}
	self := os.NewFile(uintptr(pidfd), "pidfd")
	defer self.Close()
	nsfd, err := unix.Openat(p.proc, "self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		answer(c, failedStep("open the network namespace", err))
		return
	}
	netns := os.NewFile(uintptr(nsfd), "netns")
	defer netns.Close()
	c.Send(wire.KindStateIs, &s, self, netns)
}

// hold keeps these descriptors and lets go of those held before. They are kept
// as numbers: as files, the runtime would watch them.
func (p *process) hold(files []*os.File) {
	var now []int
	for _, f := range files {
		if fd, err := unix.FcntlInt(uintptr(rawFD(f)), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			now = append(now, fd)
		}
		f.Close()
	}
	p.mu.Lock()
	before := p.held
	p.held = now
	p.mu.Unlock()
	for _, fd := range before {
		unix.Close(fd)
	}
}

// start serves a start conversation.
func (p *process) start(c *wire.Conn, m wire.Message) {
	// What a container keeps is taken out of files below; the rest goes.
	var req wire.Start
	if err := wire.Unmarshal(m.Body, &req); err != nil {
		m.CloseFiles()
		answer(c, failedStep("understand the request", err))
		return
	}
	p.mu.Lock()
	for known := p.containers[req.ID]; known != nil; known = p.containers[req.ID] {
		p.mu.Unlock()
		<-known.settled
		if known.failed == nil {
			m.CloseFiles()
			p.sendStarted(c, known)
			return
		}
		// That start failed, perhaps because its agent died. This is a new one.
		p.mu.Lock()
	}
	ct, memfd, request, trees, ok := splitStart(&req, m.Files)
	if !ok {
		p.mu.Unlock()
		m.CloseFiles()
		answer(c, &wire.Failed{Step: "understand the request", Text: "descriptors are missing"})
		return
	}
	p.containers[req.ID] = ct
	p.order = append(p.order, ct)
	p.mu.Unlock()

	err := p.launch(ct, memfd, request, trees, func(pid int) error {
		if err := c.Send(wire.KindReady, &wire.Started{Pid: pid}); err != nil {
			return failedStep("report ready", err)
		}
		m, err := c.Receive()
		if err == nil {
			m.CloseFiles()
		}
		if err != nil || m.Kind != wire.KindGo {
			return &wire.Failed{Step: "go on", Text: "the start was given up"}
		}
		return nil
	})
	for _, f := range append([]*os.File{memfd, request}, trees...) {
		f.Close()
	}
	if err != nil {
		p.drop(ct)
		ct.discard()
		f, ok := err.(*wire.Failed)
		if !ok {
			f = &wire.Failed{Text: err.Error()}
		}
		ct.failed = f
	} else {
		go p.follow(ct)
	}
	close(ct.settled)
	p.sendStarted(c, ct)
}

func (p *process) sendStarted(c *wire.Conn, ct *container) {
	if ct.failed != nil {
		c.Send(wire.KindFailed, ct.failed)
		return
	}
	s := ct.state()
	c.Send(wire.KindStarted, &wire.Started{Pid: s.Pid, At: s.StartedAt})
}

// discard closes everything of a container that never ran.
func (ct *container) discard() {
	for _, f := range append(ct.output, ct.stdin, ct.exitFile) {
		if f != nil {
			f.Close()
		}
	}
	if ct.log.dir != nil {
		ct.log.Close()
		ct.log.dir.Close()
	}
	ct.release()
}

func (p *process) drop(ct *container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.containers, ct.req.ID)
	for i, o := range p.order {
		if o == ct {
			p.order = append(p.order[:i:i], p.order[i+1:]...)
			break
		}
	}
}

var (
	errNoContainer = &wire.Failed{Code: wire.CodeNoContainer, Text: "no such container"}
	errNotRunning  = &wire.Failed{Code: wire.CodeNoContainer, Text: "the container is not running"}
)

// find returns a container whose start is settled.
func (p *process) find(id string) (*container, error) {
	p.mu.Lock()
	ct := p.containers[id]
	p.mu.Unlock()
	if ct == nil {
		return nil, errNoContainer
	}
	<-ct.settled
	if ct.failed != nil {
		return nil, errNoContainer
	}
	return ct, nil
}

// command serves the requests that are about one container and have no result.
func (p *process) command(m wire.Message) error {
	var n wire.Name
	if err := wire.Unmarshal(m.Body, &n); err != nil {
		return failedStep("understand the request", err)
	}
	ct, err := p.find(n.ID)
	if err != nil {
		if m.Kind == wire.KindForget {
			return nil // forgotten before
		}
		return err
	}
	switch m.Kind {
	case wire.KindSignal:
		if !ct.hold() {
			return errNoContainer
		}
		defer ct.release()
		err := unix.PidfdSendSignal(rawFD(ct.pidfd), unix.Signal(n.Number), nil, 0)
		if err == unix.ESRCH { // it exited meanwhile
			return errNoContainer
		}
		return failedStep("signal the container", err)
	case wire.KindKill:
		p.kill(ct)
		return nil
	case wire.KindForget:
		if ct.running() {
			return &wire.Failed{Step: "forget the container", Text: "it still runs"}
		}
		p.drop(ct)
		ct.log.Close()
		p.forgetExecs(ct)
		return nil
	case wire.KindRotate:
		return ct.log.Rotate()
	case wire.KindReopen:
		return ct.log.Reopen()
	}
	return &wire.Failed{Code: wire.CodeVersion, Text: "this pause process does not know the request; it is older than the agent"}
}

// kill kills a container and everything in its cgroup, if it runs.
func (p *process) kill(ct *container) {
	if !ct.hold() {
		return
	}
	defer ct.release()
	unix.PidfdSendSignal(rawFD(ct.pidfd), unix.SIGKILL, nil, 0)
	p.killCgroup(ct)
}

// watch reports exits until the agent hangs up. What is not acknowledged is
// reported again to the next one.
func (p *process) watch(c *wire.Conn) {
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	p.mu.Lock()
	p.watchers[wake] = struct{}{}
	p.mu.Unlock()
	gone := make(chan struct{})
	go func() { // ends when the agent hangs up
		for {
			m, err := c.Receive()
			if err != nil {
				close(gone)
				return
			}
			m.CloseFiles()
		}
	}()
	told := map[*container]bool{}
	for alive := true; alive; {
		select {
		case <-wake:
		case <-gone:
			alive = false
		}
		p.mu.Lock()
		order := append([]*container(nil), p.order...)
		p.mu.Unlock()
		now := map[*container]bool{}
		for _, ct := range order {
			if told[ct] {
				now[ct] = true
				continue
			}
			if s := ct.state(); alive && s.Exited {
				alive = c.Send(wire.KindExited, &s) == nil
				now[ct] = true
			}
		}
		told = now
	}
	p.mu.Lock()
	delete(p.watchers, wake)
	p.mu.Unlock()
	// The connection is closed by the caller, which ends the reader.
}

// shutdown kills every container and waits until their exits are recorded.
func (p *process) shutdown() {
	p.mu.Lock()
	order := append([]*container(nil), p.order...)
	p.mu.Unlock()
	for _, ct := range order {
		p.kill(ct)
	}
	deadline := time.After(5 * time.Second)
	for _, ct := range order {
		if !ct.running() {
			continue
		}
		select {
		case <-ct.exited:
		case <-deadline:
			return
		}
	}
}
