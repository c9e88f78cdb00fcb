package sandbox

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"podd/internal/kerneltest"
)

// maxPauseSize is what podd-pause may have, stripped: it is in memory once per
// machine, but its packages' variables once per pod.
const maxPauseSize = 3 << 20

func TestPauseProgramIsSmallAndImportsLittle(t *testing.T) {
	kerneltest.Need(t, pauseBinary != "", "the Go toolchain")
	st, err := os.Stat(pauseBinary)
	if err != nil || st.Size() > maxPauseSize {
		t.Errorf("podd-pause has %d bytes, at most %d are allowed; %v", st.Size(), maxPauseSize, err)
	}
	cmd := exec.Command("go", "list", "-deps", "podd/cmd/podd-pause")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]bool{"podd/cmd/podd-pause": true, "podd/sandbox/pause": true, "podd/sandbox/stage": true, "podd/sandbox/wire": true,
		"podd/internal/timerslack": true}
	// Each of these drags in reflection or much more, or starts goroutines.
	heavy := map[string]bool{"fmt": true, "log": true, "net": true, "encoding/json": true, "os/exec": true, "os/signal": true, "context": true}
	for p := range strings.FieldsSeq(string(out)) {
		first, _, _ := strings.Cut(p, "/")
		std := !strings.Contains(first, ".") && first != "podd" || first == "vendor"
		if !std && !ours[p] && !strings.HasPrefix(p, "golang.org/x/sys/") {
			t.Errorf("podd-pause imports %s; only the standard library, golang.org/x/sys and its own packages are allowed", p)
		}
		if heavy[p] {
			t.Errorf("podd-pause imports %s, which makes it large", p)
		}
	}
}
