package declared

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"

	"podd/api/objects"
	"podd/api/podlogs"
	"podd/api/rest"
	"podd/pod"
	"podd/pod/claims"
	"podd/pod/manifest"
	"podd/pod/runtimetest"
)

// long is how long a test waits for what must happen, however loaded the machine.
const long = 60 * time.Second

// world is a machine with an agent on it: everything is real but the kernel.
type world struct {
	*testing.T
	manifests, objects string // directories
	kernel             *runtimetest.Fake
	records            *runtimetest.Store

	store  *objects.Store
	keeper *Keeper
	server *rest.Server
	board  *pod.Board
	stop   func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{T: t, manifests: filepath.Join(dir, "manifests"), objects: filepath.Join(dir, "objects"),
		kernel: runtimetest.NewFake(), records: &runtimetest.Store{}}
	if err := os.Mkdir(w.manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	w.startAgent()
	t.Cleanup(func() { w.stop() })
	return w
}

// startAgent wires an agent as podd run does.
func (w *world) startAgent() {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	w.store, w.board = objects.New(), pod.NewBoard()
	kinds := append(rest.Kinds(rest.KindOptions{Store: w.store}), TemplateKind())
	files := OpenFiles(w.objects, nil)
	config := Config{Files: files, Store: w.store, Board: w.board, Node: "node", EventsFile: filepath.Join(w.objects, "..", "events.json"), Logger: logr.Discard()}
	w.keeper = New(ctx, config)
	events := &pod.EventStore{Tell: w.keeper.Event}
	manager := pod.NewManager(pod.Config{Runtime: w.kernel, Store: w.records, Board: w.board, NodeName: "node",
		HostIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Ended: w.keeper.Ended, Events: events.Record})
	pods := w.keeper.Kind(podlogs.Config{Board: w.board, Dir: w.logs()}, w.remove)
	Connect(&pods, manager)
	kinds = append(kinds, pods)
	w.keeper.Files.kinds = Kept(kinds)
	records, err := w.records.List()
	if err != nil {
		w.Fatal(err)
	}
	var loaded []pod.Desired
	for _, r := range records {
		loaded = append(loaded, r.Desired())
	}
	var kept []claims.Binding
	bind := func(in claims.Input) claims.Bound {
		in.Kept, in.Node, in.Dir, in.Now = kept, claims.Node{Name: "node", Labels: map[string]string{v1.LabelHostname: "node"}}, w.objects+"/../claims", time.Now()
		bound := claims.Bind(in)
		kept = bound.Bindings
		return w.keeper.Bound(bound)
	}
	watcher := manifest.New(manifest.Config{Dir: w.manifests, Objects: w.objects, Loaded: loaded, Keep: w.keeper.Sources, Bind: bind, Logger: logr.Discard()})
	w.keeper.Loader, w.keeper.Runner = watcher, manager
	w.server = rest.New(rest.Config{Store: w.store, Kinds: kinds, Log: logr.Discard(), Persist: w.keeper.Persist, Admit: w.keeper.AdmitRequest,
		DeclaredIn: DeclaredIn, Hidden: w.keeper.Hidden, Settled: w.keeper.Settled, Event: w.keeper.Event})
	w.keeper.Namespace = w.server.EnsureNamespace

	sets := make(chan []pod.Desired)
	start := func(f func() error) {
		running.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				w.Errorf("a part of the agent ended: %v", err)
			}
		})
	}
	start(func() error { return manager.Run(ctx, sets) })
	start(func() error { return watcher.Run(ctx, sets) })
	<-manager.Adopted()
	w.keeper.Load()
	start(func() error { w.keeper.Run(ctx); return nil })
	start(func() error { return w.server.Run(ctx, nil) })
	w.stop = func() {
		cancel()
		running.Wait()
		w.kernel.AgentEnded()
	}
	w.until("the default namespace is there", func() bool {
		return w.do("GET", "/api/v1/namespaces/default", nil).code == 200
	})
}

