package native

import (
	"errors"
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/internal/kerneltest"
	"podd/pod"
)

func closed(f *os.File) bool {
	_, err := f.Stat()
	return errors.Is(err, os.ErrClosed)
}

// While the sandbox is made, so is what its first container starts on. That goes with
// the container, or with the sandbox.
func TestTheFirstContainersRootIsReadyWithItsSandbox(t *testing.T) {
	kerneltest.Root(t)
	r := newRuntime(t)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-of-ready"}}
	container := func(name string) v1.Container {
		return v1.Container{Name: name, Image: "docker.io/library/busybox:1.36", Command: []string{"sleep", "3600"}}
	}
	p.Spec = v1.PodSpec{
		RestartPolicy: v1.RestartPolicyNever, DNSPolicy: v1.DNSDefault, SecurityContext: &v1.PodSecurityContext{}, EnableServiceLinks: new(false),
		InitContainers: []v1.Container{container("first")}, Containers: []v1.Container{container("app")},
	}
	target := pod.Target{UID: p.UID, Pod: p}
	does := func(a pod.Action) pod.Fact {
		t.Helper()
		var last pod.Fact
		r.Perform(t.Context(), target, a, func(f pod.Fact) { last = f })
		return last
	}
	ready := func(id string) *readyRoot {
		t.Helper()
		target.SandboxID = strings.Repeat(id, 64)
		up, ok := does(pod.EnsureSandbox{ID: target.SandboxID}).(pod.SandboxUp)
		if !ok {
			t.Fatalf("%+v", up)
		}
		target.IPs = up.IPs
		live := r.live(p.UID)
		live.mu.Lock()
		defer live.mu.Unlock()
		if live.ready == nil || live.ready.container != "first" {
			t.Fatalf("ready: %+v; want the init container's root", live.ready)
		}
		return live.ready
	}
	does(pod.EnsureVolumes{})
	unused := ready("5").root
	does(pod.DestroySandbox{})
	if !closed(unused) {
		t.Error("the root file system that nobody needs stays open")
	}
	used := ready("6").root
	if f, ok := does(pod.StartContainer{Container: "first", ID: strings.Repeat("a", 64)}).(pod.ContainerStarted); !ok {
		t.Errorf("%+v", f)
	}
	if root := r.live(p.UID).ready; root != nil || !closed(used) {
		t.Errorf("after the start, ready: %+v; the one before is closed: %v", root, closed(used))
	}
	if f, ok := does(pod.RemovePod{}).(pod.PodRemoved); !ok {
		t.Errorf("%+v", f)
	}
}

func TestARootThatIsReadyIsForOneAttemptWithOneImage(t *testing.T) {
	for name, test := range map[string]struct {
		attempt pod.StartContainer
		image   string
		taken   bool
		stays   bool
	}{
		"its own":           {pod.StartContainer{Container: "app"}, "sha256:1", true, false},
		"another image":     {pod.StartContainer{Container: "app"}, "sha256:2", false, false},
		"a later attempt":   {pod.StartContainer{Container: "app", Attempt: 1}, "sha256:1", false, false},
		"another container": {pod.StartContainer{Container: "side"}, "sha256:1", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			root, err := os.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			var p livePod
			p.keepRoot(&readyRoot{"app", "sha256:1", root})
			if got := p.takeRoot(test.attempt, test.image); (got == root) != test.taken {
				t.Errorf("taken: %v; want %v", got == root, test.taken)
			}
			if (p.ready != nil) != test.stays || closed(root) != (!test.taken && !test.stays) {
				t.Errorf("it stays: %v, closed: %v; want it to stay: %v", p.ready != nil, closed(root), test.stays)
			}
		})
	}
}
