//go:build linux && soak

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"podd/internal/kerneltest"
)

// soakKinds are what a client such as k9s watches.
var soakKinds = []string{
	"/api/v1/pods", "/api/v1/namespaces/default/pods", "/api/v1/nodes", "/api/v1/namespaces", "/api/v1/events",
	"/api/v1/configmaps", "/api/v1/secrets", "/api/v1/services", "/api/v1/serviceaccounts", "/apis/coordination.k8s.io/v1/leases",
}

// watcher follows one list as a client's cache does.
type watcher struct {
	path, accept string

	mu      sync.Mutex
	view    map[string]string // namespace/name → resource version
	version string            // where to go on
	history []string          // what came, as TYPE namespace/name version
	err     error
}

type soakMeta struct {
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion"`
}

// soakObject is an object, a list or a Table.
type soakObject struct {
	Metadata soakMeta `json:"metadata"`
	Items    []struct {
		Metadata soakMeta `json:"metadata"`
	} `json:"items"`
	Rows []struct {
		Object struct {
			Metadata soakMeta `json:"metadata"`
		} `json:"object"`
	} `json:"rows"`
	Message string `json:"message"`
}

func (m soakMeta) key() string { return m.Namespace + "/" + m.Name }

// metas are what a list or a Table holds.
func (o soakObject) metas() map[string]string {
	all := map[string]string{}
	for _, i := range o.Items {
		all[i.Metadata.key()] = i.Metadata.ResourceVersion
	}
	for _, r := range o.Rows {
		all[r.Object.Metadata.key()] = r.Object.Metadata.ResourceVersion
	}
	return all
}

func (w *watcher) get(u *kubeUser, c *http.Client, query string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(u.Context(), "GET", "https://"+kubeAddress+w.path+query, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", w.accept)
	resp, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s%s: %s", w.path, query, resp.Status)
	}
	return resp.Body, nil
}

func (w *watcher) list(u *kubeUser, c *http.Client) (o soakObject, err error) {
	body, err := w.get(u, c, "")
	if err != nil {
		return o, err
	}
	defer body.Close()
	return o, json.NewDecoder(body).Decode(&o)
}

// follow watches until the test ends; a watch that ends by itself is begun again
// where it was. An event of type ERROR is a failure: nothing may be missed.
func (w *watcher) follow(u *kubeUser, c *http.Client) error {
	for u.Context().Err() == nil {
		body, err := w.get(u, c, "?watch=1&allowWatchBookmarks=true&resourceVersion="+w.version)
		if err != nil {
			return err
		}
		lines := bufio.NewReader(body)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break
			}
			var e struct {
				Type   string     `json:"type"`
				Object soakObject `json:"object"`
			}
			if err := json.Unmarshal(line, &e); err != nil {
				body.Close()
				return err
			}
			if e.Type == "ERROR" {
				body.Close()
				return fmt.Errorf("%s after %s: %s", w.path, w.version, e.Object.Message)
			}
			w.take(e.Type, e.Object)
		}
		body.Close()
	}
	return nil
}

func (w *watcher) take(event string, o soakObject) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := o.Metadata
	if len(o.Rows) > 0 {
		m = o.Rows[0].Object.Metadata
	}
	w.version = m.ResourceVersion
	switch event {
	case "BOOKMARK":
		return
	case "DELETED":
		delete(w.view, m.key())
	default:
		w.view[m.key()] = m.ResourceVersion
	}
	w.history = append(w.history, event+" "+m.key()+" "+m.ResourceVersion)
}

// sees reports whether the watcher's view is a list.
func (w *watcher) sees(o soakObject) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Equal(w.view, o.metas())
}

// between is a sum over what came after a version, up to another one, and how many
// events that were.
func (w *watcher) between(after, upTo uint64) (sum uint64, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := fnv.New64a()
	for _, line := range w.history {
		v, err := strconv.ParseUint(line[strings.LastIndex(line, " ")+1:], 10, 64)
		if err == nil && v > after && v <= upTo {
			io.WriteString(h, line+"\n")
			n++
		}
	}
	return h.Sum64(), n
}

