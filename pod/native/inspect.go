package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"

	"podd/container"
	"podd/logs"
	"podd/pod"
	"podd/sandbox"
	"podd/volumes"
)

// Inspect asks the pod's pause process and the disk what there is.
func (r *Runtime) Inspect(ctx context.Context, t pod.Target) (pod.Inspected, error) {
	found := pod.Inspected{At: now(), Rebooted: r.rebooted(t.UID)}
	live := r.live(t.UID)
	live.setName(t)
	if t.Pod != nil {
		found.Volumes = r.volumesPresent(ctx, t)
	}
	s, st, err := r.Sandboxes.Adopt(ctx, string(t.UID))
	if errors.Is(err, sandbox.ErrNoSandbox) {
		return found, nil
	}
	if err != nil {
		return pod.Inspected{}, fmt.Errorf("cannot take over the sandbox of pod %s: %w", r.podName(t.UID), err)
	}
	live.setSandbox(s)
	found.Sandbox = &pod.FoundSandbox{ID: st.ID, Attempt: st.Attempt, UpAt: st.UpAt, IPs: t.IPs}
	if t.Pod != nil && !t.Pod.Spec.HostNetwork {
		ips, err := r.Network.Allocate(string(t.UID))
		if err != nil {
			return pod.Inspected{}, err
		}
		found.Sandbox.IPs = ips
	}
	for _, c := range st.Containers {
		fc := pod.FoundContainer{Container: c.Name, ID: c.ID, Attempt: c.Attempt, Pid: c.Pid, StartedAt: c.StartedAt}
		lc, err := r.adoptContainer(t, c)
		if err != nil {
			return pod.Inspected{}, err
		}
		live.setContainer(c.ID, lc)
		if c.Exit != nil {
			exited := r.exitFact(t, lc, c)
			fc.Exit = &exited
			r.removeGroup(ctx, t, lc)
		}
		found.Containers = append(found.Containers, fc)
	}
	return found, nil
}

func (r *Runtime) adoptContainer(t pod.Target, c sandbox.Container) (*liveContainer, error) {
	lc := &liveContainer{name: c.Name, attempt: c.Attempt, started: c.StartedAt, exited: make(chan struct{})}
	if t.Pod == nil {
		return lc, nil
	}
	group, err := r.Cgroups.FindContainer(container.QOS(t.Pod), string(t.UID), c.ID)
	if err != nil {
		return nil, err
	}
	lc.group = group
	return lc, nil
}

// volumesPresent tells whether the pod's volumes are set up. One that does not
// answer is not.
func (r *Runtime) volumesPresent(ctx context.Context, t pod.Target) bool {
	if _, err := os.Stat(r.podDir(t.UID)); err != nil {
		return false
	}
	p := r.volumesPod(t)
	for _, v := range t.Pod.Spec.Volumes {
		if !mounted(t.Pod, v.Name) {
			continue
		}
		present := make(chan bool, 1)
		err := r.live(t.UID).withVolume(ctx, r.patience, v.Name, place(t, v, ""), func() error { present <- volumes.Present(p, v); return nil }, func() {})
		if err != nil || !<-present {
			return false
		}
	}
	return true
}

// Watch reports the exits of a pod's containers and, at its end, of its
// pause process.
func (r *Runtime) Watch(ctx context.Context, t pod.Target, report func(pod.Fact)) {
	live := r.live(t.UID)
	s := live.getSandbox()
	if s == nil {
		report(pod.SandboxLost{At: now(), ID: t.SandboxID})
		return
	}
	limitsCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go r.watchLimits(limitsCtx, t, report)
	err := s.Watch(ctx, func(e sandbox.Event) {
		c := e.ContainerExited
		lc := live.container(c.ID)
		if lc == nil {
			var err error
			if lc, err = r.adoptContainer(t, c); err != nil {
				r.log.Error(err, "cannot look at the cgroup of an exited container", "pod", r.podName(t.UID), "container", c.Name)
				lc = &liveContainer{name: c.Name, attempt: c.Attempt, started: c.StartedAt, exited: make(chan struct{})}
			}
			live.setContainer(c.ID, lc)
		}
		report(r.exitFact(t, lc, c))
		r.removeGroup(ctx, t, lc) // it may wait for processes that are dying, and a restart does not
	})
	if ctx.Err() != nil {
		return
	}
	if live.isEnding() {
		return // its end was asked for
	}
	r.log.Error(err, "lost the pause process", "pod", r.podName(t.UID))
	live.stopProbes("")
	live.setSandbox(nil)
	if err := r.Sandboxes.Destroy(ctx, string(t.UID)); err != nil {
		r.log.Error(err, "cannot remove what a lost sandbox left", "pod", r.podName(t.UID))
	}
	if err := r.Cgroups.RemovePod(ctx, string(t.UID)); err != nil {
		r.log.Error(err, "cannot kill what a lost sandbox left", "pod", r.podName(t.UID))
	}
	report(pod.SandboxLost{At: now(), ID: t.SandboxID})
}