// logs is the directory of pods' logs.
func (w *world) logs() string { return filepath.Join(w.objects, "..", "logs") }

// killAgent ends the agent as SIGKILL does.
func (w *world) killAgent() {
	w.records = w.records.Freeze(false)
	w.stop()
}

// until waits for what must become so.
func (w *world) until(what string, so func() bool) {
	w.Helper()
	for deadline := time.Now().Add(long); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("not so: %s", what)
		}
	}
}

// reply is what came back.
type reply struct {
	code     int
	warnings []string
	body     []byte
}

// do sends a request. The body is text, which may be YAML, or nothing.
func (w *world) do(method, path string, body any) reply {
	w.Helper()
	var reader io.Reader
	kind := "application/yaml"
	switch b := body.(type) {
	case string:
		reader = strings.NewReader(b)
	case nil:
	default:
		text, err := json.Marshal(b)
		if err != nil {
			w.Fatal(err)
		}
		reader, kind = bytes.NewReader(text), "application/json"
	}
	r := httptest.NewRequestWithContext(w.Context(), method, path, reader)
	r.Header.Set("Content-Type", kind)
	recorder := httptest.NewRecorder()
	w.server.ServeHTTP(recorder, r)
	return reply{recorder.Code, recorder.Result().Header["Warning"], recorder.Body.Bytes()}
}

const podsPath = "/api/v1/namespaces/default/pods"

// pod reads a pod; nil: there is none.
func (w *world) pod(name string) *v1.Pod {
	w.Helper()
	r := w.do("GET", podsPath+"/"+name, nil)
	if r.code == http.StatusNotFound {
		return nil
	}
	return w.as(r, 200)
}

// as reads an answer as a pod.
func (w *world) as(r reply, code int) *v1.Pod {
	w.Helper()
	p := &v1.Pod{}
	if r.code != code {
		w.Fatalf("code %d, want %d: %s", r.code, code, r.body)
	}
	if err := json.Unmarshal(r.body, p); err != nil {
		w.Fatal(err)
	}
	return p
}

// refused checks that an answer is an error that says this.
func (w *world) refused(r reply, code int, text string) {
	w.Helper()
	if r.code != code || !strings.Contains(string(r.body), text) {
		w.Errorf("code %d, want %d with %q: %s", r.code, code, text, r.body)
	}
}

// ready waits until a pod is.
func (w *world) ready(name string) *v1.Pod {
	w.Helper()
	var p *v1.Pod
	w.until(name+" is ready", func() bool { p = w.pod(name); return isReady(p) })
	return p
}

func isReady(p *v1.Pod) bool { return p != nil && conditionOf(p, v1.PodReady) == "True" }

func conditionOf(p *v1.Pod, kind v1.PodConditionType) string {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return strings.TrimSuffix(fmt.Sprintf("%s %s", c.Status, c.Reason), " ")
		}
	}
	return ""
}

// gone waits until there is no pod of that name.
func (w *world) gone(name string) {
	w.Helper()
	w.until(name+" is gone", func() bool { return w.pod(name) == nil })
}

// file puts a file into the watched directory; empty: takes it away.
func (w *world) file(name, text string) {
	w.Helper()
	path := filepath.Join(w.manifests, name)
	var err error
	if text == "" {
		err = os.Remove(path)
	} else if err = os.WriteFile(path+".new", []byte(text), 0o600); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		w.Fatal(err)
	}
}

// keptPods lists the files of the API's pods.
func (w *world) keptPods() []string {
	w.Helper()
	all, err := filepath.Glob(filepath.Join(w.objects, "pods", "*", "*.yaml"))
	if err != nil {
		w.Fatal(err)
	}
	for i := range all {
		all[i] = strings.TrimSuffix(filepath.Base(all[i]), ".yaml")
	}
	return all
}

// plainPod is a pod as users write it; more is more of its spec.
func plainPod(name, more string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  containers: [{name: app, image: \"app:1\"}]\n%s", name, more)
}

func jsonInto(data []byte, into any) error { return json.Unmarshal(data, into) }
