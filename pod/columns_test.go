package pod

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestColumnsAsKubectlPrintsThem(t *testing.T) {
	running := func(ready bool) v1.ContainerStatus {
		return v1.ContainerStatus{Ready: ready, Started: new(true), State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}
	}
	waiting := func(reason string) v1.ContainerStatus {
		return v1.ContainerStatus{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}}
	}
	exited := func(reason string, code, signal int32) v1.ContainerStatus {
		return v1.ContainerStatus{State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: reason, ExitCode: code, Signal: signal}}}
	}
	restarted := func(s v1.ContainerStatus, n int32, finished float64) v1.ContainerStatus {
		s.RestartCount = n
		s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{FinishedAt: metav1.NewTime(at(finished))}
		return s
	}
	initialized := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	ready := v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionTrue}
	for _, test := range []struct {
		name       string
		phase      v1.PodPhase
		reason     string
		init       []v1.ContainerStatus
		sidecars   int // the first of init
		containers []v1.ContainerStatus
		conditions []v1.PodCondition
		deleted    bool
		want       string
	}{
		{name: "running", phase: "Running", containers: []v1.ContainerStatus{running(true), running(false)}, want: "1/2 Running 0"},
		{name: "restarted", phase: "Running", containers: []v1.ContainerStatus{restarted(running(true), 3, 0)}, want: "1/1 Running 3 (2m ago)"},
		{name: "creating", phase: "Pending", containers: []v1.ContainerStatus{waiting("ContainerCreating")}, want: "0/1 ContainerCreating 0"},
		{name: "crash loop", phase: "Running", containers: []v1.ContainerStatus{running(true), waiting("CrashLoopBackOff")}, want: "1/2 CrashLoopBackOff 0"},
		{name: "completed", phase: "Succeeded", containers: []v1.ContainerStatus{exited("Completed", 0, 0)}, want: "0/1 Completed 0"},
		{name: "out of memory", phase: "Failed", containers: []v1.ContainerStatus{exited("OOMKilled", 137, 9)}, want: "0/1 OOMKilled 0"},
		{name: "exit without a reason", phase: "Failed", containers: []v1.ContainerStatus{exited("", 3, 0)}, want: "0/1 ExitCode:3 0"},
		{name: "signal without a reason", phase: "Failed", containers: []v1.ContainerStatus{exited("", 137, 9)}, want: "0/1 Signal:9 0"},
		{name: "one completed, one runs, pod ready", phase: "Running", conditions: []v1.PodCondition{ready},
			containers: []v1.ContainerStatus{exited("Completed", 0, 0), running(true)}, want: "1/2 Running 0"},
		{name: "one completed, one runs, pod not ready", phase: "Running",
			containers: []v1.ContainerStatus{exited("Completed", 0, 0), running(true)}, want: "1/2 NotReady 0"},
		{name: "first init container", phase: "Pending", init: []v1.ContainerStatus{running(false), waiting("PodInitializing")},
			containers: []v1.ContainerStatus{waiting("PodInitializing")}, want: "0/1 Init:0/2 0"},
		{name: "second init container", phase: "Pending", init: []v1.ContainerStatus{exited("Completed", 0, 0), waiting("PodInitializing")},
			containers: []v1.ContainerStatus{waiting("PodInitializing")}, want: "0/1 Init:1/2 0"},
		{name: "init crash loop", phase: "Pending", init: []v1.ContainerStatus{restarted(waiting("CrashLoopBackOff"), 4, 60)},
			containers: []v1.ContainerStatus{waiting("PodInitializing")}, want: "0/1 Init:CrashLoopBackOff 4 (60s ago)"},
		{name: "init failed", phase: "Failed", init: []v1.ContainerStatus{exited("Error", 1, 0)},
			containers: []v1.ContainerStatus{waiting("PodInitializing")}, want: "0/1 Init:Error 0"},
		{name: "init exit code", phase: "Failed", init: []v1.ContainerStatus{exited("", 1, 0)},
			containers: []v1.ContainerStatus{waiting("PodInitializing")}, want: "0/1 Init:ExitCode:1 0"},
		{name: "init signal", phase: "Failed", init: []v1.ContainerStatus{exited("", 1, 11)},
			containers: []v1.ContainerStatus{waiting("PodInitializing")}, want: "0/1 Init:Signal:11 0"},
		{name: "init done, about to start", phase: "Pending", init: []v1.ContainerStatus{exited("Completed", 0, 0)},
			containers: []v1.ContainerStatus{waiting("PodInitializing")}, want: "0/1 PodInitializing 0"},
		{name: "restarts of init containers no longer count", phase: "Running",
			init: []v1.ContainerStatus{restarted(exited("Completed", 0, 0), 5, 0)}, containers: []v1.ContainerStatus{running(true)}, want: "1/1 Running 0"},
		{name: "a sidecar counts", phase: "Running", sidecars: 1, init: []v1.ContainerStatus{restarted(running(true), 2, 90)},
			containers: []v1.ContainerStatus{restarted(running(true), 1, 30)}, want: "2/2 Running 3 (30s ago)"},
		{name: "a sidecar that is not ready", phase: "Running", sidecars: 1, init: []v1.ContainerStatus{running(false)},
			containers: []v1.ContainerStatus{running(true)}, want: "1/2 Running 0"},
		{name: "a sidecar in a crash loop after initialisation", phase: "Running", sidecars: 1, conditions: []v1.PodCondition{initialized},
			init: []v1.ContainerStatus{waiting("CrashLoopBackOff")}, containers: []v1.ContainerStatus{running(true)}, want: "1/2 Init:CrashLoopBackOff 0"},
		{name: "terminating", phase: "Running", deleted: true, containers: []v1.ContainerStatus{running(true)}, want: "1/1 Terminating 0"},
		{name: "completed and being deleted", phase: "Succeeded", deleted: true, containers: []v1.ContainerStatus{exited("Completed", 0, 0)}, want: "0/1 Completed 0"},
		{name: "reason of the pod", phase: "Failed", reason: "Evicted", want: "0/0 Evicted 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", CreationTimestamp: metav1.NewTime(at(-3600))}}
			p.Status = v1.PodStatus{Phase: test.phase, Reason: test.reason, Conditions: test.conditions}
			for i, s := range test.init {
				s.Name = string(rune('i' + i))
				c := v1.Container{Name: s.Name}
				if i < test.sidecars {
					c.RestartPolicy = new(v1.ContainerRestartPolicyAlways)
				}
				p.Spec.InitContainers = append(p.Spec.InitContainers, c)
				p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, s)
			}
			for i, s := range test.containers {
				s.Name = string(rune('a' + i))
				p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: s.Name})
				p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, s)
			}
			if test.deleted {
				p.DeletionTimestamp = new(metav1.NewTime(at(0)))
			}
			r := Columns(p, at(120))
			if got := r.Ready + " " + r.Status + " " + r.Restarts; got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			if r.Age != "62m" || r.Name != "web" {
				t.Errorf("age %s of %s; want 62m of web", r.Age, r.Name)
			}
		})
	}
}
