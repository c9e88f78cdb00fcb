package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Version is the layout of a machine's cgroups.
type Version int

const (
	// V1 has a hierarchy for each controller and none without.
	V1 Version = iota + 1
	// Hybrid is V1 with a v2 hierarchy beside it, by which processes are
	// tracked and killed.
	Hybrid
	// V2 has one hierarchy for everything.
	V2
)

func (v Version) String() string {
	switch v {
	case V1:
		return "v1"
	case Hybrid:
		return "hybrid"
	case V2:
		return "v2"
	}
	return fmt.Sprintf("Version(%d)", int(v))
}

// hierarchy is one mounted tree of groups.
type hierarchy struct {
	dir         string   // mount point
	controllers []string // those we use
	unified     bool     // cgroup v2
}

func (h *hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// The controllers that limits and figures come from. cpuset and blkio of v1 are
// left out: each hierarchy costs a directory and a write for every container,
// and a process that was never moved there keeps all CPUs and all devices' I/O.
var (
	usedV1 = []string{"cpu", "cpuacct", "memory", "pids", "devices"}
	usedV2 = []string{"cpu", "memory", "pids", "io"}
)

// detect reads a mountinfo file and tells which hierarchies hold what we use.
// The v2 hierarchy, if there is one, comes first.
func detect(mountinfoFile string) ([]hierarchy, Version, error) {
	f, err := os.Open(mountinfoFile)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot find the cgroup mounts: %w", err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, 0, fmt.Errorf("cannot find the cgroup mounts: %w", err)
	}
	// Other programs mount hierarchies a second time in places of their own.
	slices.SortStableFunc(mounts, func(a, b *mountinfo.Info) int { return outside(a) - outside(b) })

	var unified *hierarchy
	var hiers []hierarchy
	taken := map[string]bool{}
	for _, m := range mounts {
		switch {
		case m.FSType == "cgroup2" && unified == nil:
			unified = &hierarchy{dir: m.Mountpoint, unified: true}
		case m.FSType == "cgroup":
			h := hierarchy{dir: m.Mountpoint}
			for _, opt := range strings.Split(m.VFSOptions, ",") {
				if slices.Contains(usedV1, opt) && !taken[opt] {
					taken[opt] = true
					h.controllers = append(h.controllers, opt)
				}
			}
			if len(h.controllers) > 0 {
				hiers = append(hiers, h)
			}
		}
	}
	if unified != nil {
		available, err := readFile(unified.dir, "cgroup.controllers")
		if err != nil {
			return nil, 0, fmt.Errorf("cannot read the controllers of cgroup %s: %w", unified.dir, err)
		}
		for _, c := range strings.Fields(available) {
			if slices.Contains(usedV2, c) {
				unified.controllers = append(unified.controllers, c)
			}
		}
		hiers = slices.Insert(hiers, 0, *unified)
	}
	switch {
	case len(hiers) == 0:
		return nil, 0, fmt.Errorf("no cgroup file system is mounted; mount one with: mount -t cgroup2 none /sys/fs/cgroup")
	case unified == nil:
		return hiers, V1, nil
	case len(hiers) > 1:
		return hiers, Hybrid, nil
	}
	return hiers, V2, nil
}

func outside(m *mountinfo.Info) int {
	if m.Mountpoint == "/sys/fs/cgroup" || strings.HasPrefix(m.Mountpoint, filepath.Clean("/sys/fs/cgroup")+"/") {
		return 0
	}
	return 1
}
