package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"podd/internal/kerneltest"
	"podd/internal/transcript"
)

// debianPrometheus returns a program of Debian's package, which .ci/prometheus
// unpacks into .cache/prometheus, or into $PODD_PROMETHEUS.
func debianPrometheus(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("PODD_PROMETHEUS")
	if dir == "" {
		dir = filepath.Join("..", ".cache", "prometheus")
	}
	program := filepath.Join(dir, "usr", "bin", name)
	_, err := os.Stat(program)
	kerneltest.Need(t, err == nil, "Debian's prometheus (run .ci/prometheus .cache/prometheus)")
	return program
}

func TestPromtoolAcceptsAllButTheListedNames(t *testing.T) {
	promtool := debianPrometheus(t, "promtool")
	c := fixed()
	live(c.Counters)
	all := Handlers(c)
	for _, path := range paths {
		check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
		check.Stdin = strings.NewReader(scrape(t, all, path))
		out, err := check.CombinedOutput()
		for line := range strings.Lines(string(out)) {
			name, problem, _ := strings.Cut(strings.TrimSpace(line), " ")
			if lintExceptions[name] != problem {
				t.Errorf("%s: %s", path, line)
			}
		}
		if err != nil && len(out) == 0 {
			t.Errorf("%s: promtool: %v", path, err)
		}
	}
}

// startPrometheus runs Prometheus on the shipped configuration, with its port
// replaced by the server's, until the test ends.
func startPrometheus(t *testing.T, server *httptest.Server) (base string, log *transcript.T) {
	t.Helper()
	program := debianPrometheus(t, "prometheus")
	config, err := os.ReadFile("../docs/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"127.0.0.1:10255", server.Listener.Addr().String()},
		{"scrape_interval: 15s", "scrape_interval: 1s"},
		{"scrape_timeout: 10s", "scrape_timeout: 1s"},
	} {
		if !bytes.Contains(config, []byte(change[0])) {
			t.Fatalf("docs/prometheus.yml has no %q", change[0])
		}
		config = bytes.ReplaceAll(config, []byte(change[0]), []byte(change[1]))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, config, 0o644); err != nil {
		t.Fatal(err)
	}
	// Prometheus cannot tell a port it chose: take a free one.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	log = &transcript.T{}
	cmd := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=debug")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return "http://" + address, log
}

// ask sends a request to Prometheus' API and decodes the data of the answer.
func ask(base, path string, data any) error {
	r, err := http.Get(base + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %w", body, err)
	}
	if answer.Error != "" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return nil
}

// query returns the values of an expression.
func query(base, expression string) (values []string, err error) {
	var data struct {
		Result []struct {
			Value [2]any
		}
	}
	err = ask(base, "/api/v1/query?query="+url.QueryEscape(expression), &data)
	for _, r := range data.Result {
		values = append(values, fmt.Sprint(r.Value[1]))
	}
	return values, err
}

func eventually(t *testing.T, log *transcript.T, what string, ok func() error) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s: %v\n%s", what, err, log)
		}
	}
}

