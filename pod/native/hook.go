package native

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/pod"
	"podd/probes"
	"podd/sandbox"
)

// deathOfContainer is how long after a hook's failure the exit of its container
// may be heard: it, and not the hook, is then what happened.
const deathOfContainer = 100 * time.Millisecond

// runHook runs a lifecycle hook of a running container. It returns when the
// hook is over, when the container has exited or when ctx ends; a command goes
// on when ctx ends, and is found again by the next agent.
func (r *Runtime) runHook(ctx context.Context, t pod.Target, a pod.RunHook, report func(pod.Fact)) {
	lc := r.live(t.UID).container(a.ID)
	if lc == nil {
		return // it exited meanwhile; the fact is on its way
	}
	c := containerOf(t.Pod, a.Container)
	hookCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the hook
		select {
		case <-lc.exited:
			cancel()
		case <-hookCtx.Done():
		}
	}()
	failure := r.hook(hookCtx, t, c, a, report)
	if failure != "" {
		select {
		case <-lc.exited:
		case <-hookCtx.Done():
		case <-time.After(deathOfContainer):
		}
	}
	if hookCtx.Err() != nil {
		return
	}
	report(pod.HookDone{At: now(), Container: a.Container, ID: a.ID, Kind: a.Kind, Failure: failure})
}

// hook runs a hook and says in the kubelet's words what went wrong.
func (r *Runtime) hook(ctx context.Context, t pod.Target, c *v1.Container, a pod.RunHook, report func(pod.Fact)) (failure string) {
	h := c.Lifecycle.PreStop
	if a.Kind == pod.PostStart {
		h = c.Lifecycle.PostStart
	}
	where := fmt.Sprintf("for Container %q in Pod \"%s_%s(%s)\"", c.Name, t.Pod.Name, t.Pod.Namespace, t.UID)
	switch {
	case h.Exec != nil:
		output, err := r.execHook(ctx, t, a, h.Exec.Command)
		if err != nil {
			return fmt.Sprintf("Exec lifecycle hook (%s) %s failed - error: %v, message: %q", h.Exec.Command, where, err, output)
		}
	case h.HTTPGet != nil:
		if err := r.httpHook(ctx, t, c, h.HTTPGet, report); err != nil {
			return fmt.Sprintf("HTTP lifecycle hook (%s) %s failed - error: %v", h.HTTPGet.Path, where, err)
		}
	case h.Sleep != nil:
		until := a.Since.Add(time.Duration(h.Sleep.Seconds) * time.Second)
		select {
		case <-time.After(time.Until(until)):
		case <-ctx.Done():
		}
	default:
		return fmt.Sprintf("%s hook %s has no handler", a.Kind, where)
	}
	return ""
}

// execHook runs a hook's command once, whatever becomes of the agent: the pause
// process knows it by the container and the hook.
func (r *Runtime) execHook(ctx context.Context, t pod.Target, a pod.RunHook, argv []string) (output []byte, err error) {
	s := r.live(t.UID).getSandbox()
	if s == nil {
		return nil, sandbox.ErrNoSandbox
	}
	res, err := s.Exec(ctx, sandbox.Exec{
		ID: a.ID, RequestID: a.ID + " " + string(a.Kind), Args: argv, OutputLimit: maxProbeOutput, KeepOnHangup: true,
	})
	switch {
	case err != nil:
		return nil, err
	case res.ExitCode != 0:
		return res.Output, fmt.Errorf("command '%s' exited with %d: %s", strings.Join(argv, " "), res.ExitCode, res.Output)
	}
	return nil, nil
}

func (r *Runtime) httpHook(ctx context.Context, t pod.Target, c *v1.Container, get *v1.HTTPGetAction, report func(pod.Fact)) error {
	request, err := r.httpGet(t, c, get)
	if err != nil {
		return err
	}
	fellBack, err := probes.Hook(ctx, request, nil)
	if fellBack {
		report(pod.Noted{
			At: now(), Container: c.Name, Warning: true, Reason: "LifecycleHTTPFallback",
			Message: fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", request.Host),
		})
	}
	if errors.Is(err, context.Canceled) {
		return nil // by the end of the container or of the agent
	}
	return err
}
