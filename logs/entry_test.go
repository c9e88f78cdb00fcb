package logs

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestParseEntry(t *testing.T) {
	for line, want := range map[string]string{ // want: stream, partial, content; empty: no entry
		"2026-05-01T12:00:00Z stdout F hello world\n":                   "stdout F hello world",
		"2026-05-01T12:00:00.1+05:30 stderr P piece":                    "stderr P piece",
		"2026-05-01T12:00:00.123456789-11:00 stdout P:x:y a":            "stdout P a",
		"2026-05-01T12:00:00Z stdout F \n":                              "stdout F ",
		"2026-05-01T12:00:00Z stdout X content of a tag to come":        "stdout F content of a tag to come",
		"2026-05-01T12:00:00Z stdout F\n":                               "",
		"2026-05-01T12:00:00Z stdout  \n":                               "",
		"2026-05-01T12:00:00Z stdin F x\n":                              "",
		"2026-05-01T12:00:00Z\n":                                        "",
		"2026-05-01T12:00:00 stdout F no zone\n":                        "",
		"2026-05-01T12:00:00.Z stdout F no digits\n":                    "",
		"2026-05-01 12:00:00Z stdout F no T\n":                          "",
		"2026-05-01T12:00:00+0530 stdout F x\n":                         "",
		`{"log":"hello\n","stream":"stdout","time":"2026-05-01T12:00"}`: "",
		"": "",
	} {
		got := ""
		if e, ok := parseEntry([]byte(line)); ok {
			got = string(e.stream) + map[bool]string{true: " P ", false: " F "}[e.partial] + string(e.content)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func TestTimesHaveNineDigits(t *testing.T) {
	for in, want := range map[string]string{
		"2026-05-01T12:00:00Z":                    "2026-05-01T12:00:00.000000000Z",
		"2026-05-01T12:00:00.5+01:00":             "2026-05-01T12:00:00.500000000+01:00",
		"2026-05-01T12:00:00.123456789Z":          "2026-05-01T12:00:00.123456789Z",
		"2026-05-01T12:00:00.1234567891234-03:00": "2026-05-01T12:00:00.123456789-03:00",
	} {
		if got := string(appendFixedTime(nil, []byte(in))); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// What is accepted can be written back, and its time, where it is one, is shown
// as the same instant.
func FuzzParseEntry(f *testing.F) {
	for line := range strings.Lines(sample) {
		f.Add([]byte(line))
	}
	f.Add([]byte("2026-05-01T12:00:00.123456789123+23:59 stderr P:a:b  x\ty "))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, ok := parseEntry(line)
		if !ok {
			return
		}
		back := bytes.Join([][]byte{e.time, e.stream, []byte(map[bool]string{true: "P", false: "F"}[e.partial]), e.content}, []byte(" "))
		again, ok := parseEntry(append(back, '\n'))
		if !ok || !bytes.Equal(again.content, e.content) || again.partial != e.partial || !bytes.Equal(again.stream, e.stream) {
			t.Fatalf("%q was read as %+v and written as %q", line, e, back)
		}
		fixed := string(appendFixedTime(nil, e.time))
		at, err := time.Parse(time.RFC3339Nano, string(e.time))
		if err != nil {
			return
		}
		shown, err := time.Parse(time.RFC3339Nano, fixed)
		if err != nil || !shown.Equal(at) {
			t.Fatalf("time %q is shown as %q: %v", e.time, fixed, err)
		}
	})
}

// However a log is cut into reads, the scanner gives the same lines.
func FuzzScanner(f *testing.F) {
	f.Add([]byte("a\nbb\n\nccc"), uint8(1))
	f.Add([]byte(sample), uint8(7))
	f.Fuzz(func(t *testing.T, text []byte, step uint8) {
		s := scanner{r: &stepReader{bytes.NewReader(text), int(step) + 1}}
		var got []byte
		for {
			line, err := s.next()
			if err != nil {
				break
			}
			if len(line) == 0 || line[len(line)-1] != '\n' || bytes.Count(line, []byte("\n")) != 1 {
				t.Fatalf("%q is not one line", line)
			}
			got = append(got, line...)
			if s.consumed() != int64(len(got)) {
				t.Fatalf("consumed %d after %d bytes", s.consumed(), len(got))
			}
		}
		if got = append(got, s.rest()...); !bytes.Equal(got, text) {
			t.Fatalf("got %q, want %q", got, text)
		}
	})
}

type stepReader struct {
	r    *bytes.Reader
	step int
}

func (r *stepReader) Read(p []byte) (int, error) { return r.r.Read(p[:min(len(p), r.step)]) }
