package metrics

import (
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	v1 "k8s.io/api/core/v1"

	"podd/pod"
)

var update = flag.Bool("update", false, "write the expected answers anew")

var paths = []string{"/metrics", "/metrics/cadvisor", "/metrics/probes", "/metrics/resource", "/metrics/state"}

// withoutProcess drops what the Go runtime and the kernel tell of this process.
func withoutProcess(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		if strings.HasPrefix(line, "podd_build_info") {
			line = "podd_build_info{goversion=\"…\"" + line[strings.Index(line, ",version"):]
		}
		kept.WriteString(line)
	}
	return kept.String()
}

func TestAnswersForAFixedBoard(t *testing.T) {
	c := fixed()
	live(c.Counters)
	all := Handlers(c)
	if len(all) != len(paths) {
		t.Errorf("%d handlers, want %d", len(all), len(paths))
	}
	for _, path := range paths {
		got := withoutProcess(scrape(t, all, path))
		file := filepath.Join("testdata", strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "-")+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got == string(want) {
			continue
		}
		gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for _, l := range wantLines {
			if !slices.Contains(gotLines, l) {
				t.Errorf("%s: missing: %s", path, l)
			}
		}
		for _, l := range gotLines {
			if !slices.Contains(wantLines, l) {
				t.Errorf("%s: unexpected: %s", path, l)
			}
		}
		t.Errorf("%s differs from %s; go test -update writes it", path, file)
	}
}

// lintExceptions are names that others fixed and dashboards ask for, each with
// what the linter says of it.
var lintExceptions = map[string]string{
	"kubelet_evictions":        `counter metrics should have "_total" suffix`, // the kubelet
	"container_memory_failcnt": `counter metrics should have "_total" suffix`, // cAdvisor
}

func TestNamesKeepTheRulesOfPrometheusButForThoseThatOthersFixed(t *testing.T) {
	c := fixed()
	live(c.Counters)
	all := Handlers(c)
	seen := map[string]bool{}
	for _, path := range paths {
		problems, err := promlint.New(strings.NewReader(scrape(t, all, path))).Lint()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, p := range problems {
			seen[p.Metric] = true
			if lintExceptions[p.Metric] != p.Text {
				t.Errorf("%s: %s: %s", path, p.Metric, p.Text)
			}
		}
	}
	for name := range lintExceptions {
		if !seen[name] {
			t.Errorf("%s needs no exception", name)
		}
	}
}

func TestAPodThatIsGoneLeavesNoSeries(t *testing.T) {
	c := fixed()
	live(c.Counters)
	all := Handlers(c)
	gone := web()
	for _, path := range paths[1:] {
		if !strings.Contains(scrape(t, all, path), `pod="web"`) {
			t.Errorf("%s does not show the pod while it is there", path)
		}
	}
	c.Board.Remove(gone)
	for _, path := range paths {
		if text := scrape(t, all, path); strings.Contains(text, `"web"`) || strings.Contains(text, "web-logs") {
			t.Errorf("%s still shows the pod", path)
		}
	}
	c.Board.Set(gone)
	if text := scrape(t, all, "/metrics/probes"); strings.Contains(text, `pod="web"`) {
		t.Error("counts of probes outlived their pod")
	}
}

func TestRemovedPodsAreForgottenWithoutAScrape(t *testing.T) {
	c := fixed().Counters
	live(c)
	c.Fact(pod.Key{Namespace: "default", Name: "web"}, pod.PodRemoved{At: pod.At{Time: noon}})
	if len(c.probes) != 0 || c.pods[pod.Key{Namespace: "default", Name: "web"}] != nil {
		t.Errorf("still remembered: %d probes, pods %v", len(c.probes), c.pods)
	}
}

