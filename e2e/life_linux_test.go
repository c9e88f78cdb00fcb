package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"podd/internal/kerneltest"
	"podd/pod"
)

// lifePod is a pod with two init containers, two sidecars and two containers,
// with every hook and probe. Each tells through the pipe what happens to it.
func lifePod(name, dir string) string {
	const (
		// says writes a line; once does so the first time only.
		says = "echo %s %s >/tell/fifo"
		once = "[ -e /tmp/%[2]s ] || { touch /tmp/%[2]s; echo %[1]s %[2]s >/tell/fifo; }"
	)
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 8
  volumes: [{name: tell, hostPath: {path: %s, type: Directory}}]
`, name, dir)
	command := func(field, script string) { fmt.Fprintf(&b, "    %s: {exec: {command: [sh, -c, %q]}", field, script) }
	container := func(name, script string) {
		fmt.Fprintf(&b, "  - name: %s\n    image: busybox:1.36\n    command: [sh, -c, %q]\n    volumeMounts: [{name: tell, mountPath: /tell}]\n", name, script)
	}
	inits := func(name string) {
		container(name, fmt.Sprintf(says+"; sleep 0.2; "+says, name, "started", name, "done"))
	}
	runs := func(name, policy string) {
		container(name, fmt.Sprintf("trap '"+says+"; exit 0' TERM; "+says+"; while :; do sleep 0.05 & wait $!; done", name, "TERM", name, "started"))
		if policy != "" {
			fmt.Fprintf(&b, "    restartPolicy: %s\n", policy)
		}
		for _, probe := range []string{"startup", "liveness", "readiness"} {
			command(probe+"Probe", fmt.Sprintf(once, name, probe))
			b.WriteString(", periodSeconds: 1}\n")
		}
		b.WriteString("    lifecycle:\n")
		for _, hook := range []string{"postStart", "preStop"} {
			b.WriteString("  ")
			command(hook, fmt.Sprintf(says+"; sleep 0.1; "+says, name, hook, name, hook+"-done"))
			b.WriteString("}\n")
		}
	}
	b.WriteString("  initContainers:\n")
	inits("prepare")
	runs("proxy", "Always")
	inits("migrate")
	runs("log", "Always")
	b.WriteString("  containers:\n")
	runs("app", "")
	runs("web", "")
	return b.String()
}

// told is what a container said, and when after the file was dropped.
type told struct {
	what string
	at   time.Duration
}

// listen collects what the pod's containers say until the pipe is closed.
func (s *teller) listen(began time.Time) (all func() []told) {
	var mu sync.Mutex
	var heard []told
	go func() { // ends with the pipe
		for {
			line, err := s.lines.ReadString('\n')
			if err != nil {
				return
			}
			mu.Lock()
			heard = append(heard, told{strings.TrimSpace(line), time.Since(began)})
			mu.Unlock()
		}
	}()
	return func() []told {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(heard)
	}
}

// A whole life on the real kernel: what starts, is probed and stops in which
// order, from the file's appearance until nothing is left. -v prints the table.
func TestAPodsWholeLife(t *testing.T) {
	t.Parallel()
	s := tellWithPipe(t)
	began := time.Now()
	heard := s.listen(began)
	has := func(what string) bool {
		return slices.ContainsFunc(heard(), func(h told) bool { return h.what == what })
	}
	s.drop("life", lifePod("life", s.dir))
	s.untilReady("life")
	shown := time.Since(began)
	s.eventually("every probe was made", func() bool {
		return has("app liveness") && has("web liveness") && has("proxy liveness") && has("log liveness")
	})
	removed := time.Since(began)
	s.remove("life")
	var events string
	s.eventually("the pod is gone", func() bool {
		if out, err := s.podd("describe", "life"); err == nil {
			events = out
		}
		return s.things() == ""
	})
	gone := time.Since(began)

	all := heard()
	all = append(all, told{"= shown ready", shown}, told{"= file removed", removed}, told{"= nothing left", gone})
	slices.SortFunc(all, func(a, b told) int { return int(a.at - b.at) })
	var table strings.Builder
	for _, h := range all {
		fmt.Fprintf(&table, "%8.0f ms  %s\n", float64(h.at.Microseconds())/1000, h.what)
	}
	_, after, _ := strings.Cut(events, "Events:")
	t.Logf("\n%s\nEvents:%s", table.String(), after)

	for _, order := range [][]string{
		{"prepare started", "prepare done", "proxy started", "proxy postStart", "proxy postStart-done", "proxy startup",
			"migrate started", "migrate done", "log started", "log postStart", "log postStart-done", "log startup",
			"app started", "app postStart", "app postStart-done", "web started", "web postStart", "web postStart-done"},
		{"app postStart-done", "app startup", "app readiness"},
		{"web postStart-done", "web startup", "web liveness"},
		{"app preStop", "app preStop-done", "app TERM", "log TERM", "proxy TERM"},
		{"web preStop", "web preStop-done", "web TERM", "log TERM"},
		{"log preStop", "log preStop-done", "log TERM"},
		// Hooks of sidecars do not wait for the other containers' end.
		{"proxy preStop", "app TERM"}, {"log preStop", "web TERM"},
	} {
		at := -1
		for i, what := range order {
			next := slices.IndexFunc(all, func(h told) bool { return h.what == what })
			if next < 0 {
				t.Errorf("%q did not happen", what)
				break
			}
			// A container's first word and its hook's are said side by side.
			beside := strings.HasSuffix(what, " postStart")
			if next < at && !beside {
				t.Errorf("%q came before %q", what, order[i-1])
			}
			at = max(at, next)
		}
	}
	for _, pattern := range []string{
		`Normal +Killing .*spec.containers\{app\}.*Stopping container app|Normal +Killing .*Stopping container app`,
		`Normal +Killing .*Stopping container proxy`, `Normal +Started`,
	} {
		if !regexp.MustCompile(pattern).MatchString(events) {
			t.Errorf("no event %s in\n%s", pattern, events)
		}
	}
}

const (
	removals     = 20
	removalBatch = 5 // pods that live side by side
	// removalGrace is the grace period of hastyPod, in seconds.
	removalGrace = 1
	// removalLimit is the grace period, the two seconds after a hook that overran
	// it, and room for a loaded machine and the race detector.
	removalLimit = (removalGrace+2)*time.Second + 5*time.Second
)

// hastyPod goes through every phase in about two seconds, and does not want to
// end: its preStop hook overruns, and its containers do not hear SIGTERM.
func hastyPod(name string, hostPort int) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: %d
  volumes: [{name: v, emptyDir: {medium: Memory}}]
  initContainers:
  - {name: fetch, image: busybox:1.36, command: [sleep, "0.3"], volumeMounts: [{name: v, mountPath: /v}]}
  - name: proxy
    image: busybox:1.36
    restartPolicy: Always
    command: [sleep, "1000"]
    startupProbe: {exec: {command: ["true"]}, periodSeconds: 1}
    lifecycle: {postStart: {exec: {command: [sleep, "0.2"]}}, preStop: {exec: {command: [sleep, "0.1"]}}}
  containers:
  - name: app
    image: busybox:1.36
    command: [sleep, "1000"]
    ports: [{containerPort: 80, hostPort: %d}]
    volumeMounts: [{name: v, mountPath: /v}]
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
    lifecycle: {postStart: {exec: {command: [sleep, "0.4"]}}, preStop: {exec: {command: [sleep, "1000"]}}}
  - {name: crash, image: busybox:1.36, command: [sh, -c, "sleep 0.2; exit 1"]}
`, name, removalGrace, hostPort)
}

// doomed is a pod that is removed at an instant of its life.
type doomed struct {
	name  string
	after time.Duration // its file appeared
	shown string        // as, in that moment
	at    time.Time     // its file was removed
	took  time.Duration // until it was gone
}

// Pods are removed at random instants of their lives; each is gone within the
// bound, and nothing is left: no process, mount, link, host port, cgroup,
// directory. The seed is printed; PODD_SEED repeats it.
func TestPodsAreRemovedAtAnyInstant(t *testing.T) {
	t.Parallel()
	kerneltest.Root(t)
	s := tell(t, []string{busyboxImage(t)})
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("PODD_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PODD_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	s.drop("warm", hastyPod("warm", 8080)) // what the first pod makes for good is there before it counts
	s.eventually("app runs", func() bool { return containers(s.pod("warm"))["app"].State.Running != nil })
	s.remove("warm")
	s.eventually("the first pod is gone", func() bool { return s.things() == "" })
	s.eventually("the first pod's events are kept", s.eventsKept)
	begin := s.census()

	var table strings.Builder
	for first := 0; first < removals; first += removalBatch {
		batch := make([]doomed, removalBatch)
		for i := range batch {
			batch[i] = doomed{name: fmt.Sprintf("p%d", first+i), after: time.Duration(random.Int64N(int64(2500 * time.Millisecond)))}
		}
		slices.SortFunc(batch, func(a, b doomed) int { return int(a.after - b.after) })
		began := time.Now()
		for i, d := range batch {
			s.drop(d.name, hastyPod(d.name, 8080+i))
		}
		for i := range batch {
			d := &batch[i]
			time.Sleep(time.Until(began.Add(d.after))) // the instant is what is tried
			if d.shown = "unknown"; s.pod(d.name).Name != "" {
				p := s.pod(d.name)
				d.shown = pod.Columns(&p, time.Now()).Status
			}
			s.remove(d.name)
			d.at = time.Now()
		}
		s.eventually("all pods are gone", func() bool {
			left := s.pods()
			all := true
			for i := range batch {
				_, there := left[batch[i].name]
				if all = all && !there; !there && batch[i].took == 0 {
					batch[i].took = time.Since(batch[i].at)
				}
			}
			return all && s.things() == ""
		})
		for _, d := range batch {
			fmt.Fprintf(&table, "%6d ms  %-18s gone after %5d ms\n", d.after.Milliseconds(), d.shown, d.took.Milliseconds())
			if d.took > removalLimit {
				t.Errorf("a pod that was removed %v after its file appeared, at %q, was gone after %v; want at most %v", d.after, d.shown, d.took, removalLimit)
			}
		}
		s.eventually("nothing is left", func() bool { return s.census() == begin })
	}
	t.Logf("removed, shown as:\n%s", table.String())
}
