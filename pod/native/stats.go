package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/container"
	"podd/pod"
	"podd/sandbox"
	"podd/sandbox/cgroup"
	"podd/sandbox/network"
	"podd/volumes"
)

const (
	// volumesMeasured is how often the kubelet looks what is in volumes.
	volumesMeasured = time.Minute
	// pauseMeasured is how often a pause process is measured; it does next to
	// nothing, and measuring it costs as much as measuring a container.
	pauseMeasured = time.Minute
)

// Meter measures pods by the groups, links and file systems of this machine.
// Its methods may be called from any goroutine; no pod waits for them.
type Meter struct {
	r *Runtime

	mu     sync.Mutex
	pauses map[types.UID]pauseMeasure // guarded by mu
	disks  map[volumeKey]diskMeasure  // guarded by mu
	totals map[types.UID]*podTotal    // guarded by mu
	// persistent are PersistentVolumes, by name; guarded by mu.
	persistent map[string]*persistentMeasure
	measuring  bool      // a goroutine walks volumes; guarded by mu
	pruned     time.Time // guarded by mu
}

type pauseMeasure struct {
	sandbox *sandbox.Sandbox // that the id was asked of
	id      string
	at      time.Time
	usage   GroupUsage
}

type volumeKey struct {
	uid  types.UID
	name string
}

// persistentMeasure is what is known of a volume, guarded by the meter's mu.
type persistentMeasure struct {
	usage    volumes.Usage
	known    bool
	measured chan struct{} // closed when the measure under way is over; nil: none is
}

type diskMeasure struct {
	at    time.Time
	usage volumes.Usage
}

// PodUsage is what a pod uses at one moment. What does not exist is nil or left
// out.
type PodUsage struct {
	Pod        *GroupUsage
	Sandbox    *GroupUsage           // the pause process
	Containers map[string]GroupUsage // the running ones, by name
	Network    *network.Stats        // nil for a pod on the host's network
}

// GroupUsage is what one cgroup uses.
type GroupUsage struct {
	Path     string // as in /proc/PID/cgroup
	ID       string // of the container or sandbox; empty for a pod
	OOMKills uint64
	cgroup.Stats
}

// MachineUsage is about the whole machine.
type MachineUsage struct {
	Cores                         int
	CPU                           time.Duration // of all cores since boot, idle time left out
	MemoryBytes, SwapBytes        uint64
	WorkingSetBytes, SwapInUse    uint64
	DiskBytes, AvailableDiskBytes uint64 // where pods have their data
}

// NewMeter returns a meter of the pods that r runs.
func NewMeter(r *Runtime) *Meter {
	return &Meter{r: r, pauses: map[types.UID]pauseMeasure{}, disks: map[volumeKey]diskMeasure{}, totals: map[types.UID]*podTotal{},
		persistent: map[string]*persistentMeasure{}}
}

// Usage measures a pod, whose status says which containers run.
func (m *Meter) Usage(ctx context.Context, p *v1.Pod) PodUsage {
	m.prune()
	u := PodUsage{Containers: map[string]GroupUsage{}}
	qos := container.QOS(p)
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			_, id, named := strings.Cut(list[i].ContainerID, "://")
			if list[i].State.Running == nil || !named {
				continue
			}
			group, err := m.r.Cgroups.FindContainer(qos, string(p.UID), id)
			if err != nil {
				continue
			}
			if g, ok := measureGroup(group, id); ok {
				u.Containers[list[i].Name] = g
			}
		}
	}
	if u.Pod = m.whole(p.UID, u.Containers); u.Pod != nil {
		u.Pod.Memory.Limit = uint64(max(0, container.PodResources(p).MemoryBytes))
	}
	u.Sandbox = m.pause(ctx, p.UID)
	if !p.Spec.HostNetwork && u.Sandbox != nil {
		if n, err := m.r.Network.Stats(ctx, string(p.UID)); err == nil {
			u.Network = &n
		}
	}
	return u
}

// measureGroup reads a group's figures; not ok is a group that is gone.
func measureGroup(group *cgroup.Group, id string) (g GroupUsage, ok bool) {
	s, err := group.Stats()
	if err != nil {
		return GroupUsage{}, false
	}
	kills, err := group.OOMKills()
	return GroupUsage{Path: "/" + strings.TrimPrefix(group.Path(), "/"), ID: id, OOMKills: kills, Stats: s}, err == nil
}

// podTotal is what the containers of one pod have counted so far, so that a
// pod's counters do not go back when a container starts anew. It begins with the
// agent.
type podTotal struct {
	last   map[string]GroupUsage // newest measure of each container's newest attempt, by name
	gone   GroupUsage            // counters of the attempts before
	goneID map[string]string     // the newest attempt in gone, by container name
}

