package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/container"
	"podd/container/seccomp"
	"podd/images"
	"podd/logs"
	"podd/pod"
	"podd/sandbox"
	"podd/sandbox/cgroup"
	"podd/volumes"
)

// Reasons of ContainerStartFailed beside those of the container package.
const (
	reasonCreate = container.ReasonCreate
	reasonRun    = "RunContainerError"
)

// startError is a failed start with the reason that the status shows.
type startError struct {
	reason string
	err    error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// startContainer starts one attempt and reports what came of it.
func (r *Runtime) startContainer(ctx context.Context, t pod.Target, a pod.StartContainer, report func(pod.Fact)) {
	held := func(volume, message string) {
		report(pod.ContainerHeld{At: now(), Container: a.Container, ID: a.ID, Volume: volume, Message: message})
	}
	started, err := r.start(ctx, t, a, held)
	if err == nil {
		report(started)
		r.linkLog(t, a.Container, a.ID, a.Attempt)
		return
	}
	if ctx.Err() != nil {
		return
	}
	failed := pod.ContainerStartFailed{
		At: now(), Container: a.Container, ID: a.ID, Attempt: a.Attempt,
		Reason: reasonCreate, Message: err.Error(),
	}
	var config *container.ConfigError
	var notRun *sandbox.StartError
	var start *startError
	switch {
	case errors.As(err, &config):
		failed.Reason = config.Reason
	case errors.As(err, &notRun):
		failed.Reason, failed.ExitCode = reasonRun, notRun.ExitCode
	case errors.As(err, &start):
		failed.Reason = start.reason
	}
	report(failed)
}

// start is the order in which a container comes to be: its root file system,
// what its spec says, its mounts, its cgroup, then the pause process does the
// rest. Mount trees are opened last and close together with the start request:
// nothing in the container influences how their paths resolve. held is told of a
// volume that does not answer; the start waits for it.
func (r *Runtime) start(ctx context.Context, t pod.Target, a pod.StartContainer, held func(volume, message string)) (pod.ContainerStarted, error) {
	live := r.live(t.UID)
	s := live.getSandbox()
	if s == nil {
		return pod.ContainerStarted{}, fmt.Errorf("cannot start container: %w", sandbox.ErrNoSandbox)
	}
	c := containerOf(t.Pod, a.Container)
	img, err := r.Images.Find(c.Image)
	if err != nil {
		return pod.ContainerStarted{}, err
	}
	dir, logDir := r.attemptDir(t.UID, a.Container, a.Attempt), r.logDir(t, a.Container)
	if err := r.makeDirs(t, a.Container, a.Attempt); err != nil {
		return pod.ContainerStarted{}, err
	}
	var group *cgroup.Group
	grouped := make(chan error, 1)
	go func() { // awaited below; takes as long as the root file system
		var err error
		group, err = r.Cgroups.Container(container.QOS(t.Pod), string(t.UID), a.ID)
		grouped <- err
	}()
	// Writable also for readOnlyRootFilesystem: mount points are made in it
	// before the stage makes it read-only.
	rootfs, err := r.rootfs(ctx, t, img, a, dir)
	if err == nil {
		defer rootfs.Close()
	}
	if groupErr := <-grouped; err == nil {
		err = groupErr
	}
	if err != nil {
		return pod.ContainerStarted{}, err
	}

	mounts, sources := r.mounts(t, c, dir, held)
	spec, err := container.Spec(r.specInput(t, c, img, rootfs, mounts))
	if err != nil {
		return pod.ContainerStarted{}, err
	}
	trees, err := r.openTrees(ctx, t, spec, sources)
	defer closeTrees(trees)
	if err != nil {
		return pod.ContainerStarted{}, err
	}
	filter, flags, err := r.compileSeccomp(t, c, spec)
	if err != nil {
		return pod.ContainerStarted{}, &container.ConfigError{Reason: container.ReasonCreate, Err: err}
	}
	cg, closeFiles, err := cgroupFiles(ctx, group)
	if err != nil {
		return pod.ContainerStarted{}, err
	}
	defer closeFiles()
	limits := cgroupLimits(container.Resources(t.Pod, c))
	limits.Devices = devices(spec)

	lc := &liveContainer{name: a.Container, attempt: a.Attempt, group: group, exited: make(chan struct{})}
	live.setContainer(a.ID, lc)
	started, err := s.Start(ctx, sandbox.Start{
		ID: a.ID, Name: a.Container, Attempt: a.Attempt,
		Spec: spec, Rootfs: rootfs, Trees: trees,
		Seccomp: filter, SeccompFlags: flags,
		Cgroup: cg, PrivateCgroupNS: !privileged(c),
		LogPath: logs.File(logDir, a.Attempt), LogMaxBytes: r.LogMaxBytes, LogMaxFiles: r.LogMaxFiles,
		Stdin: c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		PIDOf: a.Target,
		Ready: func(pid int) error {
			if err := checkShared(ctx, s, a, pid); err != nil {
				return err
			}
			return group.Set(limits)
		},
		UseStageForExec: execNeedsStage(t.Pod, c, spec),
	})
	if err != nil {
		live.forget(a.ID)
		if ctx.Err() == nil {
			err = errors.Join(err, group.Remove(ctx))
		}
		return pod.ContainerStarted{}, err
	}
	lc.started = started.At
	who := spec.Process.User
	user := &v1.LinuxContainerUser{UID: int64(who.UID), GID: int64(who.GID)}
	for _, g := range who.AdditionalGids {
		user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
	}
	return pod.ContainerStarted{
		At: pod.At{Time: started.At}, Container: a.Container, ID: a.ID, Attempt: a.Attempt, Pid: started.Pid,
		User: user, StopSignal: signalName(r.imageSignal(img)),
	}, nil
}

// rootfs makes the root file system of an attempt, or takes the one that is ready.
func (r *Runtime) rootfs(ctx context.Context, t pod.Target, img *images.Image, a pod.StartContainer, dir string) (*os.File, error) {
	if root := r.live(t.UID).takeRoot(a, img.ID); root != nil {
		return root, nil
	}
	return r.Images.Rootfs(ctx, img, dir, false)
}

// readyFirst makes the root file system of the container that starts first in a new
// pod's sandbox, while that is made. Whatever is in the way its start meets again, and
// tells.
func (r *Runtime) readyFirst(ctx context.Context, t pod.Target) {
	c := &t.Pod.Spec.Containers[0]
	if len(t.Pod.Spec.InitContainers) > 0 {
		c = &t.Pod.Spec.InitContainers[0]
	}
	img, err := r.Images.Find(c.Image)
	if err != nil {
		return
	}
	if root, err := r.Images.Rootfs(ctx, img, r.attemptDir(t.UID, c.Name, 0), false); err == nil {
		r.live(t.UID).keepRoot(&readyRoot{c.Name, img.ID, root})
	}
}

// maxEnvFileBytes is how much of a file variables are read from.
const maxEnvFileBytes = 1 << 20

// makeDirs makes the directories of a container's attempt: of its exit, its files and its
// log.
func (r *Runtime) makeDirs(t pod.Target, container string, attempt int) error {
	if err := os.MkdirAll(r.exitDir(t.UID, container, attempt), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(r.attemptDir(t.UID, container, attempt), 0o700); err != nil {
		return err
	}
	return os.MkdirAll(r.logDir(t, container), 0o755)
}

func (r *Runtime) specInput(t pod.Target, c *v1.Container, img *images.Image, rootfs *os.File, mounts []container.Mount) container.Input {
	hostname := r.NodeName
	if !t.Pod.Spec.HostNetwork {
		if names, err := container.Hostname(t.Pod, r.ClusterDomain); err == nil { // the sandbox would not exist otherwise
			hostname = names.Hostname
		}
	}
	in := r.podInput(t)
	in.Container, in.Image = c, img.Config.Config
	in.ReadFile = func(path string) ([]byte, error) { return readInRoot(rootfs, path) }
	in.Hostname = hostname
	in.Capabilities, in.CPUs = r.host.caps, runtime.NumCPU()
	in.EnvFile = func(volume, path string) ([]byte, error) {
		return volumes.ReadFile(r.volumesPod(t), volumeOf(t.Pod, volume), path, maxEnvFileBytes)
	}
	in.Mounts, in.CgroupV2, in.Kernel, in.Arch = mounts, r.host.cgroupV2, r.host.kernel, runtime.GOARCH
	in.LocalhostProfile = func(name string) ([]byte, error) {
		return os.ReadFile(filepath.Join(r.RootDir, "seccomp", filepath.Clean("/"+name)))
	}
	if privileged(c) {
		in.HostDevices = hostDevices()
	}
	return in
}

// podInput is what is the same for all containers and volumes of a pod.
func (r *Runtime) podInput(t pod.Target) container.Input {
	ips := t.IPs
	if t.Pod.Spec.HostNetwork {
		ips = r.HostIPs
	}
	return container.Input{
		Pod: t.Pod, PodIPs: ips, HostIPs: r.HostIPs, NodeName: r.NodeName,
		NodeCPUMilli: r.host.cpuMilli, NodeMemoryBytes: r.host.memoryBytes, NodeEphemeralBytes: r.host.diskBytes,
		Objects: t.Sources, Services: r.Services,
	}
}

// source opens the tree that a bind mount attaches.
type source func(ctx context.Context, env []string) (*os.File, error)

// mounts lists a container's bind mounts, and how each one's tree is opened. held is
// that of [Runtime.start].
func (r *Runtime) mounts(t pod.Target, c *v1.Container, attemptDir string, held func(volume, message string)) ([]container.Mount, map[string]source) {
	p := r.volumesPod(t)
	var mounts []container.Mount
	sources := map[string]source{}
	for i, m := range c.VolumeMounts {
		label := "volume:" + strconv.Itoa(i)
		propagation := v1.MountPropagationNone
		if m.MountPropagation != nil {
			propagation = *m.MountPropagation
		}
		mounts = append(mounts, container.Mount{
			Destination: m.MountPath, Source: label, ReadOnly: m.ReadOnly, Propagation: propagation,
		})
		sources[label] = func(ctx context.Context, env []string) (*os.File, error) {
			subPath := m.SubPath
			if m.SubPathExpr != "" {
				var err error
				if subPath, err = container.ExpandSubPath(m.SubPathExpr, env); err != nil {
					return nil, &container.ConfigError{Reason: container.ReasonConfig, Err: err}
				}
			}
			v := volumeOf(t.Pod, m.Name)
			slow := time.AfterFunc(r.slow, func() { held(v.Name, unanswered(place(t, v, subPath), r.slow)) })
			tree, err := volumes.Tree(ctx, p, v, m, subPath)
			slow.Stop()
			if err != nil && subPath != "" {
				r.log.Error(err, "cannot prepare subPath", "pod", r.podName(t.UID), "container", c.Name, "volume", m.Name)
				err = &container.ConfigError{Reason: container.ReasonConfig,
					Err: fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", m.Name, c.Name)}
			}
			return tree, err
		}
	}
	generated := func(destination string, open source) {
		mounts = append(mounts, container.Mount{Destination: destination, Source: destination, Default: true})
		sources[destination] = open
	}
	file := func(path string, readOnly bool) source {
		return func(context.Context, []string) (*os.File, error) { return volumes.FileTree(path, readOnly) }
	}
	sc := c.SecurityContext
	readOnly := sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
	dir := r.podDir(t.UID)
	generated("/etc/hosts", file(filepath.Join(dir, hostsFile), false))
	generated("/etc/hostname", file(filepath.Join(dir, hostnameFile), readOnly))
	generated("/etc/resolv.conf", file(filepath.Join(dir, resolvConfFile), readOnly))
	if !t.Pod.Spec.HostIPC {
		generated("/dev/shm", func(context.Context, []string) (*os.File, error) { return volumes.ShmTree(p) })
	}
	if c.TerminationMessagePath != "" {
		path := filepath.Join(attemptDir, terminationLogFile)
		generated(c.TerminationMessagePath, func(context.Context, []string) (*os.File, error) {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o666)
			if err != nil {
				return nil, err
			}
			err = f.Chmod(0o666)
			f.Close()
			if err != nil {
				return nil, err
			}
			return volumes.FileTree(path, false)
		})
	}
	return mounts, sources
}

// openTrees opens a tree for each bind mount of the spec.
func (r *Runtime) openTrees(ctx context.Context, t pod.Target, spec *specs.Spec, sources map[string]source) (map[int]*os.File, error) {
	trees := map[int]*os.File{}
	for i, m := range spec.Mounts {
		open, ours := sources[m.Source]
		if !ours {
			continue
		}
		tree, err := open(ctx, spec.Process.Env)
		if err != nil {
			return trees, err
		}
		trees[i] = tree
	}
	return trees, nil
}

func closeTrees(trees map[int]*os.File) {
	for _, f := range trees {
		f.Close()
	}
}

// compileSeccomp returns the filter of a container. The built-in profile is
// compiled once for each set of capabilities.
func (r *Runtime) compileSeccomp(t pod.Target, c *v1.Container, spec *specs.Spec) (filter []byte, flags uint, err error) {
	switch {
	case spec.Linux.Seccomp == nil:
		return nil, 0, nil
	case container.SeccompProfile(t.Pod, c).Type == v1.SeccompProfileTypeRuntimeDefault:
		filter, err = r.seccomp.Default(spec.Process.Capabilities.Bounding, r.host.kernel, runtime.GOARCH)
	default:
		filter, err = seccomp.Compile(spec.Linux.Seccomp, runtime.GOARCH)
	}
	if err != nil {
		return nil, 0, err
	}
	f, err := seccomp.Flags(spec.Linux.Seccomp)
	return filter, uint(f), err
}

// stopContainer sends the stop signal and sees to it that the container is
// killed when grace is over. It returns at once; the exit comes through Watch.
func (r *Runtime) stopContainer(ctx context.Context, t pod.Target, a pod.StopContainer) error {
	live := r.live(t.UID)
	s, lc := live.getSandbox(), live.container(a.ID)
	if s == nil || lc == nil {
		return nil // the sandbox is gone, and the container with it
	}
	first := lc.killBy(time.Now().Add(a.Grace), func() {
		if err := s.KillContainer(context.WithoutCancel(ctx), a.ID); err != nil && !errors.Is(err, sandbox.ErrNoContainer) && !errors.Is(err, sandbox.ErrLost) {
			r.log.Error(err, "cannot kill a container", "pod", r.podName(t.UID), "container", a.Container)
		}
	})
	if !first {
		return nil
	}
	err := s.Signal(ctx, a.ID, r.stopSignal(t, a.Container))
	if errors.Is(err, sandbox.ErrNoContainer) || errors.Is(err, sandbox.ErrLost) {
		return nil
	}
	return err
}

// stopSignal is the container's own, the image's STOPSIGNAL, or SIGTERM.
func (r *Runtime) stopSignal(t pod.Target, name string) unix.Signal {
	c := findContainer(t.Pod, name)
	if c == nil {
		return unix.SIGTERM
	}
	if l := c.Lifecycle; l != nil && l.StopSignal != nil {
		if sig := signalByName(string(*l.StopSignal)); sig != 0 {
			return sig
		}
	}
	if img, err := r.Images.Find(c.Image); err == nil {
		if sig := r.imageSignal(img); sig != 0 {
			return sig
		}
	}
	return unix.SIGTERM
}

// imageSignal is an image's STOPSIGNAL, 0 if it has none that is one.
func (r *Runtime) imageSignal(img *images.Image) unix.Signal {
	name := img.Config.Config.StopSignal
	if name == "" {
		return 0
	}
	sig := signalByName(name)
	if sig == 0 {
		r.log.Info("unknown stop signal of image; using SIGTERM", "image", img.ID, "signal", name)
	}
	return sig
}

// signalName is a signal as Kubernetes names it, empty for 0.
func signalName(sig unix.Signal) v1.Signal {
	const half = rtmin + 15 // from here on they are counted from above
	switch {
	case sig == 0:
		return ""
	case sig == rtmin:
		return v1.SIGRTMIN
	case sig == rtmax:
		return v1.SIGRTMAX
	case sig > rtmin && sig <= half:
		return v1.Signal(fmt.Sprintf("SIGRTMIN+%d", sig-rtmin))
	case sig > half && sig < rtmax:
		return v1.Signal(fmt.Sprintf("SIGRTMAX-%d", rtmax-sig))
	}
	return v1.Signal(unix.SignalName(sig))
}

// rtmin and rtmax are the first and last real-time signal, as C libraries count them.
const rtmin, rtmax = 34, 64

// signalByName understands "SIGQUIT", "QUIT", "3" and "RTMIN+3"; 0 is unknown.
func signalByName(name string) unix.Signal {
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n < 65 {
		return unix.Signal(n)
	}
	if len(name) < 3 || name[:3] != "SIG" {
		name = "SIG" + name
	}
	var n int
	switch {
	case name == "SIGRTMIN":
		return rtmin
	case name == "SIGRTMAX":
		return rtmax
	case scan(name, "SIGRTMIN+%d", &n) && n <= rtmax-rtmin:
		return unix.Signal(rtmin + n)
	case scan(name, "SIGRTMAX-%d", &n) && n <= rtmax-rtmin:
		return unix.Signal(rtmax - n)
	}
	switch name { // those with two names
	case "SIGCLD":
		return unix.SIGCHLD
	case "SIGIOT":
		return unix.SIGABRT
	case "SIGPOLL":
		return unix.SIGIO
	}
	return unix.SignalNum(name)
}

func scan(s, format string, n *int) bool {
	_, err := fmt.Sscanf(s, format, n)
	return err == nil && *n >= 0
}

// forgetContainer removes what a dead attempt left.
func (r *Runtime) forgetContainer(ctx context.Context, t pod.Target, a pod.ForgetContainer) error {
	live := r.live(t.UID)
	var errs []error
	if s := live.getSandbox(); s != nil {
		if err := s.Forget(ctx, a.ID); err != nil && !errors.Is(err, sandbox.ErrNoContainer) && !errors.Is(err, sandbox.ErrLost) {
			errs = append(errs, err)
		}
	}
	if lc := live.container(a.ID); lc != nil && lc.group != nil {
		errs = append(errs, lc.group.Remove(ctx))
	}
	live.forget(a.ID)
	logDir := r.logDir(t, a.Container)
	errs = append(errs,
		os.RemoveAll(r.attemptDir(t.UID, a.Container, a.Attempt)),
		os.RemoveAll(r.exitDir(t.UID, a.Container, a.Attempt)),
		logs.Unlink(r.ContainerLogsDir, r.linkName(t, a.Container, a.ID), logs.File(logDir, a.Attempt)),
		logs.Remove(logDir, a.Attempt),
	)
	return errors.Join(errs...)
}

// devices are the rules of the container's device filter.
func devices(spec *specs.Spec) []cgroup.Device {
	if spec.Linux.Resources == nil {
		return nil
	}
	var rules []cgroup.Device
	for _, d := range spec.Linux.Resources.Devices {
		rule := cgroup.Device{Allow: d.Allow, Type: 'a', Major: -1, Minor: -1, Access: d.Access}
		if d.Type != "" {
			rule.Type = rune(d.Type[0])
		}
		if d.Major != nil {
			rule.Major = *d.Major
		}
		if d.Minor != nil {
			rule.Minor = *d.Minor
		}
		rules = append(rules, rule)
	}
	return rules
}

// execNeedsStage reports whether commands in the container must not be run
// from a thread of the pause process: a filter of the user's own could fault
// it, and a container that may trace could reach into it.
func execNeedsStage(p *v1.Pod, c *v1.Container, spec *specs.Spec) bool {
	if container.SeccompProfile(p, c).Type == v1.SeccompProfileTypeLocalhost {
		return true
	}
	if spec.Process.Capabilities == nil {
		return false
	}
	for _, name := range spec.Process.Capabilities.Bounding {
		if name == "CAP_SYS_PTRACE" {
			return true
		}
	}
	return false
}

func privileged(c *v1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

// readInRoot reads a file of a container's root file system as the container
// would see it: links in the path stay inside.
func readInRoot(root *os.File, path string) ([]byte, error) {
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	const most = 4 << 20 // more users than anybody has
	return io.ReadAll(io.LimitReader(f, most))
}

func hostAddr(ips []netip.Addr) string {
	if len(ips) == 0 {
		return "127.0.0.1"
	}
	return ips[0].String()
}
