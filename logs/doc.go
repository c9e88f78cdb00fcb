// Package logs knows where containers' logs are and how they read.
//
// A container's log is a directory with, for each attempt n, the file n.log,
// which its writer appends to, and files n.log.YYYYMMDD-HHMMSS, which the writer
// rotated away by renaming n.log. [Read] gives back what the container wrote, over all of
// them; [Compress] packs the rotated ones and removes the oldest.
//
// The package does not write logs: the pause process of each pod does. It keeps
// no state but that of a [Watcher], which belongs to whoever made it.
//
// Read first: [Read], [Options], [Compress].
package logs
