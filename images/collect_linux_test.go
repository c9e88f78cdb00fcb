package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"podd/internal/testimage"
)

var gcNow = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// unused is an image that was last used so many minutes before gcNow.
func unused(name string, minutes int) Image {
	img := Image{ID: "sha256:" + name, Added: gcNow.Add(-time.Hour * 1000), LastUsed: gcNow.Add(-time.Duration(minutes) * time.Minute)}
	if name != "nameless" {
		img.Names = []string{name + ":1"}
		img.RepoDigests = []string{name + "@sha256:0"}
	}
	return img
}

func TestWhichImagesMayBeCollected(t *testing.T) {
	loaded := unused("loaded", 500)
	loaded.Loaded = true
	nameless := unused("nameless", 400)
	nameless.Loaded = true
	list := []Image{unused("new", 1), unused("edge", 2), unused("old", 300), unused("older", 600), unused("used", 700), unused("named", 800), unused("bydigest", 800), loaded, nameless}
	inUse := func(id string) bool { return id == "sha256:used" }
	named := func(ref string) bool { return ref == "named:1" || ref == "bydigest@sha256:0" }
	var got []string
	for _, img := range collectable(list, GC{}.withDefaults(), gcNow, inUse, named) {
		got = append(got, strings.TrimPrefix(img.ID, "sha256:"))
	}
	if want := "older nameless old edge"; strings.Join(got, " ") != want {
		t.Errorf("may go: %v, want %s", got, want)
	}
}

func TestCollectUntilTheDiskHasRoom(t *testing.T) {
	f := plainRegistry(t)
	nobody := func(string) bool { return false }
	now := time.Now().Add(time.Hour)
	for _, test := range []struct {
		name    string
		gc      GC
		usage   []int // before, and after each removal
		removed string
		fails   string
	}{
		{"below the high threshold nothing goes", GC{}, []int{84}, "", ""},
		{"at it, the least recently used goes first", GC{}, []int{85, 80}, "a", ""},
		{"until the low threshold is reached", GC{}, []int{90, 86, 81, 79}, "a b c", ""},
		{"own thresholds", GC{HighPercent: 50, LowPercent: 40}, []int{50, 45, 40}, "a b", ""},
		{"too little is found", GC{}, []int{99, 98, 97, 96}, "a b c", "the image disk is 96 % full, above 80 %, and removing unused images freed only "},
		{"too young", GC{MinAge: 24 * time.Hour}, []int{99}, "", "freed only 0 bytes"},
		{"too old, on an empty disk", GC{MaxAge: 65 * time.Minute}, []int{10, 10}, "a", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testStore(t)
			for i, n := range []string{"a", "b", "c"} {
				push(t, f.host+"/"+n+":1", stacked(t, i+1))
				img, err := s.Pull(t.Context(), f.host+"/"+n+":1", PullOptions{})
				if err != nil {
					t.Fatal(err)
				}
				backdate(t, s, img.ID, now.Add(-100*time.Minute))
				s.touch(img.ID, now.Add(time.Duration(i-7)*10*time.Minute))
			}
			usage := test.usage
			freed, removed, err := s.Collect(t.Context(), test.gc, now, nobody, nobody, func() (int, error) {
				if len(usage) == 0 {
					t.Fatal("asked for the disk's use once too often")
				}
				percent := usage[0]
				usage = usage[1:]
				return percent, nil
			})
			if (test.fails == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.fails) {
				t.Errorf("error is %v, want %q", err, test.fails)
			}
			var names []string
			for _, r := range removed {
				names = append(names, strings.TrimSuffix(strings.TrimPrefix(r, f.host+"/"), ":1"))
				if _, err := s.Find(r); !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %v", r, err)
				}
			}
			if strings.Join(names, " ") != test.removed || (freed > 0) != (test.removed != "") {
				t.Errorf("removed %v, %d bytes; want %s", names, freed, test.removed)
			}
			for _, n := range []string{"a", "b", "c"} {
				if !slices.Contains(names, n) {
					img, err := s.Find(f.host + "/" + n + ":1")
					if err != nil {
						t.Fatal(err)
					}
					rootfs(t, s, img, t.TempDir(), false) // the layers it shares are still there
				}
			}
			checkDisk(t, s)
		})
	}
}

