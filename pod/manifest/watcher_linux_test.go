package manifest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"

	"podd/pod"
)

// long is how long a test waits for what must happen, however loaded the
// machine; quiet is how long it watches that something does not happen.
const (
	long  = 20 * time.Second
	quiet = 150 * time.Millisecond
)

// watched is a watcher on a directory of its own.
type watched struct {
	*testing.T
	dir string
	w   *Watcher
	out chan []pod.Desired
	// last is the last set received.
	last []pod.Desired
}

func watch(t *testing.T, dir string, change ...func(*Config)) *watched {
	t.Helper()
	return watchWith(t, dir, func(*Watcher) {}, change...)
}

// patient allows an editor that is not scheduled for a while to go on.
func patient(w *Watcher) { w.removal, w.backup = 2*time.Second, 2*time.Second }

func watchWith(t *testing.T, dir string, prepare func(*Watcher), change ...func(*Config)) *watched {
	t.Helper()
	c := Config{Dir: dir, Logger: logr.Discard(), Settle: 400 * time.Millisecond}
	for _, f := range change {
		f(&c)
	}
	w := New(c)
	prepare(w)
	ctx, cancel := context.WithCancel(context.Background())
	out, done := make(chan []pod.Desired), make(chan error, 1)
	go func() { done <- w.Run(ctx, out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &watched{T: t, dir: dir, w: w, out: out}
}

// newDir makes a directory inside the test's, so that it may be replaced.
func newDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "manifests")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// names prints a set as name=image, sorted by name.
func names(set []pod.Desired) string {
	var s []string
	for _, d := range set {
		s = append(s, d.Key.Name+"="+d.Pod.Spec.Containers[0].Image)
	}
	return strings.Join(s, " ")
}

// wants waits for the next set, which must be this one.
func (w *watched) wants(want string) {
	w.Helper()
	select {
	case set := <-w.out:
		w.last = set
		if got := names(set); got != want {
			w.Fatalf("set is %q, want %q", got, want)
		}
	case <-time.After(long):
		w.Fatalf("no set; want %q; problems %v", want, w.w.Problems())
	}
}

// reaches waits until the set is this one, whatever comes before.
func (w *watched) reaches(want string) {
	w.Helper()
	deadline := time.After(long)
	for names(w.last) != want {
		select {
		case w.last = <-w.out:
		case <-deadline:
			w.Fatalf("set is %q, want %q", names(w.last), want)
		}
	}
}

// staysQuiet asserts that no set comes.
func (w *watched) staysQuiet() {
	w.Helper()
	select {
	case set := <-w.out:
		w.Fatalf("unexpected set %q", names(set))
	case <-time.After(quiet):
	}
}

// reports waits until a summary with this text is among the problems.
func (w *watched) reports(text string) Report {
	w.Helper()
	deadline := time.After(long)
	for {
		for _, r := range w.w.Problems() {
			all := r.Summary()
			for _, p := range r.Problems {
				all += "\n" + p.String()
			}
			if strings.Contains(all, text) {
				return r
			}
		}
		select {
		case <-w.w.Changed():
		case <-deadline:
			w.Fatalf("no problem with %q in %v", text, w.w.Problems())
		}
	}
}

// isClean waits until there are no problems.
func (w *watched) isClean() {
	w.Helper()
	deadline := time.After(long)
	for len(w.w.Problems()) > 0 {
		select {
		case <-w.w.Changed():
		case <-deadline:
			w.Fatalf("problems remain: %v", w.w.Problems())
		}
	}
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rename puts a file in place at once, as careful programs do.
func (w *watched) rename(name, content string) {
	w.Helper()
	temporary := filepath.Join(filepath.Dir(w.dir), "temporary")
	must(w.T, os.WriteFile(temporary, []byte(content), 0o644))
	must(w.T, os.Rename(temporary, w.path(name)))
}

func (w *watched) write(name, content string) {
	w.Helper()
	must(w.T, os.WriteFile(w.path(name), []byte(content), 0o644))
}

func manifest(name, image string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  containers:\n  - name: app\n    image: %s\n", name, image)
}

func TestRenamedFileIsTakenAtOnce(t *testing.T) {
	// Neither the rescan nor the settling of a write may be what finds it.
	w := watch(t, newDir(t), func(c *Config) { c.Rescan, c.Settle = time.Hour, time.Hour })
	w.wants("")
	var took []time.Duration
	for i := range 20 {
		start := time.Now()
		w.rename("web.yaml", manifest("web", fmt.Sprintf("busybox:%d", i)))
		w.wants(fmt.Sprintf("web=busybox:%d", i))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("rename → set: median %v, worst %v", took[len(took)/2], took[len(took)-1])
}

func TestClosedFileIsTakenAtOnce(t *testing.T) {
	w := watch(t, newDir(t), func(c *Config) { c.Rescan, c.Settle = time.Hour, time.Hour })
	w.wants("")
	w.write("web.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"a","image":"b"}]}}`)
	w.wants("web=b")
}

func TestFileOpenForWritingWaitsForItsClose(t *testing.T) {
	w := watch(t, newDir(t), func(c *Config) { c.Rescan, c.Settle = 50*time.Millisecond, time.Hour })
	w.wants("")
	f, err := os.Create(w.path("two.yaml"))
	must(t, err)
	_, err = f.WriteString(manifest("one", "a"))
	must(t, err)
	w.staysQuiet() // a whole pod is there, and so it would be loaded too early
	_, err = f.WriteString("---\n" + manifest("two", "b"))
	must(t, err)
	w.staysQuiet()
	must(t, f.Close())
	w.wants("one=a two=b")
}

func TestFileNeverClosedIsTakenWhenQuiet(t *testing.T) {
	w := watch(t, newDir(t), func(c *Config) { c.Rescan = time.Hour })
	w.wants("")
	f, err := os.Create(w.path("web.yaml"))
	must(t, err)
	defer f.Close()
	_, err = f.WriteString(manifest("web", "a"))
	must(t, err)
	w.wants("web=a")
}

func TestOnlyManifestsCount(t *testing.T) {
	dir := newDir(t)
	for _, name := range []string{"web.yaml~", ".web.yaml", "web.yaml.bak", "4913", ".web.yaml.swp", "web.txt", "#web.yaml#"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(manifest("unwanted", "a")), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "sub", "web.yaml"), []byte(manifest("unwanted", "a")), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "web.yml"), []byte(manifest("wanted", "a")), 0o644))
	w := watch(t, dir)
	w.wants("wanted=a")
	w.write("other.yaml.bak", manifest("unwanted", "a"))
	w.staysQuiet()
}

func TestEditors(t *testing.T) {
	for name, save := range map[string]func(w *watched, text string){
		// The old version is renamed away, a new file is written, the old one removed.
		"vim": func(w *watched, text string) {
			w.write("4913", "")
			must(w.T, os.Remove(w.path("4913")))
			must(w.T, os.Rename(w.path("web.yaml"), w.path("web.yaml~")))
			time.Sleep(20 * time.Millisecond)
			w.write("web.yaml", text)
			must(w.T, os.Remove(w.path("web.yaml~")))
		},
		"emacs": func(w *watched, text string) {
			must(w.T, os.Symlink("user@host.1:1", w.path(".#web.yaml")))
			w.write("#web.yaml#", text)
			must(w.T, os.Rename(w.path("web.yaml"), w.path("web.yaml~")))
			w.write("web.yaml", text)
			must(w.T, os.Remove(w.path(".#web.yaml")))
			must(w.T, os.Remove(w.path("#web.yaml#")))
		},
		"nano": func(w *watched, text string) { w.write("web.yaml", text) },
		"sed -i": func(w *watched, text string) {
			w.write("sedAb12cd", text)
			must(w.T, os.Rename(w.path("sedAb12cd"), w.path("web.yaml")))
		},
		"git": func(w *watched, text string) {
			must(w.T, os.Remove(w.path("web.yaml")))
			w.write("web.yaml", text)
		},
		"slow": func(w *watched, text string) {
			f, err := os.OpenFile(w.path("web.yaml"), os.O_WRONLY|os.O_TRUNC, 0)
			must(w.T, err)
			for line := range strings.Lines(text) {
				_, err := f.WriteString(line)
				must(w.T, err)
				time.Sleep(5 * time.Millisecond)
			}
			must(w.T, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			must(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest("web", "a")), 0o644))
			w := watchWith(t, dir, patient, func(c *Config) { c.Rescan, c.Settle = time.Hour, time.Hour })
			w.wants("web=a")
			for _, image := range []string{"b", "c"} {
				save(w, manifest("web", image))
				w.wants("web=" + image) // with no set without the pod before it
			}
			w.staysQuiet()
			w.isClean()
		})
	}
}

