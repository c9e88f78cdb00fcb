package pod

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Chain is one thing about a pod and what led to it.
type Chain struct {
	// At is when it happened; zero: it is so now.
	At time.Time `json:"at,omitzero"`
	// Container is what it is about; empty: the pod as a whole.
	Container string `json:"container,omitempty"`
	Effect    string `json:"effect"`
	// Causes are why, each the cause of the one before it.
	Causes []string `json:"causes,omitempty"`
	// Remedy is what mends it, where that is known.
	Remedy string `json:"remedy,omitempty"`
}

// Why tells what a pod waits for now, and then what befell it, the newest first.
// mistakes are the problems of the pod's file where it runs by an earlier version
// of it. It is pure, and never empty.
func Why(d Desired, o Observed, mistakes []string, now time.Time) []Chain {
	w := whyer{reporter: reporter{pod: d.Pod, o: o, now: now}, origin: d.Origin, told: map[string]bool{}}
	if len(mistakes) > 0 {
		w.add(Chain{Effect: "its file has mistakes: the pod runs as the file was before", Causes: mistakes, Remedy: "correct the file; podd check FILE shows the same"})
	}
	switch {
	case !o.Inspected:
		w.add(Chain{Effect: "the agent has just started and is looking at what exists of the pod"})
	case o.Ending != nil:
		w.ending()
	case finished(d.Pod, o):
		w.finished()
	default:
		w.present()
	}
	for _, h := range slices.Backward(o.Kept.Happened) {
		if !w.told[h.Container] || h.What != WhatExited {
			w.past(h)
		}
		if h.What == WhatExited {
			w.told[h.Container] = false // what is older was not told of
		}
	}
	if len(w.chains) == 0 {
		w.add(Chain{Effect: "nothing is amiss: every container runs and is ready"})
	}
	return w.chains
}

// whyer collects chains.
type whyer struct {
	reporter
	origin Origin
	chains []Chain
	// told are the containers whose newest exit is part of a chain already.
	told map[string]bool
}

func (w *whyer) add(c Chain) {
	c.Causes = slices.DeleteFunc(c.Causes, func(s string) bool { return s == "" })
	w.chains = append(w.chains, c)
}

// ending is about a pod that is being ended.
func (w *whyer) ending() {
	e := w.o.Ending
	c := Chain{Effect: "the pod is being stopped", Causes: []string{"podd down was asked for"}}
	switch e.Then {
	case ThenRemove:
		c = Chain{Effect: "the pod is being removed", Causes: []string{
			fmt.Sprintf("it is no longer in its file, %s, as it was", cmp.Or(w.origin.File, "which is gone")),
		}}
	case ThenRestart:
		c = Chain{Effect: "the pod is being stopped, to start again", Causes: []string{"podd restart was asked for"}}
	}
	if e.Retry.Message != "" {
		c.Causes = append(c.Causes, fmt.Sprintf("what is left of it cannot be removed: %s %s", e.Retry.Message, w.tries(e.Retry)))
	}
	w.add(c)
	for _, name := range sortedNames(w.o.Containers) {
		if r := w.o.Containers[name].Running; r != nil {
			w.add(Chain{Container: name, Effect: fmt.Sprintf("still runs, as process %d", r.Pid), Causes: []string{
				fmt.Sprintf("it has until %s to heed the stop signal; then it is killed", clock(e.Deadline)),
			}})
		}
	}
}

