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
	p, err := c.find(r)
	if err != nil {
		c.fail(w, err)
		return
	}
	q := r.URL.Query()
	container := r.PathValue("container")
	status := statusOf(p, container)
	switch {
	case !hasContainer(p, container):
		err = apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", container, p.Name))
	case status == nil || !pod.HasProcess(status):
		err = apierrors.NewBadRequest(fmt.Sprintf("container not found (%q): it does not run", container))
	case len(q["command"]) == 0:
		err = apierrors.NewBadRequest("you must specify at least one command for the container")
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
	req := pod.ExecRequest{
		Container: container, Command: q["command"], TTY: q.Get("tty") == "true",
		Stdout: frames.channel(channelStdout), Stderr: frames.channel(channelStderr),
	}
	if q.Get("stdin") == "true" {
		req.Stdin = stdin
	}
	if req.TTY {
		req.Resize = sizes
	}
	var result execResult
	result.ExitCode, err = c.Commands.Exec(ctx, keyOf(p), req)
	if err != nil {
		result.Error = err.Error()
	}
	frames.json(channelResult, result) // a client that hung up needs none
}
