package logs

import (
	"bytes"
	"time"
)

// entry is one line of a log file. The slices point into the line.
//
// Format: <RFC3339Nano> <stdout|stderr> <tag[:more]> <content>\n with tag F for
// the end of a line and P for a piece that goes on in the next entry of its
// stream. Source: Kubernetes, CRI logging format.
type entry struct {
	time    []byte
	stream  []byte
	partial bool
	content []byte // without the entry's newline
}

// parseEntry takes a line with or without its newline.
func parseEntry(line []byte) (e entry, ok bool) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	e.time, line, ok = bytes.Cut(line, []byte(" "))
	if !ok || !isTime(e.time) {
		return entry{}, false
	}
	e.stream, line, ok = bytes.Cut(line, []byte(" "))
	if !ok || string(e.stream) != "stdout" && string(e.stream) != "stderr" {
		return entry{}, false
	}
	tags, content, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(tags) == 0 {
		return entry{}, false
	}
	tag, _, _ := bytes.Cut(tags, []byte(":"))
	e.partial = string(tag) == "P"
	e.content = content
	return e, true
}

// isTime tells whether b has the form of RFC3339Nano. It is a few nanoseconds
// where time.Parse takes a hundred.
func isTime(b []byte) bool {
	const form = "0000-00-00T00:00:00"
	if len(b) <= len(form) || !hasForm(b[:len(form)], form) {
		return false
	}
	b = b[len(form):]
	if b[0] == '.' {
		digits := 1
		for digits < len(b) && isDigit(b[digits]) {
			digits++
		}
		if digits == 1 {
			return false
		}
		b = b[digits:]
	}
	if len(b) == 1 {
		return b[0] == 'Z'
	}
	return hasForm(b, "+00:00") || hasForm(b, "-00:00")
}

// hasForm compares b with form, in which 0 stands for any digit.
func hasForm(b []byte, form string) bool {
	if len(b) != len(form) {
		return false
	}
	for i := range b {
		if form[i] == '0' && isDigit(b[i]) {
			continue
		}
		if b[i] != form[i] {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// appendFixedTime appends t, of which [isTime] is true, with exactly nine digits
// of fraction, so that columns line up.
func appendFixedTime(buf, t []byte) []byte {
	const seconds = len("0000-00-00T00:00:00")
	buf = append(buf, t[:seconds]...)
	t = t[seconds:]
	digits := 0
	if t[0] == '.' {
		for t = t[1:]; len(t) > 0 && isDigit(t[0]); t = t[1:] {
			if digits == 0 {
				buf = append(buf, '.')
			}
			if digits < 9 {
				buf = append(buf, t[0])
				digits++
			}
		}
	} else {
		buf = append(buf, '.')
	}
	for ; digits < 9; digits++ {
		buf = append(buf, '0')
	}
	return append(buf, t...)
}

// before tells whether the entry was written before t. An entry whose time has
// the form but is none (a 30th of February) is not ok.
func (e entry) before(t time.Time) (before, ok bool) {
	at, err := time.Parse(time.RFC3339Nano, string(e.time))
	if err != nil {
		return false, false
	}
	return at.Before(t), true
}
