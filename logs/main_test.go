package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testWriter writes a log as a pause process does: one goroutine, rotation by
// rename, a new file after it.
type testWriter struct {
	tb       testing.TB
	dir      string
	attempt  int
	file     *os.File
	size     int
	now      time.Time
	rotation int
}

func newTestWriter(tb testing.TB, dir string, attempt int) *testWriter {
	tb.Helper()
	w := &testWriter{tb: tb, dir: dir, attempt: attempt, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	w.open()
	tb.Cleanup(func() { w.file.Close() })
	return w
}

func (w *testWriter) open() {
	f, err := os.OpenFile(File(w.dir, w.attempt), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		w.tb.Error(err)
	}
	w.file, w.size = f, 0
}

// entry writes one entry; the clock goes on by a millisecond for each.
func (w *testWriter) entry(stream, tag, content string) {
	w.now = w.now.Add(time.Millisecond)
	w.raw(fmt.Sprintf("%s %s %s %s\n", w.now.Format(time.RFC3339Nano), stream, tag, content))
}

func (w *testWriter) line(content string) { w.entry("stdout", "F", content) }

func (w *testWriter) raw(text string) {
	n, err := w.file.WriteString(text)
	if err != nil {
		w.tb.Error(err)
	}
	w.size += n
}

// rotate renames the file and opens a new one. Each rotation has a stamp of its own.
func (w *testWriter) rotate() string {
	stamp := w.rename()
	w.file.Close()
	w.open()
	return stamp
}

func (w *testWriter) rename() string {
	stamp := time.Date(2026, 5, 1, 12, 0, w.rotation/3, 0, time.UTC).Format("20060102-150405")
	if n := w.rotation % 3; n > 0 { // several within one second
		stamp += fmt.Sprintf(".%d", n)
	}
	w.rotation++
	if err := os.Rename(File(w.dir, w.attempt), stampFile(w.dir, w.attempt, stamp)); err != nil {
		w.tb.Error(err)
	}
	return stamp
}

func readAll(tb testing.TB, dir string, attempt int, opts Options) string {
	tb.Helper()
	var out bytes.Buffer
	skipped, err := Read(context.Background(), dir, attempt, opts, &out)
	if err != nil {
		tb.Fatal(err)
	}
	if skipped != 0 {
		tb.Fatalf("%d lines skipped", skipped)
	}
	return out.String()
}

func ptr[T any](v T) *T { return &v }

// follower runs Read with Follow and collects what it writes.
type follower struct {
	tb      testing.TB
	done    chan struct{}
	cancel  context.CancelFunc
	ended   chan struct{}
	err     error
	skipped int64

	mu      sync.Mutex
	text    strings.Builder
	flushed int // length of text at the last Flush
	news    chan struct{}
}

func follow(tb testing.TB, dir string, attempt int, opts Options) *follower {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{tb: tb, done: make(chan struct{}), cancel: cancel, ended: make(chan struct{}), news: make(chan struct{}, 1)}
	opts.Follow, opts.Done = true, f.done
	go func() {
		defer close(f.ended)
		f.skipped, f.err = Read(ctx, dir, attempt, opts, f)
	}()
	tb.Cleanup(func() { cancel(); <-f.ended })
	return f
}

func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.Write(p)
}

func (f *follower) Flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushed = f.text.Len()
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// waitFor waits until the follower has handed over text that ends so.
func (f *follower) waitFor(end string) {
	f.tb.Helper()
	late := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		got := f.text.String()[:f.flushed]
		f.mu.Unlock()
		if strings.HasSuffix(got, end) {
			return
		}
		select {
		case <-f.news:
		case <-f.ended:
			f.tb.Fatalf("follower ended with error %v before it wrote %q; it wrote %q", f.err, end, got)
		case <-late:
			f.tb.Fatalf("follower did not write %q; it wrote %q", end, got)
		}
	}
}

// finish says that the container has ended and returns all that was written.
func (f *follower) finish() string {
	f.tb.Helper()
	close(f.done)
	return f.wait()
}

func (f *follower) wait() string {
	f.tb.Helper()
	select {
	case <-f.ended:
	case <-time.After(60 * time.Second):
		f.tb.Fatal("follower did not end")
	}
	if f.err != nil {
		f.tb.Fatal(f.err)
	}
	return f.text.String()
}

func names(tb testing.TB, dir string) string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func writeFile(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		tb.Fatal(err)
	}
}
