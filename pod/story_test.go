package pod_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"podd/pod"
	"podd/pod/runtimetest"
)

var update = flag.Bool("update", false, "write what happens into the stories")

// TestStories runs each testdata/*.txtar: the file named story tells what
// happens when, what must be done (>) and what must be shown (=). Times are since
// the start. Everything on the fake kernel succeeds at once unless the story says
// otherwise.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	// What the kernel tells at one moment, such as that containers and their sandbox
	// have ended, is known at one moment: nobody is quicker on another processor.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { tell(t, file, archive) })
		})
	}
}

// tell runs one story and compares.
func tell(t *testing.T, file string, archive *txtar.Archive) {
	last := &archive.Files[len(archive.Files)-1]
	if last.Name != "story" {
		t.Fatalf("%s: the last file is %s, not story", file, last.Name)
	}
	w := newWorld(t, archive)
	w.startAgent()
	want := strings.TrimSpace(string(last.Data)) + "\n"
	for line := range strings.Lines(want) {
		when, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		what = strings.TrimSpace(what)
		if what == "" || what[0] == '>' || what[0] == '=' {
			continue
		}
		at, err := time.ParseDuration(when)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		time.Sleep(time.Until(w.begin.Add(at)))
		w.print("", what)
		w.do(strings.Fields(what))
		time.Sleep(5 * time.Millisecond)
	}
	w.stopAgent()
	got := w.transcript()
	if got == want {
		return
	}
	if *update {
		last.Data = []byte(got)
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s went another way:\n%s", file, diff(want, got))
}

// diff shows where two texts part.
func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var b strings.Builder
	for i := range max(len(w), len(g)) {
		switch {
		case i < len(w) && i < len(g) && w[i] == g[i]:
			fmt.Fprintf(&b, "  %s\n", w[i])
		default:
			if i < len(w) {
				fmt.Fprintf(&b, "- %s\n", w[i])
			}
			if i < len(g) {
				fmt.Fprintf(&b, "+ %s\n", g[i])
			}
		}
	}
	return b.String()
}

// world is a machine with an agent on it.
type world struct {
	t       testing.TB
	begin   time.Time
	archive *txtar.Archive
	kernel  *runtimetest.Fake
	store   *runtimetest.Store
	events  *pod.EventStore
	told    map[string]int32 // events already printed, with their counts
	board   *pod.Board
	manager *pod.Manager
	sets    chan []pod.Desired
	set     []pod.Desired
	stop    context.CancelFunc
	ended   chan struct{}
	// onFact, if set, sees each fact first; it may kill the agent.
	onFact func(pod.Fact)

	several bool // pods; lines then name theirs

	mu    sync.Mutex
	lines []string
}

func newWorld(t testing.TB, archive *txtar.Archive) *world {
	w := &world{
		t: t, begin: time.Now(), archive: archive,
		kernel: runtimetest.NewFake(), store: &runtimetest.Store{},
		events: &pod.EventStore{}, told: map[string]int32{},
	}
	for _, f := range archive.Files {
		w.several = w.several || strings.HasSuffix(f.Name, ".yaml") && podOf(t, f.Data).Name != "web"
	}
	return w
}

// startAgent starts an agent, which finds what the one before left.
func (w *world) startAgent() {
	w.board = pod.NewBoard()
	ctx, stop := context.WithCancel(context.Background())
	w.manager = pod.NewManager(pod.Config{
		Runtime: w.kernel, Store: w.store, Board: w.board, Events: w.events.Record,
		Trace: w.trace, NodeName: "node", HostIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Ended: w.podEnded,
	})
	w.stop, w.ended, w.sets = stop, make(chan struct{}), make(chan []pod.Desired, 1)
	ended, manager, sets := w.ended, w.manager, w.sets
	go func() {
		defer close(ended)
		if err := manager.Run(ctx, sets); err != nil {
			w.t.Error(err)
		}
	}()
	if w.set != nil {
		w.sets <- w.set
	}
}

// killAgent ends the agent as SIGKILL does: what it had not written is lost.
func (w *world) killAgent(reboot bool) {
	w.store = w.store.Freeze(reboot)
	w.stop()
	<-w.ended
	w.kernel.AgentEnded()
	if reboot {
		w.kernel.Reboot()
	}
}

// stopAgent ends the agent as SIGTERM does.
func (w *world) stopAgent() {
	w.stop()
	<-w.ended
	w.kernel.AgentEnded()
}