// finished is about a pod that has run to its end.
func (w *whyer) finished() {
	if f := w.o.Failure; f != nil {
		c := Chain{At: f.At, Effect: "the pod failed: " + f.Reason, Causes: []string{strings.TrimSpace(f.Message)}}
		if s := w.pod.Spec.ActiveDeadlineSeconds; f.Reason == reasonDeadlineExceeded && s != nil {
			c.Causes = append(c.Causes, fmt.Sprintf("spec.activeDeadlineSeconds is %d, and the pod was accepted at %s", *s, clock(w.o.Since)))
			c.Remedy = "podd restart gives it no more time; a longer activeDeadlineSeconds does"
		}
		w.add(c)
		return
	}
	effect := "the pod has run to its end and succeeded"
	if !w.allSucceeded() {
		effect = "the pod has run to its end and failed"
	}
	c := Chain{At: finishedAt(w.pod, w.o), Effect: effect}
	for _, spec := range allContainers(w.pod) {
		state := w.o.Containers[spec.Name]
		if e := state.Exit; e != nil && !isSidecar(spec) && !e.succeeded() {
			policy := string(w.pod.Spec.RestartPolicy)
			if spec.RestartPolicy != nil {
				policy = string(*spec.RestartPolicy)
			}
			c.Causes = append(c.Causes, fmt.Sprintf("container %s %s, and its restartPolicy is %s", spec.Name, exitText(*e), policy))
		}
	}
	w.add(c)
}

// present is about what keeps the pod from running and being ready.
func (w *whyer) present() {
	if v := w.o.Volumes; !v.Ready && v.Retry.Failures > 0 {
		w.add(Chain{Effect: "no container starts: a volume is missing" + w.tries(v.Retry), Causes: []string{
			mountMessage(v.Retry.Reason, v.Retry.Message),
		}, Remedy: "the volume is tried again by itself: make its source appear, or correct the file"})
	}
	if s := w.o.Sandbox; s.Phase != SandboxRunning && s.Retry.Failures > 0 && s.Retry.Message != "" {
		c := Chain{Effect: "no container starts: the pod's sandbox cannot be made" + w.tries(s.Retry), Causes: []string{s.Retry.Message}}
		if s.Retry.Reason == reasonNodePorts {
			c.Effect = "no container starts: a host port of the pod is taken" + w.tries(s.Retry)
			c.Remedy = "the port is tried again by itself: free it, or give the pod another hostPort"
		}
		w.add(c)
	}
	for _, spec := range allContainers(w.pod) {
		w.container(spec)
	}
	if waiting := w.waitingForInit(); waiting != "" {
		w.add(Chain{Effect: waiting})
	}
	if len(w.chains) == 0 {
		w.gates()
	}
}

// gates is about readiness gates, which nobody but their owner opens.
func (w *whyer) gates() {
	for _, gate := range w.pod.Spec.ReadinessGates {
		w.add(Chain{Effect: fmt.Sprintf("the pod waits for its readiness gate %q", gate.ConditionType)})
	}
}

// waitingForInit says which init container all others wait for, if any is at work.
func (w *whyer) waitingForInit() string {
	if w.initialised() || w.o.Sandbox.Phase != SandboxRunning {
		return ""
	}
	for i := range w.pod.Spec.InitContainers {
		c := &w.pod.Spec.InitContainers[i]
		state := w.o.Containers[c.Name]
		if isSidecar(c) && started(c, state) || !isSidecar(c) && initDone(state, w.o.Sandbox.ID) {
			continue
		}
		var after []string
		for _, next := range allContainers(w.pod)[i+1:] {
			after = append(after, next.Name)
		}
		return fmt.Sprintf("%s: waiting for init container %s", strings.Join(after, ", "), c.Name)
	}
	return ""
}

