package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/internal/kerneltest"
)

// requestsAcrossAKill is how many requests are made while the agent is killed,
// and requestPace the time from one to the next.
const (
	requestsAcrossAKill = 1000
	requestPace         = 5 * time.Millisecond
)

// The demo's manifest as it is, with the real Apache httpd and the real
// Filebeat: what a user is shown holds.
func TestWebServerAndLogShipper(t *testing.T) {
	t.Parallel()
	kerneltest.Root(t)
	var archives []string
	for _, name := range []string{"httpd", "filebeat"} {
		archive, err := filepath.Abs("../.cache/demo/" + name + ".tar")
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(archive)
		kerneltest.Need(t, err == nil, "the demo's images (make demo-images)")
		archives = append(archives, archive)
	}
	manifest, err := os.ReadFile("../manifests/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := tell(t, archives)
	s.drop("web", string(manifest))
	s.until(`^web +2/2 +Running +0 `, "get")

	// A request's line is shipped.
	if body := s.page("http://127.0.0.1:8080/?first"); !strings.Contains(body, "It works!") {
		t.Errorf("httpd answers %q", body)
	}
	s.until(`GET /\?first HTTP`, "logs", "web", "-c", "filebeat")

	// httpd's death is httpd's restart.
	before := s.pod("web")
	s.crash(before, "httpd")
	s.until(`^web +2/2 +Running +1 `, "get")
	after := containers(s.pod("web"))
	if c := after["httpd"]; c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 137 {
		t.Errorf("killed httpd is %+v", c)
	} else if c.StopSignal == nil || *c.StopSignal != "SIGWINCH" {
		t.Errorf("httpd's stop signal is %v; want the one of its image", c.StopSignal)
	}
	untouched(t, "filebeat", before, s.pod("web"))

	// Failing readiness takes the pod out, and restarts nothing.
	before = s.pod("web")
	s.say("exec", "web", "--", "mv", "htdocs/index.html", "/tmp/")
	s.until(`^web +1/2 +Running +1 `, "get")
	s.say("exec", "web", "--", "mv", "/tmp/index.html", "htdocs/")
	s.until(`^web +2/2 +Running +1 `, "get")
	untouched(t, "httpd", before, s.pod("web"))
	untouched(t, "filebeat", before, s.pod("web"))

	// Failing liveness restarts httpd, and with it goes /tmp/sick.
	s.say("exec", "web", "--", "touch", "/tmp/sick")
	s.until(`^web +[12]/2 +Running +2 `, "get")
	s.until(`^web +2/2 +Running +2 `, "get")
	untouched(t, "filebeat", before, s.pod("web"))

	// The agent dies amid requests; no request, no line and no pod does.
	before = s.pod("web")
	asked := make(chan error, 1)
	half := make(chan struct{})
	// Started by the test, ends after the last request, owns nothing.
	go func() { asked <- s.askPaced(half) }()
	<-half
	s.killAgent()
	s.start()
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	untouched(t, "httpd", before, s.pod("web"))
	untouched(t, "filebeat", before, s.pod("web"))
	var shipped map[int]int
	s.eventually("Filebeat ships all lines", func() bool {
		shipped = s.shipped()
		return len(shipped) >= requestsAcrossAKill
	})
	// What is shipped twice is so after a while only.
	time.Sleep(time.Second)
	shipped = s.shipped()
	for i := range requestsAcrossAKill {
		if shipped[i] != 1 {
			t.Errorf("line of request %d was shipped %d times", i, shipped[i])
		}
	}
	t.Logf("%d requests, the agent killed after half of them: %d lines shipped", requestsAcrossAKill, len(shipped))
}

// untouched fails unless it is still the same run of the container.
func untouched(t *testing.T, container string, before, after v1.Pod) {
	t.Helper()
	b, a := containers(before)[container], containers(after)[container]
	if b.ContainerID == "" || b.ContainerID != a.ContainerID || b.RestartCount != a.RestartCount {
		t.Errorf("container %s was %s with %d restarts and is %s with %d", container, b.ContainerID, b.RestartCount, a.ContainerID, a.RestartCount)
	}
}

// askPaced makes numbered requests, and closes half once half of them are made.
func (s *story) askPaced(half chan<- struct{}) error {
	pace := time.NewTicker(requestPace)
	defer pace.Stop()
	for i := range requestsAcrossAKill {
		<-pace.C
		if i == requestsAcrossAKill/2 {
			close(half)
		}
		if _, err := s.get(fmt.Sprintf("http://127.0.0.1:8080/?across=%d.", i)); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
	}
	return nil
}

// shipped counts the lines of numbered requests in Filebeat's output. What
// Filebeat says about itself is no event.
func (s *story) shipped() map[int]int {
	s.Helper()
	count := map[int]int{}
	for line := range strings.Lines(s.say("logs", "web", "-c", "filebeat")) {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var event struct{ Message string }
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			s.Fatalf("Filebeat's output has a line that is no JSON: %q: %v", line, err)
		}
		var i int
		if _, rest, found := strings.Cut(event.Message, "?across="); found {
			if _, err := fmt.Sscanf(rest, "%d.", &i); err != nil {
				s.Fatalf("broken line %q", event.Message)
			}
			count[i]++
		}
	}
	return count
}
