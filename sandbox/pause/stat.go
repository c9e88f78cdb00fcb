package pause

import "strings"

// statTicks returns field 22 of a /proc/PID/stat line, the start time. The
// command in field 2 may hold spaces and parentheses.
func statTicks(line string) string {
	_, rest, ok := cutLast(line, ")")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return "0"
	}
	return f[19]
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
