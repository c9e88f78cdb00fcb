package pod

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

func snapshot(name string, uid types.UID, phase v1.PodPhase) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: uid}, Status: v1.PodStatus{Phase: phase}}
}

func TestBoardTellsEachChangeOnceInOrder(t *testing.T) {
	b := NewBoard()
	_, start := b.Snapshot()
	b.Set(snapshot("web", "u1", v1.PodPending))
	b.Set(snapshot("web", "u1", v1.PodPending)) // nothing new
	b.Set(snapshot("web", "u1", v1.PodRunning))
	b.Set(snapshot("web", "u2", v1.PodPending)) // another pod of that name
	b.Remove(snapshot("web", "u1", ""))         // too late: it is not shown any more
	b.Remove(snapshot("web", "u2", ""))
	changes, err := b.Changes(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ADDED u1 Pending", "MODIFIED u1 Running", "DELETED u1 Running", "ADDED u2 Pending", "DELETED u2 Pending"}
	if len(changes) != len(want) {
		t.Fatalf("%d changes, want %d", len(changes), len(want))
	}
	for i, c := range changes {
		got := fmt.Sprintf("%s %s %s", c.Type, c.Pod.UID, c.Pod.Status.Phase)
		if got != want[i] || c.Version != start+uint64(i)+1 || c.Pod.ResourceVersion != fmt.Sprint(c.Version) {
			t.Errorf("change %d: %s, version %d in the pod %s; want %s, %d", i, got, c.Version, c.Pod.ResourceVersion, want[i], start+uint64(i)+1)
		}
	}
	if pods, _ := b.Snapshot(); len(pods) != 0 {
		t.Errorf("%d pods are left", len(pods))
	}
}

func TestBoardReadersWaitForTheNextChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard()
		_, start := b.Snapshot()
		go func() {
			time.Sleep(time.Hour)
			b.Set(snapshot("web", "u1", v1.PodRunning))
		}()
		changes, err := b.Changes(t.Context(), start)
		if err != nil || len(changes) != 1 || changes[0].Type != watch.Added {
			t.Errorf("%v, %v", changes, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.Changes(ctx, changes[0].Version); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want the context's error", err)
		}
	})
}

func TestBoardGathersWhatFollowsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard()
		version, began := b.Version(), time.Now()
		go func() {
			for _, phase := range []v1.PodPhase{v1.PodPending, v1.PodRunning, v1.PodSucceeded} {
				time.Sleep(gatherTime / 4)
				b.Set(snapshot("web", "u1", phase))
			}
			time.Sleep(gatherTime)
			b.Set(snapshot("web", "u1", v1.PodFailed))
		}()
		for _, want := range []int{3, 1} {
			changes, err := b.Gather(t.Context(), version)
			if err != nil || len(changes) != want {
				t.Fatalf("%d changes, %v; want %d", len(changes), err, want)
			}
			version = changes[want-1].Version
		}
		if took := time.Since(began); took != gatherTime/4*3+2*gatherTime {
			t.Errorf("the last change was told after %v", took)
		}
		b.Set(snapshot("web", "u1", v1.PodRunning)) // nobody waits for it yet
		if changes, err := b.Gather(t.Context(), version); err != nil || len(changes) != 1 || changes[0].Version != b.Version() {
			t.Errorf("%v, %v", changes, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.Gather(ctx, b.Version()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want the context's error", err)
		}
	})
}

func TestBoardTellsReadersThatFellBehind(t *testing.T) {
	b := NewBoard()
	_, start := b.Snapshot()
	for i := range changesKept + 1 {
		b.Set(snapshot(fmt.Sprint("p", i), "u", v1.PodRunning))
	}
	if _, err := b.Changes(t.Context(), start); !errors.Is(err, ErrTooOld) {
		t.Errorf("far behind: %v; want ErrTooOld", err)
	}
	pods, now := b.Snapshot()
	if len(pods) != changesKept+1 || pods[0].Name != "p0" || pods[1].Name != "p1" || pods[2].Name != "p10" {
		t.Error("the snapshot is not complete and sorted by name")
	}
	if _, err := b.Changes(t.Context(), now+1); !errors.Is(err, ErrTooOld) {
		t.Errorf("a version of another life of the agent: %v; want ErrTooOld", err)
	}
}

func TestEventsAreCountedBoundedAndForgotten(t *testing.T) {
	s := EventStore{Source: "node"}
	e := Event{Key: Key{Namespace: "default", Name: "web"}, UID: "u1", FieldPath: "spec.containers{app}",
		Type: v1.EventTypeWarning, Reason: "BackOff", Message: "again", At: at(0)}
	s.Record(e)
	e.At = at(60)
	s.Record(e)
	e.Reason = "Killing"
	s.Record(e)
	got := s.List(at(61))
	if len(got) != 2 || got[0].Count != 2 || !got[0].FirstTimestamp.Time.Equal(at(0)) || !got[0].LastTimestamp.Time.Equal(at(60)) || got[1].Reason != "Killing" {
		t.Fatalf("%+v", got)
	}
	if ref := got[0].InvolvedObject; ref.UID != "u1" || ref.FieldPath != "spec.containers{app}" || ref.Kind != "Pod" {
		t.Errorf("about %+v", ref)
	}
	if got := s.List(at(60 + 3600)); len(got) != 0 {
		t.Errorf("after an hour: %v", got)
	}
	for i := range 2 * eventsKept {
		e.UID, e.Message, e.At = types.UID(fmt.Sprint(i)), fmt.Sprint(i), at(100+float64(i)/1000)
		s.Record(e)
	}
	all := s.List(at(200))
	if len(all) > eventsKept || len(all) < eventsKept*8/10 || all[len(all)-1].Message != fmt.Sprint(2*eventsKept-1) {
		t.Errorf("%d events are kept, the newest is %s", len(all), all[len(all)-1].Message)
	}
	if len(s.alike) > eventsKept { // what pods said that are gone
		t.Errorf("%d events are remembered for combining", len(s.alike))
	}
}

// Source: client-go, tools/record/events_cache.go: the tenth message that differs
// within ten minutes is told as one event with those after it.
func TestManyEventsThatDifferInTheirMessageOnlyAreToldAsOne(t *testing.T) {
	s := EventStore{}
	record := func(message string, second float64) {
		s.Record(Event{UID: "u1", FieldPath: "spec.containers{app}", Type: v1.EventTypeWarning, Reason: "Unhealthy", Message: message, At: at(second)})
	}
	told := func() map[string]int32 {
		all := map[string]int32{}
		for _, e := range s.List(at(1000)) {
			all[e.Message] = e.Count
		}
		return all
	}
	for i := range 30 {
		record(fmt.Sprintf("failed at %d", i), float64(i))
	}
	if got := told(); len(got) != 10 || got["(combined from similar events): failed at 29"] != 21 || got["failed at 8"] != 1 {
		t.Errorf("after 30 different messages: %v", got)
	}
	record("failed at 3", 40)
	if got := told(); got["failed at 3"] != 2 {
		t.Errorf("a message that is known is counted by itself: %v", got)
	}
	record("failed at last", 700)
	if got := told(); got["failed at last"] != 1 {
		t.Errorf("after ten quiet minutes: %v", got)
	}
}
