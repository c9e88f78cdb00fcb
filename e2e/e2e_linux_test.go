package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
// unless both are given; see [kerneltest.Build].
func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "podd-e2e-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// The race detector's runtime would sleep for a second at each exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	for pkg, args := range map[string][]string{"podd/cmd/podd": {"-race"}, "podd/cmd/podd-pause": nil} {
		program, err := kerneltest.Build(dir, pkg, args...)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = filepath.Dir(program)
	}
	return m.Run()
}

func TestScripts(t *testing.T) {
	kerneltest.Root(t)
	kerneltest.Busybox(t)
	testscript.Run(t, scripts("testdata", makeImages(t)))
}

// scripts are the scripts of a directory, each with a world of its own.
func scripts(dir, images string) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			w, err := newWorld(env.WorkDir, filepath.Join(images, "busybox.tar"))
			if err != nil {
				return err
			}
			env.Values["world"] = w
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("IMAGES", images)
			// For what podd does not do alone, such as to tell its exit code.
			env.Setenv("PODD", strings.Join(w.command().Args, " "))
			env.Defer(w.close)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"agent":    cmdAgent,
			"api":      cmdAPI,
			"podd":     cmdPodd,
			"last":     cmdLast,
			"until":    cmdUntil,
			"get":      cmdGet,
			"note":     cmdNote,
			"same":     cmdSame,
			"kill":     cmdKill,
			"lose":     cmdLose,
			"clean":    cmdClean,
			"apply":    cmdApply,
			"host":     cmdHost,
			"follow":   cmdFollow,
			"registry": cmdRegistry,
			"server":   cmdServer,
		},
	}
}
