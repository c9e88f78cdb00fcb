package main

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/api/node"
	"podd/internal/healthz"
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
		Source:   meter{a.meter},
		Counters: a.counters,
		Node:     metricsNode(a.facts),
		Version:  versionText(),
		Problems: func() (problems, refusedFiles int) { return len(a.problems()), a.watcher.Refused() },
	}
	all := metrics.Handlers(c)
	all["/stats/summary"] = metrics.Summary(c)
	all["/metrics/slis"] = healthz.SLIs(a.healthy)
	return all
}

// metricsNode is the part of what is known about the machine that metrics show.
func metricsNode(f node.Facts) metrics.Node {
	n := metrics.Node{
		Name: f.Name, KernelVersion: f.KernelVersion, OSImage: f.OSImage, PodCIDR: strings.Join(f.PodCIDRs, ","), SystemUUID: f.SystemUUID,
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		n.Booted = time.Now().Add(-time.Duration(info.Uptime) * time.Second)
	}
	if len(f.IPs) > 0 {
		n.InternalIP = f.IPs[0].String()
	}
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
