package native

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/go-logr/logr/testr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"podd/images"
	"podd/internal/kerneltest"
	"podd/internal/testimage"
	"podd/pod/runtimetest"
	"podd/sandbox"
	"podd/sandbox/cgroup"
	"podd/sandbox/network"
)

var pauseBinary string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "unpack-layer" {
		images.UnpackMain()
	}
	os.Exit(buildPause(m))
}

func buildPause(m *testing.M) int {
	dir, err := os.MkdirTemp("", "podd-native-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if pauseBinary, err = kerneltest.Build(dir, "podd/cmd/podd-pause"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// TestRuntimeKeepsItsContract runs the suite that the scripted runtime of the
// stories passes on the real kernel: what stories show holds here too.
func TestRuntimeKeepsItsContract(t *testing.T) {
	kerneltest.Root(t)
	runtimetest.Contract(t, func(t *testing.T) runtimetest.Subject {
		return runtimetest.Subject{
			Runtime: newRuntime(t),
			Image:   "docker.io/library/busybox:1.36",
			Absent:  "localhost:1/nowhere/nothing:1",
		}
	})
}

func newRuntime(t *testing.T) *Runtime {
	dir := t.TempDir()
	log := testr.New(t)
	sandboxes, err := sandbox.Open(sandbox.Config{RunDir: filepath.Join(dir, "run"), PauseBinary: pauseBinary, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("podd-native-%d-%s", os.Getpid(), filepath.Base(filepath.Dir(dir)))
	groups, err := cgroup.Open(root, log)
	if err != nil {
		t.Fatal(err)
	}
	net, err := network.Open(t.Context(), network.Config{
		Bridge: "nativetest0", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")},
		StateDir: filepath.Join(dir, "root", "network"), HostNetNS: hostNetwork(t), Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	store, err := images.Open(images.Config{Root: filepath.Join(dir, "root"), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	archive := testimage.Archive(t, testimage.Busybox(t), "docker.io/library/busybox:1.36")
	if _, err := store.Load(t.Context(), archive, images.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{
		RootDir: filepath.Join(dir, "root"), RunDir: filepath.Join(dir, "run"),
		PodLogsDir: filepath.Join(dir, "logs"), ContainerLogsDir: filepath.Join(dir, "links"),
		NodeName: "node", ClusterDomain: "cluster.local", ResolvConf: "/etc/resolv.conf",
		LogMaxBytes: 10 << 20, LogMaxFiles: 5,
		Sandboxes: sandboxes, Cgroups: groups, Network: net, Images: store, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		uids, err := r.Present(t.Context())
		if len(uids) > 0 || err != nil {
			t.Errorf("left behind: %v, %v", uids, err)
		}
		net.Close()
		sandboxes.Close()
		root, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", root))
		if err != nil {
			t.Error(err)
		}
		direct, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", filepath.Base(groups.Root().Path())))
		for _, group := range append(root, direct...) {
			for _, sub := range []string{"burstable", "besteffort", "podd-pause", ""} {
				os.Remove(filepath.Join(group, sub))
			}
		}
	})
	return r
}

// hostNetwork makes a network namespace to stand for the host's.
func hostNetwork(t *testing.T) *os.File {
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		ns, err := netns.New()
		if err != nil {
			made <- result{nil, err}
			return
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		made <- result{os.NewFile(uintptr(ns), "netns"), err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.file.Close() })
	return r.file
}

func TestSignalByName(t *testing.T) {
	for name, want := range map[string]unix.Signal{
		"SIGTERM": unix.SIGTERM, "QUIT": unix.SIGQUIT, "3": unix.SIGQUIT, "SIGWINCH": unix.SIGWINCH,
		"SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMIN+3": 37, "SIGRTMAX-1": 63, "SIGRTMAX": 64,
		"": 0, "SIGNOTHING": 0, "0": 0, "65": 0, "SIGRTMIN+31": 0,
	} {
		if got := signalByName(name); got != want {
			t.Errorf("%q: signal %d, want %d", name, got, want)
		}
	}
}
