package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"

	"podd/pod"
)

type logsOptions struct {
	podFlags
	all        bool
	follow     bool
	previous   bool
	timestamps bool
	prefix     bool
	tail       int64
	since      time.Duration
	sinceTime  string
	limitBytes int64
}

func logsCommand(g *globals) *cobra.Command {
	o := &logsOptions{podFlags: podFlags{globals: g}}
	c := &cobra.Command{
		Use:   "logs POD [CONTAINER]",
		Short: "Print what a container wrote to its output",
		Example: `  podd logs web                     the default container's log
  podd logs -f web -c filebeat      go on as it is written, over rotations
  podd logs --previous web          the log of the container before its restart
  podd logs --since 10m --tail 20 web`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 2 {
				if o.container != "" {
					return fmt.Errorf("the container is given twice, as -c %s and as %s", o.container, args[1])
				}
				o.container = args[1]
			}
			return o.run(c.Context(), args[0], c.OutOrStdout())
		},
	}
	o.register(c, true)
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on as the log is written")
	c.Flags().BoolVarP(&o.previous, "previous", "p", false, "the container before its last restart")
	c.Flags().BoolVar(&o.all, "all-containers", false, "all containers of the pod, one after the other, together with -f")
	c.Flags().BoolVar(&o.prefix, "prefix", false, "begin each line with pod and container")
	c.Flags().BoolVar(&o.timestamps, "timestamps", false, "begin each line with its time")
	c.Flags().Int64Var(&o.tail, "tail", -1, "only so many lines from the end; -1: all")
	c.Flags().DurationVar(&o.since, "since", 0, "only lines not older than this, such as 5s, 2m or 3h")
	c.Flags().StringVar(&o.sinceTime, "since-time", "", "only lines from this time (RFC 3339) on")
	c.Flags().Int64Var(&o.limitBytes, "limit-bytes", 0, "at most so many bytes; 0: all")
	return c
}

func (o *logsOptions) run(ctx context.Context, arg string, out io.Writer) error {
	p, err := o.find(ctx, arg)
	if err != nil {
		return err
	}
	q, err := o.query()
	if err != nil {
		return err
	}
	if !o.all {
		name := o.containerName(p)
		if !slices.Contains(pod.ContainerNames(p), name) {
			return fmt.Errorf("container %s is not valid for pod %s; choose one of: %v", name, p.Name, pod.ContainerNames(p))
		}
		return o.one(ctx, p, name, q, out)
	}
	if !o.follow {
		for _, name := range pod.ContainerNames(p) {
			if err := o.one(ctx, p, name, q, out); err != nil {
				return err
			}
		}
		return nil
	}
	var readers sync.WaitGroup
	shared := &lockedWriter{w: out}
	for _, name := range pod.ContainerNames(p) {
		// Ends with the container or with the command.
		readers.Go(func() {
			if err := o.one(ctx, p, name, q, shared); err != nil && ctx.Err() == nil {
				fmt.Fprintf(shared, "error: %v\n", err)
			}
		})
	}
	readers.Wait()
	return nil
}

func (o *logsOptions) one(ctx context.Context, p *v1.Pod, container string, q url.Values, out io.Writer) error {
	if o.prefix {
		w := &prefixWriter{w: out, prefix: fmt.Sprintf("[pod/%s/%s] ", p.Name, container)}
		defer w.end()
		out = w
	}
	err := o.client().Logs(ctx, keyOf(p), container, q, out)
	if ctx.Err() != nil {
		return nil // Ctrl-C
	}
	return err
}

func (o *logsOptions) query() (url.Values, error) {
	q := url.Values{}
	for name, set := range map[string]bool{"follow": o.follow, "previous": o.previous, "timestamps": o.timestamps} {
		if set {
			q.Set(name, "true")
		}
	}
	if o.tail >= 0 {
		q.Set("tailLines", strconv.FormatInt(o.tail, 10))
	}
	if o.since != 0 {
		if o.since < time.Second {
			return nil, fmt.Errorf("--since: expected at least 1s; found %v", o.since)
		}
		q.Set("sinceSeconds", strconv.FormatInt(int64((o.since+time.Second-1)/time.Second), 10))
	}
	if o.sinceTime != "" {
		q.Set("sinceTime", o.sinceTime)
	}
	if o.limitBytes > 0 {
		q.Set("limitBytes", strconv.FormatInt(o.limitBytes, 10))
	}
	return q, nil
}

// lockedWriter keeps the writes of several followers apart.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// prefixWriter writes whole lines, each with a prefix.
type prefixWriter struct {
	w       io.Writer
	prefix  string
	pending []byte
}

func (p *prefixWriter) Write(data []byte) (int, error) {
	p.pending = append(p.pending, data...)
	for {
		i := slices.Index(p.pending, '\n')
		if i < 0 {
			return len(data), nil
		}
		line := append([]byte(p.prefix), p.pending[:i+1]...)
		p.pending = p.pending[i+1:]
		if _, err := p.w.Write(line); err != nil {
			return 0, err
		}
	}
}

// end writes a last line that has no newline.
func (p *prefixWriter) end() {
	if len(p.pending) > 0 {
		p.w.Write(append([]byte(p.prefix), p.pending...))
	}
}
