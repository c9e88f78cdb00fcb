package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

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
