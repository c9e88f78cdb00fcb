package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// TestMain moves the tests into a mount namespace of their own, so that no mount
// they make or forget reaches the machine.
func TestMain(m *testing.M) {
	const inside = "PODD_VOLUMES_TEST_INSIDE"
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Unsharing also makes every mount private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig follows the thread
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot run the tests in a mount namespace:", err)
		os.Exit(1)
	}
}

// newPod returns a pod with a directory on a mount of the test's own, shared if
// asked. In the end it removes the pod's volumes and fails the test if a mount
// or a directory of them is left.
func newPod(t testing.TB, shared bool) Pod {
	t.Helper()
	kerneltest.Root(t)
	root := t.TempDir()
	if err := unix.Mount("podd-test", root, "tmpfs", 0, "size=256m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Errorf("unmount %s: %v", root, err)
		}
	})
	if shared {
		if err := unix.Mount("", root, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
	}
	before := mountLines(t)
	p := Pod{UID: "u1", Dir: filepath.Join(root, "pods", "u1"), NodeMemoryBytes: 8 << 30}
	if err := os.MkdirAll(p.Dir, 0o750); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if err := Remove(context.Background(), p); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(p.Dir); len(left) > 0 {
			t.Errorf("%s still holds %v", p.Dir, left)
		}
		if after := mountLines(t); !slices.Equal(before, after) {
			t.Errorf("mount table before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
	})
	return p
}

// mountLines is the mount table without the ids, which change.
func mountLines(t testing.TB) []string {
	t.Helper()
	mounts, err := mountTable(nil)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range mounts {
		if kerneltest.OthersMount(t, m.Mountpoint) {
			continue
		}
		lines = append(lines, fmt.Sprint(m.Mountpoint, " ", m.Root, " ", m.FSType, " ", m.Options, " ", strings.HasPrefix(m.Optional, "shared")))
	}
	return lines
}

// elsewhere runs functions, one after the other, in a mount namespace like a
// container's: a copy of the test's that nothing propagates to or from, except
// through what is attached there.
type elsewhere struct {
	t    testing.TB
	work chan func()
}

func newElsewhere(t testing.TB) *elsewhere {
	t.Helper()
	e := &elsewhere{t: t, work: make(chan func())}
	ready := make(chan error)
	// Ends when work is closed, and its thread with it: a thread that is never
	// unlocked is not used again.
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		ready <- err
		for f := range e.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(e.work) })
	return e
}

func (e *elsewhere) do(f func()) {
	done := make(chan struct{})
	e.work <- func() { defer close(done); f() }
	<-done
}

// attach mounts a tree at a new place that only this namespace has it at.
func (e *elsewhere) attach(tree *os.File) string {
	e.t.Helper()
	at := filepath.Join(e.t.TempDir(), "at")
	info, err := tree.Stat()
	if err == nil && info.IsDir() {
		err = os.Mkdir(at, 0o755)
	} else if err == nil {
		err = os.WriteFile(at, nil, 0o644)
	}
	if err == nil {
		e.do(func() {
			err = unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
		})
	}
	tree.Close()
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { e.do(func() { unix.Unmount(at, unix.MNT_DETACH) }) })
	return at
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mode(t testing.TB, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Mode & 0o7777
}
