package objects

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// ErrTooOld is returned when changes or a state are asked for that are no
// longer remembered, or that have not happened yet: the reader lists again and
// goes on from there.
var ErrTooOld = errors.New("the changes after this resource version are no longer kept")

// The history of one resource. Of changes older than changesAge the newest
// changesLeast are kept, of those older than changesYoung changesMost, and of all
// changesBurst: many changes at once leave those who watch the time to take them. Of
// large objects so many are kept as have changesBytes together, but at least
// changesFew.
const (
	changesLeast = 64
	changesAge   = 5 * time.Minute
	changesMost  = 512
	changesYoung = 2 * time.Second
	changesBurst = 4096
	changesFew   = 16
	changesBytes = 8 << 20
)

// Object is what the store holds: a Kubernetes object with metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Shallow returns a copy of what o points to that shares everything below the first
// level: for an object that differs from another in its metadata.
func Shallow[T any](o T) T {
	from := reflect.ValueOf(o)
	c := reflect.New(from.Type().Elem())
	c.Elem().Set(from.Elem())
	return c.Interface().(T)
}

// Key names one object. Namespace is "" where the resource has none.
type Key struct {
	Resource        schema.GroupResource
	Namespace, Name string
}

// String reads as an operator would say it: "configmaps default/web".
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Resource.String() + " " + k.Name
	}
	return k.Resource.String() + " " + k.Namespace + "/" + k.Name
}

// Event is one step in the history of a resource.
type Event struct {
	Type    watch.EventType // Added, Modified, Deleted
	Object  Object          // as it is now; when Deleted, the last state with the version of the deletion
	Old     Object          // as it was before; nil when Added
	Version uint64
}

// Store holds all objects. The zero Store is not usable, see [New].
type Store struct {
	// Forget returns what the history may tell of an object that is gone: the same
	// one, or a copy of it without what nobody is to find in memory. Set before use;
	// nil: all of it.
	Forget func(Object) Object

	mu      sync.RWMutex
	version uint64 // of the newest change
	first   uint64 // the version the store began with
	tables  map[schema.GroupResource]*table

	lockMu sync.Mutex
	locks  map[Key]*keyLock
}

// table is one resource: its objects as they are, and how they came to be so.
type table struct {
	objects []Object // sorted by namespace and name
	changes []change // the newest, by ascending version
	dropped uint64   // version of the newest change that is no longer in changes
	bytes   int      // of the objects in changes
	changed chan struct{}
}

type change struct {
	Event
	at    time.Time
	bytes int // about, of Object
}

// New returns an empty store. Its first version is the time in microseconds, so
// that versions go on rising when the agent is started again, and a client that
// kept one from before is told to list again.
func New() *Store {
	first := uint64(time.Now().UnixMicro())
	return &Store{version: first, first: first, tables: map[schema.GroupResource]*table{}, locks: map[Key]*keyLock{}}
}

// Version returns the version of the newest change of any resource.
func (s *Store) Version() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.version
}

// Get returns one object. It is shared: readers never change it.
func (s *Store) Get(k Key) (Object, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.tables[k.Resource]
	if t == nil {
		return nil, false
	}
	i, found := t.find(k.Namespace, k.Name)
	if !found {
		return nil, false
	}
	return t.objects[i], true
}

// List returns the objects of a resource in one namespace, or in all of them if
// namespace is "", sorted by namespace and name, and the version of this state:
// a [Store.Watch] after it misses nothing.
func (s *Store) List(res schema.GroupResource, namespace string) ([]Object, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.tables[res].in(namespace)), s.version
}

// ListAt is [Store.List] as it was at an earlier version, for as long as the
// changes since are remembered: [ErrTooOld] after that, and for a version that
// is still to come.
func (s *Store) ListAt(res schema.GroupResource, namespace string, version uint64) ([]Object, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.tables[res]
	if !s.remembers(t, version) {
		return nil, ErrTooOld
	}
	if t == nil {
		return nil, nil
	}
	then := table{objects: slices.Clone(t.objects)}
	for _, c := range slices.Backward(t.changes) {
		if c.Version <= version {
			break
		}
		then.set(c.Object.GetNamespace(), c.Object.GetName(), c.Old)
	}
	return slices.Clone(then.in(namespace)), nil
}

// Update hands f the present object, nil if there is none, and stores what f
// returns under the next resource version: nil removes the object, the same
// pointer or an equal object changes nothing and keeps its version. An object
// with another UID takes the place of one that was deleted. f changes neither
// its argument nor, later, what it returned. An error of f is returned as it is,
// and nothing changes.
//
// Calls for one key run one after the other; f may take its time and may read
// the store, and may update other keys, but not its own.
//
// Update returns the object as it is stored now, or what is remembered of the last
// state of the one it removed, see Forget; nil if there was none.
func (s *Store) Update(k Key, f func(Object) (Object, error)) (Object, error) {
	return s.update(k, f, func(old, updated Object) bool { return equality.Semantic.DeepEqual(old, updated) })
}

// Renew is [Store.Update] for an object that is another one each time: nobody looks
// whether it is.
func (s *Store) Renew(k Key, f func(Object) (Object, error)) (Object, error) {
	return s.update(k, f, func(Object, Object) bool { return false })
}