// On a busy machine the kernel's two events of a rename are not read at once.
func TestARenameReadInTwoHalvesIsOneChange(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest("web", "a")), 0o644))
	w := New(Config{Dir: dir, Logger: logr.Discard()})
	w.removal, w.backup = 0, time.Hour
	in, err := newInotify()
	must(t, err)
	defer in.close()
	w.inotify, w.dir = in, newDirectory(dir, nil, nil, time.Now)
	w.dir.objects = newObjectFiles("", nil, time.Now)
	w.rescan()
	must(t, os.Rename(filepath.Join(dir, "web.yaml"), filepath.Join(dir, "renamed.yaml")))
	for _, half := range []event{
		{mask: unix.IN_MOVED_FROM, cookie: 7, name: "web.yaml"},
		{mask: unix.IN_MOVED_TO, cookie: 7, name: "renamed.yaml"},
	} {
		w.handle([]event{half})
		w.due()
		set, _, reports := w.dir.set()
		if got := names(set); got != "web=a" || len(reports) > 0 {
			t.Errorf("after %s: %q, %v; want web=a and no reports", half.name, got, reports)
		}
	}
	if len(w.removals) > 0 {
		t.Errorf("still waiting for %v", w.removals)
	}
}

func TestRemovedFileStopsItsPods(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(manifest("one", "a")+"---\n"+manifest("two", "a")), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "b.yaml"), []byte(manifest("three", "a")), 0o644))
	w := watch(t, dir, func(c *Config) { c.Rescan = time.Hour })
	w.wants("one=a three=a two=a")
	must(t, os.Remove(w.path("a.yaml")))
	w.wants("three=a")
	must(t, os.Rename(w.path("b.yaml"), filepath.Join(filepath.Dir(dir), "b.yaml")))
	w.wants("")
}

