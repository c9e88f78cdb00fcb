package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountsOf lists the mounts that a process sees, without the numbers that change.
func mountsOf(t testing.TB, pid string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("/proc", pid, "mountinfo"))
	must(t, err)
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	must(t, err)
	var lines []string
	for _, m := range mounts {
		kind := "private"
		for tag := range strings.FieldsSeq(m.Optional) {
			kind, _, _ = strings.Cut(tag, ":")
		}
		lines = append(lines, strings.Join([]string{m.Mountpoint, m.Root, m.FSType, m.Source, kind}, " "))
	}
	return strings.Join(lines, "\n")
}

// watched is a file system of the host's of which it is seen when nobody holds
// it any more.
type watched struct {
	t       testing.TB
	dir     string
	inotify *os.File
}

func watch(t testing.TB, name, dir string) *watched {
	t.Helper()
	mountOn(t, name, dir, "tmpfs", 0, "")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	w := &watched{t, dir, os.NewFile(uintptr(fd), "inotify")}
	t.Cleanup(func() { w.inotify.Close() })
	// A watch holds no mount. It is told when the file system ends (inotify(7)).
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_UNMOUNT)
	must(t, err)
	return w
}

// unmount unmounts it, which must succeed.
func (w *watched) unmount() {
	w.t.Helper()
	must(w.t, unix.Unmount(w.dir, 0))
}

// ended says whether the file system ends within the time.
func (w *watched) ended(within time.Duration) bool {
	w.inotify.SetReadDeadline(time.Now().Add(within))
	n, err := w.inotify.Read(make([]byte, 4096))
	return err == nil && n > 0
}

