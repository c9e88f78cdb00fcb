package pod_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/pod"
	"podd/pod/runtimetest"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // stories tell the time of day
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		os.Stderr.WriteString("goroutines are left: " + err.Error() + "\n")
		code = 1
	}
	os.Exit(code)
}

const twoPods = `
-- web.yaml --
spec:
  initContainers: [{name: proxy, restartPolicy: Always}]
  containers: [{name: app}, {name: other}]
-- db.yaml --
metadata: {name: db, annotations: {kubectl.kubernetes.io/default-container: log}}
spec:
  initContainers: [{name: log, restartPolicy: Always}]
  containers: [{name: sql}]
-- story --
`

// inWorld runs a test with an agent that has two pods, web and db, up.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, txtar.Parse([]byte(twoPods)))
		w.startAgent()
		w.set = w.load([]string{"web.yaml", "db.yaml"})
		w.sets <- w.set
		time.Sleep(time.Second)
		test(w)
		w.stopAgent()
	})
}

var web, db = pod.Key{Namespace: "default", Name: "web"}, pod.Key{Namespace: "default", Name: "db"}

func (w *world) uid(k pod.Key) types.UID {
	p, found := w.board.Get(k)
	if !found {
		w.t.Fatalf("%s is not on the board", k)
	}
	return p.UID
}

func TestAnEntryWithoutAPodKeepsWhatRuns(t *testing.T) {
	inWorld(t, func(w *world) {
		before := w.uid(web)
		w.sets <- []pod.Desired{{Key: web}, {Key: pod.Key{Namespace: "default", Name: "unknown"}}}
		time.Sleep(time.Minute)
		if w.uid(web) != before {
			t.Error("the pod whose file cannot be read was replaced")
		}
		if pods, _ := w.board.Snapshot(); len(pods) != 1 {
			t.Errorf("%d pods; want web alone: db is gone, unknown never was", len(pods))
		}
	})
}

func TestAGoneEntryEndsThePod(t *testing.T) {
	inWorld(t, func(w *world) {
		w.sets <- []pod.Desired{{Key: web, Gone: true}, w.set[1]}
		time.Sleep(time.Minute)
		if _, found := w.board.Get(web); found {
			t.Error("web is still there")
		}
		w.uid(db)
	})
}

func TestTheSameWrittenSpecIsTheSamePodWhateverDefaultsAreNew(t *testing.T) {
	inWorld(t, func(w *world) {
		hashed := func(hash string, defaulted bool) pod.Desired {
			d := w.load([]string{"web.yaml"})[0]
			d.SpecHash = hash
			if defaulted {
				d.Pod.Spec.SchedulerName = "of a newer version"
			}
			return d
		}
		w.sets <- []pod.Desired{hashed("h1", false)}
		time.Sleep(time.Minute)
		before := w.uid(web)
		w.killAgent(false)
		w.set = []pod.Desired{hashed("h1", true)}
		w.startAgent()
		time.Sleep(time.Minute)
		if w.uid(web) != before {
			t.Error("a newer agent's defaults replaced the pod")
		}
		w.sets <- []pod.Desired{hashed("h2", true)}
		time.Sleep(time.Minute)
		if w.uid(web) != before {
			t.Error("only the way the spec is written changed, and the pod was replaced")
		}
	})
}

func TestExecFindsTheContainer(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, test := range []struct {
			key       pod.Key
			container string
			want      error
		}{
			{web, "", nil}, {web, "proxy", nil}, {db, "", nil},
			{web, "nobody", pod.ErrNotRunning},
			{pod.Key{Namespace: "default", Name: "nobody"}, "", pod.ErrNotFound},
		} {
			var out bytes.Buffer
			_, err := w.manager.Exec(w.t.Context(), test.key, pod.ExecRequest{Container: test.container, Command: []string{"hi"}, Stdout: &out})
			if !errors.Is(err, test.want) || (err == nil) != (out.String() == "hi\n") {
				t.Errorf("exec in %s %q: %q, %v; want %v", test.key, test.container, out.String(), err, test.want)
			}
		}
	})
}