func TestPrometheusScrapesEveryTargetOfTheShippedConfiguration(t *testing.T) {
	debianPrometheus(t, "prometheus")
	c := fixed()
	c.Now = nil // timestamps must be current
	live(c.Counters)
	mux := http.NewServeMux()
	for path, h := range Handlers(c) {
		mux.Handle("GET "+path, h)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	base, log := startPrometheus(t, server)

	eventually(t, log, "all targets up", func() error {
		var targets struct {
			ActiveTargets []struct{ ScrapeURL, Health, LastError string }
		}
		if err := ask(base, "/api/v1/targets", &targets); err != nil {
			return err
		}
		if len(targets.ActiveTargets) != len(paths) {
			return fmt.Errorf("%d targets, want %d", len(targets.ActiveTargets), len(paths))
		}
		for _, target := range targets.ActiveTargets {
			if target.Health != "up" {
				return fmt.Errorf("%s is %s %s", target.ScrapeURL, target.Health, target.LastError)
			}
		}
		return nil
	})

	// What the dashboards and alerts of the Kubernetes mixin ask, in short.
	for _, q := range []struct{ expression, want string }{
		{`sum(up)`, "5"},
		{`sum(kubelet_running_pods{job="kubelet"})`, "2"},
		{`sum(kubelet_running_containers{job="kubelet",container_state="running"})`, "2"},
		{`count(kubelet_node_name{job="kubelet",node="node-1"})`, "1"},
		{`sum(kube_pod_status_phase{job="kube-state-metrics",phase="Running"})`, "2"},
		{`sum(kube_pod_status_phase{job="kube-state-metrics",phase="Failed",namespace="jobs",pod="full"})`, "1"},
		{`kube_pod_container_status_waiting_reason{job="kube-state-metrics",reason="CrashLoopBackOff",namespace="jobs"}`, "1"},
		{`sum by (namespace) (kube_pod_container_resource_requests{job="kube-state-metrics",resource="cpu"}) * on (namespace) group_left() count by (namespace) (kube_pod_info{namespace="default"})`, "0.25"},
		{`sum(container_memory_working_set_bytes{job="cadvisor",container!="",image!=""})`, "2621440"},
		{`sum(container_memory_working_set_bytes{job="cadvisor",container!=""}) / sum(container_spec_memory_limit_bytes{job="cadvisor",container!=""})`, "0.125"},
		{`count(rate(container_cpu_usage_seconds_total{job="cadvisor",image!=""}[1m]))`, "1"},
		{`sum(container_network_receive_bytes_total{job="cadvisor",interface="eth0",namespace="default",pod="web"})`, "1"},
		{`sum(machine_memory_bytes{job="cadvisor"})`, "8589934592"},
		{`sum(prober_probe_total{job="probes",probe_type="Liveness",result="successful",container="httpd"})`, "2"},
		{`sum(prober_probe_total{job="probes",probe_type="Liveness",result=~"failed|unknown"})`, "2"},
		{`histogram_quantile(0.99, sum by (le) (prober_probe_duration_seconds_bucket{probe_type="Readiness"})) < 0.0051`, "0.00495"},
		{`sum(container_memory_working_set_bytes{job="resource",container="httpd",namespace="default"})`, "2621440"},
		{`sum(scrape_error{job="resource"})`, "0"},
		{`(kubelet_volume_stats_available_bytes{job="kubelet",namespace="default"} / kubelet_volume_stats_capacity_bytes{job="kubelet",namespace="default"})`, "0.75"},
		{`sum(kubelet_started_containers_errors_total{job="kubelet",code="CreateContainerConfigError"})`, "1"},
		{`count(histogram_quantile(0.99, sum(kubelet_pod_start_sli_duration_seconds_bucket{job="kubelet"}) by (le)))`, "1"},
		{`sum(kube_node_status_condition{job="kube-state-metrics",condition="Ready",status="true"})`, "1"},
	} {
		eventually(t, log, q.expression, func() error {
			values, err := query(base, q.expression)
			if err == nil && (len(values) != 1 || values[0] != q.want) {
				err = fmt.Errorf("found %q, want %q", values, q.want)
			}
			return err
		})
	}

	// Every sample that was served was taken in.
	all := Handlers(c)
	for _, path := range paths {
		if path == "/metrics" {
			continue // the process' own figures come and go
		}
		want := 0
		for line := range strings.Lines(scrape(t, all, path)) {
			if !strings.HasPrefix(line, "#") {
				want++
			}
		}
		values, err := query(base, fmt.Sprintf(`scrape_samples_post_metric_relabeling{metrics_path=%q}`, path))
		if err != nil || len(values) != 1 || values[0] != fmt.Sprint(want) {
			t.Errorf("%s: samples taken in: %q, %v; want %d", path, values, err, want)
		}
	}
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=warn") || strings.Contains(line, "level=error") || strings.Contains(line, "append failed") {
			t.Errorf("Prometheus complains: %s", line)
		}
	}
}
