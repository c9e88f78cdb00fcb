package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
	"podd/internal/testimage"
)

// stacked makes an image of n layers, not runnable. Each layer has a file of its
// own, all have "last", and every layer but the first hides its predecessor's
// "gone" file.
func stacked(t *testing.T, n int) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: platform().Architecture, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		entries := []testimage.Entry{
			testimage.File(fmt.Sprintf("f%d", i), 0, fmt.Sprint(i)), testimage.File("last", 0, fmt.Sprint(i)),
			testimage.Dir("d/", 0o750), testimage.File(fmt.Sprintf("d/gone%d", i), 0, "x"),
		}
		if i > 0 {
			entries = append(entries, testimage.File(fmt.Sprintf("d/.wh.gone%d", i-1), 0, ""))
		}
		img = testimage.Extend(t, img, entries...)
	}
	return img
}

// load brings an image into the store under a name.
func load(t *testing.T, s *Store, img v1.Image, names ...string) *Image {
	t.Helper()
	loaded, err := s.Load(t.Context(), testimage.Archive(t, img, names...), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Find(loaded[0])
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRootfsOfManyLayers(t *testing.T) {
	for _, n := range []int{1, 3, 127} {
		for _, way := range []string{"as the kernel can", "at once"} {
			t.Run(fmt.Sprintf("%d layers, %s", n, way), func(t *testing.T) {
				s := testStore(t)
				img := load(t, s, stacked(t, n), "example.com/stack:1")
				lower, err := s.lowerNames(img)
				if err != nil || len(lower) != n {
					t.Fatalf("lower directories are %v (%v)", lower, err)
				}
				dir := filepath.Join(t.TempDir(), "c", "app", "0")
				o := overlay{layers: s.layers, lower: lower}
				if o.upper, o.work, err = makeUpper(dir, filepath.Join(s.layers, lower[0])); err != nil {
					t.Fatal(err)
				}
				before := kerneltest.Mounts(t)
				mount, err := o.mount()
				if way == "at once" {
					mount, err = o.mountAtOnce()
				}
				if err != nil {
					t.Fatal(err)
				}
				if after := kerneltest.Mounts(t); !slices.Equal(after, before) {
					t.Errorf("the mount is seen in the host's namespace:\n%s", strings.Join(after, "\n"))
				}
				root := attach(t, mount)
				for i := range n {
					if got := read(t, root, fmt.Sprintf("f%d", i)); got != fmt.Sprint(i) {
						t.Errorf("f%d has %q", i, got)
					}
				}
				if got := read(t, root, "last"); got != fmt.Sprint(n-1) {
					t.Errorf("the file of all layers has %q", got)
				}
				names, err := os.ReadDir(filepath.Join(root, "d"))
				if err != nil || len(names) != 1 || names[0].Name() != fmt.Sprintf("gone%d", n-1) {
					t.Errorf("d has %v (%v)", names, err)
				}
				if err := os.WriteFile(filepath.Join(root, "f0"), []byte("changed"), 0o644); err != nil {
					t.Fatal(err)
				}
				bottom := s.layerDir(1)
				if got := read(t, bottom, "f0"); got != "0" {
					t.Errorf("a write reached the shared layer: %q", got)
				}
			})
		}
	}
}

func TestRootfsKeepsAContainersChanges(t *testing.T) {
	s := testStore(t)
	img := load(t, s, testimage.Busybox(t), "example.com/app:1")
	dir := filepath.Join(t.TempDir(), "uid", "c", "app", "0")
	first := rootfs(t, s, img, dir, false)
	if err := os.WriteFile(filepath.Join(first, "tmp/mine"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(first, "etc/group")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(first, 0); err != nil {
		t.Fatal(err)
	}
	second := rootfs(t, s, img, dir, false)
	if got := read(t, second, "tmp/mine"); got != "kept" {
		t.Errorf("the file is %q", got)
	}
	if exists(filepath.Join(second, "etc/group")) {
		t.Error("a removed file is back")
	}
	other := rootfs(t, s, img, t.TempDir(), false)
	if exists(filepath.Join(other, "tmp/mine")) || !exists(filepath.Join(other, "etc/group")) {
		t.Error("another container sees the changes")
	}
}

func TestRootfsHasTheLooksOfTheLayersRoot(t *testing.T) {
	s := testStore(t)
	root := testimage.Dir("./", 0o711)
	root.Uid, root.Gid = 1000, 2000
	img := load(t, s, testimage.Extend(t, stacked(t, 2), root), "example.com/app:1")
	at := rootfs(t, s, img, t.TempDir(), false)
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil || st.Mode&0o7777 != 0o711 || st.Uid != 1000 || st.Gid != 2000 {
		t.Errorf("the root is %o %d:%d (%v)", st.Mode, st.Uid, st.Gid, err)
	}
}

func TestReadOnlyRootfsCannotBeChanged(t *testing.T) {
	for _, n := range []int{1, 3} {
		s := testStore(t)
		img := load(t, s, stacked(t, n), "example.com/app:1")
		root := rootfs(t, s, img, "", true)
		if got := read(t, root, "last"); got != fmt.Sprint(n-1) {
			t.Errorf("%d layers: last is %q", n, got)
		}
		if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("%d layers: a write gives %v, want read-only file system", n, err)
		}
	}
}

// A directory that a layer has no entry for is not given default looks over
// those of the layers below.
func TestDirectoriesWithoutEntryLookAsBelow(t *testing.T) {
	s := testStore(t)
	tmp := testimage.Dir("tmp/", 0o1777)
	tmp.Uid = 7
	base := testimage.Extend(t, stacked(t, 1), testimage.Dir("./", 0o751), tmp)
	img := load(t, s, testimage.Extend(t, base, testimage.File("tmp/x", 0, "x"), testimage.File("new/y", 0, "y")), "example.com/app:1")
	root := rootfs(t, s, img, t.TempDir(), false)
	for path, want := range map[string]string{"tmp": "1777 7", "new": "755 0", ".": "751 0"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, path), &st); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%o %d", st.Mode&0o7777, st.Uid); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

func TestOpaqueDirectoriesHideTheLayersBelow(t *testing.T) {
	s := testStore(t)
	base := testimage.Extend(t, stacked(t, 1), testimage.File("o/old", 0, ""), testimage.File("kept", 0, ""))
	img := load(t, s, testimage.Extend(t, base, testimage.File("o/.wh..wh..opq", 0, ""), testimage.File("o/new", 0, "")), "example.com/app:1")
	root := rootfs(t, s, img, t.TempDir(), false)
	if exists(filepath.Join(root, "o/old")) || !exists(filepath.Join(root, "o/new")) || !exists(filepath.Join(root, "kept")) {
		t.Errorf("files are:\n%s", tree(t, root))
	}
	all := load(t, s, testimage.Extend(t, base, testimage.File(".wh..wh..opq", 0, ""), testimage.File("only", 0, "")), "example.com/all:1")
	root = rootfs(t, s, all, t.TempDir(), false)
	names, err := os.ReadDir(root)
	if err != nil || len(names) != 1 || names[0].Name() != "only" {
		t.Errorf("below an opaque root are %v (%v)", names, err)
	}
}

func TestLayersAreSharedAndNobodyElsesBusiness(t *testing.T) {
	s := testStore(t)
	base := stacked(t, 2)
	load(t, s, testimage.Extend(t, base, testimage.File("a", 0, "a")), "example.com/a:1")
	load(t, s, testimage.Extend(t, base, testimage.File("b", 0, "b")), "example.com/b:1")
	st, err := s.state()
	if err != nil {
		t.Fatal(err)
	}
	if len(st.unpacked) != 4 {
		t.Errorf("%d layers are unpacked, want the 2 common ones and 2", len(st.unpacked))
	}
	info, err := os.Stat(s.layers)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("layers have mode %v (%v): other users reach their set-id programs and devices", info.Mode(), err)
	}
}

func TestRootfsBelowALongPath(t *testing.T) {
	root := filepath.Join(t.TempDir(), strings.Repeat("long", 40), strings.Repeat("path", 40))
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	s := testStore(t, func(c *Config) { c.Root = root })
	img := load(t, s, stacked(t, 3), "example.com/app:1")
	if got := read(t, rootfs(t, s, img, filepath.Join(root, "upper,with:odd"), false), "last"); got != "2" {
		t.Errorf("last is %q", got)
	}
}
