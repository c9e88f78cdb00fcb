package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/pod"
)

// noon is the time in all tests that compare.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(seconds int) metav1.Time {
	return metav1.NewTime(noon.Add(-time.Duration(seconds) * time.Second))
}

// web runs: an init container that is done, a sidecar, and an application that
// was killed for its memory once.
func web() *v1.Pod {
	always := v1.ContainerRestartPolicyAlways
	start := ago(60)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web", UID: "uid-web", CreationTimestamp: start,
			Labels: map[string]string{"app.kubernetes.io/name": "web", "app-kubernetes-io/name": "other", "tier": "front \"1\""},
		},
		Spec: v1.PodSpec{
			NodeName: "node-1", RestartPolicy: v1.RestartPolicyAlways,
			InitContainers: []v1.Container{
				{Name: "fetch", Image: "busybox"},
				{Name: "ship", Image: "filebeat:7", RestartPolicy: &always},
			},
			Containers: []v1.Container{{Name: "httpd", Image: "httpd", Resources: v1.ResourceRequirements{
				Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m"), v1.ResourceMemory: resource.MustParse("64Mi")},
				Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("64Mi")},
			}}},
		},
		Status: v1.PodStatus{
			Phase: v1.PodRunning, StartTime: &start, QOSClass: v1.PodQOSBurstable,
			HostIP: "192.0.2.1", PodIP: "10.244.0.5", PodIPs: []v1.PodIP{{IP: "10.244.0.5"}, {IP: "fd00::5"}},
			Conditions: []v1.PodCondition{
				{Type: v1.PodReadyToStartContainers, Status: v1.ConditionTrue, LastTransitionTime: ago(60)},
				{Type: v1.PodInitialized, Status: v1.ConditionTrue, LastTransitionTime: ago(58)},
				{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: ago(50)},
				{Type: v1.ContainersReady, Status: v1.ConditionTrue, LastTransitionTime: ago(50)},
				{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: ago(60)},
			},
			InitContainerStatuses: []v1.ContainerStatus{
				{Name: "fetch", Ready: true, Image: "docker.io/library/busybox:latest", ImageID: "sha256:b", ContainerID: "podd://f0",
					State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Completed", StartedAt: ago(59), FinishedAt: ago(58)}}},
				{Name: "ship", Ready: true, Image: "docker.io/library/filebeat:7", ImageID: "sha256:f", ContainerID: "podd://s0",
					State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: ago(57)}}},
			},
			ContainerStatuses: []v1.ContainerStatus{
				{Name: "httpd", Ready: true, RestartCount: 1, Image: "docker.io/library/httpd:latest", ImageID: "sha256:h", ContainerID: "podd://h1",
					State:                v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: ago(52)}},
					LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", StartedAt: ago(56), FinishedAt: ago(53)}}},
			},
		},
	}
}

// crashing waits for its next start, on the host's network.
func crashing() *v1.Pod {
	start := ago(30)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "jobs", Name: "crash", UID: "uid-crash", CreationTimestamp: start},
		Spec: v1.PodSpec{
			NodeName: "node-1", HostNetwork: true, RestartPolicy: v1.RestartPolicyAlways,
			Containers: []v1.Container{{Name: "app", Image: "busybox"}},
		},
		Status: v1.PodStatus{
			Phase: v1.PodRunning, StartTime: &start, QOSClass: v1.PodQOSBestEffort, HostIP: "192.0.2.1", PodIP: "192.0.2.1",
			Conditions: []v1.PodCondition{
				{Type: v1.PodReadyToStartContainers, Status: v1.ConditionTrue, LastTransitionTime: ago(30)},
				{Type: v1.PodReady, Status: v1.ConditionFalse, LastTransitionTime: ago(30)},
			},
			ContainerStatuses: []v1.ContainerStatus{{Name: "app", RestartCount: 3, Image: "docker.io/library/busybox:latest", ContainerID: "podd://a3",
				State:                v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", FinishedAt: ago(10)}}}},
		},
	}
}

