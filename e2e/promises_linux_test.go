package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// What users are promised and `make bench` measures to the tenth is held here
// with room for a loaded machine and for the race detector in the agent.
const (
	startLimit      = 100 * time.Millisecond // measured: about 10 ms without the detector
	restartLimit    = 100 * time.Millisecond
	pauseLimitBytes = 1e6
	idleLimit       = 100 * time.Millisecond // of processor time, in idleWindow
	idleWindow      = 4 * time.Second
	agentSizeBytes  = 28e6
	pauseSizeBytes  = 3e6
)

// teller is a story with a pipe that containers tell about themselves through.
type teller struct {
	*story
	lines *bufio.Reader
	dir   string
}

func tellWithPipe(t *testing.T) *teller {
	t.Helper()
	s := tell(t, []string{busyboxImage(t)})
	dir := t.TempDir()
	path := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(path, 0o622); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // as a writer too, so that it never ends
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &teller{s, bufio.NewReader(f), dir}
}

// await returns when a container has told line.
func (s *teller) await(line string) time.Time {
	s.Helper()
	for {
		got, err := s.lines.ReadString('\n')
		if err != nil {
			s.Fatalf("waiting for %q: %v", line, err)
		}
		if got == line+"\n" {
			return time.Now()
		}
	}
}

func (s *teller) manifest(name, script string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: tell, hostPath: {path: %s, type: Directory}}]
  containers:
  - name: app
    image: busybox:1.36
    command: [sh, -c, %q]
    volumeMounts: [{name: tell, mountPath: /tell}]
`, name, s.dir, script)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func TestAPodStartsWithinMilliseconds(t *testing.T) {
	s := tellWithPipe(t)
	var starts, restarts []time.Duration
	for i := range 9 {
		name := fmt.Sprintf("p%d", i)
		text := s.manifest(name, "trap 'exit 0' TERM; echo started >/tell/fifo; if [ ! -e /tell/"+name+" ]; then touch /tell/"+name+"; read x </tell/end; echo ends >/tell/fifo; exit 1; fi; sleep 1000 & wait")
		end := filepath.Join(s.dir, "end")
		if err := unix.Mkfifo(end, 0o666); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		s.drop(name, text)
		starts = append(starts, s.await("started").Sub(began))
		if err := os.WriteFile(end, []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		began = s.await("ends")
		restarts = append(restarts, s.await("started").Sub(began))
		if err := os.Remove(end); err != nil {
			t.Fatal(err)
		}
		s.remove(name)
		s.eventually("the pod is gone", func() bool { return s.things() == "" })
	}
	t.Logf("file renamed → first instruction: median %v; container's end → next attempt's first instruction: median %v", median(starts), median(restarts))
	if m := median(starts); m > startLimit {
		t.Errorf("a start takes %v, want at most %v: %v", m, startLimit, starts)
	}
	if m := median(restarts); m > restartLimit {
		t.Errorf("a restart takes %v, want at most %v: %v", m, restartLimit, restarts)
	}
}

func TestPodsAtRestCostNothing(t *testing.T) {
	s := tellWithPipe(t)
	const pods = 20
	for i := range pods {
		s.drop(fmt.Sprintf("p%d", i), s.manifest(fmt.Sprintf("p%d", i), "echo started >/tell/fifo; exec sleep 1000"))
	}
	for range pods {
		s.await("started")
	}
	s.eventually("all run", func() bool {
		running := 0
		for _, p := range s.pods() {
			if ready(p) {
				running++
			}
		}
		return running == pods
	})
	var all []int
	for _, p := range s.pods() {
		all = append(all, s.parent(s.process(p, "app")))
	}
	var sum float64
	for _, pid := range all {
		sum += s.pss(pid)
	}
	mean := sum / pods
	used := func() (sum time.Duration) {
		for _, pid := range append(all, s.agent.Process.Pid) {
			sum += s.processorTime(pid)
		}
		return sum
	}
	// What the starts left to do is done within the first windows.
	var least time.Duration = -1
	for range 4 {
		before := used()
		time.Sleep(idleWindow)
		if d := used() - before; least < 0 || d < least {
			least = d
		}
		if least <= idleLimit {
			break
		}
	}
	t.Logf("%d pods: a pause process has %.2f MB; agent and pause processes use %v of processor time in %v", pods, mean/1e6, least, idleWindow)
	if mean > pauseLimitBytes {
		t.Errorf("a pause process has %.2f MB, want at most %.2f", mean/1e6, pauseLimitBytes/1e6)
	}
	if least > idleLimit {
		t.Errorf("agent and pause processes use %v of processor time in %v, want at most %v", least, idleWindow, idleLimit)
	}
}

// parent is a process's parent.
func (s *story) parent(pid int) int {
	s.Helper()
	f := strings.Fields(s.stat(pid))
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		s.Fatal(err)
	}
	return parent
}

// processorTime is what a process has used so far.
func (s *story) processorTime(pid int) time.Duration {
	s.Helper()
	var sum time.Duration
	for _, text := range strings.Fields(s.stat(pid))[11:13] { // utime, stime
		ticks, err := strconv.Atoi(text)
		if err != nil {
			s.Fatal(err)
		}
		sum += time.Duration(ticks) * time.Second / 100
	}
	return sum
}

// stat is /proc/PID/stat from the state on.
func (s *story) stat(pid int) string {
	s.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		s.Fatal(err)
	}
	return string(b[strings.LastIndexByte(string(b), ')')+1:])
}

// pss is a process's share of memory in bytes.
func (s *story) pss(pid int) float64 {
	s.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "Pss:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				s.Fatal(err)
			}
			return kb * 1024
		}
	}
	s.Fatalf("no Pss of process %d", pid)
	return 0
}

func TestProgramsAreSmall(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("make", "-C", "..", "build", "BIN="+dir)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, limit := range map[string]int64{"podd": agentSizeBytes, "podd-pause": pauseSizeBytes} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			t.Errorf("%s has %.1f MB, want at most %.1f", name, float64(info.Size())/1e6, float64(limit)/1e6)
		}
	}
}

// The way out: what podd runs and what it prints are objects that the types of
// Kubernetes know, with no field of its own, and its own output is a manifest.
func TestWhatRunsHereIsPlainKubernetes(t *testing.T) {
	files, err := filepath.Glob("../manifests/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split(string(text), "\n---\n") {
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			object, known := map[string]any{
				"Pod": &v1.Pod{}, "ConfigMap": &v1.ConfigMap{}, "Secret": &v1.Secret{},
				"PersistentVolumeClaim": &v1.PersistentVolumeClaim{}, "PersistentVolume": &v1.PersistentVolume{},
			}[kind.Kind]
			if err := yaml.UnmarshalStrict([]byte(document), object); err != nil || !known {
				t.Errorf("%s: a %q: %v", file, kind.Kind, err)
			}
		}
	}
	s := tellWithPipe(t)
	s.drop("plain", s.manifest("plain", "exec sleep 1000"))
	s.untilReady("plain")
	printed := s.say("get", "plain", "-o", "yaml")
	var p v1.Pod
	if err := yaml.UnmarshalStrict([]byte(printed), &p); err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	if p.APIVersion != "v1" || p.Kind != "Pod" || p.Status.Phase != v1.PodRunning {
		t.Errorf("printed %s %s, %s", p.APIVersion, p.Kind, p.Status.Phase)
	}
	again := filepath.Join(t.TempDir(), "again.yaml")
	if err := os.WriteFile(again, []byte(printed), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := s.podd("check", again); err != nil {
		t.Errorf("podd does not take its own output: %v\n%s", err, out)
	}
}
