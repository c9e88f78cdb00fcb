package pause

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 123000000, time.UTC)

const stamp = "2026-05-04T12:00:00.123Z"

func openLog(dir *os.File, name string, maxBytes int64, maxFiles int) (*logFile, error) {
	l := &logFile{dir: dir, name: name, maxBytes: maxBytes, maxFiles: maxFiles}
	if dir == nil {
		return l, nil
	}
	return l, l.reopen()
}

// entriesOf feeds a stream and returns its log with the time left out.
func entriesOf(chunks ...string) string {
	s := stream{tag: "stdout"}
	var out []byte
	for _, c := range chunks {
		out = s.entries(out, []byte(c), noon)
	}
	out = s.rest(out, noon)
	return strings.ReplaceAll(string(out), stamp+" stdout ", "")
}

func TestEntriesOfTheLog(t *testing.T) {
	full := strings.Repeat("x", maxPart)
	for _, c := range []struct {
		name string
		in   []string
		want string
	}{
		{"lines", []string{"a\nb\n"}, "F a\nF b\n"},
		{"an empty line", []string{"\n"}, "F \n"},
		{"a line in pieces", []string{"a", "b", "c\n"}, "F abc\n"},
		{"no newline at the end is a P, never an F", []string{"a\nrest"}, "F a\nP rest\n"},
		{"carriage return", []string{"a\r\nb\r", "\n", "\r\n"}, "F a\nF b\nF \n"},
		{"carriage return inside", []string{"a\rb\n"}, "F a\rb\n"},
		{"a line of exactly one part is whole", []string{full + "\n"}, "F " + full + "\n"},
		{"one byte more is cut", []string{full + "y\n"}, "P " + full + "\nF y\n"},
		{"cut over several reads", []string{full[:9000], full[:9000], "\n"}, "P " + full + "\nF " + full[:18000-maxPart] + "\n"},
		{"three parts", []string{full + full + "z\n"}, "P " + full + "\nP " + full + "\nF z\n"},
		{"a long end without newline", []string{full + "end"}, "P " + full + "\nP end\n"},
		{"exactly a part, then newline in the next read", []string{full, "\n"}, "F " + full + "\n"},
	} {
		if got := entriesOf(c.in...); got != c.want {
			t.Errorf("%s: got %.80q…, want %.80q…", c.name, got, c.want)
		}
	}
}

func FuzzLogKeepsEveryByte(f *testing.F) {
	f.Add([]byte("a\nb"), 1)
	f.Add(bytes.Repeat([]byte("x"), 40000), 1000)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if bytes.IndexByte(in, '\r') >= 0 || size <= 0 {
			return // before a newline it is not kept
		}
		s := stream{tag: "stderr"}
		var log []byte
		for rest := in; len(rest) > 0; {
			n := min(size, len(rest))
			log = s.entries(log, rest[:n], noon)
			rest = rest[n:]
		}
		log = s.rest(log, noon)
		var back []byte
		for len(log) > 0 {
			head := stamp + " stderr "
			if !bytes.HasPrefix(log, []byte(head)) {
				t.Fatalf("bad head %.50q", log)
			}
			kind := log[len(head)]
			end := bytes.IndexByte(log, '\n')
			content := log[len(head)+2 : end]
			if len(content) > maxPart {
				t.Fatalf("a part of %d bytes", len(content))
			}
			back = append(back, content...)
			if kind == 'F' {
				back = append(back, '\n')
			}
			log = log[end+1:]
		}
		if !bytes.Equal(back, in) {
			t.Fatalf("%q came back as %q", in, back)
		}
	})
}

func openTestLog(t *testing.T, dir string, maxBytes int64, maxFiles int) *logFile {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLog(d, "0.log", maxBytes, maxFiles)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func TestRotationLosesNothingAndKeepsEntriesWhole(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir, 10000, 0)
	var streams sync.WaitGroup
	for _, tag := range []string{"stdout", "stderr"} {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		unix.SetNonblock(p[0], true)
		streams.Add(1)
		go copyLog(os.NewFile(uintptr(p[0]), ""), tag, l, func([]byte) {}, streams.Done)
		go func() {
			w := os.NewFile(uintptr(p[1]), "")
			for i := range 1000 {
				fmt.Fprintf(w, "%s line %d\n", tag, i)
			}
			w.Close()
		}()
	}
	streams.Wait()
	files, _ := filepath.Glob(filepath.Join(dir, "0.log*"))
	sort.Slice(files, func(i, j int) bool { // rotated ones by age, then the live one
		return len(files[i]) > len(files[j]) || len(files[i]) == len(files[j]) && files[i] < files[j]
	})
	if len(files) < 5 {
		t.Fatalf("only %d files", len(files))
	}
	next := map[string]int{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 10000+100 || len(b) > 0 && b[len(b)-1] != '\n' {
			t.Errorf("%s has %d bytes", f, len(b))
		}
		for line := range strings.Lines(string(b)) {
			var when, tag, kind, what string
			var n int
			if _, err := fmt.Sscanf(line, "%s %s %s %s line %d\n", &when, &tag, &kind, &what, &n); err != nil || tag != what || kind != "F" || n != next[tag] {
				t.Fatalf("%s: %q, expected line %d", f, line, next[tag])
			}
			next[tag]++
		}
	}
	if next["stdout"] != 1000 || next["stderr"] != 1000 {
		t.Errorf("lines: %v", next)
	}
}

func TestRotationKeepsTheNewestFiles(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir, 0, 3)
	bystanders := []string{"1.log", "0.log.tmp", "0.log.20260101-000000.tmp", "0.log.other"}
	for _, n := range bystanders {
		os.WriteFile(filepath.Join(dir, n), []byte("x"), 0o600)
	}
	os.WriteFile(filepath.Join(dir, "0.log.20200101-000000.gz"), []byte("x"), 0o600)
	for i := range 5 {
		l.write(fmt.Appendf(nil, "entry %d\n", i), noon)
		if err := l.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	rotated, _ := filepath.Glob(filepath.Join(dir, "0.log.2*-??????"))
	sort.Strings(rotated)
	var kept []string
	for _, f := range rotated {
		b, _ := os.ReadFile(f)
		kept = append(kept, string(b))
	}
	if strings.Join(kept, "") != "entry 3\nentry 4\n" {
		t.Errorf("kept %q", kept)
	}
	if _, err := os.Stat(filepath.Join(dir, "0.log.20200101-000000.gz")); err == nil {
		t.Error("an old compressed file stays")
	}
	for _, n := range bystanders {
		if _, err := os.Stat(filepath.Join(dir, n)); err != nil {
			t.Errorf("%s was removed", n)
		}
	}
	// A log that somebody moved is opened anew on request.
	os.Rename(filepath.Join(dir, "0.log"), filepath.Join(dir, "moved"))
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.write([]byte("after\n"), noon)
	if b, _ := os.ReadFile(filepath.Join(dir, "0.log")); string(b) != "after\n" {
		t.Errorf("after reopening: %q", b)
	}
}

func TestStartTicksOfAnyCommandName(t *testing.T) {
	line := "77 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	if got := statTicks(line); got != "4242" {
		t.Errorf("got %q", got)
	}
	for _, bad := range []string{"", "77 (x", "77 (x) S 1"} {
		if got := statTicks(bad); got != "0" {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

func BenchmarkEntries(b *testing.B) {
	in := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 1000)
	s := stream{tag: "stdout"}
	var out []byte
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		out = s.entries(out[:0], in, noon)
	}
}