func TestAdoptedPodsHaveNoStartDuration(t *testing.T) {
	c := fixed()
	key := pod.Key{Namespace: "default", Name: "web"}
	at := pod.At{Time: noon}
	c.Counters.Fact(key, pod.Inspected{At: at, Sandbox: &pod.FoundSandbox{ID: "p0"}})
	c.Counters.Fact(key, pod.ContainerStarted{At: at, Container: "httpd", ID: "h2"})
	if text := scrape(t, Handlers(c), "/metrics"); !strings.Contains(text, "\nkubelet_pod_start_duration_seconds_count 0\n") {
		t.Error("the start of an adopted pod was counted")
	}
}

func TestAMachineThatCannotBeMeasuredIsAScrapeErrorAndNothingElseIsLost(t *testing.T) {
	c := fixed()
	c.Source = scripted{broken: true}
	all := Handlers(c)
	for path, want := range map[string][]string{
		"/metrics/resource": {"\nscrape_error 1\n", "\nresource_scrape_error 1\n", "pod_memory_working_set_bytes{"},
		"/metrics/cadvisor": {"\ncontainer_scrape_error 1\n", "container_memory_working_set_bytes{"},
		"/metrics/state":    {"kube_node_info{", "kube_pod_status_phase{"},
	} {
		text := scrape(t, all, path)
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s lacks %q", path, w)
			}
		}
	}
}

func TestSizeOfImagesAsTheKubeletNamesIt(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "N/A", 1: "0-10MB", 10<<20 - 1: "0-10MB", 10 << 20: "10MB-100MB", 600 << 20: "500MB-1GB", 99 << 30: "60GB-100GB", 100 << 30: "GT100GB",
	} {
		if got := sizeRange(bytes); got != want {
			t.Errorf("%d bytes: %s, want %s", bytes, got, want)
		}
	}
}

func TestAllSeriesOfAScrapeDiffer(t *testing.T) {
	c := many(3)
	live(c.Counters)
	all := Handlers(c)
	for _, path := range paths {
		seen := map[string]bool{}
		for line := range strings.Lines(scrape(t, all, path)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			end := strings.LastIndexByte(line, '}') + 1
			if end == 0 {
				end = strings.IndexByte(line, ' ')
			}
			if series := line[:end]; seen[series] {
				t.Errorf("%s: twice: %s", path, series)
			} else {
				seen[series] = true
			}
		}
	}
}

func TestScrapersDoNotDisturbEachOtherOrTheCounters(t *testing.T) {
	c := fixed()
	all := Handlers(c)
	done := make(chan struct{})
	go func() { // ends by itself
		defer close(done)
		for range 200 {
			live(c.Counters)
		}
	}()
	for range 20 {
		for _, path := range paths {
			scrape(t, all, path)
		}
	}
	<-done
	want := `prober_probe_total{container="httpd",namespace="default",pod="web",probe_type="Readiness",pod_uid="uid-web",result="successful"} 200`
	if text := scrape(t, all, "/metrics/probes"); !strings.Contains(text, want) {
		t.Errorf("want %s in\n%s", want, text)
	}
}

func TestConditionsThatAreUnknownAreShownAsSuch(t *testing.T) {
	c := fixed()
	p := web()
	p.Name, p.UID = "odd", "uid-odd"
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionUnknown}}
	c.Board.Set(p)
	want := `kube_pod_status_ready{namespace="default",pod="odd",uid="uid-odd",condition="unknown"} 1`
	if text := scrape(t, Handlers(c), "/metrics/state"); !strings.Contains(text, want) {
		t.Errorf("no line %s", want)
	}
}

// BenchmarkScrapeOf100Pods shows what an answer costs besides measuring.
func BenchmarkScrapeOf100Pods(b *testing.B) {
	all := Handlers(many(100))
	for _, path := range paths {
		b.Run(strings.TrimPrefix(path, "/"), func(b *testing.B) {
			for b.Loop() {
				all[path].ServeHTTP(discard{http.Header{}}, &http.Request{Method: http.MethodGet, Header: http.Header{}})
			}
		})
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