// Fifty watches, half of them for Tables, while pods come and go: nobody misses
// anything, and the agent keeps nothing. PODD_SOAK_WATCH says for how long, such as
// 5m; an hour without it.
func TestFiftyWatchesMissNothing(t *testing.T) {
	kerneltest.Root(t)
	lasts := time.Hour
	if text := os.Getenv("PODD_SOAK_WATCH"); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	s := tell(t, []string{busyboxImage(t)})
	u := s.kubeRoot()
	root := u.client()
	pod := func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{"app":"soak"}},"spec":{"terminationGracePeriodSeconds":1,`+
			`"containers":[{"name":"app","image":"busybox:1.36","command":["sh","-c","trap 'exit 0' TERM; echo hello; sleep 1000 & wait"]}]}}`, name)
	}
	const path = "/api/v1/namespaces/default/pods"
	var all []*watcher
	round := 0
	// turn has five pods come and go, and nobody miss anything so far.
	turn := func() {
		round++
		for _, w := range all {
			w.mu.Lock()
			err := w.err
			w.mu.Unlock()
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		var names []string
		for i := range 5 {
			name := fmt.Sprintf("soak-%d-%d", round, i)
			if status, text := u.do(root, "POST", path, strings.NewReader(pod(name))); status != 201 {
				t.Fatal(status, text)
			}
			names = append(names, name)
		}
		for _, name := range names {
			s.within(2*time.Minute, name+" runs", func() bool {
				_, text := u.do(root, "GET", path+"/"+name, nil)
				return strings.Contains(text, `"phase":"Running"`)
			})
			if status, text := u.do(root, "DELETE", path+"/"+name, nil); status != 200 {
				t.Fatal(status, text)
			}
		}
		for _, name := range names {
			s.within(2*time.Minute, name+" is gone", func() bool { status, _ := u.do(root, "GET", path+"/"+name, nil); return status == 404 })
		}
	}
	turn()

	var clients []*http.Client
	for i := range 50 {
		w := &watcher{path: soakKinds[i%len(soakKinds)], accept: "application/json"}
		if i/len(soakKinds)%2 == 1 {
			w.accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
		}
		if i%5 == 0 { // ten clients with five watches each
			clients = append(clients, u.client())
		}
		c := clients[len(clients)-1]
		o, err := w.list(u, c)
		if err != nil {
			t.Fatal(err)
		}
		w.view, w.version = o.metas(), o.Metadata.ResourceVersion
		all = append(all, w)
		go func() { // ends with the test
			err := w.follow(u, c)
			w.mu.Lock()
			w.err = err
			w.mu.Unlock()
		}()
	}
	versionNow := func() uint64 {
		o, err := all[0].list(u, root)
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseUint(o.Metadata.ResourceVersion, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	began := time.Now()
	first := versionNow()
	for round < 200 && time.Since(began) < lasts { // then there are as many events as are kept
		turn()
	}
	goroutines, descriptors, memory := s.goroutines(), s.descriptors(), s.heap(u, root)
	for time.Since(began) < lasts {
		turn()
	}
	last := versionNow()

	for _, w := range all {
		s.eventually("a watcher of "+w.path+" sees what there is", func() bool {
			w.mu.Lock()
			err := w.err
			w.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			o, err := w.list(u, root)
			if err != nil {
				t.Fatal(err)
			}
			return w.sees(o)
		})
	}
	// Whoever watches the same has been told the same.
	type told struct {
		sum uint64
		n   int
	}
	same, events := map[string]told{}, 0
	for _, w := range all {
		sum, n := w.between(first, last)
		events += n
		if before, known := same[w.path]; !known {
			same[w.path] = told{sum, n}
		} else if before != (told{sum, n}) {
			t.Errorf("two watchers of %s were told different things: %d and %d events", w.path, before.n, n)
		}
	}
	if same[soakKinds[0]].n < 20*(round-1) {
		t.Errorf("only %d changes of pods were told in %d rounds", same[soakKinds[0]].n, round)
	}
	t.Logf("%d pods in %v; %d events to 50 watches; goroutines %d then %d, descriptors %d then %d, heap %.1f MB then %.1f MB", 5*round, time.Since(began).Round(time.Second),
		events, goroutines, s.goroutines(), descriptors, s.descriptors(), memory, s.heap(u, root))
	s.eventually("descriptors are closed", func() bool { return s.descriptors() <= descriptors+noiseDescriptors })
	s.eventually("goroutines end", func() bool { return s.goroutines() <= goroutines+noiseGoroutines })
	s.eventually("what was allocated is free", func() bool { return s.heap(u, root) <= memory+4 })
}

// heap is what the agent's objects take after a collection, in MB. The agent of these
// tests has the race detector's memory too, which says nothing.
func (s *story) heap(u *kubeUser, c *http.Client) float64 {
	s.Helper()
	if status, text := u.doAt(c, kubeletAddress, "GET", "/debug/pprof/heap?gc=1", nil); status != 200 {
		s.Fatal(status, text)
	}
	page, err := s.get("http://127.0.0.1:10255/metrics")
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(page) {
		if value, found := strings.CutPrefix(line, "go_memstats_heap_alloc_bytes "); found {
			bytes, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.Fatal(err)
			}
			return bytes / 1e6
		}
	}
	s.Fatal("no go_memstats_heap_alloc_bytes")
	return 0
}