// inItsOwnNamespace runs f on a thread in a mount namespace that follows the
// host's, as systemd makes them for services. The thread dies afterwards, but
// processes that f started stay there.
func inItsOwnNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread dies with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// What is mounted in a pod is seen nowhere else, what is mounted elsewhere is
// not held by pods, except as mountPropagation says. All on a host whose mounts
// are shared, beside a service that follows them.
func TestMountsOnAHostThatSharesThem(t *testing.T) {
	t.Parallel()
	onAnotherHost(t, func(t *testing.T) {
		dir := t.TempDir()
		service := exec.Command("sleep", "1000")
		must(t, inItsOwnNamespace(func() error { return service.Start() }))
		servicePid := strconv.Itoa(service.Process.Pid)
		t.Cleanup(func() { service.Process.Kill(); service.Wait() })

		early := watch(t, "early", filepath.Join(dir, "early"))
		tree := mountOn(t, "tree", filepath.Join(dir, "tree"), "tmpfs", 0, "")
		unmountLater(t, tree)
		below := watch(t, "below", filepath.Join(tree, "below"))
		s := tellIn(t, filepath.Join(dir, "world"), []string{busyboxImage(t)})
		before, beforeService := mountsOf(t, "self"), mountsOf(t, servicePid)

		s.drop("plain", `
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  terminationGracePeriodSeconds: 0
  shareProcessNamespace: true
  containers:
  - {name: app, image: "busybox:1.36", command: [sleep, "1000"]}
  - {name: privileged, image: "busybox:1.36", command: [sleep, "1000"], securityContext: {privileged: true}}
`)
		s.drop("volumes", strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: volumes}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: ram, emptyDir: {medium: Memory}}
  - {name: tree, hostPath: {path: TREE}}
  containers:
  - name: app
    image: busybox:1.36
    command: [sleep, "1000"]
    securityContext: {privileged: true}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: ram, mountPath: /both-ram, mountPropagation: Bidirectional}
    - {name: tree, mountPath: /none}
    - {name: tree, mountPath: /into, mountPropagation: HostToContainer}
    - {name: tree, mountPath: /both, mountPropagation: Bidirectional}
  - name: other
    image: busybox:1.36
    command: [sleep, "1000"]
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: ram, mountPath: /ram, mountPropagation: HostToContainer}
`, "TREE", tree))
		plain, volumes := s.untilReady("plain"), s.untilReady("volumes")
		for container := range containers(plain) {
			// Nothing of the host's, and nothing that travels.
			got := mountsOf(t, strconv.Itoa(s.process(plain, container)))
			if strings.Contains(got, "early") || strings.Contains(got, "tree") || strings.Contains(got, " shared") || strings.Contains(got, " master") {
				t.Errorf("container %s of pod plain sees:\n%s", container, got)
			}
		}

		// The host lets go of what was mounted before the pods came.
		early.unmount()
		if !early.ended(patience) {
			t.Error("a file system of the host's is held although no pod has a volume of it")
		}

		// What a container mounts for itself stays there.
		s.sh("plain", "privileged", "mkdir /m && mount -t tmpfs inside /m")
		s.sh("volumes", "app", "mkdir -p /disk/m /none/m /into/m && for d in disk none into; do mount -t tmpfs inside /$d/m; done")
		for who, pid := range map[string]string{
			"the host": "self", "a service of the host": servicePid, "another pod": strconv.Itoa(s.process(plain, "app")),
			"another container of the pod": strconv.Itoa(s.process(volumes, "other")),
		} {
			if got := mountsOf(t, pid); strings.Contains(got, "inside") {
				t.Errorf("%s sees what a container mounted:\n%s", who, got)
			}
		}
		if got := mountsOf(t, strconv.Itoa(s.process(volumes, "app"))); strings.Count(got, " tmpfs inside ") != 3 {
			t.Errorf("the container itself sees:\n%s", got)
		}

		// From the host: seen where it may travel, in both ways that let it.
		mountOn(t, "late", filepath.Join(tree, "late"), "tmpfs", 0, "")
		app := strconv.Itoa(s.process(volumes, "app"))
		for at, want := range map[string]bool{"/none": false, "/into": true, "/both": true} {
			if got := strings.Contains(mountsOf(t, app), at+"/late / tmpfs late"); got != want {
				t.Errorf("a mount of the host's is seen below %s: %t", at, got)
			}
		}
		must(t, unix.Unmount(filepath.Join(tree, "late"), 0))

		// To the host, and to containers that follow the volume.
		s.sh("volumes", "app", "mkdir /both/up /both-ram/up && mount -t tmpfs upward /both/up && mount -t tmpfs upward /both-ram/up")
		for who, pid := range map[string]string{"the host": "self", "a service of the host": servicePid} {
			if got := mountsOf(t, pid); strings.Count(got, " tmpfs upward ") != 2 {
				t.Errorf("%s does not see both mounts of the container:\n%s", who, got)
			}
		}
		if got := mountsOf(t, strconv.Itoa(s.process(volumes, "other"))); !strings.Contains(got, "/ram/up / tmpfs upward") {
			t.Errorf("the other container sees:\n%s", got)
		}
		s.sh("volumes", "app", "umount /both/up") // the other one is left for the pod's removal

		// As in Kubernetes, only the mount without propagation holds what lay there
		// when the container started.
		below.unmount()
		if got := mountsOf(t, app); strings.Contains(got, "/into/below") || strings.Contains(got, "/both/below") {
			t.Errorf("it is still mounted where it may travel:\n%s", got)
		}
		if below.ended(100 * time.Millisecond) {
			t.Error("the mount without propagation did not keep it: the next check shows nothing")
		}
		s.remove("volumes")
		s.remove("plain")
		if !below.ended(patience) {
			t.Error("a removed pod still holds a file system")
		}
		s.eventually("nothing is left of the pods", func() bool { return s.things() == "" })
		// But for what the test itself took away, and what others do on this machine.
		ours := func(text string) string {
			var lines []string
			for line := range strings.SplitSeq(text, "\n") {
				if strings.HasPrefix(line, dir) && !strings.Contains(line, " early ") && !strings.Contains(line, " below ") {
					lines = append(lines, line)
				}
			}
			return strings.Join(lines, "\n")
		}
		for who, mounts := range map[string][2]string{
			"the host": {before, mountsOf(t, "self")}, "the service": {beforeService, mountsOf(t, servicePid)},
		} {
			if ours(mounts[0]) != ours(mounts[1]) {
				t.Errorf("mounts of %s before:\n%s\nafter:\n%s", who, ours(mounts[0]), ours(mounts[1]))
			}
		}
	})
}

// An agent with PrivateTmp and the like is refused, with the cause.
func TestAgentInANamespaceThatFollowsIsRefused(t *testing.T) {
	t.Parallel()
	onAnotherHost(t, func(t *testing.T) {
		w, err := newWorld(t.TempDir())
		must(t, err)
		defer w.leave()
		must(t, inItsOwnNamespace(func() error {
			made := w.command("run", "--read-only-port", "0")
			out, err := made.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "PrivateTmp") || !strings.Contains(string(out), "mount namespace of its own") {
				t.Errorf("podd run: %v\n%s", err, out)
			}
			out, err = w.command("doctor").CombinedOutput()
			if err == nil || !strings.Contains(string(out), "PrivateTmp") {
				t.Errorf("podd doctor: %v\n%s", err, out)
			}
			return nil
		}))
	})
}
