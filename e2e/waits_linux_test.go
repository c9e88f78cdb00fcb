package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"podd/internal/kerneltest"
	"podd/internal/testimage"
)

// seenWithin is how soon a pod runs once what it waited for is there; measured:
// about 1 s. The next tries of those that are looked for below would come 5 s later
// and more.
const seenWithin = 5 * time.Second

// Pods that wait for a port, a path or an image say for what and who has it, hold up
// nobody else, and start as soon as it is there.
func TestWhatAPodWaitsForIsSeenWhenItComes(t *testing.T) {
	t.Parallel()
	s := tell(t, []string{busyboxImage(t)})
	const template = `apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: data, hostPath: {path: %s, type: Directory}}]
  containers:
  - {name: app, image: "%s", imagePullPolicy: Never, command: [sleep, "1000"], ports: [%s], volumeMounts: [{name: data, mountPath: /data}]}
  - {name: beside, image: "busybox:1.36", command: [sleep, "1000"]}
`
	var server net.Listener
	err := s.inHost(func() (err error) {
		server, err = net.Listen("tcp", "0.0.0.0:21080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	present, missing := t.TempDir(), filepath.Join(t.TempDir(), "late")
	port := func(n int) string { return fmt.Sprintf("{containerPort: 80, hostPort: %d}", n) }
	s.drop("holder", fmt.Sprintf(template, "holder", present, "busybox:1.36", port(21081)))
	s.until(`^holder +2/2 +Running`, "get")
	s.drop("path", fmt.Sprintf(template, "path", missing, "busybox:1.36", ""))
	s.drop("image", fmt.Sprintf(template, "image", present, "late:1.0", ""))
	s.drop("process", fmt.Sprintf(template, "process", present, "busybox:1.36", port(21080)))
	s.drop("pod", fmt.Sprintf(template, "pod", present, "busybox:1.36", port(21081)))
	s.drop("free", fmt.Sprintf(template, "free", present, "busybox:1.36", ""))

	s.until(`^free +2/2 +Running`, "get")
	s.until(`hostPath type check failed: `+missing+` is not a directory`, "describe", "path")
	s.until(fmt.Sprintf(`host port 21080/TCP is taken by process %d \(`, os.Getpid()), "describe", "process")
	s.until(`host port 21081/TCP is taken by pod default/holder`, "describe", "pod")
	s.until(`Container image "late:1.0" is not present with pull policy of Never`, "describe", "image")
	s.until(`^image +1/2 +ErrImageNeverPull`, "get") // the container beside it runs

	// Until the tries are far apart: volumes at 0, 0.5, 1.5, 3.5, 7.5, 15.5 s, images at 0, 10, 30 s.
	s.until(`FailedMount.* \(x5 over|x5 .*FailedMount|FailedMount +.*x5`, "describe", "path")
	s.until(`x2 .*ErrImageNeverPull`, "describe", "image")
	began := time.Now()
	if err := os.Mkdir(missing, 0o755); err != nil {
		t.Fatal(err)
	}
	server.Close()
	s.say("image", "load", testimage.Archive(t, testimage.Busybox(t, testimage.Label("late", "yes")), "docker.io/library/late:1.0"))
	if err := os.Remove(filepath.Join(s.dir, "manifests/holder.yaml")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"path", "image", "process", "pod"} {
		s.until(`^`+name+` +2/2 +Running +0`, "get")
		took := time.Since(began)
		t.Logf("pod %s runs %v after what it waited for is there", name, took.Round(time.Millisecond))
		if name != "pod" && took > seenWithin { // the holder of its port has 2 s to end
			t.Errorf("pod %s: want at most %v", name, seenWithin)
		}
	}
	s.until(`^free +2/2 +Running +0`, "get")
}

// What a user sees of a container whose volume leads into a file system that does not
// answer, and that the end of its pod does not wait for that.
func TestAStartThatAVolumeHoldsUpIsTold(t *testing.T) {
	t.Parallel()
	s := tell(t, []string{busyboxImage(t)})
	dir := t.TempDir()
	place := filepath.Join(dir, "silent")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	answer := kerneltest.Silence(t, place)
	s.drop("web", `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  volumes: [{name: data, hostPath: {path: `+dir+`}}]
  containers:
  - name: app
    image: busybox:1.36
    command: [sleep, "1000"]
    volumeMounts: [{name: data, mountPath: /data, subPath: silent/x}]
`)
	held := regexp.QuoteMeta(filepath.Join(place, "x") + " has not answered for 3s; it is waited for")
	s.until(`Warning +FailedMount .*MountVolume.SetUp failed for volume "data" : `+held, "describe", "web")
	s.until(`app is not started yet: volume "data" does not answer\n +because `+held, "why", "web")
	if w := containers(s.pod("web"))["app"].State.Waiting; w == nil || w.Reason != "ContainerCreating" || !regexp.MustCompile(held).MatchString(w.Message) {
		t.Errorf("waiting: %+v", w)
	}
	s.remove("web")
	s.eventually("nothing of the pod is left", func() bool { return s.things() == "" })
	answer()
}
