package cgroup

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Stats reads the group's figures, those of the groups below it included. It
// takes about ten small reads. What the machine does not count stays zero; the
// error of a group that is gone wraps [os.ErrNotExist].
func (g *Group) Stats() (Stats, error) {
	var s Stats
	for i := range g.tree.hiers {
		h := &g.tree.hiers[i]
		r := reader{dir: g.dir(h)}
		for _, c := range h.controllers {
			if h.unified {
				r.unified(c, &s)
			} else {
				r.v1(c, &s)
			}
		}
		if h.unified && !h.has("cpu") && g.tree.holder("cpuacct") == nil {
			// v2 counts CPU time in every group, controller or not.
			r.unified("cpu", &s)
		}
		if r.err != nil {
			return Stats{}, fmt.Errorf("cannot measure cgroup %s: %w", g.path, r.err)
		}
	}
	s.Memory.WorkingSet = s.Memory.Usage - min(s.Memory.Usage, s.Memory.inactiveFile)
	return s, nil
}

// OOMKills counts the processes of the group that the kernel killed for want of
// memory since the group was created; on v2 those of the groups below it too.
// Where memory is not controlled, or the group is gone, it is 0.
func (g *Group) OOMKills() (uint64, error) {
	h := g.tree.holder("memory")
	if h == nil {
		return 0, nil
	}
	file := "memory.oom_control"
	if h.unified {
		file = "memory.events"
	}
	text, err := readFile(g.dir(h), file)
	if gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot count the out-of-memory kills of cgroup %s: %w", g.path, err)
	}
	return keyed(text, "oom_kill"), nil
}

// reader reads files of one group and keeps the first error.
type reader struct {
	dir string
	err error
}

// text returns a file's content, "" if this kernel does not have the file.
func (r *reader) text(file string) string {
	if r.err != nil {
		return ""
	}
	text, err := readFile(r.dir, file)
	if gone(err) {
		if _, gerr := readFile(r.dir, "cgroup.procs"); !gone(gerr) {
			return ""
		}
	}
	r.err = err
	return text
}

// number reads a file of one number; "max" is 0, like a missing file.
func (r *reader) number(file string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(r.text(file)), 10, 64)
	return n
}

func (r *reader) v1(controller string, s *Stats) {
	switch controller {
	case "cpu":
		text := r.text("cpu.stat")
		s.CPU.Periods = keyed(text, "nr_periods")
		s.CPU.Throttled = keyed(text, "nr_throttled")
		s.CPU.ThrottledTime = time.Duration(keyed(text, "throttled_time"))
	case "cpuacct":
		s.CPU.Usage = time.Duration(r.number("cpuacct.usage"))
		s.CPU.User = time.Duration(r.number("cpuacct.usage_user"))
		s.CPU.System = time.Duration(r.number("cpuacct.usage_sys"))
	case "memory":
		m := &s.Memory
		text := r.text("memory.stat")
		m.RSS = keyed(text, "total_rss")
		m.Cache = keyed(text, "total_cache")
		m.MappedFile = keyed(text, "total_mapped_file")
		m.Swap = keyed(text, "total_swap")
		m.PageFaults = keyed(text, "total_pgfault")
		m.MajorPageFaults = keyed(text, "total_pgmajfault")
		m.inactiveFile = keyed(text, "total_inactive_file")
		m.Usage = r.number("memory.usage_in_bytes")
		m.MaxUsage = r.number("memory.max_usage_in_bytes")
		// With no swap allowed both limits are equal, and the second one is hit.
		m.FailCount = r.number("memory.failcnt") + r.number("memory.memsw.failcnt")
		m.Limit = bounded(r.number("memory.limit_in_bytes"))
		if both := bounded(r.number("memory.memsw.limit_in_bytes")); both > m.Limit && m.Limit > 0 {
			m.SwapLimit = both - m.Limit
		}
	case "pids":
		r.pids(s)
	}
}

func (r *reader) unified(controller string, s *Stats) {
	switch controller {
	case "cpu":
		text := r.text("cpu.stat")
		micros := func(key string) time.Duration { return time.Duration(keyed(text, key)) * time.Microsecond }
		s.CPU = CPUStats{
			Usage: micros("usage_usec"), User: micros("user_usec"), System: micros("system_usec"),
			Periods: keyed(text, "nr_periods"), Throttled: keyed(text, "nr_throttled"),
			ThrottledTime: micros("throttled_usec"),
		}
	case "memory":
		m := &s.Memory
		text := r.text("memory.stat")
		m.RSS = keyed(text, "anon")
		m.Cache = keyed(text, "file")
		m.MappedFile = keyed(text, "file_mapped")
		m.PageFaults = keyed(text, "pgfault")
		m.MajorPageFaults = keyed(text, "pgmajfault")
		m.inactiveFile = keyed(text, "inactive_file")
		m.Usage = r.number("memory.current")
		m.MaxUsage = r.number("memory.peak")
		m.FailCount = keyed(r.text("memory.events"), "max")
		m.Limit = r.number("memory.max")
		m.Swap = r.number("memory.swap.current")
		m.SwapLimit = r.number("memory.swap.max")
	case "pids":
		r.pids(s)
	case "io":
		s.IO = parseIO(r.text("io.stat"))
	}
}

func (r *reader) pids(s *Stats) {
	s.Pids.Current = r.number("pids.current")
	s.Pids.Limit = r.number("pids.max")
}
