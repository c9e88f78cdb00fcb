// Package healthz answers whether the agent is well, as a kubelet and an API server
// answer.
//
// It looks at nothing itself: what there is to look at is handed in. Read [Handler]
// first, then [SLIs].
package healthz

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// check is one thing that must be well; run returns why it is not, or nil.
type check struct {
	name string
	run  func() error
}

// checks are the kubelet's.
func checks(healthy func() error) []check {
	well := func() error { return nil }
	if healthy == nil {
		healthy = well
	}
	return []check{{"ping", well}, {"log", well}, {"syncloop", healthy}}
}

// Handler serves the health at root, such as /healthz, and each check below it:
// 200 and "ok", or 500 and what is wrong. ?verbose names every check. healthy
// returns why the agent does not do its work, or nil; it may be nil.
//
// Source: Kubernetes docs, "Kubernetes API health endpoints".
func Handler(root string, healthy func() error) http.Handler {
	all := checks(healthy)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, root), "/"), "/")
		var report strings.Builder
		known, failed := name == "", false
		for _, c := range all {
			if name != "" && name != c.name {
				continue
			}
			known = true
			if err := c.run(); err != nil {
				failed = true
				fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
				continue
			}
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
		_, verbose := r.URL.Query()["verbose"]
		verdict := "passed"
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		switch {
		case !known:
			http.NotFound(w, r)
			return
		case failed:
			verdict = "failed"
			w.WriteHeader(http.StatusInternalServerError)
		case !verbose:
			fmt.Fprint(w, "ok")
			return
		}
		fmt.Fprintf(w, "%s%s check %s\n", &report, strings.TrimPrefix(root, "/"), verdict)
	})
}

// SLIs serves the page /metrics/slis: the checks of /healthz, which each scrape
// does, and how often they went well and not.
//
// Source: Kubernetes docs, "Kubernetes Component SLI Metrics".
func SLIs(healthy func() error) http.Handler {
	all := checks(healthy)
	var mu sync.Mutex
	counts := map[string]int{} // by labels; guarded by mu
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var now, total strings.Builder
		mu.Lock()
		for _, c := range all {
			result, well := "success", 1
			if c.run() != nil {
				result, well = "error", 0
			}
			counts[c.name+result]++
			fmt.Fprintf(&now, "kubernetes_healthcheck{name=%q,type=\"healthz\"} %d\n", c.name, well)
			for _, status := range []string{"error", "success"} {
				if n := counts[c.name+status]; n > 0 {
					fmt.Fprintf(&total, "kubernetes_healthchecks_total{name=%q,status=%q,type=\"healthz\"} %d\n", c.name, status, n)
				}
			}
		}
		mu.Unlock()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		fmt.Fprint(w, "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n"+
			"# TYPE kubernetes_healthcheck gauge\n"+now.String()+
			"# HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.\n"+
			"# TYPE kubernetes_healthchecks_total counter\n"+total.String())
	})
}
