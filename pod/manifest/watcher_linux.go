package manifest

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"

	"podd/pod"
	"podd/pod/claims"
)

// Config says what a [Watcher] watches.
type Config struct {
	// Dir is a directory, or a single file. Sub-directories are not read.
	Dir string
	// Loaded are the last good manifests known from before, with their
	// origins. They stand in for what cannot be read at the start.
	Loaded []pod.Desired
	// LoadedSources are the same for the objects beside the pods.
	LoadedSources []pod.Source
	// Keep receives the objects beside the pods that are in force and that files
	// declare, sorted by kind, namespace and name, whenever they change. It is called
	// from Run's goroutine and must return at once. Nil: nobody wants to know.
	Keep func([]pod.Source)
	// Objects is the directory in which the API keeps its objects; empty: there is
	// no API. It is read at the start; see [Watcher.Declare] for later.
	Objects string
	// Open opens the values of sealed Secrets. What it cannot open is tried again
	// at each rescan. Nil leaves them sealed.
	Open Opener
	// Bind binds the claims in force to volumes, given both, which claims pods name,
	// and whether that is all. It is called from Run's goroutine, often without a
	// change. Nil: no claim is bound.
	Bind func(claims.Input) claims.Bound
	// Rescan is how often everything is looked at again; zero means 20 s.
	Rescan time.Duration
	// Settle is how long a file that is open for writing must be quiet before
	// it is read without having been closed; zero means 2 s.
	Settle time.Duration
	// Logger receives one line for each file whose problems change.
	Logger logr.Logger
	// Now is the clock of [Report]; nil means time.Now.
	Now func() time.Time
}

const (
	defaultRescan = 20 * time.Second
	defaultSettle = 2 * time.Second
	// removalPause is how long a file must be missing before its pods are. Git
	// and some editors remove a file and write it anew at once.
	removalPause = 5 * time.Millisecond
	// backupPause is the same after a file was renamed to a name that does not
	// count: editors do so with the old version before they write the new one.
	backupPause = 250 * time.Millisecond
	// missingPause is how often a missing directory is looked for.
	missingPause = time.Second
)

// Watcher keeps the wanted set of pods in step with a directory, each pod with
// the ConfigMaps, Secrets and claims that it names. A change of a file takes
// effect when its write has settled: at once when it was renamed into place or
// closed. Where a file is a link, a change of what it points to outside the
// directory is seen at the next rescan.
type Watcher struct {
	config  Config
	changed chan struct{}
	asked   chan chan struct{} // by Rescan; closed when it is done
	handed  chan handed        // by Declare and Withdraw

	// removalPause and backupPause, but in tests on busy machines.
	removal, backup time.Duration

	// Owned by Run's goroutine.
	dir      *directory
	inotify  *inotify
	writing  map[string]time.Time // open for writing; the last write seen
	removals map[string]time.Time // missing; when that counts
	moved    event                // the last name that moved away to where was not known yet
	rescanAt time.Time
	blind    bool // the kernel refused the watch, and that was said

	mu      sync.Mutex
	reports []Report
}

// New prepares a watcher; nothing is read before Run.
func New(c Config) *Watcher {
	c.Rescan = cmp.Or(c.Rescan, defaultRescan)
	c.Settle = cmp.Or(c.Settle, defaultSettle)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Watcher{config: c, changed: make(chan struct{}, 1), asked: make(chan chan struct{}), handed: make(chan handed), removal: removalPause, backup: backupPause,
		writing: map[string]time.Time{}, removals: map[string]time.Time{}}
}

