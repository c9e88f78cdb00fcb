package declared

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"podd/pod"
)

// stateOfPod is a pod on the board; more changes it.
func stateOfPod(phase v1.PodPhase, ready v1.ConditionStatus, c v1.ContainerState, more ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"}}
	p.Status.Phase = phase
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: ready}}
	p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "app", State: c}}
	for _, f := range more {
		f(p)
	}
	return p
}

func TestOfStatesCloseOnEachOtherEachStageIsShown(t *testing.T) {
	waiting := func(reason string) v1.ContainerState {
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
	}
	runs := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	ended := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}
	of := func(uid types.UID) func(*v1.Pod) { return func(p *v1.Pod) { p.UID = uid } }
	named := func(name string) func(*v1.Pod) { return func(p *v1.Pod) { p.Name = name } }
	at := func(ip string) func(*v1.Pod) { return func(p *v1.Pod) { p.Status.PodIP = ip } }
	again := func(p *v1.Pod) { p.Status.ContainerStatuses[0].RestartCount++ }
	deleted := func(p *v1.Pod) { p.DeletionTimestamp = new(metav1.Now()) }
	var some []pod.Change
	var want []uint64
	for i, step := range []struct {
		what watch.EventType
		pod  *v1.Pod
		kept bool
	}{
		{watch.Added, stateOfPod(v1.PodPending, "False", waiting("ContainerCreating")), false},
		{watch.Added, stateOfPod(v1.PodPending, "False", waiting("ContainerCreating"), named("other")), true},
		{watch.Modified, stateOfPod(v1.PodPending, "False", waiting("ContainerCreating"), at("10.244.0.2")), true},
		{watch.Modified, stateOfPod(v1.PodPending, "False", waiting("ErrImagePull"), at("10.244.0.2")), true},
		{watch.Modified, stateOfPod(v1.PodRunning, "False", runs), true},
		{watch.Modified, stateOfPod(v1.PodRunning, "True", runs), false},
		{watch.Modified, stateOfPod(v1.PodRunning, "True", runs, at("10.244.0.3")), true},
		{watch.Modified, stateOfPod(v1.PodRunning, "True", ended), true},
		{watch.Modified, stateOfPod(v1.PodRunning, "True", runs), true},
		{watch.Modified, stateOfPod(v1.PodRunning, "True", runs, again), true},
		{watch.Modified, stateOfPod(v1.PodRunning, "True", runs, again, deleted), true},
		{watch.Deleted, stateOfPod(v1.PodRunning, "True", runs, again, deleted), true},
		{watch.Added, stateOfPod(v1.PodRunning, "True", runs, of("u2")), true},
	} {
		some = append(some, pod.Change{Type: step.what, Pod: step.pod, Version: uint64(i)})
		if step.kept {
			want = append(want, uint64(i))
		}
	}
	var got []uint64
	for _, c := range stages(some) {
		got = append(got, c.Version)
	}
	if !slices.Equal(got, want) {
		t.Errorf("shown: %v; want %v", got, want)
	}
}

func TestAWatcherSeesAPodBecomeReadyAndEachEventOnce(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	pods, err := w.store.Watch(ctx, podResource, "default", w.store.Version())
	if err != nil {
		t.Fatal(err)
	}
	events, err := w.store.Watch(ctx, eventResource, "default", w.store.Version())
	if err != nil {
		t.Fatal(err)
	}
	w.file("web.yaml", plainPod("web", ""))
	var stages []string
	for !slices.Contains(stages, "Running True") {
		some, err := pods.Next(ctx)
		if err != nil {
			t.Fatalf("after %q: %v", stages, err)
		}
		for _, e := range some {
			p := e.Object.(*v1.Pod)
			stages = append(stages, fmt.Sprintf("%s %s", p.Status.Phase, readiness(p)))
		}
	}
	if stages = slices.Compact(stages); stages[0] != "Pending False" || !slices.IsSorted(stages) {
		t.Errorf("seen: %q", stages)
	}
	times := map[string]int{}
	for times["Started"] == 0 {
		some, err := events.Next(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", times, err)
		}
		for _, e := range some {
			times[e.Object.(*v1.Event).Reason]++
		}
	}
	for _, reason := range []string{"Created", "Started"} {
		if times[reason] != 1 {
			t.Errorf("events: %v", times)
		}
	}
}

func TestWhatAClientWroteIsNotUndoneByAnOlderState(t *testing.T) {
	w := newWorld(t)
	w.file("web.yaml", plainPod("web", "  readinessGates: [{conditionType: example.com/open}]"))
	w.until("it runs", func() bool { p := w.pod("web"); return p != nil && p.Status.Phase == v1.PodRunning })
	shown, _ := w.board.Get(pod.Key{Namespace: "default", Name: "web"})
	was, err := strconv.ParseUint(shown.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	p := w.pod("web")
	p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: "example.com/open", Status: "True"})
	w.as(w.do("PUT", podsPath+"/web/status", p), 200)
	if !w.keeper.mirror.overwritten(pod.Change{Type: watch.Modified, Pod: shown, Version: was}) {
		t.Error("the state before would be shown again")
	}
	w.ready("web")
	if got := conditionOf(w.pod("web"), "example.com/open"); got != "True" {
		t.Errorf("the condition is %q", got)
	}
}
