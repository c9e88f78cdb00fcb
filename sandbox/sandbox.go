package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// dial opens a conversation that ends with ctx. Call the returned function when
// it is over.
func (s *Sandbox) dial(ctx context.Context) (*wire.Conn, func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	dir, err := os.OpenFile(s.host.dir(s.uid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, ErrLost
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, cannot("make a socket", err)
	}
	// A full queue of a stuck pause process must not hold us forever.
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5})
	for {
		if err = unix.Connect(fd, socketAddress(dir)); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		if err == unix.ECONNREFUSED || err == unix.ENOENT {
			return nil, nil, ErrLost
		}
		return nil, nil, cannot("reach the pause process", err)
	}
	c, err := wire.NewConn(fd)
	if err != nil {
		return nil, nil, cannot("reach the pause process", err)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	return c, func() { stop(); c.Close() }, nil
}

// lost words the error of a conversation: the end of ctx, the death of the
// pause process, or something else.
func lost(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return ErrLost
	}
	return cannot("talk to the pause process", err)
}

// answer receives the next message and turns a failure into an error.
func answer(ctx context.Context, c *wire.Conn) (wire.Message, error) {
	m, err := c.Receive()
	if err != nil {
		return m, lost(ctx, err)
	}
	if m.Kind != wire.KindFailed {
		return m, nil
	}
	m.CloseFiles()
	var f wire.Failed
	if err := wire.Unmarshal(m.Body, &f); err != nil {
		return m, cannot("understand the pause process", err)
	}
	switch f.Code {
	case wire.CodeNoContainer:
		return m, ErrNoContainer
	case wire.CodeCommand:
		return m, &StartError{Stage: "execute the command", Err: errors.New(f.Text), ExitCode: 128}
	case wire.CodeVersion:
		return m, ErrOldSandbox
	}
	return m, &f
}

// ask has a conversation of one request and one answer without content.
func (s *Sandbox) ask(ctx context.Context, k wire.Kind, n *wire.Name, files ...*os.File) error {
	c, hangUp, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer hangUp()
	if n == nil {
		n = &wire.Name{}
	}
	if err := c.Send(k, n, files...); err != nil {
		return lost(ctx, err)
	}
	m, err := answer(ctx, c)
	if err != nil {
		return err
	}
	m.CloseFiles()
	return nil
}

// state returns the raw state and two files: pidfd and network namespace.
func (s *Sandbox) state(ctx context.Context) (wire.State, []*os.File, error) {
	var state wire.State
	c, hangUp, err := s.dial(ctx)
	if err != nil {
		return state, nil, err
	}
	defer hangUp()
	if err := c.Send(wire.KindState, nil); err != nil {
		return state, nil, lost(ctx, err)
	}
	m, err := answer(ctx, c)
	if err != nil {
		return state, nil, err
	}
	if err := wire.Unmarshal(m.Body, &state); err != nil || len(m.Files) < 2 {
		m.CloseFiles()
		return state, nil, cannot("understand the pause process", errors.Join(err, fmt.Errorf("%d descriptors came", len(m.Files))))
	}
	return state, m.Files, nil
}

// NetNS returns the pod's network namespace, the host's for a pod on the host's
// network. The caller closes it.
func (s *Sandbox) NetNS(ctx context.Context) (*os.File, error) {
	_, files, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	ns := files[1]
	files[1] = nil
	closeAll(files)
	return ns, nil
}

// State asks the pause process what it knows.
func (s *Sandbox) State(ctx context.Context) (State, error) {
	w, files, err := s.state(ctx)
	closeAll(files)
	if err != nil {
		return State{}, err
	}
	return stateOf(&w), nil
}

func stateOf(w *wire.State) State {
	state := State{
		UID: w.Up.UID, ID: w.Up.ID, Attempt: w.Up.Attempt, Pid: w.Pid,
		UpAt: time.Unix(0, w.UpAt), Hostname: w.Up.Hostname,
	}
	for i := range w.Containers {
		state.Containers = append(state.Containers, containerOf(&w.Containers[i]))
	}
	return state
}

func containerOf(w *wire.Container) Container {
	c := Container{ID: w.ID, Name: w.Name, Attempt: w.Attempt, Pid: w.Pid, StartedAt: time.Unix(0, w.StartedAt)}
	if w.Exited {
		c.Exit = &Exit{Code: w.Code, Signal: w.Signal, At: time.Unix(0, w.ExitedAt)}
	}
	return c
}

// Hold makes the pause process keep these descriptors open, and no others.
func (s *Sandbox) Hold(ctx context.Context, files []*os.File) error {
	return s.ask(ctx, wire.KindHold, nil, files...)
}

// Signal sends a signal to a container's main process. [ErrNoContainer] if it
// does not run.
func (s *Sandbox) Signal(ctx context.Context, id string, sig signalNumber) error {
	return s.ask(ctx, wire.KindSignal, &wire.Name{ID: id, Number: int(sig)})
}

// KillContainer kills every process of a container. One that has exited is left
// alone.
func (s *Sandbox) KillContainer(ctx context.Context, id string) error {
	return s.ask(ctx, wire.KindKill, &wire.Name{ID: id})
}

// Forget acknowledges a container's exit: its record in the pause process goes.
// Forgetting what is not known succeeds; a running container is refused.
func (s *Sandbox) Forget(ctx context.Context, id string) error {
	return s.ask(ctx, wire.KindForget, &wire.Name{ID: id})
}

// ReopenLog makes the writer open the container's log anew, by its name.
func (s *Sandbox) ReopenLog(ctx context.Context, id string) error {
	return s.ask(ctx, wire.KindReopen, &wire.Name{ID: id})
}

// RotateLog makes the writer rotate the container's log now, between two lines.
func (s *Sandbox) RotateLog(ctx context.Context, id string) error {
	return s.ask(ctx, wire.KindRotate, &wire.Name{ID: id})
}

// Watch reports exits until ctx ends or the pause process is gone ([ErrLost]).
// Exits that were not acknowledged by [Sandbox.Forget] are reported first, each
// once per Watch.
func (s *Sandbox) Watch(ctx context.Context, report func(Event)) error {
	c, hangUp, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer hangUp()
	if err := c.Send(wire.KindWatch, nil); err != nil {
		return lost(ctx, err)
	}
	for {
		m, err := answer(ctx, c)
		if err != nil {
			return err
		}
		m.CloseFiles()
		var w wire.Container
		if err := wire.Unmarshal(m.Body, &w); err != nil {
			return cannot("understand the pause process", err)
		}
		if m.Kind == wire.KindExited {
			report(Event{ContainerExited: containerOf(&w)})
		}
	}
}
