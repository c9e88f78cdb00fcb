package pod

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/watch"
)

// ErrTooOld is returned by [Board.Changes] when the changes asked for are no
// longer remembered: the reader lists again and goes on from there.
var ErrTooOld = errors.New("the changes after this resource version are no longer kept")

const (
	// changesKept is how many changes a slow reader may fall behind.
	changesKept = 512
	// gatherTime is how long [Board.Gather] waits for more: a pod starts in less.
	gatherTime = 30 * time.Millisecond
)

// Board shows the latest snapshot of each pod. Workers set, everybody reads.
// The pods it hands out are shared: readers must not change them.
type Board struct {
	mu      sync.Mutex
	pods    map[Key]*v1.Pod
	version uint64
	changes []Change      // the newest, ascending versions without gaps
	changed chan struct{} // closed and replaced at each change

	gathered  chan struct{} // closed gatherTime after a change; nil: nobody waits for it
	gathering bool          // the time runs
}

// Change is one step in the board's history.
type Change struct {
	Type    watch.EventType // Added, Modified, Deleted
	Pod     *v1.Pod         // the last snapshot when Deleted
	Version uint64
}

// NewBoard returns an empty board. Versions begin at 1.
func NewBoard() *Board {
	return &Board{pods: map[Key]*v1.Pod{}, version: 1, changed: make(chan struct{})}
}

// Set shows p in place of the pod of the same namespace and name, and gives
// it the next resource version. A snapshot that changes nothing is dropped.
// The board takes p over.
func (b *Board) Set(p *v1.Pod) {
	key := Key{Namespace: p.Namespace, Name: p.Name}
	b.mu.Lock()
	defer b.mu.Unlock()
	old, found := b.pods[key]
	kind := watch.Added
	if found {
		p.ResourceVersion = old.ResourceVersion
		if same(old, p) {
			return
		}
		kind = watch.Modified
		if old.UID != p.UID {
			b.record(watch.Deleted, old)
			kind = watch.Added
		}
	}
	b.pods[key] = p
	b.record(kind, p)
}

// same compares snapshots. What differs is the status, as a rule, and what a pod was
// made of is shared.
func same(a, b *v1.Pod) bool {
	if !equality.Semantic.DeepEqual(&a.Status, &b.Status) {
		return false
	}
	x, y := *a, *b
	x.Status, y.Status = v1.PodStatus{}, v1.PodStatus{}
	return equality.Semantic.DeepEqual(&x, &y)
}

// Remove takes a pod from the board, if the one shown has the given UID.
func (b *Board) Remove(p *v1.Pod) {
	key := Key{Namespace: p.Namespace, Name: p.Name}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, found := b.pods[key]; found && old.UID == p.UID {
		delete(b.pods, key)
		b.record(watch.Deleted, old)
	}
}

// record appends a change. b.mu is held.
func (b *Board) record(kind watch.EventType, p *v1.Pod) {
	b.version++
	if kind == watch.Deleted {
		gone := *p // whoever has the last snapshot keeps its version
		p = &gone
	}
	p.ResourceVersion = strconv.FormatUint(b.version, 10)
	if len(b.changes) == changesKept {
		b.changes = slices.Clone(b.changes[changesKept/4:])
	}
	b.changes = append(b.changes, Change{Type: kind, Pod: p, Version: b.version})
	close(b.changed)
	b.changed = make(chan struct{})
	if b.gathered != nil {
		b.gather()
	}
}

// gather lets the time run after which those are woken who wait for b.gathered.
// b.mu is held.
func (b *Board) gather() {
	if b.gathering {
		return
	}
	b.gathering = true
	time.AfterFunc(gatherTime, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		close(b.gathered)
		b.gathered, b.gathering = nil, false
	})
}

// Snapshot returns all pods, sorted by namespace and name, and the version
// from which [Board.Changes] goes on.
func (b *Board) Snapshot() ([]*v1.Pod, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pods := slices.Collect(maps.Values(b.pods))
	slices.SortFunc(pods, func(x, y *v1.Pod) int {
		return compareKeys(Key{Namespace: x.Namespace, Name: x.Name}, Key{Namespace: y.Namespace, Name: y.Name})
	})
	return pods, b.version
}

// Version is that of the newest change.
func (b *Board) Version() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.version
}

// Get returns one pod.
func (b *Board) Get(key Key) (*v1.Pod, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, found := b.pods[key]
	return p, found
}

// Changes returns what happened after the given version, in order, and waits
// until there is something. It returns [ErrTooOld] when that is no longer
// known, and ctx's error when ctx ends.
func (b *Board) Changes(ctx context.Context, after uint64) ([]Change, error) {
	for {
		b.mu.Lock()
		version, changes, changed := b.version, b.changes, b.changed
		b.mu.Unlock()
		if after > version || version-after > uint64(len(changes)) {
			return nil, ErrTooOld
		}
		missed := int(version - after)
		if missed > 0 {
			return slices.Clone(changes[len(changes)-missed:]), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Gather is [Board.Changes] for readers who are in no hurry: it returns a moment after
// the first change, with all that has happened by then. A pod that starts changes again
// and again, and needs the processors more than they do.
func (b *Board) Gather(ctx context.Context, after uint64) ([]Change, error) {
	b.mu.Lock()
	if b.gathered == nil {
		b.gathered = make(chan struct{})
	}
	if after != b.version {
		b.gather()
	}
	gathered := b.gathered
	b.mu.Unlock()
	select {
	case <-gathered:
		return b.Changes(ctx, after)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// compareKeys orders by namespace, then by name.
func compareKeys(a, b Key) int {
	if c := cmp.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return cmp.Compare(a.Name, b.Name)
}
