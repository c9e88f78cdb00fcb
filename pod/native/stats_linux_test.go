package native

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"podd/internal/kerneltest"
	"podd/pod"
)

// bringUp brings a pod to the point where its containers can be started. It
// returns how to act on it; what is answered last is the result.
func bringUp(t *testing.T, r *Runtime, p *v1.Pod) (pod.Target, func(pod.Action) pod.Fact) {
	t.Helper()
	target := pod.Target{UID: p.UID, Pod: p, SandboxID: strings.Repeat("a", 64)}
	perform := func(a pod.Action) pod.Fact {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var last pod.Fact
		r.Perform(ctx, target, a, func(f pod.Fact) { last = f })
		return last
	}
	t.Cleanup(func() {
		perform(pod.DestroySandbox{})
		perform(pod.RemovePod{})
	})
	up, ok := perform(pod.EnsureSandbox{ID: target.SandboxID}).(pod.SandboxUp)
	if !ok {
		t.Fatal("no sandbox")
	}
	target.IPs = up.IPs
	if f := perform(pod.EnsureVolumes{}); fmt.Sprintf("%T", f) != "pod.VolumesReady" {
		t.Fatalf("%+v", f)
	}
	c := p.Spec.Containers[0]
	if f := perform(pod.EnsureImage{Container: c.Name, Image: c.Image, Policy: v1.PullIfNotPresent}); fmt.Sprintf("%T", f) != "pod.ImageReady" {
		t.Fatalf("%+v", f)
	}
	return target, perform
}

// runForStats starts a pod whose one container fills 8 MB of each volume, and
// returns it as the board would show it.
func runForStats(t *testing.T, r *Runtime) *v1.Pod {
	t.Helper()
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "stats", UID: types.UID(uuid.NewUUID())},
		Spec: v1.PodSpec{
			RestartPolicy: v1.RestartPolicyAlways,
			Containers: []v1.Container{{
				Name: "app", Image: "docker.io/library/busybox:1.36",
				Command: []string{"sh", "-c", "for d in disk memory; do dd if=/dev/zero of=/$d/f bs=1M count=8; done; " +
					"i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; touch /disk/done; exec sleep 1000"},
				VolumeMounts: []v1.VolumeMount{{Name: "disk", MountPath: "/disk"}, {Name: "memory", MountPath: "/memory"}},
			}},
			Volumes: []v1.Volume{
				{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
				{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
			},
		},
	}
	_, perform := bringUp(t, r, p)
	started, ok := perform(pod.StartContainer{Container: "app", ID: strings.Repeat("b", 64)}).(pod.ContainerStarted)
	if !ok {
		t.Fatal("container did not start")
	}
	shown := p.DeepCopy()
	shown.Status.ContainerStatuses = []v1.ContainerStatus{{
		Name: "app", ContainerID: "podd://" + started.ID,
		State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.Now()}},
	}}
	return shown
}

func TestAPodIsMeasuredWhereItRuns(t *testing.T) {
	kerneltest.Root(t)
	r := newRuntime(t)
	p := runForStats(t, r)
	m := NewMeter(r)
	ctx := t.Context()

	var u PodUsage
	waitFor(t, "the container's work shows", func() bool {
		u = m.Usage(ctx, p)
		return u.Containers["app"].CPU.Usage > 20*time.Millisecond && u.Containers["app"].Memory.Usage >= 8<<20
	})
	app := u.Containers["app"]
	if want := "/besteffort/pod" + string(p.UID) + "/" + app.ID; !strings.HasSuffix(app.Path, want) || app.Path[0] != '/' {
		t.Errorf("path %q, want …%s", app.Path, want)
	}
	if app.Memory.WorkingSet == 0 || app.Memory.WorkingSet > app.Memory.Usage || app.Pids.Current == 0 {
		t.Errorf("measured %+v", app)
	}
	if u.Pod == nil || u.Pod.CPU.Usage < app.CPU.Usage || u.Pod.ID != "" || !strings.HasSuffix(u.Pod.Path, "/pod"+string(p.UID)) {
		t.Errorf("pod %+v", u.Pod)
	}
	if u.Sandbox == nil || u.Sandbox.ID != strings.Repeat("a", 64) || u.Sandbox.CPU.Usage == 0 {
		t.Errorf("sandbox %+v", u.Sandbox)
	}
	if u.Network == nil || u.Network.Interface != "eth0" {
		t.Errorf("network %+v", u.Network)
	}

	waitFor(t, "both volumes are measured", func() bool {
		v := m.Volumes(ctx, p)
		if v["memory"].UsedBytes < 8<<20 {
			return false
		}
		if disk, walked := v["disk"]; walked && disk.UsedBytes < 8<<20 {
			m.mu.Lock() // it was walked before it was full; look again at once
			clear(m.disks)
			m.mu.Unlock()
			return false
		} else if !walked {
			return false
		}
		return true
	})
}

