package rest

import (
	"encoding/json"
	"sync"

	"podd/api/objects"
)

const (
	textsMost = 32      // are kept
	textMost  = 8 << 10 // bytes of one
)

// texts keeps the JSON of the objects that were sent last: who asks for a pod again
// and again, and everybody who watches it, is sent the same. An object in the store
// never changes, so its text stays good. The zero value is empty.
type texts struct {
	mu   sync.Mutex
	made map[objects.Object][]byte // guarded by mu
	ring [textsMost]objects.Object // those of made, the oldest at next; guarded by mu
	next int                       // guarded by mu
}

// of returns an object as JSON, with its kind. It is shared: nobody changes it.
func (t *texts) of(k *Kind, o objects.Object) ([]byte, error) {
	t.mu.Lock()
	text, known := t.made[o]
	t.mu.Unlock()
	if known {
		return text, nil
	}
	text, err := json.Marshal(withKind(o, k.GroupVersionKind()))
	// Objects of a view or a source are made for each request, and Secrets are kept
	// nowhere but in the store.
	if err != nil || k.View != nil || k.Source != nil || k.Plural == "secrets" || len(text) > textMost {
		return text, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.made[o]; known {
		return text, nil // somebody was faster
	}
	if t.made == nil {
		t.made = map[objects.Object][]byte{}
	}
	delete(t.made, t.ring[t.next])
	t.made[o], t.ring[t.next] = text, o
	t.next = (t.next + 1) % textsMost
	return text, nil
}
