package native

import (
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/pod"
	"podd/volumes"
)

// lookOut is how often what pods wait for is looked for: a few system calls for
// each pod that waits, none for the others.
const lookOut = 500 * time.Millisecond

// Await looks out for what a pod waits for; see [pod.Runtime].
func (r *Runtime) Await(ctx context.Context, t pod.Target, waits []pod.Wait, report func(pod.Fact)) {
	every(ctx, lookOut, func() (done bool) {
		for _, w := range waits {
			if r.there(t, w) {
				report(pod.CauseGone{At: now(), Wait: w})
				return true
			}
		}
		return false
	})
}

// every calls f at each interval, until it is done or ctx ends.
func every(ctx context.Context, interval time.Duration, f func() (done bool)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if f() {
			return
		}
	}
}

// there tells whether what is waited for seems to be there.
func (r *Runtime) there(t pod.Target, w pod.Wait) bool {
	switch w.Kind {
	case pod.WaitPorts:
		addrs := r.HostIPs
		if !t.Pod.Spec.HostNetwork {
			var err error
			if addrs, err = r.Network.Allocate(string(t.UID)); err != nil {
				return false
			}
		}
		return r.Network.PortsFree(string(t.UID), hostPorts(t.Pod), addrs)
	case pod.WaitVolume:
		i := slices.IndexFunc(t.Pod.Spec.Volumes, func(v v1.Volume) bool { return v.Name == w.Name })
		if i < 0 {
			return false
		}
		turn := r.live(t.UID).volumeTurn(w.Name)
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
			return r.sourceThere(t, t.Pod.Spec.Volumes[i])
		default: // what it lies on does not answer yet
			return false
		}
	case pod.WaitImage:
		return r.imagesPresent(t.Pod, findContainer(t.Pod, w.Name))
	}
	return false
}

// sourceThere tells whether the source of a volume that could not be set up seems
// to be there by now.
func (r *Runtime) sourceThere(t pod.Target, v v1.Volume) bool {
	if v.PersistentVolumeClaim == nil {
		return volumes.SourceThere(v)
	}
	name := v.PersistentVolumeClaim.ClaimName
	had := r.hasClaim(t.UID, pod.Key{Namespace: t.Pod.Namespace, Name: name})
	c, err := r.claimed(t, name)
	return err == nil && (!had || c.There())
}

// imagesPresent tells whether a container's image and those of the volumes that
// it mounts can be had without asking a registry.
func (r *Runtime) imagesPresent(p *v1.Pod, c *v1.Container) bool {
	if c == nil {
		return false
	}
	if _, err := r.Images.Find(c.Image); err != nil {
		return false
	}
	for _, m := range c.VolumeMounts {
		i := volumeOf(p, m.Name).Image
		if i == nil {
			continue
		}
		if _, err := r.Images.Find(i.Reference); err != nil || i.PullPolicy == v1.PullAlways {
			return false
		}
	}
	return true
}
