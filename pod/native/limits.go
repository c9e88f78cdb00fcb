package native

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/pod"
	"podd/volumes"
)

// limitsInterval is how often the kubelet measures local storage.
const limitsInterval = 10 * time.Second

// watchLimits measures the pod's disk-backed emptyDir volumes that have a
// sizeLimit, and reports the pod as evicted once one is over it. It ends with
// ctx; pods without such a volume cost nothing.
func (r *Runtime) watchLimits(ctx context.Context, t pod.Target, report func(pod.Fact)) {
	var limited []v1.Volume
	for _, v := range t.Pod.Spec.Volumes {
		if e := v.EmptyDir; e != nil && e.Medium == v1.StorageMediumDefault && e.SizeLimit != nil && mounted(t.Pod, v.Name) {
			limited = append(limited, v)
		}
	}
	if len(limited) == 0 {
		return
	}
	every(ctx, limitsInterval, func() (done bool) {
		for _, v := range limited {
			over, err := volumes.OverLimit(ctx, r.volumesPod(t), v)
			if err != nil && ctx.Err() == nil {
				r.log.Error(err, "cannot measure a volume", "pod", r.podName(t.UID), "volume", v.Name)
			}
			if over {
				report(pod.PodFailed{At: now(), Reason: "Evicted",
					Message: fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())})
				return true
			}
		}
		return false
	})
}
