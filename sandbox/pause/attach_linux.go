package pause

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// patience is how long a container's output waits for a client that has fallen
// behind. After that, what the client does not take is skipped, until it has read
// all that it was given: a client that reads nothing costs this time once.
const patience = 20 * time.Millisecond

// client is one attached conversation, as the container's streams see it.
type client struct {
	streams [2]*stdio // stdout or the terminal, stderr; nil: not wanted
	skipped atomic.Int64
}

// stdio is one stream to a client. Only the container's goroutine for that stream
// writes to it.
type stdio struct {
	pipe   *os.File // non-blocking
	behind bool
}

// attach serves an attach conversation.
func (p *process) attach(c *wire.Conn, m wire.Message) {
	var req wire.Attach
	err := failedStep("understand the request", wire.Unmarshal(m.Body, &req))
	var ct *container
	if err == nil {
		ct, err = p.find(req.ID)
	}
	if err == nil && !ct.running() {
		err = errNotRunning
	}
	var cl *client
	if err == nil {
		cl, err = newClient(req.Streams, m.Files)
	}
	m.CloseFiles() // the client has its own: a stream ends with the last of them
	if err != nil {
		answer(c, err)
		return
	}
	// No output that is written after this message was sent is missing.
	ct.join(cl)
	defer ct.leave(cl)
	var attached wire.Attached
	var given []*os.File
	attached.TTY = ct.req.TTY
	if req.Streams&1 != 0 {
		attached.Stdin, attached.Once = ct.takeInput()
	}
	switch {
	case attached.TTY:
		given = ct.output[:1]
	case attached.Stdin:
		given = append(given, ct.stdin)
	}
	if attached.Once {
		defer ct.stdin.Close()
	}
	if c.Send(wire.KindAttached, &attached, given...) != nil {
		answer(c, errNotRunning) // its streams were closed meanwhile
		return
	}
	gone := make(chan struct{})
	go func() { // ends when the agent hangs up or we do
		for {
			m, err := c.Receive()
			if err == nil {
				m.CloseFiles()
			}
			if attached.Once && err == nil && m.Kind == wire.KindNoInput {
				ct.stdin.Close()
			}
			if err != nil {
				close(gone)
				return
			}
		}
	}()
	select {
	case <-ct.drained:
		ct.leave(cl) // closes the pipes: their end comes before the message
		c.Send(wire.KindDetached, &wire.Detached{Skipped: cl.skipped.Load()})
	case <-gone:
	}
}

// newClient takes copies of the descriptors that a request came with.
func newClient(streams int, files []*os.File) (*client, error) {
	cl := &client{}
	for i := range cl.streams {
		if streams&(2<<i) == 0 {
			continue
		}
		if len(files) == 0 {
			cl.close()
			return nil, &wire.Failed{Step: "understand the request", Text: "descriptors are missing"}
		}
		fd, err := unix.FcntlInt(uintptr(rawFD(files[0])), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			cl.close()
			return nil, failedStep("take over a stream", err)
		}
		unix.SetNonblock(fd, true)
		cl.streams[i] = &stdio{pipe: os.NewFile(uintptr(fd), "client")}
		files = files[1:]
	}
	return cl, nil
}

func (cl *client) close() {
	for _, s := range cl.streams {
		if s != nil {
			s.pipe.Close()
		}
	}
}

// join and leave replace the list of clients, which the streams read without a
// lock held.
func (ct *container) join(cl *client) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	ct.clients = append(ct.clients[:len(ct.clients):len(ct.clients)], cl)
}

func (ct *container) leave(cl *client) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	var others []*client
	for _, o := range ct.clients {
		if o != cl {
			others = append(others, o)
		}
	}
	ct.clients = others
	cl.close()
}

// tee gives what a container wrote to its clients. The log has it already.
func (ct *container) tee(stream int, p []byte) {
	ct.mu.Lock()
	clients := ct.clients
	ct.mu.Unlock()
	for _, cl := range clients {
		if s := cl.streams[stream]; s != nil {
			cl.skipped.Add(int64(s.give(p)))
		}
	}
}

// give writes to a client and returns how much it did not take.
func (s *stdio) give(p []byte) (skipped int) {
	if s.behind && s.unread() {
		return len(p)
	}
	s.pipe.SetWriteDeadline(time.Now().Add(patience))
	n, err := s.pipe.Write(p)
	s.behind = err != nil
	return len(p) - n
}

// unread says whether the client has not read all that it was given.
func (s *stdio) unread() bool {
	n := 1
	if rc, err := s.pipe.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return n > 0
}

// takeInput says whether a client may write to the container's input, and whether
// that is over with this client. Where it is, nobody else ever writes.
//
// A terminal has no end of its input, so it stays open also with stdinOnce, as in
// containerd.
func (ct *container) takeInput() (open, once bool) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if ct.stdin == nil || ct.inputTaken {
		return false, false
	}
	ct.inputTaken = ct.req.StdinOnce && !ct.req.TTY
	return true, ct.inputTaken
}
