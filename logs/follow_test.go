package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// A writer that rotates every few KB, a Compress that packs behind it, several
// followers, one of them slow: each sees every line once, in order.
func TestFollowOverRotationsShowsEveryLineOnce(t *testing.T) {
	const lines = 8_000
	dir := t.TempDir()
	watcher, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()

	w := newTestWriter(t, dir, 0)
	followers := []*follower{
		follow(t, dir, 0, Options{}),
		follow(t, dir, 0, Options{Watch: watcher.Watch}),
		follow(t, dir, 0, Options{Watch: watcher.Watch}),
	}
	slow := &slowWriter{}
	slowDone := make(chan struct{})
	slowEnded := make(chan error, 1)
	go func() {
		_, err := Read(context.Background(), dir, 0, Options{Follow: true, Done: slowDone}, slow)
		slowEnded <- err
	}()

	stop := make(chan struct{})
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		for {
			if err := Compress(dir, 0, 1_000_000); err != nil {
				t.Error(err)
			}
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	var want strings.Builder
	for i := range lines {
		text := fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%50))
		w.line(text)
		want.WriteString(text + "\n")
		if w.size > 4<<10 {
			w.rotate()
			if w.rotation%20 == 0 {
				time.Sleep(time.Millisecond) // let the others in
			}
		}
	}
	for i, f := range followers {
		if got := f.finish(); got != want.String() {
			t.Errorf("follower %d: %s", i, firstDifference(got, want.String()))
		}
	}
	close(slowDone)
	if err := <-slowEnded; err != nil {
		t.Error(err)
	}
	if got := slow.text.String(); got != want.String() {
		t.Errorf("slow follower: %s", firstDifference(got, want.String()))
	}
	close(stop)
	<-packed
	if !strings.Contains(names(t, dir), packedSuffix) {
		t.Error("no file was packed meanwhile")
	}
}

type slowWriter struct{ text strings.Builder }

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return w.text.Write(p)
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d is %q, want %q", i, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

func TestFollowShowsLinesAsTheyAreWritten(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	w.line("before")
	f := follow(t, dir, 0, Options{})
	f.waitFor("before\n")
	w.line("first")
	f.waitFor("first\n")
	w.entry("stdout", "P", "half ")
	f.waitFor("half ")
	w.raw("2026-05-01T12:00:09Z std") // a write may be seen in the middle
	w.raw("out F of a line\n")
	f.waitFor("half of a line\n")
	if got := f.finish(); got != "before\nfirst\nhalf of a line\n" {
		t.Errorf("got %q", got)
	}
}

func TestFollowWaitsForALogThatDoesNotExistYet(t *testing.T) {
	dir := t.TempDir()
	f := follow(t, dir, 4, Options{})
	w := newTestWriter(t, dir, 4)
	w.line("first")
	f.waitFor("first\n")
	f.finish()
}

func TestFollowStartsWithTail(t *testing.T) {
	for _, n := range []int64{1, 3} {
		dir := t.TempDir()
		w := newTestWriter(t, dir, 0)
		w.line("one")
		w.line("two")
		w.rotate()
		w.line("three")
		f := follow(t, dir, 0, Options{TailLines: &n})
		want := strings.Join([]string{"one\n", "two\n", "three\n"}[3-n:], "")
		f.waitFor(want)
		w.rotate()
		w.line("four")
		f.waitFor("four\n")
		if got := f.finish(); got != want+"four\n" {
			t.Errorf("tail of %d: got %q", n, got)
		}
	}
}

func TestFollowEndsAtTheLimit(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	f := follow(t, dir, 0, Options{LimitBytes: ptr(int64(10))})
	w.line("12345")
	f.waitFor("12345\n")
	w.line("123456789")
	if got := f.wait(); got != "12345\n1234" {
		t.Errorf("got %q", got)
	}
}

// The writer may be stopped between renaming and opening: what is written to the
// renamed file in that time, and what comes after it, is shown.
func TestFollowWhileTheWriterIsBetweenTwoFiles(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	w.line("one")
	f := follow(t, dir, 0, Options{})
	f.waitFor("one\n")
	w.rename()
	w.line("still in the old file")
	f.waitFor("still in the old file\n")
	w.file.Close()
	w.open()
	w.line("in the new file")
	f.waitFor("in the new file\n")
	if got := f.finish(); got != "one\nstill in the old file\nin the new file\n" {
		t.Errorf("got %q", got)
	}
}

