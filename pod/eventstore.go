package pod

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Event is something that happened to a pod, in the words of the kubelet.
type Event struct {
	Key Key
	UID types.UID
	// FieldPath names the container: spec.containers{app}. Empty: the pod.
	FieldPath string
	Type      string // v1.EventTypeNormal or v1.EventTypeWarning
	Reason    string
	Message   string
	At        time.Time
}

const (
	eventsKept    = 1000      // of all pods together, and of alike
	eventLifetime = time.Hour // since the last occurrence, as an API server keeps them
)

// EventStore keeps the newest events. Equal events are counted, not repeated, and
// too many that differ in their message only are told as one, as the kubelet's
// recorder does. The zero value is ready to use.
type EventStore struct {
	mu     sync.Mutex
	events map[eventID]recorded
	alike  map[alikeID]*alike
	number uint64
	// Source is shown as the events' host.
	Source string
	// Tell hears of each event as it is now, in order; nil: nobody wants to know. It
	// must return at once. Of the event it may set the resource version, nothing else.
	Tell func(*v1.Event)
}

// recorded is an event, and which of all it was.
type recorded struct {
	*v1.Event
	number uint64
}

// eventID is what makes two events the same.
type eventID struct {
	uid                              types.UID
	fieldPath, kind, reason, message string
}

// alikeID is what makes events alike, whatever they say.
type alikeID struct {
	uid          types.UID
	kind, reason string
}

// alike are the messages of events that are alike.
type alike struct {
	messages map[string]bool
	last     time.Time
}

const (
	// alikeMost is how many different messages make the newest one and all others
	// that are new be told as one event.
	alikeMost = 10
	// alikeWithin is how long nothing alike may happen before that begins anew.
	alikeWithin    = 10 * time.Minute
	combinedPrefix = "(combined from similar events): "
)

// combine returns e, or e as part of the event that stands for many. s.mu is held.
// Source: client-go, tools/record/events_cache.go.
func (s *EventStore) combine(e Event) Event {
	if s.alike == nil {
		s.alike = map[alikeID]*alike{}
	}
	id := alikeID{e.UID, e.Type, e.Reason}
	a := s.alike[id]
	if a == nil || e.At.Sub(a.last) > alikeWithin {
		a = &alike{messages: map[string]bool{}}
		s.alike[id] = a
	}
	a.last = e.At
	if a.messages[e.Message] {
		return e
	}
	if len(a.messages) < alikeMost-1 {
		a.messages[e.Message] = true
		return e
	}
	e.Message = combinedPrefix + e.Message
	return e
}

// Record adds an event, or counts it once more.
func (s *EventStore) Record(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.events == nil {
		s.events = map[eventID]recorded{}
	}
	s.number++
	e = s.combine(e)
	id := eventID{e.UID, e.FieldPath, e.Type, e.Reason, e.Message}
	if strings.HasPrefix(e.Message, combinedPrefix) {
		id.fieldPath, id.message = "", combinedPrefix // one for all of them, which shows the newest
	}
	if old, found := s.events[id]; found && e.At.Sub(old.LastTimestamp.Time) < eventLifetime {
		again := s.event(e, old.Name, old.Count+1)
		again.UID, again.CreationTimestamp, again.FirstTimestamp = old.UID, old.CreationTimestamp, old.FirstTimestamp
		s.events[id] = recorded{again, s.number}
		s.tell(again)
		return
	}
	first := s.event(e, fmt.Sprintf("%s.%x", e.Key.Name, uint64(e.At.UnixNano())+s.number), 1)
	first.UID = uuid.NewUUID()
	s.events[id] = recorded{first, s.number}
	s.tell(first)
	if len(s.events) > eventsKept {
		s.shrink(e.At)
	}
}

// event is e as the API shows it when it has happened count times.
func (s *EventStore) event(e Event, name string, count int32) *v1.Event {
	at := metav1.NewTime(e.At)
	return &v1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.Key.Namespace, Name: name, CreationTimestamp: at},
		InvolvedObject: v1.ObjectReference{
			APIVersion: "v1", Kind: "Pod",
			Namespace: e.Key.Namespace, Name: e.Key.Name, UID: e.UID, FieldPath: e.FieldPath,
		},
		Type: e.Type, Reason: e.Reason, Message: e.Message,
		Source:         v1.EventSource{Component: "kubelet", Host: s.Source},
		FirstTimestamp: at,
		LastTimestamp:  at,
		Count:          count,

		ReportingController: "kubelet", ReportingInstance: s.Source,
	}
}

func (s *EventStore) tell(e *v1.Event) {
	if s.Tell != nil {
		s.Tell(e)
	}
}

// shrink forgets what is over its lifetime and, if that is not enough, the
// oldest tenth. s.mu is held.
func (s *EventStore) shrink(now time.Time) {
	maps.DeleteFunc(s.events, func(_ eventID, e recorded) bool { return now.Sub(e.LastTimestamp.Time) >= eventLifetime })
	maps.DeleteFunc(s.alike, func(_ alikeID, a *alike) bool { return now.Sub(a.last) > alikeWithin })
	forgetOldest(s.events, recorded.compare)
	forgetOldest(s.alike, func(a, b *alike) int { return a.last.Compare(b.last) })
}

// forgetOldest takes a tenth of eventsKept out of a map that has more than that.
func forgetOldest[K comparable, V any](m map[K]V, compare func(a, b V) int) {
	if len(m) <= eventsKept {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(m), func(a, b K) int { return compare(m[a], m[b]) })
	for _, id := range oldest[:eventsKept/10] {
		delete(m, id)
	}
}

// List returns the events that are not older than an hour, the longest ago first. The
// events are shared: readers must not change them.
func (s *EventStore) List(now time.Time) []*v1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []recorded
	for _, e := range s.events {
		if now.Sub(e.LastTimestamp.Time) < eventLifetime {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, recorded.compare)
	var events []*v1.Event
	for _, e := range found {
		events = append(events, e.Event)
	}
	return events
}

// compare orders by time of the last occurrence, then by arrival.
func (r recorded) compare(other recorded) int {
	return cmp.Or(r.LastTimestamp.Time.Compare(other.LastTimestamp.Time), cmp.Compare(r.number, other.number))
}
