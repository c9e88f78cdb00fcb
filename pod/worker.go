package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// saveDelay gathers the changes of a pod's start into one write to the disk.
	saveDelay = 200 * time.Millisecond
	// noteDelay gathers what an agent that is killed would learn again into the note
	// of what comes next: a pod starts in less.
	noteDelay = 30 * time.Millisecond
	// saveRetry is between two tries to write a record that could not be written.
	saveRetry = 10 * time.Second
	// maxRounds bounds how often Decide may ask for more without anything happening.
	maxRounds = 100
)

// worker runs one pod from its first sandbox to its last trace. Its run
// goroutine alone reads and writes desired and observed.
type worker struct {
	config *Config
	log    logr.Logger
	uid    types.UID
	// priority is the pod's, for the order in which pods are stopped.
	priority int32
	inbox    chan Fact
	orders   chan order
	// done is closed when run has returned; removed may be read after that.
	done    chan struct{}
	removed bool

	desired    Desired // Pod is never nil and bears the UID
	observed   Observed
	conditions []v1.PodCondition // last shown
	resized    Resources         // see [Record]
	rebooted   bool

	// errands are the goroutines that perform actions, watch and save. They
	// own nothing, report facts, and end with the worker's context.
	errands sync.WaitGroup
	// starting is the context of work that only a pod that goes on needs.
	starting    context.Context
	callOff     context.CancelFunc
	watched     string // the sandbox watched
	stopWatch   context.CancelFunc
	asked       []chan<- execView // waiting until the kernel was looked at
	awaited     string            // what the pod waits for and the runtime looks out for
	stopAwait   context.CancelFunc
	noted       *Record // last
	toNote      urgency // what was not noted yet
	saves       chan Record
	noteFailing bool
}

// order is what the manager wants of a worker; one of its parts is set.
type order struct {
	desired *Desired        // the same pod, changed in what can change while it runs, or with other sources
	then    EndingThen      // end the pod
	grace   time.Duration   // with then; negative: the pod's own
	shorten *time.Duration  // let a pod that ends have no more than this
	target  chan<- execView // tell what an exec needs
	tell    chan<- Record   // tell all that is known
	ask     func(*worker)   // change what else belongs to the pod
}

// execView is what the manager needs to reach into a pod.
type execView struct {
	target     Target
	containers map[string]Container
}

func newWorker(c *Config, r Record) *worker {
	w := &worker{
		config:     c,
		log:        c.Logger.WithValues("pod", r.Key.String(), "uid", string(r.UID)),
		uid:        r.UID,
		inbox:      make(chan Fact, 16),
		orders:     make(chan order),
		done:       make(chan struct{}),
		observed:   r.Observed,
		conditions: r.Conditions,
		resized:    r.Resized,
		rebooted:   r.Rebooted,
		saves:      make(chan Record, 1),
	}
	w.observed = assumeMade(w.observed, r.Pod)
	w.observed.Inspected = false
	w.setDesired(r.Desired())
	if p := r.Pod.Spec.Priority; p != nil {
		w.priority = *p
	}
	return w
}

// setDesired takes a new manifest of the same pod.
func (w *worker) setDesired(d Desired) {
	was := w.desired.Pod
	if w.resized != nil && was != nil && d.SpecHash != w.desired.SpecHash {
		w.resized = nil
	}
	d.Pod = d.Pod.DeepCopy()
	if w.resized != nil {
		d.Pod = w.resized.With(d.Pod)
	}
	d.Pod.UID = w.uid
	if was != nil { // what was added to the pod stays with it
		d.Pod.Spec.EphemeralContainers = withAdded(was.Spec.EphemeralContainers, d.Pod.Spec.EphemeralContainers)
		if !d.Origin.API {
			d.Pod.Generation = was.Generation
		}
	}
	d.Pod.Generation = max(d.Pod.Generation, 1)
	w.desired = d
}

// nextGeneration counts a change of the spec; one that came through the API was
// counted there.
func (w *worker) nextGeneration() {
	if !w.desired.Origin.API {
		w.desired.Pod.Generation++ // nobody else has it yet
	}
}

