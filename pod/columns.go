package pod

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Row is a pod's line in `kubectl get pods`.
type Row struct {
	Name     string
	Ready    string // 1/2
	Status   string
	Restarts string // 3 (2m ago)
	Age      string
}

// Columns computes what kubectl prints about a pod. Sidecars count as
// containers.
func Columns(p *v1.Pod, now time.Time) Row {
	t := tally(p)
	r := Row{
		Name:     p.Name,
		Ready:    fmt.Sprintf("%d/%d", t.ready, t.total),
		Status:   t.status,
		Restarts: fmt.Sprint(t.restarts),
		Age:      "<unknown>",
	}
	if t.restarts > 0 && !t.lastRestart.IsZero() {
		r.Restarts = fmt.Sprintf("%d (%s ago)", t.restarts, duration.HumanDuration(now.Sub(t.lastRestart)))
	}
	if !p.CreationTimestamp.IsZero() {
		r.Age = duration.HumanDuration(now.Sub(p.CreationTimestamp.Time))
	}
	return r
}

// counts is what the columns are made of.
type counts struct {
	ready, total, restarts int
	lastRestart            time.Time
	status                 string
}

// restarted counts one container's restarts.
func (t *counts) restarted(s *v1.ContainerStatus) {
	t.restarts += int(s.RestartCount)
	if last := s.LastTerminationState.Terminated; last != nil && last.FinishedAt.After(t.lastRestart) {
		t.lastRestart = last.FinishedAt.Time
	}
}

// tally goes through the containers in kubectl's order: init containers
// decide while the pod initialises, regular ones after that.
func tally(p *v1.Pod) counts {
	t := counts{total: len(p.Spec.Containers), status: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		t.status = p.Status.Reason
	}
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; isSidecar(c) {
			sidecars[c.Name] = true
			t.total++
		}
	}
	ofSidecars, initializing := t.init(p, sidecars)
	if initialized := condition(p.Status.Conditions, v1.PodInitialized); !initializing || initialized != nil && initialized.Status == v1.ConditionTrue {
		t.restarts, t.lastRestart = ofSidecars.restarts, ofSidecars.lastRestart
		t.regular(p)
	}
	switch {
	case p.DeletionTimestamp == nil:
	case p.Status.Reason == "NodeLost":
		t.status = "Unknown"
	case p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed:
		t.status = "Terminating"
	}
	return t
}

// init looks at the init containers up to the first that is not done, and
// says whether there is one. Only the restarts of the sidecars among them count
// after that.
func (t *counts) init(p *v1.Pod, sidecars map[string]bool) (ofSidecars counts, initializing bool) {
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		t.restarted(s)
		if sidecars[s.Name] {
			ofSidecars.restarted(s)
		}
		terminated, waiting := s.State.Terminated, s.State.Waiting
		switch {
		case terminated != nil && terminated.ExitCode == 0:
			continue
		case sidecars[s.Name] && s.Started != nil && *s.Started:
			if s.Ready {
				t.ready++
			}
			continue
		case terminated != nil:
			t.status = "Init:" + exitStatus(terminated)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			t.status = "Init:" + waiting.Reason
		default:
			t.status = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return ofSidecars, true
	}
	return ofSidecars, false
}

// regular looks at the regular containers; the first one in order that has
// something to say decides.
func (t *counts) regular(p *v1.Pod) {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		s := &p.Status.ContainerStatuses[i]
		t.restarted(s)
		switch terminated, waiting := s.State.Terminated, s.State.Waiting; {
		case waiting != nil && waiting.Reason != "":
			t.status = waiting.Reason
		case terminated != nil:
			t.status = exitStatus(terminated)
		case s.Ready && s.State.Running != nil:
			running = true
			t.ready++
		}
	}
	if t.status == reasonCompleted && running {
		t.status = "NotReady"
		if c := condition(p.Status.Conditions, v1.PodReady); c != nil && c.Status == v1.ConditionTrue {
			t.status = string(v1.PodRunning)
		}
	}
}

// exitStatus is how kubectl names an exit.
func exitStatus(t *v1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	default:
		return fmt.Sprintf("ExitCode:%d", t.ExitCode)
	}
}
