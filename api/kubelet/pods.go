package kubelet

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/podlogs"
	"podd/api/stream"
	"podd/pod"
)

// PodList serves a v1.PodList with the status of every pod.
func PodList(board *pod.Board) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		all, version := board.Snapshot()
		list := newList(len(all))
		list.ResourceVersion = strconv.FormatUint(version, 10)
		for _, p := range all {
			list.Items = append(list.Items, *p)
		}
		writeJSON(w, list)
	}
}

func newList(n int) v1.PodList {
	return v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: make([]v1.Pod, 0, n)}
}

// runningPods serves a v1.PodList of what has processes now: names, UIDs, and the
// containers that run with their images, as a kubelet has it from its runtime.
func (s *server) runningPods(w http.ResponseWriter, _ *http.Request) {
	all, _ := s.Board.Snapshot()
	list := newList(0)
	for _, p := range all {
		running := v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		for _, statuses := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for i := range statuses {
				if pod.HasProcess(&statuses[i]) {
					running.Spec.Containers = append(running.Spec.Containers, v1.Container{Name: statuses[i].Name, Image: statuses[i].Image})
				}
			}
		}
		if len(running.Spec.Containers) > 0 {
			list.Items = append(list.Items, running)
		}
	}
	writeJSON(w, list)
}

// find returns the pod that a request's path names, or answers it.
func (s *server) find(w http.ResponseWriter, r *http.Request) (p *v1.Pod, key pod.Key, ok bool) {
	key = pod.Key{Namespace: r.PathValue("namespace"), Name: r.PathValue("pod")}
	p, ok = s.Board.Get(key)
	if uid := r.PathValue("uid"); !ok || uid != "" && uid != string(p.UID) {
		http.Error(w, fmt.Sprintf("pod %q does not exist", key.Name), http.StatusNotFound)
		return nil, key, false
	}
	return p, key, true
}

// findRunning returns the pod and the running container that a request's path names,
// or answers it.
func (s *server) findRunning(w http.ResponseWriter, r *http.Request) (key pod.Key, container string, ok bool) {
	p, key, ok := s.find(w, r)
	if !ok {
		return key, "", false
	}
	container = r.PathValue("container")
	if status := podlogs.StatusOf(p, container); status != nil && pod.HasProcess(status) {
		return key, container, true
	}
	http.Error(w, fmt.Sprintf("container not found (%q)", container), http.StatusNotFound)
	return key, "", false
}

func (s *server) containerLogs(w http.ResponseWriter, r *http.Request) {
	p, _, ok := s.find(w, r)
	if !ok {
		return
	}
	container := r.PathValue("container")
	if !slices.Contains(pod.ContainerNames(p), container) {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", container, p.Name), http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	if tail := q.Get("tail"); tail == "all" { // an older name of tailLines
		q.Del("tailLines")
	} else if tail != "" {
		q.Set("tailLines", tail)
	}
	read, err := s.Logs(p, container, q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	stream.Log(w, r, read)
}

func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	key, container, ok := s.findRunning(w, r)
	if !ok {
		return
	}
	command := r.URL.Query()["command"]
	if len(command) == 0 {
		http.Error(w, "you must specify at least one command for the container", http.StatusBadRequest)
		return
	}
	stream.Exec(w, r, stream.Command(s.Pods.Exec, key, pod.ExecRequest{Container: container, Command: command}))
}

func (s *server) attach(w http.ResponseWriter, r *http.Request) {
	if key, container, ok := s.findRunning(w, r); ok {
		stream.Exec(w, r, stream.Process(s.Pods.Attach, key, container))
	}
}

func (s *server) portForward(w http.ResponseWriter, r *http.Request) {
	if _, key, ok := s.find(w, r); ok {
		stream.PortForward(w, r, func(ctx context.Context, port uint16) (net.Conn, error) { return s.Pods.Dial(ctx, key, port) })
	}
}

// maxRun bounds the output of /run, in bytes.
const maxRun = 1 << 20

// run runs ?cmd=, split at spaces, and answers with what it printed.
func (s *server) run(w http.ResponseWriter, r *http.Request) {
	key, container, ok := s.findRunning(w, r)
	if !ok {
		return
	}
	command := strings.Fields(r.URL.Query().Get("cmd"))
	if len(command) == 0 {
		http.Error(w, "query parameter cmd is required", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := bounded{cancel: cancel}
	code, err := s.Pods.Exec(ctx, key, pod.ExecRequest{Container: container, Command: command, Stdout: &out, Stderr: &out})
	switch {
	case out.full:
		err = fmt.Errorf("the command was stopped after %d bytes of output", maxRun)
	case err == nil && code != 0:
		err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), code, out.kept)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write(out.kept)
}

// bounded keeps the output of a command, and ends it when that is too much.
type bounded struct {
	cancel context.CancelFunc

	mu   sync.Mutex // its two outputs come from two goroutines
	kept []byte     // guarded by mu, as is full
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept)+len(p) > maxRun {
		b.full = true
		b.cancel()
	} else {
		b.kept = append(b.kept, p...)
	}
	return len(p), nil
}
