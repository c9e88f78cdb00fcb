package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/objects"
	"podd/api/rest"
)

var facts = Facts{
	Name: "box", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}, PodCIDRs: []string{"10.244.0.0/24"},
	MachineID: "m", BootID: "b", KernelVersion: "6.1.0", OSImage: "Debian", Version: "v1.37.2", RuntimeVersion: "0.1", KubeletPort: 10250,
}

var plenty = Load{Cores: 2, MemoryBytes: 8 << 30, AvailableBytes: 4 << 30, DiskBytes: 100 << 30, AvailableDiskBytes: 50 << 30,
	Inodes: 1000, FreeInodes: 500, PIDs: 32768, UsedPIDs: 100}

func condition(n *v1.Node, kind v1.NodeConditionType) v1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return v1.NodeCondition{}
}

func TestNodeIsShownAsAKubeletShowsIt(t *testing.T) {
	now := time.Unix(1000, 0)
	n := Describe(nil, facts, plenty, now.Add(time.Nanosecond))
	if text, err := n.CreationTimestamp.MarshalJSON(); err != nil || !n.CreationTimestamp.Time.Equal(now) {
		t.Errorf("created at %s, %v, which clients cannot send back", text, err)
	}
	if n.Labels["kubernetes.io/hostname"] != "box" || n.Labels["kubernetes.io/os"] != "linux" || n.Labels["kubernetes.io/arch"] == "" {
		t.Errorf("labels %v", n.Labels)
	}
	if a := n.Status.Addresses; len(a) != 3 || a[0].Address != "192.0.2.7" || a[0].Type != v1.NodeInternalIP || a[2].Type != v1.NodeHostName {
		t.Errorf("addresses %v", a)
	}
	if n.Spec.PodCIDR != "10.244.0.0/24" || n.Status.NodeInfo.SystemUUID != "m" || n.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Errorf("%+v", n)
	}
	for name, want := range map[v1.ResourceName]string{v1.ResourceCPU: "2", v1.ResourceMemory: "8Gi", v1.ResourceEphemeralStorage: "100Gi", v1.ResourcePods: "110"} {
		if q := n.Status.Allocatable[name]; q.String() != want {
			t.Errorf("allocatable %s: %s", name, q.String())
		}
	}
	for kind, want := range map[v1.NodeConditionType]v1.ConditionStatus{
		v1.NodeReady: v1.ConditionTrue, v1.NodeMemoryPressure: v1.ConditionFalse, v1.NodeDiskPressure: v1.ConditionFalse, v1.NodePIDPressure: v1.ConditionFalse,
	} {
		if c := condition(n, kind); c.Status != want || c.Reason == "" || c.LastTransitionTime.Unix() != now.Unix() {
			t.Errorf("%s: %+v", kind, c)
		}
	}
}

func TestPressureIsTheKubeletsThreshold(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Load)
		kind   v1.NodeConditionType
		under  bool
	}{
		"100 MiB of memory left":     {func(l *Load) { l.AvailableBytes = 100 << 20 }, v1.NodeMemoryPressure, false},
		"less than 100 MiB left":     {func(l *Load) { l.AvailableBytes = 100<<20 - 1 }, v1.NodeMemoryPressure, true},
		"a tenth of the disk left":   {func(l *Load) { l.AvailableDiskBytes = 10 << 30 }, v1.NodeDiskPressure, false},
		"less than a tenth left":     {func(l *Load) { l.AvailableDiskBytes = 10<<30 - 4096 }, v1.NodeDiskPressure, true},
		"few inodes left":            {func(l *Load) { l.FreeInodes = 49 }, v1.NodeDiskPressure, true},
		"a file system without them": {func(l *Load) { l.Inodes, l.FreeInodes = 0, 0 }, v1.NodeDiskPressure, false},
		"no PID left":                {func(l *Load) { l.UsedPIDs = l.PIDs }, v1.NodePIDPressure, true},
	} {
		l := plenty
		c.change(&l)
		if got := condition(Describe(nil, facts, l, time.Unix(1, 0)), c.kind); (got.Status == v1.ConditionTrue) != c.under {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWhatUsersChangeOfTheNodeStays(t *testing.T) {
	n := Describe(nil, facts, plenty, time.Unix(1000, 0))
	n.UID = "u"
	n.Labels["rack"], n.Labels["kubernetes.io/hostname"] = "3", "wrong"
	n.Spec.Unschedulable = true
	n.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}}
	n.Status.Conditions = append(n.Status.Conditions, v1.NodeCondition{Type: "Mine", Status: v1.ConditionTrue})
	again := Describe(n, facts, Load{Cores: 4}, time.Unix(2000, 0))
	if again.Labels["rack"] != "3" || again.Labels["kubernetes.io/hostname"] != "box" || !again.Spec.Unschedulable || len(again.Spec.Taints) != 1 || again.UID != "u" {
		t.Errorf("%+v", again)
	}
	if condition(again, "Mine").Status != v1.ConditionTrue {
		t.Error("a condition of somebody else is gone")
	}
	ready, memory := condition(again, v1.NodeReady), condition(again, v1.NodeMemoryPressure)
	if ready.LastTransitionTime.Unix() != 1000 || ready.LastHeartbeatTime.Unix() != 2000 {
		t.Errorf("ready did not change: %+v", ready)
	}
	if memory.LastTransitionTime.Unix() != 2000 {
		t.Errorf("memory pressure changed: %+v", memory)
	}
}

func TestNodeAndLeaseAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := objects.New()
		var mu sync.Mutex
		load, failure := plenty, error(nil) // guarded by mu
		set := func(l Load, err error) {
			mu.Lock()
			defer mu.Unlock()
			load, failure = l, err
		}
		look := func(context.Context) (Load, error) {
			mu.Lock()
			defer mu.Unlock()
			return load, failure
		}
		k := &Keeper{Store: store, Facts: facts, Logger: logr.Discard(), Look: look}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go k.Run(ctx)
		synctest.Wait()
		nodeKey := objects.Key{Resource: Nodes, Name: "box"}
		leaseKey := objects.Key{Resource: Leases, Namespace: LeaseNamespace, Name: "box"}
		get := func() (*v1.Node, *coordination.Lease) {
			t.Helper()
			synctest.Wait()
			n, _ := store.Get(nodeKey)
			l, found := store.Get(leaseKey)
			if !found {
				t.Fatal("there is no lease")
			}
			return n.(*v1.Node), l.(*coordination.Lease)
		}
		n, l := get()
		if n.UID == "" || n.UID == l.UID || len(l.OwnerReferences) != 1 || l.OwnerReferences[0].UID != n.UID || *l.Spec.HolderIdentity != "box" {
			t.Errorf("%+v %+v", n.ObjectMeta, l)
		}
		time.Sleep(11 * time.Second)
		n2, l2 := get()
		if n2.ResourceVersion != n.ResourceVersion {
			t.Error("a Node of which nothing changed was told again after ten seconds")
		}
		if !l2.Spec.RenewTime.After(l.Spec.RenewTime.Time) {
			t.Error("the lease was not renewed")
		}
		time.Sleep(5 * time.Minute)
		if n3, _ := get(); n3.ResourceVersion == n.ResourceVersion {
			t.Error("the Node was not told again after five minutes")
		}
		starved := plenty
		starved.AvailableBytes = 0
		set(starved, nil)
		time.Sleep(11 * time.Second)
		if n4, _ := get(); condition(n4, v1.NodeMemoryPressure).Status != v1.ConditionTrue {
			t.Error("pressure was not told")
		}
		set(plenty, errors.New("no /proc"))
		time.Sleep(time.Minute)
		if _, after := get(); time.Since(after.Spec.RenewTime.Time) < 50*time.Second {
			t.Error("the lease is renewed although the machine cannot be looked at")
		}
	})
}

// The reasons and messages are the kubelet's, for those who look for them.
func TestTheNodesEventsAreTheKubelets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := objects.New()
		var load atomic.Pointer[Load]
		load.Store(&plenty)
		var told []string
		k := &Keeper{Store: store, Facts: facts, Logger: logr.Discard(), Look: func(context.Context) (Load, error) { return *load.Load(), nil }}
		k.Event = func(e *v1.Event) {
			stored := e.DeepCopy()
			if _, err := store.Update(objects.Key{Resource: events, Namespace: "default", Name: e.Name},
				func(objects.Object) (objects.Object, error) { return stored, nil }); err != nil {
				t.Error(err)
			}
			n, _ := store.Get(objects.Key{Resource: Nodes, Name: "box"})
			o := e.InvolvedObject
			if e.Namespace != "default" || o.Kind != "Node" || o.Name != "box" || o.UID != n.GetUID() || e.Source.Component != "kubelet" || e.Type != "Normal" {
				t.Errorf("%+v", e)
			}
			told = append(told, fmt.Sprintf("%s x%d: %s", e.Reason, e.Count, e.Message))
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(told, want) {
				t.Errorf("told %q, want %q", told, want)
			}
			told = nil
		}
		cordon := func(yes bool) {
			if _, err := store.Update(objects.Key{Resource: Nodes, Name: "box"}, func(old objects.Object) (objects.Object, error) {
				n := old.(*v1.Node).DeepCopy()
				n.Spec.Unschedulable = yes
				return n, nil
			}); err != nil {
				t.Error(err)
			}
			time.Sleep(looked)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go k.Run(ctx)
		expect("Starting x1: Starting kubelet.", "NodeHasSufficientMemory x1: Node box status is now: NodeHasSufficientMemory",
			"NodeHasNoDiskPressure x1: Node box status is now: NodeHasNoDiskPressure", "NodeHasSufficientPID x1: Node box status is now: NodeHasSufficientPID",
			"NodeReady x1: Node box status is now: NodeReady")
		time.Sleep(10 * time.Minute)
		expect()
		starved := plenty
		starved.AvailableBytes = 0
		load.Store(&starved)
		time.Sleep(looked)
		expect("NodeHasInsufficientMemory x1: Node box status is now: NodeHasInsufficientMemory")
		load.Store(&plenty)
		time.Sleep(looked)
		expect("NodeHasSufficientMemory x2: Node box status is now: NodeHasSufficientMemory")
		cordon(true)
		expect("NodeNotSchedulable x1: Node box status is now: NodeNotSchedulable")
		cordon(false)
		expect("NodeSchedulable x1: Node box status is now: NodeSchedulable")
	})
}

