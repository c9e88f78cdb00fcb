package native

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"podd/internal/kerneltest"
	"podd/pod"
)

// An agent that was restarted hears of exits again, when the container's next
// attempt may run already.
func TestAnExitHeardLateLeavesTheNextAttemptsProbesAlone(t *testing.T) {
	kerneltest.Root(t)
	r := newRuntime(t)
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "late", UID: types.UID(uuid.NewUUID())},
		Spec: v1.PodSpec{Containers: []v1.Container{{
			Name: "app", Image: "docker.io/library/busybox:1.36",
			Command: []string{"sh", "-c", "[ -e /shared/again ] && exec sleep 1000; touch /shared/again; exit 1"},
			ReadinessProbe: &v1.Probe{
				ProbeHandler:  v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"false"}}},
				PeriodSeconds: 1, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1,
			},
			VolumeMounts: []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}},
		}}, Volumes: []v1.Volume{{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}},
	}
	target, perform := bringUp(t, r, p)
	first, second := strings.Repeat("1", 64), strings.Repeat("2", 64)
	if _, ok := perform(pod.StartContainer{Container: "app", ID: first}).(pod.ContainerStarted); !ok {
		t.Fatal("the first attempt did not start")
	}
	waitFor(t, "the first attempt's exit", func() bool {
		i, err := r.Inspect(t.Context(), target)
		return err == nil && len(i.Containers) == 1 && i.Containers[0].Exit != nil
	})
	started, ok := perform(pod.StartContainer{Container: "app", ID: second, Attempt: 1}).(pod.ContainerStarted)
	if !ok {
		t.Fatal("the second attempt did not start")
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	facts := make(chan pod.Fact, 100)
	report := func(f pod.Fact) { facts <- f }
	r.Perform(ctx, target, pod.StartProbe{Container: "app", ID: second, Kind: pod.ReadinessProbe, StartedAt: started.Time}, report)
	go r.Watch(ctx, target, report) // ends with ctx
	for heard := false; ; {
		select {
		case f := <-facts:
			switch f := f.(type) {
			case pod.ContainerExited:
				if f.ID != first {
					t.Fatalf("%+v", f)
				}
				heard = true
				for len(facts) > 0 { // from before the exit was heard
					<-facts
				}
			case pod.ProbeResult:
				if heard {
					return
				}
			}
		case <-ctx.Done():
			t.Fatalf("no probe result after the exit was heard (%v)", heard)
		}
	}
}
