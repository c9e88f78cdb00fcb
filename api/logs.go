package api

import (
	"fmt"
	"net/http"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/api/podlogs"
)

// logs serves a container's log, with the query parameters that a kubelet has.
func (c Config) logs(w http.ResponseWriter, r *http.Request) {
	p, err := c.find(r)
	if err != nil {
		c.fail(w, err)
		return
	}
	logs := podlogs.Config{Board: c.Board, Dir: c.PodLogsDir, Watch: c.WatchLogs, Logger: c.Logger}
	read, err := logs.Open(p, r.PathValue("container"), r.URL.Query())
	if err != nil {
		c.fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	flush := http.NewResponseController(w)
	flush.Flush()
	if err := read(r.Context(), flushWriter{w, flush}); err != nil {
		fmt.Fprintln(w, err)
	}
}

type flushWriter struct {
	http.ResponseWriter
	flush *http.ResponseController
}

func (w flushWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if err == nil {
		err = w.flush.Flush()
	}
	return n, err
}

func statusOf(p *v1.Pod, container string) *v1.ContainerStatus { return podlogs.StatusOf(p, container) }

func hasContainer(p *v1.Pod, name string) bool { return podlogs.HasContainer(p, name) }