func TestAttachFindsTheContainer(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, test := range []struct {
			key             pod.Key
			container, sees string
			want            error
		}{
			{web, "", "app", context.Canceled}, {web, "proxy", "proxy", context.Canceled},
			{web, "nobody", "", pod.ErrNotRunning},
			{pod.Key{Namespace: "default", Name: "nobody"}, "", "", pod.ErrNotFound},
		} {
			var out bytes.Buffer
			ctx, leave := context.WithCancel(w.t.Context())
			end := make(chan error, 1)
			go func() {
				end <- w.manager.Attach(ctx, test.key, pod.AttachRequest{Container: test.container, Stdout: &out})
			}()
			synctest.Wait()
			for _, container := range []string{"app", "proxy", "other"} {
				if err := w.kernel.Say(container, container); err != nil {
					t.Error(err)
				}
			}
			synctest.Wait()
			leave()
			if err := <-end; !errors.Is(err, test.want) || out.String() != test.sees {
				t.Errorf("attach to %s %q: %q, %v; want %q, %v", test.key, test.container, out.String(), err, test.sees, test.want)
			}
		}
	})
}

func TestDialReachesThePod(t *testing.T) {
	inWorld(t, func(w *world) {
		c, err := w.manager.Dial(w.t.Context(), web, 80)
		if err != nil {
			t.Fatal(err)
		}
		if said, err := io.ReadAll(c); string(said) != "port 80" || err != nil {
			t.Errorf("read %q, %v", said, err)
		}
		c.Close()
		_, err = w.manager.Dial(w.t.Context(), web, 1)
		if want := "cannot connect to port 1 of pod default/web: connection refused"; err == nil || err.Error() != want {
			t.Errorf("a port on which nothing listens: %v; want %s", err, want)
		}
		if _, err := w.manager.Dial(w.t.Context(), pod.Key{Namespace: "default", Name: "nobody"}, 80); !errors.Is(err, pod.ErrNotFound) {
			t.Errorf("a pod that is not there: %v", err)
		}
	})
}

// Right after an agent's start nobody has looked at the kernel yet: who wants to reach
// into a pod waits for that, but not for ever.
func TestExecWaitsForAnAgentThatWasJustStarted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.kernel.Hold("inspect")
		w.killAgent(false)
		w.startAgent()
		exec := func() error {
			_, err := w.manager.Exec(w.t.Context(), web, pod.ExecRequest{Command: []string{"hi"}})
			return err
		}
		began := time.Now()
		if err := exec(); err == nil || !strings.Contains(err.Error(), "has not seen the pod within 10s") || time.Since(began) != 10*time.Second {
			t.Errorf("while the pod cannot be seen: %v after %v", err, time.Since(began))
		}
		answer := make(chan error, 1)
		go func() { answer <- exec() }()
		synctest.Wait()
		select {
		case err := <-answer:
			t.Errorf("before the pod was seen: %v", err)
		default:
		}
		w.kernel.Unhold("inspect")
		if err := w.kernel.Release("inspect"); err != nil {
			t.Fatal(err)
		}
		if err := <-answer; err != nil {
			t.Errorf("once the pod was seen: %v", err)
		}
	})
}

func TestDownReturnsWithItsContext(t *testing.T) {
	inWorld(t, func(w *world) {
		w.kernel.Deafen("app")
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		if err := w.manager.Down(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Down: %v; want the context's error", err)
		}
	})
}

func TestCallsAfterTheEndSaySo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stopAgent()
		if err := w.manager.Restart(w.t.Context(), web); !errors.Is(err, pod.ErrStopped) {
			t.Errorf("Restart: %v", err)
		}
		if err := w.manager.Down(w.t.Context()); !errors.Is(err, pod.ErrStopped) {
			t.Errorf("Down: %v", err)
		}
		w.startAgent()
	})
}

