package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pss returns the proportional memory of a process in kilobytes.
func pss(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSuffix(field1(string(b), "Pss"), " kB"))
	must(t, err)
	return n
}

func TestAnIdlePauseProcessIsSmallWhenManyShareIt(t *testing.T) {
	w := newWorld(t)
	const pods = 30
	var pids []int
	for range pods {
		s := w.sandbox()
		r := w.request("/bin/sleep", "1000")
		w.start(s, r)
		st, err := s.State(ctxOf(t))
		must(t, err)
		pids = append(pids, st.Pid)
	}
	sum := 0
	for _, pid := range pids {
		sum += pss(t, pid)
	}
	t.Logf("%d kB each", sum/pods)
	if sum/pods > 1024 {
		t.Errorf("a pause process takes %d kB, too much of a pod's 768 kB even on an unusual kernel", sum/pods)
	}
}

func BenchmarkEnsureAndDestroy(b *testing.B) {
	w := newWorld(b)
	for i := 0; b.Loop(); i++ {
		uid := "bench-" + strconv.Itoa(i)
		_, err := w.host.Ensure(context.Background(), Want{UID: uid, ID: newID(), Hostname: "x", Cgroup: nil})
		must(b, err)
		must(b, w.host.Destroy(context.Background(), uid))
	}
}

func BenchmarkEnsure(b *testing.B) {
	w := newWorld(b)
	var uids []string
	for i := 0; b.Loop(); i++ {
		uid := "bench-" + strconv.Itoa(i)
		_, err := w.host.Ensure(context.Background(), Want{UID: uid, ID: newID(), Hostname: "x"})
		must(b, err)
		b.StopTimer()
		uids = append(uids, uid)
		must(b, w.host.Destroy(context.Background(), uid))
		b.StartTimer()
	}
}

// BenchmarkStart measures from the request to the answer that the command runs.
func BenchmarkStart(b *testing.B) {
	w := newWorld(b)
	s := w.sandbox()
	for b.Loop() {
		b.StopTimer()
		r := w.request("/bin/true")
		b.StartTimer()
		w.start(s, r)
		b.StopTimer()
		w.exit(s, r.ID)
		must(b, s.Forget(context.Background(), r.ID))
		r.Rootfs.Close()
		b.StartTimer()
	}
}

func benchmarkExec(b *testing.B, byStage bool) {
	w := newWorld(b)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	r.UseStageForExec = byStage
	w.start(s, r)
	st, err := s.State(context.Background())
	must(b, err)
	before := cpuSeconds(b, st.Pid)
	for b.Loop() {
		if _, err := s.Exec(context.Background(), Exec{ID: r.ID, Args: []string{"/bin/true"}, OutputLimit: 1000}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpuSeconds(b, st.Pid)-before)*1000/float64(b.N), "cpu-ms/op")
}

// cpuSeconds returns what a pause process, its children that have exited, and
// this process have used.
func cpuSeconds(t testing.TB, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	sum := 0.0
	for _, field := range f[11:15] { // utime, stime, cutime, cstime in 1/100 s
		n, err := strconv.Atoi(field)
		must(t, err)
		sum += float64(n) / 100
	}
	var ru unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &ru))
	return sum + float64(ru.Utime.Nano()+ru.Stime.Nano())/1e9
}

func BenchmarkExec(b *testing.B)        { benchmarkExec(b, false) }
func BenchmarkExecByStage(b *testing.B) { benchmarkExec(b, true) }

// BenchmarkLogCopy counts what a container writes, in lines of 100 bytes.
func BenchmarkLogCopy(b *testing.B) {
	w := newWorld(b)
	lines := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 160<<10)
	must(b, os.WriteFile(filepath.Join(w.image, "lines"), lines, 0o644))
	s := w.sandbox()
	b.SetBytes(int64(len(lines)) * 16)
	for b.Loop() {
		r := w.request("/bin/sh", "-c", "cat"+strings.Repeat(" /lines", 16))
		r.LogMaxBytes, r.LogMaxFiles = 10<<20, 5
		began := time.Now()
		w.start(s, r)
		w.exit(s, r.ID)
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/container")
	}
}
