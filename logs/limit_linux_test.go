package logs

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// A user without inotify instances is told which limit it is. The limit is one
// of a user namespace of the test's own.
func TestWithoutInotifyInstancesTheLimitIsNamed(t *testing.T) {
	kerneltest.Root(t)
	const inside = "PODD_LOGS_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		w, err := NewWatcher()
		if err == nil {
			w.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "fs.inotify.max_user_instances") {
			t.Errorf("it says: %v", err)
		}
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inside+"=1")
	ids := []syscall.SysProcIDMap{{HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}
