package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/internal/kerneltest"
	"podd/pod"
)

// silentDir mounts a file system whose server never answers: who looks at it stays in
// the kernel until answer is called, and is told of an error then.
func silentDir(t *testing.T) (dir string, answer func()) {
	t.Helper()
	kerneltest.Root(t)
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	kerneltest.Need(t, err == nil, "/dev/fuse")
	dir = filepath.Join(t.TempDir(), "silent")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())
	if err := unix.Mount("podd-test", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func() { server.Close() }
}

// A volume on a server that does not answer holds up nobody: not the set-up, which
// says so, not an agent that comes new, not the removal of its pod, and no other pod.
func TestAVolumeThatHangsHoldsNobodyUp(t *testing.T) {
	dir, answer := silentDir(t)
	r := newRuntime(t)
	r.patience = 200 * time.Millisecond
	target := func(name string, source v1.VolumeSource) pod.Target {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-of-" + name)}}
		p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: source}}
		p.Spec.Containers = []v1.Container{{Name: "app", VolumeMounts: []v1.VolumeMount{{Name: "data", MountPath: "/data"}}}}
		return pod.Target{UID: p.UID, Pod: p}
	}
	perform := func(t pod.Target, a pod.Action) pod.Fact {
		var got pod.Fact
		r.Perform(context.Background(), t, a, func(f pod.Fact) { got = f })
		return got
	}
	stuck := target("stuck", v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: filepath.Join(dir, "x"), Type: new(v1.HostPathDirectory)}})
	turn := r.live(stuck.UID).volumeTurn("data")
	for range 2 { // the second waits for the first
		f, failed := perform(stuck, pod.EnsureVolumes{}).(pod.VolumesFailed)
		if !failed || f.Volume != "data" || !strings.Contains(f.Message, "has not answered for 200ms") {
			t.Fatalf("the set-up of a volume that hangs: %+v", f)
		}
	}
	found, err := r.Inspect(t.Context(), stuck)
	if err != nil || found.Volumes {
		t.Errorf("inspected: %+v, %v", found, err)
	}
	if r.there(stuck, pod.Wait{Kind: pod.WaitVolume, Name: "data"}) {
		t.Error("a source that does not answer is said to be there")
	}
	other := target("other", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}})
	if f, ready := perform(other, pod.EnsureVolumes{}).(pod.VolumesReady); !ready {
		t.Errorf("another pod's volumes: %+v", f)
	}
	for _, p := range []pod.Target{other, stuck} {
		if f, removed := perform(p, pod.RemovePod{}).(pod.PodRemoved); !removed {
			t.Errorf("removal of %s: %+v", p.Pod.Name, f)
		}
	}
	// Nothing of the pod comes back when the server answers.
	answer()
	select {
	case turn <- struct{}{}:
	case <-time.After(time.Minute):
		t.Error("the call does not end with its server")
	}
}

func TestWhoIsLateWithAVolumeCleansUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p livePod
		hold, cleaned := make(chan struct{}), 0
		set := func(late func()) error {
			return p.withVolume(t.Context(), time.Second, "data", func() error { <-hold; return errors.New("gone") }, late)
		}
		if err := set(func() { cleaned++ }); err == nil || !strings.Contains(err.Error(), "has not answered for 1s") {
			t.Errorf("who waits: %v", err)
		}
		p.setRemoved()
		close(hold)
		synctest.Wait()
		if cleaned != 1 {
			t.Errorf("cleaned %d times", cleaned)
		}
	})
}