// The columns are the metrics server's; a pod's use is that of its containers together.
func TestUseIsShownAsATable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		m := &Meter{Node: "box",
			Labels:  func() map[string]string { return map[string]string{"disk": "ssd"} },
			Machine: func(context.Context) (Sample, error) { return Sample{CPU: time.Since(start), Memory: 3 << 30}, nil },
			Pods: func() []*v1.Pod {
				return []*v1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1", Labels: map[string]string{"a": "b"}},
					Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}, {Name: "b"}}}}}
			},
			Pod: func(context.Context, *v1.Pod) map[string]Sample {
				s := Sample{CPU: time.Since(start) / 4, Memory: 7 << 20}
				return map[string]Sample{"a": s, "b": s}
			},
		}
		server := rest.New(rest.Config{Store: objects.New(), Kinds: Kinds(m), Log: logr.Discard()})
		for path, want := range map[string]string{
			"nodes":                             "Name cpu memory Window; box 1 3Gi 1s",
			"nodes/box":                         "Name cpu memory Window; box 1 3Gi 1s",
			"nodes?labelSelector=disk%3Dssd":    "Name cpu memory Window; box 1 3Gi 1s",
			"nodes?labelSelector=disk%3Dhdd":    "Name cpu memory Window",
			"pods":                              "Name cpu memory Window; web 500m 14Mi 1s",
			"namespaces/default/pods?limit=500": "Name cpu memory Window; web 500m 14Mi 1s",
			"namespaces/other/pods":             "Name cpu memory Window",
			"pods?labelSelector=a%3Db":          "Name cpu memory Window; web 500m 14Mi 1s",
			"pods?labelSelector=a%3Dc":          "Name cpu memory Window",
		} {
			r := httptest.NewRequest(http.MethodGet, "/apis/metrics.k8s.io/v1beta1/"+path, nil)
			r.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
			answer := httptest.NewRecorder()
			server.ServeHTTP(answer, r)
			var table metav1.Table
			if err := json.Unmarshal(answer.Body.Bytes(), &table); err != nil || answer.Code != http.StatusOK {
				t.Fatalf("%s: %d, %v: %s", path, answer.Code, err, answer.Body)
			}
			var titles []string
			for _, c := range table.ColumnDefinitions {
				titles = append(titles, c.Name)
			}
			got := strings.Join(titles, " ")
			for _, row := range table.Rows {
				got += "; " + strings.TrimSpace(fmt.Sprintln(row.Cells...))
			}
			if got != want {
				t.Errorf("%s: got %q, want %q", path, got, want)
			}
		}
	})
}

func TestRatesAreMeasuredWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken := 0
		start := time.Now()
		pods := []*v1.Pod{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}, {Name: "b"}}}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "done", UID: "2"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}}}},
		}
		run := "first"
		busy := func() time.Duration { return time.Since(start) / 2 } // half a core
		m := &Meter{Node: "box",
			Machine: func(context.Context) (Sample, error) { taken++; return Sample{CPU: busy() * 2, Memory: 5}, nil },
			Pods:    func() []*v1.Pod { return pods },
			Pod: func(_ context.Context, p *v1.Pod) map[string]Sample {
				if p.UID == "2" {
					return nil
				}
				s := Sample{CPU: busy(), Memory: 7 << 20, Run: run}
				if run != "first" {
					s.CPU = time.Second
				}
				return map[string]Sample{"a": s}
			},
		}
		use := func() Usage {
			t.Helper()
			u, err := m.Usage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		u := use()
		if len(u.Pods) != 1 || len(u.Pods[0].Containers) != 1 || u.Pods[0].Name != "web" {
			t.Fatalf("%+v", u.Pods)
		}
		cpu, memory := u.Pods[0].Containers[0].Usage[v1.ResourceCPU], u.Pods[0].Containers[0].Usage[v1.ResourceMemory]
		if cpu.MilliValue() != 500 || memory.String() != "7Mi" || u.Node.Usage.Cpu().MilliValue() != 1000 {
			t.Errorf("cpu %s, memory %s, node %v", cpu.String(), memory.String(), u.Node.Usage)
		}
		use()
		if taken != 2 {
			t.Errorf("asked twice within a second: %d samples", taken)
		}
		time.Sleep(10 * time.Second)
		if u = use(); taken != 3 || u.Node.Window.Duration != 10*time.Second {
			t.Errorf("asked again after ten seconds: %d samples, window %s", taken, u.Node.Window.Duration)
		}
		run = "second"
		time.Sleep(10 * time.Second)
		if cpu = use().Pods[0].Containers[0].Usage[v1.ResourceCPU]; cpu.MilliValue() != 100 {
			t.Errorf("a container that began anew: %s", cpu.String())
		}
		time.Sleep(time.Hour)
		if use(); taken != 6 {
			t.Errorf("asked after an hour: %d samples", taken)
		}
	})
}