// backdate makes an image older than it is.
func backdate(t *testing.T, s *Store, id string, added time.Time) {
	t.Helper()
	st, err := s.state()
	if err != nil {
		t.Fatal(err)
	}
	entries := slices.Clone(st.entries)
	for i := range entries {
		if entries[i].id == id {
			entries[i].added = added
		}
	}
	if err := s.writeIndex(entries); err != nil {
		t.Fatal(err)
	}
}

// checkDisk compares what is on disk with what the indexes say: no more, no less.
func checkDisk(t *testing.T, s *Store) {
	t.Helper()
	st, err := s.state()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"empty", "layers.json", "tmp"}
	for _, l := range st.unpacked {
		want = append(want, fmt.Sprint(l.Number))
	}
	for _, img := range st.images {
		for _, chain := range img.Layers {
			if _, ok := st.unpacked[chain.String()]; !ok {
				t.Errorf("image %s lacks layer %s", img.ID, chain)
			}
		}
	}
	entries, err := os.ReadDir(s.layers)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(want, e.Name()) {
			t.Errorf("layers/%s belongs to nobody", e.Name())
		}
	}
	for _, l := range st.unpacked {
		if !exists(s.layerDir(l.Number)) {
			t.Errorf("layer %d is missing", l.Number)
		}
	}
	if rest, err := os.ReadDir(s.layerTmp()); err != nil || len(rest) != 0 {
		t.Errorf("layers under way: %v (%v)", rest, err)
	}
	for _, e := range st.entries {
		manifest, _, err := s.readManifest(e.manifest.Digest)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, d := range append(manifest.Layers, manifest.Config) {
			if !s.haveBlob(d.Digest, d.Size) {
				t.Errorf("image %s lacks blob %s", e.id, d.Digest)
			}
		}
	}
}

func TestRemove(t *testing.T) {
	nobody := func(string) bool { return false }
	s := testStore(t)
	base := stacked(t, 2)
	img := load(t, s, base, "a:1", "b:1")
	other := load(t, s, testimage.Extend(t, base, testimage.File("x", 0, "x")), "c:1")
	if err := s.Remove(img.ID, false, nobody); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "a:1, b:1") {
		t.Errorf("by id, with two names: %v", err)
	}
	if err := s.Remove("a:1", false, nobody); err != nil {
		t.Error(err)
	}
	if _, err := s.Find("a:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a:1: %v", err)
	}
	if err := s.Remove("b:1", false, func(id string) bool { return id == img.ID }); !errors.Is(err, ErrInUse) {
		t.Errorf("in use: %v", err)
	}
	if err := s.Remove("b:1", false, nobody); err != nil {
		t.Error(err)
	}
	if err := s.Remove("b:1", false, nobody); !errors.Is(err, ErrNotFound) {
		t.Errorf("once more: %v", err)
	}
	rootfs(t, s, other, t.TempDir(), false)
	checkDisk(t, s)
	if err := s.Remove(strings.TrimPrefix(other.ID, "sha256:")[:12], true, nil); err != nil {
		t.Error(err)
	}
	if blobs, err := os.ReadDir(s.blobDir()); err != nil || len(blobs) != 0 {
		t.Errorf("blobs left: %v (%v)", blobs, err)
	}
	if st, err := s.state(); err != nil || len(st.unpacked) != 0 {
		t.Errorf("layers left: %v (%v)", st.unpacked, err)
	}
}

func TestPrune(t *testing.T) {
	s := testStore(t)
	old := load(t, s, stacked(t, 1), "a:1")
	now := load(t, s, stacked(t, 2), "a:1")
	used := load(t, s, stacked(t, 3), "b:1")
	inUse := func(id string) bool { return id == used.ID }
	orphan, young := filepath.Join(s.blobDir(), strings.Repeat("ab", 32)), filepath.Join(s.blobDir(), strings.Repeat("cd", 32))
	for _, path := range []string{orphan, young} {
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(orphan, long, long); err != nil {
		t.Fatal(err)
	}
	freed, removed, err := s.Prune(false, inUse)
	if err != nil || freed == 0 || !slices.Equal(removed, []string{old.ID}) {
		t.Errorf("pruned %v, %d bytes (%v)", removed, freed, err)
	}
	if exists(orphan) || !exists(young) {
		t.Error("of blobs without image, those a day old go, and those of a pull under way stay")
	}
	if _, removed, err = s.Prune(true, inUse); err != nil || !slices.Equal(removed, []string{"a:1"}) {
		t.Errorf("pruned all: %v (%v), want %v", removed, err, now.Names)
	}
	if _, err := s.Find("b:1"); err != nil {
		t.Error(err)
	}
	checkDisk(t, s)
}
