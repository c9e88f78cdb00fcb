package declared

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"

	"podd/api/objects"
	"podd/pod"
	"podd/pod/claims"
)

// mirror is what waits to be shown in the store.
type mirror struct {
	wake chan struct{}

	mu      sync.Mutex
	waking  bool // wake is signalled soon
	ended   []ended
	sources []pod.Source
	bound   claims.Bound
	changed bool // sources or bound were told anew
	read    bool // bound was told: files were read
	events  map[string]*v1.Event
	forced  map[types.UID]bool // deleted at once, and not off the board yet
	// written are the versions of the board that have in them what clients wrote.
	written map[types.UID]uint64

	upTo uint64 // the version up to which the board was shown; Run's own

	happened     chan struct{} // has one when events changed
	complete     chan struct{} // closed once what files declare is in the store
	completeOnce sync.Once
}

// gatherTime is how long what happens waits to be shown, so that a pod that starts does
// not share the processors with what shows it. The board gathers as long.
const gatherTime = 30 * time.Millisecond

// ended is a pod that nothing is left of.
type ended struct {
	key pod.Key
	uid types.UID
}

func (m *mirror) init() {
	m.wake, m.events, m.forced, m.written = make(chan struct{}, 1), map[string]*v1.Event{}, map[types.UID]bool{}, map[types.UID]uint64{}
	m.happened, m.complete = make(chan struct{}, 1), make(chan struct{})
}

// tell changes what waits, and has Run woken a moment later.
func (m *mirror) tell(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if change(); m.waking {
		return
	}
	m.waking = true
	time.AfterFunc(gatherTime, func() {
		m.mu.Lock()
		m.waking = false
		m.mu.Unlock()
		m.wakeNow()
	})
}

func (m *mirror) wakeNow() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// forget makes a pod of a file's that was deleted at once stay out of the store.
func (m *mirror) forget(uid types.UID) { m.tell(func() { m.forced[uid] = true }) }

func (m *mirror) isForgotten(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.forced[uid]
}

// wrote takes in that a client has changed a pod: older states on the board do not
// have that in them, and are not shown any more.
func (m *mirror) wrote(p *v1.Pod, b *pod.Board) {
	shown, found := b.Get(keyOf(p))
	if !found || shown.UID != p.UID {
		return
	}
	if version, err := strconv.ParseUint(shown.ResourceVersion, 10, 64); err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.written[p.UID] = version
	}
}

// overwritten says that a state on the board is older than what a client wrote.
func (m *mirror) overwritten(c pod.Change) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.Version < m.written[c.Pod.UID]
}

// Ended takes in that nothing is left of a pod; see [pod.Config]. It returns at once.
func (k *Keeper) Ended(key pod.Key, uid types.UID) {
	k.mirror.tell(func() { k.mirror.ended = append(k.mirror.ended, ended{key, uid}) })
}

// Sources takes in which ConfigMaps, Secrets and claims files declare, all of them. It
// returns at once.
func (k *Keeper) Sources(all []pod.Source) {
	k.mirror.tell(func() { k.mirror.sources, k.mirror.changed = all, true })
}

// Bound takes in what became of claims and volumes, and hands it on: see
// [manifest.Config]. It returns at once.
func (k *Keeper) Bound(b claims.Bound) claims.Bound {
	k.mirror.tell(func() { k.mirror.bound, k.mirror.changed, k.mirror.read = b, true, true })
	return b
}

// Event takes in an event as it is now, and keeps it; see [pod.EventStore]. It returns
// at once.
func (k *Keeper) Event(e *v1.Event) {
	k.mirror.tell(func() { k.mirror.events[e.Namespace+"/"+e.Name] = e })
}

// Load brings what was kept into the store: before anybody is served, and after the
// pods of the records are on the board. What cannot be read is logged; a pod of which
// that holds is shown as it is on the board.
func (k *Keeper) Load() {
	all, err := k.Files.Load()
	if err != nil {
		k.Logger.Error(err, "some of what was made through the API cannot be read")
	}
	for key, o := range all {
		k.update(key, func(objects.Object) (objects.Object, error) { return o, nil })
	}
	pods, _ := k.Board.Snapshot()
	for _, p := range pods {
		key := podKey(keyOf(p))
		if _, err := os.Stat(k.Files.path(key)); all[key] == nil && err == nil && DeclaredIn(p) == "" {
			k.update(key, func(objects.Object) (objects.Object, error) {
				is := new(*p)
				is.TypeMeta = metav1.TypeMeta{}
				return is, nil
			})
		}
	}
	k.showBoard()
}

