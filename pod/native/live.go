package native

import (
	"context"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"podd/pod"
	"podd/sandbox"
	"podd/sandbox/cgroup"
)

// livePod holds the handles to one pod's kernel objects. It is made by the
// first action or inspection and dropped when the pod is removed.
type livePod struct {
	mu         sync.Mutex
	namespace  string // with podName, the pod's name; guarded by mu
	podName    string
	sandbox    *sandbox.Sandbox          // guarded by mu; nil while there is none
	ending     bool                      // the sandbox is being destroyed on purpose; guarded by mu
	containers map[string]*liveContainer // by container id; guarded by mu
	probes     map[probeKey]liveProbe    // guarded by mu
	removed    bool                      // guarded by mu
	volumes    map[string]chan struct{}  // who looks at a volume holds its place in the channel; guarded by mu
	ready      *readyRoot                // guarded by mu; nil: none
}

// readyRoot is the root file system of a pod's first container, made while its sandbox
// is made.
type readyRoot struct {
	container, image string // name and ID
	root             *os.File
}

// keepRoot takes a root file system over, in place of any other; nil gives it up.
func (p *livePod) keepRoot(r *readyRoot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready != nil {
		p.ready.root.Close()
	}
	p.ready = r
}

// takeRoot hands out the root file system that is ready for an attempt with an image;
// nil: there is none.
func (p *livePod) takeRoot(a pod.StartContainer, image string) *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.ready
	if r == nil || r.container != a.Container {
		return nil
	}
	p.ready = nil
	if a.Attempt > 0 || r.image != image {
		r.root.Close()
		return nil
	}
	return r.root
}

// liveProbe is a probe loop of one attempt.
type liveProbe struct {
	id     string // of the container
	cancel context.CancelFunc
}

type probeKey struct {
	container string
	kind      pod.ProbeKind
}

// liveContainer is one attempt that runs, or ran and is not forgotten.
type liveContainer struct {
	name    string
	attempt int
	group   *cgroup.Group
	started time.Time
	exited  chan struct{} // closed when its exit was heard

	mu       sync.Mutex
	deadline *time.Timer // kills; guarded by mu
	killAt   time.Time   // guarded by mu
}

// live returns the handles of a pod, new ones if there are none yet.
func (r *Runtime) live(uid types.UID) *livePod {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pods[uid]
	if p == nil {
		p = &livePod{containers: map[string]*liveContainer{}, probes: map[probeKey]liveProbe{}}
		r.pods[uid] = p
	}
	return p
}

func (r *Runtime) dropLive(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, uid)
}

// podName returns namespace/name of a live pod, or its UID.
func (r *Runtime) podName(uid types.UID) string {
	r.mu.Lock()
	p := r.pods[uid]
	r.mu.Unlock()
	if p == nil {
		return string(uid)
	}
	return p.name(uid)
}

// name is the pod's name, or its UID where that is not known.
func (p *livePod) name(uid types.UID) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.namespace == "" {
		return string(uid)
	}
	return p.namespace + "/" + p.podName
}

func (p *livePod) setName(t pod.Target) {
	if t.Pod == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.namespace, p.podName = t.Pod.Namespace, t.Pod.Name
}

func (p *livePod) setSandbox(s *sandbox.Sandbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sandbox = s
	if s != nil {
		p.ending = false
	}
}

// setEnding says that the end of the sandbox is what we want, until there is
// another one.
func (p *livePod) setEnding() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ending = true
}

func (p *livePod) isEnding() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ending
}

func (p *livePod) getSandbox() *sandbox.Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sandbox
}

func (p *livePod) setRemoved() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removed = true
}

func (p *livePod) isRemoved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.removed
}

// volumeTurn is the channel by which a volume is looked at by one at a time.
func (p *livePod) volumeTurn(volume string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.volumes == nil {
		p.volumes = map[string]chan struct{}{}
	}
	if p.volumes[volume] == nil {
		p.volumes[volume] = make(chan struct{}, 1)
	}
	return p.volumes[volume]
}

func (p *livePod) setContainer(id string, c *liveContainer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.containers[id] = c
}

// container returns the attempt with the id, nil if it is not known.
func (p *livePod) container(id string) *liveContainer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.containers[id]
}

func (p *livePod) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.containers, id)
}

// addProbe remembers how to end a loop, and ends the one it replaces.
func (p *livePod) addProbe(key probeKey, probe liveProbe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, found := p.probes[key]; found {
		old.cancel()
	}
	p.probes[key] = probe
}

func (p *livePod) stopProbe(container string, kind pod.ProbeKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := probeKey{container, kind}
	if probe, found := p.probes[key]; found {
		probe.cancel()
		delete(p.probes, key)
	}
}

// stopProbes ends the loops of one attempt, or of all with an empty id. Not by
// name: an exit may be heard again when the next attempt runs already.
func (p *livePod) stopProbes(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, probe := range p.probes {
		if id == "" || probe.id == id {
			probe.cancel()
			delete(p.probes, key)
		}
	}
}

// killBy arranges for kill to be called at the given time unless the container
// exits first. A later time than one already set changes nothing. It reports
// whether this was the first call.
func (c *liveContainer) killBy(at time.Time, kill func()) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = c.deadline == nil
	if !first {
		if !at.Before(c.killAt) {
			return false
		}
		c.deadline.Stop()
	}
	c.killAt = at
	c.deadline = time.AfterFunc(time.Until(at), kill)
	return first
}

// heardExit says that the exit was heard: nothing is killed any more. It may
// be called more than once.
func (c *liveContainer) heardExit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline != nil {
		c.deadline.Stop()
	}
	select {
	case <-c.exited:
	default:
		close(c.exited)
	}
}
