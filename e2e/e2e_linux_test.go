package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"podd/internal/kerneltest"
)

// patience bounds every wait for something that must happen. It is generous:
// a loaded machine is no failure.
const patience = 30 * time.Second

var bin string // directory of podd and podd-pause

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

// buildAndRun builds podd with the race detector and podd-pause as users get it,
// or takes both from the directory that PODD_TEST_BIN names, where nothing can
// be built.
func buildAndRun(m *testing.M) int {
	if bin = os.Getenv("PODD_TEST_BIN"); bin != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "podd-e2e-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	// The race detector's runtime would sleep for a second at each exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	for name, build := range map[string]struct {
		cgo  string
		args []string
	}{
		"podd":       {"1", []string{"-race"}},
		"podd-pause": {"0", nil},
	} {
		args := append([]string{"build"}, build.args...)
		cmd := exec.Command("go", append(args, "-o", filepath.Join(dir, name), "podd/cmd/"+name)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+build.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot build %s: %v\n%s", name, err, out)
			return 1
		}
	}
	return m.Run()
}

func TestScripts(t *testing.T) {
	kerneltest.Root(t)
	kerneltest.Busybox(t)
	images := makeImages(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			w, err := newWorld(env.WorkDir, filepath.Join(images, "busybox.tar"))
			if err != nil {
				return err
			}
			env.Values["world"] = w
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("IMAGES", images)
			env.Defer(w.close)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"agent":    cmdAgent,
			"podd":     cmdPodd,
			"until":    cmdUntil,
			"get":      cmdGet,
			"note":     cmdNote,
			"same":     cmdSame,
			"kill":     cmdKill,
			"clean":    cmdClean,
			"apply":    cmdApply,
			"host":     cmdHost,
			"follow":   cmdFollow,
			"registry": cmdRegistry,
			"server":   cmdServer,
		},
	})
}