// container is about what keeps one container from running and being ready.
func (w *whyer) container(c *v1.Container) {
	state := w.o.Containers[c.Name]
	r := state.Running
	image := state.Image.Retry
	switch {
	case r != nil:
		w.running(c, r)
	case state.Hold != nil:
		w.add(Chain{Container: c.Name, Effect: fmt.Sprintf("is not started yet: volume %q does not answer", state.Hold.Volume), Causes: []string{
			state.Hold.Message,
		}, Remedy: "mend its server or its disk: the start goes on by itself when that answers"})
	case image.Failures > 0:
		w.add(Chain{Container: c.Name, Effect: fmt.Sprintf("waits for its image %q", c.Image) + w.tries(image), Causes: []string{
			image.Reason + ": " + image.Message,
		}, Remedy: imageRemedy(image)})
	case state.Retry.Failures > 0 && state.Retry.Reason != "":
		w.add(Chain{Container: c.Name, Effect: "cannot be started: " + state.Retry.Reason + w.tries(state.Retry), Causes: []string{state.Retry.Message}})
	case state.Exit != nil && state.Starting == nil && w.again(c, state) && w.now.Before(restartAt(state)):
		chain := Chain{
			Container: c.Name,
			Effect:    fmt.Sprintf("waits until %s for restart %d (CrashLoopBackOff, %v)", clock(restartAt(state)), state.Attempt+1, state.Backoff.Delay),
			Causes:    []string{exitText(*state.Exit)},
		}
		if h := w.newestExit(c.Name); h != nil {
			effect, causes := w.exit(*h)
			chain.Causes = append([]string{effect}, causes...)
			chain.Remedy = exitRemedy(*h, c)
			w.told[c.Name] = true
		}
		w.add(chain)
	}
}

// newestExit is what is remembered of a container's newest exit, if anything is.
func (w *whyer) newestExit(name string) *Happening {
	for _, h := range slices.Backward(w.o.Kept.Happened) {
		if h.What == WhatExited && h.Container == name {
			return &h
		}
	}
	return nil
}

// running is about a container that runs: what its probes say.
func (w *whyer) running(c *v1.Container, r *Running) {
	tell := func(kind ProbeKind, spec *v1.Probe, effect string) {
		chain := Chain{Container: c.Name, Effect: effect}
		if p, found := w.o.Kept.Probes[c.Name+"/"+string(kind)]; found && p.ID == r.ID {
			chain.Causes = w.saw(p, c, spec)
		} else {
			chain.Causes = []string{fmt.Sprintf("%s: no attempt has come to a result yet", w.asks(c, spec)), w.firstAttempt(r, spec)}
		}
		w.add(chain)
	}
	switch {
	case r.Stop != nil:
		chain := Chain{Container: c.Name, Effect: fmt.Sprintf("is being stopped, and is killed at %s", clock(r.Stop.Deadline)), Causes: []string{stopCause(r.Stop.Reason)}}
		kind := stoppedBy[r.Stop.Reason]
		if p, found := w.o.Kept.Probes[c.Name+"/"+string(kind)]; found && p.ID == r.ID {
			chain.Causes = append(chain.Causes, w.saw(p, c, probeSpec(c, kind))...)
		}
		w.add(chain)
	case inPostStart(c, w.o.Containers[c.Name]):
		w.add(Chain{Container: c.Name, Effect: "runs and has not started: its postStart hook has not come to an end"})
	case c.StartupProbe != nil && r.Startup != VerdictSuccess:
		tell(StartupProbe, c.StartupProbe, "runs and has not started: its startup probe has not succeeded")
	case c.ReadinessProbe != nil && r.Readiness != VerdictSuccess:
		tell(ReadinessProbe, c.ReadinessProbe, "runs and is not ready: its readiness probe does not succeed")
	}
	if p, found := w.o.Kept.Probes[c.Name+"/"+string(LivenessProbe)]; found && p.ID == r.ID && r.Stop == nil && c.LivenessProbe != nil {
		// Successes that change nothing are not told: an old failure is over.
		if newest := 2*seconds32(c.LivenessProbe.PeriodSeconds) + seconds32(c.LivenessProbe.TimeoutSeconds); w.now.Sub(p.At) <= newest {
			tell(LivenessProbe, c.LivenessProbe, "runs, and its liveness probe does not succeed")
		}
	}
}

func seconds32(n int32) time.Duration { return time.Duration(n) * time.Second }

