package declared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/objects"
	"podd/internal/atomicfile"
)

// Events are kept in one file, so that after a restart of the agent it can still be
// told why a pod failed before: the newest ones, of at most so many bytes.
const (
	keptEventsBytes = 1 << 20
	// keptEventsEvery is how long after an event the file is written: all that happens
	// until then is written with it.
	keptEventsEvery = 5 * time.Second
)

// eventsFile is what is written.
type eventsFile struct {
	Version int               `json:"version"`
	Events  []json.RawMessage `json:"events"` // the newest first
}

const eventsVersion = 1

// keepEvents writes the file after events have happened, and at the end. It is started
// by Run, ends with ctx, and owns the file.
func (k *Keeper) keepEvents(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-k.mirror.happened:
			select {
			case <-time.After(keptEventsEvery):
			case <-ctx.Done():
			}
		case <-ctx.Done():
			select {
			case <-k.mirror.happened:
			default:
				return
			}
		}
		select { // what happened meanwhile is written too
		case <-k.mirror.happened:
		default:
		}
		if err := k.writeEvents(time.Now()); err != nil {
			k.Logger.Error(err, "a restart of the agent would not find the newest events")
		}
	}
}

// tellEvents says that events changed.
func (m *mirror) tellEvents() {
	select {
	case m.happened <- struct{}{}:
	default:
	}
}

// writeEvents writes the file: what lasts no longer is left out.
func (k *Keeper) writeEvents(now time.Time) error {
	stored, _ := k.Store.List(eventResource, "")
	var events []*v1.Event
	for _, o := range stored {
		if e, is := o.(*v1.Event); is && now.Sub(happened(e)) < eventsLast {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b *v1.Event) int { return happened(b).Compare(happened(a)) })
	file, bytes := eventsFile{Version: eventsVersion}, 0
	for _, e := range events[:min(len(events), eventsMost)] {
		text, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("cannot write event %s: %w", nameOf(e), err)
		}
		if bytes += len(text) + 1; bytes > keptEventsBytes {
			break
		}
		file.Events = append(file.Events, text)
	}
	text, err := json.Marshal(file)
	if err != nil {
		return err
	}
	return atomicfile.WriteInMemory(k.EventsFile, text, 0o600)
}

// loadEvents brings what was kept into the store, but for what is over its time.
func (k *Keeper) loadEvents(now time.Time) error {
	f, err := os.Open(k.EventsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 2*keptEventsBytes))
	if err != nil {
		return err
	}
	var file eventsFile
	if err := json.Unmarshal(text, &file); err != nil {
		return fmt.Errorf("%s: %w", k.EventsFile, err)
	}
	if file.Version != eventsVersion {
		return fmt.Errorf("%s: expected version %d; found %d", k.EventsFile, eventsVersion, file.Version)
	}
	for _, text := range file.Events {
		e := &v1.Event{}
		if err := json.Unmarshal(text, e); err != nil {
			return fmt.Errorf("%s: %w", k.EventsFile, err)
		}
		if e.Name == "" || e.Namespace == "" || now.Sub(happened(e)) >= eventsLast {
			continue
		}
		e.TypeMeta = metav1.TypeMeta{}
		k.update(objects.Key{Resource: eventResource, Namespace: e.Namespace, Name: e.Name}, func(old objects.Object) (objects.Object, error) {
			if old != nil {
				return old, nil
			}
			return e, nil
		})
	}
	return nil
}