// whole adds up the containers of a pod; nil when none runs. Reading the pod's
// own group would double the cost of a scrape.
func (m *Meter) whole(uid types.UID, running map[string]GroupUsage) *GroupUsage {
	if len(running) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.totals[uid]
	if t == nil {
		t = &podTotal{last: map[string]GroupUsage{}, goneID: map[string]string{}}
		m.totals[uid] = t
	}
	sum := &GroupUsage{}
	for name, g := range running {
		sum.Path = g.Path[:strings.LastIndexByte(g.Path, '/')]
		sum.Memory.Usage += g.Memory.Usage
		sum.Memory.WorkingSet += g.Memory.WorkingSet
		sum.Memory.RSS += g.Memory.RSS
		sum.Memory.Cache += g.Memory.Cache
		sum.Memory.MappedFile += g.Memory.MappedFile
		sum.Memory.Swap += g.Memory.Swap
		sum.Pids.Current += g.Pids.Current
		last := t.last[name]
		switch {
		case g.ID == t.goneID[name], g.ID == last.ID && g.CPU.Usage < last.CPU.Usage:
			// Someone else measured later than we did.
		case g.ID != last.ID && last.ID != "":
			t.gone.count(last)
			t.goneID[name] = last.ID
			t.last[name] = g
		default:
			t.last[name] = g
		}
	}
	sum.count(t.gone)
	for _, g := range t.last {
		sum.count(g)
	}
	return sum
}

// count adds what only grows.
func (g *GroupUsage) count(more GroupUsage) {
	g.OOMKills += more.OOMKills
	g.CPU.Usage += more.CPU.Usage
	g.CPU.User += more.CPU.User
	g.CPU.System += more.CPU.System
	g.CPU.Periods += more.CPU.Periods
	g.CPU.Throttled += more.CPU.Throttled
	g.CPU.ThrottledTime += more.CPU.ThrottledTime
	g.Memory.FailCount += more.Memory.FailCount
	g.Memory.PageFaults += more.Memory.PageFaults
	g.Memory.MajorPageFaults += more.Memory.MajorPageFaults
}

// pause measures the pod's pause process, nil if there is none.
func (m *Meter) pause(ctx context.Context, uid types.UID) *GroupUsage {
	m.r.mu.Lock()
	live := m.r.pods[uid]
	m.r.mu.Unlock()
	if live == nil {
		return nil
	}
	s := live.getSandbox()
	if s == nil {
		return nil
	}
	m.mu.Lock()
	last := m.pauses[uid]
	m.mu.Unlock()
	now := time.Now()
	switch {
	case last.sandbox != s:
		state, err := s.State(ctx)
		if err != nil {
			return nil
		}
		last = pauseMeasure{sandbox: s, id: state.ID}
	case now.Sub(last.at) < pauseMeasured:
		return &last.usage
	}
	group, err := m.r.Cgroups.FindPause(last.id)
	if err != nil {
		return nil
	}
	g, ok := measureGroup(group, last.id)
	if !ok {
		return nil
	}
	last.at, last.usage = now, g
	m.mu.Lock()
	m.pauses[uid] = last
	m.mu.Unlock()
	return &last.usage
}

// prune forgets measures of pods that are gone, now and then.
func (m *Meter) prune() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.pruned) < pauseMeasured {
		return
	}
	m.pruned = time.Now()
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	for uid := range m.pauses {
		if m.r.pods[uid] == nil {
			delete(m.pauses, uid)
		}
	}
	for uid := range m.totals {
		if m.r.pods[uid] == nil {
			delete(m.totals, uid)
		}
	}
	for key := range m.disks {
		if m.r.pods[key.uid] == nil {
			delete(m.disks, key)
		}
	}
}

// Volumes measures the pod's volumes that are emptyDirs, ephemeral or claims, by
// name. Memory-backed ones are asked for at once; those on disk are walked in the
// background at most once a minute, and are left out until that was done.
func (m *Meter) Volumes(ctx context.Context, p *v1.Pod) map[string]volumes.Usage {
	found := map[string]volumes.Usage{}
	t := pod.Target{UID: p.UID, Pod: p}
	var stale []v1.Volume
	for _, v := range p.Spec.Volumes {
		if v.EmptyDir == nil && v.Ephemeral == nil && v.PersistentVolumeClaim == nil || !mounted(p, v.Name) {
			continue
		}
		if v.EmptyDir != nil && v.EmptyDir.Medium != v1.StorageMediumDefault {
			if u, err := volumes.Measure(ctx, m.r.volumesPod(t), v); err == nil {
				found[v.Name] = u
			}
			continue
		}
		m.mu.Lock()
		last, measured := m.disks[volumeKey{p.UID, v.Name}]
		m.mu.Unlock()
		if measured {
			found[v.Name] = last.usage
		}
		if time.Since(last.at) >= volumesMeasured {
			stale = append(stale, v)
		}
	}
	if len(stale) > 0 {
		m.walk(t, stale)
	}
	return found
}

