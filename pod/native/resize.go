package native

import (
	"context"
	"errors"
	"fmt"

	"podd/container"
	"podd/pod"
	"podd/sandbox/cgroup"
)

// resize gives the pod's control group and those of running containers other
// limits. The order: what must not be is found out before anything is changed; then
// the pod's group gets the wider of its old and its new limits, so that it has room
// for each container's, and its new ones at the end.
func (r *Runtime) resize(ctx context.Context, t pod.Target, a pod.ResizePod, report func(pod.Fact)) {
	err := r.setResources(t, a)
	if err == nil {
		report(pod.Resized{At: now(), ResizePod: a})
		return
	}
	if ctx.Err() == nil {
		var missing *cgroup.MissingControllerError
		report(pod.ResizeFailed{At: now(), ResizePod: a, Message: err.Error(), Infeasible: errors.As(err, &missing)})
	}
}

func (r *Runtime) setResources(t pod.Target, a pod.ResizePod) error {
	before, after := a.Before.With(t.Pod), a.After.With(t.Pod)
	group, err := r.Cgroups.FindPod(container.QOS(after), string(t.UID))
	if err != nil {
		return err
	}
	was, shall := r.podLimits(before), r.podLimits(after)
	groups := map[string]*cgroup.Group{}
	for name, id := range a.Containers {
		if groups[name], err = r.Cgroups.FindContainer(container.QOS(after), string(t.UID), id); err != nil {
			return err
		}
		if !groups[name].Exists() {
			delete(groups, name) // it has exited, which is told soon
			continue
		}
		limits := cgroupLimits(container.Resources(after, containerOf(after, name)))
		if err := checkMemory(groups[name], fmt.Sprintf("container %q", name), limits.MemoryBytes); err != nil {
			return err
		}
	}
	if err := checkMemory(group, "pod", shall.MemoryBytes); err != nil {
		return err
	}
	if err := group.Set(wider(was, shall)); err != nil {
		return err
	}
	for name, g := range groups {
		had := cgroupLimits(container.Resources(before, containerOf(before, name)))
		if err := g.Set(instead(had, cgroupLimits(container.Resources(after, containerOf(after, name))))); err != nil {
			return err
		}
	}
	return group.Set(instead(was, shall))
}

// checkMemory refuses a memory limit below what the group uses: it would end
// processes, on cgroup v1 the kernel refuses it. The kubelet words it so.
func checkMemory(g *cgroup.Group, whose string, limitBytes int64) error {
	if limitBytes <= 0 {
		return nil
	}
	s, err := g.Stats()
	if err != nil {
		return err
	}
	if (s.Memory.Limit == 0 || uint64(limitBytes) < s.Memory.Limit) && s.Memory.Usage >= uint64(limitBytes) {
		return fmt.Errorf("cannot decrease memory limits: attempting to set %s memory limit (%d) below current usage (%d)",
			whose, limitBytes, s.Memory.Usage)
	}
	return nil
}

// wider is what holds both of two limits.
func wider(a, b cgroup.Limits) cgroup.Limits {
	w := b
	w.CPUShares = max(a.CPUShares, b.CPUShares)
	if a.CPUQuotaMicros == 0 || a.CPUQuotaMicros > b.CPUQuotaMicros && b.CPUQuotaMicros != 0 {
		w.CPUQuotaMicros, w.CPUPeriodMicros = a.CPUQuotaMicros, a.CPUPeriodMicros
	}
	if a.MemoryBytes == 0 || a.MemoryBytes > b.MemoryBytes && b.MemoryBytes != 0 {
		w.MemoryBytes = a.MemoryBytes
	}
	return instead(a, w)
}

// instead is b for a group that had a: what b does not limit any more, it says so.
func instead(a, b cgroup.Limits) cgroup.Limits {
	if a.CPUQuotaMicros != 0 && b.CPUQuotaMicros == 0 {
		b.CPUQuotaMicros = cgroup.Unlimited
	}
	if a.MemoryBytes != 0 && b.MemoryBytes == 0 {
		b.MemoryBytes = cgroup.Unlimited
	}
	return b
}
