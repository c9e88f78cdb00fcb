package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"podd/internal/transcript"
	"podd/sandbox/wire"
)

// clientOf attaches to a container in the background.
type clientOf struct {
	in       *io.PipeWriter // nil: no input
	out, err transcript.T
	end      chan error
	cancel   context.CancelFunc
}

func (w *world) attach(s *Sandbox, id string, input bool, resize <-chan Size) *clientOf {
	w.Helper()
	c := &clientOf{end: make(chan error, 1)}
	ctx, cancel := context.WithCancel(ctxOf(w))
	w.Cleanup(cancel)
	c.cancel = cancel
	a := Attach{ID: id, Stdout: &c.out, Stderr: &c.err, Resize: resize}
	if input {
		var r *io.PipeReader
		r, c.in = io.Pipe()
		w.Cleanup(func() { c.in.Close() })
		a.Stdin = r
	}
	go func() { c.end <- s.Attach(ctx, a) }()
	return c
}

// sees waits for text in the client's output.
func (c *clientOf) sees(t testing.TB, text string) {
	t.Helper()
	eventually(t, "a client sees "+text, func() bool { return strings.Contains(c.out.String(), text) })
}

func (c *clientOf) ended(t testing.TB) error {
	t.Helper()
	select {
	case err := <-c.end:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the attach does not end")
		return nil
	}
}

const echo = `while read line; do echo "got $line"; echo "err $line" >&2; done; echo end of input; read line; exit 3`

func TestAttachReachesStdinAndManySeeTheOutput(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sh", "-c", echo)
	r.Stdin = true
	w.start(s, r)
	one, two := w.attach(s, r.ID, true, nil), w.attach(s, r.ID, true, nil)
	io.WriteString(one.in, "first\n")
	one.sees(t, "got first\n")
	io.WriteString(two.in, "second\n")
	one.sees(t, "got second\n")
	two.sees(t, "got second\n")
	// Who leaves closes nobody's input: not by its end, nor by going away.
	one.in.Close()
	if err := one.ended(t); err != nil {
		t.Errorf("an attach whose input ended: %v", err)
	}
	two.cancel()
	if err := two.ended(t); !errors.Is(err, context.Canceled) {
		t.Errorf("an attach whose context ended: %v", err)
	}
	three := w.attach(s, r.ID, true, nil)
	io.WriteString(three.in, "third\n")
	three.sees(t, "got third\n")
	eventually(t, "stderr is told apart", func() bool { return strings.Contains(three.err.String(), "err third\n") })
	if strings.Contains(three.out.String(), "second") || strings.Contains(three.out.String(), "end of input") {
		t.Errorf("output of before, or an end of the input: %q", three.out.String())
	}
	must(t, s.KillContainer(ctxOf(t), r.ID))
	if err := three.ended(t); err != nil {
		t.Errorf("an attach whose container ended: %v", err)
	}
	log := logText(t, r.LogPath)
	for _, line := range []string{"got first", "err first", "got second", "got third"} {
		if !strings.Contains(log, line+"\n") {
			t.Errorf("the log lacks %q:\n%s", line, log)
		}
	}
	if err := s.Attach(ctxOf(t), Attach{ID: r.ID, Stdout: io.Discard}); !errors.Is(err, ErrNoContainer) {
		t.Errorf("attach to a container that ended: %v", err)
	}
	if err := s.Attach(ctxOf(t), Attach{ID: newID(), Stdout: io.Discard}); !errors.Is(err, ErrNoContainer) {
		t.Errorf("attach to an unknown container: %v", err)
	}
}

// Source: Kubernetes API, stdinOnce: "remains open and accepts data until the client
// disconnects, at which time stdin is closed".
func TestStdinOnceEndsWithTheFirstClient(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	for name, leave := range map[string]func(*clientOf){
		"its input ends": func(c *clientOf) { c.in.Close() },
		"it goes away":   func(c *clientOf) { c.cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			r := w.request("/bin/sh", "-c", `while sleep 0.02; do echo tick; done & while read line; do echo "got $line"; done; echo end of input; wait`)
			r.Stdin, r.StdinOnce = true, true
			w.start(s, r)
			// Who does not write takes nothing away, and who comes second writes nothing.
			looks := w.attach(s, r.ID, false, nil)
			looks.sees(t, "tick\n")
			c := w.attach(s, r.ID, true, nil)
			c.sees(t, "tick\n")
			io.WriteString(c.in, "first\n")
			looks.sees(t, "got first\n")
			c.sees(t, "got first\n")
			w.attach(s, r.ID, true, nil)
			leave(c)
			looks.sees(t, "end of input\n")
			if name == "its input ends" {
				c.sees(t, "end of input\n") // it still looks on
			}
			late := w.attach(s, r.ID, true, nil)
			late.sees(t, "tick\n")
			must(t, s.KillContainer(ctxOf(t), r.ID))
			if err := late.ended(t); err != nil {
				t.Errorf("a client that has no input any more: %v", err)
			}
		})
	}
}

