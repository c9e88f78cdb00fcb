package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

var pauseBinary string

func TestMain(m *testing.M) {
	if dir := os.Getenv("PODD_TEST_AGENT"); dir != "" {
		os.Exit(agentMain(dir))
	}
	// Orphans of tests come to us, not to a PID 1 that may be slow.
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	dir, err := os.MkdirTemp("", "podd-sandbox-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if pauseBinary, err = kerneltest.Build(dir, "podd/cmd/podd-pause", "-ldflags=-s -w"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// world is a run directory, an image and a cgroup for one test.
type world struct {
	testing.TB
	host   *Host
	run    string
	image  string
	logs   string
	cgroup string // cgroup v2 directory, or empty
	n      int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	kerneltest.Root(t)
	dir := t.TempDir()
	w := &world{TB: t, run: filepath.Join(dir, "run"), image: filepath.Join(dir, "image"), logs: filepath.Join(dir, "logs")}
	must(t, os.MkdirAll(w.logs, 0o755))
	makeImage(t, w.image)
	// In memory, as a run directory is: on a disk's file system, making an exit
	// file takes longer than all else that the agent does for a start.
	must(t, os.MkdirAll(w.run, 0o700))
	must(t, unix.Mount("podd-test", w.run, "tmpfs", 0, "mode=700"))
	t.Cleanup(func() {
		if err := unix.Unmount(w.run, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(root + "/cgroup.procs"); err == nil {
			w.cgroup = filepath.Join(root, "podd-test-"+newID()[:12])
			must(t, os.Mkdir(w.cgroup, 0o755))
			t.Cleanup(func() { removeCgroup(t, w.cgroup) })
			break
		}
	}
	w.open()
	return w
}

func (w *world) open() {
	w.Helper()
	h, err := Open(Config{RunDir: w.run, PauseBinary: pauseBinary, Logger: logr.Discard()})
	must(w, err)
	w.host = h
	w.Cleanup(func() { h.Close() })
}

func removeCgroup(t testing.TB, dir string) {
	os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	deadline := time.Now().Add(10 * time.Second)
	for {
		var dirs []string
		filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			unix.Rmdir(dirs[i])
		}
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("cgroup %s cannot be removed", dir)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// makeImage makes a root file system of busybox.
func makeImage(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o1777))
	b, err := os.ReadFile(kerneltest.Busybox(t))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755))
	for _, a := range []string{"sh", "sleep", "cat", "echo", "ls", "id", "true", "false", "yes", "head", "mount", "grep",
		"stat", "readlink", "seq", "kill", "ps", "hostname", "pwd", "env", "touch", "mkdir", "setsid", "ln", "dd", "stty", "tty", "umask", "wc", "test", "mknod", "nice"} {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", a)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "etc/notexec"), []byte("data"), 0o644))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func cloneTree(t testing.TB, path string) *os.File {
	t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	must(t, err)
	must(t, unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}))
	return os.NewFile(uintptr(fd), path)
}

// leaf makes a cgroup below the world's.
func (w *world) leaf(name string) *Cgroup {
	w.Helper()
	if w.cgroup == "" {
		return nil
	}
	dir := filepath.Join(w.cgroup, name)
	must(w, os.MkdirAll(dir, 0o755))
	f, err := os.Open(dir)
	must(w, err)
	w.Cleanup(func() { f.Close() })
	return &Cgroup{Unified: f}
}

// sandbox makes one and destroys it at the end of the test.
func (w *world) sandbox(change ...func(*Want)) *Sandbox {
	w.Helper()
	want := Want{UID: "uid-" + newID()[:12], ID: newID(), Hostname: "pod-host", Cgroup: w.leaf("pause-" + newID()[:8]), OOMScoreAdj: -998}
	for _, f := range change {
		f(&want)
	}
	w.Cleanup(func() {
		if err := w.host.Destroy(context.Background(), want.UID); err != nil {
			w.Error(err)
		}
	})
	s, err := w.host.Ensure(ctxOf(w), want)
	must(w, err)
	return s
}

func defaultCaps() *specs.LinuxCapabilities {
	set := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
}

func defaultSpec(args ...string) *specs.Spec {
	return &specs.Spec{
		Root: &specs.Root{},
		Process: &specs.Process{
			Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", Capabilities: defaultCaps(),
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			MaskedPaths: []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// request makes a start request for the world's image.
func (w *world) request(args ...string) Start {
	w.Helper()
	w.n++
	name := fmt.Sprintf("c%d", w.n)
	id := newID()
	r := Start{ID: id, Name: name, Spec: defaultSpec(args...), Rootfs: cloneTree(w, w.image), PrivateCgroupNS: true,
		Cgroup: w.leaf("ctr-" + id[:12]), LogPath: filepath.Join(w.logs, name+".log"), Trees: map[int]*os.File{}}
	w.Cleanup(func() {
		r.Rootfs.Close()
		for _, t := range r.Trees {
			t.Close()
		}
	})
	return r
}

func (w *world) start(s *Sandbox, r Start) Started {
	w.Helper()
	st, err := s.Start(ctxOf(w), r)
	must(w, err)
	return st
}

// exit waits for a container's exit.
func (w *world) exit(s *Sandbox, id string) Container {
	w.Helper()
	ctx, cancel := context.WithCancel(ctxOf(w))
	defer cancel()
	var got Container
	err := s.Watch(ctx, func(e Event) {
		if e.ContainerExited.ID == id {
			got = e.ContainerExited
			cancel()
		}
	})
	if got.ID == "" {
		w.Fatalf("no exit of %s was reported: %v", id, err)
	}
	return got
}

// run starts a container, waits for it, and returns its exit and what it wrote.
func (w *world) runOut(s *Sandbox, r Start) (Container, string) {
	w.Helper()
	w.start(s, r)
	c := w.exit(s, r.ID)
	return c, logText(w, r.LogPath)
}

// sh runs a script in a container and returns its output.
func (w *world) sh(s *Sandbox, script string, change ...func(*Start)) string {
	w.Helper()
	r := w.request("/bin/sh", "-c", script)
	for _, f := range change {
		f(&r)
	}
	c, out := w.runOut(s, r)
	if c.Exit.Code != 0 {
		w.Fatalf("script exited with %d: %s", c.Exit.Code, out)
	}
	return out
}

// logText returns the content of a CRI log, joined as its reader would. It waits
// for output that may still be on its way.
func logText(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return criText(t, string(b))
}

func criText(t testing.TB, log string) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.SplitAfterSeq(log, "\n") {
		if line == "" {
			continue
		}
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("no line of a CRI log: %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
			t.Fatalf("bad time in %q", line)
		}
		content := strings.TrimSuffix(f[3], "\n")
		out.WriteString(content)
		if f[2] == "F" {
			out.WriteByte('\n')
		}
	}
	return out.String()
}

func (w *world) exec(s *Sandbox, id string, args ...string) (ExecResult, error) {
	return s.Exec(ctxOf(w), Exec{ID: id, Args: args, OutputLimit: 64 << 10})
}

func (w *world) execOK(s *Sandbox, id string, args ...string) string {
	w.Helper()
	r, err := w.exec(s, id, args...)
	must(w, err)
	if r.ExitCode != 0 {
		w.Fatalf("%q exited with %d: %s", args, r.ExitCode, r.Output)
	}
	return string(r.Output)
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