func TestRemovedDocumentStopsItsPod(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(manifest("one", "a")+"---\n"+manifest("two", "a")), 0o644))
	w := watch(t, dir)
	w.wants("one=a two=a")
	w.rename("a.yaml", manifest("two", "a"))
	w.wants("two=a")
}

func TestRenamedManifestIsTheSamePod(t *testing.T) {
	for _, to := range []string{"0.yaml", "z.yaml"} {
		t.Run(to, func(t *testing.T) {
			dir := newDir(t)
			must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(manifest("web", "a")), 0o644))
			w := watchWith(t, dir, patient, func(c *Config) { c.Rescan = time.Hour })
			w.wants("web=a")
			must(t, os.Rename(w.path("a.yaml"), w.path(to)))
			w.wants("web=a")
			if got := w.last[0].Origin.File; got != w.path(to) {
				t.Errorf("origin is %s, want %s", got, w.path(to))
			}
			w.staysQuiet()
			w.isClean()
		})
	}
}

func TestBadEditKeepsTheLastGoodVersion(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest("web", "a")), 0o644))
	at := time.Date(2026, 1, 2, 14, 2, 11, 0, time.UTC)
	w := watch(t, dir, func(c *Config) { c.Now = func() time.Time { return at }; c.Rescan = 50 * time.Millisecond })
	w.wants("web=a")
	for name, bad := range map[string]string{
		"a mistake":    manifest("web", "b") + "    imagePullPolcy: Always\n",
		"broken YAML":  "a: b: c\n",
		"no name":      strings.Replace(manifest("web", "b"), "name: web", "", 1),
		"wrong kind":   strings.Replace(manifest("web", "b"), "kind: Pod", "kind: Pdo", 1),
		"empty":        "",
		"binary":       "\x00\x01",
		"only a label": "# commented out\n",
	} {
		t.Run(name, func(t *testing.T) {
			w.T = t
			w.rename("web.yaml", bad)
			r := w.reports("web.yaml: 1 problem; pod default/web keeps running as loaded at 14:02:11")
			if !r.Refused() || w.w.Refused() != 1 {
				t.Errorf("%d files refused, want 1", w.w.Refused())
			}
			w.staysQuiet() // over several rescans
			w.rename("web.yaml", manifest("web", "a"))
			w.isClean()
			w.staysQuiet() // what was kept and what came back are the same
			if w.w.Refused() != 0 {
				t.Errorf("%d files refused, want none", w.w.Refused())
			}
		})
	}
}

