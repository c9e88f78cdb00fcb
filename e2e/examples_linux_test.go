package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The examples of volumes run as they are, but for the name of the image and the
// directory of the host: what they show is there.
func TestExamplesOfVolumesShowWhatTheySay(t *testing.T) {
	t.Parallel()
	s := tell(t, []string{busyboxImage(t)})
	srv := t.TempDir()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("../manifests", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer("busybox:1.37", "busybox:1.36", "path: /srv/data", "path: "+srv).Replace(string(text))
	}
	s.drop("files", read("files"))
	s.drop("data", read("data"))
	s.untilReady("files")
	s.untilReady("data")
	const files = `./about/labels: app="files"
./about/memory: 32
./all/name: files
./all/password: example
./all/settings/color: green
./login/password: example
./settings/color: green
`
	var saw string
	s.eventually("the files", func() bool {
		saw = s.say("logs", "files")
		return strings.Count(saw, "\n") >= strings.Count(files, "\n")
	})
	if saw != files {
		t.Errorf("saw\n%s", saw)
	}
	starts := func(counts string) bool {
		out := s.say("logs", "data")
		return strings.HasPrefix(out, counts) && strings.Contains(out, "release: ") && strings.Contains(out, "tools: bin")
	}
	s.eventually("the first starts", func() bool { return starts("scratch: 1\nwork: 1\nkept: 1\ndisk: 1\n") })
	s.remove("data")
	s.eventually("the pod's end", func() bool { _, there := s.pods()["data"]; return !there })
	s.drop("data", read("data"))
	s.untilReady("data")
	s.eventually("what stayed", func() bool { return starts("scratch: 1\nwork: 1\nkept: 2\ndisk: 2\n") })
	t.Log(s.say("get", "pvc,pv"))
	t.Log(s.say("logs", "data"))
}
