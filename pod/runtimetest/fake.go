// Package runtimetest holds what tests of pods share: a scripted [pod.Runtime],
// a [pod.Store] in memory, and the contract
// that every runtime keeps.
//
// [Fake] imitates a kernel: what was built in it stays when an agent ends and
// is found by the next one. Read first: [Fake], [Fake.Hold], [Contract].
package runtimetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/pod"
)

// Fake is a runtime without a kernel. Every action succeeds at once unless
// Hold or Fail says otherwise. Containers run until they are stopped or
// [Fake.Exit] ends them. It may be used from many goroutines.
type Fake struct {
	mu      sync.Mutex
	pods    map[types.UID]*fakePod
	held    map[string]bool
	hanging map[string]bool
	waiting map[string]chan struct{}
	failing map[string]failure
	lives   map[string]life
	deaf    map[string]bool
	silent  map[string]string // container: the volume that does not answer
	seen    map[string]bool   // causes that are gone and can be seen to be
	starts  int
	probing time.Duration // zero: only the test reports
	nextIP  netip.Addr
}

// fakePod is what exists of one pod.
type fakePod struct {
	sandbox    *pod.FoundSandbox
	volumes    bool
	containers []*fakeContainer
	probes     map[string]probe
	resources  pod.Resources // of the sandbox's control group
	watchers   map[int]chan pod.Fact
	watches    int
	lost       chan struct{} // closed with the sandbox
}

type fakeContainer struct {
	pod.FoundContainer
	image     string
	resources v1.ResourceRequirements
	gone      chan struct{} // closed by its exit
	killed    *time.Timer
	killAt    time.Time
	clients   []*client
	// inputTaken says that its input is, or was, one client's alone.
	inputTaken bool
}

type probe struct {
	id     string
	report func(pod.Fact)
}

// failure is what an action ends with instead of success.
type failure struct{ reason, message string }

// life is what containers of one name do by themselves.
type life struct {
	lasts time.Duration
	code  int
}

// NewFake returns an empty kernel whose first pod gets the address 10.244.0.5.
func NewFake() *Fake {
	return &Fake{
		pods:    map[types.UID]*fakePod{},
		held:    map[string]bool{},
		hanging: map[string]bool{},
		waiting: map[string]chan struct{}{},
		failing: map[string]failure{},
		lives:   map[string]life{},
		deaf:    map[string]bool{},
		silent:  map[string]string{},
		seen:    map[string]bool{},
		nextIP:  netip.MustParseAddr("10.244.0.5"),
	}
}

// Hold makes actions of a kind wait for [Fake.Release]. A kind is inspect, sandbox,
// volumes, image, start, postStart, preStop, destroy or remove; those about a
// container may be held for one, "image app", and images can fail by name:
// "image busybox".
func (f *Fake) Hold(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[kind] = true
}

// Hang makes the next action of a kind wait for [Fake.Release], also when it is
// called off.
func (f *Fake) Hang(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hanging[kind] = true
}

// Release lets the waiting action of a kind end, or says that there is none.
// Later ones are still held.
func (f *Fake) Release(kind string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.waiting[kind]
	if c == nil {
		return fmt.Errorf("nothing waits for %q", kind)
	}
	delete(f.waiting, kind)
	close(c)
	return nil
}

// Unhold lets later actions of a kind end at once again.
func (f *Fake) Unhold(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, kind)
}

// Fail makes actions of a kind fail until [Fake.Heal].
func (f *Fake) Fail(kind, reason, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing[kind] = failure{reason, message}
}

// Heal undoes [Fake.Fail].
func (f *Fake) Heal(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.failing, kind)
}

// Appear undoes [Fake.Fail] in a way that [Fake.Await] sees.
func (f *Fake) Appear(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.failing, kind)
	f.seen[kind] = true
}

// lookOut is how often a runtime looks for what pods wait for.
const lookOut = 500 * time.Millisecond