func TestOneBadObjectLeavesTheOthersOfItsFile(t *testing.T) {
	dir := newDir(t)
	file := func(one, two, three string) string {
		return manifest("one", one) + "---\n" + manifest("two", two) + "---\n" + manifest("three", three)
	}
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(file("a", "a", "a")), 0o644))
	w := watch(t, dir)
	w.wants("one=a three=a two=a")
	w.rename("a.yaml", file("b", "b\n    nonsense: 1", "b"))
	w.wants("one=b three=b two=a")
	w.reports("1 problem; pod default/two keeps running as loaded")
	w.rename("a.yaml", file("c", "x: y: z", "c"))
	w.wants("one=c three=c two=a")
	w.reports("not valid YAML")
	w.rename("a.yaml", file("c", "c", "c"))
	w.wants("one=c three=c two=c")
	w.isClean()
}

func TestAnotherKindOfTheSameNameKeepsNoPod(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
	w := watch(t, newDir(t))
	w.wants("")
	w.rename("web.yaml", service+"---\n"+manifest("web", "a"))
	w.wants("web=a")
	w.reports(`"Service" of "v1" is not served here`)
	w.rename("web.yaml", service)
	w.wants("")
}

func TestNewPodWithMistakesIsReportedAndNotLoaded(t *testing.T) {
	w := watch(t, newDir(t))
	w.wants("")
	w.rename("web.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: []}\n")
	if r := w.reports("web.yaml: 1 problem"); len(r.Kept) != 0 {
		t.Errorf("kept %v, want nothing", r.Kept)
	}
	w.staysQuiet()
	must(t, os.Remove(w.path("web.yaml")))
	w.isClean()
}

func TestSamePodInTwoFilesIsTakenFromTheFirst(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(manifest("web", "a")), 0o644))
	w := watch(t, dir)
	w.wants("web=a")
	w.rename("b.yaml", manifest("web", "b"))
	r := w.reports("pod default/web is given twice; the one at " + w.path("a.yaml") + ":1 holds")
	if r.File != w.path("b.yaml") {
		t.Errorf("reported at %s, want b.yaml", r.File)
	}
	w.staysQuiet()
	must(t, os.Remove(w.path("a.yaml")))
	w.wants("web=b")
	w.isClean()
}

