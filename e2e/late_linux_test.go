package e2e

import (
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heldServer answers probes, but for the next one after hold, which it keeps.
type heldServer struct {
	next atomic.Bool
	held chan struct{} // told when a probe is kept
}

func (h *heldServer) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	if h.next.CompareAndSwap(true, false) {
		h.held <- struct{}{}
		<-r.Context().Done() // the probe has given up
	}
}

const heldTimeout = 3 * time.Second

const heldPod = `
apiVersion: v1
kind: Pod
metadata: {name: held}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: busybox:1.36
    command: [sleep, "1000"]
    livenessProbe: {httpGet: {host: 127.0.0.1, port: 8085}, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 1}
`

// An agent that gets no CPU sees its probes run into their timeouts, whatever the
// containers do. That is the agent's lag and counts neither way; with --strict-probes
// it counts, as under a kubelet. SIGSTOP takes the CPU from the agent alone: on any
// machine, and while a probe is known to be under way.
func TestAnAgentThatGotNoCPUBlamesNoContainer(t *testing.T) {
	t.Parallel()
	s := tell(t, []string{busyboxImage(t)})
	l, err := s.listen("127.0.0.1:8085")
	must(t, err)
	server := &heldServer{held: make(chan struct{})}
	go http.Serve(l, server) // ends with its listener
	s.Cleanup(func() { l.Close() })
	s.drop("held", heldPod)
	before := s.untilReady("held")

	stopThrough := func() {
		server.next.Store(true)
		<-server.held
		must(t, s.agent.Process.Signal(unix.SIGSTOP))
		time.Sleep(heldTimeout + 500*time.Millisecond)
		must(t, s.agent.Process.Signal(unix.SIGCONT))
	}
	stopThrough()
	s.until(`ProbeInconclusive.*the agent itself ran late`, "describe", "held")
	untouched(t, "app", before, s.pod("held"))
	counted := regexp.MustCompile(`prober_probe_total\{.*result="unknown".*\} [1-9]`)
	if page := s.page("http://127.0.0.1:" + readOnlyPort + "/metrics/probes"); !counted.MatchString(page) || strings.Contains(page, `result="failed"`) {
		t.Errorf("the attempt is counted otherwise:\n%s", page)
	}

	must(t, s.endAgent(unix.SIGTERM))
	must(t, s.startAgent([]string{"--strict-probes"}))
	stopThrough()
	s.until(`^held +1/1 +Running +1 `, "get")
	s.until(`Liveness probe failed: .*deadline exceeded`, "describe", "held")
}
