package declared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"podd/api/objects"
	"podd/pod"
)

func TestEventsSurviveTheAgent(t *testing.T) {
	w := newWorld(t)
	w.do("POST", podsPath, plainPod("web", "  restartPolicy: Never"))
	w.ready("web")
	if err := w.kernel.Exit("app", 3, false); err != nil {
		t.Fatal(err)
	}
	const path = "/api/v1/namespaces/default/events"
	if r := w.do("POST", path, "{metadata: {name: of-a-client, namespace: default}, involvedObject: {namespace: default, name: web, kind: Pod}, reason: Seen, message: by a client, type: Normal, firstTimestamp: \""+
		time.Now().UTC().Format(time.RFC3339)+"\"}"); r.code != 201 {
		t.Fatalf("%d %s", r.code, r.body)
	}
	events := func() (all []string) {
		var list v1.EventList
		if err := jsonInto(w.do("GET", path, nil).body, &list); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			all = append(all, fmt.Sprint(e.Name, " ", e.UID, " ", e.Reason, " ", e.Message, " ", e.Count, " ", e.LastTimestamp.Unix()))
		}
		return all
	}
	var before []string
	w.until("its events are there", func() bool {
		before = events()
		return slices.ContainsFunc(before, func(e string) bool { return strings.Contains(e, " Started ") }) && strings.Contains(strings.Join(before, "\n"), "by a client")
	})
	w.killAgent()
	w.startAgent()
	w.until("they are there again", func() bool {
		after := events()
		return !slices.ContainsFunc(before, func(e string) bool { return !slices.Contains(after, e) })
	})
}

// keeping is a keeper of events alone.
func keeping(t *testing.T, log logr.Logger) *Keeper {
	t.Helper()
	return New(t.Context(), Config{
		Files: OpenFiles(filepath.Join(t.TempDir(), "objects"), nil), Store: objects.New(), Board: pod.NewBoard(),
		EventsFile: filepath.Join(t.TempDir(), "events.json"), Logger: log,
	})
}

func eventAt(name string, at time.Time, message string) *v1.Event {
	return &v1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.NewTime(at)}, LastTimestamp: metav1.NewTime(at), Message: message}
}

func eventNames(k *Keeper) (names []string) {
	stored, _ := k.Store.List(eventResource, "")
	for _, o := range stored {
		names = append(names, o.GetName())
	}
	return names
}

// Many events in a moment are one write; none are none.
func TestEventsAreWrittenNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeping(t, logr.Discard())
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { k.keepEvents(ctx) })
		written := func() string {
			t.Helper()
			synctest.Wait()
			text, err := os.ReadFile(k.EventsFile)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			var file struct{ Events []v1.Event }
			if err == nil {
				if err := json.Unmarshal(text, &file); err != nil {
					t.Fatal(err)
				}
			}
			var names []string
			for _, e := range file.Events {
				names = append(names, e.Name)
			}
			return strings.Join(names, " ")
		}
		happen := func(name string) {
			k.showEvent(eventAt(name, time.Now(), ""))
			k.mirror.tellEvents()
		}
		time.Sleep(time.Hour)
		if _, err := os.Stat(k.EventsFile); err == nil {
			t.Error("it was written though nothing happened")
		}
		happen("a")
		time.Sleep(keptEventsEvery - time.Second)
		happen("b")
		if got := written(); got != "" {
			t.Errorf("written at once: %s", got)
		}
		time.Sleep(2 * time.Second)
		if got := written(); got != "b a" {
			t.Errorf("written: %s", got)
		}
		if err := os.Remove(k.EventsFile); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := written(); got != "" {
			t.Errorf("written once more: %s", got)
		}
		happen("c")
		stop() // what happened last is not lost
		running.Wait()
		if got := written(); got != "c" {
			t.Errorf("at the end: %s", got)
		}
	})
}

