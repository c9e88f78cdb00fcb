package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/kubelet"
	"podd/internal/healthz"
	"podd/internal/refusal"
	"podd/pod"
)

// Commands are what the control socket passes on, besides the Kubernetes API.
type Commands interface {
	// Restart stops and starts a pod in place.
	Restart(ctx context.Context, key pod.Key) error
	// Diff says what manifests would do.
	Diff(ctx context.Context, all []pod.Desired) ([]pod.Outcome, error)
	// Why tells what a pod waits for and what befell it, given the problems of its
	// file where it runs by an earlier version of that.
	Why(ctx context.Context, key pod.Key, mistakes []string) ([]pod.Chain, error)
	// Down stops all pods within their grace periods and returns when they
	// are stopped.
	Down(ctx context.Context) error
}

// Config is what the handlers show.
type Config struct {
	Board    *pod.Board
	Commands Commands // used by Control only
	// Problems are the lines to show about manifests that are not as they
	// should be.
	Problems func() []string
	// Mistakes are the problems of the file of a pod that runs by an earlier
	// version of it. Nil: nobody knows of any.
	Mistakes func(pod.Key) []string
	// Claims and Volumes are the PersistentVolumeClaims and PersistentVolumes, with
	// [AnnotationUsed] where that is known. Used by Control only.
	Claims  func() []*v1.PersistentVolumeClaim
	Volumes func() []*v1.PersistentVolume
	// Metrics are handlers by path, such as /metrics/cadvisor.
	Metrics map[string]http.Handler
	// Healthy returns why the agent does not do its work, or nil.
	Healthy func() error
	// Kube is the Kubernetes API, for root. Used by Control only.
	Kube    http.Handler
	Version string
	Logger  logr.Logger
}

// AnnotationUsed says how many bytes a volume, or a claim's volume, holds.
const AnnotationUsed = "podd/used-bytes"

// ReadOnly serves the kubelet's read-only endpoints.
func ReadOnly(c Config) http.Handler {
	mux := http.NewServeMux()
	c.health(mux)
	mux.HandleFunc("GET /pods", kubelet.PodList(c.Board))
	mux.HandleFunc("GET /pods/{$}", kubelet.PodList(c.Board))
	return mux
}

// MetricsOnly serves health and metrics, which tell less than pods do.
func MetricsOnly(c Config) http.Handler {
	mux := http.NewServeMux()
	c.health(mux)
	return mux
}

// Control serves everything, to whoever reaches the socket: below /podd/ what
// Kubernetes has no words for, and the Kubernetes API.
func Control(c Config) http.Handler {
	mux := http.NewServeMux()
	c.health(mux)
	mux.Handle("/", c.Kube)
	mux.HandleFunc("GET /podd/persistentvolumeclaims", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.Claims()) })
	mux.HandleFunc("GET /podd/persistentvolumes", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.Volumes()) })
	mux.HandleFunc("GET /podd/problems", c.problems)
	mux.HandleFunc("GET /podd/why/{namespace}/{pod}", c.why)
	mux.HandleFunc("GET /podd/version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, c.Version) })
	mux.HandleFunc("POST /podd/restart/{namespace}/{pod}", c.restart)
	mux.HandleFunc("POST /podd/diff", c.diff)
	mux.HandleFunc("POST /podd/down", c.down)
	return mux
}

func (c Config) health(mux *http.ServeMux) {
	healthy := healthz.Handler("/healthz", c.Healthy)
	mux.Handle("GET /healthz", healthy)
	mux.Handle("GET /healthz/", healthy)
	for path, h := range c.Metrics {
		mux.Handle("GET "+path, h)
	}
}

func (c Config) problems(w http.ResponseWriter, _ *http.Request) {
	lines := []string{}
	if c.Problems != nil {
		lines = append(lines, c.Problems()...)
	}
	writeJSON(w, lines)
}

func (c Config) restart(w http.ResponseWriter, r *http.Request) {
	p, err := c.find(r)
	if err == nil {
		err = c.Commands.Restart(r.Context(), keyOf(p))
	}
	if err != nil {
		refusal.Write(w, err)
	}
}

// maxDiff bounds the manifests that are compared at once, in bytes of JSON.
const maxDiff = 64 << 20

// diff answers a list of manifests with a list of what each would do.
func (c Config) diff(w http.ResponseWriter, r *http.Request) {
	var all []pod.Desired
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxDiff)).Decode(&all); err != nil {
		refusal.Write(w, apierrors.NewBadRequest("expected a list of manifests: "+err.Error()))
		return
	}
	for _, d := range all {
		if d.Pod == nil {
			refusal.Write(w, apierrors.NewBadRequest("expected a pod in each manifest"))
			return
		}
	}
	outcomes, err := c.Commands.Diff(r.Context(), all)
	if err != nil {
		refusal.Write(w, err)
		return
	}
	writeJSON(w, outcomes)
}

func (c Config) down(w http.ResponseWriter, r *http.Request) {
	if err := c.Commands.Down(r.Context()); err != nil {
		refusal.Write(w, err)
	}
}

// find returns the pod that a request's path names.
func (c Config) find(r *http.Request) (*v1.Pod, error) {
	key := pod.Key{Namespace: r.PathValue("namespace"), Name: r.PathValue("pod")}
	p, ok := c.Board.Get(key)
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, key.Name)
	}
	return p, nil
}

func keyOf(p *v1.Pod) pod.Key { return pod.Key{Namespace: p.Namespace, Name: p.Name} }

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // a client that went away has its own error
}
