package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/internal/kerneltest"
)

// realTree opens a tree of the test's own on this machine, and fails the test if
// anything is left of it in the end.
func realTree(t testing.TB) *Tree {
	t.Helper()
	kerneltest.Root(t)
	tree, err := Open(fmt.Sprintf("podd-test-%d-%d", os.Getpid(), time.Now().UnixNano()), logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := tree.Root().Kill(ctx); err != nil {
			t.Error(err)
		}
		if err := tree.Close(ctx); err != nil {
			t.Error(err)
		}
		if tree.Root().Exists() {
			t.Errorf("cgroup %s is left over", tree.root)
		}
	})
	return tree
}

func container(t testing.TB, tree *Tree) *Group {
	t.Helper()
	if _, err := tree.Pod(v1.PodQOSBurstable, "u1", Limits{}); err != nil {
		t.Fatal(err)
	}
	g, err := tree.Container(v1.PodQOSBurstable, "u1", "c1")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// start runs a shell in the group and returns the process; it is waited for in
// the end. The shell is born in the v2 group and moved into those of v1 before
// its first instruction, by way of a pipe it waits for.
func start(t testing.TB, g *Group, script string) *exec.Cmd {
	t.Helper()
	unified, procs, tasks, err := g.Files()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, f := range append(append(procs, tasks...), unified) {
			if f != nil {
				f.Close()
			}
		}
	}()
	cmd := exec.Command(kerneltest.Busybox(t), "sh", "-c", "read go; "+script)
	if unified != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(unified.Fd())}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() { // ends with the process
		cmd.Wait()
		close(waited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-waited
	})
	for _, f := range procs {
		if _, err := f.WriteString(strconv.Itoa(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	stdin.Write([]byte("go\n"))
	return cmd
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// value reads a control file of the group, from the hierarchy that has it.
func value(t testing.TB, g *Group, file string) string {
	t.Helper()
	for i := range g.tree.hiers {
		if text, err := readFile(g.dir(&g.tree.hiers[i]), file); err == nil {
			return strings.TrimSpace(text)
		}
	}
	t.Fatalf("no hierarchy of %s has a file %s", g.path, file)
	return ""
}

// What the kernel shows for the same limits differs with the layout; every case
// names both.
func TestLimitsAreVisibleInTheKernelsFiles(t *testing.T) {
	tree := realTree(t)
	type files map[string]string
	expect := func(g *Group, v1, v2 files) {
		t.Helper()
		want := v1
		if tree.Version() == V2 {
			want = v2
		}
		for file, text := range want {
			if got := value(t, g, file); got != text {
				t.Errorf("%s of %s = %q, want %q", file, g.Path(), got, text)
			}
		}
	}
	pod, err := tree.Pod(v1.PodQOSBurstable, "u1", Limits{CPUShares: 512, MemoryBytes: 64 << 20, PidsMax: 100})
	if err != nil {
		t.Fatal(err)
	}
	g, err := tree.Container(v1.PodQOSBurstable, "u1", "c1")
	if err != nil {
		t.Fatal(err)
	}
	expect(pod,
		files{"cpu.shares": "512", "memory.limit_in_bytes": "67108864", "pids.max": "100"},
		files{"cpu.weight": "59", "memory.max": "67108864", "memory.swap.max": "0", "pids.max": "100"})

	for _, step := range []struct {
		name   string
		lim    Limits
		v1, v2 files
	}{
		{"a start", Limits{CPUShares: 1, CPUQuotaMicros: 20000, MemoryBytes: 16 << 20, PidsMax: 7, OOMGroup: true},
			files{"cpu.shares": "2", "cpu.cfs_quota_us": "20000", "cpu.cfs_period_us": "100000",
				"memory.limit_in_bytes": "16777216", "memory.memsw.limit_in_bytes": "16777216", "pids.max": "7"},
			files{"cpu.weight": "1", "cpu.max": "20000 100000", "memory.max": "16777216", "memory.swap.max": "0",
				"memory.oom.group": "1", "pids.max": "7"}},
		{"nothing given changes nothing", Limits{},
			files{"cpu.cfs_quota_us": "20000", "memory.limit_in_bytes": "16777216", "pids.max": "7"},
			files{"cpu.max": "20000 100000", "memory.max": "16777216", "memory.oom.group": "1", "pids.max": "7"}},
		{"a raise", Limits{CPUQuotaMicros: 50000, MemoryBytes: 32 << 20, SwapBytes: 8 << 20},
			files{"cpu.cfs_quota_us": "50000", "memory.limit_in_bytes": "33554432", "memory.memsw.limit_in_bytes": "41943040"},
			files{"cpu.max": "50000 100000", "memory.max": "33554432", "memory.swap.max": "8388608"}},
		{"a cut", Limits{CPUQuotaMicros: 10, CPUPeriodMicros: 50000, MemoryBytes: 4 << 20},
			files{"cpu.cfs_quota_us": "1000", "cpu.cfs_period_us": "50000", "memory.limit_in_bytes": "4194304", "memory.memsw.limit_in_bytes": "4194304"},
			files{"cpu.max": "1000 50000", "memory.max": "4194304", "memory.swap.max": "0"}},
		{"no limits", Limits{CPUQuotaMicros: Unlimited, MemoryBytes: Unlimited, PidsMax: Unlimited},
			files{"cpu.cfs_quota_us": "-1", "memory.limit_in_bytes": "9223372036854771712", "pids.max": "max"},
			files{"cpu.max": "max 100000", "memory.max": "max", "memory.swap.max": "0", "pids.max": "max"}},
	} {
		if err := g.Set(step.lim); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		expect(g, step.v1, step.v2)
	}

	if err := tree.SetBurstableShares(2048); err != nil {
		t.Fatal(err)
	}
	expect(tree.group(filepath.Dir(pod.Path())), files{"cpu.shares": "2048"}, files{"cpu.weight": "174"})
	expect(tree.group(tree.root+"/besteffort"), files{"cpu.shares": "2"}, files{"cpu.weight": "1"})

	// Nobody can have more CPU than the pod: v1 refuses to say so, v2 ignores it.
	if err := pod.Set(Limits{CPUQuotaMicros: 20000}); err != nil {
		t.Fatal(err)
	}
	err = g.Set(Limits{CPUQuotaMicros: 90000})
	if tree.Version() != V2 && (err == nil || !strings.Contains(err.Error(), "than the one it lives in")) {
		t.Errorf("a quota above the pod's: error %v", err)
	}
}

func TestOOMGroupTakesTheWholeContainerOnV2(t *testing.T) {
	tree := realTree(t)
	g := container(t, tree)
	if err := g.Set(Limits{MemoryBytes: 8 << 20, OOMGroup: true}); err != nil {
		t.Fatal(err)
	}
	sleeper := start(t, g, "exec sleep 1000")
	start(t, g, "exec tail -c 100000000 /dev/zero")
	want := []int{sleeper.Process.Pid}
	if tree.Version() == V2 {
		want = nil
	}
	eventually(t, "a kill", func() bool { n, _ := g.OOMKills(); return n > 0 })
	eventually(t, "the rest is as the layout has it", func() bool { pids, _ := g.Pids(); return slices.Equal(pids, want) })
}

func TestMakingAGroupAgainKeepsIt(t *testing.T) {
	tree := realTree(t)
	g := container(t, tree)
	if err := g.Set(Limits{PidsMax: 9}); err != nil {
		t.Fatal(err)
	}
	again := container(t, tree)
	if got := value(t, again, "pids.max"); got != "9" {
		t.Errorf("pids.max = %s after making the group again, want 9", got)
	}
	// A group whose parents vanished behind our back is made with its parents.
	if err := tree.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g, err := tree.Container(v1.PodQOSBestEffort, "u2", "c"); err != nil || !g.Exists() {
		t.Errorf("after the tree was removed: %v", err)
	}
}

func TestLookingForAGroupMakesNone(t *testing.T) {
	tree := realTree(t)
	c, err := tree.FindContainer(v1.PodQOSGuaranteed, "u9", "c")
	if err != nil {
		t.Fatal(err)
	}
	pause, err := tree.FindPause("s9")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []*Group{c, pause} {
		if g.Exists() || !g.Empty() {
			t.Errorf("%s: exists %v, empty %v", g.Path(), g.Exists(), g.Empty())
		}
		if err := g.Set(Limits{PidsMax: 1}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Set of a group that is not there: %v", err)
		}
		if _, _, _, err := g.Files(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Files of a group that is not there: %v", err)
		}
	}
	made, err := tree.Container(v1.PodQOSGuaranteed, "u9", "c")
	if err != nil || made.Path() != c.Path() || !c.Exists() {
		t.Errorf("made %v, %v", made, err)
	}
}

func TestMemoryHogIsKilledAndCounted(t *testing.T) {
	tree := realTree(t)
	g := container(t, tree)
	if err := g.Set(Limits{MemoryBytes: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Fatalf("OOMKills before = %d, %v", n, err)
	}
	start(t, g, "exec tail -c 100000000 /dev/zero")
	eventually(t, "an out-of-memory kill", func() bool {
		n, err := g.OOMKills()
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	})
	eventually(t, "the hog is gone", g.Empty)
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Limit != 8<<20 || s.Memory.MaxUsage < 7<<20 || s.Memory.MaxUsage > 8<<20 {
		t.Errorf("figures after the kill: %+v", s.Memory)
	}
}

func TestALimitBelowWhatIsInUseIsRefusedOnV1(t *testing.T) {
	tree := realTree(t)
	g := container(t, tree)
	start(t, g, "exec tail -c 20000000 /dev/zero")
	eventually(t, "20 MB are in use", func() bool {
		s, err := g.Stats()
		return err == nil && s.Memory.RSS > 19_000_000
	})
	err := g.Set(Limits{MemoryBytes: 4 << 20})
	if tree.Version() == V2 {
		// There the kernel kills until it fits.
		eventually(t, "a kill", func() bool { n, _ := g.OOMKills(); return n > 0 })
		return
	}
	if !errors.Is(err, ErrMemoryInUse) {
		t.Errorf("error %v, want ErrMemoryInUse", err)
	}
}

func TestMemoryLimitOfAPodSparesItsPauseProcess(t *testing.T) {
	tree := realTree(t)
	pod, err := tree.Pod(v1.PodQOSBurstable, "u1", Limits{MemoryBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	pause, err := tree.Pause("s1")
	if err != nil {
		t.Fatal(err)
	}
	sleeper := start(t, pause, "exec sleep 1000")
	hog := container(t, tree)
	if err := pod.Set(Limits{MemoryBytes: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	start(t, hog, "exec tail -c 100000000 /dev/zero")
	eventually(t, "an out-of-memory kill", func() bool { n, _ := hog.OOMKills(); return n == 1 })
	if pids, err := pause.Pids(); err != nil || !slices.Equal(pids, []int{sleeper.Process.Pid}) {
		t.Errorf("pause group holds %v, %v; want the sleeper %d", pids, err, sleeper.Process.Pid)
	}
	if n, err := pause.OOMKills(); n != 0 || err != nil {
		t.Errorf("pause group counts %d kills, %v", n, err)
	}
}

func TestForkBombIsHeldByThePidsLimit(t *testing.T) {
	tree := realTree(t)
	g := container(t, tree)
	if err := g.Set(Limits{PidsMax: 20}); err != nil {
		t.Fatal(err)
	}
	start(t, g, "while true; do sleep 1000 & done 2>/dev/null")
	eventually(t, "a fork is refused", func() bool { return keyed(value(t, g, "pids.events"), "max") > 0 })
	pids, err := g.Pids()
	if err != nil || len(pids) > 20 || len(pids) < 10 {
		t.Errorf("%d processes, %v; want at most 20, and most of them", len(pids), err)
	}
	if s, err := g.Stats(); err != nil || s.Pids.Limit != 20 || s.Pids.Current > 20 {
		t.Errorf("figures: %+v, %v", s.Pids, err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(); len(pids) != 0 || err != nil {
		t.Errorf("after Kill: %v, %v", pids, err)
	}
	if got := value(t, g, "pids.max"); got != "20" {
		t.Errorf("pids.max = %s after Kill, want 20 as before", got)
	}
}

// Without the v2 hierarchy there is no cgroup.kill: what a pure v1 machine has
// is tried by leaving that hierarchy out.
func TestKillReachesChildrenThatLeftTheirSession(t *testing.T) {
	inEveryLayout(t, func(t *testing.T, tree *Tree) {
		g := container(t, tree)
		start(t, g, `for i in 1 2 3 4 5 6 7 8; do setsid sh -c 'trap "" TERM INT HUP; (while true; do (sleep 0.01 &) ; done) & sleep 1000' & done; sleep 1000`)
		eventually(t, "a tree of processes", func() bool { pids, _ := g.Pids(); return len(pids) >= 17 })
		// The pod's group, one level up, takes what is below with it.
		pod := g.tree.group(filepath.Dir(g.path))
		if pod.Empty() {
			t.Error("the pod's group says it is empty")
		}
		if err := pod.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !pod.Empty() || !g.Empty() {
			t.Error("not empty after Kill")
		}
		if err := pod.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := pod.Kill(t.Context()); err != nil {
			t.Errorf("Kill of a group that is gone: %v", err)
		}
		if err := pod.Remove(t.Context()); err != nil {
			t.Errorf("Remove of a group that is gone: %v", err)
		}
	})
}

// A process that forks faster than anybody could list its children.
func TestKillEndsAForkBomb(t *testing.T) {
	inEveryLayout(t, func(t *testing.T, tree *Tree) {
		g := container(t, tree)
		if err := g.Set(Limits{PidsMax: 300}); err != nil {
			t.Fatal(err)
		}
		start(t, g, "b() { while true; do b & done; }; b & b & while true; do sleep 0.01; done 2>/dev/null")
		eventually(t, "a hundred processes", func() bool { s, err := g.Stats(); return err == nil && s.Pids.Current > 100 })
		if err := g.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !g.Empty() || value(t, g, "pids.max") != "300" {
			t.Errorf("after Kill: empty %v, pids.max %s", g.Empty(), value(t, g, "pids.max"))
		}
	})
}

// inEveryLayout runs a test on the machine's layout, and on a hybrid machine
// again without its v2 hierarchy.
func inEveryLayout(t *testing.T, test func(t *testing.T, tree *Tree)) {
	t.Run("as mounted", func(t *testing.T) { test(t, realTree(t)) })
	hiers, version, err := detect("/proc/self/mountinfo")
	if err != nil || version != Hybrid {
		return
	}
	t.Run("v1 alone", func(t *testing.T) {
		kerneltest.Root(t)
		tree, err := open(fmt.Sprintf("podd-test-v1-%d-%d", os.Getpid(), time.Now().UnixNano()), hiers[1:], V1, logr.Discard())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := tree.Root().Kill(context.Background()); err != nil {
				t.Error(err)
			}
			if err := tree.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		test(t, tree)
	})
}

// A process frozen by the v1 freezer dies only when it is thawed, like one that
// waits for a broken disk.
func TestKillGivesUpWithTheNamesOfThoseThatStay(t *testing.T) {
	tree := realTree(t)
	if tree.Version() == V2 {
		return // its freezer lets the killed go
	}
	const freezer = "/sys/fs/cgroup/freezer"
	var st unix.Stat_t
	kerneltest.Need(t, unix.Stat(freezer+"/cgroup.procs", &st) == nil, "the v1 freezer")
	ice := freezer + "/" + tree.root
	if err := os.Mkdir(ice, 0o755); err != nil {
		t.Fatal(err)
	}
	g := container(t, tree)
	cmd := start(t, g, "exec sleep 1000")
	eventually(t, "sleep runs", func() bool { return comm(cmd.Process.Pid) == "sleep" })
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(ice+"/"+file, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup.procs", strconv.Itoa(cmd.Process.Pid))
	write("freezer.state", "FROZEN")
	defer func() {
		write("freezer.state", "THAWED")
		eventually(t, "the freezer is empty", func() bool { return unix.Rmdir(ice) == nil })
	}()
	eventually(t, "it is frozen", func() bool {
		text, _ := os.ReadFile(ice + "/freezer.state")
		return strings.TrimSpace(string(text)) == "FROZEN"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := g.Kill(ctx)
	want := fmt.Sprintf("process %d (sleep, state ", cmd.Process.Pid)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

func comm(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(text))
}

func TestRemoveRefusesWhileProcessesAreInside(t *testing.T) {
	tree := realTree(t)
	g := container(t, tree)
	cmd := start(t, g, "exec sleep 1000")
	eventually(t, "sleep runs", func() bool { return comm(cmd.Process.Pid) == "sleep" })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := g.Remove(ctx)
	want := fmt.Sprintf("process %d (sleep, state S)", cmd.Process.Pid)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

func TestRemovePodFindsItInAnyClassAndTakesForeignChildrenAlong(t *testing.T) {
	tree := realTree(t)
	for _, qos := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		uid := strings.ToLower(string(qos))
		if _, err := tree.Pod(qos, uid, Limits{}); err != nil {
			t.Fatal(err)
		}
		g, err := tree.Container(qos, uid, "c1")
		if err != nil {
			t.Fatal(err)
		}
		// A workload that manages groups of its own.
		for i := range tree.hiers {
			if err := os.MkdirAll(g.dir(&tree.hiers[i])+"/own/deep", 0o755); err != nil {
				t.Fatal(err)
			}
		}
		start(t, g, "exec sleep 1000")
	}
	if _, err := tree.Pause("s1"); err != nil {
		t.Fatal(err)
	}
	uids, err := tree.Pods()
	if err != nil || !slices.Equal(uids, []string{"besteffort", "burstable", "guaranteed"}) {
		t.Fatalf("Pods = %v, %v", uids, err)
	}
	for _, uid := range uids {
		if err := tree.RemovePod(t.Context(), uid); err != nil {
			t.Error(err)
		}
	}
	if uids, err := tree.Pods(); len(uids) != 0 || err != nil {
		t.Errorf("Pods after removal = %v, %v", uids, err)
	}
	if ids, err := tree.Pauses(); !slices.Equal(ids, []string{"s1"}) || err != nil {
		t.Errorf("Pauses = %v, %v", ids, err)
	}
	if err := tree.RemovePod(t.Context(), "never-was"); err != nil {
		t.Errorf("RemovePod of a pod without groups: %v", err)
	}
}

func TestDeviceRules(t *testing.T) {
	tree := realTree(t)
	g := container(t, tree)
	if err := g.Set(Limits{Devices: nullOnly}); err != nil {
		t.Fatal(err)
	}
	expectDevices(t, g)
}

// The filter program works in any v2 group, so the hybrid layout can show it.
func TestDeviceFilterOfV2(t *testing.T) {
	tree := realTree(t)
	var unified *hierarchy
	for i := range tree.hiers {
		if tree.hiers[i].unified {
			unified = &tree.hiers[i]
		}
	}
	kerneltest.Need(t, unified != nil, "a cgroup v2 hierarchy")
	g := container(t, tree)
	// Applied twice: the second program takes the first one's place.
	for _, rules := range [][]Device{{{Allow: false, Type: 'a'}}, nullOnly} {
		if err := setDevicesV2(g.dir(unified), Limits{Devices: rules}); err != nil {
			if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
				kerneltest.Need(t, false, "bpf(2) for cgroup device filters")
			}
			t.Fatal(err)
		}
	}
	expectDevices(t, g)
}

var nullOnly = []Device{
	{Allow: false, Type: 'a'},
	{Allow: true, Type: 'c', Major: -1, Minor: -1, Access: "m"},
	{Allow: true, Type: 'c', Major: 1, Minor: 3, Access: "rwm"},
}

// expectDevices tries what nullOnly allows and what it does not.
func expectDevices(t *testing.T, g *Group) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	node := filepath.Join(t.TempDir(), "zero")
	start(t, g, fmt.Sprintf(`
		try() { if "$@" >/dev/null 2>&1; then echo "yes $*"; else echo "no $*"; fi; }
		exec 3>&1 >%[1]s.tmp
		try cat /dev/null
		try dd if=/dev/zero of=/dev/null bs=1 count=1
		try mknod %[2]s c 1 5
		try cat %[2]s
		try mknod %[2]sb b 1 5
		mv %[1]s.tmp %[1]s`, out, node))
	eventually(t, "the script's result", func() bool { _, err := os.Stat(out); return err == nil })
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("yes cat /dev/null\nno dd if=/dev/zero of=/dev/null bs=1 count=1\nyes mknod %[1]s c 1 5\nno cat %[1]s\nno mknod %[1]sb b 1 5\n", node)
	if string(got) != want {
		t.Errorf("devices:\n%swant:\n%s", got, want)
	}
}

func TestStatsOfARunningGroup(t *testing.T) {
	tree := realTree(t)
	g := container(t, tree)
	if err := g.Set(Limits{CPUQuotaMicros: 10000, MemoryBytes: 64 << 20, PidsMax: 50}); err != nil {
		t.Fatal(err)
	}
	// Only what is allocated inside the group is certain to be charged to it.
	start(t, g, `x=$(head -c 1000000 /dev/zero | tr '\0' x); while true; do true; done`)
	eventually(t, "a megabyte, and throttling of the loop", func() bool {
		s, err := g.Stats()
		return err == nil && s.CPU.Throttled > 2 && s.Memory.Usage > 1000000 && s.Pids.Current == 1
	})
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.CPU.Usage < 10*time.Millisecond || s.CPU.User+s.CPU.System > s.CPU.Usage*2 || s.CPU.Periods < s.CPU.Throttled || s.CPU.ThrottledTime == 0 {
		t.Errorf("cpu: %+v", s.CPU)
	}
	if s.Memory.WorkingSet == 0 || s.Memory.WorkingSet > s.Memory.Usage || s.Memory.Limit != 64<<20 || s.Memory.RSS > s.Memory.Usage {
		t.Errorf("memory: %+v", s.Memory)
	}
	if s.Pids != (PidsStats{Current: 1, Limit: 50}) {
		t.Errorf("pids: %+v", s.Pids)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Stats(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stats of a group that is gone: %v", err)
	}
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Errorf("OOMKills of a group that is gone: %d, %v", n, err)
	}
}

func TestNamesThatAreNoFileNamesAreRefused(t *testing.T) {
	tree := realTree(t)
	for _, name := range []string{"", ".", "..", "a/b", "../x", "a\nb", strings.Repeat("x", 300)} {
		if _, err := tree.Pod(v1.PodQOSBurstable, name, Limits{}); err == nil {
			t.Errorf("Pod(%q) succeeded", name)
		}
		if _, err := tree.Container(v1.PodQOSBurstable, "u", name); err == nil {
			t.Errorf("Container(%q) succeeded", name)
		}
		if _, err := tree.Pause(name); err == nil {
			t.Errorf("Pause(%q) succeeded", name)
		}
		if err := tree.RemovePod(t.Context(), name); err == nil {
			t.Errorf("RemovePod(%q) succeeded", name)
		}
	}
	if _, err := tree.Pod("Bestest", "u", Limits{}); err == nil || !strings.Contains(err.Error(), `"Bestest"`) {
		t.Errorf("unknown QoS class: %v", err)
	}
	for _, root := range []string{"", "/", "..", "../podd", "a/../b", "a//b", "."} {
		if _, err := Open(root, logr.Discard()); err == nil || !strings.Contains(err.Error(), "cgroup root") {
			t.Errorf("Open(%q): %v", root, err)
		}
	}
}

// BenchmarkContainer is what cgroups add to the start and end of a container.
func BenchmarkContainer(b *testing.B) {
	tree := realTree(b)
	if _, err := tree.Pod(v1.PodQOSBurstable, "u1", Limits{}); err != nil {
		b.Fatal(err)
	}
	lim := Limits{CPUShares: 100, CPUQuotaMicros: 50000, MemoryBytes: 64 << 20, Devices: nullOnly}
	var made, set, removed time.Duration
	for i := 0; b.Loop(); i++ {
		t0 := time.Now()
		g, err := tree.Container(v1.PodQOSBurstable, "u1", strconv.Itoa(i))
		if err != nil {
			b.Fatal(err)
		}
		unified, procs, tasks, err := g.Files()
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if err := g.Set(lim); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		for _, f := range append(append(procs, tasks...), unified) {
			if f != nil {
				f.Close()
			}
		}
		if err := g.Kill(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := g.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		made, set, removed = made+t1.Sub(t0), set+t2.Sub(t1), removed+time.Since(t2)
	}
	n := float64(b.N) * 1000
	b.ReportMetric(float64(made)/n, "make-µs")
	b.ReportMetric(float64(set)/n, "set-µs")
	b.ReportMetric(float64(removed)/n, "remove-µs")
}

func BenchmarkStats(b *testing.B) {
	tree := realTree(b)
	g := container(b, tree)
	for b.Loop() {
		if _, err := g.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKill is what it takes from the decision to kill a container with two
// processes until nothing of its group is left.
func BenchmarkKill(b *testing.B) {
	tree := realTree(b)
	var took time.Duration
	for b.Loop() {
		g := container(b, tree)
		start(b, g, "sleep 1000 & sleep 1000")
		eventually(b, "two processes", func() bool { pids, _ := g.Pids(); return len(pids) >= 2 })
		t0 := time.Now()
		if err := g.Kill(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := g.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		took += time.Since(t0)
	}
	b.ReportMetric(float64(took.Microseconds())/float64(b.N), "kill-µs")
}
