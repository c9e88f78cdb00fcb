package logs

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRotatedFilesAreInOrder(t *testing.T) {
	dir := t.TempDir()
	want := []string{
		"0.log.20251231-235959",
		"0.log.20260101-000000",
		"0.log.20260101-000000.1",
		"0.log.20260101-000000.2.gz",
		"0.log.20260101-000000.10",
		"0.log.20260101-000001",
		"0.log.20260101-000002-1",
	}
	for _, name := range []string{
		"0.log", "0.log.tmp", "0.log.20260101-000000.gz.tmp", "0.log.2026", "0.log.bak", "10.log.20260101-000000",
		"00.log.20260101-000000", "x0.log.20260101-000000", "0.log.20260101-000000.gz", // beside the plain one
	} {
		writeFile(t, filepath.Join(dir, name), "")
	}
	for _, name := range want {
		writeFile(t, filepath.Join(dir, name), "")
	}
	got, err := Rotated(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i] = filepath.Base(got[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got, err := Rotated(dir+"/none", 0); got != nil || err != nil {
		t.Errorf("without a directory: %v, %v", got, err)
	}
}

func TestCompressKeepsTheNewestPlainAndRemovesTheOldest(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	var stamps []string
	for i := range 6 {
		w.line(fmt.Sprint("file ", i))
		stamps = append(stamps, w.rotate())
	}
	other := stampFile(dir, 1, stamps[0])
	writeFile(t, other, "")
	old := time.Date(2026, 5, 1, 1, 2, 3, 456, time.UTC)
	if err := os.Chtimes(stampFile(dir, 0, stamps[4]), old, old); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time changes nothing
		if err := Compress(dir, 0, 4); err != nil {
			t.Fatal(err)
		}
		want := strings.Join([]string{"0.log", "0.log." + stamps[4] + ".gz", "0.log." + stamps[5], "0.log." + stamps[3] + ".gz",
			"1.log." + stamps[0]}, " ") // by name, as names does
		if got := names(t, dir); got != want {
			t.Errorf("left: %s\nwant: %s", got, want)
		}
	}
	info, err := os.Stat(stampFile(dir, 0, stamps[4]) + ".gz")
	if err != nil || !info.ModTime().Equal(old) || info.Mode().Perm() != 0o640 {
		t.Errorf("packed file: %v %v, %v; want the time and mode of the plain one", info.ModTime(), info.Mode(), err)
	}
	f, err := os.Open(stampFile(dir, 0, stamps[3]) + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || !strings.HasSuffix(string(text), " stdout F file 3\n") {
		t.Errorf("packed: %q, %v", text, err)
	}
	if err := Compress(dir+"/none", 0, 4); err != nil {
		t.Errorf("without a directory: %v", err)
	}
}

func TestCompressWithoutALimitRemovesNothing(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	for range 20 {
		w.line("x")
		w.rotate()
	}
	if err := Compress(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, dir, 0, Options{}); got != strings.Repeat("x\n", 20) {
		t.Errorf("got %q", got)
	}
}

// Whatever an interruption left between two steps of packing, no line is lost or
// doubled before the next Compress, and it tidies up.
func TestCompressAfterAnInterruption(t *testing.T) {
	for name, interrupted := range map[string]func(tb testing.TB, plain string){
		"nothing written yet": func(tb testing.TB, plain string) {
			writeFile(tb, plain+".gz.tmp", "")
		},
		"half written": func(tb testing.TB, plain string) {
			writeFile(tb, plain+".gz.tmp", "\x1f\x8b\x08")
		},
		"renamed, plain file still there": func(tb testing.TB, plain string) {
			text, err := os.ReadFile(plain)
			if err != nil {
				tb.Fatal(err)
			}
			if err := pack(plain); err != nil {
				tb.Fatal(err)
			}
			writeFile(tb, plain, string(text))
		},
		"oldest half removed": func(tb testing.TB, plain string) {
			if err := pack(plain); err != nil {
				tb.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := newTestWriter(t, dir, 0)
			w.line("one")
			oldest := stampFile(dir, 0, w.rotate())
			w.line("two")
			w.rotate()
			w.line("three")
			interrupted(t, oldest)
			const want = "one\ntwo\nthree\n"
			if got := readAll(t, dir, 0, Options{}); got != want {
				t.Errorf("before: got %q", got)
			}
			if got := readAll(t, dir, 0, Options{TailLines: ptr(int64(2))}); got != "two\nthree\n" {
				t.Errorf("tail before: got %q", got)
			}
			if err := Compress(dir, 0, 3); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, dir, 0, Options{}); got != want {
				t.Errorf("after: got %q", got)
			}
			if got, want := names(t, dir), "0.log 0.log.20260501-120000.1 0.log.20260501-120000.gz"; got != want {
				t.Errorf("left: %s\nwant: %s", got, want)
			}
		})
	}
}
