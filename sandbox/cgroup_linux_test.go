package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// legacy makes a cgroup in some cgroup v1 hierarchies and returns its
// directories, too.
func (w *world) legacy(name string) (*Cgroup, map[string]string) {
	w.Helper()
	c, dirs := &Cgroup{}, map[string]string{}
	for _, h := range []string{"cpu", "memory", "pids"} {
		parent := filepath.Join("/sys/fs/cgroup", h)
		_, err := os.Stat(filepath.Join(parent, "tasks"))
		kerneltest.Need(w, err == nil, "cgroup v1 with controller "+h)
		dir := filepath.Join(parent, "podd-test-"+name)
		must(w, os.Mkdir(dir, 0o755))
		dirs[h] = dir
		w.Cleanup(func() {
			eventually(w, dir+" is removed", func() bool { return unix.Rmdir(dir) == nil })
		})
		procs, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_RDWR, 0)
		must(w, err)
		tasks, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
		must(w, err)
		w.Cleanup(func() { procs.Close(); tasks.Close() })
		c.Procs, c.Tasks = append(c.Procs, procs), append(c.Tasks, tasks)
	}
	return c, dirs
}

func TestCgroupV1LimitsHoldForContainerAndExec(t *testing.T) {
	w := newWorld(t)
	pauseGroup, pauseDirs := w.legacy("pause-" + newID()[:8])
	s := w.sandbox(func(w *Want) { w.Cgroup = pauseGroup; w.ShareProcessNamespace = true })
	st, err := s.State(ctxOf(t))
	must(t, err)
	for h, dir := range pauseDirs {
		if b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")); strings.TrimSpace(string(b)) != fmt.Sprint(st.Pid) {
			t.Errorf("%s: %q is not the pause process", h, b)
		}
	}
	group, dirs := w.legacy("ctr-" + newID()[:8])
	r := w.request("/bin/sh", "-c", "sleep 5551 & sleep 5552 & exec sleep 5553")
	r.Cgroup = group
	pid := 0
	r.Ready = func(p int) error {
		pid = p
		return os.WriteFile(filepath.Join(dirs["pids"], "pids.max"), []byte("20"), 0)
	}
	started := w.start(s, r)
	if pid != started.Pid {
		t.Errorf("ready with pid %d, started with %d", pid, started.Pid)
	}
	out := w.execOK(s, r.ID, "cat", "/proc/self/cgroup", "/proc/1/cgroup")
	for h := range dirs {
		if !strings.Contains(out, ":"+h+":/\n") {
			t.Errorf("the exec is not in the container's %s cgroup:\n%s", h, out)
		}
	}
	began := time.Now()
	must(t, s.KillContainer(ctxOf(t), r.ID))
	w.exit(s, r.ID)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("killing took %s", took)
	}
	eventually(t, "the container's cgroup is empty", func() bool {
		b, err := os.ReadFile(filepath.Join(dirs["pids"], "cgroup.procs"))
		return err == nil && len(b) == 0
	})
}

