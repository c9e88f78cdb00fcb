package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"podd/pod"
	"podd/sandbox"
	"podd/sandbox/network"
)

// Exec runs a command in a running container and copies its streams.
func (r *Runtime) Exec(ctx context.Context, t pod.Target, req pod.ExecRequest) (int, error) {
	s := r.live(t.UID).getSandbox()
	if s == nil {
		return 0, fmt.Errorf("cannot run a command in pod %s: %w", r.podName(t.UID), sandbox.ErrNoSandbox)
	}
	var copies streams
	defer copies.abandon()
	exec := sandbox.Exec{ID: req.ID, Args: req.Command, TTY: req.TTY, Timeout: req.Timeout}
	var err error
	if exec.Stdin, err = copies.input(req.Stdin); err != nil {
		return 0, err
	}
	if exec.Stdout, err = copies.output(req.Stdout); err != nil {
		return 0, err
	}
	if !req.TTY {
		if exec.Stderr, err = copies.output(req.Stderr); err != nil {
			return 0, err
		}
	}
	if req.Resize != nil {
		sizes := make(chan sandbox.Size)
		exec.Resize = sizes
		execCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		go forwardSizes(execCtx, req.Resize, sizes)
	}
	res, err := s.Exec(ctx, exec)
	if err != nil {
		var notRun *sandbox.StartError
		if errors.As(err, &notRun) {
			return notRun.ExitCode, err
		}
		return 0, err
	}
	copies.finish()
	return res.ExitCode, nil
}

// Attach connects a client to a running container's main process.
func (r *Runtime) Attach(ctx context.Context, t pod.Target, req pod.AttachRequest) error {
	s := r.live(t.UID).getSandbox()
	if s == nil {
		return fmt.Errorf("cannot attach to pod %s: %w", r.podName(t.UID), sandbox.ErrNoSandbox)
	}
	attach := sandbox.Attach{ID: req.ID, Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr}
	if req.TTY && req.Resize != nil {
		sizes := make(chan sandbox.Size)
		attach.Resize = sizes
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go forwardSizes(ctx, req.Resize, sizes)
	}
	return s.Attach(ctx, attach)
}

// Dial connects to a port in the pod's network namespace.
func (r *Runtime) Dial(ctx context.Context, t pod.Target, port uint16) (net.Conn, error) {
	s := r.live(t.UID).getSandbox()
	if s == nil {
		return nil, sandbox.ErrNoSandbox
	}
	ns, err := s.NetNS(ctx)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return network.DialLocal(ctx, ns, port)
}

// forwardSizes ends with its context or with the caller's channel.
func forwardSizes(ctx context.Context, from <-chan pod.TerminalSize, to chan<- sandbox.Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-from:
			if !ok {
				return
			}
			select {
			case to <- sandbox.Size{Width: size.Width, Height: size.Height}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// streams connects readers and writers to the pipes that a command gets.
type streams struct {
	theirs, ours []*os.File
	outputs      sync.WaitGroup
}

func (s *streams) input(r io.Reader) (*os.File, error) {
	if r == nil {
		return nil, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.theirs = append(s.theirs, pr)
	s.ours = append(s.ours, pw)
	// Ends when the reader ends or, at the next byte, when the command has ended.
	go func() {
		io.Copy(pw, r) // what the command does not read is nobody's error
		pw.Close()
	}()
	return pr, nil
}

func (s *streams) output(w io.Writer) (*os.File, error) {
	if w == nil {
		return nil, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.theirs = append(s.theirs, pw)
	s.ours = append(s.ours, pr)
	// Ends when every copy of the pipe's other end is closed.
	s.outputs.Go(func() {
		io.Copy(w, pr) // a caller that went away has its own error
	})
	return pw, nil
}

// finish waits until what the command wrote has arrived.
func (s *streams) finish() {
	closeAll(s.theirs)
	s.theirs = nil
	s.outputs.Wait()
}

func (s *streams) abandon() {
	closeAll(s.theirs)
	closeAll(s.ours)
}
