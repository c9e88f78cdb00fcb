package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

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

// pauseOOMScoreAdj is the kubelet's value for sandboxes: of all processes, the
// one that holds a pod together is taken last.
const pauseOOMScoreAdj = -998

// Reasons of SandboxFailed that the kubelet has for what we report there.
const (
	reasonSandbox  = "FailedCreatePodSandBox"
	reasonPorts    = "NodePorts"
	reasonSysctl   = "SysctlForbidden"
	ReasonFirewall = "FirewallDrops" // of an event: podd's own, a kubelet leaves firewalls to others
	bootFile       = "boot"
	hostsFile      = "etc-hosts"
	hostnameFile   = "hostname"
	resolvConfFile = "resolv.conf"
)

// ensureSandbox builds a pod's surroundings. The order: what can refuse the pod
// without a trace (sysctls, names), then addresses and host ports, then the
// pause process with the network beside it, then the host ports' rules, which
// need the pod's address to answer.
func (r *Runtime) ensureSandbox(ctx context.Context, t pod.Target, a pod.EnsureSandbox, report func(pod.Fact)) {
	live := r.live(t.UID)
	live.setName(t)
	ips, err := r.buildSandbox(ctx, t, a, report)
	if err == nil {
		report(pod.SandboxUp{At: now(), ID: a.ID, Attempt: a.Attempt, IPs: ips})
		if !t.Pod.Spec.HostNetwork {
			for _, d := range r.Network.Drops() {
				report(pod.Noted{At: now(), Warning: true, Reason: ReasonFirewall, Message: d.Message()})
			}
		}
		return
	}
	if ctx.Err() != nil {
		return
	}
	failed := pod.SandboxFailed{At: now(), ID: a.ID, Reason: reasonSandbox, Message: err.Error()}
	var ports *network.PortConflictError
	var refused *refusedError
	switch {
	case errors.As(err, &ports):
		failed.Reason, failed.Message = reasonPorts, r.portConflict(ports)
	case errors.As(err, &refused):
		failed.Reason, failed.Message = refused.reason, refused.Error()
	}
	// What is half made holds addresses and ports that others may want.
	if err := r.destroySandbox(ctx, t); err != nil {
		r.log.Error(err, "cannot remove a half-made sandbox", "pod", r.podName(t.UID))
	}
	report(failed)
}

// refusedError says that this node will not run the pod as it is.
type refusedError struct {
	reason string
	err    error
}

func (e *refusedError) Error() string { return e.err.Error() }

func (r *Runtime) buildSandbox(ctx context.Context, t pod.Target, a pod.EnsureSandbox, report func(pod.Fact)) ([]netip.Addr, error) {
	p := t.Pod
	if err := container.CheckSysctls(p, r.AllowedSysctls); err != nil {
		return nil, &refusedError{reasonSysctl, err}
	}
	names, err := container.Hostname(p, r.ClusterDomain)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.podDir(t.UID), 0o750); err != nil {
		return nil, err
	}
	pause, err := r.Cgroups.Pause(a.ID)
	if err != nil {
		return nil, err
	}
	cg, closeFiles, err := cgroupFiles(ctx, pause)
	if err != nil {
		return nil, err
	}
	defer closeFiles()

	want := sandbox.Want{
		UID: string(t.UID), ID: a.ID, Attempt: a.Attempt,
		HostNetwork: p.Spec.HostNetwork, HostIPC: p.Spec.HostIPC, HostPID: p.Spec.HostPID,
		ShareProcessNamespace: p.Spec.ShareProcessNamespace != nil && *p.Spec.ShareProcessNamespace,
		Sysctls:               container.SandboxSysctls(p),
		Cgroup:                cg,
		OOMScoreAdj:           pauseOOMScoreAdj,
	}
	var ips []netip.Addr
	var held []*os.File
	if !p.Spec.HostNetwork {
		want.Hostname, want.Domainname = names.Kernel, ""
		if ips, err = r.Network.Allocate(string(t.UID)); err != nil {
			return nil, err
		}
		ports := hostPorts(p)
		if held, err = r.Network.ReservePorts(string(t.UID), ports, ips); err != nil {
			return nil, err
		}
		defer closeAll(held)
		want.Network = func(ctx context.Context, netns *os.File) error {
			if err := r.Network.Attach(ctx, string(t.UID), netns, ips); err != nil {
				return err
			}
			return r.Network.MapPorts(ctx, string(t.UID), ports, ips)
		}
	}
	if p.Spec.HostNetwork && len(r.HostIPs) > 0 {
		// The container will take its ports itself; asking for them now names
		// whoever holds them.
		asked, err := r.Network.ReservePorts(string(t.UID), hostPorts(p), r.HostIPs)
		if err != nil {
			return nil, err
		}
		closeAll(asked)
	}
	furnished := make(chan error, 1)
	go func() { // awaited below
		err := r.furnish(ctx, t, names, ips, report)
		if err == nil && a.Attempt == 0 {
			r.readyFirst(ctx, t)
		}
		furnished <- err
	}()
	s, err := r.Sandboxes.Ensure(ctx, want)
	if furnishErr := <-furnished; err == nil {
		err = furnishErr
	}
	if err != nil {
		return nil, err
	}
	if len(held) > 0 {
		if err := s.Hold(ctx, held); err != nil {
			return nil, err
		}
	}
	r.live(t.UID).setSandbox(s)
	return ips, nil
}

