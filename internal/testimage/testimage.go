// Package testimage makes small container images for tests out of the
// statically linked busybox of the machine (Debian package busybox-static).
//
// An image needs no network and takes a few milliseconds. It has every applet
// as a link, root, app (uid 1000) and nobody as users, the directories that a
// container's mounts need, and /tmp with mode 1777. [Busybox] makes one,
// [Archive] and [Layout] write it where `podd image load` reads it, and
// [Extend] puts further layers on top.
package testimage

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"podd/internal/kerneltest"
)

// Epoch is the modification time of every file that this package makes, so
// that equal images have equal digests.
var Epoch = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// An Option changes one thing of an image.
type Option func(*recipe)

type recipe struct {
	config       v1.Config
	architecture string
	layers       [][]Entry
}

// Cmd sets the image's CMD; an image without it runs sh.
func Cmd(args ...string) Option { return func(r *recipe) { r.config.Cmd = args } }

// Entrypoint sets the image's ENTRYPOINT; without it there is none.
func Entrypoint(args ...string) Option { return func(r *recipe) { r.config.Entrypoint = args } }

// Env adds variables, each as NAME=value.
func Env(vars ...string) Option {
	return func(r *recipe) { r.config.Env = append(r.config.Env, vars...) }
}

// User sets the image's USER, such as "1000", "app" or "1000:1000".
func User(user string) Option { return func(r *recipe) { r.config.User = user } }

// WorkingDir sets the image's WORKDIR.
func WorkingDir(dir string) Option { return func(r *recipe) { r.config.WorkingDir = dir } }

// StopSignal sets the image's STOPSIGNAL, such as "SIGINT".
func StopSignal(signal string) Option { return func(r *recipe) { r.config.StopSignal = signal } }

// Label adds a label.
func Label(key, value string) Option {
	return func(r *recipe) {
		if r.config.Labels == nil {
			r.config.Labels = map[string]string{}
		}
		r.config.Labels[key] = value
	}
}

// Volume adds a VOLUME.
func Volume(path string) Option {
	return func(r *recipe) {
		if r.config.Volumes == nil {
			r.config.Volumes = map[string]struct{}{}
		}
		r.config.Volumes[path] = struct{}{}
	}
}

// Healthcheck sets the image's HEALTHCHECK.
func Healthcheck(check v1.HealthConfig) Option {
	return func(r *recipe) { r.config.Healthcheck = &check }
}

// Architecture says for which machine the image claims to be, in Go's names;
// without it, for this one.
func Architecture(arch string) Option { return func(r *recipe) { r.architecture = arch } }

// Files puts one more layer with these entries on top.
func Files(entries ...Entry) Option {
	return func(r *recipe) { r.layers = append(r.layers, entries) }
}

// Busybox makes an image of busybox-static. The test is skipped, or fails where
// kernel tests are required, if the machine has no busybox.
func Busybox(t testing.TB, opts ...Option) v1.Image {
	t.Helper()
	base, err := busyboxLayer(kerneltest.Busybox(t))
	if err != nil {
		t.Fatalf("cannot make the busybox layer: %v", err)
	}
	r := recipe{architecture: runtime.GOARCH, config: v1.Config{
		Cmd: []string{"sh"},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}}
	for _, opt := range opts {
		opt(&r)
	}
	img, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1), &v1.ConfigFile{
		Architecture: r.architecture,
		OS:           "linux",
		Created:      v1.Time{Time: Epoch},
		Config:       r.config,
		RootFS:       v1.RootFS{Type: "layers"},
	})
	if err != nil {
		t.Fatalf("cannot make a test image: %v", err)
	}
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, base); err != nil {
		t.Fatalf("cannot make a test image: %v", err)
	}
	for _, entries := range r.layers {
		img = Extend(t, img, entries...)
	}
	return img
}

// Extend returns img with one more layer.
func Extend(t testing.TB, img v1.Image, entries ...Entry) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(img, Layer(t, Tar(t, entries...)))
	if err != nil {
		t.Fatalf("cannot add a layer to a test image: %v", err)
	}
	return img
}

// Layer makes a gzip-compressed OCI layer of a tar stream, also of one that is
// no tar stream at all.
func Layer(t testing.TB, stream []byte) v1.Layer {
	t.Helper()
	layer, err := newLayer(stream)
	if err != nil {
		t.Fatalf("cannot make a layer: %v", err)
	}
	return layer
}

func newLayer(stream []byte) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(stream)), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// Entry is one entry of a layer's tar stream. A zero Typeflag means a directory
// if the name ends in a slash, otherwise a regular file; a zero Mode means 0755
// or 0644.
type Entry struct {
	tar.Header
	Content string
}

// File is an entry with a regular file.
func File(path string, mode int64, content string) Entry {
	return Entry{Header: tar.Header{Name: path, Mode: mode}, Content: content}
}