// eventsLast is how long an event is shown after it last happened, as an API server
// keeps them.
const eventsLast = time.Hour

// eventsMost is how many are shown, and kept for the next agent: those that happened
// last, where pods come and go so often that there are more.
const eventsMost = 1000

// forgetFrom is after how many new events others are forgotten, if not after a minute.
const forgetFrom = 100

// Run shows in the store what happens to pods, to what files declare, and which events
// there are, until ctx ends. It owns what the store says of these.
func (k *Keeper) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	version := k.Board.Version() // what comes after it wakes Run
	running.Go(func() { k.follow(ctx, version) })
	running.Go(func() { k.followNode(ctx) })
	if k.EventsFile != "" {
		if err := k.loadEvents(time.Now()); err != nil {
			k.Logger.Info("events from before the agent's start are not shown", "reason", err.Error())
		}
		running.Go(func() { k.keepEvents(ctx) })
	}
	sweep := time.NewTicker(time.Minute)
	defer sweep.Stop()
	shown := 0 // events since others were forgotten
	for {
		if shown += k.showWaiting(); shown >= forgetFrom {
			shown = 0
			k.forgetEvents(time.Now())
		}
		k.scheduleAll()
		select {
		case <-ctx.Done():
			return
		case <-k.mirror.wake:
		case <-sweep.C:
			k.forgetEvents(time.Now())
		}
	}
}

// follow wakes Run when the board has changed after a version. It ends with ctx.
func (k *Keeper) follow(ctx context.Context, version uint64) {
	for ctx.Err() == nil {
		if some, err := k.Board.Gather(ctx, version); err == nil {
			version = some[len(some)-1].Version
		} else {
			version = k.Board.Version()
		}
		k.mirror.wakeNow()
	}
}

// followNode wakes Run when the node changes: there may be room for more pods. It ends
// with ctx.
func (k *Keeper) followNode(ctx context.Context) {
	for ctx.Err() == nil {
		_, version := k.Store.List(nodeResource, "")
		w, err := k.Store.Watch(ctx, nodeResource, "", version)
		for err == nil {
			if _, err = w.Next(ctx); err == nil {
				k.mirror.tell(func() {})
			}
		}
	}
}

// showChanges brings what has changed on the board into the store.
func (k *Keeper) showChanges() {
	if k.mirror.upTo == k.Board.Version() {
		return
	}
	some, err := k.Board.Changes(k.ctx, k.mirror.upTo)
	if err != nil { // too much has happened
		k.showBoard()
		return
	}
	k.mirror.upTo = some[len(some)-1].Version
	for _, c := range stages(some) {
		switch {
		case c.Type == watch.Deleted:
			k.off(c.Pod)
		case !k.mirror.overwritten(c):
			k.showPod(c.Pod)
		}
	}
}

// stages leaves out the states of a pod after which another one comes that tells as
// much.
func stages(some []pod.Change) []pod.Change {
	next := map[pod.Key]pod.Change{} // of each pod, what comes after the change looked at
	var kept []pod.Change
	for _, c := range slices.Backward(some) {
		key := keyOf(c.Pod)
		after, found := next[key]
		if next[key] = c; !found || c.Type == watch.Deleted || after.Type == watch.Deleted || !sameStage(c.Pod, after.Pod) {
			kept = append(kept, c)
		}
	}
	slices.Reverse(kept)
	return kept
}

// sameStage says that whoever watches a pod misses nothing when of two states, one
// close on the other, only the latter is shown.
func sameStage(a, b *v1.Pod) bool {
	return a.UID == b.UID && a.Status.Phase == b.Status.Phase && a.DeletionTimestamp.Equal(b.DeletionTimestamp) &&
		readiness(a) == readiness(b) && slices.EqualFunc(containerStatuses(a), containerStatuses(b), func(x, y v1.ContainerStatus) bool {
		return x.Name == y.Name && x.RestartCount == y.RestartCount && x.Ready == y.Ready && stateOf(x) == stateOf(y)
	})
}

