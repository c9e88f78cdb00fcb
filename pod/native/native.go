// Package native is pod.Runtime on this kernel: the one place that knows in
// which order sandboxes, volumes, images, containers and probes are built and
// taken down. It decides nothing; what to do comes from the pod's worker, and
// what came of it goes back as facts.
//
// The kernel, the pause processes and the disk own the state. What is kept in
// memory here are handles to it, found again by [Runtime.Inspect] after a
// restart of the agent.
//
// Read first: [New], [Runtime.Perform] and, for the order of things,
// ensureSandbox (sandbox.go) and startContainer (container.go).
package native

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/container/seccomp"
	"podd/images"
	"podd/pod"
	"podd/sandbox"
	"podd/sandbox/cgroup"
	"podd/sandbox/network"
	"podd/volumes"
)

// Config is what a [Runtime] works with.
type Config struct {
	RootDir          string // volumes, container directories; /var/lib/podd
	RunDir           string // /run/podd
	PodLogsDir       string // /var/log/pods
	ContainerLogsDir string // /var/log/containers: a link per container
	NodeName         string
	HostIPs          []netip.Addr
	ClusterDNS       []netip.Addr
	ClusterDomain    string // "cluster.local"
	ResolvConf       string // "/etc/resolv.conf"
	LogMaxBytes      int64  // a container's log is rotated at this size
	LogMaxFiles      int    // log files per attempt, the live one included
	PodPidsLimit     int64  // processes and threads per pod; zero: no limit
	AllowedSysctls   []string

	Sandboxes *sandbox.Host
	Cgroups   *cgroup.Tree
	Network   *network.Network
	Images    *images.Store
	Logger    logr.Logger

	// Services returns the Services of a namespace, for the environment of containers;
	// it may wait until they are known. Nil: there are none.
	Services func(namespace string) []*v1.Service

	// StrictProbes makes each probe attempt that runs into its timeout a failure,
	// also where the machine let nobody answer.
	StrictProbes bool

	// ProbeAttempt is called after each attempt of a probe. Nil: nobody counts.
	ProbeAttempt func(ProbeAttempt)
}

// ProbeAttempt is one attempt of a probe, for metrics.
type ProbeAttempt struct {
	UID                       types.UID
	Namespace, Pod, Container string
	Kind                      pod.ProbeKind
	Outcome                   pod.ProbeOutcome
	Took                      time.Duration
}

// Runtime builds pods on this machine. It implements [pod.Runtime].
type Runtime struct {
	Config
	log      logr.Logger
	host     hostFacts
	seccomp  seccomp.Cache
	bootID   string
	patience time.Duration // with volumes, see [volumePatience]
	slow     time.Duration // [volumeSlow]

	mu   sync.Mutex
	pods map[types.UID]*livePod // guarded by mu
	// claims are the pods that have a claim's volume, the first one first; guarded by mu.
	claims map[pod.Key][]types.UID
}

// hostFacts are what containers may learn of the machine; they do not change
// while the agent runs.
type hostFacts struct {
	cpuMilli    int64
	memoryBytes int64
	diskBytes   int64
	caps        []string
	kernel      seccomp.Kernel
	cgroupV2    bool
}

var _ pod.Runtime = (*Runtime)(nil)

// New returns a runtime. Nothing is created before the first action.
func New(c Config) (*Runtime, error) {
	host, err := readHost(c)
	if err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("cannot tell one boot from another: %w", err)
	}
	return &Runtime{
		Config:   c,
		log:      c.Logger,
		host:     host,
		bootID:   strings.TrimSpace(string(boot)),
		pods:     map[types.UID]*livePod{},
		claims:   map[pod.Key][]types.UID{},
		patience: volumePatience,
		slow:     volumeSlow,
	}, nil
}

func readHost(c Config) (hostFacts, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return hostFacts{}, fmt.Errorf("cannot read the machine's memory size: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(c.RootDir, &fs); err != nil {
		return hostFacts{}, fmt.Errorf("cannot read the size of the file system of %s: %w", c.RootDir, err)
	}
	caps, err := boundingCapabilities()
	if err != nil {
		return hostFacts{}, err
	}
	kernel, err := kernelVersion()
	if err != nil {
		return hostFacts{}, err
	}
	return hostFacts{
		cpuMilli:    int64(runtime.NumCPU()) * 1000,
		memoryBytes: int64(info.Totalram) * int64(info.Unit),
		diskBytes:   int64(fs.Blocks) * fs.Bsize,
		caps:        caps,
		kernel:      kernel,
		cgroupV2:    c.Cgroups.Version() == cgroup.V2,
	}, nil
}

