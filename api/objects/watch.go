package objects

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Watch is a place in the history of one resource, moved on by [Watch.Next].
// It belongs to one goroutine, and needs no closing.
type Watch struct {
	store     *Store
	ctx       context.Context
	res       schema.GroupResource
	namespace string
	after     uint64 // everything up to this version was handed out
}

// Watch returns what will hand out the changes of a resource after a version,
// in one namespace or in all of them if namespace is "". It ends with ctx. It
// returns [ErrTooOld] when these changes are no longer known.
func (s *Store) Watch(ctx context.Context, res schema.GroupResource, namespace string, after uint64) (*Watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[res]
	if t == nil { // so that there is something to wait for
		t = &table{dropped: s.first, changed: make(chan struct{})}
		s.tables[res] = t
	}
	if !s.remembers(t, after) {
		return nil, ErrTooOld
	}
	return &Watch{store: s, ctx: ctx, res: res, namespace: namespace, after: after}, nil
}

// Next returns the changes since the last call, oldest first, and waits until
// there is one. It returns [ErrTooOld] when the reader was so slow that some
// are no longer known, and the context's error when ctx, or the context of the
// watch, ends. After the end of ctx alone, Next may be called again.
func (w *Watch) Next(ctx context.Context) ([]Event, error) {
	for {
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		events, changed, err := w.take()
		if len(events) > 0 || err != nil {
			return events, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.ctx.Done():
			return nil, w.ctx.Err()
		}
	}
}

// Version returns the version up to which the watch has handed out every
// change: what a bookmark says, and where another watch can go on.
func (w *Watch) Version() uint64 { return w.after }

// take returns what is known now, and what is closed when there is more.
func (w *Watch) take() ([]Event, <-chan struct{}, error) {
	w.store.mu.RLock()
	defer w.store.mu.RUnlock()
	t := w.store.tables[w.res]
	if !w.store.remembers(t, w.after) {
		return nil, nil, ErrTooOld
	}
	from, _ := slices.BinarySearchFunc(t.changes, w.after+1, func(c change, version uint64) int {
		if c.Version < version {
			return -1
		}
		return 1
	})
	w.after = w.store.version
	var events []Event
	for _, c := range t.changes[from:] {
		if w.namespace == "" || c.Object.GetNamespace() == w.namespace {
			events = append(events, c.Event)
		}
	}
	return events, t.changed, nil
}