// containerStatuses are those of all containers.
func containerStatuses(p *v1.Pod) []v1.ContainerStatus {
	return slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses)
}

// stateOf is what a container does: it runs, it has ended, or why it waits.
func stateOf(c v1.ContainerStatus) string {
	switch {
	case c.State.Running != nil:
		return "running"
	case c.State.Terminated != nil:
		return "terminated"
	case c.State.Waiting != nil:
		return c.State.Waiting.Reason
	}
	return ""
}

// readiness is the status of the condition Ready.
func readiness(p *v1.Pod) v1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status
		}
	}
	return ""
}

// showBoard brings the whole board into the store.
func (k *Keeper) showBoard() {
	pods, version := k.Board.Snapshot()
	k.mirror.upTo = version
	shown := map[types.UID]bool{}
	for _, p := range pods {
		shown[p.UID] = true
		k.showPod(p)
	}
	k.mirror.mu.Lock()
	maps.DeleteFunc(k.mirror.written, func(uid types.UID, _ uint64) bool { return !shown[uid] })
	k.mirror.mu.Unlock()
	stored, _ := k.Store.List(podResource, "")
	for _, o := range stored {
		if p := o.(*v1.Pod); DeclaredIn(p) != "" && !shown[p.UID] {
			k.off(p)
		}
	}
}

// showPod brings one pod into the store: its status, and of one that a file declares
// everything.
func (k *Keeper) showPod(p *v1.Pod) {
	if k.mirror.isForgotten(p.UID) {
		return
	}
	if DeclaredIn(p) != "" {
		k.ensureNamespace(p.Namespace)
	}
	key := podKey(keyOf(p))
	k.update(key, func(old objects.Object) (objects.Object, error) {
		was, _ := old.(*v1.Pod)
		if DeclaredIn(p) != "" {
			if was != nil && was.UID != p.UID && DeclaredIn(was) == "" && was.DeletionTimestamp == nil {
				k.Logger.V(1).Info("a file's pod takes the place of one that the API made", "pod", nameOf(p), "declaredIn", DeclaredIn(p))
			}
			is := new(*p) // readers of the board change nothing either
			if was != nil && was.UID == p.UID {
				is.ManagedFields = was.ManagedFields
			}
			is.TypeMeta = metav1.TypeMeta{}
			admitted(&is.Spec)
			return is, nil
		}
		if was != nil && DeclaredIn(was) != "" { // its file is gone: what it hid is back
			kept, err := k.Files.Read(key)
			if err != nil || kept == nil {
				return nil, err
			}
			was, _ = kept.(*v1.Pod)
		}
		if was == nil || was.UID != p.UID {
			return old, nil // of one that the API made before
		}
		is := new(*was)
		is.Status = p.Status
		if len(p.Spec.EphemeralContainers) > len(is.Spec.EphemeralContainers) {
			is.Spec.EphemeralContainers = p.Spec.EphemeralContainers
		}
		return is, nil
	})
}

// off takes a pod that a file declared out of the store once it is off the board. One
// that the API made goes when its end is told.
func (k *Keeper) off(p *v1.Pod) {
	k.mirror.mu.Lock()
	delete(k.mirror.forced, p.UID)
	delete(k.mirror.written, p.UID)
	k.mirror.mu.Unlock()
	k.update(podKey(keyOf(p)), func(old objects.Object) (objects.Object, error) {
		if was, _ := old.(*v1.Pod); was == nil || was.UID != p.UID || DeclaredIn(was) == "" {
			return old, nil
		}
		return k.Hidden(podKey(keyOf(p)))
	})
}

// Settled waits until the store shows everything that was there when the agent ended:
// what files declare, and the node.
func (k *Keeper) Settled(ctx context.Context) error {
	select {
	case <-k.mirror.complete:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		nodes, version := k.Store.List(nodeResource, "")
		if len(nodes) > 0 {
			return nil
		}
		w, err := k.Store.Watch(ctx, nodeResource, "", version)
		if err == nil {
			_, err = w.Next(ctx)
		}
		if ctx.Err() != nil {
			return err
		}
	}
}