// run is the worker's life. It returns when nothing is left to do or when ctx
// ends; pods go on without it.
func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	ctx, cancel := context.WithCancel(ctx)
	w.starting, w.callOff = context.WithCancel(ctx)
	target := w.target() // read here: it is this goroutine that owns it
	w.errands.Go(func() { w.inspect(ctx, target) })
	w.errands.Go(func() { w.save(ctx) })
	done := w.loop(ctx)
	w.callOff()
	cancel()
	w.errands.Wait()
	if w.removed = done && w.observed.Ending.Then == ThenRemove; w.removed {
		if err := w.config.Store.Delete(w.uid); err != nil {
			w.log.Error(err, "the record of a removed pod stays behind")
		}
		return
	}
	w.note() // which is never older than the record
	if err := w.config.Store.Save(w.record()); err != nil {
		w.log.Error(err, "the record of a pod is not up to date")
	}
}

// loop decides, acts and hears back until the pod is done or ctx ends.
func (w *worker) loop(ctx context.Context) (done bool) {
	for {
		plan := w.act(ctx)
		w.answer()
		w.watch(ctx)
		w.await()
		w.publish()
		if w.toNote == noteNow {
			w.note()
		}
		if plan.Done {
			return true
		}
		var wake, late <-chan time.Time
		if !plan.WakeAt.IsZero() {
			wake = time.After(time.Until(plan.WakeAt))
		}
		if w.toNote == noteLater {
			late = time.After(noteDelay)
		}
		for waiting := true; waiting; {
			waiting = false
			select {
			case <-ctx.Done():
				return false
			case f := <-w.inbox:
				w.learn(f)
			case o := <-w.orders:
				w.obey(o)
			case <-wake:
			case <-late:
				w.note()
				late, waiting = nil, true
			}
		}
		for more := true; more; { // what has happened already is decided about once
			select {
			case f := <-w.inbox:
				w.learn(f)
			default:
				more = false
			}
		}
	}
}

// answer tells who asked what is known, once the kernel was looked at: before that,
// no container can be reached.
func (w *worker) answer() {
	if !w.observed.Inspected {
		return
	}
	for _, asked := range w.asked {
		asked <- execView{target: w.target(), containers: w.observed.Containers}
	}
	w.asked = nil
}

// act begins what Decide asks for until it asks for nothing more.
func (w *worker) act(ctx context.Context) Plan {
	for range maxRounds {
		now := time.Now()
		if f, over := overdue(w.desired.Pod, w.observed, now); over && w.observed.Inspected && w.observed.Ending == nil {
			w.learn(f)
		}
		if f := restartAll(w.desired.Pod, w.observed, now); f != nil {
			w.learn(f)
		}
		w.renewStarting(ctx)
		plan := Decide(w.desired, w.observed, now)
		if len(plan.Actions) == 0 {
			return plan
		}
		target := w.target()
		for i, a := range plan.Actions {
			a = withID(a)
			plan.Actions[i] = a
			w.learn(Begun{At: At{now}, Action: a, Pod: w.desired.Pod})
		}
		target.SandboxID, target.IPs = w.observed.Sandbox.ID, w.observed.Sandbox.IPs
		w.note()
		for _, a := range plan.Actions {
			w.perform(ctx, target, a)
		}
	}
	panic(fmt.Sprintf("pod %s: decided %d times without coming to rest: %+v", w.desired.Key, maxRounds, w.observed))
}

// withID gives what is new a new ID.
func withID(a Action) Action {
	switch a := a.(type) {
	case EnsureSandbox:
		if a.ID == "" {
			a.ID = newID()
		}
		return a
	case StartContainer:
		a.ID = newID()
		return a
	}
	return a
}