func TestObjectMovedOutOfABrokenFileIsTakenFromItsNewFile(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(manifest("one", "a")+"---\n"+manifest("two", "a")), 0o644))
	w := watch(t, dir)
	w.wants("one=a two=a")
	w.rename("a.yaml", manifest("one", "a")+"---\na: b: c\n")
	w.reports("pod default/two keeps running")
	w.rename("b.yaml", manifest("two", "b"))
	w.wants("one=a two=b")
}

func TestUnreadableFileStopsNoPod(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"a directory": func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o755))
		},
		"a link to nothing": func(t *testing.T, path string) {
			must(t, os.Symlink("nowhere", path+".new"))
			must(t, os.Rename(path+".new", path))
		},
		"too large": func(t *testing.T, path string) {
			must(t, os.Truncate(path, MaxSize+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			must(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest("web", "a")), 0o644))
			w := watch(t, dir, func(c *Config) { c.Rescan = 50 * time.Millisecond })
			w.wants("web=a")
			spoil(t, w.path("web.yaml"))
			w.reports("1 problem; pod default/web keeps running as loaded")
			w.staysQuiet()
			must(t, os.RemoveAll(w.path("web.yaml")))
			w.wants("")
			w.isClean()
		})
	}
}

func TestMissingDirectoryStopsNoPod(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest("web", "a")), 0o644))
	w := watch(t, dir, func(c *Config) { c.Rescan = time.Hour })
	w.wants("web=a")
	must(t, os.Rename(dir, dir+".away"))
	w.reports("manifests: cannot be read: no such file or directory")
	w.reports("manifests: 1 problem; pod default/web keeps running as loaded")
	w.staysQuiet()

	// An empty directory in its place says nothing about the pods.
	must(t, os.Mkdir(dir, 0o755))
	w.reports("took the place of another")
	w.staysQuiet()

	// Once it is filled it counts, when it has been quiet.
	w.rename("db.yaml", manifest("db", "a"))
	w.wants("db=a web=a")
	w.wants("db=a")
	w.isClean()
	w.rename("db.yaml", manifest("db", "b"))
	w.wants("db=b")
	must(t, os.Remove(w.path("db.yaml")))
	w.wants("")
}

func TestDirectorySwitchedForAnotherKeepsWhatBothHold(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest("web", "a")), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "old.yaml"), []byte(manifest("old", "a")), 0o644))
	next := dir + ".next"
	must(t, os.Mkdir(next, 0o755))
	must(t, os.WriteFile(filepath.Join(next, "web.yaml"), []byte(manifest("web", "b")), 0o644))
	w := watch(t, dir, func(c *Config) { c.Rescan = time.Hour })
	w.wants("old=a web=a")
	must(t, os.Rename(dir, dir+".away"))
	must(t, os.Rename(next, dir))
	w.reaches("web=b")
	w.isClean()
	w.rename("web.yaml", manifest("web", "c"))
	w.wants("web=c")
}

func TestLinkToADirectoryMayBeSwitched(t *testing.T) {
	base := t.TempDir()
	for _, release := range []string{"one", "two"} {
		must(t, os.Mkdir(filepath.Join(base, release), 0o755))
		must(t, os.WriteFile(filepath.Join(base, release, "web.yaml"), []byte(manifest("web", release)), 0o644))
	}
	link := filepath.Join(base, "manifests")
	must(t, os.Symlink("one", link))
	w := watch(t, link, func(c *Config) { c.Rescan = time.Hour })
	w.wants("web=one")
	must(t, os.Symlink("two", link+".new"))
	must(t, os.Rename(link+".new", link))
	w.wants("web=two")
}

func TestDirectoryMissingAtTheStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	w := watch(t, dir, func(c *Config) { c.Rescan = time.Hour })
	w.reports("cannot be read: no such file or directory")
	w.staysQuiet() // an empty set would stop pods
	must(t, os.Mkdir(dir, 0o755))
	w.wants("")
	w.rename("web.yaml", manifest("web", "a"))
	w.wants("web=a")
}

