package cgroup

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"

	"podd/internal/kerneltest"
)

// fakeV2 builds a directory that looks like a v2 machine with a tree "podd" and
// one container in it, so that what is written where can be read back.
func fakeV2(t *testing.T, controllers string) (*Tree, string) {
	t.Helper()
	dir := t.TempDir()
	for _, group := range []string{"", "podd", "podd/burstable", "podd/besteffort", "podd/podd-pause", "podd/burstable/podu1", "podd/burstable/podu1/c1"} {
		if err := os.MkdirAll(filepath.Join(dir, group), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"cgroup.controllers": controllers, "cgroup.subtree_control": "", "cgroup.procs": "", "cgroup.kill": "",
			"cgroup.events": "populated 0\nfrozen 0\n", "cpu.weight": "", "cpu.max": "", "memory.max": "", "memory.swap.max": "",
			"memory.oom.group": "", "pids.max": "",
		} {
			if err := os.WriteFile(filepath.Join(dir, group, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	tree, err := open("podd", []hierarchy{{dir: dir, unified: true, controllers: slices.Clone(usedV2)}}, V2, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return tree, dir
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestV2HandsControllersDownToContainers(t *testing.T) {
	tree, dir := fakeV2(t, "cpuset cpu io memory hugetlb pids")
	if _, err := tree.Pod(v1.PodQOSBurstable, "u1", Limits{}); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"", "podd", "podd/burstable", "podd/besteffort", "podd/podd-pause", "podd/burstable/podu1"} {
		if got := content(t, dir, group, "cgroup.subtree_control"); got != "+cpu +memory +pids +io" {
			t.Errorf("subtree_control of %q = %q", group, got)
		}
	}
	if got := content(t, dir, "podd/burstable/podu1/c1/cgroup.subtree_control"); got != "" {
		t.Errorf("a container's own processes would be refused: subtree_control = %q", got)
	}
	if got := tree.Controllers(); !slices.Equal(got, []string{"cpu", "io", "memory", "pids"}) {
		t.Errorf("Controllers = %v", got)
	}
}

func TestV2Limits(t *testing.T) {
	tree, dir := fakeV2(t, "cpu io memory pids")
	g, err := tree.Container(v1.PodQOSBurstable, "u1", "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Set(Limits{CPUShares: 1024, CPUQuotaMicros: 150000, MemoryBytes: 1 << 20, PidsMax: 5, OOMGroup: true}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"cpu.weight": "100", "cpu.max": "150000 100000", "memory.max": "1048576",
		"memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "5"} {
		if got := content(t, dir, g.Path(), file); got != want {
			t.Errorf("%s = %q, want %q", file, got, want)
		}
	}
	// The directory is no cgroup, where each write replaces the last.
	for _, file := range []string{"cpu.max", "memory.max", "memory.swap.max", "pids.max"} {
		os.Truncate(filepath.Join(dir, g.Path(), file), 0)
	}
	if err := g.Set(Limits{CPUQuotaMicros: Unlimited, MemoryBytes: Unlimited, SwapBytes: Unlimited, PidsMax: Unlimited}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"cpu.max": "max 100000", "memory.max": "max", "memory.swap.max": "max", "pids.max": "max"} {
		if got := content(t, dir, g.Path(), file); got != want {
			t.Errorf("%s = %q, want %q", file, got, want)
		}
	}
	unified, procs, tasks, err := g.Files()
	if err != nil || unified == nil || len(procs)+len(tasks) != 0 {
		t.Fatalf("Files = %v, %v, %v, %v", unified, procs, tasks, err)
	}
	unified.Close()
	if err := g.Kill(t.Context()); err != nil || content(t, dir, g.Path(), "cgroup.kill") != "1" {
		t.Errorf("Kill: %v", err)
	}
}

func TestV2Stats(t *testing.T) {
	tree, dir := fakeV2(t, "cpu io memory pids")
	g := tree.group("podd/burstable/podu1/c1")
	for name, text := range map[string]string{
		"cpu.stat":            "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 250000\n",
		"memory.stat":         "anon 4096\nfile 8192\nfile_mapped 2048\ninactive_file 1024\npgfault 7\npgmajfault 1\n",
		"memory.current":      "20480\n",
		"memory.peak":         "40960\n",
		"memory.max":          "max\n",
		"memory.events":       "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 1\n",
		"memory.swap.current": "512\n",
		"memory.swap.max":     "1024\n",
		"pids.current":        "3\n",
		"pids.max":            "9\n",
		"io.stat":             "8:0 rbytes=90 wbytes=80 rios=7 wios=6 dbytes=0 dios=0\n\n253:1 rbytes=1\nbroken\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, g.Path(), name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want := Stats{
		CPU: CPUStats{Usage: 3 * time.Second, User: 2 * time.Second, System: time.Second, Periods: 10, Throttled: 4, ThrottledTime: 250 * time.Millisecond},
		Memory: MemoryStats{Usage: 20480, WorkingSet: 19456, RSS: 4096, Cache: 8192, MappedFile: 2048, MaxUsage: 40960,
			Swap: 512, SwapLimit: 1024, FailCount: 3, PageFaults: 7, MajorPageFaults: 1, inactiveFile: 1024},
		Pids: PidsStats{Current: 3, Limit: 9},
		IO:   []IOStats{{Major: 8, ReadBytes: 90, WriteBytes: 80, Reads: 7, Writes: 6}, {Major: 253, Minor: 1, ReadBytes: 1}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Stats:\n%+v\nwant\n%+v", got, want)
	}
	if n, err := g.OOMKills(); n != 2 || err != nil {
		t.Errorf("OOMKills = %d, %v", n, err)
	}
}

func TestLimitWithoutItsControllerIsAnError(t *testing.T) {
	tree, _ := fakeV2(t, "cpu io pids")
	err := tree.group("podd/burstable/podu1/c1").Set(Limits{MemoryBytes: 1 << 20})
	want := `cannot limit memory of cgroup podd/burstable/podu1/c1: cgroup controller "memory" is not available on this machine; boot with cgroup_enable=memory, or mount its hierarchy`
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

func TestLayoutIsFoundInTheMountTable(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpuset cpu io memory pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const root = "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
	v2 := "41 31 0:38 / " + dir + " rw,relatime - cgroup2 cgroup2 rw\n"
	v1 := "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n" +
		"35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
	for _, c := range []struct {
		name, mounts string
		version      Version
		want         []hierarchy
		problem      string
	}{
		{"v2", root + v2, V2, []hierarchy{{dir, []string{"cpu", "io", "memory", "pids"}, true}}, ""},
		{"v1, controllers that share a mount counted once", root + v1, V1,
			[]hierarchy{{"/sys/fs/cgroup/cpu,cpuacct", []string{"cpu", "cpuacct"}, false}, {"/sys/fs/cgroup/memory", []string{"memory"}, false}}, ""},
		{"hybrid, and a second mount of a hierarchy elsewhere",
			"30 27 0:30 / /srv/other rw - cgroup cgroup rw,memory\n" + v1 + v2, Hybrid,
			[]hierarchy{{dir, []string{"cpu", "io", "memory", "pids"}, true},
				{"/sys/fs/cgroup/cpu,cpuacct", []string{"cpu", "cpuacct"}, false}, {"/sys/fs/cgroup/memory", []string{"memory"}, false}}, ""},
		{"a name without controllers is not v1", v2 + "35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n", V2,
			[]hierarchy{{dir, []string{"cpu", "io", "memory", "pids"}, true}}, ""},
		{"none", root, 0, nil, "no cgroup file system is mounted; mount one with: mount -t cgroup2 none /sys/fs/cgroup"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "mountinfo")
			if err := os.WriteFile(file, []byte(c.mounts), 0o644); err != nil {
				t.Fatal(err)
			}
			got, version, err := detect(file)
			if fmt.Sprint(err) != c.problem && (err != nil || c.problem != "") {
				t.Fatalf("error %v, want %q", err, c.problem)
			}
			if version != c.version || !reflect.DeepEqual(got, c.want) {
				t.Errorf("detect = %v, %+v\nwant %v, %+v", version, got, c.version, c.want)
			}
		})
	}
}

// The v2 hierarchy of a hybrid machine may offer a controller that v1 does not
// use; then the real kernel shows how controllers are handed down.
func TestV2ControllersOnTheRealKernel(t *testing.T) {
	kerneltest.Root(t)
	hiers, _, err := detect("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	kerneltest.Need(t, hiers[0].unified, "a cgroup v2 hierarchy")
	available, err := readFile(hiers[0].dir, "cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	// Not those that threads can have apart from their process: for them a group
	// may hold both processes and children.
	fields := slices.DeleteFunc(strings.Fields(available), func(c string) bool {
		return !slices.Contains([]string{"memory", "io", "hugetlb"}, c)
	})
	kerneltest.Need(t, len(fields) > 0, "a controller of whole processes in the v2 hierarchy")
	before, err := readFile(hiers[0].dir, "cgroup.subtree_control")
	if err != nil {
		t.Fatal(err)
	}
	name := fields[0]
	if !slices.Contains(strings.Fields(before), name) {
		t.Cleanup(func() {
			// Other tests' groups may use it by then; that is their right.
			_ = writeFile(hiers[0].dir, "cgroup.subtree_control", "-"+name)
		})
	}
	h := hierarchy{dir: hiers[0].dir, unified: true, controllers: []string{name, "nonesuch"}}
	root := fmt.Sprintf("podd-test-%d-%d/pods", os.Getpid(), time.Now().UnixNano())
	tree, err := open(root, []hierarchy{h}, V2, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		parent := tree.group(filepath.Dir(root))
		if err := parent.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if got := tree.Controllers(); !slices.Equal(got, []string{name}) {
		t.Errorf("Controllers = %v, want only %s", got, name)
	}
	if _, err := tree.Pod(v1.PodQOSGuaranteed, "u1", Limits{}); err != nil {
		t.Fatal(err)
	}
	g, err := tree.Container(v1.PodQOSGuaranteed, "u1", "c1")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := readFile(g.dir(&tree.hiers[0]), "cgroup.controllers"); strings.TrimSpace(got) != name {
		t.Errorf("the container has controllers %q, want %q", got, name)
	}
	start(t, g, "exec sleep 1000")
	if g.Empty() {
		t.Error("a process cloned into the group is not seen")
	}
	// A group with processes of its own cannot hand controllers down.
	if err := enable(g.dir(&tree.hiers[0]), []string{name}); err == nil || !strings.Contains(err.Error(), "processes live in that group itself") {
		t.Errorf("enabling below a group with processes: %v", err)
	}
	if err := tree.RemovePod(t.Context(), "u1"); err != nil {
		t.Error(err)
	}
	if uids, err := tree.Pods(); len(uids) != 0 || err != nil {
		t.Errorf("Pods = %v, %v", uids, err)
	}
}

func TestWeightKeepsTheDefaultAndTheOrder(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, math.MaxUint64: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
	for shares, last := uint64(2), uint64(0); shares < 300000; shares++ {
		w := weight(shares)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("weight(%d) = %d after %d", shares, w, last)
		}
		last = w
	}
}

func TestDeviceRulesThatMakeNoSenseAreRefused(t *testing.T) {
	for _, d := range []Device{
		{Type: 'x', Access: "r"}, {Type: 'c', Access: ""}, {Type: 'c', Access: "rx"}, {Type: 'b', Major: 1 << 33, Access: "r"},
	} {
		if err := d.check(); err == nil {
			t.Errorf("rule %q accepted", d.rule())
		}
	}
}

func FuzzStatFiles(f *testing.F) {
	f.Add("8:0 rbytes=90 wbytes=80 rios=7 wios=6\n")
	f.Add("usage_usec 3\nusage_usec")
	f.Add("12 (a) b) S 1")
	f.Fuzz(func(t *testing.T, text string) {
		parseIO(text)
		keyed(text, "usage_usec")
		if name, rest, ok := splitStat(text); ok && (!strings.Contains(text, "("+name+")") || rest == "") {
			t.Errorf("splitStat(%q) = %q, %q", text, name, rest)
		}
	})
}