// Dir is an entry with a directory.
func Dir(path string, mode int64) Entry {
	return Entry{Header: tar.Header{Name: path, Mode: mode, Typeflag: tar.TypeDir}}
}

// Symlink is an entry with a symbolic link.
func Symlink(path, target string) Entry {
	return Entry{Header: tar.Header{Name: path, Linkname: target, Typeflag: tar.TypeSymlink}}
}

// Tar writes entries as a tar stream.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	stream, err := writeTar(entries)
	if err != nil {
		t.Fatalf("cannot write a tar stream: %v", err)
	}
	return stream
}

func writeTar(entries []Entry) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(h.Name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if h.ModTime.IsZero() {
			h.ModTime = Epoch
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(e.Content))
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, e.Content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// The base layer is the same for all images of a test binary.
var base struct {
	once  sync.Once
	layer v1.Layer
	err   error
}

func busyboxLayer(busybox string) (v1.Layer, error) {
	base.once.Do(func() {
		var entries []Entry
		if entries, base.err = busyboxFiles(busybox); base.err != nil {
			return
		}
		var stream []byte
		if stream, base.err = writeTar(entries); base.err != nil {
			return
		}
		base.layer, base.err = newLayer(stream)
	})
	return base.layer, base.err
}

func busyboxFiles(busybox string) ([]Entry, error) {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return nil, err
	}
	home := Dir("home/app/", 0o755)
	home.Uid, home.Gid = 1000, 1000
	entries := []Entry{
		Dir("./", 0o755), Dir("bin/", 0o755), Dir("dev/", 0o755), Dir("etc/", 0o755), Dir("home/", 0o755), home,
		Dir("proc/", 0o555), Dir("root/", 0o700), Dir("run/", 0o755), Dir("sbin/", 0o755), Dir("sys/", 0o555),
		Dir("tmp/", 0o1777), Dir("usr/", 0o755), Dir("usr/bin/", 0o755), Dir("usr/sbin/", 0o755),
		Dir("var/", 0o755), Dir("var/log/", 0o755), Dir("var/tmp/", 0o1777),
		File("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"),
		File("etc/group", 0o644, "root:x:0:\napp:x:1000:\nextra:x:2000:app\nnogroup:x:65534:\n"),
		File("bin/busybox", 0o755, string(binary)),
	}
	made := map[string]bool{"bin/busybox": true}
	dirs := map[string]bool{"bin": true, "sbin": true, "usr/bin": true, "usr/sbin": true}
	for _, applet := range append(strings.Fields(string(applets)), "bin/sh", "usr/bin/env") {
		if !dirs[filepath.Dir(applet)] {
			applet = "bin/" + filepath.Base(applet)
		}
		if !made[applet] {
			made[applet] = true
			entries = append(entries, Symlink(applet, "/bin/busybox"))
		}
	}
	return entries, nil
}

// Archive writes img as `docker save` would, under the given names, and returns
// the file's path in a directory that the test removes.
func Archive(t testing.TB, img v1.Image, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	images := map[name.Reference]v1.Image{}
	for _, n := range names {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatalf("cannot write a docker archive: %v", err)
		}
		images[tag] = img
	}
	if len(names) == 0 {
		digest, err := img.Digest()
		if err != nil {
			t.Fatalf("cannot write a docker archive: %v", err)
		}
		ref, err := name.NewDigest("unnamed@" + digest.String())
		if err != nil {
			t.Fatalf("cannot write a docker archive: %v", err)
		}
		images[ref] = img
	}
	if err := tarball.MultiRefWriteToFile(path, images); err != nil {
		t.Fatalf("cannot write a docker archive: %v", err)
	}
	return path
}

// Layout writes img as an OCI image layout, one index entry per name, and
// returns its directory, which the test removes.
func Layout(t testing.TB, img v1.Image, names ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatalf("cannot write an OCI layout: %v", err)
	}
	if len(names) == 0 {
		if err := path.AppendImage(img); err != nil {
			t.Fatalf("cannot write an OCI layout: %v", err)
		}
	}
	for _, n := range names {
		named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": n})
		if err := path.AppendImage(img, named); err != nil {
			t.Fatalf("cannot write an OCI layout: %v", err)
		}
	}
	return dir
}

// OCIArchive writes img as an OCI image layout inside a tar file and returns
// its path in a directory that the test removes.
func OCIArchive(t testing.TB, img v1.Image, names ...string) string {
	t.Helper()
	dir := Layout(t, img, names...)
	path := filepath.Join(t.TempDir(), "oci.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatalf("cannot write an OCI archive: %v", err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatalf("cannot write an OCI archive: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatalf("cannot write an OCI archive: %v", err)
	}
	return path
}
