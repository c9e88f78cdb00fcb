// Package doctor looks at a machine and says, area by area, whether pods can
// live there, what is missing, and which command mends it.
//
// What lies in files is read below an injected root, so that recorded trees of
// broken hosts are tested; what only system calls tell is asked of a Kernel.
package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Verdict is how an area fares.
type Verdict string

const (
	OK   Verdict = "ok"   // nothing to do
	Warn Verdict = "warn" // pods run, something about them will not
	Fail Verdict = "fail" // pods are impossible
)

// Finding is one line of the screen.
type Finding struct {
	Area    string  `json:"area"`
	Verdict Verdict `json:"verdict"`
	Says    string  `json:"says"`           // what was found, and what it means for pods
	Mend    string  `json:"mend,omitempty"` // the command that mends it
}

// Kernel answers what no file tells.
type Kernel interface {
	// TryOverlay mounts an overlay with its directories in dir, or below its
	// nearest parent that exists, and leaves nothing.
	TryOverlay(dir string) error
	// ClockSynchronised tells what adjtimex says.
	ClockSynchronised() (bool, error)
	// NFTables tells why nftables cannot be used.
	NFTables() error
	// ForwardDrops names whose rules drop what pods send, and how that is mended.
	ForwardDrops() ([]Drop, error)
	// Overlaps says which routes of the host overlap the range of pods.
	Overlaps() ([]error, error)
}

// Drop is a firewall that stands in the way of pods.
type Drop struct {
	Who    string // as "ufw: chain ip filter/FORWARD"
	Mend   string
	Passed bool // by the agent, when it starts
}

// Host is the machine to look at.
type Host struct {
	Root    string // "/" but in tests
	RootDir string // the agent's --root-dir
	Bridge  string // the agent's --bridge
	Kernel  Kernel

	mounts []mount // of mountinfo, read once by run
}

type check struct {
	area     string
	possible bool // whether it can find that pods are impossible
	look     func(Host) Finding
}

var checks = []check{
	{"privileges", true, privileges},
	{"kernel", true, kernelVersion},
	{"cgroups", true, cgroups},
	{"namespaces", true, namespaces},
	{"overlay", true, overlay},
	{"nftables", true, nftables},
	{"forwarding", false, forwarding},
	{"pod range", true, podRange},
	{"bridge", false, bridge},
	{"memfd", false, memfd},
	{"resolv.conf", false, resolvConf},
	{"limits", true, limits},
	{"lsm", false, lsm},
	{"mounts", true, mounts},
	{"time", false, clock},
}

// Look makes every check.
func (h Host) Look() []Finding { return h.run(false) }

// Obstacles makes only the checks that can find pods impossible, and returns
// those that did.
func (h Host) Obstacles() []Finding {
	var out []Finding
	for _, f := range h.run(true) {
		if f.Verdict == Fail {
			out = append(out, f)
		}
	}
	return out
}

func (h Host) run(possibleOnly bool) []Finding {
	var out []Finding
	h.mounts = h.mountinfo()
	for _, c := range checks {
		if possibleOnly && !c.possible {
			continue
		}
		f := c.look(h)
		f.Area = c.area
		out = append(out, f)
	}
	return out
}

func ok(format string, args ...any) Finding {
	return Finding{Verdict: OK, Says: fmt.Sprintf(format, args...)}
}

func warn(mend, format string, args ...any) Finding {
	return Finding{Verdict: Warn, Says: fmt.Sprintf(format, args...), Mend: mend}
}

func fail(mend, format string, args ...any) Finding {
	return Finding{Verdict: Fail, Says: fmt.Sprintf(format, args...), Mend: mend}
}

// read returns a file's trimmed text, empty if there is none.
func (h Host) read(path string) string {
	b, _ := os.ReadFile(filepath.Join(h.Root, path))
	return strings.TrimSpace(string(b))
}

func (h Host) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(h.Root, path))
	return err == nil
}

// number reads a number; without one, or with "max", there is no limit.
func (h Host) number(path string) (int, bool) {
	n, err := strconv.Atoi(h.read(path))
	return n, err == nil
}

// status returns a line of /proc/self/status.
func (h Host) status(key string) string {
	for line := range strings.Lines(h.read("/proc/self/status")) {
		if v, found := strings.CutPrefix(line, key+":"); found {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// mount is a line of /proc/self/mountinfo.
type mount struct {
	at, options, fsType, superOptions string
	shared, slave                     bool
}

func (h Host) mountinfo() []mount {
	var out []mount
	for line := range strings.Lines(h.read("/proc/self/mountinfo")) {
		before, after, found := strings.Cut(line, " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if !found || len(b) < 6 || len(a) < 3 {
			continue
		}
		m := mount{at: unescape(b[4]), options: b[5], fsType: a[0], superOptions: a[2]}
		for _, tag := range b[6:] {
			m.shared = m.shared || strings.HasPrefix(tag, "shared:")
			m.slave = m.slave || strings.HasPrefix(tag, "master:")
		}
		out = append(out, m)
	}
	return out
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// mountOf returns the mount that holds a path: the longest, and of several at
// one place the last.
func (h Host) mountOf(path string) mount {
	var best mount
	for _, m := range h.mounts {
		if (m.at == "/" || path == m.at || strings.HasPrefix(path, m.at+"/")) && len(m.at) >= len(best.at) {
			best = m
		}
	}
	return best
}

func has(options, option string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == option {
			return true
		}
	}
	return false
}
