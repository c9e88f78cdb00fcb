package objects

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

var (
	configMaps = schema.GroupResource{Resource: "configmaps"}
	secrets    = schema.GroupResource{Resource: "secrets"}
)

func key(namespace, name string) Key {
	return Key{Resource: configMaps, Namespace: namespace, Name: name}
}

func configMap(namespace, name, value string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string]string{"v": value}}
}

// put stores a ConfigMap, whatever is there.
func put(t testing.TB, s *Store, namespace, name, value string) Object {
	t.Helper()
	o, err := s.Update(key(namespace, name), func(Object) (Object, error) { return configMap(namespace, name, value), nil })
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func remove(t testing.TB, s *Store, k Key) Object {
	t.Helper()
	o, err := s.Update(k, func(Object) (Object, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func version(o Object) uint64 {
	v, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		panic(err)
	}
	return v
}

// state renders objects as "namespace/name=value@version".
func state(objects []Object) []string {
	var lines []string
	for _, o := range objects {
		lines = append(lines, fmt.Sprintf("%s/%s=%s@%s", o.GetNamespace(), o.GetName(), o.(*v1.ConfigMap).Data["v"], o.GetResourceVersion()))
	}
	return lines
}

func TestVersionsRiseOverAllResources(t *testing.T) {
	s := New()
	first := version(put(t, s, "a", "x", "1"))
	secret, err := s.Update(Key{secrets, "a", "x"}, func(old Object) (Object, error) {
		if old != nil {
			t.Errorf("found %v under the key of another resource", old)
		}
		return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	third := version(put(t, s, "a", "x", "2"))
	if v := version(secret); v != first+1 || third != first+2 || s.Version() != third {
		t.Errorf("versions %d, %d, %d and %d of the store; want one after the other", first, v, third, s.Version())
	}
	if again := New(); again.Version() < third {
		t.Errorf("a new store begins at %d, before %d", again.Version(), third)
	}
}

func TestWhatChangesNothingKeepsItsVersion(t *testing.T) {
	s := New()
	o := put(t, s, "a", "x", "1")
	w, err := s.Watch(t.Context(), configMaps, "", s.Version())
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(Object) (Object, error){
		"the same pointer": func(old Object) (Object, error) { return old, nil },
		"an equal object":  func(Object) (Object, error) { return configMap("a", "x", "1"), nil },
	} {
		if got, err := s.Update(key("a", "x"), f); got != o || err != nil {
			t.Errorf("%s: got %v, %v; want the object as it was", name, got, err)
		}
	}
	failed := errors.New("refused")
	if _, err := s.Update(key("a", "x"), func(Object) (Object, error) { return nil, failed }); err != failed {
		t.Errorf("got error %v", err)
	}
	if o := remove(t, s, key("a", "none")); o != nil {
		t.Errorf("removing what is not there returned %v", o)
	}
	if s.Version() != version(o) {
		t.Errorf("the store's version went on to %d", s.Version())
	}
	if events, _, err := w.take(); len(events) != 0 || err != nil {
		t.Errorf("events %v, %v", events, err)
	}
}

func TestListIsSortedAndOfOneNamespace(t *testing.T) {
	s := New()
	for _, k := range []string{"b/y", "a/z", "a-b/x", "a/x", "b/x"} {
		namespace, name := k[:len(k)-2], k[len(k)-1:]
		put(t, s, namespace, name, "")
	}
	names := func(objects []Object) (all []string) {
		for _, o := range objects {
			all = append(all, o.GetNamespace()+"/"+o.GetName())
		}
		return all
	}
	for namespace, want := range map[string][]string{
		"":    {"a/x", "a/z", "a-b/x", "b/x", "b/y"},
		"a":   {"a/x", "a/z"},
		"a-b": {"a-b/x"},
		"b":   {"b/x", "b/y"},
		"c":   nil,
	} {
		objects, v := s.List(configMaps, namespace)
		if got := names(objects); !slices.Equal(got, want) || v != s.Version() {
			t.Errorf("namespace %q: %v at %d; want %v at %d", namespace, got, v, want, s.Version())
		}
	}
	if objects, v := s.List(secrets, ""); len(objects) != 0 || v != s.Version() {
		t.Errorf("a resource without objects: %v at %d", objects, v)
	}
}

func TestARemovedObjectIsSeenWithTheVersionOfItsDeletion(t *testing.T) {
	s := New()
	o := put(t, s, "a", "x", "1")
	before := version(o)
	w, _ := s.Watch(t.Context(), configMaps, "a", before)
	gone := remove(t, s, key("a", "x"))
	events, err := w.Next(t.Context())
	if err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
	e := events[0]
	if e.Type != watch.Deleted || e.Object != gone || e.Old != o || e.Version != before+1 || version(e.Object) != before+1 {
		t.Errorf("got %+v", e)
	}
	if version(o) != before {
		t.Error("an object that was handed out was changed")
	}
}

func TestAnotherUIDTakesThePlaceOfADeletedObject(t *testing.T) {
	s := New()
	for _, uid := range []types.UID{"one", "two"} {
		if _, err := s.Update(key("a", "x"), func(Object) (Object, error) {
			o := configMap("a", "x", "1")
			o.UID = uid
			return o, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	w, _ := s.Watch(t.Context(), configMaps, "", s.first)
	events, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s %s", e.Type, e.Object.GetUID()))
	}
	if want := []string{"ADDED one", "DELETED one", "ADDED two"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if then, err := s.ListAt(configMaps, "", s.first+1); err != nil || len(then) != 1 || then[0].GetUID() != "one" {
		t.Errorf("after the first change there was %v, %v", then, err)
	}
}

// Whatever happened, a watch from any remembered version leads from the state
// then to the state now, and ListAt tells each state in between.
func TestHistoryAgreesWithWhatWas(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 0))
		s := New()
		type then struct {
			version uint64
			state   []string
		}
		history := []then{{s.Version(), nil}}
		for range 200 + random.IntN(changesMost) {
			namespace, name := string(rune('a'+random.IntN(3))), string(rune('x'+random.IntN(3)))
			if random.IntN(4) == 0 {
				remove(t, s, key(namespace, name))
			} else {
				put(t, s, namespace, name, strconv.Itoa(random.IntN(3)))
			}
			objects, v := s.List(configMaps, "")
			history = append(history, then{v, state(objects)})
		}
		kept := 0
		for i, h := range history {
			if i%7 != 0 {
				continue
			}
			objects, err := s.ListAt(configMaps, "", h.version)
			w, watchErr := s.Watch(t.Context(), configMaps, "", h.version)
			if errors.Is(err, ErrTooOld) && errors.Is(watchErr, ErrTooOld) && kept == 0 {
				continue
			}
			kept++
			if err != nil || watchErr != nil || !slices.Equal(state(objects), h.state) {
				t.Fatalf("seed %d: state at %d is %q, %v, %v; want %q", seed, h.version, state(objects), err, watchErr, h.state)
			}
			replayed := table{objects: objects}
			events, _, err := w.take()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				after := e.Object
				if e.Type == watch.Deleted {
					after = nil
				}
				if _, found := replayed.find(e.Object.GetNamespace(), e.Object.GetName()); found != (e.Type != watch.Added) {
					t.Fatalf("seed %d: %s of %v: there before: %v", seed, e.Type, e.Object, found)
				}
				replayed.set(e.Object.GetNamespace(), e.Object.GetName(), after)
			}
			if got, want := state(replayed.objects), history[len(history)-1].state; !slices.Equal(got, want) {
				t.Fatalf("seed %d: events after %d lead to %q, want %q", seed, h.version, got, want)
			}
		}
		if kept < 20 {
			t.Errorf("seed %d: only %d states are remembered", seed, kept)
		}
	}
}

func TestWhatIsTooOldOrStillToComeIsRefused(t *testing.T) {
	s := New()
	for i := range changesBurst + 10 {
		put(t, s, "a", "x", strconv.Itoa(i))
	}
	for v, want := range map[uint64]error{
		0:               ErrTooOld,
		s.first:         ErrTooOld,
		s.first + 9:     ErrTooOld,
		s.first + 10:    nil,
		s.Version():     nil,
		s.Version() + 1: ErrTooOld,
	} {
		if _, err := s.Watch(t.Context(), configMaps, "", v); err != want {
			t.Errorf("watch after first+%d: %v, want %v", int64(v-s.first), err, want)
		}
		if _, err := s.ListAt(configMaps, "", v); err != want {
			t.Errorf("list at first+%d: %v, want %v", int64(v-s.first), err, want)
		}
	}
	if _, err := s.Watch(t.Context(), secrets, "", s.first); err != nil {
		t.Errorf("a resource without changes: %v", err)
	}
}

func TestOldChangesGoWhenNewOnesCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		for i := range 2 * changesLeast {
			put(t, s, "a", "x", strconv.Itoa(i))
		}
		time.Sleep(changesAge + time.Second)
		if _, err := s.Watch(t.Context(), configMaps, "", s.first); err != nil {
			t.Errorf("without a new change nothing goes: %v", err)
		}
		put(t, s, "a", "x", "new")
		if got := len(s.tables[configMaps].changes); got != changesLeast {
			t.Errorf("%d changes are kept, want %d", got, changesLeast)
		}
		if _, err := s.Watch(t.Context(), configMaps, "", s.Version()-changesLeast); err != nil {
			t.Error(err)
		}
	})
}

func TestNextWaitsForAChangeOfItsNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		put(t, s, "a", "before", "")
		w, err := s.Watch(t.Context(), configMaps, "a", s.Version())
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan []Event)
		go func() {
			events, err := w.Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- events
		}()
		synctest.Wait()
		put(t, s, "b", "x", "")
		synctest.Wait()
		select {
		case events := <-got:
			t.Fatalf("woken by another namespace with %v", events)
		default:
		}
		put(t, s, "a", "x", "")
		if events := <-got; len(events) != 1 || events[0].Object.GetName() != "x" || events[0].Old != nil {
			t.Errorf("got %v", events)
		}
		if w.Version() != s.Version() {
			t.Errorf("the watch is at %d, the store at %d", w.Version(), s.Version())
		}
	})
}

func TestAWatchEndsWithEitherContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		whole, end := context.WithCancel(t.Context())
		w, err := s.Watch(whole, configMaps, "", s.Version())
		if err != nil {
			t.Fatal(err)
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if events, err := w.Next(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v", events, err)
		}
		put(t, s, "a", "x", "")
		if events, err := w.Next(t.Context()); len(events) != 1 || err != nil {
			t.Errorf("after the end of one call: %v, %v", events, err)
		}
		go end()
		if events, err := w.Next(t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, %v", events, err)
		}
	})
}

// A thousand objects that go at once are no reason to list again: who watches has a
// moment. After it, what so many changes held is free.
func TestManyChangesAtOnceAreRememberedForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		w, err := s.Watch(t.Context(), configMaps, "", s.Version())
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			put(t, s, "a", fmt.Sprintf("x%03d", i), "")
		}
		time.Sleep(changesYoung)
		for i := range 1000 {
			remove(t, s, key("a", fmt.Sprintf("x%03d", i)))
		}
		if events, err := w.Next(t.Context()); err != nil || len(events) != 2000 {
			t.Errorf("%d events, %v", len(events), err)
		}
		time.Sleep(changesYoung + time.Second)
		put(t, s, "a", "later", "")
		if got := len(s.tables[configMaps].changes); got != changesMost {
			t.Errorf("%d changes are kept, want %d", got, changesMost)
		}
	})
}

