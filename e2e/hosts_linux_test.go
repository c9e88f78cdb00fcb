package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"podd/internal/testimage"
)

// ordinary is a pod that uses what pods use: layers, changes in the root file
// system, volumes on disk and in memory, output, a probe, another user.
const ordinary = `
apiVersion: v1
kind: Pod
metadata: {name: ordinary}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: ram, emptyDir: {medium: Memory}}
  containers:
  - name: app
    image: busybox:1.36
    command: [sh, -c, "echo begun; cat /layer/* | wc -l; rm /layer/5; echo changed > /layer/6; echo kept > /disk/a; touch /begun; exec sleep 1000"]
    readinessProbe: {exec: {command: [cat, /begun]}, periodSeconds: 1}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: ram, mountPath: /ram}
    - {name: disk, mountPath: /part, subPath: some/part}
  - name: user
    image: busybox:1.36
    securityContext: {runAsUser: 1000}
    command: [sleep, "1000"]
    volumeMounts:
    - {name: disk, mountPath: /disk}
`

// layeredImage is busybox in so many layers.
func layeredImage(t testing.TB, layers int) string {
	t.Helper()
	img := testimage.Busybox(t)
	for i := range layers - 1 {
		img = testimage.Extend(t, img, testimage.File(fmt.Sprintf("layer/%d", i), 0, fmt.Sprintln(i)))
	}
	return testimage.Archive(t, img, "docker.io/library/busybox:1.36")
}

// ordinaryLife takes the pod through its life: start, the agent's death, a
// restart of a container, removal. That nothing is left is seen by the story.
func (s *story) ordinaryLife(layers int) {
	s.Helper()
	s.drop("ordinary", ordinary)
	p := s.untilReady("ordinary")
	s.killAgent()
	s.start()
	s.until("^changed$", "exec", "ordinary", "-c", "app", "--", "cat", "/layer/6")
	want := func(script, out string) {
		s.Helper()
		if got := strings.TrimSpace(s.sh("ordinary", "app", script)); got != out {
			s.Errorf("%s: %q, want %q", script, got, out)
		}
	}
	want("test -e /layer/5 || echo removed", "removed")
	want("echo x > /ram/x; echo y > /part/y; cat /ram/x /disk/some/part/y", "x\ny")
	if got := s.sh("ordinary", "user", "cat /disk/a; id -u"); got != "kept\n1000\n" {
		s.Errorf("the user sees %q", got)
	}
	log, err := s.podd("logs", "ordinary", "-c", "app")
	if err != nil || strings.TrimSpace(log) != fmt.Sprintf("begun\n%d", layers-1) {
		s.Errorf("its log is %q, %v", log, err)
	}
	s.crash(p, "app")
	s.eventually("the container is started again", func() bool {
		c := containers(s.pod("ordinary"))["app"]
		return c.RestartCount == 1 && c.Ready
	})
	want("cat /disk/a; test -e /layer/5 || echo removed", "kept\nremoved")
	s.remove("ordinary")
	s.eventually("nothing is left of the pod", func() bool { return s.things() == "" })
}

// Names that overlayfs, mountinfo, patterns and sockets each have an opinion of.
func TestDirectoriesOfAnyName(t *testing.T) {
	const layers = 10
	image := layeredImage(t, layers)
	for _, name := range []string{"with space", `back\slash`, `comma,colon:`, "new\nline", "[a-b]*?{x}", strings.Repeat("long", 60)} {
		t.Run(fmt.Sprintf("%.15q", name), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			tellIn(t, dir, []string{image}).ordinaryLife(layers)
		})
	}
}