// firstAttempt says when a probe's first attempt is made, if that is to come.
func (w *whyer) firstAttempt(r *Running, p *v1.Probe) string {
	first := r.StartedAt.Add(seconds32(p.InitialDelaySeconds))
	if !w.now.Before(first) {
		return ""
	}
	return fmt.Sprintf("the first one is made at %s: initialDelaySeconds is %d", clock(first), p.InitialDelaySeconds)
}

// saw says how often a probe did not succeed, and what it saw last.
func (w *whyer) saw(p Probed, c *v1.Container, spec *v1.Probe) []string {
	var causes []string
	if p.Failures > 0 || p.Excuse == "" && p.Uncounted == 0 {
		causes = append(causes, fmt.Sprintf("it failed %s (failureThreshold %d)", often(p.Failures, p.Since, p.At), spec.FailureThreshold))
	}
	if p.Uncounted > 0 {
		why := "it could not be made"
		if p.Excuse != "" {
			why = p.Excuse
		}
		causes = append(causes, fmt.Sprintf("%s did not count: %s", plural(p.Uncounted, "attempt"), why))
	}
	return append(causes, fmt.Sprintf("%s: %s", w.asks(c, spec), cmp.Or(p.Output, "it failed without a word")))
}

// asks is what a probe does, with the address that it does it to.
func (w *whyer) asks(c *v1.Container, p *v1.Probe) string {
	host := "the pod"
	if len(w.o.Sandbox.IPs) > 0 {
		host = w.o.Sandbox.IPs[0].String()
	}
	port := func(s string) string {
		for _, named := range c.Ports {
			if named.Name == s {
				return fmt.Sprint(named.ContainerPort)
			}
		}
		return s
	}
	if p == nil {
		return "the probe"
	}
	switch h := p.ProbeHandler; {
	case h.Exec != nil:
		return "exec " + commandText(h.Exec.Command)
	case h.HTTPGet != nil:
		scheme := cmp.Or(strings.ToLower(string(h.HTTPGet.Scheme)), "http")
		path := h.HTTPGet.Path
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		return fmt.Sprintf("GET %s://%s%s", scheme, net.JoinHostPort(cmp.Or(h.HTTPGet.Host, host), port(h.HTTPGet.Port.String())), path)
	case h.TCPSocket != nil:
		return "tcp connection to " + net.JoinHostPort(cmp.Or(h.TCPSocket.Host, host), port(h.TCPSocket.Port.String()))
	case h.GRPC != nil:
		return "grpc health of " + net.JoinHostPort(host, fmt.Sprint(h.GRPC.Port))
	}
	return "the probe"
}

// past is about what happened.
func (w *whyer) past(h Happening) {
	c := Chain{At: h.At, Container: h.Container}
	switch h.What {
	case WhatExited:
		c.Effect, c.Causes = w.exit(h)
		w.add(c)
		return
	case WhatSandboxLost:
		c.Effect = "the pod's sandbox was lost" + timesText(h) + ", and every container with it; it was made anew"
		c.Causes = []string{"its pause process (podd-pause) ended: somebody on the host killed it, or the kernel did"}
	case WhatRebooted:
		c.Effect = "the machine was started anew" + timesText(h) + "; the pod was started again with its restart counts"
	case WhatRestarted:
		c.Effect = "the pod was stopped and started again" + timesText(h)
		c.Causes = []string{"podd restart was asked for"}
	case WhatChanged:
		c.Effect = "the pod followed a change of its file" + timesText(h)
	case WhatReplaced:
		c.Effect = "the pod was made anew: its file changed in what a running pod cannot follow"
		if h.Text == "" {
			c.Effect = "the pod was made anew: it had been taken away in between"
		}
	default: // of a newer agent
		c.Effect = string(h.What) + timesText(h)
	}
	if h.Text != "" {
		c.Causes = append(c.Causes, h.Text)
	}
	w.add(c)
}

