package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/go-logr/logr"
)

// A pause process lets its own timers be late; what runs in its containers gets
// the slack that the agent was started with.
func TestTimersOfContainersStayExact(t *testing.T) {
	w := newWorld(t)
	h, err := Open(Config{RunDir: w.run, PauseBinary: pauseBinary, TimerSlack: 70_000, Logger: logr.Discard()})
	must(t, err)
	t.Cleanup(func() { h.Close() })
	w.host = h
	s := w.sandbox()
	// The value now, and the one that a program gets back by asking for the default.
	const script = "read now </proc/self/timerslack_ns; echo 0 >/proc/self/timerslack_ns; read default </proc/self/timerslack_ns; echo $now $default"
	const want = "70000 70000\n"
	for _, byStage := range []bool{false, true} {
		r := w.request("/bin/sh", "-c", script+"; sleep 1000")
		r.UseStageForExec = byStage
		w.start(s, r)
		eventually(t, "the container has said its slack", func() bool { return logText(t, r.LogPath) != "" })
		if got := logText(t, r.LogPath); got != want {
			t.Errorf("container: %q", got)
		}
		for range 3 { // threads of different origin
			if got := w.execOK(s, r.ID, "sh", "-c", script); got != want {
				t.Errorf("exec, by a stage %v: %q", byStage, got)
			}
		}
	}
	st, err := s.State(ctxOf(t))
	must(t, err)
	got, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(st.Pid), "timerslack_ns"))
	if err != nil || string(got) != "2000000\n" {
		t.Errorf("the pause process has a slack of %q ns, %v", got, err)
	}
}
