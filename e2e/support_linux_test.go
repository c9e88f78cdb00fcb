package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/internal/kerneltest"
	"podd/internal/testimage"
	"podd/sandbox"
)

// story is a world with a running agent, for tests that are Go and no script.
type story struct {
	testing.TB
	*world
}

// tell makes a world with the given images and starts its agent.
func tell(t testing.TB, archives []string, flags ...string) *story {
	t.Helper()
	return tellIn(t, t.TempDir(), archives, flags...)
}

// tellIn is tell in a given directory.
func tellIn(t testing.TB, dir string, archives []string, flags ...string) *story {
	t.Helper()
	kerneltest.Root(t)
	w, err := newWorld(dir, archives...)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{TB: t, world: w}
	t.Cleanup(func() {
		// The agent's own words, where a test that failed has not printed them.
		if t.Failed() {
			t.Logf("agent:\n%s", tail(w.agentLog(), 8<<10))
		}
		w.close()
		if left := w.things(); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
	})
	s.start(flags...)
	return s
}

// busyboxImage is an archive of the busybox image that manifests call
// busybox:1.36.
func busyboxImage(t testing.TB) string {
	t.Helper()
	return testimage.Archive(t, testimage.Busybox(t), "docker.io/library/busybox:1.36")
}

func tail(s string, limitBytes int) string {
	return s[max(0, len(s)-limitBytes):]
}

func (s *story) start(flags ...string) {
	s.Helper()
	if err := s.startAgent(flags); err != nil {
		s.Fatal(err)
	}
}

// killAgent is kill -9.
func (s *story) killAgent() {
	s.Helper()
	if err := s.endAgent(unix.SIGKILL); err != nil {
		s.Fatal(err)
	}
}

// drop puts a manifest into the watched directory, by rename.
func (s *story) drop(name, manifest string) {
	s.Helper()
	file := filepath.Join(s.dir, "manifests", name+".yaml")
	hidden := filepath.Join(s.dir, "manifests", "."+name)
	if err := os.WriteFile(hidden, []byte(manifest), 0o644); err != nil {
		s.Fatal(err)
	}
	if err := os.Rename(hidden, file); err != nil {
		s.Fatal(err)
	}
}

// remove takes a manifest away.
func (s *story) remove(name string) {
	s.Helper()
	if err := os.Remove(filepath.Join(s.dir, "manifests", name+".yaml")); err != nil {
		s.Fatal(err)
	}
}

// podd runs podd and returns what it printed; stderr is part of the error.
func (s *story) podd(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	made := s.command(args...)
	cmd := exec.CommandContext(ctx, made.Path, made.Args[1:]...)
	cmd.Dir = made.Dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("podd %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

// say runs podd, which must succeed, and returns what it printed.
func (s *story) say(args ...string) string {
	s.Helper()
	out, err := s.podd(args...)
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	return out
}

// sh runs a script in a container of a pod and returns its output, whatever its
// exit code.
func (s *story) sh(pod, container, script string) string {
	s.Helper()
	out, err := s.podd("exec", pod, "-c", container, "--", "sh", "-c", script+"\n:")
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	return out
}

// eventually waits until ok; what says what was waited for.
func (s *story) eventually(what string, ok func() bool) {
	s.Helper()
	s.within(patience, what, ok)
}

func (s *story) within(limit time.Duration, what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			pods, _ := s.podd("get")
			s.Fatalf("waited in vain: %s\n%s", what, pods)
		}
	}
}

// until waits until podd prints a line that matches.
func (s *story) until(regex string, args ...string) {
	s.Helper()
	want := regexp.MustCompile("(?m)" + regex)
	var out string
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if out, err = s.podd(args...); err == nil && want.MatchString(out) {
			return
		}
	}
	s.Fatalf("podd %s: waited in vain for %q; last:\n%s%v", strings.Join(args, " "), regex, out, err)
}

// pods are all pods as the read-only port tells them, by name.
func (s *story) pods() map[string]v1.Pod {
	s.Helper()
	var list v1.PodList
	if err := json.Unmarshal([]byte(s.page("http://127.0.0.1:"+readOnlyPort+"/pods")), &list); err != nil {
		s.Fatal(err)
	}
	byName := map[string]v1.Pod{}
	for _, p := range list.Items {
		byName[p.Name] = p
	}
	return byName
}

// pod is the pod of that name, empty where there is none.
func (s *story) pod(name string) v1.Pod {
	s.Helper()
	return s.pods()[name]
}

// containers are a pod's container statuses by name, init containers included.
func containers(p v1.Pod) map[string]v1.ContainerStatus {
	byName := map[string]v1.ContainerStatus{}
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		byName[c.Name] = c
	}
	return byName
}

// ready says whether all containers of a pod are, sidecars included.
func ready(p v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.ContainersReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func (s *story) untilReady(name string) v1.Pod {
	s.Helper()
	s.eventually("pod "+name+" is ready", func() bool { return ready(s.pod(name)) })
	return s.pod(name)
}

// page is a page as something on the world's host sees it.
func (s *story) page(url string) string {
	s.Helper()
	body, err := s.get(url)
	if err != nil {
		s.Fatalf("get %s: %v", url, err)
	}
	return body
}

func (s *story) get(url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	resp, err := s.fetch(ctx, url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

// process is the pid, on the host, of the main process of a container's newest
// attempt.
func (s *story) process(p v1.Pod, container string) int {
	s.Helper()
	files := s.files(filepath.Join("run/pods", string(p.UID), "c", container, "*", "exit"))
	newest, attempt := "", -1
	for _, f := range files {
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil && n > attempt {
			newest, attempt = f, n
		}
	}
	if newest == "" {
		s.Fatalf("container %s of pod %s never started", container, p.Name)
	}
	c, err := sandbox.ReadExitFile(newest)
	if err != nil {
		s.Fatal(err)
	}
	if c.Exit != nil {
		s.Fatalf("attempt %d of container %s of pod %s has exited already", attempt, container, p.Name)
	}
	return c.Pid
}

// crash kills a container's main process from the host.
func (s *story) crash(p v1.Pod, container string) {
	s.Helper()
	if err := unix.Kill(s.process(p, container), unix.SIGKILL); err != nil {
		s.Fatal(err)
	}
}