// newID returns 64 random hex digits.
func newID() string {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// renewStarting calls off pulls and set-up work when the pod is to end, and
// allows it again when the pod goes on.
func (w *worker) renewStarting(ctx context.Context) {
	over := w.observed.Ending != nil || w.observed.Failure != nil
	switch {
	case over:
		w.callOff()
	case w.starting.Err() != nil && ctx.Err() == nil:
		w.starting, w.callOff = context.WithCancel(ctx)
	}
}

func (w *worker) target() Target {
	return Target{
		UID: w.uid, Pod: w.desired.Pod,
		SandboxID: w.observed.Sandbox.ID, IPs: w.observed.Sandbox.IPs,
		Sources: w.desired.Sources,
	}
}

// perform carries an action out in a goroutine of its own, which ends with the
// action. An action that was called off, or that ends without an answer, is
// reported as failed, so that nothing waits for it.
func (w *worker) perform(ctx context.Context, t Target, a Action) {
	report := func(f Fact) { w.report(ctx, f) }
	// The end of the worker calls everything off, the end of the pod only this.
	actionCtx, answers := ctx, true
	switch a.(type) {
	case EnsureSandbox, EnsureVolumes, RefreshVolumes, EnsureImage:
		actionCtx = w.starting
	case StopContainer, StartProbe, StopProbe, ForgetContainer, RunHook:
		answers = false
	}
	w.errands.Go(func() {
		var answered, abandoned atomic.Bool
		perform := func() {
			w.config.Runtime.Perform(actionCtx, t, a, func(f Fact) {
				if abandoned.Load() || failsToStart(f) && actionCtx.Err() != nil {
					return // it was called off, which is told below
				}
				switch f.(type) {
				case Noted, ContainerHeld: // the action goes on
				default:
					answered.Store(true)
				}
				report(f)
			})
		}
		if !answers {
			perform()
			return
		}
		if !bounded(actionCtx, perform) {
			abandoned.Store(true)
			report(Noted{At: At{time.Now()}, Warning: true, Reason: reasonFailedKillPod,
				Message: "error killing pod: " + inWords(a) + " has not ended although it was called off; nothing waits for it any more"})
		}
		if !answered.Load() {
			over := actionCtx.Err() != nil
			report(ActionFailed{At: At{time.Now()}, Action: a, Err: "it ended without a result", CalledOff: over})
		}
	})
}

// inWords says what an action does.
func inWords(a Action) string {
	switch a := a.(type) {
	case EnsureVolumes, RefreshVolumes:
		return "the set-up of its volumes"
	case EnsureSandbox:
		return "the set-up of its sandbox"
	case EnsureImage:
		return "the pull of image " + a.Image
	case StartContainer:
		return "the start of container " + a.Container
	}
	return fmt.Sprintf("%T", a)
}

// hangPatience is how long what was called off may take to end. A server or a disk
// that does not answer holds it in the kernel, where nothing ends it.
const hangPatience = 5 * time.Second

// bounded runs f, and returns at the latest a little after ctx has ended. It reports
// whether f has ended.
func bounded(ctx context.Context, f func()) bool {
	ended := make(chan struct{})
	go func() { // ends with f
		defer close(ended)
		f()
	}()
	select {
	case <-ended:
		return true
	case <-ctx.Done():
	}
	select {
	case <-ended:
		return true
	case <-time.After(hangPatience):
		return false
	}
}

// failsToStart says whether a fact tells of the failure of an action that can
// be called off.
func failsToStart(f Fact) bool {
	switch f := f.(type) {
	case VolumesFailed, SandboxFailed, ImageFailed:
		return true
	case ActionFailed:
		switch f.Action.(type) {
		case EnsureVolumes, RefreshVolumes, EnsureSandbox, EnsureImage:
			return true
		}
	}
	return false
}

// report hands a fact to the worker, unless the worker has ended.
func (w *worker) report(ctx context.Context, f Fact) {
	select {
	case w.inbox <- f:
	case <-ctx.Done():
	}
}

// inspect looks at the kernel until it can be seen. It is an errand.
func (w *worker) inspect(ctx context.Context, t Target) {
	var r Retry
	for {
		found, err := w.config.Runtime.Inspect(ctx, t)
		if err == nil {
			if found.Time.IsZero() {
				found.Time = time.Now()
			}
			found.Rebooted = found.Rebooted || w.rebooted
			w.report(ctx, found)
			return
		}
		if ctx.Err() == nil {
			w.report(ctx, Noted{At: At{time.Now()}, Warning: true, Reason: "FailedPodSandBoxStatus", Message: "Unable to get pod sandbox status: " + err.Error()})
		}
		r = r.failed(time.Now(), actionDelay, actionDelayMax, "", "")
		select {
		case <-time.After(time.Until(r.At)):
		case <-ctx.Done():
			return
		}
	}
}

// watch keeps one watcher on the sandbox that is up. The watcher is an errand:
// it ends with the sandbox.
func (w *worker) watch(ctx context.Context) {
	s := w.observed.Sandbox
	if !w.observed.Inspected {
		return // the record may speak of a sandbox that is long gone
	}
	up := s.Phase == SandboxRunning || s.Phase == SandboxDestroying
	if w.watched != "" && (!up || w.watched != s.ID) {
		w.stopWatch()
		w.watched = ""
	}
	if up && w.watched == "" {
		watchCtx, stop := context.WithCancel(ctx)
		w.watched, w.stopWatch = s.ID, stop
		t := w.target()
		w.errands.Go(func() {
			w.config.Runtime.Watch(watchCtx, t, func(f Fact) { w.report(watchCtx, f) })
		})
	}
}

// learn applies a fact and tells of it.
func (w *worker) learn(f Fact) {
	if w.config.Trace != nil {
		w.config.Trace(w.desired.Key, f)
	}
	before := w.observed
	w.observed = Apply(before, f)
	w.toNote = max(w.toNote, urgencyOf(f))
	for _, e := range Events(w.desired, before, w.observed, f) {
		if w.config.Events != nil && w.desired.Key.Name != "" {
			w.config.Events(e)
		}
		level := 1
		if e.Type == v1.EventTypeWarning {
			level = 0
		}
		w.log.V(level).Info(e.Message, "reason", e.Reason, "field", e.FieldPath)
	}
}

// urgency is how soon the pod's state is to be noted.
type urgency int

const (
	noteNothing urgency = iota
	noteLater           // within noteDelay, or with what comes before
	noteNow
)

// urgencyOf says that an agent that is killed learns again of what is there.
func urgencyOf(f Fact) urgency {
	switch f.(type) {
	case Inspected, VolumesReady, ImageReady, SandboxUp:
		return noteLater
	}
	return noteNow
}

// obey carries out what the manager wants.
func (w *worker) obey(o order) {
	w.toNote = noteNow
	switch {
	case o.desired != nil:
		c := Compare(w.desired, *o.desired)
		w.setDesired(*o.desired)
		if c.ofSpec() {
			w.nextGeneration()
		}
		if c.InPlace() {
			w.learn(Changed{At: At{time.Now()}, Images: containersOf(c.Images), Resources: containersOf(c.Resources), Fields: slices.Concat(c.Images, c.Resources)})
		}
		w.learn(SourcesChanged{At{time.Now()}})
	case o.shorten != nil:
		if e := w.observed.Ending; e != nil {
			w.learn(Ending{At: At{time.Now()}, Grace: *o.shorten, Then: e.Then})
		}
	case o.ask != nil:
		o.ask(w)
	case o.target != nil:
		w.asked = append(w.asked, o.target)
	case o.tell != nil:
		o.tell <- w.record()
	default:
		grace := o.grace
		if grace < 0 {
			grace = podGrace(w.desired.Pod)
		}
		w.learn(Ending{At: At{time.Now()}, Grace: grace, Then: o.then})
	}
}

// publish shows the pod's status. Until the kernel was looked at that is what
// the record says, unless nothing of it can still be true.
func (w *worker) publish() {
	leftover := w.desired.Key.Name == "" // only its UID is known
	if leftover || w.rebooted && !w.observed.Inspected {
		return
	}
	p := Status(w.desired, w.observed, w.config.node(), w.conditions, time.Now())
	if !reflect.DeepEqual(w.conditions, p.Status.Conditions) {
		w.conditions, w.toNote = p.Status.Conditions, max(w.toNote, noteLater)
	}
	w.config.Board.Set(p)
}

func (w *worker) record() Record {
	return Record{
		UID: w.uid, Key: w.desired.Key, Pod: w.desired.Pod, Origin: w.desired.Origin,
		SpecHash: w.desired.SpecHash, Conditions: w.conditions, Resized: w.resized, Observed: w.observed,
	}
}

// note remembers the pod's state for as long as the machine runs, and has it
// saved to disk a little later, if it changed. What failing probes see changes all
// the time and waits for the next save.
func (w *worker) note() {
	w.toNote = noteNothing
	r := w.record()
	if w.noted != nil && reflect.DeepEqual(*w.noted, r) {
		return
	}
	only := w.noted != nil && r.onlyProbes(*w.noted)
	w.noted = &r
	err := w.config.Store.Note(r)
	if err != nil && !w.noteFailing {
		w.log.Error(err, "a restart of the agent would not find the pod's newest state")
	}
	w.noteFailing = err != nil
	if only {
		return
	}
	select {
	case <-w.saves:
	default:
	}
	w.saves <- r
}

// save writes records to disk, the newest only, beside the pod's start. It is
// an errand and ends with ctx.
func (w *worker) save(ctx context.Context) {
	var r Record
	wait := func(d time.Duration) (more bool) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return false
		}
		select {
		case r = <-w.saves:
		default:
		}
		return true
	}
	for {
		select {
		case r = <-w.saves:
		case <-ctx.Done():
			return
		}
		for delay := saveDelay; wait(delay); delay = saveRetry {
			err := w.config.Store.Save(r)
			if err == nil {
				break
			}
			w.log.Error(err, "the record of a pod is not up to date")
		}
	}
}