func TestAttachToATerminal(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sh")
	r.Stdin, r.StdinOnce, r.TTY = true, true, true
	w.start(s, r)
	sizes := make(chan Size, 1)
	sizes <- Size{Width: 99, Height: 11}
	c := w.attach(s, r.ID, true, sizes)
	eventually(t, "the terminal has the client's size", func() bool {
		io.WriteString(c.in, "stty size\n")
		return strings.Contains(c.out.String(), "\r\n11 99\r\n")
	})
	sizes <- Size{Width: 55, Height: 22}
	eventually(t, "the terminal follows the client's size", func() bool {
		io.WriteString(c.in, "stty size\n")
		return strings.Contains(c.out.String(), "\r\n22 55\r\n")
	})
	// A prompt is no whole line; the log waits for that, a client does not.
	c.sees(t, "# ")
	c.in.Close()
	must(t, c.ended(t))
	// A terminal's input does not end with a client, also with stdinOnce.
	c = w.attach(s, r.ID, true, nil)
	io.WriteString(c.in, "echo st''ill here >&2; exit 4\n")
	if err := c.ended(t); err != nil || !strings.Contains(c.out.String(), "still here\r\n") || c.err.String() != "" {
		t.Errorf("%v, output %q, stderr %q", err, c.out.String(), c.err.String())
	}
	if c := w.exit(s, r.ID); c.Exit.Code != 4 {
		t.Errorf("exit: %+v", c.Exit)
	}
}

func TestAContainerWithoutStdinCanBeLookedAt(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sh", "-c", "until test -e /tmp/go; do sleep 0.01; done; echo out; cat; exit 5")
	w.start(s, r)
	c := w.attach(s, r.ID, true, nil)
	c.in.CloseWithError(io.EOF) // nobody reads it
	eventually(t, "the client is there", func() bool {
		w.execOK(s, r.ID, "touch", "/tmp/go")
		return true
	})
	if err := c.ended(t); err != nil {
		t.Error(err)
	}
}

// A client that takes nothing costs the container a moment, and the log no line.
func TestAClientThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	// An empty line is answered with one, so that clients know when they are there.
	r := w.request("/bin/sh", "-c", "while read line && test -z $line; do echo; done; seq 1 400000; echo last; exit 0")
	r.Stdin = true
	w.start(s, r)
	never, blocked := io.Pipe()
	defer never.Close()
	stuck := make(chan error, 1)
	go func() { stuck <- s.Attach(ctxOf(t), Attach{ID: r.ID, Stdout: blocked}) }()
	c := w.attach(s, r.ID, true, nil)
	var all transcript.T
	whole := make(chan error, 1)
	go func() { whole <- s.Attach(ctxOf(t), Attach{ID: r.ID, Stdout: &all}) }()
	stuckIsThere := make(chan struct{})
	go func() {
		never.Read(make([]byte, 1))
		close(stuckIsThere)
	}()
	eventually(t, "all clients are there", func() bool {
		io.WriteString(c.in, "\n")
		select {
		case <-stuckIsThere:
			return all.String() != ""
		default:
			return false
		}
	})
	io.WriteString(c.in, "go\n")
	// One container's output ends although one of its clients has read nothing.
	if got := w.exit(s, r.ID); got.Exit.Code != 0 {
		t.Errorf("exit: %+v", got.Exit)
	}
	log := strings.TrimLeft(logText(t, r.LogPath), "\n")
	if !strings.HasSuffix(log, "399999\n400000\nlast\n") || strings.Count(log, "\n") != 400001 {
		t.Errorf("the log has %d lines and ends with %q", strings.Count(log, "\n"), log[max(0, len(log)-100):])
	}
	var skipped *SkippedError
	err := <-whole
	seen := strings.TrimLeft(all.String(), "\n")
	switch {
	case err == nil && seen != log:
		t.Errorf("a client that missed nothing has %d bytes of %d", len(seen), len(log))
	case err != nil && !errors.As(err, &skipped):
		t.Errorf("a client that reads: %v", err)
	case err != nil && len(seen)+int(skipped.Bytes) != len(log):
		t.Errorf("a client has %d bytes and was told of %d skipped ones, of %d", len(seen), skipped.Bytes, len(log))
	}
	go io.Copy(io.Discard, never)
	if err := <-stuck; !errors.As(err, &skipped) || skipped.Bytes == 0 || skipped.Bytes >= int64(len(log)) {
		t.Errorf("the client that did not read: %v", err)
	}
}

// The container's input is its pause process's: it is open while no agent is there.
func TestStdinOutlivesTheAgent(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sh", "-c", echo)
	r.Stdin = true
	w.start(s, r)
	c := w.attach(s, r.ID, true, nil)
	io.WriteString(c.in, "before\n")
	c.sees(t, "got before\n")
	c.cancel()
	c.ended(t)
	w.open() // a new agent
	again, _, err := w.host.Adopt(ctxOf(t), s.uid)
	must(t, err)
	c = w.attach(again, r.ID, true, nil)
	io.WriteString(c.in, "after\n")
	c.sees(t, "got after\n")
}

// A pause process of before reads the request as that of one container, and says
// that it does not know the kind.
func TestAnOldPauseProcessCannotAttach(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	w.start(s, r)
	c, hangUp, err := s.dial(ctxOf(t))
	must(t, err)
	defer hangUp()
	const unknown wire.Kind = 60
	must(t, c.Send(unknown, &wire.Attach{ID: r.ID, Streams: 7}, os.Stderr))
	if _, err := answer(ctxOf(t), c); !errors.Is(err, ErrOldSandbox) {
		t.Errorf("%v; want ErrOldSandbox", err)
	}
}
