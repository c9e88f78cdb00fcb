package rest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"podd/api/objects"
)

// withPods is a server that has n pods as they are when they run.
func withPods(tb testing.TB, n int) *Server {
	tb.Helper()
	s := newServer(tb, func(c *Config) {
		c.Kinds = append(c.Kinds, Kind{Resource: Served("", "pods"), New: func() objects.Object { return &v1.Pod{} }, UnconditionalUpdate: true})
	})
	text, err := os.ReadFile("testdata/pod.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		p := &v1.Pod{}
		if err := yaml.UnmarshalStrict(text, p); err != nil {
			tb.Fatal(err)
		}
		p.Name = fmt.Sprint("web-", i)
		if _, err := s.put(objects.Key{Resource: Served("", "pods").GroupResource(), Namespace: p.Namespace, Name: p.Name},
			func(objects.Object) (objects.Object, error) { return p, nil }); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

const podPath = "/api/v1/namespaces/default/pods/web-7"

// cpu is what the process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perOp runs f and reports the CPU of all threads, garbage collection too: time
// by the clock says little where others work as well.
func perOp(b *testing.B, f func()) {
	b.ReportAllocs()
	f() // what is made once
	before := cpu(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// The budget is 200 µs of CPU for a GET of a pod.
func BenchmarkGetPod(b *testing.B) {
	s := withPods(b, 50)
	for name, media := range map[string]string{"json": mediaJSON, "protobuf": mediaProtobuf, "table": "application/json;as=Table;v=v1;g=meta.k8s.io"} {
		r := httptest.NewRequestWithContext(b.Context(), "GET", podPath, nil)
		r.Header.Set("Accept", media)
		b.Run(name, func(b *testing.B) {
			perOp(b, func() { s.ServeHTTP(httptest.NewRecorder(), r) })
		})
	}
}

func BenchmarkListPods(b *testing.B) {
	s := withPods(b, 50)
	r := httptest.NewRequestWithContext(b.Context(), "GET", "/api/v1/pods", nil)
	perOp(b, func() { s.ServeHTTP(httptest.NewRecorder(), r) })
}

func BenchmarkPatchPod(b *testing.B) {
	s := withPods(b, 50)
	i := 0
	perOp(b, func() {
		i++
		do(b, s, "PATCH", podPath, `{"metadata":{"labels":{"i":"`+strconv.Itoa(i)+`"}}}`, "Content-Type", "application/strategic-merge-patch+json").want(b, 200)
	})
}

// What 20 quiet watches of all pods cost in memory, both ends of each counted.
func BenchmarkMemoryOfWatches(b *testing.B) {
	s := withPods(b, 50)
	server := httptest.NewServer(s)
	defer server.Close()
	const watches = 20
	used := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	for b.Loop() {
		before := used()
		var answers []*http.Response
		for range watches {
			answer, err := http.Get(server.URL + "/api/v1/pods?watch=1&resourceVersion=" + strconv.FormatUint(s.Store.Version(), 10))
			if err != nil {
				b.Fatal(err)
			}
			answers = append(answers, answer)
		}
		b.ReportMetric(float64(used()-before)/watches, "B/watch")
		for _, a := range answers {
			a.Body.Close()
		}
	}
}