// persistentPatience is how long a user waits for a PersistentVolume's measure.
const persistentPatience = 2 * time.Second

// PersistentVolume measures a volume that is a directory of this machine. It waits
// a short while for that; then it answers with what was measured last. ok is false
// where nothing was, and for volumes that are no directories of this machine.
func (m *Meter) PersistentVolume(v *v1.PersistentVolume) (u volumes.Usage, ok bool) {
	path := ""
	switch s := v.Spec; {
	case s.Local != nil:
		path = s.Local.Path
	case s.HostPath != nil:
		path = s.HostPath.Path
	default:
		return volumes.Usage{}, false
	}
	m.mu.Lock()
	p := m.persistent[v.Name]
	if p == nil {
		p = &persistentMeasure{}
		m.persistent[v.Name] = p
	}
	if p.measured == nil {
		p.measured = make(chan struct{})
		go m.measurePersistent(p, path)
	}
	measured := p.measured
	m.mu.Unlock()
	select {
	case <-measured:
	case <-time.After(persistentPatience):
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return p.usage, p.known
}

// measurePersistent owns nothing; it ends when the volume is measured, a minute from
// now at the latest unless the disk does not answer.
func (m *Meter) measurePersistent(p *persistentMeasure, path string) {
	ctx, cancel := context.WithTimeout(context.Background(), volumesMeasured)
	defer cancel()
	u, err := volumes.MeasureDir(ctx, path)
	m.mu.Lock()
	defer m.mu.Unlock()
	p.usage, p.known = u, err == nil
	close(p.measured)
	p.measured = nil
}

// walk measures volumes on disk, unless others are being measured.
func (m *Meter) walk(t pod.Target, stale []v1.Volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.measuring {
		return
	}
	m.measuring = true
	// This goroutine owns nothing; it ends when the volumes of one pod are
	// measured, a minute from now at the latest.
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), volumesMeasured)
		defer cancel()
		for _, v := range stale {
			u, err := volumes.Measure(ctx, m.r.volumesPod(t), v)
			m.mu.Lock()
			if err == nil {
				m.disks[volumeKey{t.UID, v.Name}] = diskMeasure{time.Now(), u}
			} else {
				delete(m.disks, volumeKey{t.UID, v.Name})
			}
			m.mu.Unlock()
		}
		m.mu.Lock()
		m.measuring = false
		m.mu.Unlock()
	}()
}

// userHZ is the unit of times in /proc/stat; see proc(5) and time(7).
const userHZ = 100

// Machine measures the whole machine.
func (m *Meter) Machine() (MachineUsage, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return MachineUsage{}, fmt.Errorf("cannot measure the machine: %w", err)
	}
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return MachineUsage{}, fmt.Errorf("cannot measure the machine: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(m.r.RootDir, &fs); err != nil {
		return MachineUsage{}, fmt.Errorf("cannot read the size of the file system of %s: %w", m.r.RootDir, err)
	}
	u := MachineUsage{
		Cores:     runtime.NumCPU(),
		DiskBytes: fs.Blocks * uint64(fs.Bsize), AvailableDiskBytes: fs.Bavail * uint64(fs.Bsize),
	}
	busy, _, err := cpuTimes(string(stat))
	u.CPU = busy
	return u, errors.Join(err, memoryUse(string(memory), &u))
}

// cpuTimes reads the first line of /proc/stat: cpu, then the time in user,
// nice, system, idle, iowait, irq, softirq and steal, of all CPUs together.
// Guests' time, which follows, is part of user's.
func cpuTimes(stat string) (busy, idle time.Duration, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("cannot measure the machine: /proc/stat begins with %q", line)
	}
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("cannot measure the machine: /proc/stat: %w", err)
		}
		if t := time.Duration(n) * (time.Second / userHZ); i == 3 || i == 4 {
			idle += t
		} else {
			busy += t
		}
	}
	return busy, idle, nil
}

// memoryUse reads /proc/meminfo. The working set is what is in use without
// file pages that were not used lately, as for a cgroup.
func memoryUse(meminfo string, u *MachineUsage) error {
	bytes := map[string]uint64{}
	for line := range strings.Lines(meminfo) {
		key, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); len(fields) > 0 {
			n, _ := strconv.ParseUint(fields[0], 10, 64)
			bytes[key] = n << 10
		}
	}
	total := bytes["MemTotal"]
	if total == 0 {
		return errors.New("cannot measure the machine: /proc/meminfo has no MemTotal")
	}
	u.MemoryBytes, u.SwapBytes = total, bytes["SwapTotal"]
	u.WorkingSetBytes = total - min(total, bytes["MemFree"]+bytes["Inactive(file)"])
	u.SwapInUse = u.SwapBytes - min(u.SwapBytes, bytes["SwapFree"])
	return nil
}