// Run emits the whole wanted set, sorted by namespace and name, whenever it
// changes. A receiver that is slow gets the newest set only. The first set,
// which may be empty, comes as soon as the directory was read; where it cannot
// be read, Config.Loaded is the first set, if it is not empty. Run returns nil
// when ctx ends, and an error when the kernel gives no inotify instance. It is
// called once.
func (w *Watcher) Run(ctx context.Context, out chan<- []pod.Desired) error {
	in, err := newInotify()
	if err != nil {
		return err
	}
	defer in.close()
	w.inotify = in
	w.dir = newDirectory(w.config.Dir, w.config.Loaded, w.config.LoadedSources, w.config.Now)
	w.dir.objects = newObjectFiles(w.config.Objects, w.config.Loaded, w.config.Now)
	w.dir.open = w.config.Open
	w.dir.bind = w.config.Bind
	w.rescan()

	var last []pod.Desired
	var pending []pod.Desired
	kept := w.config.LoadedSources
	sent, waiting := false, false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		set, sources, reports := w.dir.set()
		w.publish(reports)
		if declared := fromFiles(sources); w.config.Keep != nil && w.dir.wasRead && !sameSourceList(declared, kept) {
			w.config.Keep(declared)
			kept = declared
		}
		switch {
		case !w.dir.wasRead && len(set) == 0:
			waiting = false
		case sent && sameSet(set, last):
			waiting = false // also when a change was taken back before it was sent
		default:
			pending, waiting = set, true
		}
		var to chan<- []pod.Desired
		if waiting {
			to = out
		}
		timer.Reset(time.Until(w.wakeAt()))
		select {
		case <-ctx.Done():
			return nil
		case to <- pending:
			last, sent, waiting = pending, true, false
		case events, ok := <-in.events:
			if !ok {
				// The kernel took the instance away; look from time to time.
				in.events = nil
				w.rescanAt = time.Now()
				break
			}
			w.handle(in.sort(events))
		case <-timer.C:
		case h := <-w.handed:
			w.dir.objects.take(h)
			close(h.done)
		case done := <-w.asked:
			w.rescan()
			close(done)
		}
		w.due()
	}
}

