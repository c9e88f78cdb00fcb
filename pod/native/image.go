package native

import (
	"context"
	"errors"
	"fmt"
	"time"

	"podd/images"
	"podd/pod"
)

// ensureImage finds or pulls a container's image by the rules of its policy.
func (r *Runtime) ensureImage(ctx context.Context, t pod.Target, a pod.EnsureImage, report func(pod.Fact)) {
	res, err := r.Images.Ensure(ctx, images.Request{
		Ref: a.Image, Policy: string(a.Policy),
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
	if ctx.Err() != nil {
		return
	}
	failed := pod.ImageFailed{At: now(), Container: a.Container, Image: a.Image, Reason: "ErrImagePull", Message: err.Error()}
	var e *images.EnsureError
	if errors.As(err, &e) {
		failed.Reason = e.Reason
	}
	report(failed)
}
