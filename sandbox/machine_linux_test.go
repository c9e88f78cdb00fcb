//go:build linux && vm

package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What a root with every capability can do: the last that the kernel takes is the
// pause process, scores of containers are as wanted, limits go above the agent's.
func TestScoresAndLimitsWithEveryCapability(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	st, err := s.State(ctxOf(t))
	must(t, err)
	if got := content(t, fmt.Sprintf("/proc/%d/oom_score_adj", st.Pid)); got != "-998" {
		t.Errorf("the pause process's OOM score is %s, want -998", got)
	}
	score := -997
	got := w.sh(s, "cat /proc/self/oom_score_adj; ulimit -Hn; ulimit -Sn", func(r *Start) {
		r.Spec.Process.OOMScoreAdj = &score
		r.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 600000, Hard: 700000}} // the machine's own is 524288
	})
	if want := "-997\n700000\n600000\n"; got != want {
		t.Errorf("score and limits of a container are %q, want %q", got, want)
	}
}

// unified makes a cgroup whose limits can be set, and returns its directory.
func (w *world) unified(name string) (*Cgroup, string) {
	w.Helper()
	must(w, os.WriteFile(filepath.Join(w.cgroup, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0))
	return w.leaf(name), filepath.Join(w.cgroup, name)
}

// limit lets a container start and gives it limits when its stage is ready.
func (w *world) limit(r *Start, limits map[string]string) {
	w.Helper()
	group, dir := w.unified("limited-" + newID()[:8])
	r.Cgroup = group
	r.Ready = func(int) error {
		for file, value := range limits {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestCgroupV2LimitsMayBeTheSmallest(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sh", "-c", "echo started; exec sleep 1000")
	w.limit(&r, map[string]string{"cpu.max": "1000 100000", "memory.max": "4194304", "pids.max": "1"})
	w.start(s, r)
	eventually(t, "the container runs", func() bool {
		b, _ := os.ReadFile(r.LogPath)
		return strings.Contains(string(b), "started")
	})
	must(t, s.KillContainer(ctxOf(t), r.ID))
	if c := w.exit(s, r.ID); c.Exit.Signal != 9 {
		t.Errorf("exit %+v, want a kill", c.Exit)
	}
}

func TestCgroupV2LimitsHoldAHogAndAForkBomb(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	healthy := w.request("/bin/sleep", "1000")
	w.start(s, healthy)
	hog := w.request("/bin/sh", "-c", `x=0123456789abcdef; while :; do x="$x$x"; done`)
	w.limit(&hog, map[string]string{"memory.max": "16777216", "memory.oom.group": "1"})
	w.start(s, hog)
	if c := w.exit(s, hog.ID); c.Exit.Signal != 9 {
		t.Errorf("the hog: %+v", c.Exit)
	}
	bomb := w.request("/bin/sh", "-c", `b() { b | b & }; b; sleep 1000`)
	w.limit(&bomb, map[string]string{"pids.max": "30"})
	w.start(s, bomb)
	began := time.Now()
	w.execOK(s, healthy.ID, "true")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("an exec beside the fork bomb took %s", took)
	}
	must(t, s.KillContainer(ctxOf(t), bomb.ID))
	w.exit(s, bomb.ID)
	st, err := s.State(ctxOf(t))
	if err != nil || st.Containers[0].ID != healthy.ID || st.Containers[0].Exit != nil {
		t.Errorf("the neighbour: %+v, %v", st, err)
	}
}

// Without a profile of its own nothing of a pod is confined, nor hindered, where
// the kernel has AppArmor.
func TestAppArmorConfinesNobody(t *testing.T) {
	if got := content(t, "/sys/module/apparmor/parameters/enabled"); got != "Y" {
		t.Fatalf("AppArmor is %q in this machine", got)
	}
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	w.start(s, r)
	for _, file := range []string{"/proc/1/attr/current", "/proc/self/attr/current", "/proc/self/attr/apparmor/current"} {
		if got := w.execOK(s, r.ID, "cat", file); strings.TrimSpace(got) != "unconfined" {
			t.Errorf("%s says %q", file, got)
		}
	}
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return strings.TrimSpace(string(b))
}