func TestWhatHasNoRecordIsRemovedAfterTheFirstSet(t *testing.T) {
	inWorld(t, func(w *world) {
		w.killAgent(false)
		if err := w.store.Delete(w.uid(db)); err != nil {
			t.Fatal(err)
		}
		set := w.set
		w.set = nil
		w.startAgent()
		time.Sleep(time.Hour)
		if state := w.kernel.State(); !strings.Contains(state, "running sql") {
			t.Fatalf("removed before the first set:\n%s", state)
		}
		w.sets <- set[:1]
		time.Sleep(time.Minute)
		if state := w.kernel.State(); strings.Contains(state, "sql") || strings.Count(state, "sandbox") != 1 {
			t.Errorf("what had no record is still there:\n%s", state)
		}
		if left, err := w.store.List(); err != nil || len(left) != 1 {
			t.Errorf("%d records, %v; want one", len(left), err)
		}
	})
}

func TestPodsOfRecordsAreShownBeforeTheAgentIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// So many that their workers cannot all have come to show them.
		const pods = 500
		store := &runtimetest.Store{}
		for i := range pods {
			key := pod.Key{Namespace: "default", Name: fmt.Sprintf("web-%d", i)}
			p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app"}}}}
			r := pod.Record{UID: types.UID(key.Name), Key: key, Pod: p}
			if err := errors.Join(store.Note(r), store.Save(r)); err != nil {
				t.Fatal(err)
			}
		}
		board := pod.NewBoard()
		m := pod.NewManager(pod.Config{Runtime: runtimetest.NewFake(), Store: store, Board: board})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx, nil) }()
		<-m.Adopted()
		if shown, _ := board.Snapshot(); len(shown) != pods {
			t.Errorf("%d pods are shown, want %d", len(shown), pods)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestOfTwoRecordsForOneNameTheNewerPodStays(t *testing.T) {
	inWorld(t, func(w *world) {
		newer := w.uid(web)
		w.killAgent(false)
		records, err := w.store.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if r.UID == newer {
				r.UID, r.Observed.Since = "older", r.Observed.Since.Add(-time.Hour)
				r.Observed.Sandbox, r.Observed.Containers = pod.Sandbox{}, nil
				if err := w.store.Save(r); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.startAgent()
		time.Sleep(time.Minute)
		if w.uid(web) != newer {
			t.Error("the older pod took the name")
		}
		if left, err := w.store.List(); err != nil || len(left) != 2 {
			t.Errorf("%d records, %v; want web's and db's", len(left), err)
		}
	})
}

// blind is a runtime that cannot look at the kernel at first.
type blind struct {
	*runtimetest.Fake
	mu    sync.Mutex
	until time.Time
	looks int
}

func (b *blind) Inspect(ctx context.Context, t pod.Target) (pod.Inspected, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.looks++
	if time.Now().Before(b.until) {
		return pod.Inspected{}, errors.New("permission denied")
	}
	return b.Fake.Inspect(ctx, t)
}

func (b *blind) looked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.looks
}

// manageWeb has a manager run that is given the pod web with a container app, and
// returns where it takes other sets, and what ends it.
func manageWeb(t *testing.T, config pod.Config) (sets chan<- []pod.Desired, end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	given, ended := make(chan []pod.Desired, 1), make(chan error)
	go func() { ended <- pod.NewManager(config).Run(ctx, given) }()
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app"}}}}
	given <- []pod.Desired{{Key: web, Pod: p}}
	return given, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestNothingIsDoneUntilTheKernelCanBeSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &blind{Fake: runtimetest.NewFake(), until: time.Now().Add(20 * time.Second)}
		_, end := manageWeb(t, pod.Config{Runtime: b, Store: &runtimetest.Store{}})
		time.Sleep(19 * time.Second)
		if state := b.State(); state != "" || b.looked() < 3 {
			t.Errorf("after %d looks there is:\n%s", b.looked(), state)
		}
		time.Sleep(10 * time.Second)
		if state := b.State(); !strings.Contains(state, "running app") {
			t.Errorf("after the kernel could be seen there is:\n%s", state)
		}
		end()
	})
}