// evicted has ended.
func evicted() *v1.Pod {
	start := ago(90)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "jobs", Name: "full", UID: "uid-full", CreationTimestamp: start},
		Spec:       v1.PodSpec{NodeName: "node-1", RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{{Name: "app", Image: "busybox"}}},
		Status: v1.PodStatus{Phase: v1.PodFailed, Reason: "Evicted", StartTime: &start, QOSClass: v1.PodQOSBestEffort,
			ContainerStatuses: []v1.ContainerStatus{{Name: "app", Image: "docker.io/library/busybox:latest",
				State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 143, Reason: "Error", StartedAt: ago(88), FinishedAt: ago(80)}}}}},
	}
}

// scripted is a Source whose figures are easy to tell apart.
type scripted struct {
	broken bool
}

func group(path, id string, n uint64) GroupUsage {
	seconds := time.Duration(n) * time.Second
	return GroupUsage{
		Path: path, ID: id, CPU: 3 * seconds, CPUUser: 2 * seconds, CPUSystem: seconds,
		Periods: 10 * n, Throttled: n, ThrottledTime: seconds / 2,
		Memory: n << 20, WorkingSet: n << 19, RSS: n << 18, Cache: n << 17, MappedFile: n << 16, MaxMemory: n << 21,
		MemoryLimit: n << 22, FailCount: n, PageFaults: 100 * n, MajorPageFaults: n, OOMKills: n,
		Threads: n, ThreadsMax: 1000, IO: []IOUsage{{Device: "8:0", ReadBytes: n << 12, WriteBytes: n << 13, Reads: n, Writes: 2 * n}},
	}
}

func (s scripted) Usage(_ context.Context, p *v1.Pod) PodUsage {
	u := PodUsage{Containers: map[string]GroupUsage{}}
	base := fmt.Sprintf("/podd/%s/pod%s", strings.ToLower(string(p.Status.QOSClass)), p.UID)
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running != nil {
			u.Containers[c.Name] = group(base+"/"+c.Name, strings.TrimPrefix(c.ContainerID, "podd://"), 5)
			whole := group(base, "", 7)
			u.Pod = &whole
			pause := group("/podd/podd-pause/p0", "p0", 1)
			u.Sandbox = &pause
		}
	}
	if u.Pod != nil && !p.Spec.HostNetwork {
		u.Network = &NetworkUsage{Interface: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}
	}
	return u
}

func (s scripted) Volumes(_ context.Context, p *v1.Pod) []VolumeUsage {
	if p.Name != "web" {
		return nil
	}
	return []VolumeUsage{{Name: "logs", UsedBytes: 1 << 20, CapacityBytes: 4 << 20, AvailableBytes: 3 << 20, InodesUsed: 2, Inodes: 10, InodesFree: 8}}
}

func (s scripted) Machine(context.Context) (MachineUsage, error) {
	if s.broken {
		return MachineUsage{}, errors.New("no /proc")
	}
	return MachineUsage{Cores: 2, CPU: 1000 * time.Second, MemoryBytes: 8 << 30, SwapBytes: 1 << 30, WorkingSetBytes: 2 << 30, SwapInUse: 1 << 20, DiskBytes: 100 << 30}, nil
}

// fixed is a configuration in which everything is known.
func fixed() Config {
	board := pod.NewBoard()
	for _, p := range []*v1.Pod{web(), crashing(), evicted()} {
		board.Set(p)
	}
	counters := NewCounters(board)
	counters.now = func() time.Time { return noon }
	return Config{
		Board: board, Source: scripted{}, Counters: counters, Version: "v1.2.3", Now: func() time.Time { return noon },
		Node:     Node{Name: "node-1", InternalIP: "192.0.2.1", KernelVersion: "6.1.0", OSImage: "Debian GNU/Linux 12", PodCIDR: "10.244.0.0/24"},
		Problems: func() (int, int) { return 3, 1 },
	}
}

