package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// The agent notes the pod's state beside the sandbox's files, until after its end.
func TestTheEndOfASandboxLeavesWhatOthersKeep(t *testing.T) {
	w := newWorld(t)
	const uid = "noted"
	dir := w.host.dir(uid)
	note := filepath.Join(dir, "pod.json")
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			os.MkdirAll(dir, 0o755)
			os.WriteFile(note, nil, 0o600) // fails where the empty directory has just gone
		}
	}()
	for range 300 {
		must(t, w.host.Destroy(ctxOf(t), uid))
	}
	stop()
	<-ended
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(note, nil, 0o600))
	must(t, w.host.Destroy(ctxOf(t), uid))
	must(t, os.Remove(note))
	must(t, w.host.Destroy(ctxOf(t), uid))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left, with nothing in it: %v", err)
	}
}
