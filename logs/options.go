package logs

import "time"

// Options say which part of a log to read and how to show it. The zero value
// reads all of it, once.
type Options struct {
	// Follow keeps reading what is written, over rotations, until Done is closed
	// and everything is read.
	Follow bool
	// Done is closed when the container no longer runs. nil: it runs until the
	// context ends. Used with Follow only.
	Done <-chan struct{}
	// Watch tells when something in a directory changes; see [Watcher.Watch].
	// nil: an inotify instance for the time of this call. Used with Follow only.
	Watch func(dir string) (changed <-chan struct{}, stop func(), err error)
	// Timestamps puts the time of writing before each line.
	Timestamps bool
	// TailLines is how many log entries from the end to start with; nil: all. A
	// line longer than 16 KiB is several entries.
	TailLines *int64
	// SinceTime leaves out entries that are older. Zero: none. Applied after TailLines.
	SinceTime time.Time
	// LimitBytes ends the output after so many bytes; nil: no limit.
	LimitBytes *int64
	// Stream is "stdout" or "stderr" to show only that one; empty: both.
	Stream string
}
