package native

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"podd/container"
	"podd/pod"
	"podd/probes"
	"podd/sandbox"
)

// inconclusiveTold is between two reports of inconclusive attempts of one probe;
// the counters know each.
const inconclusiveTold = time.Minute

// maxProbeOutput is how much of a command's output the kubelet keeps.
const maxProbeOutput = 10 << 10

// startProbe starts one probe loop. It ends with StopProbe, with the
// container's exit, with the worker or with a final verdict.
func (r *Runtime) startProbe(ctx context.Context, t pod.Target, a pod.StartProbe, report func(pod.Fact)) {
	live := r.live(t.UID)
	lc := live.container(a.ID)
	if lc == nil {
		return // it exited meanwhile; the fact is on its way
	}
	c := containerOf(t.Pod, a.Container)
	probe := probeOf(c, a.Kind)
	if probe == nil {
		return
	}
	check := r.check(t, c, a.ID, probe)
	loopCtx, cancel := context.WithCancel(ctx)
	live.addProbe(probeKey{a.Container, a.Kind}, liveProbe{a.ID, cancel})
	spec := probes.Spec{
		Kind:             probes.Kind(a.Kind),
		InitialDelay:     seconds(probe.InitialDelaySeconds),
		Period:           seconds(probe.PeriodSeconds),
		Timeout:          seconds(probe.TimeoutSeconds),
		SuccessThreshold: int(probe.SuccessThreshold),
		FailureThreshold: int(probe.FailureThreshold),
	}
	// This goroutine owns the loop of one probe; whatever ends loopCtx ends it.
	go func() {
		defer cancel()
		select {
		case <-lc.exited:
			return
		default:
		}
		var told time.Time // when an inconclusive attempt was last reported
		probes.Run(loopCtx, spec, check, a.StartedAt, probes.Verdict(a.Initial), r.machine(lc), func(res probes.Result) {
			r.countAttempt(t, a, res)
			if res.Outcome == probes.Success && !res.Changed {
				return
			}
			if res.Outcome == probes.Inconclusive {
				if !told.IsZero() && res.At.Sub(told) < inconclusiveTold {
					return // a machine that is short of everything has enough to do
				}
				told = res.At
			}
			report(pod.ProbeResult{
				At: pod.At{Time: res.At.Add(res.Took)}, Container: a.Container, ID: a.ID, Kind: a.Kind,
				Verdict: pod.Verdict(res.Verdict), Outcome: pod.ProbeOutcome(res.Outcome), Output: outputOf(res), Excuse: res.Excuse,
				Failures: res.Failures, Uncounted: res.Uncounted, Since: res.Since,
			})
		})
	}()
}

func (r *Runtime) countAttempt(t pod.Target, a pod.StartProbe, res probes.Result) {
	if r.ProbeAttempt == nil {
		return
	}
	r.ProbeAttempt(ProbeAttempt{
		UID: t.UID, Namespace: t.Pod.Namespace, Pod: t.Pod.Name, Container: a.Container,
		Kind: a.Kind, Outcome: pod.ProbeOutcome(res.Outcome), Took: res.Took,
	})
}

func outputOf(res probes.Result) string {
	if res.Err != nil {
		return res.Err.Error()
	}
	return res.Output
}

// check makes the function that performs one attempt.
func (r *Runtime) check(t pod.Target, c *v1.Container, id string, p *v1.Probe) probes.Check {
	host := r.podAddr(t)
	broken := func(err error) probes.Check {
		return func(context.Context) probes.Attempt { return probes.Attempt{Outcome: probes.Unknown, Err: err} }
	}
	switch h := p.ProbeHandler; {
	case h.Exec != nil:
		argv := container.ExpandProbeCommand(c, h.Exec.Command)
		return probes.Exec(argv, seconds(p.TimeoutSeconds), func(ctx context.Context, argv []string, timeout time.Duration) (int, []byte, bool, error) {
			return r.execProbe(ctx, t, id, argv, timeout)
		})
	case h.HTTPGet != nil:
		get, err := r.httpGet(t, c, h.HTTPGet)
		if err != nil {
			return broken(err)
		}
		return probes.HTTP(get, nil)
	case h.TCPSocket != nil:
		port, err := portOf(h.TCPSocket.Port, c)
		if err != nil {
			return broken(err)
		}
		return probes.TCP(net.JoinHostPort(cmp.Or(h.TCPSocket.Host, host), strconv.Itoa(port)), nil)
	case h.GRPC != nil:
		service := ""
		if h.GRPC.Service != nil {
			service = *h.GRPC.Service
		}
		return probes.GRPC(net.JoinHostPort(host, strconv.Itoa(int(h.GRPC.Port))), service, seconds(p.TimeoutSeconds), nil)
	}
	panic(fmt.Sprintf("native: probe without a handler in container %q", c.Name)) // validation saw one
}

// podAddr is where a pod's probes and hooks reach it.
func (r *Runtime) podAddr(t pod.Target) string {
	if t.Pod.Spec.HostNetwork {
		return hostAddr(r.HostIPs)
	}
	return hostAddr(t.IPs)
}

// httpGet is the request of a probe or a hook of a container.
func (r *Runtime) httpGet(t pod.Target, c *v1.Container, action *v1.HTTPGetAction) (probes.HTTPGet, error) {
	port, err := portOf(action.Port, c)
	if err != nil {
		return probes.HTTPGet{}, err
	}
	get := probes.HTTPGet{Scheme: string(action.Scheme), Host: cmp.Or(action.Host, r.podAddr(t)), Port: port, Path: action.Path}
	for _, header := range action.HTTPHeaders {
		get.Headers = append(get.Headers, probes.Header{Name: header.Name, Value: header.Value})
	}
	return get, nil
}

func (r *Runtime) execProbe(ctx context.Context, t pod.Target, id string, argv []string, timeout time.Duration) (int, []byte, bool, error) {
	s := r.live(t.UID).getSandbox()
	if s == nil {
		return 0, nil, false, sandbox.ErrNoSandbox
	}
	res, err := s.Exec(ctx, sandbox.Exec{ID: id, Args: argv, Timeout: timeout, OutputLimit: maxProbeOutput})
	if err != nil {
		return 0, nil, false, err
	}
	return res.ExitCode, res.Output, res.TimedOut, nil
}

func probeOf(c *v1.Container, kind pod.ProbeKind) *v1.Probe {
	switch kind {
	case pod.StartupProbe:
		return c.StartupProbe
	case pod.LivenessProbe:
		return c.LivenessProbe
	case pod.ReadinessProbe:
		return c.ReadinessProbe
	}
	panic(fmt.Sprintf("native: unknown probe kind %q", kind))
}

// portOf resolves a port by number, or by name among the container's own ports.
func portOf(p intstr.IntOrString, c *v1.Container) (int, error) {
	port := p.IntValue()
	if p.Type == intstr.String {
		for _, named := range c.Ports {
			if named.Name == p.StrVal {
				port = int(named.ContainerPort)
			}
		}
	}
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return port, nil
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }
