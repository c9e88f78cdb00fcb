// Package kubectltest runs tests with real kubectls, which .ci/kubectl builds.
package kubectltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"podd/internal/kerneltest"
)

// Each runs a test once for each kubectl that .ci/kubectl has built: in
// .cache/kubectl, or in $PODD_KUBECTL. make test builds the newest one,
// make test-kubectl all.
func Each(t *testing.T, f func(t *testing.T, k Kubectl)) {
	t.Helper()
	dir := os.Getenv("PODD_KUBECTL")
	if dir == "" {
		dir = filepath.Join(repository(t), ".cache", "kubectl")
	}
	found, err := filepath.Glob(filepath.Join(dir, "kubectl-1.[0-9][0-9]"))
	if err != nil {
		t.Fatal(err)
	}
	kerneltest.Need(t, len(found) > 0, "kubectl (run .ci/kubectl .cache/kubectl 1.37)")
	for _, path := range found {
		t.Run(filepath.Base(path), func(t *testing.T) { f(t, Kubectl{Path: path, Home: t.TempDir()}) })
	}
}

// repository is the directory of the main module, found from the test's own.
func repository(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
	}
}

// Kubectl is one kubectl and the server it talks to.
type Kubectl struct {
	Path string
	Args []string // before those of a command: -s http://127.0.0.1:6443
	Home string   // has its cache of discovery
}

// Run runs a command and returns what it printed, both streams together. It
// reads no configuration of the user who runs the test.
func (k Kubectl) Run(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), k.Path, slices.Concat(k.Args, args)...)
	cmd.Env = append(os.Environ(), "HOME="+k.Home, "KUBECONFIG="+os.DevNull)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}