// Perform carries out one action; see [pod.Runtime].
func (r *Runtime) Perform(ctx context.Context, t pod.Target, a pod.Action, report func(pod.Fact)) {
	var err error
	switch a := a.(type) {
	case pod.EnsureSandbox:
		r.ensureSandbox(ctx, t, a, report)
	case pod.EnsureVolumes:
		r.ensureVolumes(ctx, t, report)
	case pod.RefreshVolumes:
		r.setUpVolumes(ctx, t, volumes.HoldsFiles, report)
	case pod.EnsureImage:
		r.ensureImage(ctx, t, a, report)
	case pod.StartContainer:
		r.startContainer(ctx, t, a, report)
	case pod.RunHook:
		r.runHook(ctx, t, a, report)
	case pod.ResizePod:
		r.resize(ctx, t, a, report)
	case pod.StopContainer:
		err = r.stopContainer(ctx, t, a)
	case pod.StartProbe:
		r.startProbe(ctx, t, a, report)
	case pod.StopProbe:
		r.live(t.UID).stopProbe(a.Container, a.Kind)
	case pod.ForgetContainer:
		err = r.forgetContainer(ctx, t, a)
	case pod.DestroySandbox:
		if err = r.destroySandbox(ctx, t); err == nil {
			report(pod.SandboxGone{At: now()})
		}
	case pod.RemovePod:
		if err = r.removePod(ctx, t); err == nil {
			report(pod.PodRemoved{At: now()})
		}
	default:
		panic(fmt.Sprintf("native: unknown action %T", a))
	}
	if err != nil && ctx.Err() == nil {
		report(pod.ActionFailed{At: now(), Action: a, Err: err.Error()})
	}
}

// Present lists the pods of which a sandbox, a cgroup or a directory exists.
func (r *Runtime) Present(context.Context) ([]types.UID, error) {
	found := map[types.UID]bool{}
	uids, err := r.Sandboxes.List()
	for _, uid := range uids {
		found[types.UID(uid)] = true
	}
	groups, groupErr := r.Cgroups.Pods()
	for _, uid := range groups {
		found[types.UID(uid)] = true
	}
	dirs, dirErr := os.ReadDir(filepath.Join(r.RootDir, "pods"))
	if errors.Is(dirErr, os.ErrNotExist) {
		dirErr = nil
	}
	for _, d := range dirs {
		if d.IsDir() {
			found[types.UID(d.Name())] = true
		}
	}
	all := make([]types.UID, 0, len(found))
	for uid := range found {
		all = append(all, uid)
	}
	return all, errors.Join(err, groupErr, dirErr)
}

// podDir is where a pod's volumes, generated files and containers lie.
func (r *Runtime) podDir(uid types.UID) string {
	return filepath.Join(r.RootDir, "pods", string(uid))
}

// attemptDir is where one attempt of a container has its writable layer and
// termination message.
func (r *Runtime) attemptDir(uid types.UID, container string, attempt int) string {
	return filepath.Join(r.podDir(uid), "c", container, fmt.Sprint(attempt))
}

// exitDir is where the pause process records an attempt's exit.
func (r *Runtime) exitDir(uid types.UID, container string, attempt int) string {
	return filepath.Join(r.RunDir, "pods", string(uid), "c", container, fmt.Sprint(attempt))
}

func now() pod.At { return pod.At{Time: time.Now()} }

// containerOf returns the container with the name. The worker only names
// containers that exist.
func containerOf(p *v1.Pod, name string) *v1.Container {
	if c := findContainer(p, name); c != nil {
		return c
	}
	panic(fmt.Sprintf("native: pod %s/%s has no container %q", p.Namespace, p.Name, name))
}

// Reconcile makes addresses, host ports and who uses which claim agree with the
// pods that records tell of. Call it once, before any action.
func (r *Runtime) Reconcile(ctx context.Context, records []pod.Record) error {
	present := map[string]network.Held{}
	for _, rec := range records {
		r.adoptClaims(rec)
		if rec.Pod == nil || rec.Pod.Spec.HostNetwork {
			continue
		}
		held := network.Held{Addrs: rec.Observed.Sandbox.IPs}
		if rec.Observed.Sandbox.Phase == pod.SandboxRunning {
			held.Ports = hostPorts(rec.Pod)
		}
		present[string(rec.UID)] = held
	}
	return errors.Join(r.Network.Reconcile(ctx, present), r.removeEmptyPauses(ctx))
}

// removeEmptyPauses removes the control groups of pause processes that are
// gone: an agent that was killed while it made or removed a sandbox leaves one
// that no record names. A sandbox that is completed makes its group again.
func (r *Runtime) removeEmptyPauses(ctx context.Context) error {
	ids, err := r.Cgroups.Pauses()
	if err != nil {
		return err
	}
	for _, id := range ids {
		group, err := r.Cgroups.FindPause(id)
		if err != nil || !group.Empty() {
			continue
		}
		if err := group.Remove(ctx); err != nil {
			r.log.Error(err, "cannot remove the control group of a former sandbox")
		}
	}
	return nil
}
