package images

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/klauspost/compress/zstd"

	"podd/internal/testimage"
)

// dockerArchive packs an image as docker does: plain layers, and the second of
// two equal ones as a symbolic link to the first.
func dockerArchive(t *testing.T, img v1.Image, tags string) []byte {
	t.Helper()
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	entries := []testimage.Entry{testimage.File("c0ffee.json", 0, string(config))}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var names, seen []string
	for _, layer := range layers {
		diff, err := layer.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		file := diff.Hex + "-" + string(rune('a'+len(names))) + "/layer.tar"
		names = append(names, `"`+file+`"`)
		if i := slices.Index(seen, diff.Hex); i >= 0 {
			entries = append(entries, testimage.Symlink(file, "../"+strings.Trim(names[i], `"`)))
			seen = append(seen, diff.Hex)
			continue
		}
		seen = append(seen, diff.Hex)
		stream, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		var content bytes.Buffer
		if _, err := content.ReadFrom(stream); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, testimage.File(file, 0, content.String()))
	}
	manifest := `[{"Config":"c0ffee.json","RepoTags":[` + tags + `],"Layers":[` + strings.Join(names, ",") + `]}]`
	return testimage.Tar(t, append(entries, testimage.File("manifest.json", 0, manifest))...)
}

func TestLoadFormats(t *testing.T) {
	img := testimage.Busybox(t, testimage.Files(testimage.File("etc/motd", 0, "hello")))
	twice := testimage.Extend(t, testimage.Extend(t, stacked(t, 1), testimage.File("x", 0, "x")), testimage.File("x", 0, "x"))
	write := func(data []byte) string {
		path := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	zstdOf := func(data []byte) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(data, nil)
	}
	for _, test := range []struct {
		name  string
		path  string
		img   v1.Image
		names []string
	}{
		{"docker archive", testimage.Archive(t, img, "app:1", "example.com/app:2"), img, []string{"app:1", "example.com/app:2"}},
		{"docker archive with plain layers", write(dockerArchive(t, twice, `"app:1"`)), twice, []string{"app:1"}},
		{"docker archive, gzip", write(gzipped(t, dockerArchive(t, twice, `"app:1"`))), twice, []string{"app:1"}},
		{"docker archive, zstd", write(zstdOf(dockerArchive(t, twice, `"app:1"`))), twice, []string{"app:1"}},
		{"OCI layout", testimage.Layout(t, img, "docker.io/library/app:1", "example.com/app:2"), img, []string{"app:1", "example.com/app:2"}},
		{"OCI archive", testimage.OCIArchive(t, img, "example.com/app:1"), img, []string{"example.com/app:1"}},
		{"without a name", testimage.Layout(t, img), img, []string{imageID(t, img)}},
		{"with only a tag", testimage.Layout(t, img, "latest"), img, []string{imageID(t, img)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testStore(t)
			names, err := s.Load(t.Context(), test.path, LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(names)
			if !slices.Equal(names, test.names) {
				t.Errorf("loaded %q, want %q", names, test.names)
			}
			for _, n := range test.names {
				got, err := s.Find(n)
				if err != nil {
					t.Fatal(err)
				}
				if got.ID != imageID(t, test.img) || len(got.RepoDigests) != 0 || got.Loaded != (len(got.Names) > 0) {
					t.Errorf("%s is %+v", n, got)
				}
				rootfs(t, s, got, t.TempDir(), false)
			}
		})
	}
	t.Run("from a stream", func(t *testing.T) {
		s := testStore(t)
		f, err := os.Open(testimage.Archive(t, img, "app:1"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var last Progress
		if names, err := s.LoadStream(t.Context(), f, LoadOptions{Progress: func(p Progress) { last = p }}); err != nil || names[0] != "app:1" {
			t.Errorf("loaded %v (%v)", names, err)
		}
		if last.FetchTotal == 0 || last.Fetched != last.FetchTotal || last.Unpacked != last.UnpackTotal {
			t.Errorf("the last progress is %+v", last)
		}
	})
	t.Run("with a name from the user", func(t *testing.T) {
		s := testStore(t)
		if names, err := s.Load(t.Context(), testimage.Layout(t, img), LoadOptions{Name: "mine"}); err != nil || names[0] != "mine:latest" {
			t.Errorf("loaded %v (%v)", names, err)
		}
	})
	t.Run("several platforms", func(t *testing.T) {
		var index v1.ImageIndex = empty.Index
		for arch, i := range map[string]v1.Image{"s390x": stacked(t, 2), platform().Architecture: img} {
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: i, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
		}
		dir := t.TempDir()
		path, err := layout.Write(dir, empty.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{"io.containerd.image.name": "docker.io/library/multi:1", nameAnnotation: "1"})); err != nil {
			t.Fatal(err)
		}
		s := testStore(t)
		if names, err := s.Load(t.Context(), dir, LoadOptions{}); err != nil || names[0] != "multi:1" {
			t.Fatalf("loaded %v (%v)", names, err)
		}
		if got, err := s.Find("multi:1"); err != nil || got.ID != imageID(t, img) {
			t.Errorf("loaded %+v (%v)", got, err)
		}
	})
}

func TestLoadRefusesWhatItCannotRead(t *testing.T) {
	img := stacked(t, 1)
	damaged := testimage.Layout(t, img, "example.com/app:1")
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(damaged, "blobs/sha256", digest.Hex)
	info, err := os.Stat(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, make([]byte, info.Size()), 0o644); err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) string {
		path := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	escape := testimage.Tar(t, testimage.File("manifest.json", 0, `[{"Config":"../../../etc/passwd","Layers":["/etc/passwd"]}]`),
		testimage.Entry{Header: tar.Header{Name: "layer", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}})
	outward := testimage.Layout(t, img, "example.com/app:1")
	if err := os.Remove(filepath.Join(outward, "blobs/sha256", digest.Hex)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(outward, "blobs/sha256", digest.Hex)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, path, want string }{
		{"a missing file", filepath.Join(t.TempDir(), "none.tar"), "no such file"},
		{"no archive", write([]byte("hello, this is no archive at all")), "no tar archive"},
		{"an empty file", write(nil), "neither index.json nor manifest.json"},
		{"another archive", write(testimage.Tar(t, testimage.File("readme", 0, "x"))), "neither index.json nor manifest.json"},
		{"an empty directory", t.TempDir(), "neither index.json nor manifest.json"},
		{"xz", write([]byte{0xfd, '7', 'z', 'X', 'Z', 0, 0}), "bzip2 or xz"},
		{"a damaged layer", damaged, "wrong content"},
		{"an archive that points outside", write(escape), "cannot read the image's configuration"},
		{"a layout that points outside", outward, "escapes"},
		{"an image of another platform", testimage.Archive(t, testimage.Busybox(t, testimage.Architecture("s390x")), "app:1"), "made for linux/s390x"},
		{"half an archive", write(dockerArchive(t, img, `"app:1"`)[:2000]), "damaged"},
		{"a bad name", write(dockerArchive(t, img, `"App:1"`)), "lower case"},
	} {
		s := testStore(t)
		_, err := s.Load(t.Context(), test.path, LoadOptions{})
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "cannot load "+test.path) {
			t.Errorf("%s: %v; want %q in it", test.name, err, test.want)
		}
		if list, err := s.List(); err != nil || len(list) != 0 {
			t.Errorf("%s: the store has %v (%v)", test.name, list, err)
		}
	}
}

// A layer that cannot be unpacked says which layer and which entry.
func TestHostileImageIsNotLoaded(t *testing.T) {
	s := testStore(t)
	img := testimage.Extend(t, stacked(t, 1), testimage.File("../../etc/evil", 0, "x"))
	_, err := s.Load(t.Context(), testimage.Archive(t, img, "app:1"), LoadOptions{})
	if err == nil || !strings.Contains(err.Error(), "cannot unpack layer 2 of 2") || !strings.Contains(err.Error(), `entry "../../etc/evil"`) {
		t.Errorf("load gives %v", err)
	}
	if names, err := os.ReadDir(s.layerTmp()); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v (%v)", names, err)
	}
}

func TestLoadingANameAgainMovesIt(t *testing.T) {
	s := testStore(t)
	old := load(t, s, stacked(t, 1), "app:1")
	load(t, s, stacked(t, 2), "app:1")
	now, err := s.Find("app:1")
	if err != nil || now.ID == old.ID {
		t.Errorf("app:1 is %+v (%v)", now, err)
	}
	left, err := s.Find(old.ID)
	if err != nil || len(left.Names) != 0 {
		t.Errorf("the old image is %+v (%v), want it without name: a container may use it", left, err)
	}
	load(t, s, stacked(t, 2), "app:1")
	if list, err := s.List(); err != nil || len(list) != 2 {
		t.Errorf("loaded the same again: %v (%v)", list, err)
	}
}