func (w *world) trace(key pod.Key, f pod.Fact) {
	if w.onFact != nil {
		w.onFact(f)
	}
	if b, ok := f.(pod.Begun); ok {
		name := ""
		if w.several {
			name = key.Name + ": "
		}
		w.print("> ", name+runtimetest.Describe(b.Action))
	}
}

// podEnded tells of pods that brought their UID, which begins with "api".
func (w *world) podEnded(key pod.Key, uid types.UID) {
	if strings.HasPrefix(string(uid), "api") {
		w.print("= ", fmt.Sprintf("nothing is left of %s (%s)", key, uid))
	}
}

func (w *world) print(mark, line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Since(w.begin).Truncate(100 * time.Millisecond)
	w.lines = append(w.lines, fmt.Sprintf("%-7s %s%s", at, mark, line))
}

func (w *world) transcript() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.several {
		w.sortPods()
	}
	return strings.Join(w.lines, "\n") + "\n"
}

// sortPods orders what different pods did at the same time, because between
// pods there is no order. w.mu is held.
func (w *world) sortPods() {
	action := func(line string) (at, pod string) {
		at, what, _ := strings.Cut(line, " ")
		what, acts := strings.CutPrefix(strings.TrimSpace(what), "> ")
		if !acts {
			return "", ""
		}
		pod, _, _ = strings.Cut(what, ":")
		return at, pod
	}
	for i := 0; i < len(w.lines); {
		at, _ := action(w.lines[i])
		j := i + 1
		for at != "" && j < len(w.lines) {
			if next, _ := action(w.lines[j]); next != at {
				break
			}
			j++
		}
		slices.SortStableFunc(w.lines[i:j], func(a, b string) int {
			_, x := action(a)
			_, y := action(b)
			return cmp.Compare(x, y)
		})
		i = j
	}
}

// load reads pods from the archive, and the ConfigMaps that they name: files
// that end in .source.
func (w *world) load(names []string) []pod.Desired {
	set := []pod.Desired{}
	sources := map[pod.SourceID]pod.Source{}
	for _, name := range names {
		if strings.HasSuffix(name, ".source") {
			s := w.source(name)
			sources[s.ID()] = s
			continue
		}
		set = append(set, pod.Desired{Pod: nil, Origin: pod.Origin{File: name, Line: 1}})
		d := &set[len(set)-1]
		for _, f := range w.archive.Files {
			if f.Name == name {
				d.Pod = podOf(w.t, f.Data)
				d.Key = pod.Key{Namespace: d.Pod.Namespace, Name: d.Pod.Name}
				d.Origin.API = d.Pod.UID != ""
				spec, err := json.Marshal(d.Pod.Spec)
				if err != nil {
					w.t.Fatal(err)
				}
				d.SpecHash = string(spec)
			}
		}
		if d.Pod == nil {
			w.t.Fatalf("no file %s in the archive", name)
		}
	}
	for i := range set {
		set[i].Sources = pod.SourcesOf(set[i].Pod, func(id pod.SourceID) (pod.Source, bool) {
			s, found := sources[id]
			return s, found
		}, nil)
	}
	return set
}

// source reads a ConfigMap from the archive.
func (w *world) source(name string) pod.Source {
	for _, f := range w.archive.Files {
		if f.Name == name {
			m := &v1.ConfigMap{}
			if err := yaml.UnmarshalStrict(f.Data, m); err != nil {
				w.t.Fatal(err)
			}
			return pod.Source{ConfigMap: m}
		}
	}
	w.t.Fatalf("no file %s in the archive", name)
	return pod.Source{}
}

// podOf reads a pod and gives it the defaults that matter here.
func podOf(t testing.TB, data []byte) *v1.Pod {
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict(data, p); err != nil {
		t.Fatal(err)
	}
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	if p.Name == "" {
		p.Name = "web"
	}
	if p.Spec.RestartPolicy == "" {
		p.Spec.RestartPolicy = v1.RestartPolicyAlways
	}
	if p.Spec.TerminationGracePeriodSeconds == nil {
		p.Spec.TerminationGracePeriodSeconds = new(int64(30))
	}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Image == "" {
				list[i].Image = "example.com/" + list[i].Name + ":1"
			}
			list[i].ImagePullPolicy = v1.PullIfNotPresent
		}
	}
	return p
}

