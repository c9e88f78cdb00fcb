package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"podd/logs"
	"podd/pod"
)

// logDir is the directory of a container's logs.
func (r *Runtime) logDir(t pod.Target, container string) string {
	return logs.Dir(r.PodLogsDir, t.Pod.Namespace, t.Pod.Name, string(t.UID), container)
}

func (r *Runtime) linkName(t pod.Target, container, id string) string {
	return logs.LinkName(t.Pod.Namespace, t.Pod.Name, container, id)
}

// linkLog makes the link by which log shippers find the log. A failure costs
// no log line, so it stops nothing.
func (r *Runtime) linkLog(t pod.Target, container, id string, attempt int) {
	target := logs.File(r.logDir(t, container), attempt)
	if err := logs.Link(r.ContainerLogsDir, r.linkName(t, container, id), target); err != nil {
		r.log.Error(err, "cannot link log", "pod", r.podName(t.UID), "container", container)
	}
}

// removeLogs removes the logs of a pod with the links to them.
func (r *Runtime) removeLogs(t pod.Target) error {
	// By UID: of a pod without a record the name is not known.
	dirs, err := fs.Glob(os.DirFS(r.PodLogsDir), "*_"+string(t.UID))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(filepath.Join(r.PodLogsDir, dir)); err != nil {
			return fmt.Errorf("cannot remove the logs of pod %s: %w", r.podName(t.UID), err)
		}
	}
	return logs.UnlinkDangling(r.ContainerLogsDir, r.PodLogsDir)
}

// logFiles names the logs of one attempt.
type logFiles struct {
	dir     string
	attempt int
}

// logMonitorInterval is how often rotated logs are looked for, as the kubelet
// does. The writer rotates by itself; only the packing can wait.
const logMonitorInterval = 10 * time.Second

// CompressLogs packs rotated logs until ctx ends. It is started once, by the
// agent, and owns nothing but the files it packs.
func (r *Runtime) CompressLogs(ctx context.Context) {
	every(ctx, logMonitorInterval, func() (done bool) {
		for _, f := range r.liveLogs() {
			if err := logs.Compress(f.dir, f.attempt, r.LogMaxFiles); err != nil && !errors.Is(err, os.ErrNotExist) {
				r.log.Error(err, "cannot compress rotated logs", "directory", f.dir)
			}
		}
		return false
	})
}

func (r *Runtime) liveLogs() []logFiles {
	r.mu.Lock()
	defer r.mu.Unlock()
	var files []logFiles
	for uid, p := range r.pods {
		p.mu.Lock()
		for _, c := range p.containers {
			if p.namespace != "" {
				files = append(files, logFiles{logs.Dir(r.PodLogsDir, p.namespace, p.podName, string(uid), c.name), c.attempt})
			}
		}
		p.mu.Unlock()
	}
	return files
}