func TestTheSmallestLimitsStartAContainer(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	group, dirs := w.legacy("small-" + newID()[:8])
	r := w.request("/bin/sleep", "1000")
	r.Cgroup = group
	r.Ready = func(int) error {
		for file, value := range map[string]string{"cpu/cpu.cfs_quota_us": "1000", "memory/memory.limit_in_bytes": "4194304", "pids/pids.max": "1"} {
			h, name, _ := strings.Cut(file, "/")
			if err := os.WriteFile(filepath.Join(dirs[h], name), []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}
	w.start(s, r)
	time.Sleep(50 * time.Millisecond)
	if st, err := s.State(ctxOf(t)); err != nil || len(st.Containers) != 1 || st.Containers[0].Exit != nil {
		t.Errorf("%+v, %v", st, err)
	}
	must(t, s.KillContainer(ctxOf(t), r.ID))
}

// The pod's memory limit must never hit the pause process, nor a fork bomb the
// neighbours.
func TestHogAndForkBombBesideAHealthyContainer(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	healthy := w.request("/bin/sleep", "1000")
	w.start(s, healthy)
	limit := func(r *Start, h, file, value string) {
		group, dirs := w.legacy("hog-" + newID()[:8])
		r.Cgroup = group
		r.Ready = func(int) error { return os.WriteFile(filepath.Join(dirs[h], file), []byte(value), 0) }
	}
	hog := w.request("/bin/sh", "-c", `x=0123456789abcdef; while :; do x="$x$x"; done`)
	limit(&hog, "memory", "memory.limit_in_bytes", "16777216")
	w.start(s, hog)
	if c := w.exit(s, hog.ID); c.Exit.Signal != 9 {
		t.Errorf("the hog: %+v", c.Exit)
	}
	bomb := w.request("/bin/sh", "-c", `b() { b | b & }; b; sleep 0.3; echo survived`)
	limit(&bomb, "pids", "pids.max", "30")
	w.start(s, bomb)
	time.Sleep(300 * time.Millisecond)
	w.execOK(s, healthy.ID, "true")
	must(t, s.KillContainer(ctxOf(t), bomb.ID))
	w.exit(s, bomb.ID)
	st, err := s.State(ctxOf(t))
	if err != nil || st.Containers[0].ID != healthy.ID || st.Containers[0].Exit != nil {
		t.Errorf("the neighbour: %+v, %v", st, err)
	}
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", st.Pid)); err != nil || strings.TrimSpace(string(score)) != lowestScore(t) {
		t.Errorf("OOM score of the pause process is %q, the lowest permitted is %q, %v", score, lowestScore(t), err)
	}
}

// lowestScore returns the lowest OOM score that this machine permits.
func lowestScore(t *testing.T) string {
	t.Helper()
	if permittedCapabilities()&(1<<24) != 0 { // SYS_RESOURCE
		return "-998"
	}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	must(t, err)
	return strings.TrimSpace(string(b))
}

func TestAnAbortedStartLeavesNothing(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/touch", "/tmp/ran")
	pid := 0
	r.Ready = func(p int) error { pid = p; return os.ErrDeadlineExceeded }
	if _, err := s.Start(ctxOf(t), r); err != os.ErrDeadlineExceeded {
		t.Fatalf("Start: %v", err)
	}
	eventually(t, "the stage is gone", func() bool { return zombie(pid) })
	eventually(t, "the container is forgotten", func() bool {
		st, err := s.State(ctxOf(t))
		return err == nil && len(st.Containers) == 0
	})
	if _, err := os.Stat(filepath.Join(w.image, "tmp/ran")); err == nil {
		t.Error("the command ran")
	}
	r.Ready, r.Rootfs = nil, cloneTree(t, w.image)
	defer r.Rootfs.Close()
	w.start(s, r) // the same request may be made again
	if c := w.exit(s, r.ID); c.Exit.Code != 0 {
		t.Errorf("%+v", c.Exit)
	}
}

func TestHeldDescriptorsOutliveTheAgent(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	hold := func(n int) *os.File {
		var files []*os.File
		var keep *os.File
		for range n {
			r, wr, err := os.Pipe()
			must(t, err)
			files, keep = append(files, wr), r
		}
		must(t, s.Hold(ctxOf(t), files))
		closeAll(files)
		return keep
	}
	first := hold(1)
	first.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := first.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("the descriptor is not held: %v", err)
	}
	hold(250)
	first.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := first.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("a descriptor of an earlier Hold is still held: %v", err)
	}
}

func TestControlSocketIsForRootOnly(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	dir := w.host.dir(s.uid)
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Join(dir, socketName)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st.Mode(), err)
	}
}

func TestWithoutExecutableMemoryFilesAReadOnlyMountServes(t *testing.T) {
	kerneltest.Root(t)
	f, err := readOnlyMount(pauseBinary)
	must(t, err)
	defer f.Close()
	if g, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0); err == nil {
		g.Close()
		t.Error("it can be opened for writing")
	}
	w := newWorld(t)
	w.host.program.Close()
	w.host.program, err = readOnlyMount(pauseBinary)
	must(t, err)
	if out := w.sh(w.sandbox(), "echo works"); out != "works\n" {
		t.Errorf("%q", out)
	}
}
