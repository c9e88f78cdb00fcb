package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

const sample = `2026-05-01T12:00:00.5Z stdout F one
2026-05-01T12:00:01.123456789+02:00 stderr F two
2026-05-01T12:00:02Z stdout P long, 
2026-05-01T12:00:02.000000001Z stdout P longer, 
2026-05-01T12:00:02.25Z stdout F longest
2026-05-01T12:00:03Z stdout F 
2026-05-01T12:00:04Z stderr F:more last
`

func TestRead(t *testing.T) {
	since := time.Date(2026, 5, 1, 12, 0, 2, 1, time.UTC)
	for name, test := range map[string]struct {
		opts Options
		want string
	}{
		"all of it, pieces joined": {
			Options{}, "one\ntwo\nlong, longer, longest\n\nlast\n"},
		"one stream": {
			Options{Stream: "stderr"}, "two\nlast\n"},
		"tail counts entries, pieces separately": {
			Options{TailLines: ptr(int64(4))}, "longer, longest\n\nlast\n"},
		"tail of nothing": {
			Options{TailLines: ptr(int64(0))}, ""},
		"tail of more than there is": {
			Options{TailLines: ptr(int64(100))}, "one\ntwo\nlong, longer, longest\n\nlast\n"},
		"tail of one stream counts its entries": {
			Options{TailLines: ptr(int64(1)), Stream: "stdout"}, "\n"},
		"entries at the time given are shown, older ones are not": {
			Options{SinceTime: since}, "longer, longest\n\nlast\n"},
		"tail is taken first, then the time": {
			Options{SinceTime: since, TailLines: ptr(int64(6))}, "longer, longest\n\nlast\n"},
		"times of fixed width at the beginnings of lines": {
			Options{Timestamps: true}, `2026-05-01T12:00:00.500000000Z one
2026-05-01T12:00:01.123456789+02:00 two
2026-05-01T12:00:02.000000000Z long, longer, longest
2026-05-01T12:00:03.000000000Z ` + `
2026-05-01T12:00:04.000000000Z last
`},
		"limit within a line": {
			Options{LimitBytes: ptr(int64(6))}, "one\ntw"},
		"limit counts times, too": {
			Options{LimitBytes: ptr(int64(33)), Timestamps: true}, "2026-05-01T12:00:00.500000000Z on"},
		"limit that is not reached": {
			Options{LimitBytes: ptr(int64(1000)), Stream: "stderr"}, "two\nlast\n"},
		"limit that is just reached": {
			Options{LimitBytes: ptr(int64(9)), Stream: "stderr"}, "two\nlast\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, File(dir, 7), sample)
			writeFile(t, File(dir, 6), "2026-05-01T12:00:03Z stdout F another attempt\n")
			if got := readAll(t, dir, 7, test.opts); got != test.want {
				t.Errorf("got %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestReadSkipsWhatIsNoEntry(t *testing.T) {
	dir := t.TempDir()
	text := "garbage\n" + sample + "\n2026-05-01T12:00:04Z stdlog F x\n2026-05-01T12:00:04Z stdout F\n" +
		strings.Repeat("x", 3*maxEntry) + "\n2026-05-01T12:00:05Z stdout F end\n"
	writeFile(t, File(dir, 0), text)
	var out bytes.Buffer
	skipped, err := Read(t.Context(), dir, 0, Options{}, &out)
	if err != nil || skipped != 5 {
		t.Errorf("skipped %d lines, error %v; want 5, nil", skipped, err)
	}
	if want := "one\ntwo\nlong, longer, longest\n\nlast\nend\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestReadShowsALastLineThatWasCutOff(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, File(dir, 0), sample+"2026-05-01T12:00:05Z stdout P no newline ever\n2026-05-01T12:00:05Z stdout F , cut o")
	if got := readAll(t, dir, 0, Options{TailLines: ptr(int64(1))}); got != "no newline ever, cut o\n" {
		t.Errorf("got %q", got)
	}
}

func TestReadWithoutAnyFile(t *testing.T) {
	_, err := Read(t.Context(), t.TempDir(), 3, Options{}, new(bytes.Buffer))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v, want one that wraps fs.ErrNotExist", err)
	}
	if err == nil || err.Error() != "cannot read log of attempt 3: file does not exist" {
		t.Errorf("got text %v", err)
	}
}

func TestReadReportsAWriterThatFails(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, File(dir, 0), sample)
	broken := errors.New("connection lost")
	_, err := Read(t.Context(), dir, 0, Options{}, writerFunc(func([]byte) (int, error) { return 0, broken }))
	if !errors.Is(err, broken) {
		t.Errorf("got error %v, want it to wrap %v", err, broken)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestReadShowsEveryPieceOfALongLine(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	var want strings.Builder
	for i := range 100 {
		piece := strings.Repeat(string(rune('a'+i%26)), 16<<10)
		w.entry("stdout", "P", piece)
		want.WriteString(piece)
	}
	w.line("end")
	want.WriteString("end\n")
	if got := readAll(t, dir, 0, Options{}); got != want.String() {
		t.Errorf("got %d bytes, want %d", len(got), want.Len())
	}
}

// Every choice of tail, stream and limit over every way of cutting a log into
// files, some packed, gives the same as from one file.
func TestReadOverRotatedFilesEqualsOneFile(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		whole, cut := t.TempDir(), t.TempDir()
		one, many := newTestWriter(t, whole, 0), newTestWriter(t, cut, 0)
		entries := rng.IntN(200)
		for i := range entries {
			stream := []string{"stdout", "stderr"}[rng.IntN(2)]
			tag := []string{"F", "F", "P"}[rng.IntN(3)]
			text := strings.Repeat(fmt.Sprint(i, " "), rng.IntN(40))
			one.entry(stream, tag, text)
			many.entry(stream, tag, text)
			if rng.IntN(30) == 0 {
				many.rotate()
			}
		}
		for range 2 {
			opts := Options{Timestamps: rng.IntN(2) == 0}
			check := func() {
				t.Helper()
				want := readAll(t, whole, 0, opts)
				if got := readAll(t, cut, 0, opts); got != want {
					t.Fatalf("%+v over %s:\ngot %q\nwant %q", opts, names(t, cut), got, want)
				}
			}
			check()
			for _, n := range []int{0, 1, 2, entries / 2, entries - 1, entries, entries + 1, rng.IntN(entries + 1)} {
				opts.TailLines = ptr(int64(max(n, 0)))
				opts.Stream = ""
				check()
				opts.Stream = "stderr"
				check()
				opts.LimitBytes = ptr(int64(rng.IntN(500)))
				check()
				opts.LimitBytes = nil
			}
			if err := Compress(cut, 0, 1000); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestReadSinceTimeOverRotatedFiles(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now().Add(-10 * time.Hour)
	want := ""
	since := begin.Add(5*time.Hour + time.Minute)
	w := newTestWriter(t, dir, 0)
	for hour := range 10 {
		w.now = begin.Add(time.Duration(hour) * time.Hour)
		w.line(fmt.Sprint("hour ", hour))
		w.now = w.now.Add(30 * time.Minute)
		w.line(fmt.Sprint("hour ", hour, ".5"))
		if hour > 5 {
			want += fmt.Sprint("hour ", hour, "\n")
		}
		if hour >= 5 {
			want += fmt.Sprint("hour ", hour, ".5\n")
		}
		path := stampFile(dir, 0, w.rotate())
		if err := os.Chtimes(path, w.now, w.now); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if got := readAll(t, dir, 0, Options{SinceTime: since}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if err := Compress(dir, 0, 100); err != nil {
			t.Fatal(err)
		}
	}
	// A file whose last entry is older than asked for is not even looked into.
	writeFile(t, stampFile(dir, 0, "20200101-000000.gz"), "damaged")
	if err := os.Chtimes(stampFile(dir, 0, "20200101-000000.gz"), begin, begin); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, dir, 0, Options{SinceTime: since}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReadGoesOnAfterADamagedFile(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	for range 3 {
		for range 1000 {
			w.line("before")
		}
		w.rotate()
	}
	w.line("live")
	if err := Compress(dir, 0, 100); err != nil {
		t.Fatal(err)
	}
	rotated, err := Rotated(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(rotated[0], 100); err != nil {
		t.Fatal(err)
	}
	writeFile(t, rotated[1], "this is not gzip")
	var out bytes.Buffer
	skipped, err := Read(t.Context(), dir, 0, Options{}, &out)
	if err != nil || skipped != 2 || !strings.HasSuffix(out.String(), "before\nlive\n") {
		t.Errorf("skipped %d, error %v, output of %d bytes", skipped, err, out.Len())
	}
}

func TestReadEndsWhereTheLogEndedWhenItBegan(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir, 0)
	for range 10_000 {
		w.line("written before")
	}
	n := 0
	_, err := Read(t.Context(), dir, 0, Options{}, writerFunc(func(p []byte) (int, error) {
		// A container that writes faster than its reader reads.
		n += bytes.Count(p, []byte("\n"))
		for range 10_000 {
			w.line("written meanwhile")
		}
		w.rotate()
		return len(p), nil
	}))
	if err != nil || n != 10_000 {
		t.Errorf("read %d lines, error %v; want 10000, nil", n, err)
	}
}

func TestTailReadsOnlyTheEnd(t *testing.T) {
	const size = 100 << 20
	f := &countingReaderAt{line: "2026-05-01T12:00:00.123456789Z stdout F " + strings.Repeat("x", 59) + "\n"}
	offset, found, err := tailOffset(f, size, 100, "")
	if err != nil || found != 100 || offset != size-size%100-100*100 {
		t.Errorf("got offset %d, found %d, error %v", offset, found, err)
	}
	if f.read > 2*readSize {
		t.Errorf("read %d bytes for 100 lines of 100 bytes", f.read)
	}
}

// countingReaderAt is an endless file of equal lines.
type countingReaderAt struct {
	line string
	read int
}

func (f *countingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	f.read += len(p)
	for i := range p {
		p[i] = f.line[(off+int64(i))%int64(len(f.line))]
	}
	return len(p), nil
}

func TestTailMessageIsTheEndOfTheLog(t *testing.T) {
	dir := t.TempDir()
	if got, err := TailMessage(dir, 0); got != "" || err != nil {
		t.Errorf("without a log: got %q, %v", got, err)
	}
	w := newTestWriter(t, dir, 0)
	for i := range 200 {
		w.line(fmt.Sprint(i))
		if i == 150 {
			w.rotate()
		}
	}
	got, err := TailMessage(dir, 0)
	if err != nil || strings.Count(got, "\n") != 80 || !strings.HasPrefix(got, "120\n") || !strings.HasSuffix(got, "199\n") {
		t.Errorf("short lines: got %q, %v", got, err)
	}
	for range 100 {
		w.line(strings.Repeat("y", 100))
	}
	w.entry("stderr", "F", "the end")
	got, err = TailMessage(dir, 0)
	if err != nil || len(got) != 2048 || !strings.HasSuffix(got, "yyy\nthe end\n") {
		t.Errorf("long lines: got %d bytes, %q, %v", len(got), got, err)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, File(dir, 0), sample)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, dir, 0, Options{}, new(bytes.Buffer)); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

func BenchmarkTailOf100MB(b *testing.B) {
	dir := b.TempDir()
	line := "2026-05-01T12:00:00.123456789Z stdout F " + strings.Repeat("x", 59) + "\n"
	writeFile(b, File(dir, 0), strings.Repeat(line, 1<<20))
	for _, n := range []int64{10, 10_000} {
		b.Run(fmt.Sprint(n, " lines"), func(b *testing.B) {
			for b.Loop() {
				var out bytes.Buffer
				if _, err := Read(b.Context(), dir, 0, Options{TailLines: &n}, &out); err != nil || out.Len() == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	line := "2026-05-01T12:00:00.123456789Z stdout F " + strings.Repeat("x", 59) + "\n"
	writeFile(b, File(dir, 0), strings.Repeat(line, 100_000))
	for name, opts := range map[string]Options{
		"plain": {}, "timestamps": {Timestamps: true}, "since": {SinceTime: time.Unix(1, 0)}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(line)) * 100_000)
			for b.Loop() {
				if _, err := Read(b.Context(), dir, 0, opts, discard{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
