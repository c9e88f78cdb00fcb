package manifest

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/equality"

	"podd/pod"
	"podd/pod/claims"
)

// directory is what was last read of a watched directory or file. It knows
// nothing of inotify; the watcher's goroutine tells it what to look at.
type directory struct {
	path string           // as the user gave it
	only string           // the one file that counts; empty: every manifest
	now  func() time.Time // for what reports show
	open Opener           // of sealed Secrets
	// objects are those of the API, of which files here go before.
	objects *objectFiles
	bind    func(claims.Input) claims.Bound

	files map[string]*file
	// strays are manifests known from before whose files are not in this
	// directory. They count until it was read once.
	strays       []loaded
	straySources []loadedSource
	// identity is the directory that was last read.
	identity inode
	wasRead  bool
	// held says that a manifest was read. An empty directory may be one whose file
	// system is not mounted yet.
	held bool
	// trouble says why the directory cannot be read now.
	trouble string
	// replacedAt is when another directory was found in this one's place, until
	// its content is taken as complete.
	replacedAt time.Time
}

// file is one manifest of the directory.
type file struct {
	seen signature
	// unopened says that a sealed Secret could not be opened: the file is looked
	// at again although it has not changed.
	unopened bool
	problems []Problem
	good     map[pod.Key]loaded
	sources  map[pod.SourceID]loadedSource
	// trouble says why the file cannot be read now.
	trouble string
}

type inode struct{ dev, ino uint64 }

// signature changes whenever a file does.
type signature struct {
	inode
	size         int64
	mtime, ctime unix.Timespec
}

func newDirectory(path string, known []pod.Desired, sources []pod.Source, now func() time.Time) *directory {
	d := &directory{path: path, now: now, files: map[string]*file{}, objects: newObjectFiles("", nil, now)}
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() || err != nil && IsManifest(filepath.Base(path)) {
		d.path, d.only = filepath.Dir(path), filepath.Base(path)
	}
	here, _ := filepath.Abs(d.path)
	for _, k := range known {
		if k.Gone || k.Pod == nil || k.Origin.API {
			continue
		}
		l := loaded{desired: k, kept: true}
		name, inside := d.nameOf(k.Origin, here)
		if !inside {
			d.strays = append(d.strays, l)
			continue
		}
		l.desired.Origin.File = d.shown(name)
		d.file(name).good[k.Key] = l
	}
	for _, s := range sources {
		l := loadedSource{source: s, kept: true}
		name, inside := d.nameOf(s.Origin, here)
		if !inside {
			d.straySources = append(d.straySources, l)
			continue
		}
		l.source.Origin.File = d.shown(name)
		d.file(name).sources[s.ID()] = l
	}
	return d
}

// nameOf is the name that a manifest known from before has in this directory,
// whose path from the root is here.
func (d *directory) nameOf(o pod.Origin, here string) (name string, inside bool) {
	file, err := filepath.Abs(o.File)
	name = filepath.Base(file)
	return name, err == nil && filepath.Dir(file) == here && d.counts(name)
}

func (d *directory) counts(name string) bool {
	if d.only != "" {
		return name == d.only
	}
	return IsManifest(name)
}

func (d *directory) file(name string) *file {
	f := d.files[name]
	if f == nil {
		f = &file{good: map[pod.Key]loaded{}, sources: map[pod.SourceID]loadedSource{}}
		d.files[name] = f
	}
	return f
}

// shown is the path of a file as messages show it.
func (d *directory) shown(name string) string { return filepath.Join(d.path, name) }

// refresh reads one file, or forgets it when it is not there. With ifChanged a
// file that looks the same as last time is not opened.
func (d *directory) refresh(name string, ifChanged bool) {
	path := d.shown(name)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if _, gone := os.Lstat(path); errors.Is(gone, fs.ErrNotExist) {
			// Without its directory a file is not removed, only out of reach.
			if here, ok := identityOf(d.path); ok && here == d.identity {
				d.remove(name)
			}
			return
		}
		f := d.file(name)
		f.seen = signature{}
		f.trouble = "cannot be read: " + err.Error()
		f.keepAll()
		return
	}
	now := signatureOf(&st)
	if f := d.files[name]; f != nil && ifChanged && f.seen == now && !f.unopened {
		return
	}
	data, mode, err := read(path)
	f := d.file(name)
	if err != nil {
		f.seen = signature{}
		f.trouble = err.Error()
		f.keepAll()
		return
	}
	f.seen, f.trouble, d.held = now, "", true
	r := d.open.parse(path, data)
	clear(data) // it may hold a Secret
	f.unopened = r.Unopened
	f.take(r, mode, d.now())
}

