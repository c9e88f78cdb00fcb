package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/container"
	"podd/pod"
	"podd/volumes"
)

// ensureVolumes sets up every volume that a container mounts.
func (r *Runtime) ensureVolumes(ctx context.Context, t pod.Target, report func(pod.Fact)) {
	r.live(t.UID).setName(t)
	if err := os.MkdirAll(r.podDir(t.UID), 0o750); err != nil {
		report(pod.VolumesFailed{At: now(), Message: err.Error()})
		return
	}
	r.setUpVolumes(ctx, t, func(v1.Volume) bool { return true }, report)
}

// setUpVolumes sets up those of the volumes that a container mounts, one after
// the other; most take well under a millisecond.
func (r *Runtime) setUpVolumes(ctx context.Context, t pod.Target, those func(v1.Volume) bool, report func(pod.Fact)) {
	p := r.volumesPod(t)
	for _, v := range t.Pod.Spec.Volumes {
		if !those(v) || !mounted(t.Pod, v.Name) {
			continue
		}
		err := r.live(t.UID).withVolume(ctx, r.patience, v.Name, place(t, v, ""), func() error { return volumes.Ensure(ctx, p, v) }, func() {
			if err := volumes.Remove(context.Background(), p); err != nil {
				r.log.Error(err, "cannot remove a volume that was set up after its pod was removed", "volume", v.Name)
			}
			os.Remove(p.Dir) // unless it was not empty, and then it is not ours to remove
		})
		if err != nil {
			if ctx.Err() == nil {
				report(pod.VolumesFailed{At: now(), Volume: v.Name, Message: err.Error()})
			}
			return
		}
	}
	report(pod.VolumesReady{At: now()})
}

// volumePatience is how long a volume may hold up what is done about its pod. A
// server or a disk that does not answer holds calls in the kernel, where nothing
// ends them.
const volumePatience = 10 * time.Second

// volumeSlow is how long a volume may hold up the start of a container before that
// is told. The start waits on: what hangs may be mounted below the volume, or have
// begun to hang after the set-up.
const volumeSlow = 3 * time.Second

// unanswered says what has not answered for how long.
func unanswered(place string, d time.Duration) string {
	return fmt.Sprintf("%s has not answered for %v; it is waited for", cmp.Or(place, "its server or disk"), d)
}

// place is where a volume lies as the pod or its claim names it; empty: in the pod's
// own directory.
func place(t pod.Target, v v1.Volume, subPath string) string {
	hostPath, nfs := v.HostPath, v.NFS
	local := ""
	if v.PersistentVolumeClaim != nil {
		if c, found := t.Sources.Claim(t.Pod.Namespace, v.PersistentVolumeClaim.ClaimName); found && c.Volume != nil {
			hostPath, nfs = c.Volume.Spec.HostPath, c.Volume.Spec.NFS
			if c.Volume.Spec.Local != nil {
				local = c.Volume.Spec.Local.Path
			}
		}
	}
	switch {
	case hostPath != nil:
		return path.Join(hostPath.Path, subPath)
	case nfs != nil:
		return nfs.Server + ":" + path.Join(nfs.Path, subPath)
	case local != "":
		return path.Join(local, subPath)
	}
	return ""
}

// withVolume runs f, which looks at a volume or sets it up, unless another does so
// now. It gives up after patience; f goes on, and nobody looks at the volume before
// it has ended. late is called where that was after the pod's removal.
func (p *livePod) withVolume(ctx context.Context, patience time.Duration, volume, place string, f func() error, late func()) error {
	turn := p.volumeTurn(volume)
	timeout := time.After(patience)
	hangs := errors.New(unanswered(place, patience))
	select {
	case turn <- struct{}{}:
	case <-timeout:
		return hangs
	case <-ctx.Done():
		return ctx.Err()
	}
	result := make(chan error, 1)
	go func() { // ends when the kernel lets it
		err := f()
		if p.isRemoved() {
			late()
		}
		<-turn
		result <- err
	}()
	select {
	case err := <-result:
		return err
	case <-timeout:
		return hangs
	}
}

func (r *Runtime) volumesPod(t pod.Target) volumes.Pod {
	p := volumes.Pod{
		UID: string(t.UID), Dir: r.podDir(t.UID),
		NodeMemoryBytes: r.host.memoryBytes,
		PodMemoryLimit:  max(0, container.PodResources(t.Pod).MemoryBytes),
	}
	if sc := t.Pod.Spec.SecurityContext; sc != nil {
		p.FSGroup = sc.FSGroup
		if sc.FSGroupChangePolicy != nil {
			p.FSGroupPolicy = *sc.FSGroupChangePolicy
		}
	}
	p.Images = r.volumeImage
	p.Claims = func(c *v1.PersistentVolumeClaimVolumeSource) (volumes.Claimed, error) {
		return r.claimed(t, c.ClaimName)
	}
	p.Files = func(v v1.Volume) (volumes.Files, error) { return r.volumeFiles(t, v) }
	return p
}

// volumeFiles is what a volume of files holds.
func (r *Runtime) volumeFiles(t pod.Target, v v1.Volume) (volumes.Files, error) {
	files, err := container.VolumeFiles(r.podInput(t), v)
	if err != nil {
		return volumes.Files{}, err
	}
	all := volumes.Files{Files: map[string]volumes.File{}, MountPoints: mountPoints(t.Pod, v.Name)}
	for name, f := range files {
		all.Files[name] = volumes.File{Data: f.Data, Mode: fs.FileMode(f.Mode)}
	}
	return all, nil
}

// mountPoints lists the directories of a volume on which a container that mounts
// it mounts another.
func mountPoints(p *v1.Pod, volume string) []string {
	var dirs []string
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			for _, outer := range c.VolumeMounts {
				if outer.Name != volume || outer.SubPath != "" || outer.SubPathExpr != "" {
					continue
				}
				for _, inner := range c.VolumeMounts {
					rel, inside := strings.CutPrefix(path.Join("/", inner.MountPath), path.Join("/", outer.MountPath)+"/")
					if inside && !strings.HasPrefix(rel, "..") {
						dirs = append(dirs, rel)
					}
				}
			}
		}
	}
	return dirs
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
