// Package kerneltest tells tests that need the real kernel whether they can run.
//
// A test that cannot run is skipped with the name of what is missing. With
// PODD_KERNEL_TESTS=require in the environment, as `make test` sets it, the same
// lack is a failure: a kernel test that did not run proves nothing.
package kerneltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// Need skips the test, or fails it where kernel tests are required, unless ok.
// what names the missing thing, such as "root" or "overlayfs".
func Need(t testing.TB, ok bool, what string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("PODD_KERNEL_TESTS") == "require" {
		t.Fatalf("this test needs %s, and kernel tests are required here", what)
	}
	t.Skipf("needs %s", what)
}

// Root needs the test to run as root in the host's namespaces.
func Root(t testing.TB) {
	t.Helper()
	Need(t, os.Geteuid() == 0, "root")
}

// Busybox returns the path of a statically linked busybox, the stuff most test
// images are made of (Debian package busybox-static).
func Busybox(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	Need(t, err == nil, "busybox (Debian package busybox-static)")
	return path
}

// Build builds a command of this module into dir, without cgo unless -race asks
// for it, and returns its path. Where nothing can be built, as in a small virtual machine, the directory
// that PODD_TEST_BIN names holds the programs.
func Build(dir, pkg string, args ...string) (path string, err error) {
	if given := os.Getenv("PODD_TEST_BIN"); given != "" {
		return filepath.Join(given, filepath.Base(pkg)), nil
	}
	path = filepath.Join(dir, filepath.Base(pkg))
	build := exec.Command("go", append(append([]string{"build"}, args...), "-o", path, pkg)...)
	cgo := "CGO_ENABLED=0"
	if slices.Contains(args, "-race") {
		cgo = "CGO_ENABLED=1"
	}
	build.Env = append(os.Environ(), cgo)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}