// Who writes large objects again and again does not fill the memory with what they were.
func TestTheHistoryOfLargeObjectsIsShort(t *testing.T) {
	s := New()
	for i := range 100 {
		put(t, s, "a", "large", strings.Repeat(string(rune('a'+i%26)), 256<<10))
	}
	if got, want := len(s.tables[configMaps].changes), changesBytes/(256<<10)-1; got != want {
		t.Errorf("%d changes of 256 KiB are kept, want %d", got, want)
	}
	for i := range 20 {
		put(t, s, "a", "huge", strings.Repeat(string(rune('a'+i)), 1<<20))
	}
	if got := len(s.tables[configMaps].changes); got != changesFew {
		t.Errorf("%d changes of 1 MiB are kept, want %d", got, changesFew)
	}
	put(t, s, "a", "huge", "")
	for range changesFew {
		put(t, s, "a", "small", strconv.Itoa(rand.Int()))
	}
	if table := s.tables[configMaps]; len(table.changes) < changesFew || table.bytes > changesBytes {
		t.Errorf("%d changes of %d bytes", len(table.changes), table.bytes)
	}
}

func TestASlowReaderIsToldAndHoldsNobodyUp(t *testing.T) {
	s := New()
	slow, _ := s.Watch(t.Context(), configMaps, "", s.Version())
	fast, _ := s.Watch(t.Context(), configMaps, "", s.Version())
	for i := range changesBurst + 1 {
		put(t, s, "a", "x", strconv.Itoa(i))
		if events, err := fast.Next(t.Context()); err != nil || len(events) != 1 {
			t.Fatal(events, err)
		}
	}
	if events, err := slow.Next(t.Context()); err != ErrTooOld {
		t.Errorf("got %v, %v", events, err)
	}
}

