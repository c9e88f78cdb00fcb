package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// Exec runs a command in a running container and waits for it. A command that
// cannot be executed is a [*StartError]; [ErrNoContainer] if the container does
// not run. When ctx ends, the command is killed unless KeepOnHangup is set.
func (s *Sandbox) Exec(ctx context.Context, r Exec) (ExecResult, error) {
	m := wire.Exec{
		ID: r.ID, RequestID: r.RequestID, Args: r.Args, Env: r.Env, SetEnv: r.Env != nil, Cwd: r.Cwd, TTY: r.TTY,
		TimeoutNano: int64(r.Timeout), OutputLimit: r.OutputLimit, KeepOnHangup: r.KeepOnHangup,
	}
	if m.RequestID == "" {
		var b [16]byte
		rand.Read(b[:])
		m.RequestID = hex.EncodeToString(b[:])
	}
	files := []*os.File{s.host.program}
	if !r.TTY {
		m.Stdin, m.Stdout, m.Stderr = r.Stdin != nil, r.Stdout != nil, r.Stderr != nil
		for _, f := range []*os.File{r.Stdin, r.Stdout, r.Stderr} {
			if f != nil {
				unix.SetNonblock(int(f.Fd()), false) // programs expect blocking streams
				files = append(files, f)
			}
		}
	}
	if c := r.Cgroup; c != nil {
		if m.Unified = c.Unified != nil; m.Unified {
			files = append(files, c.Unified)
		}
		m.Tasks = len(c.Tasks)
		files = append(files, c.Tasks...)
	}
	if r.TTY && r.Resize != nil {
		select { // the size known now is the terminal's from the first moment
		case size := <-r.Resize:
			m.Height, m.Width = uint32(size.Height), uint32(size.Width)
		default:
		}
	}
	c, hangUp, err := s.dial(ctx)
	if err != nil {
		return ExecResult{}, err
	}
	defer hangUp()
	if err := c.Send(wire.KindExec, &m, files...); err != nil {
		return ExecResult{}, lost(ctx, err)
	}
	reply, err := answer(ctx, c)
	if err == nil && reply.Kind == wire.KindTerminal && len(reply.Files) == 1 {
		t, terr := newTerminal(reply.Files[0])
		if terr != nil {
			return ExecResult{}, terr
		}
		stop := t.connect(r)
		defer stop()
		reply, err = answer(ctx, c)
	}
	if err != nil {
		return ExecResult{}, err
	}
	var done wire.ExecDone
	if err := wire.Unmarshal(reply.Body, &done); err != nil || reply.Kind != wire.KindExecDone {
		return ExecResult{}, cannot("understand the pause process", errors.Join(err, fmt.Errorf("message %d came", reply.Kind)))
	}
	return ExecResult{ExitCode: done.ExitCode, Output: done.Output, TimedOut: done.TimedOut}, nil
}

// terminal is the master of an exec's pseudo-terminal.
type terminal struct{ f *os.File }

func newTerminal(received *os.File) (*terminal, error) {
	defer received.Close()
	fd, err := unix.FcntlInt(received.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, cannot("take over the terminal", err)
	}
	unix.SetNonblock(fd, true)
	return &terminal{os.NewFile(uintptr(fd), "terminal")}, nil
}

// connect copies between the terminal and the caller's streams. The function it
// returns is called after the command's end: it waits for the last output.
func (t *terminal) connect(r Exec) (stop func()) {
	over := make(chan struct{})
	var output sync.WaitGroup
	output.Add(1)
	go func() { // ends when nobody has the terminal open, or by stop
		defer output.Done()
		w := io.Writer(io.Discard)
		if r.Stdout != nil {
			w = r.Stdout
		}
		io.Copy(w, t.f)
	}()
	if r.Stdin != nil {
		go io.Copy(t.f, r.Stdin) // ends with stdin or, at its next byte, after stop
	}
	if r.Resize != nil {
		go t.follow(r.Resize, over)
	}
	return func() {
		close(over)
		t.f.SetReadDeadline(time.Now().Add(time.Second))
		output.Wait()
		t.f.Close()
		if r.Stdin != nil {
			r.Stdin.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// follow gives the terminal each new size until there are no more or over is closed.
func (t *terminal) follow(sizes <-chan Size, over <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			t.resize(size)
		case <-over:
			return
		}
	}
}

func (t *terminal) resize(s Size) {
	if rc, err := t.f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) {
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
		})
	}
}