func TestRecordedManifestsStandInAtTheStart(t *testing.T) {
	dir := newDir(t)
	known := func() []pod.Desired {
		var set []pod.Desired
		for _, name := range []string{"broken", "gone", "fine"} {
			set = append(set, Parse(filepath.Join(dir, name+".yaml"), []byte(manifest(name, "recorded"))).Desired...)
		}
		return set
	}
	t.Run("missing directory", func(t *testing.T) {
		must(t, os.Rename(dir, dir+".away"))
		w := watch(t, dir, func(c *Config) { c.Loaded = known(); c.Rescan = time.Hour })
		w.wants("broken=recorded fine=recorded gone=recorded")
		w.reports("pod default/gone keeps running as loaded before this start")
		must(t, os.Rename(dir+".away", dir))
		w.reaches("")
	})
	t.Run("present directory", func(t *testing.T) {
		must(t, os.WriteFile(filepath.Join(dir, "broken.yaml"), []byte("a: b: c"), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "fine.yaml"), []byte(manifest("fine", "new")), 0o644))
		w := watch(t, dir, func(c *Config) { c.Loaded = known() })
		w.wants("broken=recorded fine=new")
		w.reports("pod default/broken keeps running as loaded before this start")
	})
}

func TestSingleFile(t *testing.T) {
	dir := newDir(t)
	path := filepath.Join(dir, "web.conf")
	must(t, os.WriteFile(path, []byte(manifest("web", "a")), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "other.yaml"), []byte(manifest("other", "a")), 0o644))
	w := watch(t, path, func(c *Config) { c.Rescan = time.Hour })
	w.dir = dir
	w.wants("web=a")
	w.rename("web.conf", manifest("web", "b"))
	w.wants("web=b")
	must(t, os.Remove(path))
	w.reports("web.conf: 1 problem; pod default/web keeps running as loaded")
	w.staysQuiet()
	w.rename("web.conf", manifest("web", "c"))
	w.wants("web=c")
}

func TestLinkedManifestsFollowASwitch(t *testing.T) {
	dir := newDir(t)
	version := func(name, image string) {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name, "web.yaml"), []byte(manifest("web", image)), 0o644))
		must(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version("..2026_01_01", "a")
	must(t, os.Symlink("..data/web.yaml", filepath.Join(dir, "web.yaml")))
	w := watch(t, dir, func(c *Config) { c.Rescan = time.Hour })
	w.wants("web=a")
	version("..2026_01_02", "b")
	w.wants("web=b")
}

func TestLinkedFileChangedElsewhereIsSeenByTheRescan(t *testing.T) {
	dir := newDir(t)
	target := filepath.Join(filepath.Dir(dir), "target.yaml")
	must(t, os.WriteFile(target, []byte(manifest("web", "a")), 0o644))
	w := watch(t, dir, func(c *Config) { c.Rescan = 50 * time.Millisecond })
	w.wants("")
	must(t, os.Symlink(target, w.path("web.yaml")))
	w.wants("web=a")
	must(t, os.WriteFile(target, []byte(manifest("web", "b-longer")), 0o644))
	w.reaches("web=b-longer")
}

func TestRescanIsDoneWhenAskedFor(t *testing.T) {
	dir := newDir(t)
	target := filepath.Join(filepath.Dir(dir), "target.yaml")
	must(t, os.WriteFile(target, []byte(manifest("web", "a")), 0o644))
	must(t, os.Symlink(target, filepath.Join(dir, "web.yaml")))
	w := watch(t, dir, func(c *Config) { c.Rescan, c.Settle = time.Hour, time.Millisecond })
	w.wants("web=a")
	must(t, os.WriteFile(target, []byte(manifest("web", "b-longer")), 0o644))
	w.staysQuiet() // a change behind a link makes no event
	must(t, w.w.Rescan(t.Context()))
	w.wants("web=b-longer")
	ended, end := context.WithCancel(t.Context())
	end()
	if err := New(Config{Dir: dir}).Rescan(ended); err == nil {
		t.Error("a watcher that does not run has looked")
	}
}

