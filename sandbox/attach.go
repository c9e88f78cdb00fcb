package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// clientPipe is how far a client may be behind the container's output, for each
// stream. It is the most that the kernel gives without CAP_SYS_RESOURCE.
const clientPipe = 1 << 20

// Attach connects to a running container's main process until the container ends
// (nil), ctx ends (its error), or the client's input does (nil): that ends the
// conversation, as with a kubelet, unless the container has stdinOnce and no
// terminal. It is then told the end of its input, and its output goes on.
//
// The container waits for nobody: a client that does not take 1 MiB of output in
// time loses what comes until it has caught up. Without a terminal, that is a
// [*SkippedError] at the end. [ErrNoContainer] if the container does not run,
// [ErrOldSandbox] if the pause process is too old.
//
// When ctx ends, a writer may be in use for the moment that its last Write takes.
func (s *Sandbox) Attach(ctx context.Context, r Attach) error {
	req := wire.Attach{ID: r.ID}
	if r.Stdin != nil {
		req.Streams = 1
	}
	var theirs, ours []*os.File
	defer func() { closeAll(ours) }()
	outputs := []io.Writer{r.Stdout, r.Stderr}
	for i, w := range outputs {
		if w == nil {
			ours = append(ours, nil)
			continue
		}
		pr, pw, err := os.Pipe()
		if err != nil {
			closeAll(theirs)
			return cannot("make a pipe", err)
		}
		req.Streams |= 2 << i
		ours, theirs = append(ours, pr), append(theirs, pw)
		if rc, err := pw.SyscallConn(); err == nil {
			rc.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, clientPipe) }) // may be refused
		}
	}
	c, hangUp, err := s.dial(ctx)
	if err != nil {
		closeAll(theirs)
		return err
	}
	defer hangUp()
	err = c.Send(wire.KindAttach, &req, theirs...)
	closeAll(theirs)
	if err != nil {
		return lost(ctx, err)
	}
	m, err := answer(ctx, c)
	if err != nil {
		return err
	}
	var attached wire.Attached
	if err := wire.Unmarshal(m.Body, &attached); err != nil || m.Kind != wire.KindAttached {
		m.CloseFiles()
		return cannot("understand the pause process", errors.Join(err, fmt.Errorf("message %d came", m.Kind)))
	}
	defer m.CloseFiles()

	var copied sync.WaitGroup
	for i, w := range outputs {
		if w != nil {
			copied.Go(func() { io.Copy(w, ours[i]) }) // ends with the container's output, or ours[i]
		}
	}
	over := make(chan struct{})
	defer close(over)
	inputOver := make(chan struct{}) // closed when the conversation is over with the input
	if len(m.Files) > 0 {
		if attached.TTY && r.Resize != nil {
			go (&terminal{m.Files[0]}).follow(r.Resize, over)
		}
		if attached.Stdin && r.Stdin != nil {
			go func() { // ends with the input or, at its next byte, with the conversation
				_, err := io.Copy(m.Files[0], r.Stdin)
				m.Files[0].Close()
				switch {
				case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EIO), errors.Is(err, os.ErrClosed):
					// The container reads no more, or all is over.
				case attached.Once:
					c.Send(wire.KindNoInput, nil)
				default:
					close(inputOver)
				}
			}()
		}
	}
	end := make(chan error, 1)
	var detached wire.Detached
	go func() { // ends with the conversation
		m, err := answer(ctx, c)
		if err == nil {
			m.CloseFiles()
			err = wire.Unmarshal(m.Body, &detached)
		}
		end <- err
	}()
	select {
	case err = <-end:
	case <-inputOver:
		return nil
	}
	if err != nil {
		return err
	}
	taken := make(chan struct{})
	go func() { copied.Wait(); close(taken) }()
	select {
	case <-taken:
	case <-ctx.Done():
		return ctx.Err()
	}
	if detached.Skipped > 0 && !attached.TTY {
		return &SkippedError{detached.Skipped}
	}
	return nil
}
