package pod

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// Wait is something outside a pod that it waits for and whose coming can be seen
// without trying again.
type Wait struct {
	Kind WaitKind
	// Name is the volume's, or the container's whose image is missing.
	Name string
	// Failures counts the tries that failed for it: after another one it is
	// waited for anew.
	Failures int
}

// WaitKind says what is waited for.
type WaitKind string

const (
	WaitPorts  WaitKind = "ports"  // host ports that someone else holds
	WaitVolume WaitKind = "volume" // the source of a volume
	WaitImage  WaitKind = "image"  // an image that may be loaded by hand
)

// CauseGone says that what a pod waited for seems to be there. What failed for
// want of it is tried at once.
type CauseGone struct {
	At
	Wait
}

// waits lists what the pod waits for.
func waits(pod *v1.Pod, o Observed) []Wait {
	if !o.Inspected || o.Ending != nil || o.Failure != nil {
		return nil
	}
	var all []Wait
	if v := o.Volumes; v.Retry.Failures > 0 && !v.Ready && !v.Busy {
		all = append(all, Wait{WaitVolume, v.Retry.Reason, v.Retry.Failures})
	}
	if s := o.Sandbox; s.Phase == SandboxNone && s.Retry.Reason == reasonNodePorts {
		all = append(all, Wait{WaitPorts, "", s.Retry.Failures})
	}
	for _, c := range append(allContainers(pod), ephemeralContainers(pod)...) {
		if i := o.Containers[c.Name].Image; i.Retry.Failures > 0 && !i.Ready && !i.Busy && c.ImagePullPolicy != v1.PullAlways {
			all = append(all, Wait{WaitImage, c.Name, i.Retry.Failures})
		}
	}
	return all
}

// causeGone lets the next try come now.
func causeGone(o Observed, f CauseGone) Observed {
	switch f.Kind {
	case WaitVolume:
		if o.Volumes.Retry.Failures == f.Failures {
			o.Volumes.Retry.At = f.Time
		}
	case WaitPorts:
		if o.Sandbox.Retry.Failures == f.Failures {
			o.Sandbox.Retry.At = f.Time
		}
	case WaitImage:
		if c := o.Containers[f.Name]; c.Image.Retry.Failures == f.Failures {
			c.Image.Retry.At = f.Time
			return o.with(f.Name, c)
		}
	}
	return o
}

// await has the runtime look out for what the pod waits for. One errand does it:
// it ends when it has seen something, when something else is waited for, or with
// the pod.
func (w *worker) await() {
	all := waits(w.desired.Pod, w.observed)
	key := ""
	if len(all) > 0 {
		key = fmt.Sprint(all)
	}
	if key == w.awaited {
		return
	}
	if w.stopAwait != nil {
		w.stopAwait()
		w.stopAwait = nil
	}
	w.awaited = key
	if key == "" {
		return
	}
	ctx, stop := context.WithCancel(w.starting)
	w.stopAwait = stop
	t := w.target()
	w.errands.Go(func() {
		bounded(ctx, func() { w.config.Runtime.Await(ctx, t, all, func(f Fact) { w.report(ctx, f) }) })
	})
}