// Rescan looks at everything now instead of when its time has come, and returns
// when that is done. What it found goes the way of every change. It needs Run,
// and returns ctx's error when ctx ends first.
func (w *Watcher) Rescan(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case w.asked <- done:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wakeAt is when something is due without an event.
func (w *Watcher) wakeAt() time.Time {
	at := w.rescanAt
	for _, t := range w.removals {
		at = earlier(at, t)
	}
	for _, t := range w.writing {
		at = earlier(at, t.Add(w.config.Settle))
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// due does what its time has come for.
func (w *Watcher) due() {
	now := time.Now()
	for name, at := range w.removals {
		if !now.Before(at) {
			delete(w.removals, name)
			w.dir.refresh(name, false)
		}
	}
	for name, at := range w.writing {
		if !now.Before(at.Add(w.config.Settle)) {
			w.read(name)
		}
	}
	if !now.Before(w.rescanAt) {
		w.rescan()
	}
}

// rescan looks at everything again.
func (w *Watcher) rescan() {
	// Watch before reading: what changes in between is read twice, not lost.
	if !w.inotify.watches(w.dir.path) {
		err := w.inotify.watch(w.dir.path)
		if err != nil && !w.blind {
			w.config.Logger.Error(err, "cannot watch directory, looking at it from time to time (see fs.inotify.max_user_watches)",
				"dir", w.dir.path, "every", w.config.Rescan)
		}
		w.blind = err != nil
	}
	again := w.dir.wasRead
	readable := w.dir.rescan(func(name string) bool {
		_, writing := w.writing[name]
		_, removal := w.removals[name]
		if !writing && !removal && again && w.dir.isFresh(name, w.config.Settle) {
			// Its events may be on their way; without any it is read when quiet.
			w.writing[name] = time.Now()
			writing = true
		}
		return writing || removal
	})
	w.rescanAt = time.Now().Add(w.config.Rescan)
	if !readable {
		clear(w.writing)
		clear(w.removals)
		w.rescanAt = time.Now().Add(min(w.config.Rescan, missingPause))
	} else if !w.dir.replacedAt.IsZero() && w.dir.trouble == "" {
		w.rescanAt = time.Now().Add(min(w.config.Rescan, quietAfterReplacement))
	}
}

// read reads a file whose write has settled.
func (w *Watcher) read(name string) {
	delete(w.writing, name)
	delete(w.removals, name)
	w.dir.refresh(name, false)
}

// handle takes in what the kernel reported at once.
func (w *Watcher) handle(events []event) {
	rescan, links := false, false
	for i, e := range events {
		switch {
		case e.lost:
			rescan = true
		case e.parent:
			rescan = rescan || e.name == filepath.Base(filepath.Clean(w.dir.path))
		case e.name == "":
			if e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT|unix.IN_IGNORED) != 0 {
				w.inotify.forget()
				rescan = true
			}
		case w.dir.counts(e.name):
			w.named(e, events[i+1:])
			if !w.dir.replacedAt.IsZero() {
				w.dir.replacedAt = time.Now()
				w.rescanAt = earlier(w.rescanAt, time.Now().Add(quietAfterReplacement))
				rescan = rescan || e.mask&unix.IN_MODIFY == 0
			}
		case e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE) != 0:
			// Something that links may lead through, such as ..data.
			links = true
		}
	}
	switch {
	case rescan:
		w.rescan()
	case links:
		for name := range w.dir.files {
			if _, writing := w.writing[name]; !writing && w.removals[name].IsZero() && isLink(w.dir.shown(name)) {
				w.dir.refresh(name, true)
			}
		}
	}
}

// named handles an event about a manifest. later are the events after it.
func (w *Watcher) named(e event, later []event) {
	switch {
	case e.mask&(unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE) != 0:
		w.read(e.name)
		if _, missing := w.removals[w.moved.name]; missing && e.cookie != 0 && e.cookie == w.moved.cookie {
			w.removals[w.moved.name] = time.Now() // as below, of a rename that came in two
		}
	case e.mask&unix.IN_CREATE != 0:
		// A link has its content already; a new file will be written.
		delete(w.removals, e.name)
		if hasContent(w.dir.shown(e.name)) {
			w.read(e.name)
		} else {
			w.writing[e.name] = time.Now()
		}
	case e.mask&unix.IN_MODIFY != 0:
		w.writing[e.name] = time.Now()
	case e.mask&unix.IN_ATTRIB != 0:
		if _, writing := w.writing[e.name]; !writing && w.removals[e.name].IsZero() {
			w.dir.refresh(e.name, true)
		}
	case e.mask&unix.IN_DELETE != 0:
		delete(w.writing, e.name)
		w.removals[e.name] = time.Now().Add(w.removal)
	case e.mask&unix.IN_MOVED_FROM != 0:
		delete(w.writing, e.name)
		pause := w.backup
		to := slices.IndexFunc(later, func(l event) bool { return l.cookie == e.cookie && l.mask&unix.IN_MOVED_TO != 0 })
		if to >= 0 && w.dir.counts(later[to].name) {
			pause = 0 // renamed: both names are looked at before the set goes out
		} else if to < 0 {
			// It left the directory, or the other half of the rename is on its way:
			// on a busy machine the two are not read at once. Source: inotify(7).
			w.moved = e
		}
		w.removals[e.name] = time.Now().Add(pause)
	}
}

// hasContent says that a new directory entry is not a file about to be written.
func hasContent(path string) bool {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return false
	}
	return st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1
}

func isLink(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// publish makes reports visible, and says so when they changed.
func (w *Watcher) publish(reports []Report) {
	w.mu.Lock()
	before := w.reports
	w.reports = reports
	w.mu.Unlock()
	if sameReports(before, reports) {
		return
	}
	last := map[string]Report{}
	for _, r := range before {
		last[r.File] = r
	}
	for _, r := range reports {
		if old, known := last[r.File]; !known || !sameReports([]Report{old}, []Report{r}) {
			lines := make([]string, len(r.Problems))
			for i, p := range r.Problems {
				lines[i] = p.String()
			}
			message := "manifest has warnings"
			if r.Refused() {
				message = "manifest refused"
			}
			w.config.Logger.Info(message, "file", r.File, "summary", r.Summary(), "problems", strings.Join(lines, "\n"))
		}
		delete(last, r.File)
	}
	for name := range last {
		w.config.Logger.Info("manifest has no problems any more", "file", name)
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Problems reports what is wrong now, sorted by file. It may be called from
// any goroutine; the result is not changed later.
func (w *Watcher) Problems() []Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reports
}

// Refused counts the files, the directory included, of which something is
// refused or cannot be read.
func (w *Watcher) Refused() int {
	n := 0
	for _, r := range w.Problems() {
		if r.Refused() {
			n++
		}
	}
	return n
}

// Changed receives a value after what Problems returns has changed; values
// that nobody read are merged.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }
