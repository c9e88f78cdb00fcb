package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
	"podd/internal/testimage"
)

// onAnotherHost runs a test in a process with mount and UTS namespaces of its
// own, so that it can mount, hide and name what it likes. All mounts there are
// shared, as systemd makes them.
func onAnotherHost(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	kerneltest.Root(t)
	const inside = "PODD_E2E_HOST"
	if os.Getenv(inside) == t.Name() {
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""))
		// Orphans come to us, or the namespaces would outlive the test for as long
		// as somebody else takes to reap them.
		must(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		test(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$", fmt.Sprintf("-test.short=%t", testing.Short()))
	cmd.Env = append(os.Environ(), inside+"="+t.Name(), "PODD_TEST_BIN="+bin)
	// Unsharing also makes every mount private at first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // Pdeathsig follows the thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("it did not run:\n%s", out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mountOn mounts a file system on a directory, which is made.
func mountOn(t testing.TB, source, dir, fsType string, flags uintptr, options string) string {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	if err := unix.Mount(source, dir, fsType, flags, options); err != nil {
		t.Fatalf("mount %s on %s: %v", fsType, dir, err)
	}
	return dir
}

// refused starts an agent that must not start, and returns what it says.
func (w *world) refused(t testing.TB, flags ...string) string {
	t.Helper()
	cmd := w.command(append([]string{"run", "--manifests", filepath.Join(w.dir, "manifests"), "--pod-logs-dir", filepath.Join(w.dir, "logs"),
		"--cgroup-root", w.name, "--read-only-port", "0"}, flags...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, w.inHost(cmd.Start))
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("exit: %v", err)
	}
	return out.String()
}

// ordinary is a pod that uses what pods use: layers, changes in the root file
// system, volumes on disk and in memory, output, a probe, another user.
const ordinary = `
apiVersion: v1
kind: Pod
metadata: {name: ordinary}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: ram, emptyDir: {medium: Memory}}
  containers:
  - name: app
    image: busybox:1.36
    command: [sh, -c, "echo begun; cat /layer/* | wc -l; rm /layer/5; echo changed > /layer/6; echo kept > /disk/a; touch /begun; exec sleep 1000"]
    readinessProbe: {exec: {command: [cat, /begun]}, periodSeconds: 1}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: ram, mountPath: /ram}
    - {name: disk, mountPath: /part, subPath: some/part}
  - name: user
    image: busybox:1.36
    securityContext: {runAsUser: 1000}
    command: [sleep, "1000"]
    volumeMounts:
    - {name: disk, mountPath: /disk}
`

// layeredImage is busybox in so many layers.
func layeredImage(t testing.TB, layers int) string {
	t.Helper()
	img := testimage.Busybox(t)
	for i := range layers - 1 {
		img = testimage.Extend(t, img, testimage.File(fmt.Sprintf("layer/%d", i), 0, fmt.Sprintln(i)))
	}
	return testimage.Archive(t, img, "docker.io/library/busybox:1.36")
}

// ordinaryLife takes the pod through its life: start, the agent's death, a
// restart of a container, removal. That nothing is left is seen by the story.
func (s *story) ordinaryLife(layers int, flags ...string) {
	s.Helper()
	s.drop("ordinary", ordinary)
	p := s.untilReady("ordinary")
	s.killAgent()
	s.start(flags...)
	s.until("^changed$", "exec", "ordinary", "-c", "app", "--", "cat", "/layer/6")
	want := func(script, out string) {
		s.Helper()
		if got := strings.TrimSpace(s.sh("ordinary", "app", script)); got != out {
			s.Errorf("%s: %q, want %q", script, got, out)
		}
	}
	want("test -e /layer/5 || echo removed", "removed")
	want("echo x > /ram/x; echo y > /part/y; cat /ram/x /disk/some/part/y", "x\ny")
	if got := s.sh("ordinary", "user", "cat /disk/a; id -u"); got != "kept\n1000\n" {
		s.Errorf("the user sees %q", got)
	}
	log, err := s.podd("logs", "ordinary", "-c", "app")
	if err != nil || strings.TrimSpace(log) != fmt.Sprintf("begun\n%d", layers-1) {
		s.Errorf("its log is %q, %v", log, err)
	}
	s.crash(p, "app")
	s.eventually("the container is started again", func() bool {
		c := containers(s.pod("ordinary"))["app"]
		return c.RestartCount == 1 && c.Ready
	})
	want("cat /disk/a; test -e /layer/5 || echo removed", "kept\nremoved")
	s.remove("ordinary")
	s.eventually("nothing is left of the pod", func() bool { return s.things() == "" })
}

// Names that overlayfs, mountinfo, patterns and sockets each have an opinion of.
func TestDirectoriesOfAnyName(t *testing.T) {
	t.Parallel()
	const layers = 10
	image := layeredImage(t, layers)
	for _, name := range []string{"with space", `back\slash`, `comma,colon:`, "new\nline", "[a-b]*?{x}", strings.Repeat("long", 60)} {
		t.Run(fmt.Sprintf("%.15q", name), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			tellIn(t, dir, []string{image}).ordinaryLife(layers)
		})
	}
}

// The whole of an agent's directories on each file system, and on one an image of
// as many layers as they have at most.
func TestDirectoriesOnAnyFileSystem(t *testing.T) {
	t.Parallel()
	onAnotherHost(t, func(t *testing.T) {
		layers := 12
		image := layeredImage(t, layers)
		for _, fsType := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
			t.Run(fsType, func(t *testing.T) {
				dir := newFileSystem(t, fsType)
				image, layers := image, layers
				if fsType == "ext4" && !testing.Short() { // not on emulated machines; the images package stacks 127 there
					layers = 127
					image = layeredImage(t, layers)
				}
				tellIn(t, dir, []string{image}).ordinaryLife(layers)
			})
		}
		t.Run("tmpfs without exec, set-id and devices", func(t *testing.T) {
			dir := mountOn(t, "e2e", t.TempDir(), "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "")
			unmountLater(t, dir)
			tellIn(t, dir, []string{image}).ordinaryLife(layers)
		})
		t.Run("overlay is refused", func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"lower", "upper", "work", "world"} {
				must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
			}
			world := mountOn(t, "e2e", filepath.Join(dir, "world"), "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
			unmountLater(t, world)
			w, err := newWorld(world)
			must(t, err)
			defer w.leave()
			if said := w.refused(t); !strings.Contains(said, "which is on overlay") || !strings.Contains(said, "--root-dir") {
				t.Errorf("it says: %s", said)
			}
		})
	})
}

// newFileSystem returns a directory that a new file system of this type is
// mounted on.
func newFileSystem(t testing.TB, fsType string) string {
	t.Helper()
	dir := t.TempDir()
	if fsType == "tmpfs" {
		mountOn(t, "e2e", dir, fsType, 0, "")
	} else {
		mkfs, err := exec.LookPath("mkfs." + fsType)
		kerneltest.Need(t, err == nil, "mkfs."+fsType+" (Debian packages e2fsprogs, xfsprogs, btrfs-progs)")
		disk := filepath.Join(t.TempDir(), "disk")
		must(t, os.WriteFile(disk, nil, 0o600))
		must(t, os.Truncate(disk, 1<<30))
		for _, args := range [][]string{{mkfs, "-q", disk}, {"mount", "-t", fsType, "-o", "loop", disk, dir}} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
	}
	unmountLater(t, dir)
	return dir
}

func unmountLater(t testing.TB, dir string) {
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// On a host that hides processes and has the longest name that there is, with
// few open files and few processes permitted.
func TestHostWithHiddenProcessesALongNameAndSmallLimits(t *testing.T) {
	t.Parallel()
	onAnotherHost(t, func(t *testing.T) {
		const layers = 10
		mountOn(t, "proc", "/proc", "proc", 0, "hidepid=2")
		name := strings.Repeat("h", 60) + ".lan"
		must(t, unix.Sethostname([]byte(name)))
		// Root is not bound by the number of processes, but its pods' users are.
		for resource, most := range map[int]uint64{unix.RLIMIT_NOFILE: 256, unix.RLIMIT_NPROC: 256} {
			must(t, syscall.Setrlimit(resource, &syscall.Rlimit{Cur: most, Max: most}))
		}
		flags := []string{"--hostname-override", ""}
		s := tellIn(t, t.TempDir(), []string{layeredImage(t, layers)}, flags...)
		s.ordinaryLife(layers, flags...)
		s.drop("named", `
apiVersion: v1
kind: Pod
metadata: {name: named}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  containers:
  - name: app
    image: busybox:1.36
    command: [sleep, "1000"]
    env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
`)
		s.untilReady("named")
		if got := s.sh("named", "app", "hostname; echo $NODE"); got != name+"\n"+name+"\n" {
			t.Errorf("host and node are called %q", got)
		}
		s.remove("named")
		s.eventually("nothing is left of the pod", func() bool { return s.things() == "" })
	})
}

// Fewer open files than the agent itself needs: it does not start, and says why.
func TestTooFewOpenFilesAreRefused(t *testing.T) {
	t.Parallel()
	onAnotherHost(t, func(t *testing.T) {
		w, err := newWorld(t.TempDir())
		must(t, err)
		defer w.leave()
		must(t, syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64}))
		if said := w.refused(t); !strings.Contains(said, "at most 64 open files") || !strings.Contains(said, "LimitNOFILE") {
			t.Errorf("it says: %s", said)
		}
	})
}
