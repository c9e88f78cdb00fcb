package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/go-logr/logr"

	"podd/internal/kerneltest"
	"podd/sandbox/cgroup"
)

// Who started the agent in a shell and then installs its unit has it look for
// pods in another place.
func TestAnAgentDoesNotStartBesidePodsInAnotherCgroup(t *testing.T) {
	kerneltest.Root(t)
	runDir := t.TempDir()
	first, second := fmt.Sprintf("podd-test-first-%d", os.Getpid()), fmt.Sprintf("podd-test-second-%d", os.Getpid())
	open := func(root string) (*cgroup.Tree, error) {
		return openCgroups(t.Context(), runDir, root, logr.Discard())
	}
	tree, err := open("/" + first)
	if err != nil {
		t.Fatal(err)
	}
	pause, err := tree.Pause("s1")
	if err != nil {
		t.Fatal(err)
	}
	unified, procs, tasks, err := pause.Files()
	if err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command(kerneltest.Busybox(t), "sleep", "1000")
	if unified != nil {
		defer unified.Close()
		sleep.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(unified.Fd())}
	}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range procs {
		if _, err := f.WriteString(strconv.Itoa(sleep.Process.Pid)); err != nil {
			t.Error(err)
		}
	}
	for _, f := range append(procs, tasks...) {
		f.Close()
	}
	if _, err := open(first); err != nil {
		t.Errorf("the same cgroup again: %v", err)
	}
	if _, err := open(second); err == nil || !strings.Contains(err.Error(), "--cgroup-root "+first) {
		t.Errorf("another cgroup beside a running pod: %v", err)
	}
	sleep.Process.Kill()
	_ = sleep.Wait() // it was killed
	other, err := open(second)
	if err != nil {
		t.Fatalf("another cgroup once the pods are gone: %v", err)
	}
	if tree.Root().Exists() {
		t.Errorf("cgroup %s is left over", first)
	}
	if err := other.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
