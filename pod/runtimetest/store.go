package runtimetest

import (
	"encoding/json"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"podd/pod"
)

// Store is a [pod.Store] in memory. What it keeps has been through JSON, as on
// a disk. The zero value is ready to use.
type Store struct {
	mu     sync.Mutex
	notes  map[types.UID][]byte
	saved  map[types.UID][]byte
	frozen bool
}

// Freeze makes the store ignore all writes, as if its agent had been killed,
// and returns a new one that holds what was written so far. After a reboot only
// what was saved is left.
func (s *Store) Freeze(reboot bool) *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
	next := &Store{notes: map[types.UID][]byte{}, saved: map[types.UID][]byte{}}
	for uid, data := range s.saved {
		next.saved[uid] = data
		if !reboot {
			next.notes[uid] = data
		}
	}
	if !reboot {
		for uid, data := range s.notes {
			next.notes[uid] = data
		}
	}
	return next
}

// Save implements [pod.Store].
func (s *Store) Save(r pod.Record) error { return s.put(&s.saved, r) }

// Note implements [pod.Store].
func (s *Store) Note(r pod.Record) error { return s.put(&s.notes, r) }

func (s *Store) put(where *map[types.UID][]byte, r pod.Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen {
		return nil
	}
	if *where == nil {
		*where = map[types.UID][]byte{}
	}
	(*where)[r.UID] = data
	return nil
}

// List implements [pod.Store].
func (s *Store) List() ([]pod.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	uids := map[types.UID]bool{}
	for uid := range s.notes {
		uids[uid] = true
	}
	for uid := range s.saved {
		uids[uid] = true
	}
	var records []pod.Record
	for uid := range uids {
		data, noted := s.notes[uid]
		if !noted {
			data = s.saved[uid]
		}
		var r pod.Record
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, err
		}
		r.Rebooted = !noted
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b pod.Record) int { return a.Observed.Since.Compare(b.Observed.Since) })
	return records, nil
}

// Delete implements [pod.Store].
func (s *Store) Delete(uid types.UID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.frozen {
		delete(s.notes, uid)
		delete(s.saved, uid)
	}
	return nil
}
