package testimage

import (
	"archive/tar"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestBusyboxHasWhatAContainerNeeds(t *testing.T) {
	img := Busybox(t, Cmd("sleep", "1"), Entrypoint("/bin/env"), Env("A=b"), User("app"), WorkingDir("/tmp"), StopSignal("SIGINT"),
		Files(File("etc/motd", 0o600, "hello"), Symlink("etc/link", "motd")))
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; c.Cmd[0] != "sleep" || c.Entrypoint[0] != "/bin/env" || c.User != "app" || c.WorkingDir != "/tmp" ||
		c.StopSignal != "SIGINT" || c.Env[len(c.Env)-1] != "A=b" || len(config.RootFS.DiffIDs) != 2 {
		t.Errorf("config is %+v", config)
	}
	seen := files(t, img)
	for path, mode := range map[string]int64{"tmp": 0o1777, "bin/busybox": 0o755, "etc/passwd": 0o644, "etc/motd": 0o600, "proc": 0o555} {
		if h := seen[path]; h == nil || h.Mode != mode {
			t.Errorf("%s is %+v, want mode %o", path, h, mode)
		}
	}
	for _, path := range []string{"bin/sh", "bin/sleep", "usr/bin/env"} {
		if h := seen[path]; h == nil || h.Linkname != "/bin/busybox" {
			t.Errorf("%s is %+v, want a link to busybox", path, h)
		}
	}
}

func TestEqualImagesHaveEqualDigests(t *testing.T) {
	a, err := Busybox(t, Cmd("a")).Digest()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Busybox(t, Cmd("a")).Digest()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Busybox(t, Cmd("c")).Digest()
	if err != nil {
		t.Fatal(err)
	}
	if a != b || a == c {
		t.Errorf("digests are %s, %s and %s", a, b, c)
	}
}

func TestArchiveAndLayoutHoldTheImage(t *testing.T) {
	img := Busybox(t)
	want, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	fromArchive, err := tarball.ImageFromPath(Archive(t, img, "example.com/a:1", "example.com/b:2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fromArchive.ConfigName(); err != nil || got != want {
		t.Errorf("archive holds %s (%v), want %s", got, err, want)
	}
	index, err := layout.ImageIndexFromPath(Layout(t, img, "example.com/a:1", "example.com/b:2"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 2 || manifest.Manifests[1].Annotations["org.opencontainers.image.ref.name"] != "example.com/b:2" {
		t.Errorf("layout's index is %+v", manifest)
	}
}

func files(t *testing.T, img v1.Image) map[string]*tar.Header {
	t.Helper()
	stream := mutate.Extract(img)
	defer stream.Close()
	seen := map[string]*tar.Header{}
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if err == io.EOF {
			return seen
		}
		if err != nil {
			t.Fatal(err)
		}
		seen[h.Name] = h
	}
}
