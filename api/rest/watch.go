package rest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"

	"podd/api/objects"
)

const (
	// A watch without timeoutSeconds ends by itself after this, and up to as
	// much again, so that not all come back at once.
	watchTimeout = 30 * time.Minute
	// How often a quiet watch that wants bookmarks gets one, if there is
	// anything to tell.
	bookmarkEvery = time.Minute
)

// watchOptions is how a watch begins and ends.
type watchOptions struct {
	after     uint64
	initial   bool // the present objects come first, as ADDED
	announced bool // and after them a bookmark that says so
	bookmarks bool
	timeout   time.Duration
}

// watchOptions reads the arguments of a watch. Without a resource version, and
// with "0", a watch begins with what there is.
func (c *call) watchOptions() (o watchOptions, err error) {
	asked, match := c.args.Get("resourceVersion"), c.args.Get("resourceVersionMatch")
	if o.after, err = c.version(asked); err != nil {
		return o, err
	}
	o.initial = o.after == 0
	if _, given := c.args["sendInitialEvents"]; given {
		at := field.NewPath("resourceVersionMatch")
		switch match {
		case string(metav1.ResourceVersionMatchNotOlderThan):
		case "":
			return o, c.invalidListOptions(field.Forbidden(at, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"))
		default:
			return o, c.invalidListOptions(field.NotSupported(at, match, []metav1.ResourceVersionMatch{metav1.ResourceVersionMatchNotOlderThan}))
		}
		o.initial = boolArg(c.args, "sendInitialEvents")
		o.announced = o.initial
	} else if match != "" {
		return o, c.invalidListOptions(field.Forbidden(field.NewPath("resourceVersionMatch"), "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"))
	}
	o.bookmarks = boolArg(c.args, "allowWatchBookmarks")
	seconds, err := c.number("timeoutSeconds")
	if err != nil {
		return o, err
	}
	o.timeout = watchTimeout + rand.N(watchTimeout)
	if seconds > 0 {
		o.timeout = min(time.Duration(min(seconds, 1<<20))*time.Second, 2*watchTimeout)
	}
	return o, nil
}

// watch sends what happens to a collection, until the client goes, does not
// read, or its time is over.
func (c *call) watch() error {
	sel, err := c.selector()
	if err != nil {
		return err
	}
	options, err := c.watchOptions()
	if err != nil {
		return err
	}
	if c.form.media == mediaYAML {
		c.form.media = mediaJSON
		return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
			"only the following media types are accepted: "+mediaJSON+";stream=watch, "+mediaProtobuf+";stream=watch")
	}
	if _, err := c.table(nil, listMeta{}, false); err != nil {
		return err
	}
	leave, err := c.s.enterWatch(c.s.Client(c.r))
	if err != nil {
		return err
	}
	defer leave()

	ctx, cancel := context.WithTimeout(c.ctx, options.timeout)
	defer cancel()
	out := &watchStream{c: c}
	var present []objects.Object
	if options.initial {
		var now uint64
		if present, now = c.s.Store.List(c.kind.stored(), c.Namespace); options.after > now {
			return tooLarge(options.after, now)
		}
		options.after = now
	} else if options.after == 0 {
		options.after = c.s.Store.Version()
	}
	changes, err := c.s.Store.Watch(ctx, c.kind.stored(), c.Namespace, options.after)
	out.begin()
	if err != nil {
		return out.expired(options.after, c.s.Store.Version())
	}
	for _, o := range present {
		if o = c.kind.shape(o); sel.matches(o) {
			if err := out.send(watch.Added, o); err != nil {
				return nil // the client is gone
			}
		}
	}
	present = nil
	if options.announced {
		if err := out.bookmark(options.after, true); err != nil {
			return nil
		}
	}
	return c.follow(ctx, changes, sel, options, out)
}

// follow sends changes as they come. What it returns is of no use to the
// client: its answer has begun.
func (c *call) follow(ctx context.Context, changes *objects.Watch, sel selector, options watchOptions, out *watchStream) error {
	told := options.after
	for {
		if err := out.flush(); err != nil {
			return nil
		}
		soon, cancel := context.WithTimeout(ctx, bookmarkEvery)
		events, err := changes.Next(soon)
		cancel()
		switch {
		case errors.Is(err, objects.ErrTooOld):
			return out.expired(changes.Version(), c.s.Store.Version())
		case err != nil:
			// Before the end, a bookmark spares the next watch what this one has seen.
			if c.ctx.Err() == nil && options.bookmarks && changes.Version() > told {
				told = changes.Version()
				err = out.bookmark(told, false)
			} else {
				err = nil
			}
			if ctx.Err() != nil || err != nil {
				_ = out.flush()
				return nil
			}
			continue
		}
		for _, e := range events {
			if err := out.event(e, sel); err != nil {
				return nil
			}
			told = e.Version
		}
	}
}

// enterWatch counts a watch of a client, or refuses it.
func (s *Server) enterWatch(client string) (leave func(), err error) {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	if s.watches[""] >= s.MaxWatches || s.watches[client] >= s.MaxWatchesPerClient {
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("too many watches at the same time: at most %d, %d for each client", s.MaxWatches, s.MaxWatchesPerClient), 10)
	}
	s.watches[""]++
	s.watches[client]++
	return func() {
		s.watchMu.Lock()
		defer s.watchMu.Unlock()
		s.watches[""]--
		if s.watches[client]--; s.watches[client] == 0 {
			delete(s.watches, client)
		}
	}, nil
}

