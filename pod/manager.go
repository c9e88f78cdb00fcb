package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

var (
	// ErrNotFound is returned for a pod that is not on the board.
	ErrNotFound = errors.New("pod not found")
	// ErrNotRunning is returned for a container that has no process now.
	ErrNotRunning = errors.New("container is not running")
	// ErrStopped is returned once the manager stops its pods or has ended.
	ErrStopped = errors.New("the agent is stopping")
)

// Config is what a [Manager] works with.
type Config struct {
	Runtime Runtime
	Store   Store
	// Records are the store's, where they were listed already; nil: Run lists them.
	Records []Record
	Board   *Board
	// Events receives what happens to pods, from many goroutines; nil: nobody
	// wants it. [EventStore.Record] fits.
	Events func(Event)
	// Trace receives each fact as a worker learns it, in order for each pod; nil:
	// nobody wants it. It is called from many goroutines and must return at once.
	Trace func(Key, Fact)
	// NodeName and HostIPs are shown in each status; the main address first.
	NodeName string
	HostIPs  []netip.Addr
	// Ended hears of each pod that nothing is left of, once it is off the board, and
	// of each that is wanted deleted and of which nothing exists. It is called from
	// Run's goroutine and must return at once. Nil: nobody wants to know.
	Ended  func(Key, types.UID)
	Logger logr.Logger
}

func (c *Config) node() Node { return Node{Name: c.NodeName, IPs: c.HostIPs} }

// Manager keeps one worker for each pod that is wanted or still there. It
// never touches the kernel itself.
type Manager struct {
	config Config
	calls  chan func() // run by Run, which owns everything below
	ended  chan *worker
	closed chan struct{}
	shown  chan struct{} // closed once the pods of the records are on the board

	slots   map[Key]*slot
	uids    map[types.UID]bool // of all workers
	workers sync.WaitGroup
	settled bool // the first complete set was seen
	down    bool // nothing is started any more
}

// slot is what exists under one key.
type slot struct {
	worker *worker  // nil after Down
	want   Desired  // what the worker runs
	ending bool     // the worker is removing its pod
	next   *Desired // what comes after the worker's end
}

// NewManager prepares a manager; nothing happens before Run.
func NewManager(c Config) *Manager {
	if c.Board == nil {
		c.Board = NewBoard()
	}
	if c.Logger.GetSink() == nil {
		c.Logger = logr.Discard()
	}
	return &Manager{
		config: c,
		calls:  make(chan func()),
		ended:  make(chan *worker),
		closed: make(chan struct{}),
		shown:  make(chan struct{}),
		slots:  map[Key]*slot{},
		uids:   map[types.UID]bool{},
	}
}

// Adopted is closed once every pod of the store's records is on the board, as it
// was when the last agent wrote it down. Who asks before that would be told that
// there are no pods. It stays open when Run fails.
func (m *Manager) Adopted() <-chan struct{} { return m.shown }

// Run adopts the pods of the store's records, then follows the wanted sets,
// each of which is complete. An entry without a pod that is not Gone means: keep
// what runs under this key. Until the first set nothing is removed, whatever is
// missing. Run returns when ctx ends and its workers have; pods keep running. It
// returns an error when the records cannot be listed.
func (m *Manager) Run(ctx context.Context, sets <-chan []Desired) error {
	defer close(m.closed)
	records := m.config.Records
	if records == nil {
		var err error
		if records, err = m.config.Store.List(); err != nil {
			return fmt.Errorf("cannot list the records of pods: %w", err)
		}
	}
	m.adopt(ctx, records)
	m.config.Records = nil // the workers have theirs
	close(m.shown)
	for {
		select {
		case <-ctx.Done():
			m.workers.Wait()
			return nil
		case set, open := <-sets:
			if !open {
				sets = nil
				continue
			}
			m.follow(ctx, set)
		case w := <-m.ended:
			m.workerEnded(ctx, w)
		case call := <-m.calls:
			call()
		}
	}
}