// furnish makes what containers find in their pod and the pause process does
// without: it is made beside it.
func (r *Runtime) furnish(ctx context.Context, t pod.Target, names container.Names, ips []netip.Addr, report func(pod.Fact)) error {
	if err := volumes.Shm(ctx, r.volumesPod(t)); err != nil {
		return err
	}
	// Containers are put below it by name.
	if _, err := r.Cgroups.Pod(container.QOS(t.Pod), string(t.UID), r.podLimits(t.Pod)); err != nil {
		return err
	}
	if err := r.writeNetworkFiles(t, names, ips, report); err != nil {
		return err
	}
	for _, c := range t.Pod.Spec.Containers { // init containers have time
		if err := r.makeDirs(t, c.Name, 0); err != nil {
			return err
		}
	}
	return nil
}

// writeNetworkFiles writes what every container of the pod finds at /etc/hosts,
// /etc/hostname and /etc/resolv.conf, and which boot the sandbox belongs to.
func (r *Runtime) writeNetworkFiles(t pod.Target, names container.Names, ips []netip.Addr, report func(pod.Fact)) error {
	p := t.Pod
	var hostHosts []byte
	hostname := names.Hostname
	if p.Spec.HostNetwork {
		hostHosts, _ = os.ReadFile("/etc/hosts") // a host without one has no names to pass on
		hostname = r.NodeName
	}
	host, err := os.ReadFile(r.ResolvConf)
	if err != nil && r.ResolvConf != "" && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot read the host's name servers: %w", err)
	}
	upstream, _ := os.ReadFile("/run/systemd/resolve/resolv.conf") // only where systemd-resolved runs
	resolv, events := container.ResolvConf(p, container.DNS{Host: host, Upstream: upstream, ClusterDNS: r.ClusterDNS, ClusterDomain: r.ClusterDomain})
	for _, e := range events {
		if e.Reason == "MissingClusterDNS" {
			continue // there is no cluster here: dnsPolicy's default means the host's name servers
		}
		report(pod.Noted{At: now(), Warning: true, Reason: e.Reason, Message: e.Message})
	}
	dir := r.podDir(t.UID)
	for name, content := range map[string][]byte{
		hostsFile:      container.HostsFile(p, names, ips, hostHosts),
		hostnameFile:   []byte(hostname + "\n"),
		resolvConfFile: resolv,
		bootFile:       []byte(r.bootID),
	} {
		// Written in place: running containers have these very files mounted.
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// portConflict says who holds a host port, by the pod's name where it is a pod.
func (r *Runtime) portConflict(e *network.PortConflictError) string {
	if e.PodUID != "" {
		return fmt.Sprintf("host port %s is taken by pod %s", e.Mapping, r.podName(types.UID(e.PodUID)))
	}
	return e.Error()
}

// destroySandbox ends the pod's processes and gives back what other pods may
// want: addresses stay the pod's until it is removed, host ports do not.
func (r *Runtime) destroySandbox(ctx context.Context, t pod.Target) error {
	live := r.live(t.UID)
	live.stopProbes("")
	live.setEnding()
	live.keepRoot(nil)
	var id string
	if s := live.getSandbox(); s != nil {
		if st, err := s.State(ctx); err == nil {
			id = st.ID
		}
	}
	if id == "" {
		id = t.SandboxID
	}
	err := errors.Join(
		r.Network.UnmapPorts(ctx, string(t.UID)),
		r.Sandboxes.Destroy(ctx, string(t.UID)),
		r.Cgroups.RemovePod(ctx, string(t.UID)),
		r.Network.Detach(ctx, string(t.UID)),
	)
	if id != "" {
		if pause, pauseErr := r.Cgroups.FindPause(id); pauseErr == nil {
			err = errors.Join(err, pause.Remove(ctx))
		}
	}
	live.setSandbox(nil)
	return err
}

// removePod removes everything of a pod, the sandbox first: nothing may use a
// volume that goes away.
func (r *Runtime) removePod(ctx context.Context, t pod.Target) error {
	if err := r.destroySandbox(ctx, t); err != nil {
		return err
	}
	r.live(t.UID).setRemoved() // whoever still sets a volume up removes it again
	if err := volumes.Remove(ctx, volumes.Pod{UID: string(t.UID), Dir: r.podDir(t.UID)}); err != nil {
		return err
	}
	if err := r.removeLogs(t); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(r.podDir(t.UID), "c")); err != nil {
		return fmt.Errorf("cannot remove the containers' files of pod %s: %w", r.podName(t.UID), err)
	}
	// The pod's record lies there too until nothing else is left of the pod.
	for _, name := range []string{hostsFile, hostnameFile, resolvConfFile, bootFile, ""} {
		err := os.Remove(filepath.Join(r.podDir(t.UID), name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("cannot remove the files of pod %s: %w", r.podName(t.UID), err)
		}
	}
	if err := r.Network.Release(string(t.UID)); err != nil {
		return err
	}
	r.leaveClaims(t.UID)
	r.dropLive(t.UID)
	return nil
}

// rebooted reports whether the pod's sandbox was made before this boot.
func (r *Runtime) rebooted(uid types.UID) bool {
	boot, err := os.ReadFile(filepath.Join(r.podDir(uid), bootFile))
	return err == nil && string(boot) != r.bootID
}

// podLimits are the values of the pod's own cgroup.
func (r *Runtime) podLimits(p *v1.Pod) cgroup.Limits {
	l := cgroupLimits(container.PodResources(p))
	if r.PodPidsLimit > 0 {
		l.PidsMax = r.PodPidsLimit
	}
	return l
}

// hostPorts collects the host ports of all containers, sidecars included.
func hostPorts(p *v1.Pod) []network.PortMapping {
	var all []network.PortMapping
	collect := func(containers []v1.Container) {
		for _, c := range containers {
			for _, port := range c.Ports {
				if port.HostPort == 0 {
					continue
				}
				ip, _ := netip.ParseAddr(port.HostIP) // validated; empty means all
				all = append(all, network.PortMapping{
					Protocol: string(port.Protocol), HostIP: ip,
					HostPort: uint16(port.HostPort), ContainerPort: uint16(port.ContainerPort),
				})
			}
		}
	}
	collect(p.Spec.InitContainers)
	collect(p.Spec.Containers)
	return all
}

// cgroupFiles opens a group for the time of one call.
func cgroupFiles(ctx context.Context, g *cgroup.Group) (*sandbox.Cgroup, func(), error) {
	unified, procs, tasks, err := g.Files()
	if err != nil {
		return nil, nil, err
	}
	return &sandbox.Cgroup{Unified: unified, Procs: procs, Tasks: tasks, Kill: func() error { return g.Kill(ctx) }},
		func() {
			if unified != nil {
				unified.Close()
			}
			closeAll(procs)
			closeAll(tasks)
		}, nil
}

func cgroupLimits(l container.Limits) cgroup.Limits {
	return cgroup.Limits{
		CPUShares: l.CPUShares, CPUQuotaMicros: l.CPUQuotaMicros, CPUPeriodMicros: l.CPUPeriodMicros,
		MemoryBytes: l.MemoryBytes, PidsMax: l.PIDs, OOMGroup: l.OOMGroup,
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
