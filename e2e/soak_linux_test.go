package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"podd/internal/kerneltest"
)

// soakBatch is how many pods live at once.
const soakBatch = 20

// What an agent may keep of a batch of pods that are gone: idle connections,
// timers that run out. A leak of one per pod is soakBatch.
const (
	noiseGoroutines  = 10
	noiseDescriptors = 6
)

// PODD_SOAK_PODS asks for another number of pods than 200, for as long as one
// has time.
func soakPods(t *testing.T) int {
	t.Helper()
	switch s := os.Getenv("PODD_SOAK_PODS"); {
	case s != "":
		n, err := strconv.Atoi(s)
		if err != nil || n < soakBatch {
			t.Fatalf("PODD_SOAK_PODS: expected a number of at least %d; found %q", soakBatch, s)
		}
		return n
	case testing.Short():
		return 3 * soakBatch
	}
	return 200
}

// Pods come and go in batches, each with all that leaves something behind where
// an agent forgets it. In each batch the agent is killed once, each time at
// another moment of the pods' life.
func TestNothingIsLeftAfterManyPods(t *testing.T) {
	kerneltest.Root(t)
	s := tell(t, []string{busyboxImage(t)})
	// What the first pod makes for good, such as the file of addresses, is there
	// before it counts.
	s.batch("warm", 1, func(string) {})
	goroutines := s.goroutines()
	s.eventually("the first pod's events are kept", s.eventsKept)
	begin := s.census()

	moments := []string{"dropped", "ready", "crashed", "restarted", "exec", "removed"}
	batches := (soakPods(t) + soakBatch - 1) / soakBatch
	began := time.Now()
	for b := range batches {
		moment := moments[b%len(moments)]
		s.batch(fmt.Sprintf("b%d", b), soakBatch, func(now string) {
			if now == moment {
				s.killAgent()
				s.start()
			}
		})
		if now := s.census(); now != begin {
			t.Fatalf("the agent was killed when the pods of batch %d were at %q; there was\n%s\nand is\n%s", b, moment, begin, now)
		}
	}
	t.Logf("%d pods, and as many kills of the agent as batches of %d, in %v", batches*soakBatch, soakBatch, time.Since(began).Round(time.Second))

	// An agent that has lived through whole batches is as small as one that has
	// seen no pod.
	s.batch("first", soakBatch, func(string) {})
	descriptors := s.descriptors()
	s.batch("second", soakBatch, func(string) {})
	s.eventually("descriptors are closed", func() bool { return s.descriptors() <= descriptors+noiseDescriptors })
	s.eventually("goroutines end", func() bool { return s.goroutines() <= goroutines+noiseGoroutines })
}

// soakPod is one pod of a batch, on its own host port.
func soakPod(name string, hostPort int) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - name: scratch
    emptyDir:
      medium: Memory
      sizeLimit: 1Mi
  containers:
  - name: app
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      [ -e /scratch/word ] || echo %s > /scratch/word
      exec httpd -f -p 80 -h /scratch
    ports:
    - containerPort: 80
      hostPort: %d
    readinessProbe:
      exec:
        command: [test, -e, /scratch/word]
      periodSeconds: 1
    volumeMounts:
    - name: scratch
      mountPath: /scratch
