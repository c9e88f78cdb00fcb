package api

import (
	"context"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/pod"
)

// exec runs a command in a container; see stream.go for the conversation. A
// client that hangs up ends the command.
func (c Config) exec(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if len(q["command"]) == 0 {
		c.fail(w, apierrors.NewBadRequest("you must specify at least one command for the container"))
		return
	}
	c.stream(w, r, func(ctx context.Context, key pod.Key, s streams) (int, error) {
		req := pod.ExecRequest{
			Container: r.PathValue("container"), Command: q["command"], TTY: q.Get("tty") == "true",
			Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr,
		}
		if req.TTY {
			req.Resize = s.resize
		}
		return c.Commands.Exec(ctx, key, req)
	})
}

// attach connects a client to a container's main process, in the same way.
func (c Config) attach(w http.ResponseWriter, r *http.Request) {
	c.stream(w, r, func(ctx context.Context, key pod.Key, s streams) (int, error) {
		return 0, c.Commands.Attach(ctx, key, pod.AttachRequest{
			Container: r.PathValue("container"), Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Resize: s.resize,
		})
	})
}

// streams are what a client reads and writes.
type streams struct {
	stdin          io.Reader // nil: the client has none
	stdout, stderr io.Writer
	resize         <-chan pod.TerminalSize
}

// stream upgrades a request about a running container and has run talk with the
// client, until that hangs up.
func (c Config) stream(w http.ResponseWriter, r *http.Request, run func(context.Context, pod.Key, streams) (int, error)) {
	p, err := c.find(r)
	if err != nil {
		c.fail(w, err)
		return
	}
	container := r.PathValue("container")
	status := statusOf(p, container)
	switch {
	case !hasContainer(p, container):
		err = apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", container, p.Name))
	case status == nil || !pod.HasProcess(status):
		err = apierrors.NewBadRequest(fmt.Sprintf("container not found (%q): it does not run", container))
	case r.Header.Get("Upgrade") != upgradeProtocol:
		err = apierrors.NewBadRequest("expected the header Upgrade: " + upgradeProtocol)
	}
	if err != nil {
		c.fail(w, err)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		c.fail(w, err)
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgradeProtocol)

	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	frames := &frameWriter{w: conn}
	stdin, stdinWriter := io.Pipe()
	defer stdin.Close()
	sizes := make(chan pod.TerminalSize)
	// Reads until the client hangs up or the connection is closed below.
	go func() {
		defer cancel()
		readInput(buffered, stdinWriter, sizes, ctx.Done())
	}()
	s := streams{stdout: frames.channel(channelStdout), stderr: frames.channel(channelStderr), resize: sizes}
	if r.URL.Query().Get("stdin") == "true" {
		s.stdin = stdin
	}
	var result execResult
	result.ExitCode, err = run(ctx, keyOf(p), s)
	if err != nil {
		result.Error = err.Error()
	}
	frames.json(channelResult, result) // a client that hung up needs none
}