// do carries out one line of a story.
func (w *world) do(words []string) {
	rest := func(n int) string { return strings.Join(words[min(n, len(words)):], " ") }
	var err error
	switch words[0] {
	case "files":
		w.set = w.load(words[1:])
		w.sets <- w.set
	case "agent":
		switch words[1] {
		case "killed":
			w.killAgent(false)
		case "stopped":
			w.stopAgent()
		case "started":
			if rest(2) == "without files" {
				w.set = nil
			} else if len(words) > 3 { // with FILES
				w.set = w.load(words[3:])
			}
			w.startAgent()
		}
	case "reboot":
		w.killAgent(true)
		w.startAgent()
	case "hold":
		w.kernel.Hold(rest(1))
	case "hang": // as hold, the next one only, also when called off
		w.kernel.Hang(rest(1))
	case "release":
		w.kernel.Unhold(rest(1))
		err = w.kernel.Release(rest(1))
	case "silent": // silent app data: the next start of app hangs for want of the volume
		w.kernel.Silence(words[1], words[2])
	case "fail": // fail KIND [NAME] REASON: MESSAGE
		what, message, _ := strings.Cut(rest(1), ": ")
		fields := strings.Fields(what)
		w.kernel.Fail(strings.Join(fields[:len(fields)-1], " "), fields[len(fields)-1], message)
	case "appears": // as heal, and the runtime sees it
		w.kernel.Appear(rest(1))
	case "heal":
		w.kernel.Heal(rest(1))
	case "each": // each app lasts 1s and exits 3
		lasts, _ := time.ParseDuration(words[3])
		code, _ := strconv.Atoi(words[6])
		w.kernel.Lives(words[1], lasts, code)
	case "deaf":
		w.kernel.Deafen(words[1])
	case "exited":
		code, _ := strconv.Atoi(words[2])
		err = w.kernel.Exit(words[1], code, rest(3) == "oom")
	case "sandbox":
		w.kernel.Lose()
	case "probed": // probed app Readiness success OUTPUT
		err = w.kernel.Probe(words[1], pod.ProbeKind(words[2]), pod.ProbeOutcome(words[3]), rest(4))
	case "restart":
		err = w.manager.Restart(w.t.Context(), key(words[1]))
	case "debug": // debug default/web debugger [app]
		var c v1.EphemeralContainer
		c.Name, c.Image, c.TargetContainerName = words[2], "example.com/"+words[2]+":1", rest(3)
		err = w.manager.Debug(w.t.Context(), key(words[1]), c)
	case "shorten":
		grace, _ := time.ParseDuration(words[2])
		err = w.manager.Shorten(w.t.Context(), key(words[1]), grace)
	case "delete": // delete default/web within 30s: what the API does to a pod of its own
		grace, _ := time.ParseDuration(words[3])
		w.set = slices.Clone(w.set)
		for i := range w.set {
			if d := &w.set[i]; d.Key == key(words[1]) {
				d.Pod = d.Pod.DeepCopy()
				d.Pod.Generation++
				d.Pod.DeletionGracePeriodSeconds = new(int64(grace / time.Second))
				d.Pod.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(grace).Truncate(time.Second)}
			}
		}
		w.sets <- w.set
	case "replace": // replace default/web within 30s
		grace, _ := time.ParseDuration(words[3])
		err = w.manager.Replace(w.t.Context(), key(words[1]), grace)
	case "condition": // condition default/web [TYPE STATUS]
		var all []v1.PodCondition
		if len(words) > 2 {
			all = []v1.PodCondition{{Type: v1.PodConditionType(words[2]), Status: v1.ConditionStatus(words[3])}, {Type: v1.PodReady, Status: "Nonsense"}}
		}
		err = w.manager.SetConditions(w.t.Context(), key(words[1]), all)
	case "resize": // resize default/web app cpu 200m
		r := v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceName(words[3]): resource.MustParse(words[4])}}
		err = w.manager.Resize(w.t.Context(), key(words[1]), pod.Resources{words[2]: r})
	case "object": // what the API shows that is not in the status
		p, _ := w.board.Get(key(words[1]))
		line := fmt.Sprintf("uid %s generation %d observed %d", p.UID, p.Generation, p.Status.ObservedGeneration)
		if !strings.HasPrefix(string(p.UID), "api") {
			line = strings.Replace(line, string(p.UID), "of its own", 1)
		}
		line += fmt.Sprintf(" created %s started %s", p.CreationTimestamp.Sub(w.begin), p.Status.StartTime.Sub(w.begin))
		if p.DeletionTimestamp != nil {
			line += fmt.Sprintf(" deleted %s grace %ds", p.DeletionTimestamp.Sub(w.begin), *p.DeletionGracePeriodSeconds)
		}
		if in := p.Annotations[pod.DeclaredIn]; in != "" {
			line += " declared in " + in
		}
		w.print("= ", line)
	case "down":
		manager := w.manager
		go func() {
			if err := manager.Down(context.Background()); err != nil {
				w.print("= ", err.Error())
				return
			}
			w.print("= ", "all stopped")
		}()
	case "exec":
		var out bytes.Buffer
		_, err = w.manager.Exec(w.t.Context(), key(words[1]), pod.ExecRequest{Container: words[2], Command: words[3:], Stdout: &out})
		if err == nil {
			w.print("= ", strings.TrimSpace(out.String()))
		}
	case "get":
		w.get()
	case "status":
		w.status()
	case "events":
		w.tellEvents()
	case "why": // why NAMESPACE/NAME [MISTAKE]
		var mistakes []string
		if len(words) > 2 {
			mistakes = []string{rest(2)}
		}
		var chains []pod.Chain
		if chains, err = w.manager.Why(w.t.Context(), key(words[1]), mistakes); err == nil {
			w.why(chains)
		}
	case "kernel":
		w.print("= ", "holds "+cmp.Or(strings.ReplaceAll(w.kernel.State(), "\n", ", "), "nothing"))
	case "end":
	default:
		w.t.Fatalf("no such input: %s", words[0])
	}
	if err != nil {
		w.print("= ", err.Error())
	}
}