func (s *Store) update(k Key, f func(Object) (Object, error), equal func(old, updated Object) bool) (Object, error) {
	defer s.lock(k)()
	old, found := s.Get(k)
	if !found {
		old = nil
	}
	updated, err := f(old)
	if err != nil {
		return nil, err
	}
	if updated == nil && old == nil || updated == old {
		return old, nil
	}
	if updated != nil {
		if updated.GetNamespace() != k.Namespace || updated.GetName() != k.Name {
			panic(fmt.Sprintf("objects: %s/%s stored as %s", updated.GetNamespace(), updated.GetName(), k))
		}
		if old != nil {
			updated.SetResourceVersion(old.GetResourceVersion())
			if equal(old, updated) {
				return old, nil
			}
		}
	}
	return s.commit(k, old, updated), nil
}

// commit makes updated, or nothing, of old, and remembers it.
func (s *Store) commit(k Key, old, updated Object) Object {
	gone, last := old, old // last: what is remembered of the one that goes
	if old != nil && (updated == nil || old.GetUID() != updated.GetUID()) {
		if s.Forget != nil {
			last = s.Forget(old)
		}
		gone = last.DeepCopyObject().(Object) // whoever has the last state keeps its version
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[k.Resource]
	if t == nil {
		t = &table{dropped: s.first, changed: make(chan struct{})}
		s.tables[k.Resource] = t
	}
	defer t.announce()
	if gone != old {
		if last != old {
			t.forget(k, s.Forget)
		}
		s.record(t, Event{Type: watch.Deleted, Object: gone, Old: last})
		old = nil
	}
	t.set(k.Namespace, k.Name, updated)
	switch {
	case updated == nil:
		return gone
	case old == nil:
		s.record(t, Event{Type: watch.Added, Object: updated})
	default:
		s.record(t, Event{Type: watch.Modified, Object: updated, Old: old})
	}
	return updated
}

// record gives an event's object the next version and appends it to the
// history. s.mu is held.
func (s *Store) record(t *table, e Event) {
	s.version++
	e.Version = s.version
	e.Object.SetResourceVersion(strconv.FormatUint(s.version, 10))
	next := change{Event: e, at: time.Now(), bytes: sizeOf(e.Object)}
	t.bytes += next.bytes
	drop := 0
	for _, c := range t.changes {
		kept, age := len(t.changes)+1-drop, next.at.Sub(c.at)
		if kept <= changesBurst && (kept <= changesMost || age <= changesYoung) &&
			(kept <= changesLeast || age <= changesAge) && (kept <= changesFew || t.bytes <= changesBytes) {
			break
		}
		t.bytes -= c.bytes
		drop++
	}
	if drop > 0 {
		t.dropped = t.changes[drop-1].Version
		clear(t.changes[:drop]) // what watches have taken are copies
		t.changes = t.changes[drop:]
	}
	t.changes = append(t.changes, next)
}

// sizeOf is about how much memory an object takes: what its protobuf form does.
func sizeOf(o Object) int {
	if sized, ok := o.(interface{ Size() int }); ok {
		return sized.Size()
	}
	return 0
}

// forget leaves of an object's history what f does. s.mu is held.
func (t *table) forget(k Key, f func(Object) Object) {
	for i := range t.changes {
		e := &t.changes[i].Event
		if e.Object.GetNamespace() != k.Namespace || e.Object.GetName() != k.Name {
			continue
		}
		if e.Object = f(e.Object); e.Old != nil {
			e.Old = f(e.Old)
		}
	}
}

// remembers tells whether every change of t after version is still known.
// s.mu is held.
func (s *Store) remembers(t *table, version uint64) bool {
	dropped := s.first
	if t != nil {
		dropped = t.dropped
	}
	return dropped <= version && version <= s.version
}

// announce wakes everybody who waits for a change of this resource.
func (t *table) announce() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// find returns where an object is, or where it would be.
func (t *table) find(namespace, name string) (int, bool) {
	return slices.BinarySearchFunc(t.objects, Key{Namespace: namespace, Name: name}, func(o Object, k Key) int {
		return cmp.Or(cmp.Compare(o.GetNamespace(), k.Namespace), cmp.Compare(o.GetName(), k.Name))
	})
}

// set puts o in its place, or removes what is there if o is nil.
func (t *table) set(namespace, name string, o Object) {
	i, found := t.find(namespace, name)
	switch {
	case o == nil && found:
		t.objects = slices.Delete(t.objects, i, i+1)
	case o != nil && found:
		t.objects[i] = o
	case o != nil:
		t.objects = slices.Insert(t.objects, i, o)
	}
}

// in returns the part of the objects that lies in a namespace, or all for "".
func (t *table) in(namespace string) []Object {
	if t == nil || namespace == "" {
		if t == nil {
			return nil
		}
		return t.objects
	}
	from, _ := t.find(namespace, "")
	to, _ := t.find(namespace+"\x00", "")
	return t.objects[from:to]
}

// keyLock makes updates of one key run one after the other.
type keyLock struct {
	sync.Mutex
	users int // that hold it or wait for it; guarded by Store.lockMu
}

// lock takes the lock of a key and returns what gives it back.
func (s *Store) lock(k Key) (unlock func()) {
	s.lockMu.Lock()
	l := s.locks[k]
	if l == nil {
		l = &keyLock{}
		s.locks[k] = l
	}
	l.users++
	s.lockMu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		s.lockMu.Lock()
		defer s.lockMu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.locks, k)
		}
	}
}