// adopt starts a worker for each record. Of two records for one key, the
// older pod is removed.
func (m *Manager) adopt(ctx context.Context, records []Record) {
	records = slices.Clone(records)
	slices.SortFunc(records, func(a, b Record) int { return b.Observed.Since.Compare(a.Observed.Since) })
	for _, r := range records {
		if e := r.Observed.Ending; e != nil && e.Then == ThenStop {
			r.Observed.Ending = nil // the agent was started again
		}
		w := newWorker(&m.config, r)
		if _, taken := m.slots[r.Key]; taken || r.Key.Name == "" {
			w.observed = Apply(w.observed, Ending{At: At{time.Now()}, Grace: podGrace(r.Pod), Then: ThenRemove})
			w.desired.Key = Key{} // it is not the pod of that name any more
		} else {
			e := r.Observed.Ending
			m.slots[r.Key] = &slot{worker: w, want: r.Desired(), ending: e != nil && e.Then == ThenRemove}
		}
		w.publish() // nobody else has the worker yet
		m.launch(ctx, w)
	}
}

// launch starts a worker's goroutine; it ends with the pod or with ctx.
func (m *Manager) launch(ctx context.Context, w *worker) {
	m.uids[w.uid] = true
	m.workers.Go(func() {
		w.run(ctx)
		select {
		case m.ended <- w:
		case <-ctx.Done():
		}
	})
}

// start runs a new pod: a new UID under a key. kept is why there is another one.
func (m *Manager) start(ctx context.Context, d Desired, kept Kept) {
	if d.deleted() != nil {
		m.tellEnded(d.Key, d.Pod.UID) // before it was ever here
		return
	}
	w := newWorker(&m.config, Record{
		UID: cmp.Or(d.ownUID(), uuid.NewUUID()), Key: d.Key, Pod: d.Pod, Origin: d.Origin, SpecHash: d.SpecHash,
		Observed: Observed{Since: time.Now(), Kept: kept},
	})
	w.setDesired(d) // a record has no sources
	m.slots[d.Key] = &slot{worker: w, want: d}
	m.launch(ctx, w)
}

