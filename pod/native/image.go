package native

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/images"
	"podd/pod"
)

// ensureImage finds or pulls a container's image by the rules of its policy, and
// before it the images that it mounts as volumes: what is wrong with one of these
// is shown by the containers that mount it, as kubelets do.
func (r *Runtime) ensureImage(ctx context.Context, t pod.Target, a pod.EnsureImage, report func(pod.Fact)) {
	secrets := pullSecrets(t, report)
	for _, v := range imageVolumes(t.Pod, containerOf(t.Pod, a.Container)) {
		if err := r.ensureVolumeImage(ctx, v, secrets, report); err != nil {
			failed := pod.ImageFailed{Container: a.Container, Image: v.Image.Reference, Volume: true}
			imageFailed(ctx, failed, err, report)
			return
		}
	}
	res, err := r.Images.Ensure(ctx, images.Request{
		Ref: a.Image, Policy: string(a.Policy), DockerConfigs: secrets,
		Pulling: func() {
			report(pod.Noted{At: now(), Container: a.Container, Reason: "Pulling", Message: fmt.Sprintf("Pulling image %q", a.Image)})
		},
	}, time.Now())
	if err == nil {
		if text := images.Healthcheck(res.Image); text != "" && res.Pulled && containerOf(t.Pod, a.Container).LivenessProbe == nil {
			report(pod.Noted{At: now(), Container: a.Container, Reason: "HealthcheckUnused", Message: text})
		}
		report(pod.ImageReady{
			At: now(), Container: a.Container, Image: a.Image, ImageRef: res.ImageRef, ImageID: res.ImageID,
			Pulled: res.Pulled, Took: res.Took, Waited: res.Waited, Size: res.Size,
		})
		return
	}
	imageFailed(ctx, pod.ImageFailed{Container: a.Container, Image: a.Image}, err, report)
}

// pullSecrets are docker's configurations in the Secrets that the pod names for
// pulls. One that is missing keeps nothing from being tried, as in the kubelet.
func pullSecrets(t pod.Target, report func(pod.Fact)) [][]byte {
	var configs [][]byte
	var missing []string
	for _, ref := range t.Pod.Spec.ImagePullSecrets {
		s, found := t.Sources.Secret(t.Pod.Namespace, ref.Name)
		if !found {
			missing = append(missing, ref.Name)
			continue
		}
		for _, key := range []string{v1.DockerConfigJsonKey, v1.DockerConfigKey} {
			if data, given := s.Data[key]; given {
				configs = append(configs, data)
			}
		}
	}
	if len(missing) > 0 {
		report(pod.Noted{At: now(), Warning: true, Reason: "FailedToRetrieveImagePullSecret", Message: fmt.Sprintf(
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))})
	}
	return configs
}

// ensureVolumeImage finds or pulls the image of a volume. Its events are about
// the pod.
func (r *Runtime) ensureVolumeImage(ctx context.Context, v v1.Volume, secrets [][]byte, report func(pod.Fact)) error {
	res, err := r.Images.Ensure(ctx, images.Request{
		Ref: v.Image.Reference, Policy: string(v.Image.PullPolicy), Volume: true, DockerConfigs: secrets,
		Pulling: func() {
			report(pod.Noted{At: now(), Reason: "Pulling", Message: fmt.Sprintf("Pulling image %q", v.Image.Reference)})
		},
	}, time.Now())
	if err == nil && res.Pulled {
		report(pod.Noted{At: now(), Reason: "Pulled", Message: res.Message(v.Image.Reference)})
	}
	return err
}

// imageVolumes lists the volumes that a container mounts and that are images.
func imageVolumes(p *v1.Pod, c *v1.Container) []v1.Volume {
	var found []v1.Volume
	for _, v := range p.Spec.Volumes {
		if v.Image != nil && slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == v.Name }) {
			found = append(found, v)
		}
	}
	return found
}

// imageFailed reports why an image that a container needs is not there.
func imageFailed(ctx context.Context, failed pod.ImageFailed, err error, report func(pod.Fact)) {
	if ctx.Err() != nil {
		return
	}
	failed.At, failed.Reason, failed.Message = now(), "ErrImagePull", err.Error()
	var e *images.EnsureError
	if errors.As(err, &e) {
		failed.Reason = e.Reason
	}
	report(failed)
}