// Await implements [pod.Runtime].
func (f *Fake) Await(ctx context.Context, _ pod.Target, waits []pod.Wait, report func(pod.Fact)) {
	kinds := map[pod.WaitKind]string{pod.WaitPorts: "sandbox", pod.WaitVolume: "volumes", pod.WaitImage: "image"}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookOut):
		}
		for _, w := range waits {
			f.mu.Lock()
			there := f.seen[kinds[w.Kind]] || f.seen[kinds[w.Kind]+" "+w.Name]
			f.mu.Unlock()
			if there {
				report(pod.CauseGone{At: pod.At{Time: time.Now()}, Wait: w})
				return
			}
		}
	}
}

// Lives makes later attempts of a container exit by themselves.
func (f *Fake) Lives(container string, lasts time.Duration, code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lives[container] = life{lasts, code}
}

// Deafen makes a container ignore the stop signal.
func (f *Fake) Deafen(container string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deaf[container] = true
}

// Silence makes the next start of a container wait for [Fake.Release] of "start
// CONTAINER", as one does that mounts a volume which does not answer.
func (f *Fake) Silence(container, volume string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hanging["start "+container] = true
	f.silent[container] = volume
}

// heldAfter is how long a start has been held up when that is told.
const heldAfter = 3 * time.Second

// hold tells that a start waits for a volume, if it does. over ends that.
func (f *Fake) hold(a pod.StartContainer, report func(pod.Fact)) (over func() bool) {
	f.mu.Lock()
	volume, silent := f.silent[a.Container]
	delete(f.silent, a.Container)
	f.mu.Unlock()
	if !silent {
		return func() bool { return false }
	}
	return time.AfterFunc(heldAfter, func() {
		report(pod.ContainerHeld{
			At: pod.At{Time: time.Now()}, Container: a.Container, ID: a.ID, Volume: volume,
			Message: fmt.Sprintf("/%s has not answered for %v; it is waited for", volume, heldAfter),
		})
	}).Stop
}

// ProbesSucceed makes every probe that is started succeed once, after the
// given time.
func (f *Fake) ProbesSucceed(after time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probing = after
}

// Starts counts the attempts that were ever started.
func (f *Fake) Starts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts
}

// Exit ends the running attempt of a container.
func (f *Fake) Exit(container string, code int, oom bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		for _, c := range p.containers {
			if c.Container == container && c.Exit == nil {
				p.exit(c, code, oom)
				return nil
			}
		}
	}
	return fmt.Errorf("container %s does not run", container)
}

// Lose ends the pause process of every pod, and with it all containers.
func (f *Fake) Lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		if p.sandbox != nil {
			p.endSandbox(137)
		}
	}
}

// Reboot ends everything, and forgets exits and tmpfs with it.
func (f *Fake) Reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		if p.sandbox != nil {
			p.endSandbox(137)
		}
		p.containers, p.volumes = nil, false
		p.probes = nil
	}
}

// Probe reports an attempt of a probe that runs. The verdict is the outcome's.
func (f *Fake) Probe(container string, kind pod.ProbeKind, outcome pod.ProbeOutcome, output string) error {
	f.mu.Lock()
	var found *probe
	for _, p := range f.pods {
		if pr, runs := p.probes[container+" "+string(kind)]; runs {
			found = &pr
		}
	}
	f.mu.Unlock()
	if found == nil {
		return fmt.Errorf("no %s probe of %s runs", kind, container)
	}
	verdict := map[pod.ProbeOutcome]pod.Verdict{
		pod.ProbeSucceeded: pod.VerdictSuccess, pod.ProbeWarned: pod.VerdictSuccess, pod.ProbeFailed: pod.VerdictFailure,
	}[outcome]
	result := pod.ProbeResult{
		At: pod.At{Time: time.Now()}, Container: container, ID: found.id, Kind: kind,
		Verdict: verdict, Outcome: outcome, Output: output,
	}
	switch result.Since = result.Time; outcome {
	case pod.ProbeInconclusive:
		result.Excuse, result.Uncounted = "the machine was short of CPU", 1
	case pod.ProbeErrored:
		result.Uncounted = 1
	case pod.ProbeFailed:
		result.Failures = 1
	}
	found.report(result)
	return nil
}

