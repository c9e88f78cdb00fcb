package native

import (
	"context"
	"fmt"
	"os"
	"slices"

	v1 "k8s.io/api/core/v1"

	"podd/container"
	"podd/pod"
	"podd/volumes"
)

// ensureVolumes sets up every volume that a container mounts, one after the
// other; most take well under a millisecond.
func (r *Runtime) ensureVolumes(ctx context.Context, t pod.Target, report func(pod.Fact)) {
	r.live(t.UID).setName(t)
	if err := os.MkdirAll(r.podDir(t.UID), 0o750); err != nil {
		report(pod.VolumesFailed{At: now(), Message: err.Error()})
		return
	}
	p := r.volumesPod(t)
	for _, v := range t.Pod.Spec.Volumes {
		if !mounted(t.Pod, v.Name) {
			continue
		}
		if err := volumes.Ensure(ctx, p, v); err != nil {
			if ctx.Err() == nil {
				report(pod.VolumesFailed{At: now(), Volume: v.Name, Message: err.Error()})
			}
			return
		}
	}
	report(pod.VolumesReady{At: now()})
}

func (r *Runtime) volumesPod(t pod.Target) volumes.Pod {
	p := volumes.Pod{
		UID: string(t.UID), Dir: r.podDir(t.UID),
		NodeMemoryBytes: r.host.memoryBytes,
		PodMemoryLimit:  max(0, container.PodResources(t.Pod).MemoryBytes),
	}
	if sc := t.Pod.Spec.SecurityContext; sc != nil {
		p.FSGroup = sc.FSGroup
	}
	p.Images = r.volumeImage
	return p
}

// volumeImage finds an image for a volume; see [volumes.Pod].
func (r *Runtime) volumeImage(ref string) (id string, mount func() (*os.File, error), err error) {
	img, err := r.Images.Find(ref)
	if err != nil {
		return "", nil, err
	}
	return img.ID, func() (*os.File, error) { return r.Images.Rootfs(context.Background(), img, "", true) }, nil
}

// mounted reports whether a container of the pod mounts the volume.
func mounted(p *v1.Pod, volume string) bool {
	uses := func(c v1.Container) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == volume })
	}
	return slices.ContainsFunc(p.Spec.InitContainers, uses) || slices.ContainsFunc(p.Spec.Containers, uses)
}

// volumeOf returns the volume that a mount names; validation saw that it exists.
func volumeOf(p *v1.Pod, name string) v1.Volume {
	for _, v := range p.Spec.Volumes {
		if v.Name == name {
			return v
		}
	}
	panic(fmt.Sprintf("native: pod %s/%s has no volume %q", p.Namespace, p.Name, name))
}