// A follower that was left behind finds its way through rotated and packed files.
func TestFollowerThatIsLeftBehindCatchesUp(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	want := "line 0\n"
	w.line("line 0")
	blocked, release := make(chan struct{}), make(chan struct{})
	var got bytes.Buffer
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := Read(context.Background(), dir, 0, Options{Follow: true, Done: done}, writerFunc(func(p []byte) (int, error) {
			if got.Len() == 0 {
				close(blocked)
				<-release
			}
			return got.Write(p)
		}))
		ended <- err
	}()
	<-blocked
	for i := range 10 {
		w.rotate()
		w.line(fmt.Sprint("line ", i+1))
		want += fmt.Sprint("line ", i+1, "\n")
		if i%3 == 0 {
			if err := Compress(dir, 0, 100); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	close(release)
	if err := <-ended; err != nil || got.String() != want {
		t.Errorf("got %q, %v; want %q", got.String(), err, want)
	}
}

// What was removed as the oldest before a follower came to it is left out; what
// is kept comes in order, once.
func TestFollowerLosesOnlyWhatWasRemoved(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	w.line("line 0")
	blocked, release := make(chan struct{}), make(chan struct{})
	var got bytes.Buffer
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := Read(context.Background(), dir, 0, Options{Follow: true, Done: done}, writerFunc(func(p []byte) (int, error) {
			if got.Len() == 0 {
				close(blocked)
				<-release
			}
			return got.Write(p)
		}))
		ended <- err
	}()
	<-blocked
	for i := range 10 {
		w.rotate()
		w.line(fmt.Sprint("line ", i+1))
		if err := Compress(dir, 0, 4); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	close(release)
	if err := <-ended; err != nil || got.String() != "line 0\nline 7\nline 8\nline 9\nline 10\n" {
		t.Errorf("got %q, %v", got.String(), err)
	}
}

func TestFollowShowsLastWordsAfterTheExit(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	w.line("one")
	f := follow(t, dir, 0, Options{})
	f.waitFor("one\n")
	close(f.done)
	w.line("last words")
	w.raw("2026-05-01T12:00:09Z stdout P and no newline")
	if got := f.wait(); got != "one\nlast words\nand no newline" {
		t.Errorf("got %q", got)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	newTestWriter(t, dir, 0).line("one")
	f := follow(t, dir, 0, Options{})
	f.waitFor("one\n")
	f.cancel()
	<-f.ended
	if f.err != context.Canceled {
		t.Errorf("got %v", f.err)
	}
}

func TestFollowOfAFileThatBecomesShorter(t *testing.T) {
	const piece = "2026-05-01T12:00:09Z stdout F half an ent"
	for name, test := range map[string]struct {
		written string
		size    func(before int) int64
		want    string
	}{
		"half an entry was taken back":  {piece, func(n int) int64 { return int64(n) }, "one\ntwo\nnew\n"},
		"whole entries were taken back": {piece + "\n" + piece, func(n int) int64 { return int64(n) }, "one\ntwo\nhalf an ent\nnew\n"},
		"half of what is half is left":  {piece, func(n int) int64 { return int64(n + 35) }, "one\ntwo\nhalf new\n"},
		"emptied":                       {"", func(int) int64 { return 0 }, "one\ntwo\nnew\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := newTestWriter(t, dir, 0)
			w.line("one")
			w.line("two")
			before := w.size
			w.raw(test.written)
			var out bytes.Buffer
			r := &reader{ctx: t.Context(), dir: dir, out: newOutput(&out, Options{})}
			live, err := r.openLive()
			if err != nil {
				t.Fatal(err)
			}
			defer live.Close()
			advance := func() {
				t.Helper()
				if err := r.advance(live); err != nil {
					t.Fatal(err)
				}
			}
			advance()
			if err := os.Truncate(File(dir, 0), test.size(before)); err != nil {
				t.Fatal(err)
			}
			advance()
			if name == "half of what is half is left" {
				w.raw("new\n")
			} else {
				w.line("new")
			}
			advance()
			if err := r.out.flush(); err != nil || out.String() != test.want || r.out.unparsable != 0 {
				t.Errorf("got %q, %v, %d skipped; want %q", out.String(), err, r.out.unparsable, test.want)
			}
		})
	}
}

func TestFollowOfARemovedFileGoesOnWithItsSuccessor(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	w.line("one")
	f := follow(t, dir, 0, Options{})
	f.waitFor("one\n")
	if err := os.Remove(File(dir, 0)); err != nil {
		t.Fatal(err)
	}
	w.line("unseen by name")
	w.file.Close()
	w.open()
	w.line("two")
	f.waitFor("two\n")
	if got := f.finish(); got != "one\nunseen by name\ntwo\n" {
		t.Errorf("got %q", got)
	}
}

func TestFollowWithoutADirectory(t *testing.T) {
	_, err := Read(t.Context(), t.TempDir()+"/none", 0, Options{Follow: true}, new(bytes.Buffer))
	if !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("got %v", err)
	}
}

func unwrapAll(err error) error {
	for {
		next, ok := err.(interface{ Unwrap() error })
		if !ok || next.Unwrap() == nil {
			return err
		}
		err = next.Unwrap()
	}
}

func TestWatcherServesSeveralDirectories(t *testing.T) {
	w, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	a, b := t.TempDir(), t.TempDir()
	watch := func(dir string) (<-chan struct{}, func()) {
		t.Helper()
		changed, stop, err := w.Watch(dir)
		if err != nil {
			t.Fatal(err)
		}
		return changed, stop
	}
	a1, stopA1 := watch(a)
	a2, stopA2 := watch(a)
	b1, stopB1 := watch(b)
	await := func(changed <-chan struct{}) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(30 * time.Second):
			t.Fatal("no notice")
		}
	}
	writeFile(t, a+"/x", "")
	await(a1)
	await(a2)
	stopA1()
	stopA1() // twice is no harm
	select { // drop a notice that came late
	case <-a2:
	default:
	}
	if err := os.Rename(a+"/x", a+"/y"); err != nil {
		t.Fatal(err)
	}
	await(a2)
	select {
	case <-b1:
		t.Error("notice of another directory")
	default:
	}
	stopA2()
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	await(b1)
	stopB1() // the directory is gone: nothing to stop, no harm
	a3, _ := watch(a)
	writeFile(t, a+"/z", "")
	await(a3)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := w.Watch(a); err == nil {
		t.Error("a closed watcher watches")
	}
}
