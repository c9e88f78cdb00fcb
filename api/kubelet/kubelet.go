package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/internal/healthz"
	"podd/internal/refusal"
	"podd/pod"
)

// Pods reaches into pods; [pod.Manager] does.
type Pods interface {
	Exec(ctx context.Context, key pod.Key, r pod.ExecRequest) (exitCode int, err error)
	Attach(ctx context.Context, key pod.Key, r pod.AttachRequest) error
	Dial(ctx context.Context, key pod.Key, port uint16) (net.Conn, error)
}

// Config is what the handler shows.
type Config struct {
	Board *pod.Board
	Pods  Pods
	// Logs finds a container's log; [podlogs.Config.Open] does.
	Logs func(p *v1.Pod, container string, q url.Values) (read func(context.Context, io.Writer) error, err error)
	// Metrics are handlers by path: those below /metrics, and /stats/summary.
	Metrics map[string]http.Handler
	// Healthy returns why the agent does not do its work, or nil.
	Healthy func() error
	// Configz returns the configuration as a KubeletConfiguration, Flags the command
	// line's flags in order, each as name and value.
	Configz func() any
	Flags   func() [][2]string
	// LogDir is the directory that /logs/ shows: /var/log.
	LogDir  string
	Version string
	// Authorize says whether a request may use a subresource of this node: one of
	// pods, healthz, configz, statusz, stats, metrics, log, checkpoint and, for
	// everything else, proxy. An error is the answer. Nil: everybody may.
	Authorize func(r *http.Request, verb, subresource string) error
}

// server is the handler's configuration and when it began.
type server struct {
	Config
	mux     *http.ServeMux
	started time.Time
	paths   []string
}

// New returns the handler.
func New(c Config) http.Handler {
	s := &server{Config: c, mux: http.NewServeMux(), started: time.Now()}
	s.handle("GET /pods", PodList(c.Board), "pods", "proxy")
	s.handle("GET /pods/{$}", PodList(c.Board), "pods", "proxy")
	s.handle("GET /runningpods/{$}", s.runningPods, "pods", "proxy")
	s.handle("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs, "proxy")
	for _, method := range []string{"GET", "POST"} { // WebSockets are asked for with GET, SPDY with POST
		s.handle(method+" /exec/{namespace}/{pod}/{container}", s.exec, "proxy")
		s.handle(method+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec, "proxy")
		s.handle(method+" /attach/{namespace}/{pod}/{container}", s.attach, "proxy")
		s.handle(method+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach, "proxy")
		s.handle(method+" /portForward/{namespace}/{pod}", s.portForward, "proxy")
		s.handle(method+" /portForward/{namespace}/{pod}/{uid}", s.portForward, "proxy")
	}
	s.handle("POST /run/{namespace}/{pod}/{container}", s.run, "proxy")
	s.handle("POST /run/{namespace}/{pod}/{uid}/{container}", s.run, "proxy")
	s.handle("GET /logs/", s.hostLogs, "log")
	for path, h := range c.Metrics {
		subresource := "metrics"
		if strings.HasPrefix(path, "/stats/") {
			subresource = "stats"
		}
		s.handle("GET "+path, h.ServeHTTP, subresource)
	}
	healthy := healthz.Handler("/healthz", c.Healthy)
	s.handle("GET /healthz", healthy.ServeHTTP, "healthz", "proxy")
	s.handle("GET /healthz/{check}", healthy.ServeHTTP, "healthz", "proxy")
	s.handle("GET /configz", s.configz, "configz", "proxy")
	s.handle("GET /statusz", s.statusz, "statusz", "proxy")
	s.handle("GET /flagz", s.flagz, "proxy")
	s.handle("POST /checkpoint/{namespace}/{pod}/{container}", s.checkpoint, "checkpoint")
	s.handle("GET /debug/pprof/", pprof.Index, "proxy") // and every profile by name
	s.handle("GET /debug/pprof/cmdline", pprof.Cmdline, "proxy")
	s.handle("GET /debug/pprof/profile", pprof.Profile, "proxy")
	s.handle("GET /debug/pprof/symbol", pprof.Symbol, "proxy")
	s.handle("GET /debug/pprof/trace", pprof.Trace, "proxy")
	s.handle("/", http.NotFound, "proxy")
	slices.Sort(s.paths)
	return s.mux
}

// handle serves a pattern to whoever may use one of the subresources. Requests that
// match nothing are for the pattern / and so need a permission too.
func (s *server) handle(pattern string, h http.HandlerFunc, subresources ...string) {
	if method, path, ok := strings.Cut(pattern, " "); ok && method == "GET" && !strings.Contains(path, "{") {
		s.paths = append(s.paths, path)
	}
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if s.Authorize != nil {
			var err error
			for _, subresource := range subresources {
				if err = s.Authorize(r, verbOf(r.Method), subresource); err == nil {
					break
				}
			}
			if err != nil {
				refuse(w, err)
				return
			}
		}
		h(w, r)
	})
}

// verbOf is the verb of the API for a method of HTTP, as a kubelet has it.
func verbOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		return "get"
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	}
	return strings.ToLower(method)
}

// refuse answers with the Status of an error, 403 if it has none.
func refuse(w http.ResponseWriter, err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	refusal.Write(w, err)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // a client that went away has its own error
}

func (s *server) configz(w http.ResponseWriter, _ *http.Request) {
	var config any = struct{}{}
	if s.Configz != nil {
		config = s.Configz()
	}
	writeJSON(w, map[string]any{"kubeletconfig": config})
}

// checkpoint is an alpha feature of the kubelet that needs CRIU.
func (s *server) checkpoint(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "podd makes no checkpoints of containers", http.StatusNotImplemented)
}

// notMeant is what Kubernetes' components begin these pages with.
const notMeant = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only."

func (s *server) statusz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "\npodd statusz\n%s\n\nStarted: %s\nUp: %s\nGo version: %s\nBinary version: %s\n\nPaths: %s\n",
		notMeant, s.started.Format(time.UnixDate), time.Since(s.started).Round(time.Second), runtime.Version(), s.Version, strings.Join(s.paths, " "))
}

func (s *server) flagz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "\npodd flagz\n%s\n\n", notMeant)
	if s.Flags == nil {
		return
	}
	for _, f := range s.Flags() {
		fmt.Fprintf(w, "%s=%s\n", f[0], f[1])
	}
}