`, name, name, hostPort)
}

// batch has pods live from file to end. It calls at after each step with the
// step's name; the agent may be another one afterwards.
func (s *story) batch(prefix string, size int, at func(moment string)) {
	s.Helper()
	const firstPort = 21000
	names := make([]string, size)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", prefix, i)
		s.drop(names[i], soakPod(names[i], firstPort+i))
	}
	at("dropped")
	s.untilAllReady(names, 0)
	pods := s.pods()
	at("ready")

	for _, name := range names {
		s.crash(pods[name], "app")
	}
	at("crashed")
	s.untilAllReady(names, 1)
	at("restarted")

	// The port leads to the pod, and the volume outlived the crash.
	for i, name := range names {
		if word := s.page(fmt.Sprintf("http://127.0.0.1:%d/word", firstPort+i)); word != name+"\n" {
			s.Errorf("host port of pod %s leads to %q", name, word)
		}
	}
	s.eachAtOnce(names, func(name string) error {
		out, err := s.podd("exec", name, "--", "cat", "/scratch/word")
		if err == nil && out != name+"\n" {
			err = fmt.Errorf("exec in pod %s prints %q", name, out)
		}
		return err
	})
	// A session whose client goes, or whose agent does.
	session := s.command("exec", names[0], "--", "sh", "-c", "touch /scratch/busy; sleep 1000")
	if err := session.Start(); err != nil {
		s.Fatal(err)
	}
	s.eventually("the session has begun", func() bool {
		_, err := s.get(fmt.Sprintf("http://127.0.0.1:%d/busy", firstPort))
		return err == nil
	})
	at("exec")
	session.Process.Kill()
	session.Wait()

	for _, name := range names {
		s.remove(name)
	}
	at("removed")
	s.eventually("the pods of batch "+prefix+" are gone", func() bool { return len(s.pods()) == 0 && s.things() == "" })
}

func (s *story) untilAllReady(names []string, restarts int32) {
	s.Helper()
	s.eventually(fmt.Sprintf("pods %s… are ready with %d restarts", names[0], restarts), func() bool {
		pods := s.pods()
		for _, name := range names {
			p := pods[name]
			if c := containers(p)["app"]; !ready(p) || c.RestartCount != restarts {
				return false
			}
		}
		return true
	})
}

// eachAtOnce calls f for all names, two at a time.
func (s *story) eachAtOnce(names []string, f func(string) error) {
	s.Helper()
	var all sync.WaitGroup
	next, errs := make(chan string), make(chan error, len(names))
	for range 2 {
		all.Go(func() {
			for name := range next {
				errs <- f(name)
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	all.Wait()
	for range names {
		if err := <-errs; err != nil {
			s.Error(err)
		}
	}
}

// census lists what there is: things, every file name of the agent's directories
// but images, mounts, processes, network links, host ports and addresses.
func (s *story) census() string {
	s.Helper()
	all := []string{s.things()}
	for _, dir := range []string{"root", "run", "logs", "containers", "logs-containers"} {
		err := filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, d os.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if path == filepath.Join(s.dir, "run/events.json.new") {
				return nil // it is being written
			}
			all = append(all, "file "+path)
			if path == filepath.Join(s.dir, "root/images") || path == filepath.Join(s.dir, "root/layers") {
				return filepath.SkipDir
			}
			return nil
		})
		if err != nil {
			s.Fatal(err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], s.dir+"/") {
			all = append(all, "mount "+f[4])
		}
	}
	all = append(all, s.processes()...)
	all = append(all, s.networking()...)
	slices.Sort(all)
	return strings.Join(slices.DeleteFunc(all, func(line string) bool { return line == "" }), "\n")
}

// eventsKept says that the agent has written its file of events, which stays.
func (s *story) eventsKept() bool {
	_, err := os.Stat(filepath.Join(s.dir, "run/events.json"))
	return err == nil
}

// processes are those in the world's cgroups, and children of the agent.
func (s *story) processes() []string {
	s.Helper()
	var found []string
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		s.Fatal(err)
	}
	for _, dir := range dirs {
		status, err := os.ReadFile(dir + "/status")
		if err != nil || strings.Contains(string(status), "\nState:\tZ") {
			continue // gone; a zombie is its parent's matter, which after a kill is the machine's
		}
		groups, _ := os.ReadFile(dir + "/cgroup")
		ours := strings.Contains(string(groups), "/"+s.name+"/")
		if s.agent != nil {
			ours = ours || strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", s.agent.Process.Pid))
		}
		if ours {
			name, _, _ := strings.Cut(string(status), "\n")
			found = append(found, "process "+filepath.Base(dir)+" "+name)
		}
	}
	return found
}

// networking are the links of the world's host, its host ports and the
// addresses that are taken.
func (s *story) networking() []string {
	s.Helper()
	var found []string
	err := s.inHost(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			found = append(found, "link "+l.Attrs().Name)
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		if err != nil {
			return err
		}
		for _, table := range tables {
			sets, err := c.GetSets(table)
			if err != nil {
				return err
			}
			for _, set := range sets {
				elements, err := c.GetSetElements(set)
				if err != nil {
					return err
				}
				found = append(found, fmt.Sprintf("set %s/%s with %d elements", table.Name, set.Name, len(elements)))
			}
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "root/network/addresses"))
	if err != nil {
		s.Fatal(err)
	}
	taken := map[string]bool{}
	for line := range strings.Lines(string(log)) {
		switch f := strings.Fields(line); f[0] {
		case "lease":
			taken[f[1]] = true
		case "free":
			delete(taken, f[1])
		}
	}
	for uid := range taken {
		found = append(found, "address of pod "+uid)
	}
	return found
}

// descriptors is how many the agent has open.
func (s *story) descriptors() int {
	s.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.agent.Process.Pid))
	if err != nil {
		s.Fatal(err)
	}
	return len(open)
}

// goroutines is how many the agent has, by its own metrics.
func (s *story) goroutines() int {
	s.Helper()
	page, err := s.get("http://127.0.0.1:10255/metrics")
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(page) {
		if value, found := strings.CutPrefix(line, "go_goroutines "); found {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				s.Fatal(err)
			}
			return n
		}
	}
	s.Fatalf("no go_goroutines in\n%s", tail(page, 1000))
	return 0
}
