package main

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/metrics"
	"podd/pod/native"
	"podd/sandbox/cgroup"
)

// metrics returns the handlers for scrapers. Call it before the first action:
// probes are counted from then on.
func (a *agent) metrics() map[string]http.Handler {
	a.runtime.ProbeAttempt = func(p native.ProbeAttempt) { a.counters.Probe(metrics.ProbeAttempt(p)) }
	c := metrics.Config{
		Board:    a.board,
		Source:   meter{native.NewMeter(a.runtime)},
		Counters: a.counters,
		Node:     describeNode(a.runtime.NodeName, a.runtime.HostIPs, a.podCIDR),
		Version:  versionText(),
		Problems: func() (problems, refusedFiles int) { return len(a.problems()), a.watcher.Refused() },
	}
	all := metrics.Handlers(c)
	all["/stats/summary"] = metrics.Summary(c)
	return all
}

// describeNode reads what does not change about the machine; what cannot be
// read stays empty.
func describeNode(name string, ips []netip.Addr, podCIDR string) metrics.Node {
	n := metrics.Node{Name: name, PodCIDR: podCIDR}
	if len(ips) > 0 {
		n.InternalIP = ips[0].String()
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		n.Booted = time.Now().Add(-time.Duration(info.Uptime) * time.Second)
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		n.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		release, _ = os.ReadFile("/usr/lib/os-release") // os-release(5)
	}
	for line := range strings.Lines(string(release)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			n.OSImage = strings.Trim(value, `"'`)
		}
	}
	uuid, _ := os.ReadFile("/sys/class/dmi/id/product_uuid")
	n.SystemUUID = strings.TrimSpace(string(uuid))
	return n
}

// meter tells metrics what the runtime measures.
type meter struct{ *native.Meter }

func (m meter) Usage(ctx context.Context, p *v1.Pod) metrics.PodUsage {
	from := m.Meter.Usage(ctx, p)
	u := metrics.PodUsage{Pod: groupUsage(from.Pod), Sandbox: groupUsage(from.Sandbox), Containers: map[string]metrics.GroupUsage{}}
	for name, g := range from.Containers {
		u.Containers[name] = *groupUsage(&g)
	}
	if from.Network != nil {
		n := metrics.NetworkUsage(*from.Network)
		u.Network = &n
	}
	return u
}

func groupUsage(g *native.GroupUsage) *metrics.GroupUsage {
	if g == nil {
		return nil
	}
	u := &metrics.GroupUsage{
		Path: g.Path, ID: g.ID,
		CPU: g.CPU.Usage, CPUUser: g.CPU.User, CPUSystem: g.CPU.System,
		Periods: g.CPU.Periods, Throttled: g.CPU.Throttled, ThrottledTime: g.CPU.ThrottledTime,
		Memory: g.Memory.Usage, WorkingSet: g.Memory.WorkingSet, RSS: g.Memory.RSS, Cache: g.Memory.Cache, MappedFile: g.Memory.MappedFile,
		MaxMemory: g.Memory.MaxUsage, MemoryLimit: g.Memory.Limit, Swap: g.Memory.Swap, SwapLimit: g.Memory.SwapLimit,
		FailCount: g.Memory.FailCount, PageFaults: g.Memory.PageFaults, MajorPageFaults: g.Memory.MajorPageFaults,
		OOMKills: g.OOMKills, Threads: g.Pids.Current, ThreadsMax: g.Pids.Limit,
	}
	for _, d := range g.IO {
		u.IO = append(u.IO, ioUsage(d))
	}
	return u
}

func ioUsage(d cgroup.IOStats) metrics.IOUsage {
	return metrics.IOUsage{
		Device:    strconv.FormatUint(d.Major, 10) + ":" + strconv.FormatUint(d.Minor, 10),
		ReadBytes: d.ReadBytes, WriteBytes: d.WriteBytes, Reads: d.Reads, Writes: d.Writes,
	}
}

func (m meter) Volumes(ctx context.Context, p *v1.Pod) []metrics.VolumeUsage {
	var all []metrics.VolumeUsage
	for name, u := range m.Meter.Volumes(ctx, p) {
		all = append(all, metrics.VolumeUsage{
			Name: name, UsedBytes: u.UsedBytes, CapacityBytes: u.CapacityBytes, AvailableBytes: u.AvailableBytes,
			InodesUsed: u.InodesUsed, Inodes: u.Inodes, InodesFree: u.InodesFree,
		})
	}
	slices.SortFunc(all, func(a, b metrics.VolumeUsage) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (m meter) Machine(context.Context) (metrics.MachineUsage, error) {
	u, err := m.Meter.Machine()
	return metrics.MachineUsage(u), err
}
