// Package manifest turns Pod YAML into [pod.Desired], or into problems with
// file, line and column. It knows every field of a v1 Pod ([Fields]): what is
// honoured, what is accepted with a warning, what is refused and why.
//
// A file may hold several documents, and Lists of objects. Each object stands
// for itself: one with mistakes is reported, the others go on.
//
// The package reads files and nothing else of the machine. It does not say
// whether an image exists or a port is free.
//
// [Parse] and [Check] keep no state. A [Watcher] owns what it last read of a
// directory; its Run goroutine is the only one that changes it.
//
// Read first: [Parse] (parse.go), [Fields] (fields.go) and [Watcher] (watcher_linux.go).
package manifest