// State prints what exists, one line each, sorted: what an equal end looks like.
func (f *Fake) State() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, p := range f.pods {
		if p.volumes {
			lines = append(lines, "volumes")
		}
		if p.sandbox != nil {
			lines = append(lines, "sandbox")
		}
		for _, c := range p.containers {
			if c.Exit == nil {
				lines = append(lines, "running "+c.Container+c.differing())
			}
		}
		for name, r := range p.resources {
			if text := resourcesText(r); text != "" {
				lines = append(lines, "room for "+name+":"+text)
			}
		}
		for name := range p.probes {
			lines = append(lines, "probe "+name)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// differing tells an attempt's resources, and its image unless that is the first
// version's.
func (c *fakeContainer) differing() string {
	if strings.HasSuffix(c.image, ":1") {
		return resourcesText(c.resources)
	}
	return " of " + c.image + resourcesText(c.resources)
}

func resourcesText(r v1.ResourceRequirements) string {
	text := ""
	for _, list := range []struct {
		word string
		of   v1.ResourceList
	}{{"requests", r.Requests}, {"limits", r.Limits}} {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			if q, given := list.of[name]; given {
				text += fmt.Sprintf(" %s %s %s", list.word, name, q.String())
			}
		}
	}
	return text
}

// AgentEnded ends all probe loops, as the end of the agent's process does.
func (f *Fake) AgentEnded() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		p.probes, p.watchers = nil, nil
	}
	f.waiting = map[string]chan struct{}{}
}

func (f *Fake) pod(uid types.UID) *fakePod {
	p := f.pods[uid]
	if p == nil {
		p = &fakePod{}
		f.pods[uid] = p
	}
	return p
}

// exit ends an attempt and tells the watchers. The fake's lock is held.
func (p *fakePod) exit(c *fakeContainer, code int, oom bool) {
	now := time.Now()
	c.Exit = &pod.ContainerExited{
		At: pod.At{Time: now}, Container: c.Container, ID: c.ID, Attempt: c.Attempt,
		ExitCode: code, OOMKilled: oom, StartedAt: c.StartedAt,
	}
	if code > 128 {
		c.Exit.Signal = code - 128
	}
	close(c.gone)
	if c.killed != nil {
		c.killed.Stop()
	}
	for name, pr := range p.probes {
		if pr.id == c.ID {
			delete(p.probes, name)
		}
	}
	for _, watcher := range p.watchers {
		watcher <- *c.Exit
	}
}

// endSandbox kills what runs and ends the watches. The fake's lock is held.
func (p *fakePod) endSandbox(code int) {
	for _, c := range p.containers {
		if c.Exit == nil {
			p.exit(c, code, false)
		}
	}
	p.sandbox, p.resources = nil, nil
	close(p.lost)
}

