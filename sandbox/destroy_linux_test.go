package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// Whoever notes the pod's state in the sandbox's directory does so until the end.
func TestASandboxEndsWhileThePodsStateIsNoted(t *testing.T) {
	w := newWorld(t)
	const uid = "noted"
	dir := w.host.dir(uid)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			os.MkdirAll(dir, 0o755)
			os.WriteFile(filepath.Join(dir, "pod.json"), nil, 0o600) // fails where the directory has gone
		}
	}()
	for range 300 {
		must(t, w.host.Destroy(ctxOf(t), uid))
	}
	stop()
	<-ended
	must(t, os.RemoveAll(dir))
}