// Hidden is the object that the API made and that one of a file's name hides; nil: none.
func (k *Keeper) Hidden(key objects.Key) (objects.Object, error) {
	kept, err := k.Files.Read(key)
	if err != nil || kept == nil {
		return nil, err
	}
	return kept, nil
}

// update changes the store; what fails is logged, and shown with the next change.
func (k *Keeper) update(key objects.Key, f func(objects.Object) (objects.Object, error)) {
	if _, err := k.Store.Update(key, f); err != nil {
		k.Logger.Error(err, "the API does not show an object as it is", "object", key.String())
	}
}

// showWaiting brings what was told into the store, and returns how many events that
// were.
func (k *Keeper) showWaiting() (shown int) {
	m := &k.mirror
	m.mu.Lock()
	gone, sources, bound, events, changed, read := m.ended, m.sources, m.bound, m.events, m.changed, m.read
	m.ended, m.changed, m.events = nil, false, map[string]*v1.Event{}
	m.mu.Unlock()
	k.showChanges() // the last state of what is gone comes before its end
	for _, e := range gone {
		k.finish(e)
	}
	if changed {
		k.showSources(sources, bound)
	}
	if read {
		m.completeOnce.Do(func() { close(m.complete) })
	}
	for _, name := range slices.Sorted(maps.Keys(events)) {
		k.showEvent(events[name])
	}
	if len(events) > 0 {
		m.tellEvents()
	}
	return len(events)
}

// finish lets a pod of the API's go of which nothing is left: at once, or when its
// finalizers are gone.
func (k *Keeper) finish(e ended) {
	k.update(podKey(e.key), func(old objects.Object) (objects.Object, error) {
		was, _ := old.(*v1.Pod)
		if was == nil || was.UID != e.uid || DeclaredIn(was) != "" || was.DeletionTimestamp == nil {
			return old, nil
		}
		if len(was.Finalizers) == 0 {
			return nil, k.Persist(was, nil)
		}
		is := was.DeepCopy()
		is.DeletionGracePeriodSeconds = new(int64(0))
		return is, k.Persist(was, is)
	})
}

// sourceResources are the resources of what files declare beside pods.
var sourceResources = map[string]schema.GroupResource{
	pod.KindConfigMap: {Resource: "configmaps"},
	pod.KindSecret:    {Resource: "secrets"},
	pod.KindClaim:     claimResource,
	pod.KindVolume:    volumeResource,
}

// showSources brings what files declare beside pods into the store, and what became of
// claims and volumes, whoever made them.
func (k *Keeper) showSources(sources []pod.Source, bound claims.Bound) {
	declared := map[objects.Key]string{} // where
	shown := map[objects.Key]objects.Object{}
	for _, s := range sources {
		if o, is := objectOf(s); is && !s.Origin.API {
			key := objects.Key{Resource: sourceResources[s.ID().Kind], Namespace: o.GetNamespace(), Name: o.GetName()}
			declared[key], shown[key] = s.Origin.String(), o
			k.ensureNamespace(o.GetNamespace())
		}
	}
	for _, c := range bound.Claims() {
		shown[objects.Key{Resource: claimResource, Namespace: c.Namespace, Name: c.Name}] = c
	}
	for _, v := range bound.Volumes() {
		key := objects.Key{Resource: volumeResource, Name: v.Name}
		shown[key] = v
		if r := v.Spec.ClaimRef; r != nil && declared[key] == "" && v.Annotations[claims.ProvisionedBy] == claims.Provisioner {
			declared[key] = fmt.Sprintf("claim %s/%s", r.Namespace, r.Name) // nobody wrote it
		}
	}
	for key, o := range shown {
		k.update(key, func(old objects.Object) (objects.Object, error) {
			if declared[key] == "" {
				return withBinding(old, o), nil
			}
			return mirrored(objects.NamedUID(k.Node, key.String()), declared[key], o, old), nil
		})
	}
	for _, resource := range sourceResources {
		stored, _ := k.Store.List(resource, "")
		for _, o := range stored {
			key := objects.Key{Resource: resource, Namespace: o.GetNamespace(), Name: o.GetName()}
			if DeclaredIn(o) == "" || declared[key] != "" {
				continue
			}
			k.update(key, func(old objects.Object) (objects.Object, error) {
				if DeclaredIn(old) == "" {
					return old, nil
				}
				return k.Hidden(key)
			})
		}
	}
}