func key(s string) pod.Key {
	namespace, name, _ := strings.Cut(s, "/")
	return pod.Key{Namespace: namespace, Name: name}
}

func (w *world) get() {
	pods, _ := w.board.Snapshot()
	for _, p := range pods {
		r := pod.Columns(p, time.Now())
		w.print("= ", strings.TrimSpace(fmt.Sprintf("%s %s %s restarts %s age %s", r.Name, r.Ready, r.Status, r.Restarts, r.Age)))
	}
	if len(pods) == 0 {
		w.print("= ", "no pods")
	}
}

// why prints chains; times are since the start.
func (w *world) why(chains []pod.Chain) {
	for _, c := range chains {
		when := "now"
		if !c.At.IsZero() {
			when = c.At.Sub(w.begin).Truncate(100 * time.Millisecond).String()
		}
		w.print("= ", strings.Join(strings.Fields(when+" "+c.Container+" "+c.Effect), " "))
		for _, cause := range c.Causes {
			w.print("= ", "  because "+cause)
		}
		if c.Remedy != "" {
			w.print("= ", "  remedy: "+c.Remedy)
		}
	}
}

// status prints what the snapshots say, without what is random.
func (w *world) status() {
	pods, _ := w.board.Snapshot()
	for _, p := range pods {
		line := fmt.Sprintf("%s %s", p.Name, p.Status.Phase)
		if p.Status.Reason != "" || p.Status.Message != "" {
			line += fmt.Sprintf(" (%s: %s)", p.Status.Reason, p.Status.Message)
		}
		for _, ip := range p.Status.PodIPs {
			line += " " + ip.IP
		}
		for _, c := range p.Status.Conditions {
			if c.Status == v1.ConditionTrue {
				line += " " + string(c.Type)
			}
		}
		w.print("= ", line)
		for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for _, c := range list {
				w.print("= ", containerLine(p.UID, c))
			}
		}
	}
}

func containerLine(uid types.UID, c v1.ContainerStatus) string {
	line := "  " + c.Name + " "
	switch s := c.State; {
	case s.Running != nil:
		line += "running"
	case s.Waiting != nil:
		line += "waiting " + s.Waiting.Reason
		if s.Waiting.Message != "" {
			line += " (" + strings.ReplaceAll(s.Waiting.Message, string(uid), "UID") + ")"
		}
	case s.Terminated != nil:
		line += exitLine(s.Terminated)
	}
	if c.LastTerminationState.Terminated != nil {
		line += ", last " + exitLine(c.LastTerminationState.Terminated)
	}
	line += fmt.Sprintf(", restarts %d", c.RestartCount)
	if c.Started != nil && *c.Started {
		line += ", started"
	}
	if c.Ready {
		line += ", ready"
	}
	return line
}

func exitLine(t *v1.ContainerStateTerminated) string {
	return fmt.Sprintf("terminated %s %d", t.Reason, t.ExitCode)
}

// tellEvents prints the events since the last time.
func (w *world) tellEvents() {
	for _, e := range w.events.List(time.Now()) {
		id := e.Name
		if w.told[id] == e.Count {
			continue
		}
		count := ""
		if e.Count > 1 {
			count = fmt.Sprintf(" (%d times)", e.Count)
		}
		w.told[id] = e.Count
		message := strings.ReplaceAll(e.Message, string(e.InvolvedObject.UID), "UID")
		w.print("= ", strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Type[:1], e.Reason, e.InvolvedObject.FieldPath))+": "+message+count)
	}
}