// follow compares the wanted set with what there is.
func (m *Manager) follow(ctx context.Context, set []Desired) {
	if !m.settled {
		m.settled = true
		m.workers.Go(func() { m.sweep(ctx) })
	}
	if m.down {
		return
	}
	wanted := map[Key]bool{}
	for _, d := range set {
		if d.Gone || d.Key.Name == "" { // no name: what was left over without a record
			continue
		}
		wanted[d.Key] = true
		if d.Pod != nil {
			m.want(ctx, d)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(m.slots), compareKeys) {
		if s := m.slots[key]; !wanted[key] {
			s.next = nil
			m.remove(s)
		}
	}
}

// want brings one key to a manifest.
func (m *Manager) want(ctx context.Context, d Desired) {
	s, found := m.slots[d.Key]
	switch {
	case !found:
		m.start(ctx, d, Kept{})
	case d.ownUID() != "" && s.worker != nil && d.ownUID() == s.worker.uid:
		m.wantSame(s, d)
	case s.ending:
		s.next = &d
	case d.ownUID() != "" && s.worker != nil:
		s.next = &d
		m.remove(s) // another one of the same name
	case unchanged(s.want, d):
	case len(m.compare(s.want, d).Recreate) > 0:
		s.next = &d
		m.remove(s)
	default:
		s.want = d
		m.order(s.worker, order{desired: &d})
	}
}

// wantSame brings a pod that has its UID from the API to what is wanted of it now:
// it never becomes another one.
func (m *Manager) wantSame(s *slot, d Desired) {
	s.next = nil
	if !unchanged(s.want, d) {
		s.want = d
		m.order(s.worker, order{desired: &d})
	}
	deadline := d.deleted()
	switch {
	case deadline == nil && s.ending: // its file was away
		s.next = &d
	case deadline == nil:
	case s.ending:
		m.order(s.worker, order{shorten: deadline})
	default:
		s.ending = true
		m.order(s.worker, order{then: ThenRemove, grace: *deadline})
	}
}

// ownUID is the UID that a pod brings; empty: it gets one when it starts.
func (d Desired) ownUID() types.UID {
	if d.Origin.API {
		return d.Pod.UID
	}
	return ""
}

// deleted is what is left of the grace period of a pod that was deleted through the
// API, at least 0; nil: it was not. The time of deletion is in whole seconds, so a
// second more may be left than it says.
func (d Desired) deleted() *time.Duration {
	if !d.Origin.API || d.Pod.DeletionTimestamp == nil {
		return nil
	}
	left := time.Until(d.Pod.DeletionTimestamp.Time) + time.Second
	if s := d.Pod.DeletionGracePeriodSeconds; s != nil {
		left = min(left, time.Duration(*s)*time.Second)
	}
	left = max(left, 0)
	return &left
}

// unchanged says of two manifests of the same pod whether all that its worker
// needs of them is equal.
func unchanged(a, b Desired) bool {
	return a.Origin == b.Origin && a.SpecHash == b.SpecHash && a.Sources.Same(b.Sources) &&
		maps.Equal(a.Pod.Labels, b.Pod.Labels) && maps.Equal(a.Pod.Annotations, b.Pod.Annotations) &&
		(!b.Origin.API || a.Pod.Generation == b.Pod.Generation && a.Pod.DeletionTimestamp.Equal(b.Pod.DeletionTimestamp)) &&
		equality.Semantic.DeepEqual(a.Pod.Spec, b.Pod.Spec)
}

// remove ends a slot's pod within its grace period, unless that is under way.
func (m *Manager) remove(s *slot) {
	if s.ending || s.worker == nil {
		return
	}
	s.ending = true
	m.order(s.worker, order{then: ThenRemove, grace: -1})
}

// order hands an order to a worker and says whether it took it.
func (m *Manager) order(w *worker, o order) bool {
	select {
	case w.orders <- o:
		return true
	case <-w.done:
		return false
	}
}

// workerEnded frees a key, and starts the pod that waited for it.
func (m *Manager) workerEnded(ctx context.Context, w *worker) {
	delete(m.uids, w.uid)
	if w.desired.Key.Name != "" && w.removed {
		m.config.Board.Remove(w.desired.Pod)
		m.tellEnded(w.desired.Key, w.uid)
	}
	s, found := m.slots[w.desired.Key]
	if !found || s.worker != w {
		return
	}
	s.worker = nil
	if !w.removed {
		return // stopped: the key stays taken until the agent's next start
	}
	delete(m.slots, w.desired.Key)
	if s.next != nil && !m.down {
		m.start(ctx, *s.next, replaced(s.want, *s.next, time.Now()))
	}
}

func (m *Manager) tellEnded(key Key, uid types.UID) {
	if m.config.Ended != nil {
		m.config.Ended(key, uid)
	}
}

// orphanGrace is what a pod of which no record is left gets to end.
const orphanGrace = stopGrace

// sweep finds what exists in the kernel without a record and has it removed.
// It runs once, in a goroutine of its own, after the first complete set.
func (m *Manager) sweep(ctx context.Context) {
	present, err := m.config.Runtime.Present(ctx)
	if err != nil {
		if ctx.Err() == nil {
			m.config.Logger.Error(err, "cannot look for leftovers of earlier pods")
		}
		return
	}
	_ = m.call(ctx, func() {
		for _, uid := range present {
			if m.uids[uid] {
				continue
			}
			m.config.Logger.Info("removing a pod of which no record is left", "uid", string(uid))
			w := newWorker(&m.config, Record{UID: uid, Pod: &v1.Pod{}})
			w.observed = Apply(w.observed, Ending{At: At{time.Now()}, Grace: orphanGrace, Then: ThenRemove})
			m.launch(ctx, w)
		}
	})
}

// call runs f in Run's goroutine and waits for it.
func (m *Manager) call(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	select {
	case m.calls <- func() { defer close(ran); f() }:
		<-ran
		return nil
	case <-m.closed:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Alive returns nil once the manager's loop answers, and an error when it has
// ended or does not answer before ctx ends: then nothing that is wanted is done.
func (m *Manager) Alive(ctx context.Context) error { return m.call(ctx, func() {}) }

// worker finds the worker of a pod.
func (m *Manager) worker(ctx context.Context, key Key) (*worker, error) {
	var w *worker
	down := false
	err := m.call(ctx, func() {
		down = m.down
		if s := m.slots[key]; s != nil {
			w = s.worker
		}
	})
	switch {
	case err != nil:
		return nil, err
	case down:
		return nil, ErrStopped
	case w == nil:
		return nil, fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	return w, nil
}

// Restart stops a pod within its grace period and runs it again in a new
// sandbox, under the same UID, with its volumes. It returns as soon as that has
// begun. A pod that had run to its end runs once more.
func (m *Manager) Restart(ctx context.Context, key Key) error {
	w, err := m.worker(ctx, key)
	if err != nil {
		return err
	}
	if !m.order(w, order{then: ThenRestart, grace: -1}) {
		return fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	return nil
}

// Replace ends a pod within grace, at most its own grace period, and starts it
// again as another one: with a new UID, and nothing of the one before. It is for a
// pod that a file declares and somebody deletes. It returns as soon as that has
// begun; a grace that is shorter than what is left of an end under way shortens it.
func (m *Manager) Replace(ctx context.Context, key Key, grace time.Duration) error {
	var err error
	called := m.call(ctx, func() {
		s := m.slots[key]
		switch {
		case m.down:
			err = ErrStopped
		case s == nil || s.worker == nil:
			err = fmt.Errorf("%w: %s", ErrNotFound, key)
		case s.ending:
			m.order(s.worker, order{shorten: &grace})
		default:
			next := s.want
			if next.Pod.Spec.EphemeralContainers != nil {
				next.Pod = next.Pod.DeepCopy()
				next.Pod.Spec.EphemeralContainers = nil // they were the pod's that ends
			}
			s.next, s.ending = &next, true
			m.order(s.worker, order{then: ThenRemove, grace: min(grace, podGrace(next.Pod))})
		}
	})
	return cmp.Or(called, err)
}

// End ends a pod at once, within grace at most, because the API forgets it: no set
// that comes will have it. A pod of another UID, and one that is not there, are no
// error. It returns once the pod's worker knows.
func (m *Manager) End(ctx context.Context, key Key, uid types.UID, grace time.Duration) error {
	return m.call(ctx, func() {
		s := m.slots[key]
		switch {
		case m.down || s == nil || s.worker == nil || s.worker.uid != uid:
		case s.ending:
			m.order(s.worker, order{shorten: &grace})
		default:
			s.ending = true
			m.order(s.worker, order{then: ThenRemove, grace: grace})
		}
	})
}

// SetConditions gives a pod the conditions that others than the agent set, in place
// of those that were set before: those of its readiness gates, which then count for
// Ready. Conditions of the agent's own among them are left out. It returns once the
// board shows them.
func (m *Manager) SetConditions(ctx context.Context, key Key, conditions []v1.PodCondition) error {
	return m.ask(ctx, key, func(w *worker) error { return w.setConditions(conditions) })
}

// Resize gives containers of a pod that a file declares other resources, until its
// file says something else. The caller has checked them. It returns once the board
// shows what is wanted.
func (m *Manager) Resize(ctx context.Context, key Key, r Resources) error {
	return m.ask(ctx, key, func(w *worker) error { return w.resize(r) })
}

// ask has a pod's worker do something between two decisions, and show what came of it.
func (m *Manager) ask(ctx context.Context, key Key, do func(*worker) error) error {
	w, err := m.worker(ctx, key)
	if err != nil {
		return err
	}
	answers := make(chan error, 1)
	if !m.order(w, order{ask: func(w *worker) {
		err := do(w)
		w.publish()
		w.note() // it is known from now on
		answers <- err
	}}) {
		return fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	return <-answers
}

// Shorten lets a pod that is being ended have at most grace from now on. It
// never lengthens, and a pod that goes on is not touched.
func (m *Manager) Shorten(ctx context.Context, key Key, grace time.Duration) error {
	w, err := m.worker(ctx, key)
	if err != nil {
		return err
	}
	m.order(w, order{shorten: &grace})
	return nil
}

// Down stops all pods within their grace periods: those of the lowest priority
// first, each priority once the one before is gone. They stay stopped, and new
// ones are not started, until the agent is started again. It returns when all are
// stopped, or with ctx's error.
func (m *Manager) Down(ctx context.Context) error {
	var all []*worker
	err := m.call(ctx, func() {
		m.down = true
		for _, s := range m.slots {
			if s.worker != nil {
				all = append(all, s.worker)
			}
		}
	})
	if err != nil {
		return err
	}
	return m.stopInOrder(ctx, all)
}

// stopInOrder stops workers by rising priority.
func (m *Manager) stopInOrder(ctx context.Context, all []*worker) error {
	priorities := map[int32][]*worker{}
	for _, w := range all {
		priorities[w.priority] = append(priorities[w.priority], w)
	}
	for _, p := range slices.Sorted(maps.Keys(priorities)) {
		for _, w := range priorities[p] {
			m.order(w, order{then: ThenStop, grace: -1})
		}
		for _, w := range priorities[p] {
			select {
			case <-w.done:
			case <-ctx.Done():
				return fmt.Errorf("not all pods have stopped: %w", ctx.Err())
			}
		}
	}
	return nil
}

// Why tells what a pod waits for and what befell it; see [Why]. mistakes are the
// problems of its file, if it runs by an earlier version of that. It returns
// [ErrNotFound].
func (m *Manager) Why(ctx context.Context, key Key, mistakes []string) ([]Chain, error) {
	w, err := m.worker(ctx, key)
	if err != nil {
		return nil, err
	}
	told := make(chan Record, 1)
	if !m.order(w, order{tell: told}) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	r := <-told
	return Why(r.Desired(), r.Observed, mistakes, time.Now()), nil
}

// Exec runs a command in a running container. An empty r.Container means the
// pod's default container. r.ID is filled in. It returns [ErrNotFound] and
// [ErrNotRunning].
func (m *Manager) Exec(ctx context.Context, key Key, r ExecRequest) (exitCode int, err error) {
	t, name, id, err := m.running(ctx, key, r.Container)
	if err != nil {
		return 0, fmt.Errorf("cannot run a command in %w", err)
	}
	r.Container, r.ID = name, id
	if r.Stdout == nil {
		r.Stdout = io.Discard
	}
	if r.Stderr == nil {
		r.Stderr = io.Discard
	}
	return m.config.Runtime.Exec(ctx, t, r)
}

// Attach connects a client to a running container's main process, see
// [AttachRequest]. An empty r.Container means the pod's default container. r.ID and
// r.TTY are filled in. It returns [ErrNotFound] and [ErrNotRunning].
func (m *Manager) Attach(ctx context.Context, key Key, r AttachRequest) error {
	t, name, id, err := m.running(ctx, key, r.Container)
	if err != nil {
		return fmt.Errorf("cannot attach to %w", err)
	}
	r.Container, r.ID = name, id
	for _, c := range append(allContainers(t.Pod), ephemeralContainers(t.Pod)...) {
		if c.Name == name {
			r.TTY = c.TTY
		}
	}
	return m.config.Runtime.Attach(ctx, t, r)
}

// Dial connects to a TCP port of a pod, see [Runtime]. It returns [ErrNotFound].
func (m *Manager) Dial(ctx context.Context, key Key, port uint16) (net.Conn, error) {
	view, err := m.view(ctx, key)
	var c net.Conn
	if err == nil {
		c, err = m.config.Runtime.Dial(ctx, view.target, port)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot connect to port %d of pod %s: %w", port, key, err)
	}
	return c, nil
}

// viewPatience is how long who wants to reach into a pod waits for an agent that was
// just started to have looked at it.
const viewPatience = 10 * time.Second

// view asks a pod's worker what it knows of its containers.
func (m *Manager) view(ctx context.Context, key Key) (execView, error) {
	w, err := m.worker(ctx, key)
	if err != nil {
		return execView{}, err
	}
	views := make(chan execView, 1)
	if !m.order(w, order{target: views}) {
		return execView{}, ErrNotFound
	}
	select {
	case v := <-views:
		return v, nil
	case <-w.done:
		return execView{}, ErrNotFound
	case <-ctx.Done():
		return execView{}, ctx.Err()
	case <-time.After(viewPatience):
		return execView{}, fmt.Errorf("the agent was just started and has not seen the pod within %v", viewPatience)
	}
}

// running finds the running attempt of a container, of the default one without a
// name.
func (m *Manager) running(ctx context.Context, key Key, container string) (t Target, name, id string, err error) {
	view, err := m.view(ctx, key)
	if err != nil {
		return Target{}, "", "", fmt.Errorf("pod %s: %w", key, err)
	}
	name = cmp.Or(container, defaultContainer(view.target.Pod))
	c, found := view.containers[name]
	if !found || c.Running == nil {
		return Target{}, "", "", fmt.Errorf("container %s of pod %s: %w", name, key, ErrNotRunning)
	}
	return view.target, name, c.Running.ID, nil
}

// defaultContainer is the container that kubectl picks when none is named.
func defaultContainer(p *v1.Pod) string {
	name := p.Annotations["kubectl.kubernetes.io/default-container"]
	for _, c := range allContainers(p) {
		if c.Name == name {
			return name
		}
	}
	if len(p.Spec.Containers) == 0 {
		return ""
	}
	return p.Spec.Containers[0].Name
}