// While much happens, it is not for the sweep of the next minute to forget, and who
// watches misses nothing of it.
func TestEventsOfABusyMomentAreForgottenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeping(t, logr.Discard())
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { k.Run(ctx) })
		_, version := k.Store.List(eventResource, "")
		watched, err := k.Store.Watch(ctx, eventResource, "", version)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		slow := func() { // a client that looks now and then
			t.Helper()
			time.Sleep(100 * time.Millisecond)
			for {
				now, cancel := context.WithTimeout(ctx, time.Millisecond)
				changes, err := watched.Next(now)
				cancel()
				if errors.Is(err, context.DeadlineExceeded) {
					return
				} else if err != nil {
					t.Fatal(err)
				}
				for _, c := range changes {
					if seen[c.Object.GetName()] = c.Type != watch.Deleted; c.Type == watch.Deleted {
						delete(seen, c.Object.GetName())
					}
				}
			}
		}
		for i := range 3 * eventsMost {
			k.Event(eventAt(fmt.Sprintf("e%05d", i), time.Now(), ""))
			if i%200 == 199 {
				slow()
			}
		}
		slow()
		names := eventNames(k)
		if len(names) > eventsMost+200 || names[len(names)-1] != fmt.Sprintf("e%05d", 3*eventsMost-1) {
			t.Errorf("%d events, the last is %s", len(names), names[len(names)-1])
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, names) {
			t.Errorf("the client sees %d events of %d", len(got), len(names))
		}
		stop()
		running.Wait()
	})
}

func TestKeptEventsAreBoundedAndEnd(t *testing.T) {
	k := keeping(t, logr.Discard())
	now := time.Now().Truncate(time.Second)
	for i := range eventsMost + 10 {
		k.showEvent(eventAt(fmt.Sprintf("e%04d", i), now.Add(time.Duration(i-2000)*time.Second), ""))
	}
	k.showEvent(eventAt("old", now.Add(-eventsLast), ""))
	if err := k.writeEvents(now); err != nil {
		t.Fatal(err)
	}
	load := func(at time.Time) []string {
		t.Helper()
		k.Store = objects.New()
		if err := k.loadEvents(at); err != nil {
			t.Fatal(err)
		}
		return eventNames(k)
	}
	if names := load(now); len(names) != eventsMost || names[0] != "e0010" {
		t.Errorf("%d, from %s", len(names), names[0])
	}
	if names := load(now.Add(eventsLast - 1500*time.Second)); len(names) != 509 { // those of the last 1,500 s
		t.Errorf("%d are left", len(names))
	}
	k.Store = objects.New()
	for i := range 40 {
		k.showEvent(eventAt(fmt.Sprintf("large%d", i), now.Add(time.Duration(i)*time.Second), strings.Repeat("x", 100<<10)))
	}
	if err := k.writeEvents(now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if names := load(now.Add(time.Minute)); len(names) != 10 || !slices.Contains(names, "large39") {
		t.Errorf("of large ones: %v", names)
	}
}

// A file that says nothing stops nobody, and is told.
func TestAFileOfEventsThatCannotBeReadIsNone(t *testing.T) {
	good, err := json.Marshal(eventAt("good", time.Now(), ""))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"empty": "", "half": `{"version":1,"events":[{"meta`, "another version": `{"version":2,"events":[]}`, "no event": `{"version":1,"events":[[]]}`,
		"endless":                           `{"version":1,"events":["` + strings.Repeat("x", 3*keptEventsBytes) + `"]}`,
		"a good one and one without a name": fmt.Sprintf(`{"version":1,"events":[{"metadata":{}},%s]}`, good),
	} {
		t.Run(what, func(t *testing.T) {
			var mu sync.Mutex
			var told []string
			k := keeping(t, funcr.New(func(_, line string) { mu.Lock(); defer mu.Unlock(); told = append(told, line) }, funcr.Options{}))
			if err := os.WriteFile(k.EventsFile, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { k.Run(ctx) })
			k.Event(eventAt("new", time.Now(), ""))
			for deadline := time.Now().Add(long); !slices.Contains(eventNames(k), "new"); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the keeper does not work")
				}
			}
			stop()
			running.Wait()
			wantTold := 1
			if strings.HasPrefix(what, "a good one") {
				wantTold = 0
				if !slices.Contains(eventNames(k), "good") {
					t.Error("the good one is not there")
				}
			}
			if len(told) != wantTold || wantTold == 1 && (!strings.Contains(told[0], "events from before the agent's start are not shown") || strings.Contains(told[0], `"error"`)) {
				t.Errorf("told %q", told)
			}
		})
	}
}
