package runtimetest

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"podd/internal/transcript"
	"podd/pod"
)

// attached is a client of "app" under way.
type attached struct {
	in    *os.File // nil: it has none
	out   transcript.T
	end   chan error
	leave context.CancelFunc
}

// attach makes a client that leaves with the part. stdin is its input; nil: it has
// none.
func (c *contract) attach(stdin io.Reader) *attached {
	cl := &attached{end: make(chan error, 1)}
	ctx, leave := context.WithCancel(c.ctx)
	cl.leave = leave
	c.Cleanup(leave)
	target := c.target
	go func() { // ends with the attach
		cl.end <- c.Runtime.Attach(ctx, target, pod.AttachRequest{Container: "app", ID: app.ID, Stdin: stdin, Stdout: &cl.out})
	}()
	return cl
}

// attachTyping makes a client that types.
func (c *contract) attachTyping() *attached {
	r, w, err := os.Pipe()
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { w.Close(); r.Close() })
	w.SetWriteDeadline(time.Now().Add(2 * contractDeadline)) // where nobody reads, the part fails
	cl := c.attach(r)
	cl.in = w
	return cl
}

// sees waits until a client has seen a text; typed is called meanwhile.
func (cl *attached) sees(t testing.TB, text string, typed func()) {
	t.Helper()
	for deadline := time.Now().Add(contractDeadline); !strings.Contains(cl.out.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a client saw %q within %v; want %q in it", cl.out.String(), contractDeadline, text)
		}
		typed()
	}
}

// ended waits for the end of an attach.
func (cl *attached) ended(t testing.TB) error {
	t.Helper()
	select {
	case err := <-cl.end:
		return err
	case <-time.After(contractDeadline):
		t.Fatal("the attach goes on")
		return nil
	}
}

// attachedTwice: both clients see what either types, from when it came on, and who
// leaves takes nothing from the others.
func attachedTwice(c *contract) {
	c.stdin = true
	c.up("cat")
	c.watch()
	expect[pod.ContainerStarted](c, app)
	one := c.attachTyping()
	io.WriteString(one.in, "first\n")
	one.sees(c, "first\n", func() {})
	two := c.attachTyping()
	io.WriteString(two.in, "second\n")
	one.sees(c, "second\n", func() {})
	two.sees(c, "second\n", func() {})
	if strings.Contains(two.out.String(), "first") {
		c.Errorf("the second client saw %q, which is older than itself", two.out.String())
	}
	one.in.Close()
	if err := one.ended(c); err != nil {
		c.Errorf("an attach whose input ended: %v; want nil", err)
	}
	two.leave()
	if err := two.ended(c); !errors.Is(err, context.Canceled) {
		c.Errorf("an attach that was called off: %v; want %v", err, context.Canceled)
	}
	three := c.attachTyping()
	io.WriteString(three.in, "third\n")
	three.sees(c, "third\n", func() {})
}

// attachEnds: also that of a client without input. Then there is nothing to attach to.
func attachEnds(c *contract) {
	c.stdin = true
	c.up("cat")
	c.watch()
	expect[pod.ContainerStarted](c, app)
	looks, types := c.attach(nil), c.attachTyping()
	looks.sees(c, "here\n", func() { io.WriteString(types.in, "here\n") })
	c.perform(pod.StopContainer{Container: "app", ID: app.ID, Grace: 100 * time.Millisecond})
	await[pod.ContainerExited](c)
	for _, cl := range []*attached{looks, types} {
		if err := cl.ended(c); err != nil {
			c.Errorf("an attach whose container exited: %v; want nil", err)
		}
	}
	if err := c.attach(nil).ended(c); err == nil {
		c.Error("a container that exited can be attached to")
	}
}

// attachedOnce: with stdinOnce the first client that brings an input has it alone, and
// its end is the end of the container's input. Who looks on takes nothing away.
func attachedOnce(c *contract) {
	c.stdin, c.stdinOnce = true, true
	c.up("cat")
	c.watch()
	expect[pod.ContainerStarted](c, app)
	looks := c.attach(nil)
	one := c.attachTyping()
	looks.sees(c, "here\n", func() { io.WriteString(one.in, "here\n") })
	two := c.attach(strings.NewReader("not read\n"))
	two.sees(c, "there\n", func() { io.WriteString(one.in, "there\n") })
	io.WriteString(one.in, "last\n")
	one.in.Close()
	if e := await[pod.ContainerExited](c); e.ExitCode != 0 {
		c.Errorf("got %+v; want 0 at the end of the input", e)
	}
	for _, cl := range []*attached{looks, one, two} {
		if err := cl.ended(c); err != nil {
			c.Errorf("an attach whose container exited: %v; want nil", err)
		}
		if out := cl.out.String(); !strings.HasSuffix(out, "last\n") || strings.Contains(out, "not read") {
			c.Errorf("a client saw %q; want all that the first one typed, and nothing of others", out)
		}
	}
}