// isFresh says that a file looks other than last time and was written less than
// settle ago, so that the write may still be under way.
func (d *directory) isFresh(name string, settle time.Duration) bool {
	var st unix.Stat_t
	if err := unix.Stat(d.shown(name), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	f := d.files[name]
	return (f == nil || f.seen != signatureOf(&st)) && time.Since(time.Unix(st.Mtim.Unix())) < settle
}

func signatureOf(st *unix.Stat_t) signature {
	return signature{inode{uint64(st.Dev), st.Ino}, st.Size, st.Mtim, st.Ctim}
}

// keepAll marks everything of a file as no longer read from it.
func (f *file) keepAll() {
	for key, l := range f.good {
		l.kept = true
		f.good[key] = l
	}
	for id, l := range f.sources {
		l.kept = true
		f.sources[id] = l
	}
	f.problems = nil
}

// take replaces what a file held. Of objects that are still there with
// mistakes the last good version stays; where parts of the file cannot be told
// apart, that holds for every object that is missing.
func (f *file) take(r Result, mode fs.FileMode, now time.Time) {
	next := map[pod.Key]loaded{}
	for _, d := range r.Desired {
		l := loaded{desired: d, at: now}
		if last, known := f.good[d.Key]; known && equality.Semantic.DeepEqual(last.desired.Pod, d.Pod) {
			l.at = last.at
			if last.desired.Origin == d.Origin && slices.Equal(last.desired.Warnings, d.Warnings) {
				l.desired = last.desired
			}
		}
		next[d.Key] = l
	}
	broken := map[pod.Key]bool{}
	for i := range r.Objects {
		o := &r.Objects[i]
		broken[o.Key] = broken[o.Key] || o.broken("Pod")
	}
	for key, last := range f.good {
		if _, fresh := next[key]; !fresh && (broken[key] || r.Unknown > 0) {
			last.kept = true
			next[key] = last
		}
	}
	f.good = next
	f.problems = slices.Concat(r.Problems, f.takeSources(r, now), readableSecret(r, mode))
	inFileOrder(f.problems)
}

// remove forgets a file that is no longer there, unless it is the one watched
// file: then nothing can be read any more, and nothing is stopped.
func (d *directory) remove(name string) {
	if d.only == "" {
		delete(d.files, name)
		return
	}
	f := d.file(name)
	f.seen = signature{}
	f.trouble = "cannot be read: no such file or directory"
	f.keepAll()
}

// quietAfterReplacement is how long a directory that took another's place must
// be quiet before what it lacks counts as removed.
const quietAfterReplacement = time.Second

// rescan reads whatever changed. Files for which skip answers true are left
// as they are. It says whether the directory could be read.
func (d *directory) rescan(skip func(name string) bool) bool {
	var st unix.Stat_t
	err := unix.Stat(d.path, &st)
	var entries []os.DirEntry
	if err == nil && d.only == "" {
		entries, err = os.ReadDir(d.path)
	}
	if err != nil {
		d.trouble = "cannot be read: " + reason(err).Error()
		for _, f := range d.files {
			f.keepAll()
			f.seen = signature{}
		}
		return false
	}
	now := inode{uint64(st.Dev), st.Ino}
	if d.wasRead && d.identity != now {
		d.replacedAt = time.Now()
	}
	d.identity, d.wasRead, d.trouble, d.strays, d.straySources = now, true, "", nil, nil
	present := map[string]bool{}
	if d.only != "" {
		present[d.only] = true
	}
	for _, e := range entries {
		if d.counts(e.Name()) {
			present[e.Name()] = true
		}
	}
	for name := range present {
		if !skip(name) {
			d.refresh(name, true)
		}
	}
	d.settleReplacement(len(present))
	for name, f := range d.files {
		switch {
		case present[name] || skip(name):
		case d.replacedAt.IsZero():
			delete(d.files, name)
		default:
			f.keepAll()
			f.seen = signature{}
		}
	}
	return true
}

// settleReplacement ends the time in which a new directory is being filled. An
// empty one in place of another is more likely a lost mount, or a checkout under
// way, than the wish to stop every pod.
func (d *directory) settleReplacement(manifests int) {
	if d.replacedAt.IsZero() {
		return
	}
	if len(d.files) == 0 || manifests > 0 && time.Since(d.replacedAt) >= quietAfterReplacement {
		d.replacedAt = time.Time{}
		return
	}
	if manifests == 0 {
		d.trouble = "this directory took the place of another and holds no manifest"
	}
}

// set is everything wanted, the objects beside the pods in force, and what is
// wrong, by file.
func (d *directory) set() ([]pod.Desired, []pod.Source, []Report) {
	all := slices.Clone(d.strays)
	allSources := slices.Clone(d.straySources)
	reports := map[string]*Report{}
	report := func(path string, f *file) {
		r := &Report{File: path, Problems: slices.Clone(f.problems)}
		if f.trouble != "" {
			r.Problems = append(r.Problems, Problem{File: r.File, Message: f.trouble})
		}
		reports[r.File] = r
	}
	for name, f := range d.files {
		all = append(all, slices.Collect(maps.Values(f.good))...)
		allSources = append(allSources, slices.Collect(maps.Values(f.sources))...)
		report(d.shown(name), f)
	}
	objects, objectSources := d.objects.wanted()
	all, allSources = append(all, objects...), append(allSources, objectSources...)
	for path, f := range d.objects.files {
		report(path, f)
	}
	set, clashes := combine(all)
	sources, more := combineSources(allSources)
	for _, c := range append(clashes, more...) {
		if r := reports[c.loser.File]; r != nil {
			r.Problems = append(r.Problems, c.problem())
		}
	}
	of := func(path string) *Report {
		if reports[path] == nil {
			reports[path] = &Report{File: path}
		}
		return reports[path]
	}
	for path, trouble := range map[string]string{d.path: d.trouble, d.objects.dir: d.objects.trouble} {
		if trouble != "" {
			r := of(path)
			r.Problems = append(r.Problems, Problem{File: path, Message: trouble})
		}
	}
	kept := func(k Kept, origin pod.Origin) {
		// A file without a problem of its own is missing with its directory.
		r := reports[origin.File]
		if r == nil || len(r.Problems) == 0 {
			r = of(d.path)
		}
		r.Kept = append(r.Kept, k)
	}
	for _, p := range set {
		i := slices.IndexFunc(all, func(l loaded) bool { return l.kept && sameVersion(l.desired, p) })
		if i >= 0 {
			kept(Kept{"Pod", p.Key, all[i].at}, p.Origin)
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(sources), compareSourceIDs) {
		if l := sources[id]; l.kept {
			kept(Kept{id.Kind, id.Key, l.at}, l.source.Origin)
		}
	}
	attachSources(set, sources, d.bound(toBind(set, sources)))
	var out []Report
	for _, r := range reports {
		if len(r.Problems) > 0 {
			inFileOrder(r.Problems)
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b Report) int { return cmp.Compare(a.File, b.File) })
	return set, sourceList(sources), out
}

// bound binds claims.
func (d *directory) bound(in claims.Input) claims.Bound {
	if d.bind == nil {
		return claims.Bound{}
	}
	in.Complete = d.held && d.trouble == "" && d.replacedAt.IsZero() && d.objects.trouble == ""
	in.Removed = func(key claims.Key) bool { return d.objects.removed[pod.SourceID{Kind: pod.KindClaim, Key: key}] }
	return d.bind(in)
}

func sameVersion(a, b pod.Desired) bool {
	return a.Pod == b.Pod && a.Key == b.Key && a.Origin == b.Origin && slices.Equal(a.Warnings, b.Warnings) && a.Sources.Same(b.Sources)
}

func sameSet(a, b []pod.Desired) bool { return slices.EqualFunc(a, b, sameVersion) }

func sameReports(a, b []Report) bool { return reflect.DeepEqual(a, b) }
