package pod_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"podd/pod"
)

// crashing is a pod with one of everything that can be interrupted.
const crashing = `
-- web.yaml --
spec:
  initContainers:
  - {name: proxy, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}, readinessProbe: {tcpSocket: {port: 1}}, lifecycle: {preStop: {exec: {command: [bye]}}}}
  - {name: fetch}
  containers:
  - {name: app, livenessProbe: {tcpSocket: {port: 1}}, readinessProbe: {tcpSocket: {port: 1}}, lifecycle: {postStart: {sleep: {seconds: 1}}, preStop: {sleep: {seconds: 2}}}}
  - {name: crash}
-- changed.yaml --
spec:
  initContainers:
  - {name: proxy, image: "example.com/proxy:2", restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}, readinessProbe: {tcpSocket: {port: 1}}}
  - {name: fetch}
  containers:
  - name: app
    livenessProbe: {tcpSocket: {port: 1}}
    readinessProbe: {tcpSocket: {port: 1}}
    resources: {requests: {cpu: 200m}}
  - {name: crash, image: "example.com/crash:2"}
-- sized.yaml --
spec:
  initContainers:
  - {name: proxy, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}, readinessProbe: {tcpSocket: {port: 1}}}
  - {name: fetch}
  containers:
  - name: app
    livenessProbe: {tcpSocket: {port: 1}}
    readinessProbe: {tcpSocket: {port: 1}}
    resources: {requests: {cpu: 100m}}
  - {name: crash}
-- job.yaml --
spec:
  restartPolicy: OnFailure
  initContainers: [{name: proxy, restartPolicy: Always}]
  containers: [{name: crash}]
-- story --
`

// livePod runs a pod from its file's appearance, through the changes that later
// files make, to its removal. The agent ends at
// the given step, counted in facts from 1, and is started again; zero: it never
// does. It returns how many facts there were and what the pod had come to.
func livePod(t *testing.T, files []string, endAt int, reboot bool) (facts int, lived string) {
	w := newWorld(t, txtar.Parse([]byte(crashing)))
	w.kernel.Lives("fetch", time.Second, 0)
	w.kernel.ProbesSucceed(time.Second)
	if !reboot {
		w.kernel.Lives("crash", 20*time.Second, 1)
	}
	crashed := make(chan struct{}, 1)
	w.onFact = func(pod.Fact) {
		w.mu.Lock()
		facts++
		now := facts == endAt
		w.mu.Unlock()
		if now {
			w.store = w.store.Freeze(reboot)
			w.stop()
			crashed <- struct{}{}
		}
	}
	pass := func(d time.Duration) {
		over := time.After(d)
		for {
			select {
			case <-over:
				return
			case <-crashed:
				<-w.ended
				w.kernel.AgentEnded()
				if reboot {
					w.kernel.Reboot()
				}
				w.startAgent()
			}
		}
	}
	w.startAgent()
	for _, file := range files {
		w.set = w.load([]string{file})
		w.sets <- w.set
		pass(time.Minute)
	}
	if p, found := w.board.Get(pod.Key{Namespace: "default", Name: "web"}); found {
		r := pod.Columns(p, time.Now())
		w.print("= ", strings.Join([]string{r.Name, r.Ready, r.Status}, " "))
	}
	w.status()
	w.print("= ", "holds "+w.kernel.State())
	if !reboot {
		w.print("= ", fmt.Sprint(w.kernel.Starts(), " starts"))
	}
	w.set = w.load(nil)
	w.sets <- w.set
	pass(time.Minute)
	w.get()
	w.print("= ", "holds "+w.kernel.State())
	if left, err := w.store.List(); err != nil || len(left) > 0 {
		t.Errorf("%d records are left, %v", len(left), err)
	}
	w.stopAgent()
	var shown []string
	for _, line := range w.lines {
		if strings.Contains(line, " = ") {
			shown = append(shown, line)
		}
	}
	return facts, strings.Join(shown, "\n")
}

// TestAgentMayBeKilledAtEveryStep ends the agent after each fact of a pod's
// life, starts it again on the same kernel, and expects the same life: nothing is
// started twice, no count is lost, nothing stays behind.
func TestAgentMayBeKilledAtEveryStep(t *testing.T) {
	for _, files := range [][]string{{"web.yaml"}, {"job.yaml"}, {"sized.yaml", "changed.yaml"}} {
		t.Run(strings.Join(files, " then "), func(t *testing.T) {
			var steps int
			var undisturbed string
			synctest.Test(t, func(t *testing.T) { steps, undisturbed = livePod(t, files, 0, false) })
			if steps < 30 || !strings.Contains(undisturbed, "no pods") {
				t.Fatalf("%d steps:\n%s", steps, undisturbed)
			}
			for step := 1; step <= steps; step++ {
				synctest.Test(t, func(t *testing.T) {
					if _, lived := livePod(t, files, step, false); lived != undisturbed {
						t.Errorf("killed at step %d of %d:\n%s", step, steps, diff(undisturbed, lived))
					}
				})
			}
		})
	}
}

// TestMachineMayLosePowerAtEveryStep expects a pod that runs and is ready again
// after a power cut at any moment, if its record had reached the disk or its file is
// still there, and that nothing stays behind.
func TestMachineMayLosePowerAtEveryStep(t *testing.T) {
	var steps int
	synctest.Test(t, func(t *testing.T) { steps, _ = livePod(t, []string{"web.yaml"}, 0, true) })
	for step := 1; step <= steps; step++ {
		synctest.Test(t, func(t *testing.T) {
			_, lived := livePod(t, []string{"web.yaml"}, step, true)
			if !strings.Contains(lived, "web 3/3 Running") || strings.Count(lived, "no pods") != 1 || !strings.HasSuffix(lived, "holds ") {
				t.Errorf("power lost at step %d of %d:\n%s", step, steps, lived)
			}
		})
	}
}