func TestUpdatesOfOneKeyRunOneAfterTheOther(t *testing.T) {
	s := New()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				_, err := s.Update(key("a", "count"), func(old Object) (Object, error) {
					n := 0
					if old != nil {
						n, _ = strconv.Atoi(old.(*v1.ConfigMap).Data["v"])
					}
					s.List(configMaps, "") // f may read
					return configMap("a", "count", strconv.Itoa(n+1)), nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	w, _ := s.Watch(t.Context(), configMaps, "", s.first)
	last := s.first
	for seen := 0; seen < 8*50; {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if seen++; e.Version != last+1 || e.Object.(*v1.ConfigMap).Data["v"] != strconv.Itoa(seen) {
				t.Fatalf("event %d is %v of %v", seen, e.Version-s.first, e.Object)
			}
			last = e.Version
		}
	}
	all.Wait()
	if len(s.locks) != 0 {
		t.Errorf("%d locks are left", len(s.locks))
	}
}

// One key's slow update must not hold up another's.
func TestASlowUpdateHoldsOnlyItsOwnKey(t *testing.T) {
	s := New()
	release := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.Update(key("a", "slow"), func(Object) (Object, error) {
			<-release
			return configMap("a", "slow", ""), nil
		})
	}()
	put(t, s, "a", "quick", "")
	close(release)
	<-done
	if objects, _ := s.List(configMaps, "a"); len(objects) != 2 {
		t.Errorf("got %v", objects)
	}
}

func BenchmarkGet(b *testing.B) {
	s := New()
	for i := range 1000 {
		put(b, s, "default", fmt.Sprintf("pod-%d", i), "")
	}
	for b.Loop() {
		s.Get(key("default", "pod-500"))
	}
}

// What Forget takes away of an object that is gone is nowhere any more: not in its last
// event, nor in those before, nor in the state that they lead back to.
func TestWhatIsGoneIsForgotten(t *testing.T) {
	s := New()
	s.Forget = func(o Object) Object {
		c := Shallow(o.(*v1.ConfigMap))
		c.Data = nil
		return c
	}
	put(t, s, "default", "other", "kept")
	before := s.Version()
	put(t, s, "default", "login", "first")
	put(t, s, "default", "login", "second")
	stored := s.Version()
	seen, err := s.Watch(t.Context(), configMaps, "", before)
	if err != nil {
		t.Fatal(err)
	}
	if events, err := seen.Next(t.Context()); err != nil || len(events) != 2 || events[1].Object.(*v1.ConfigMap).Data["v"] != "second" {
		t.Errorf("while it is there: %v, %v", events, err)
	}
	if _, err := s.Update(key("default", "login"), func(Object) (Object, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	late, err := s.Watch(t.Context(), configMaps, "", before)
	if err != nil {
		t.Fatal(err)
	}
	events, err := late.Next(t.Context())
	if err != nil || len(events) != 3 || events[2].Type != watch.Deleted {
		t.Fatalf("%v, %v", events, err)
	}
	for _, e := range events {
		for _, o := range []Object{e.Object, e.Old} {
			if c, is := o.(*v1.ConfigMap); is && (c.Name != "login" || c.Data != nil) {
				t.Errorf("%s: %v is remembered", e.Type, c)
			}
		}
	}
	then, err := s.ListAt(configMaps, "", stored)
	if err != nil || len(then) != 2 || then[0].(*v1.ConfigMap).Data != nil || then[1].(*v1.ConfigMap).Data["v"] != "kept" {
		t.Errorf("the state of before: %v, %v", then, err)
	}
}

func TestRenewLooksAtNothing(t *testing.T) {
	s := New()
	k := Key{Resource: schema.GroupResource{Resource: "configmaps"}, Namespace: "default", Name: "a"}
	make := func(Object) (Object, error) {
		return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}}, nil
	}
	var versions []string
	for _, change := range []func(Key, func(Object) (Object, error)) (Object, error){s.Update, s.Update, s.Renew} {
		o, err := change(k, make)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, o.GetResourceVersion())
	}
	if versions[0] != versions[1] || versions[1] == versions[2] {
		t.Errorf("versions: %q", versions)
	}
}