// watchStream writes the frames of a watch.
type watchStream struct {
	c       *call
	columns bool // of a Table were sent
	frame   bytes.Buffer
}

// begin sends the header.
func (s *watchStream) begin() {
	media := s.c.form.media
	if media == mediaProtobuf {
		media += ";stream=watch"
	}
	s.c.w.Header().Set("Content-Type", media)
	s.c.w.Header().Set("Cache-Control", "no-cache, private")
	s.c.w.WriteHeader(http.StatusOK)
	s.c.begun = true
}

// flush sends what was written. From then on the watch may be idle for as long as
// nothing happens: HTTP/2 ends a stream at its deadline whether it is written to or not.
func (s *watchStream) flush() error {
	control := http.NewResponseController(s.c.w)
	_ = control.SetWriteDeadline(time.Now().Add(writeWait))
	err := control.Flush()
	_ = control.SetWriteDeadline(time.Time{})
	return err
}

// event sends what a change means to a client that sees only what its selector
// matches. Whoever leaves is DELETED, with the last state the client could see
// and the version of the change.
func (s *watchStream) event(e objects.Event, sel selector) error {
	k := s.c.kind
	o := k.shape(e.Object)
	switch e.Type {
	case watch.Added:
		if sel.matches(o) {
			return s.send(watch.Added, o)
		}
	case watch.Deleted:
		if sel.matches(o) {
			return s.send(watch.Deleted, o)
		}
	default:
		old := k.shape(e.Old)
		before, now := sel.matches(old), sel.matches(o)
		switch {
		case now && before:
			return s.send(watch.Modified, o)
		case now:
			return s.send(watch.Added, o)
		case before:
			gone := objects.Shallow(old)
			gone.SetResourceVersion(strconv.FormatUint(e.Version, 10))
			return s.send(watch.Deleted, gone)
		}
	}
	return nil
}

// bookmark sends that everything up to a version was sent; ended: and that the
// objects of the beginning are complete.
func (s *watchStream) bookmark(version uint64, ended bool) error {
	o := s.c.kind.New()
	o.SetResourceVersion(strconv.FormatUint(version, 10))
	if ended {
		o.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return s.send(watch.Bookmark, o)
}

// expired ends the stream with an error: the client lists again.
func (s *watchStream) expired(after, now uint64) error {
	status := s.c.status(apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", after, now)))
	if err := s.write(watch.Error, status); err == nil {
		_ = s.flush()
	}
	return nil
}

// send writes one event in the form that was asked for.
func (s *watchStream) send(event watch.EventType, o objects.Object) error {
	switch s.c.form.as {
	case "Table":
		table, err := s.c.table([]objects.Object{o}, listMeta{}, !s.columns)
		if err != nil {
			return err
		}
		s.columns = true
		table.ResourceVersion = o.GetResourceVersion()
		return s.write(event, table)
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return s.write(event, partial(o, s.c.form.version))
	}
	if s.c.plain() && event != watch.Bookmark {
		text, err := s.c.s.texts.of(s.c.kind, o)
		if err != nil {
			return err
		}
		return s.line(event, text)
	}
	return s.write(event, withKind(o, s.c.kind.GroupVersionKind()))
}

// line writes one event as a line of JSON.
func (s *watchStream) line(event watch.EventType, object []byte) error {
	s.frame.Reset()
	s.frame.WriteString(`{"type":"` + string(event) + `","object":`)
	s.frame.Write(object)
	s.frame.WriteString("}\n")
	return s.out()
}

// write writes one frame: a line of JSON, or a protobuf message after its
// length in four bytes.
func (s *watchStream) write(event watch.EventType, o runtime.Object) error {
	if s.c.form.media == mediaProtobuf {
		s.frame.Reset()
		raw, err := protobufOf(o)
		if err != nil {
			return err
		}
		message, err := (&metav1.WatchEvent{Type: string(event), Object: runtime.RawExtension{Raw: raw}}).Marshal()
		if err != nil {
			return err
		}
		s.frame.Write(binary.BigEndian.AppendUint32(nil, uint32(len(message))))
		s.frame.Write(message)
		return s.out()
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return s.line(event, text)
}

// out sends the frame.
func (s *watchStream) out() error {
	_, err := deadlineWriter{s.c.w}.Write(s.frame.Bytes())
	if s.frame.Cap() > gzipFrom {
		s.frame = bytes.Buffer{} // one big object must not stay for the life of the watch
	}
	return err
}