func TestAPodThatIsGoneIsMeasuredAsNothing(t *testing.T) {
	kerneltest.Root(t)
	r := newRuntime(t)
	m := NewMeter(r)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "gone"}, Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{
		Name: "app", ContainerID: "podd://" + strings.Repeat("c", 64), State: v1.ContainerState{Running: &v1.ContainerStateRunning{}},
	}}}}
	if u := m.Usage(t.Context(), p); u.Pod != nil || u.Sandbox != nil || u.Network != nil || len(u.Containers) != 0 {
		t.Errorf("measured %+v", u)
	}
	if uids, err := r.Present(t.Context()); err != nil || len(uids) != 0 {
		t.Errorf("measuring made %v, %v", uids, err)
	}
}

func TestCountersOfAPodDoNotGoBackWhenAContainerStartsAnew(t *testing.T) {
	m := NewMeter(&Runtime{pods: map[types.UID]*livePod{}})
	usage := func(id string, cpu time.Duration, memory uint64) GroupUsage {
		g := GroupUsage{Path: "/podd/pod1/" + id, ID: id}
		g.CPU.Usage, g.Memory.Usage = cpu, memory
		return g
	}
	for _, step := range []struct {
		name    string
		running map[string]GroupUsage
		cpu     time.Duration
		memory  uint64
	}{
		{"both run", map[string]GroupUsage{"a": usage("a0", 10, 1), "b": usage("b0", 5, 2)}, 15, 3},
		{"one waits for its next start", map[string]GroupUsage{"b": usage("b0", 6, 2)}, 16, 2},
		{"it runs again", map[string]GroupUsage{"a": usage("a1", 1, 1), "b": usage("b0", 6, 2)}, 17, 3},
		{"a slow scrape comes with the attempt before", map[string]GroupUsage{"a": usage("a0", 10, 1), "b": usage("b0", 5, 2)}, 17, 3},
		{"and goes on", map[string]GroupUsage{"a": usage("a1", 3, 1), "b": usage("b0", 7, 2)}, 20, 3},
	} {
		got := m.whole("1", step.running)
		if got.CPU.Usage != step.cpu || got.Memory.Usage != step.memory || got.Path != "/podd/pod1" {
			t.Errorf("%s: %v, %d bytes at %s; want %v, %d bytes", step.name, got.CPU.Usage, got.Memory.Usage, got.Path, step.cpu, step.memory)
		}
	}
	if m.whole("1", nil) != nil {
		t.Error("a pod without a running container has a row")
	}
}

func TestMachineIsMeasuredAsProcTells(t *testing.T) {
	var u MachineUsage
	busy, idle, err := cpuTimes("cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1\n")
	if err != nil || busy != 1710*time.Millisecond || idle != 45*time.Second {
		t.Errorf("busy %v, idle %v, %v; want 1.71s and 45s: guests' time does not count", busy, idle, err)
	}
	if err := memoryUse("MemTotal: 1000 kB\nMemFree: 300 kB\nInactive(file): 200 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n", &u); err != nil ||
		u.MemoryBytes != 1000<<10 || u.WorkingSetBytes != 500<<10 || u.SwapBytes != 50<<10 || u.SwapInUse != 30<<10 {
		t.Errorf("memory %+v, %v", u, err)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu a b c d e f g h", "intr 1 2 3 4 5 6 7 8 9"} {
		if _, _, err := cpuTimes(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	if memoryUse("MemFree: 1 kB\n", &u) == nil {
		t.Error("accepted a machine without memory")
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