// exit tells of a container's end and why it came to it.
func (w *whyer) exit(h Happening) (effect string, causes []string) {
	e, spec := *h.Exit, w.spec(h.Container)
	effect = "its command " + exitText(e)
	if e.Reason != reasonStartError {
		process := "its process"
		if h.Pid != 0 {
			process = fmt.Sprintf("process %d", h.Pid)
		}
		effect = fmt.Sprintf("%s (%s) %s", process, mainCommand(spec), exitText(e))
		if !e.StartedAt.IsZero() {
			effect += fmt.Sprintf(" after %v", e.FinishedAt.Sub(e.StartedAt).Round(time.Millisecond))
		}
	}
	effect += timesText(h)
	switch {
	case h.Deaf:
		causes = append(causes, "it did not heed the stop signal within its grace period")
	case e.Reason == reasonStartError:
		return effect, []string{e.Message}
	}
	switch {
	case h.OOM != nil:
		causes = append(causes, oomText(*h.OOM, e, spec))
	case e.Stopped != "":
		causes = append(causes, stopCause(e.Stopped))
	case w.lostAt(e.FinishedAt):
		causes = append(causes, "the pod's sandbox was lost")
	default:
		causes = append(causes, signalCause(e))
	}
	if h.Probe != nil && spec != nil {
		if probe := probeSpec(spec, h.Probe.Kind); probe != nil {
			causes = append(causes, w.saw(*h.Probe, spec, probe)...)
		}
	}
	causes = append(causes, h.Text)
	if e.Message != "" {
		causes = append(causes, "its termination message: "+e.Message)
	}
	return effect, causes
}

// lostAt says whether the pod's sandbox was lost when a container ended.
func (w *whyer) lostAt(ended time.Time) bool {
	return slices.ContainsFunc(w.o.Kept.Happened, func(h Happening) bool {
		return h.What == WhatSandboxLost && h.At.Sub(ended).Abs() < time.Second
	})
}