// brokenDisk is a store whose disk is full.
type brokenDisk struct{ runtimetest.Store }

var errFull = errors.New("no space left on device")

func (*brokenDisk) Save(pod.Record) error  { return errFull }
func (*brokenDisk) Note(pod.Record) error  { return errFull }
func (*brokenDisk) Delete(types.UID) error { return errFull }

func TestAFullDiskStopsNoPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := runtimetest.NewFake()
		board := pod.NewBoard()
		sets, end := manageWeb(t, pod.Config{Runtime: kernel, Store: &brokenDisk{}, Board: board})
		time.Sleep(time.Minute)
		if state := kernel.State(); !strings.Contains(state, "running app") {
			t.Errorf("there is:\n%s", state)
		}
		sets <- []pod.Desired{}
		time.Sleep(time.Minute)
		if pods, _ := board.Snapshot(); kernel.State() != "" || len(pods) != 0 {
			t.Errorf("after removal there is:\n%s", kernel.State())
		}
		end()
	})
}

// noting is a store that keeps every note.
type noting struct {
	runtimetest.Store
	notes []pod.Record
}

func (s *noting) Note(r pod.Record) error {
	s.notes = append(s.notes, r)
	return s.Store.Note(r)
}

// Each note is on the way of an action: what an agent that is killed would learn again is
// noted with the next one, or a moment later.
func TestAStartIsNotedOnceForEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &noting{}
		_, end := manageWeb(t, pod.Config{Runtime: runtimetest.NewFake(), Store: store})
		time.Sleep(time.Minute)
		synctest.Wait()
		var steps []string
		for _, r := range store.notes {
			app := r.Observed.Containers["app"]
			steps = append(steps, fmt.Sprintf("sandbox %q, starting %v, running %v", r.Observed.Sandbox.Phase, app.Starting != nil, app.Running != nil))
		}
		want := []string{
			`sandbox "", starting false, running false`, // volumes and image
			`sandbox "starting", starting false, running false`,
			`sandbox "running", starting true, running false`,
			`sandbox "running", starting false, running true`,
		}
		if compacted := slices.Compact(slices.Clone(steps)); !slices.Equal(compacted, want) || len(steps) > len(want)+1 {
			t.Errorf("noted:\n%s\nwant:\n%s", strings.Join(steps, "\n"), strings.Join(want, "\n"))
		}
		if last := store.notes[len(store.notes)-1]; !slices.ContainsFunc(last.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
		}) {
			t.Errorf("last noted: %v", last.Conditions)
		}
		end()
	})
}

// unlistable is a store whose directory cannot be read.
type unlistable struct{ runtimetest.Store }

func (*unlistable) List() ([]pod.Record, error) { return nil, errFull }

func TestAnAgentThatCannotListRecordsDoesNotStart(t *testing.T) {
	m := pod.NewManager(pod.Config{Runtime: runtimetest.NewFake(), Store: &unlistable{}})
	if err := m.Run(t.Context(), nil); !errors.Is(err, errFull) {
		t.Errorf("Run: %v; want the store's error", err)
	}
}

// slowStore lists its records only when it is let.
type slowStore struct {
	pod.Store
	let chan struct{}
}

func (s slowStore) List() ([]pod.Record, error) { <-s.let; return nil, nil }

func TestAManagerThatHangsIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		store := slowStore{let: make(chan struct{})}
		m := pod.NewManager(pod.Config{Store: store})
		ended := make(chan error)
		go func() { ended <- m.Run(ctx, nil) }()
		alive := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			return m.Alive(ctx)
		}
		if err := alive(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while it hangs: %v", err)
		}
		close(store.let)
		if err := alive(); err != nil {
			t.Errorf("while it runs: %v", err)
		}
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := alive(); !errors.Is(err, pod.ErrStopped) {
			t.Errorf("after its end: %v", err)
		}
	})
}