// objectOf is a source as the store holds it.
func objectOf(s pod.Source) (objects.Object, bool) {
	_, o := s.Object()
	object, is := o.(objects.Object)
	return object, is
}

// withoutSecret is a Secret without what it holds, and anything else as it is: what the
// store may remember of an object that is gone.
func withoutSecret(o objects.Object) objects.Object {
	s, is := o.(*v1.Secret)
	if !is {
		return o
	}
	s = objects.Shallow(s)
	s.Data, s.StringData = nil, nil
	s.Annotations = maps.Clone(s.Annotations)
	delete(s.Annotations, v1.LastAppliedConfigAnnotation)
	return s
}

// withBinding is a claim or a volume that the API made with what became of it.
func withBinding(old, o objects.Object) objects.Object {
	switch o := o.(type) {
	case *v1.PersistentVolumeClaim:
		if was, is := old.(*v1.PersistentVolumeClaim); is && DeclaredIn(was) == "" {
			c := was.DeepCopy()
			c.Status, c.Spec.VolumeName, c.Spec.StorageClassName = o.Status, o.Spec.VolumeName, o.Spec.StorageClassName
			return c
		}
	case *v1.PersistentVolume:
		if was, is := old.(*v1.PersistentVolume); is && DeclaredIn(was) == "" {
			v := was.DeepCopy()
			v.Status, v.Spec.ClaimRef = o.Status, o.Spec.ClaimRef
			return v
		}
	}
	return old // it was removed a moment ago
}

// mirrored is an object of a file's as the store shows it: what is there keeps its UID
// and its time as long as a file declares it. It shares what it holds with o, so that
// there is one copy of a Secret.
func mirrored(uid types.UID, where string, o, old objects.Object) objects.Object {
	is := objects.Shallow(o)
	is.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	annotations := maps.Clone(is.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[pod.DeclaredIn] = where
	is.SetAnnotations(annotations)
	if DeclaredIn(old) != "" {
		is.SetUID(old.GetUID())
		is.SetCreationTimestamp(old.GetCreationTimestamp())
		is.SetManagedFields(old.GetManagedFields())
	} else {
		is.SetUID(uid)
		is.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	}
	return is
}

// showEvent brings an event into the store.
func (k *Keeper) showEvent(e *v1.Event) {
	key := objects.Key{Resource: eventResource, Namespace: e.Namespace, Name: e.Name}
	k.update(key, func(old objects.Object) (objects.Object, error) {
		if e.UID == "" {
			e.UID = uuid.NewUUID() // it is nobody else's
		}
		return e, nil
	})
}

// forgetEvents takes events out of the store that happened last too long ago, those of
// clients too.
func (k *Keeper) forgetEvents(now time.Time) {
	stored, _ := k.Store.List(eventResource, "")
	var events []*v1.Event
	for _, o := range stored {
		if e, is := o.(*v1.Event); is {
			events = append(events, e)
		}
	}
	if len(events) > eventsMost {
		slices.SortStableFunc(events, func(a, b *v1.Event) int { return happened(b).Compare(happened(a)) })
	}
	for i, e := range events {
		if i < eventsMost && now.Sub(happened(e)) < eventsLast {
			continue
		}
		k.update(objects.Key{Resource: eventResource, Namespace: e.Namespace, Name: e.Name},
			func(old objects.Object) (objects.Object, error) {
				if old != objects.Object(e) {
					return old, nil
				}
				return nil, nil
			})
	}
}

// happened is when an event happened last.
func happened(e *v1.Event) time.Time {
	last := e.CreationTimestamp.Time
	for _, t := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time} {
		if t.After(last) {
			last = t
		}
	}
	if s := e.Series; s != nil && s.LastObservedTime.After(last) {
		last = s.LastObservedTime.Time
	}
	return last
}