func TestManyFilesAtOnceAllArrive(t *testing.T) {
	w := watch(t, newDir(t), func(c *Config) { c.Rescan = time.Hour })
	w.wants("")
	var want []string
	for i := range 50 {
		name := fmt.Sprintf("pod-%02d", i)
		w.write(name+".yaml", manifest(name, "a"))
		want = append(want, name+"=a")
	}
	w.reaches(strings.Join(want, " "))
	w.staysQuiet()
}

func TestSlowReceiverGetsTheNewestSet(t *testing.T) {
	w := watch(t, newDir(t), func(c *Config) { c.Rescan = time.Hour })
	w.wants("")
	for i := range 10 {
		w.rename("web.yaml", manifest("web", fmt.Sprintf("v%d", i)))
	}
	w.rename("bad.yaml", "a: b: c")
	w.reports("bad.yaml") // everything before it was taken in
	w.wants("web=v9")
	w.staysQuiet()
}

func TestUntouchedFileIsNotANewSet(t *testing.T) {
	dir := newDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest("web", "a")), 0o644))
	w := watch(t, dir, func(c *Config) { c.Rescan = 30 * time.Millisecond })
	w.wants("web=a")
	must(t, os.Chtimes(w.path("web.yaml"), time.Time{}, time.Now()))
	must(t, os.Chmod(w.path("web.yaml"), 0o600))
	w.rename("web.yaml", manifest("web", "a"))
	w.write("web.yaml", manifest("web", "a"))
	w.staysQuiet()
}

func TestWarningIsNoRefusal(t *testing.T) {
	w := watch(t, newDir(t))
	w.wants("")
	w.rename("web.yaml", manifest("web", "a")+"  nodeSelector: {a: b}\n")
	w.wants("web=a")
	if len(w.last[0].Warnings) != 1 || !strings.Contains(w.last[0].Warnings[0], "spec.nodeSelector") {
		t.Errorf("warnings %q, want one about spec.nodeSelector", w.last[0].Warnings)
	}
	w.reports("web.yaml: 1 warning")
	if w.w.Refused() != 0 {
		t.Errorf("%d files refused, want none", w.w.Refused())
	}
}

func TestHardLinkIsTakenAtOnce(t *testing.T) {
	w := watch(t, newDir(t), func(c *Config) { c.Rescan, c.Settle = time.Hour, time.Hour })
	w.wants("")
	elsewhere := filepath.Join(filepath.Dir(w.dir), "elsewhere")
	must(t, os.WriteFile(elsewhere, []byte(manifest("web", "a")), 0o644))
	must(t, os.Link(elsewhere, w.path("web.yaml")))
	w.wants("web=a")
}

func TestRecordedManifestsOfAnotherDirectoryEndWithTheFirstRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	other := Parse("/elsewhere/old.yaml", []byte(manifest("old", "a"))).Desired
	w := watch(t, dir, func(c *Config) { c.Loaded = other; c.Rescan = time.Hour })
	w.wants("old=a") // a directory that is missing stops no pod
	must(t, os.Mkdir(dir, 0o755))
	w.wants("")
}

func TestLostEventsAreMadeUpForByLookingAtEverything(t *testing.T) {
	dir := newDir(t)
	in, err := newInotify()
	must(t, err)
	defer in.close()
	w := New(Config{Dir: dir, Logger: logr.Discard()})
	w.inotify, w.dir = in, newDirectory(dir, nil, nil, time.Now)
	must(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest("web", "a")), 0o644))
	w.handle([]event{{lost: true}})
	if set, _, _ := w.dir.set(); names(set) != "web=a" {
		t.Errorf("set is %q, want web=a", names(set))
	}
}