// live lets a life of web pass through the counters: an image is pulled in 2 s,
// an init container runs for 1 s, httpd cannot start once, then does, is killed
// for its memory and starts again.
func live(c *Counters) {
	key := pod.Key{Namespace: "default", Name: "web"}
	at := func(seconds float64) pod.At {
		t := noon.Add(time.Duration(seconds * float64(time.Second)))
		c.now = func() time.Time { return t.Add(2 * time.Millisecond) }
		return pod.At{Time: t}
	}
	for _, f := range []func() pod.Fact{
		func() pod.Fact { return pod.Inspected{At: at(0)} },
		func() pod.Fact { return pod.Begun{At: at(0), Action: pod.EnsureSandbox{ID: "p0"}} },
		func() pod.Fact { return pod.Begun{At: at(0), Action: pod.EnsureImage{Container: "fetch"}} },
		func() pod.Fact { return pod.Begun{At: at(0), Action: pod.EnsureImage{Container: "httpd"}} },
		func() pod.Fact { return pod.SandboxUp{At: at(0.5), ID: "p0"} },
		func() pod.Fact { return pod.ImageReady{At: at(0.5), Container: "fetch"} },
		func() pod.Fact { return pod.Begun{At: at(0.5), Action: pod.StartContainer{Container: "fetch"}} },
		func() pod.Fact { return pod.ContainerStarted{At: at(0.6), Container: "fetch", ID: "f0"} },
		func() pod.Fact { return pod.ContainerExited{At: at(1.6), Container: "fetch", ID: "f0"} },
		func() pod.Fact { return pod.ContainerExited{At: at(1.6), Container: "fetch", ID: "f0"} },
		func() pod.Fact {
			return pod.ImageReady{At: at(2), Container: "httpd", Pulled: true, Took: 2 * time.Second, Size: 50 << 20}
		},
		func() pod.Fact { return pod.Begun{At: at(3), Action: pod.StartContainer{Container: "httpd"}} },
		func() pod.Fact {
			return pod.ContainerStartFailed{At: at(3.1), Container: "httpd", Reason: "CreateContainerConfigError"}
		},
		func() pod.Fact { return pod.Begun{At: at(3.5), Action: pod.StartContainer{Container: "httpd"}} },
		func() pod.Fact { return pod.ContainerStarted{At: at(4), Container: "httpd", ID: "h0"} },
		func() pod.Fact {
			return pod.ContainerExited{At: at(5), Container: "httpd", ID: "h0", ExitCode: 137, OOMKilled: true}
		},
		func() pod.Fact {
			return pod.Begun{At: at(6), Action: pod.StartContainer{Container: "httpd", Attempt: 1}}
		},
		func() pod.Fact { return pod.ContainerStarted{At: at(6.1), Container: "httpd", ID: "h1"} },
		func() pod.Fact { return pod.Begun{At: at(7), Action: pod.StopContainer{Container: "ship"}} },
		func() pod.Fact { return pod.Begun{At: at(7.1), Action: pod.StopContainer{Container: "ship"}} },
		func() pod.Fact { return pod.ContainerExited{At: at(9), Container: "ship", ID: "s0", ExitCode: 0} },
	} {
		c.Fact(key, f())
	}
	c.Fact(pod.Key{Namespace: "jobs", Name: "full"}, pod.PodFailed{At: at(9), Reason: "Evicted"})
	c.ImagesCollected(2, "space")
	probe := func(kind pod.ProbeKind, outcome pod.ProbeOutcome, took time.Duration) {
		c.Probe(ProbeAttempt{UID: "uid-web", Namespace: "default", Pod: "web", Container: "httpd", Kind: kind, Outcome: outcome, Took: took})
	}
	probe(pod.LivenessProbe, pod.ProbeSucceeded, 3*time.Millisecond)
	probe(pod.LivenessProbe, pod.ProbeWarned, 30*time.Millisecond)
	probe(pod.LivenessProbe, pod.ProbeFailed, time.Second)
	probe(pod.LivenessProbe, pod.ProbeErrored, 20*time.Second)
	probe(pod.ReadinessProbe, pod.ProbeSucceeded, 5*time.Millisecond)
}

// scrape asks one of the handlers, as Prometheus does.
func scrape(t testing.TB, all map[string]http.Handler, path string) string {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	all[path].ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: status %d: %s", path, w.Code, w.Body)
	}
	return w.Body.String()
}

// many is a board with n running pods like web.
func many(n int) Config {
	c := fixed()
	for i := range n {
		p := web()
		p.Name = fmt.Sprintf("web-%03d", i)
		p.UID = types.UID("uid-" + p.Name)
		c.Board.Set(p)
	}
	return c
}
