//go:build linux && soak

// These tests need minutes and a machine that nothing else is measured on.

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// burners is how many processes keep the CPUs busy.
	burners = 8
	// selfish is the nice value of the highest weight there is; pods without
	// requests weigh next to nothing, and the agent not much beside that.
	selfish = -20
)

// starvation is how many pods get no CPU for how long: PODD_STARVE_SECONDS, or
// three minutes.
func starvation(t *testing.T) (pods int, lasts time.Duration) {
	s := os.Getenv("PODD_STARVE_SECONDS")
	if s == "" {
		s = "180"
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 5 {
		t.Fatalf("PODD_STARVE_SECONDS: expected a number of at least 5; found %q", s)
	}
	return 20, time.Duration(n) * time.Second
}

// burn keeps every CPU busy until stop.
func (s *story) burn(nice int) (stop func()) {
	s.Helper()
	var all []*exec.Cmd
	stop = func() {
		for _, c := range all {
			c.Process.Kill() // fails only where it is gone
			c.Wait()
		}
		all = nil
	}
	s.Cleanup(stop)
	for range burners {
		c := exec.Command("sh", "-c", "while :; do :; done")
		if err := c.Start(); err != nil {
			s.Fatal(err)
		}
		all = append(all, c)
		if err := unix.Setpriority(unix.PRIO_PROCESS, c.Process.Pid, nice); err != nil {
			s.Fatal(err)
		}
	}
	return stop
}

// probed is a pod whose container must answer within a second, each second, or
// be restarted.
func probed(name string, exec bool) string {
	probe := "httpGet: {port: 80}"
	if exec {
		probe = "exec: {command: [sh, -c, 'test -e /www/index.html']}"
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: busybox:1.36
    command: [sh, -c, "mkdir /www; echo ok > /www/index.html; exec httpd -f -p 80 -h /www"]
    startupProbe: {%[2]s, periodSeconds: 1, failureThreshold: 100}
    livenessProbe: {%[2]s, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1}
`, name, probe)
}

// starve runs probed pods, and then leaves them no CPU for a while.
func (s *story) starve(pods int, lasts time.Duration) {
	s.Helper()
	for i := range pods {
		s.drop(fmt.Sprintf("p%d", i), probed(fmt.Sprintf("p%d", i), i%2 == 0))
	}
	s.eventually("all pods are ready", func() bool {
		n := 0
		for _, p := range s.pods() {
			if ready(p) {
				n++
			}
		}
		return n == pods
	})
	stop := s.burn(selfish)
	time.Sleep(lasts)
	stop()
}

// restarts is how often containers of all pods were started again.
func (s *story) restarts() (n int32) {
	s.Helper()
	for _, p := range s.pods() {
		n += containers(p)["app"].RestartCount
	}
	return n
}

// toldInconclusive says whether an event of any pod tells of an attempt that does
// not count.
func (s *story) toldInconclusive(pods int) bool {
	s.Helper()
	for i := range pods {
		if strings.Contains(s.say("describe", fmt.Sprintf("p%d", i)), "ProbeInconclusive") {
			return true
		}
	}
	return false
}

// attempts counts the attempts of all liveness probes with the given result.
func (s *story) attempts(result string) (n int) {
	s.Helper()
	line := regexp.MustCompile(`(?m)^prober_probe_total\{.*probe_type="Liveness".*result="` + result + `".*\} (\d+)$`)
	for _, m := range line.FindAllStringSubmatch(s.page("http://127.0.0.1:"+readOnlyPort+"/metrics/probes"), -1) {
		i, _ := strconv.Atoi(m[1])
		n += i
	}
	return n
}

// On a machine whose CPUs are all taken, pods that are well are not restarted
// because they could not answer in time; events and metrics say so.
func TestAStarvedMachineRestartsNobody(t *testing.T) {
	pods, lasts := starvation(t)
	s := tell(t, []string{busyboxImage(t)})
	s.starve(pods, lasts)
	restarts, unknown, failed := s.restarts(), s.attempts("unknown"), s.attempts("failed")
	t.Logf("%v of starvation, %d pods: %d restarts, %d attempts inconclusive, %d successful, %d failed",
		lasts, pods, restarts, unknown, s.attempts("successful"), failed)
	// A single failure means a restart, be it only about to come.
	if restarts != 0 || failed != 0 {
		t.Errorf("%d restarts, %d failures", restarts, failed)
	}
	if unknown == 0 {
		t.Error("no attempt was inconclusive: nobody starved")
	}
	if !s.toldInconclusive(pods) {
		t.Error("no event tells of it")
	}

	// What answers and says no is restarted nevertheless. Burners that leave the
	// agent its share are enough: for the time of a probe, no CPU is idle.
	page := fmt.Sprintf("/proc/%d/root/www/index.html", s.process(s.pod("p0"), "app"))
	s.burn(0)
	if err := os.Remove(page); err != nil {
		t.Fatal(err)
	}
	s.eventually("a container whose probe fails is restarted on a starved machine",
		func() bool { return containers(s.pod("p0"))["app"].RestartCount > 0 })
}

// With --strict-probes each timeout counts, as it does for a kubelet.
func TestStrictProbesCountEachTimeout(t *testing.T) {
	pods, lasts := starvation(t)
	s := tell(t, []string{busyboxImage(t)}, "--strict-probes")
	s.starve(pods, lasts)
	s.eventually("a container is restarted because it starved", func() bool { return s.restarts() > 0 })
	t.Logf("%v of starvation, %d pods: %d failures, %d restarts so far", lasts, pods, s.attempts("failed"), s.restarts())
	if s.toldInconclusive(pods) {
		t.Error("an attempt was inconclusive")
	}
}
