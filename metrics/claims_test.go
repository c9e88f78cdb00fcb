package metrics

import (
	"context"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/pod"
)

// sharing measures one volume of each pod.
type sharing struct{ scripted }

func (sharing) Volumes(context.Context, *v1.Pod) []VolumeUsage {
	return []VolumeUsage{{Name: "data", UsedBytes: 5}}
}

func TestAClaimIsShownOnceUnderItsName(t *testing.T) {
	c := fixed()
	c.Source, c.Board = sharing{}, pod.NewBoard()
	for _, name := range []string{"one", "two"} {
		c.Board.Set(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.PodSpec{Volumes: []v1.Volume{{
			Name: "data", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "shared"}},
		}}}})
	}
	const want = `kubelet_volume_stats_used_bytes{namespace="default",persistentvolumeclaim="shared"} 5`
	if got := scrape(t, Handlers(c), "/metrics"); strings.Count(got, "kubelet_volume_stats_used_bytes{") != 1 || !strings.Contains(got, want) {
		t.Errorf("want once %s in\n%s", want, got)
	}
}