// spec is a container of the pod, nil if it has none of that name any more.
func (w *whyer) spec(name string) *v1.Container {
	for _, c := range allContainers(w.pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// probeSpec is a container's probe of a kind, nil if it has none.
func probeSpec(c *v1.Container, kind ProbeKind) *v1.Probe {
	switch kind {
	case StartupProbe:
		return c.StartupProbe
	case LivenessProbe:
		return c.LivenessProbe
	}
	return c.ReadinessProbe
}

// stopCause is why podd stopped a container.
func stopCause(reason StopReason) string {
	switch reason {
	case StopLiveness:
		return "podd stopped it: its liveness probe failed"
	case StopStartup:
		return "podd stopped it: its startup probe failed"
	case StopHook:
		return "podd stopped it: its postStart hook failed"
	case StopChanged:
		return "podd stopped it: its image or its resources changed in the file"
	case StopEnding:
		return "podd stopped it: the pod was to end"
	case StopLost:
		return "it ended with its sandbox or the machine"
	}
	return "podd stopped it: " + string(reason)
}

// timesText is how often something happened, unless it was once.
func timesText(h Happening) string {
	if h.Times < 2 {
		return ""
	}
	return fmt.Sprintf(", %d times since %s", h.Times, clock(h.Since))
}

// often is a number of times and when.
func often(n int, since, at time.Time) string {
	switch {
	case n < 2 || since.IsZero():
		return plural(max(1, n), "time") + " at " + clock(at)
	default:
		return fmt.Sprintf("%s in a row, %s to %s", plural(n, "time"), clock(since), clock(at))
	}
}

// tries is how often something was tried, and when it is again.
func (w *whyer) tries(r Retry) string {
	s := " (tried " + plural(r.Failures, "time")
	if w.now.Before(r.At) {
		s += ", again at " + clock(r.At)
	}
	return s + ")"
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func clock(t time.Time) string { return t.Format(time.TimeOnly) }

// exitText is how an attempt ended.
func exitText(e Exit) string {
	switch {
	case e.Reason == reasonStartError:
		return "could not be executed"
	case e.Reason == reasonStatusUnknown, e.Reason == reasonUnknown:
		return "ended unseen"
	case e.Signal != 0:
		return "was killed by " + signalName(e.Signal)
	case e.Code > 128 && signalNames[e.Code-128] != "":
		return fmt.Sprintf("exited with code %d (128 and the number of %s)", e.Code, signalName(e.Code-128))
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}

// signalCause says who may have sent a signal that podd did not.
func signalCause(e Exit) string {
	switch e.Signal {
	case 0:
		return ""
	case 4, 5, 7, 8, 11:
		return "the processor refused what the program did: a fault of the program, or of what it was built for"
	case 6:
		return "the program gave up by itself (abort)"
	case 31:
		return "it made a system call that its seccomp profile forbids"
	}
	return "podd did not send it: another process did, in the container or on the host"
}

// signalNames are the signals of Linux that end processes. Source: signal(7).
var signalNames = map[int]string{
	1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", sigkill: "SIGKILL",
	10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 31: "SIGSYS",
}

func signalName(n int) string { return cmp.Or(signalNames[n], fmt.Sprintf("signal %d", n)) }

// oomText is about a container of which the kernel killed a process. spec may be
// nil.
func oomText(m OOM, e Exit, spec *v1.Container) string {
	if m.LimitBytes == 0 && spec != nil {
		m.LimitBytes = uint64(spec.Resources.Limits.Memory().Value())
	}
	who := "the kernel killed it for want of memory"
	if e.Signal != sigkill {
		who = "the kernel killed a process of it for want of memory"
	}
	bytes := func(n uint64) string { return resource.NewQuantity(int64(n), resource.BinarySI).String() }
	switch {
	case m.LimitBytes == 0:
		return who + ": it has no limit, the machine or its pod ran out"
	case m.PeakBytes == 0:
		return fmt.Sprintf("%s: its limit is %s (resources.limits.memory)", who, bytes(m.LimitBytes))
	}
	return fmt.Sprintf("%s: it had used up to %s of its limit of %s (resources.limits.memory)", who, bytes(m.PeakBytes), bytes(m.LimitBytes))
}

// mainCommand is what a container runs, short.
func mainCommand(c *v1.Container) string {
	if c == nil || len(c.Command) == 0 {
		return "the image's command"
	}
	return commandText(append(slices.Clone(c.Command), c.Args...))
}

// commandText is a command, on one line and not too long.
func commandText(argv []string) string {
	const most = 60
	var b strings.Builder
	for i, a := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		if a == "" || strings.ContainsAny(a, " \t\n\"'") {
			a = fmt.Sprintf("%q", a)
		}
		b.WriteString(a)
	}
	s := b.String()
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func imageRemedy(r Retry) string {
	switch {
	case r.Reason == "ErrImageNeverPull":
		return "podd image load or pull it, or let imagePullPolicy be another than Never"
	case r.Reason == "InvalidImageName":
		return "correct the image's name in the file"
	case strings.Contains(r.Message, "UNAUTHORIZED") || strings.Contains(r.Message, "DENIED") || strings.Contains(r.Message, "401") || strings.Contains(r.Message, "403"):
		return "the registry wants other credentials, or has no such image for you"
	}
	return "it is tried again by itself; podd image load takes it from a file"
}

func exitRemedy(h Happening, c *v1.Container) string {
	switch {
	case h.OOM != nil && h.OOM.LimitBytes > 0:
		return "a higher resources.limits.memory, or a program that needs less"
	case h.Exit.Reason == reasonStartError:
		return "correct the container's command, or its image"
	case h.Exit.Stopped != "":
		return ""
	}
	return fmt.Sprintf("podd logs --previous -c %s shows what it said", c.Name)
}