// Inspect implements [pod.Runtime].
func (f *Fake) Inspect(ctx context.Context, t pod.Target) (pod.Inspected, error) {
	if !f.wait(ctx, "inspect", "") {
		return pod.Inspected{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fail, fails := f.failing["inspect"]; fails {
		return pod.Inspected{}, errors.New(fail.message)
	}
	found := pod.Inspected{At: pod.At{Time: time.Now()}}
	p := f.pods[t.UID]
	if p == nil {
		return found, nil
	}
	found.Volumes = p.volumes
	if p.sandbox != nil {
		s := *p.sandbox
		found.Sandbox = &s
	}
	for _, c := range p.containers {
		found.Containers = append(found.Containers, c.FoundContainer)
	}
	return found, nil
}

// Present implements [pod.Runtime].
func (f *Fake) Present(context.Context) ([]types.UID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var uids []types.UID
	for uid := range f.pods {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids, nil
}

// exitsQueued is how many exits a watcher may be behind.
const exitsQueued = 1000

// Watch implements [pod.Runtime].
func (f *Fake) Watch(ctx context.Context, t pod.Target, report func(pod.Fact)) {
	f.mu.Lock()
	p := f.pod(t.UID)
	if p.watchers == nil {
		p.watchers = map[int]chan pod.Fact{}
	}
	p.watches++
	number, exits := p.watches, make(chan pod.Fact, exitsQueued)
	p.watchers[number] = exits
	for _, c := range p.containers {
		if c.Exit != nil {
			exits <- *c.Exit
		}
	}
	lost := p.lost
	if p.sandbox == nil || p.sandbox.ID != t.SandboxID {
		lost = make(chan struct{})
		close(lost)
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(p.watchers, number)
	}()
	for {
		select {
		case e := <-exits:
			report(e)
			continue
		default:
		}
		select {
		case e := <-exits:
			report(e)
		case <-ctx.Done():
			return
		case <-lost:
			for len(exits) > 0 {
				report(<-exits)
			}
			report(pod.SandboxLost{At: pod.At{Time: time.Now()}, ID: t.SandboxID})
			return
		}
	}
}

// Exec implements [pod.Runtime]: it prints the command to r.Stdout.
func (f *Fake) Exec(_ context.Context, _ pod.Target, r pod.ExecRequest) (int, error) {
	if r.Stdout != nil {
		fmt.Fprintln(r.Stdout, strings.Join(r.Command, " "))
	}
	return 0, nil
}

// Dial implements [pod.Runtime]: what connects is told the port. Nothing listens on
// port 1.
func (f *Fake) Dial(_ context.Context, _ pod.Target, port uint16) (net.Conn, error) {
	if port == 1 {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	// Ends once it was read or the other end is closed.
	go func() {
		fmt.Fprintf(ours, "port %d", port)
		ours.Close()
	}()
	return theirs, nil
}

// errFailed is the failure of an action that has no failure fact of its own.
var errFailed = errors.New("asked to fail")

// Perform implements [pod.Runtime].
func (f *Fake) Perform(ctx context.Context, t pod.Target, a pod.Action, report func(pod.Fact)) {
	kind, container := nameOf(a)
	time.Sleep(pace(t.Pod, container))
	if ctx.Err() != nil {
		return
	}
	if hook, ok := a.(pod.RunHook); ok {
		f.runHook(ctx, t, hook, report)
		return
	}
	if start, ok := a.(pod.StartContainer); ok {
		defer f.hold(start, report)()
	}
	if !f.wait(ctx, kind, container) {
		return
	}
	f.mu.Lock()
	fact := f.perform(t, a, kind, container, report)
	f.mu.Unlock()
	if fact != nil {
		report(fact)
	}
}

// runHook runs a hook until it is over, the container exits or ctx ends. Sleeps
// take their time, commands none.
func (f *Fake) runHook(ctx context.Context, t pod.Target, a pod.RunHook, report func(pod.Fact)) {
	f.mu.Lock()
	i := slices.IndexFunc(f.pod(t.UID).containers, func(c *fakeContainer) bool { return c.ID == a.ID })
	if i < 0 {
		f.mu.Unlock()
		return
	}
	c := f.pod(t.UID).containers[i]
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	if sleep := sleepOf(t.Pod, a); sleep > 0 {
		select {
		case <-time.After(time.Until(a.Since.Add(sleep))):
		case <-ctx.Done():
		}
	}
	if !f.wait(ctx, string(a.Kind), a.Container) || ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	fail, fails := f.failing[string(a.Kind)+" "+a.Container]
	f.mu.Unlock()
	done := pod.HookDone{At: pod.At{Time: time.Now()}, Container: a.Container, ID: a.ID, Kind: a.Kind}
	if fails {
		done.Failure = fail.message
	}
	report(done)
}

// sleepOf is how long a hook sleeps.
func sleepOf(p *v1.Pod, a pod.RunHook) time.Duration {
	l := specOf(p, a.Container).Lifecycle
	if l == nil {
		return 0
	}
	h := l.PreStop
	if a.Kind == pod.PostStart {
		h = l.PostStart
	}
	if h == nil || h.Sleep == nil {
		return 0
	}
	return time.Duration(h.Sleep.Seconds) * time.Second
}

// wait holds an action up if it is to be held, and says whether it goes on.
func (f *Fake) wait(ctx context.Context, kind, container string) bool {
	f.mu.Lock()
	name := strings.TrimSpace(kind + " " + container)
	hangs := f.hanging[name]
	delete(f.hanging, name)
	if !hangs && !f.held[kind] && !f.held[name] {
		f.mu.Unlock()
		return true
	}
	c := f.waiting[name]
	if c == nil {
		c = make(chan struct{})
		f.waiting[name] = c
	}
	over := ctx.Done()
	if hangs {
		over = nil
	}
	f.mu.Unlock()
	select {
	case <-c:
		return true
	case <-over:
		return false
	}
}

// pace is how long an action takes. It differs for each container, so that
// what is begun at the same time ends in the same order in each run.
func pace(p *v1.Pod, container string) time.Duration {
	d := time.Microsecond
	for _, r := range p.Name {
		d += time.Duration(r%16) * 16 * time.Microsecond
	}
	for i, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if c.Name == container {
			d += time.Duration(i+1) * time.Microsecond
		}
	}
	return d
}

// nameOf says by what an action can be held or made to fail.
func nameOf(a pod.Action) (kind, container string) {
	switch a := a.(type) {
	case pod.EnsureSandbox:
		return "sandbox", ""
	case pod.EnsureVolumes:
		return "volumes", ""
	case pod.RefreshVolumes:
		return "refresh", ""
	case pod.EnsureImage:
		return "image", a.Container
	case pod.StartContainer:
		return "start", a.Container
	case pod.StopContainer:
		return "stop", a.Container
	case pod.ResizePod:
		return "resize", ""
	case pod.DestroySandbox:
		return "destroy", ""
	case pod.RemovePod:
		return "remove", ""
	}
	return "", ""
}

// Describe is an action as one line of a story.
func Describe(a pod.Action) string {
	switch a := a.(type) {
	case pod.EnsureSandbox:
		if a.Attempt > 0 {
			return fmt.Sprintf("ensure sandbox #%d", a.Attempt)
		}
		return "ensure sandbox"
	case pod.EnsureVolumes:
		return "ensure volumes"
	case pod.RefreshVolumes:
		return "refresh volumes"
	case pod.EnsureImage:
		return fmt.Sprintf("ensure image of %s", a.Container)
	case pod.StartContainer:
		return fmt.Sprintf("start %s #%d", a.Container, a.Attempt)
	case pod.RunHook:
		return fmt.Sprintf("run %s of %s", a.Kind, a.Container)
	case pod.StopContainer:
		return fmt.Sprintf("stop %s within %v", a.Container, a.Grace.Round(time.Millisecond))
	case pod.StartProbe:
		return fmt.Sprintf("probe %s %s from %s", a.Container, a.Kind, cmp.Or(string(a.Initial), "unknown"))
	case pod.StopProbe:
		return fmt.Sprintf("stop probing %s %s", a.Container, a.Kind)
	case pod.ForgetContainer:
		return fmt.Sprintf("forget %s #%d", a.Container, a.Attempt)
	case pod.ResizePod:
		names := slices.Sorted(maps.Keys(a.Containers))
		return strings.TrimSpace("resize pod " + strings.Join(names, " "))
	case pod.DestroySandbox:
		return "destroy sandbox"
	case pod.RemovePod:
		return "remove pod"
	}
	return fmt.Sprintf("%T", a)
}

// perform changes the kernel and returns the answer. f.mu is held.
func (f *Fake) perform(t pod.Target, a pod.Action, kind, container string, report func(pod.Fact)) pod.Fact {
	at := pod.At{Time: time.Now()}
	p := f.pod(t.UID)
	if _, last := a.(pod.DestroySandbox); last {
		defer f.dropEmpty(t.UID)
	}
	fail, fails := f.failing[strings.TrimSpace(kind+" "+container)]
	if image, ok := a.(pod.EnsureImage); ok && !fails {
		fail, fails = f.failing[kind+" "+image.Image]
	}
	if !fails {
		fail, fails = f.failing[kind]
	}
	switch a := a.(type) {
	case pod.EnsureVolumes, pod.RefreshVolumes:
		if fails {
			return pod.VolumesFailed{At: at, Volume: fail.reason, Message: fail.message}
		}
		p.volumes = true
		return pod.VolumesReady{At: at}
	case pod.EnsureSandbox:
		if fails {
			return pod.SandboxFailed{At: at, ID: a.ID, Reason: fail.reason, Message: fail.message}
		}
		return f.ensureSandbox(at, t, p, a)
	case pod.EnsureImage:
		if fails {
			return pod.ImageFailed{At: at, Container: a.Container, Image: a.Image, Reason: fail.reason, Message: fail.message}
		}
		return pod.ImageReady{At: at, Container: a.Container, Image: a.Image, ImageRef: a.Image, ImageID: a.Image + "@sha256:1"}
	case pod.StartContainer:
		if fails {
			return startFailed(at, a, fail)
		}
		return f.start(at, t, p, a)
	case pod.ResizePod:
		if fails {
			return pod.ResizeFailed{At: at, ResizePod: a, Message: fail.message, Infeasible: fail.reason == "Infeasible"}
		}
		p.resize(a)
		return pod.Resized{At: at, ResizePod: a}
	case pod.StopContainer:
		f.stop(p, a)
	case pod.StartProbe:
		if p.probes == nil {
			p.probes = map[string]probe{}
		}
		p.probes[a.Container+" "+string(a.Kind)] = probe{a.ID, report}
		if f.probing > 0 {
			time.AfterFunc(f.probing, func() {
				_ = f.Probe(a.Container, a.Kind, pod.ProbeSucceeded, "") // it may have ended
			})
		}
	case pod.StopProbe:
		delete(p.probes, a.Container+" "+string(a.Kind))
	case pod.ForgetContainer:
		p.containers = slices.DeleteFunc(p.containers, func(c *fakeContainer) bool { return c.ID == a.ID })
	case pod.DestroySandbox:
		if fails {
			return pod.ActionFailed{At: at, Action: a, Err: fail.message}
		}
		if p.sandbox != nil {
			p.endSandbox(137)
		}
		return pod.SandboxGone{At: at}
	case pod.RemovePod:
		if fails {
			return pod.ActionFailed{At: at, Action: a, Err: fail.message}
		}
		delete(f.pods, t.UID)
		return pod.PodRemoved{At: at}
	default:
		return pod.ActionFailed{At: at, Action: a, Err: errFailed.Error()}
	}
	return nil
}

// dropEmpty forgets a pod of which nothing exists. f.mu is held.
func (f *Fake) dropEmpty(uid types.UID) {
	if p := f.pods[uid]; p.sandbox == nil && !p.volumes && len(p.containers) == 0 {
		delete(f.pods, uid)
	}
}

func (f *Fake) ensureSandbox(at pod.At, t pod.Target, p *fakePod, a pod.EnsureSandbox) pod.Fact {
	if p.sandbox == nil || p.sandbox.ID != a.ID {
		s := &pod.FoundSandbox{ID: a.ID, Attempt: a.Attempt, UpAt: at.Time}
		if !t.Pod.Spec.HostNetwork {
			s.IPs = []netip.Addr{f.nextIP}
			f.nextIP = f.nextIP.Next()
		}
		p.sandbox, p.lost, p.resources = s, make(chan struct{}), pod.Resources{}
		for _, c := range slices.Concat(t.Pod.Spec.InitContainers, t.Pod.Spec.Containers) {
			p.resources[c.Name] = c.Resources
		}
	}
	return pod.SandboxUp{At: at, ID: a.ID, Attempt: a.Attempt, IPs: p.sandbox.IPs}
}

func startFailed(at pod.At, a pod.StartContainer, fail failure) pod.Fact {
	failed := pod.ContainerStartFailed{
		At: at, Container: a.Container, ID: a.ID, Attempt: a.Attempt, Reason: fail.reason, Message: fail.message,
	}
	if fail.reason == "RunContainerError" {
		failed.ExitCode = 128
	}
	return failed
}

// start runs a container. Of commands it understands only those that the
// contract uses.
func (f *Fake) start(at pod.At, t pod.Target, p *fakePod, a pod.StartContainer) pod.Fact {
	if p.sandbox == nil {
		return startFailed(at, a, failure{"CreateContainerError", "there is no sandbox"})
	}
	for _, c := range p.containers {
		if c.ID == a.ID {
			return pod.ContainerStarted{At: pod.At{Time: c.StartedAt}, Container: a.Container, ID: a.ID, Attempt: a.Attempt, Pid: c.Pid}
		}
	}
	spec := specOf(t.Pod, a.Container)
	if command := spec.Command; len(command) > 0 && strings.HasPrefix(command[0], "/no/such/") {
		return startFailed(at, a, failure{"RunContainerError", "exec: " + command[0] + ": no such file or directory"})
	}
	c := &fakeContainer{gone: make(chan struct{}), FoundContainer: pod.FoundContainer{
		Container: a.Container, ID: a.ID, Attempt: a.Attempt, Pid: 1000 + len(p.containers), StartedAt: at.Time,
	}}
	c.image, c.resources = spec.Image, spec.Resources
	p.containers = append(p.containers, c)
	f.starts++
	l, lives := f.lives[a.Container]
	if n, err := fmt.Sscanf(strings.Join(spec.Command, " "), "sh -c exit %d", &l.code); n == 1 && err == nil {
		lives = true
	}
	if lives {
		time.AfterFunc(l.lasts, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if c.Exit == nil {
				p.exit(c, l.code, false)
			}
		})
	}
	return pod.ContainerStarted{At: at, Container: a.Container, ID: a.ID, Attempt: a.Attempt, Pid: c.Pid}
}

// specOf is what a pod says of one of its containers; of one that it does not have,
// nothing.
func specOf(p *v1.Pod, container string) *v1.Container {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if c.Name == container {
			return &c
		}
	}
	for _, c := range p.Spec.EphemeralContainers {
		if c.Name == container {
			return (*v1.Container)(&c.EphemeralContainerCommon)
		}
	}
	return &v1.Container{}
}

// resize gives the pod's group and running attempts other resources.
func (p *fakePod) resize(a pod.ResizePod) {
	p.resources = a.After
	for _, c := range p.containers {
		if c.Exit == nil && a.Containers[c.Container] == c.ID {
			c.resources = a.After[c.Container]
		}
	}
}

// stop sends the stop signal, and SIGKILL when the grace is over.
func (f *Fake) stop(p *fakePod, a pod.StopContainer) {
	for _, c := range p.containers {
		if c.ID != a.ID || c.Exit != nil {
			continue
		}
		if !f.deaf[c.Container] {
			p.exit(c, 143, false)
			return
		}
		at := time.Now().Add(a.Grace)
		if c.killed != nil {
			if !at.Before(c.killAt) {
				return
			}
			c.killed.Stop()
		}
		c.killAt = at
		c.killed = time.AfterFunc(a.Grace, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if c.Exit == nil {
				p.exit(c, 137, false)
			}
		})
	}
}
