package metrics

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
)

// busy is a source whose containers use half a core, their pods three quarters and
// the machine one and a half, from the moment that it was made.
type busy struct {
	scripted
	since time.Time
	asked *int
}

func (b busy) used() time.Duration { return time.Since(b.since) }

func (b busy) Usage(ctx context.Context, p *v1.Pod) PodUsage {
	u := b.scripted.Usage(ctx, p)
	if u.Pod != nil {
		u.Pod.CPU += b.used() * 3 / 4
	}
	for name, g := range u.Containers {
		g.CPU += b.used() / 2
		u.Containers[name] = g
	}
	return u
}

func (b busy) Machine(ctx context.Context) (MachineUsage, error) {
	*b.asked++
	m, err := b.scripted.Machine(ctx)
	m.CPU += b.used() * 3 / 2
	m.AvailableDiskBytes = 40 << 30
	return m, err
}

func summaryOf(t *testing.T, h http.Handler, query string) (summary, []byte) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/stats/summary"+query, nil))
	var s summary
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return s, w.Body.Bytes()
}

// The names are those of the kubelet: the file is what a client of it would read.
func TestSummaryHasTheKubeletsNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := fixed()
		c.Now, c.Source, c.Node.Booted = time.Now, busy{since: time.Now(), asked: &asked}, time.Now().Add(-time.Hour)
		p := web()
		p.Spec.Volumes = []v1.Volume{{Name: "logs", VolumeSource: v1.VolumeSource{
			PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}}}
		c.Board.Set(p)
		_, answer := summaryOf(t, Summary(c), "")
		var got bytes.Buffer
		json.Indent(&got, answer, "", "  ")
		const golden = "testdata/stats-summary.json"
		if *update {
			if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSummaryTellsRatesSinceTheLastOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := fixed()
		c.Now, c.Source = time.Now, busy{since: time.Now(), asked: &asked}
		h := Summary(c)
		for _, step := range []struct {
			after time.Duration // since the last summary
			takes time.Duration
			asked int // so often in all
		}{{0, time.Second, 2}, {time.Second / 2, 0, 2}, {30 * time.Second, 0, 3}, {2 * time.Minute, time.Second, 5}} {
			time.Sleep(step.after)
			began := time.Now()
			s, _ := summaryOf(t, h, "")
			if took := time.Since(began); took != step.takes || asked != step.asked {
				t.Errorf("after %s: took %s and measured %d times; want %s and %d", step.after, took, asked, step.takes, step.asked)
			}
			for what, got := range map[string]*cpuStats{"node": s.Node.CPU, "pod": s.Pods[0].CPU, "container": s.Pods[0].Containers[0].CPU} {
				want := map[string]uint64{"node": 15e8, "pod": 75e7, "container": 5e8}[what]
				if got.UsageNanoCores == nil || *got.UsageNanoCores != want {
					t.Errorf("after %s: %s uses %v nanocores, want %d", step.after, what, got.UsageNanoCores, want)
				}
			}
		}
	})
}

func TestSummaryOfCPUAndMemoryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := fixed()
		c.Now, c.Source = time.Now, busy{since: time.Now(), asked: &asked}
		s, _ := summaryOf(t, Summary(c), "?only_cpu_and_memory=true")
		p := s.Pods[0]
		if s.Node.FS != nil || p.Network != nil || p.Volumes != nil || s.Node.CPU == nil || s.Node.Memory == nil || p.CPU == nil || p.Memory == nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestSummaryOfAMachineThatCannotBeMeasuredIsAnError(t *testing.T) {
	c := fixed()
	c.Source = scripted{broken: true}
	w := httptest.NewRecorder()
	Summary(c).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/stats/summary", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
