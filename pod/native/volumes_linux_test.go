package native

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/internal/kerneltest"
	"podd/pod"
)

// silentDir makes a directory and silences it.
func silentDir(t *testing.T) (dir string, answer func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "silent")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, kerneltest.Silence(t, dir)
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
		if !failed || f.Volume != "data" || f.Message != filepath.Join(dir, "x")+" has not answered for 200ms; it is waited for" {
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

// A volume that begins to hang after its set-up, or below which something hangs, holds
// up the start: that is told, and the pod can be removed meanwhile.
func TestAStartThatAVolumeHoldsUpSaysSo(t *testing.T) {
	kerneltest.Root(t)
	r := newRuntime(t)
	r.slow = 200 * time.Millisecond
	for name, hang := range map[string]func(t *testing.T, v *v1.HostPathVolumeSource, m *v1.VolumeMount) (place string, answer func()){
		"since its set-up": func(t *testing.T, v *v1.HostPathVolumeSource, _ *v1.VolumeMount) (string, func()) {
			return v.Path, kerneltest.Silence(t, v.Path)
		},
		"below it": func(t *testing.T, v *v1.HostPathVolumeSource, m *v1.VolumeMount) (string, func()) {
			dir, answer := silentDir(t)
			v.Path, m.SubPath = filepath.Dir(dir), "silent/x"
			return filepath.Join(dir, "x"), answer
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: types.UID("uid-of-" + strings.ReplaceAll(name, " ", "-"))}}
			p.Spec = v1.PodSpec{
				RestartPolicy: v1.RestartPolicyNever, DNSPolicy: v1.DNSDefault, SecurityContext: &v1.PodSecurityContext{}, EnableServiceLinks: new(false),
				Volumes: []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: t.TempDir()}}}},
				Containers: []v1.Container{{
					Name: "app", Image: "docker.io/library/busybox:1.36", Command: []string{"sleep", "3600"},
					VolumeMounts: []v1.VolumeMount{{Name: "data", MountPath: "/data"}},
				}},
			}
			target := pod.Target{UID: p.UID, Pod: p}
			facts := make(chan pod.Fact, 100)
			perform := func(a pod.Action) { r.Perform(context.Background(), target, a, func(f pod.Fact) { facts <- f }) }
			fact := func(a pod.Action) pod.Fact {
				t.Helper()
				select {
				case f := <-facts:
					return f
				case <-time.After(time.Minute):
					t.Fatalf("%T has no answer", a)
					return nil
				}
			}
			does := func(a pod.Action) pod.Fact {
				t.Helper()
				go perform(a) // it may hang
				return fact(a)
			}
			if f, ok := does(pod.EnsureVolumes{}).(pod.VolumesReady); !ok {
				t.Fatalf("%+v", f)
			}
			target.SandboxID = strings.Repeat("5", 64)
			up, ok := does(pod.EnsureSandbox{ID: target.SandboxID}).(pod.SandboxUp)
			if !ok {
				t.Fatalf("%+v", up)
			}
			target.IPs = up.IPs
			place, answer := hang(t, p.Spec.Volumes[0].HostPath, &p.Spec.Containers[0].VolumeMounts[0])
			start := pod.StartContainer{Container: "app", ID: strings.Repeat("a", 64)}
			f, held := does(start).(pod.ContainerHeld)
			if !held || f.Container != "app" || f.ID != start.ID || f.Volume != "data" || f.Message != place+" has not answered for 200ms; it is waited for" {
				t.Errorf("%+v; want the volume and %s", f, place)
			}
			for _, a := range []pod.Action{pod.DestroySandbox{}, pod.RemovePod{}} {
				switch f := does(a).(type) {
				case pod.SandboxGone, pod.PodRemoved:
				default:
					t.Errorf("meanwhile, %T: %+v", a, f)
				}
			}
			answer()
			if f, failed := fact(start).(pod.ContainerStartFailed); !failed || f.ID != start.ID {
				t.Errorf("%+v; want the failure of the start", f)
			}
		})
	}
}

func TestWhoIsLateWithAVolumeCleansUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p livePod
		hold, cleaned := make(chan struct{}), 0
		set := func(late func()) error {
			return p.withVolume(t.Context(), time.Second, "data", "/data", func() error { <-hold; return errors.New("gone") }, late)
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
