package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
	"podd/internal/kubectltest"
)

// TestKubectl runs the scripts of testdata/kubectl with the real kubectl, in each
// version that .ci/kubectl has built. What they expect is what a cluster prints;
// docs/kubectl.md lists where podd differs.
func TestKubectl(t *testing.T) {
	kerneltest.Root(t)
	kerneltest.Busybox(t)
	images := makeImages(t)
	kubectltest.Each(t, func(t *testing.T, k kubectltest.Kubectl) {
		p := scripts("testdata/kubectl", images)
		p.Cmds["terminal"] = cmdTerminal
		prepare := p.Setup
		p.Setup = func(env *testscript.Env) error {
			if err := prepare(env); err != nil {
				return err
			}
			return env.Values["world"].(*world).useKubectl(env, k.Path)
		}
		testscript.Run(t, p)
	})
}

// useKubectl lets a script run kubectl as root of the agent's host: by that name, with
// the kubeconfig that the agent writes. What the script leaves is deleted at its end.
func (w *world) useKubectl(env *testscript.Env, program string) error {
	dir := filepath.Join(w.dir, "bin")
	for _, dir := range []string{dir, filepath.Join(w.dir, "home")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// The shells and copies that a script makes run it too, so it is a program.
	within := fmt.Sprintf("#!/bin/sh\nexec nsenter --net=/proc/%d/fd/%d %s \"$@\"\n", os.Getpid(), int(w.host), program)
	w.kubectl = filepath.Join(dir, "kubectl")
	if err := os.WriteFile(w.kubectl, []byte(within), 0o755); err != nil {
		return err
	}
	env.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	env.Setenv("HOME", filepath.Join(w.dir, "home"))
	env.Setenv("KUBECONFIG", filepath.Join(w.dir, "root/kubeconfig"))
	env.Defer(func() {
		if w.agent == nil {
			return
		}
		if out, err := w.kubectlCommand("delete", "pods", "--all", "-A", "--force", "--grace-period=0", "--timeout=20s").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "the pods of %s: %v\n%s", w.dir, err, out)
		}
	})
	return nil
}

// cmdTerminal is "terminal ROWS COLUMNS PROGRAM ARG…": the program has a terminal of
// 24 rows of 80 columns, which becomes one of ROWS and COLUMNS once it has printed
// "ready".
func cmdTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: terminal ROWS COLUMNS PROGRAM ARG…")
	}
	var size unix.Winsize
	_, err := fmt.Sscan(args[0]+" "+args[1], &size.Row, &size.Col)
	ts.Check(err)
	terminal, theirs, err := openTerminal()
	ts.Check(err)
	defer terminal.Close()
	cmd := exec.Command(args[2], args[3:]...)
	if args[2] == "kubectl" {
		cmd = worldOf(ts).kubectlCommand(args[3:]...)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	theirs.Close()
	ts.Check(err)
	var printed strings.Builder
	buf := make([]byte, 4096)
	for resized := false; ; {
		n, err := terminal.Read(buf)
		printed.Write(buf[:n])
		if !resized && strings.Contains(printed.String(), "ready") {
			resized = true
			ts.Check(unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &size))
		}
		if err != nil {
			break // nobody has the other side open any more
		}
	}
	err = cmd.Wait()
	ts.Stdout().Write([]byte(printed.String()))
	if neg != (err != nil) {
		ts.Fatalf("%s: %v\n%s", strings.Join(args[2:], " "), err, printed.String())
	}
}

// openTerminal makes a pseudo-terminal of 24 rows of 80 columns.
func openTerminal() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	err = unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0)
	n, numbered := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err = errors.Join(err, numbered, unix.IoctlSetWinsize(int(ours.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})); err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		ours.Close()
	}
	return ours, theirs, err
}
