// Package podlogs finds and reads the log of a pod's container as a kubelet does: which
// attempt is meant, what the query asks for, and when following it ends.
//
// It serves no HTTP. It owns nothing.
//
// Read first: [Config.Open].
package podlogs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"podd/logs"
	"podd/pod"
)

// Config says where logs are.
type Config struct {
	Board *pod.Board
	// Dir is the directory of pods' logs.
	Dir string
	// Watch tells followers when a directory of logs changes; see [logs.Watcher].
	Watch  func(dir string) (changed <-chan struct{}, stop func(), err error)
	Logger logr.Logger
}

// Open finds a container's log, with the query parameters that a kubelet has: follow,
// previous, sinceSeconds, sinceTime, timestamps, tailLines, limitBytes, stream. An
// error is about the request, or says that the container has no log yet. read writes
// the log; following it, until the attempt has ended.
func (c Config) Open(p *v1.Pod, container string, q url.Values) (read func(context.Context, io.Writer) error, err error) {
	opts, err := logOptions(q, time.Now())
	if err != nil {
		return nil, err
	}
	attempt, running, err := logAttempt(p, container, isTrue(q, "previous"))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, w io.Writer) error {
		if opts.Follow {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			opts.Watch = c.Watch
			done := make(chan struct{})
			opts.Done = done
			if !running {
				close(done)
			} else {
				// Ends with the request or when the attempt ended.
				go func() {
					defer close(done)
					c.waitForEnd(ctx, p, container, attempt)
				}()
			}
		}
		dir := logs.Dir(c.Dir, p.Namespace, p.Name, string(p.UID), container)
		skipped, err := logs.Read(ctx, dir, attempt, opts, w)
		if skipped > 0 {
			c.Logger.Info("log has lines that cannot be read", "pod", p.Namespace+"/"+p.Name, "container", container, "lines", skipped)
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("cannot read the log of container %q: %w", container, err)
		}
		return nil
	}, nil
}

// waitForEnd returns when the attempt no longer runs, or with ctx.
func (c Config) waitForEnd(ctx context.Context, p *v1.Pod, container string, attempt int) {
	for {
		_, version := c.Board.Snapshot()
		now, ok := c.Board.Get(pod.Key{Namespace: p.Namespace, Name: p.Name})
		if !ok || now.UID != p.UID {
			return
		}
		status := StatusOf(now, container)
		if status == nil || int(status.RestartCount) != attempt || status.State.Running == nil {
			return
		}
		if _, err := c.Board.Changes(ctx, version); err != nil && !errors.Is(err, pod.ErrTooOld) {
			return
		}
	}
}

// logAttempt picks the attempt whose log is meant, as a kubelet does: the one
// that runs or ran last, or with previous the one before.
func logAttempt(p *v1.Pod, container string, previous bool) (attempt int, running bool, err error) {
	status := StatusOf(p, container)
	if status == nil {
		if !slices.Contains(pod.ContainerNames(p), container) {
			return 0, false, fmt.Errorf("container %s is not valid for pod %s", container, p.Name)
		}
		if p.Spec.NodeName == "" {
			return 0, false, fmt.Errorf("pod %s does not have a host assigned", p.Name)
		}
		return 0, false, fmt.Errorf("container %q in pod %q is waiting to start: ContainerCreating", container, p.Name)
	}
	newest := int(status.RestartCount)
	ran := status.State.Running != nil || status.State.Terminated != nil
	last := newest
	if ran {
		last--
	}
	switch {
	case previous && (status.LastTerminationState.Terminated == nil || last < 0):
		return 0, false, fmt.Errorf("previous terminated container %q in pod %q not found", container, p.Name)
	case previous:
		return last, false, nil
	case ran:
		return newest, status.State.Running != nil, nil
	case status.LastTerminationState.Terminated != nil:
		return last, false, nil
	}
	reason := "ContainerCreating"
	if status.State.Waiting != nil && status.State.Waiting.Reason != "" {
		reason = status.State.Waiting.Reason
	}
	switch reason {
	case "ErrImagePull":
		reason = "image can't be pulled"
	case "ImagePullBackOff":
		reason = "trying and failing to pull image"
	}
	return 0, false, fmt.Errorf("container %q in pod %q is waiting to start: %s", container, p.Name, reason)
}

// StatusOf is a container's status, of whichever list; nil: it has none.
func StatusOf(p *v1.Pod, container string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				return &list[i]
			}
		}
	}
	return nil
}

// isTrue reads a truth value as Kubernetes does: what is given and not 0 or false is
// true.
func isTrue(q url.Values, name string) (is bool) {
	values := q[name]
	_ = runtime.Convert_Slice_string_To_bool(&values, &is, nil) // it never fails
	return is
}

func logOptions(q url.Values, now time.Time) (logs.Options, error) {
	o := logs.Options{Follow: isTrue(q, "follow"), Timestamps: isTrue(q, "timestamps")}
	switch s := q.Get("stream"); s {
	case "", v1.LogStreamAll:
	case v1.LogStreamStdout, v1.LogStreamStderr:
		o.Stream = strings.ToLower(s)
	default:
		return o, fmt.Errorf("stream: expected All, Stdout or Stderr; found %q", s)
	}
	number := func(name string, least int64) (*int64, error) {
		if !q.Has(name) {
			return nil, nil
		}
		n, err := strconv.ParseInt(q.Get(name), 10, 64)
		if err != nil || n < least {
			return nil, fmt.Errorf("%s: expected a whole number, at least %d; found %q", name, least, q.Get(name))
		}
		return &n, nil
	}
	var err error
	if o.TailLines, err = number("tailLines", 0); err != nil {
		return o, err
	}
	if o.LimitBytes, err = number("limitBytes", 1); err != nil {
		return o, err
	}
	since, err := number("sinceSeconds", 1)
	if err != nil {
		return o, err
	}
	if since != nil {
		o.SinceTime = now.Add(-time.Duration(*since) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		if since != nil {
			return o, fmt.Errorf("sinceTime and sinceSeconds: only one of the two may be given")
		}
		if o.SinceTime, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return o, fmt.Errorf("sinceTime: expected a time such as 2006-01-02T15:04:05Z; found %q", s)
		}
	}
	return o, nil
}