// exitFact makes the fact of a container's exit: what the pause process
// recorded, what the cgroup counted, what the container left as its message.
func (r *Runtime) exitFact(t pod.Target, lc *liveContainer, c sandbox.Container) pod.ContainerExited {
	lc.heardExit()
	r.live(t.UID).stopProbes(c.ID)
	fact := pod.ContainerExited{
		At:        pod.At{Time: c.Exit.At},
		Container: c.Name, ID: c.ID, Attempt: c.Attempt,
		ExitCode: c.Exit.Code, Signal: c.Exit.Signal, StartedAt: c.StartedAt,
	}
	if lc.group != nil {
		kills, err := lc.group.OOMKills()
		fact.OOMKilled = err == nil && kills > 0 // whatever the exit code, as a kubelet's runtime has it
		if fact.OOMKilled {
			if s, err := lc.group.Stats(); err == nil {
				fact.OOM = pod.OOM{PeakBytes: s.Memory.MaxUsage, LimitBytes: s.Memory.Limit}
			}
		}
	}
	if t.Pod != nil {
		fact.Message = r.terminationMessage(t, c.Name, c.Attempt, fact.ExitCode)
	}
	return fact
}

// removeGroup removes an exited container's group, which is in the way of nothing but a
// tidy /sys.
func (r *Runtime) removeGroup(ctx context.Context, t pod.Target, lc *liveContainer) {
	if lc.group == nil {
		return
	}
	if err := lc.group.Remove(ctx); err != nil && ctx.Err() == nil {
		r.log.Error(err, "cannot remove a container's cgroup", "pod", r.podName(t.UID), "container", lc.name)
	}
}

// Limits of a termination message, as the kubelet has them.
const (
	maxTerminationMessage = 4096
	terminationLogFile    = "termination-log"
)

// terminationMessage reads the last 4096 bytes of the container's termination
// log, or falls back to the end of its log where the pod asks for that.
func (r *Runtime) terminationMessage(t pod.Target, name string, attempt, exitCode int) string {
	c := findContainer(t.Pod, name)
	if c == nil {
		return ""
	}
	path := filepath.Join(r.attemptDir(t.UID, name, attempt), terminationLogFile)
	data, err := readTail(path, maxTerminationMessage)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.log.Error(err, "cannot read a termination message", "pod", r.podName(t.UID), "container", name)
	}
	message := strings.ToValidUTF8(string(data), "")
	if message == "" && exitCode != 0 && c.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
		message, err = logs.TailMessage(r.logDir(t, name), attempt)
		if err != nil {
			r.log.Error(err, "cannot read the end of a log", "pod", r.podName(t.UID), "container", name)
		}
	}
	return message
}

// findContainer is containerOf for names that the pod may no longer have.
func findContainer(p *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if c := &p.Spec.EphemeralContainers[i].EphemeralContainerCommon; c.Name == name {
			return (*v1.Container)(c)
		}
	}
	return nil
}

func readTail(path string, limit int64) ([]byte, error) {
	// The container can put anything there, a FIFO or a link included: its own
	// mount is a plain file that we made, opened here by our own name for it.
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, min(limit, st.Size()))
	n, err := f.ReadAt(data, max(0, st.Size()-limit))
	if n == len(data) {
		err = nil
	}
	return data[:n], err
}
