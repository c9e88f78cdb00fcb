package images

import (
	"testing"

	"podd/internal/testimage"
)

func TestPullFromLoopbackRegistryByPlainHTTP(t *testing.T) {
	s := testStore(t)
	host := newRegistry(t)
	img := testimage.Busybox(t, testimage.Files(testimage.File("etc/motd", 0o640, "hello")))
	digest := push(t, host+"/team/app:1", img)
	got, err := s.Pull(t.Context(), host+"/team/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != imageID(t, img) || got.Names[0] != host+"/team/app:1" || got.RepoDigests[0] != host+"/team/app@"+digest.String() || got.Loaded {
		t.Errorf("pulled %+v", got)
	}
	root := rootfs(t, s, got, t.TempDir(), false)
	if text := read(t, root, "etc/motd"); text != "hello" {
		t.Errorf("motd is %q", text)
	}
}
