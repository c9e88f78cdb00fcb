package cgroup

import (
	"strconv"
	"strings"
	"time"
)

// Stats is what one group used, with everything below it.
type Stats struct {
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
	IO     []IOStats // v2 only
}

// CPUStats count since the group was created.
type CPUStats struct {
	Usage, User, System time.Duration

	// Periods counts the quota's periods in which the group ran, Throttled those
	// in which it used its quota up, ThrottledTime how long it then waited.
	Periods, Throttled uint64
	ThrottledTime      time.Duration
}

// MemoryStats are in bytes where they are not counts.
type MemoryStats struct {
	Usage      uint64 // everything charged to the group
	WorkingSet uint64 // Usage without file pages that were not used lately
	RSS        uint64 // anonymous memory
	Cache      uint64 // file pages, tmpfs included
	MappedFile uint64
	MaxUsage   uint64 // highest Usage so far; 0 where the kernel does not keep it
	Limit      uint64 // 0: none

	Swap      uint64
	SwapLimit uint64 // 0: none, or none allowed

	FailCount                   uint64 // how often the limit was hit
	PageFaults, MajorPageFaults uint64

	inactiveFile uint64
}

// PidsStats count processes and threads.
type PidsStats struct {
	Current uint64
	Limit   uint64 // 0: none
}

// IOStats are one block device's, since the group was created.
type IOStats struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64 // operations
}

// keyed returns the value of key in a file of "key value" lines; 0 without one.
func keyed(text, key string) uint64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key); ok && strings.HasPrefix(rest, " ") {
			n, _ := strconv.ParseUint(strings.TrimSpace(rest), 10, 64)
			return n
		}
	}
	return 0
}

// bounded turns the number that v1 shows for "no limit", the largest multiple of
// a page, into 0.
func bounded(limit uint64) uint64 {
	if limit >= 1<<62 {
		return 0
	}
	return limit
}

// parseIO reads io.stat: a line for each device, "8:0 rbytes=1 wbytes=2 …".
// Lines that look otherwise are passed over.
func parseIO(text string) []IOStats {
	var all []IOStats
	for line := range strings.Lines(text) {
		device, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		major, minor, ok := strings.Cut(device, ":")
		if !ok {
			continue
		}
		var s IOStats
		var err1, err2 error
		s.Major, err1 = strconv.ParseUint(major, 10, 32)
		s.Minor, err2 = strconv.ParseUint(minor, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		for field := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(field, "=")
			n, _ := strconv.ParseUint(value, 10, 64)
			switch key {
			case "rbytes":
				s.ReadBytes = n
			case "wbytes":
				s.WriteBytes = n
			case "rios":
				s.Reads = n
			case "wios":
				s.Writes = n
			}
		}
		all = append(all, s)
	}
	return all
}
