package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"podd/internal/testimage"
)

// crashWork is what the process that will be killed does: open, load, pull.
func crashWork(root, archive, ref string) error {
	s, err := Open(Config{Root: root, AuthFiles: []string{}, CertDirs: []string{}})
	if err != nil {
		return err
	}
	if _, err := s.Load(context.Background(), archive, LoadOptions{}); err != nil {
		return err
	}
	_, err = s.Pull(context.Background(), ref, PullOptions{})
	return err
}

// A process that is killed at any moment leaves no half layer and no half image,
// and the next one completes what it began.
func TestKilledAtAnyMoment(t *testing.T) {
	f := plainRegistry(t)
	pulled := testimage.Extend(t, noisy(t, 2_000_000), testimage.File("etc/x", 0, "x"))
	push(t, f.host+"/app:1", pulled)
	var files []testimage.Entry
	for i := range 300 {
		files = append(files, testimage.File(fmt.Sprintf("d%d/f%d", i%7, i), 0, strings.Repeat("text", i)))
	}
	loaded := testimage.Extend(t, stacked(t, 3), files...)
	archive := testimage.Archive(t, loaded, "loaded:1")

	start := func(root string) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", "crash-work", root, archive, f.host+"/app:1")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	testStore(t) // or skip
	began := time.Now()
	if err := start(t.TempDir()).Wait(); err != nil {
		t.Fatalf("undisturbed: %v", err)
	}
	whole := time.Since(began)
	const rounds = 14
	root := t.TempDir()
	complete := 0
	for i := range rounds {
		if i%5 == 4 {
			root = t.TempDir() // mostly it goes on where the last was killed
		}
		cmd := start(root)
		time.Sleep(whole * time.Duration(i+1) / rounds)
		cmd.Process.Kill()
		cmd.Wait()
		var s *Store
		waitFor(t, func() bool { // unpacking processes notice the death by themselves
			s = reopen(t, root)
			rest, err := os.ReadDir(s.layerTmp())
			if err != nil {
				t.Fatal(err)
			}
			return len(rest) == 0
		})
		checkDisk(t, s)
		list, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range list {
			complete++
			at := rootfs(t, s, &img, t.TempDir(), false)
			want := map[string]string{"etc/x": "x"}
			if img.ID == imageID(t, loaded) {
				want = map[string]string{"d6/f6": strings.Repeat("text", 6), "d5/f299": strings.Repeat("text", 299), "last": "2"}
			}
			for path, content := range want {
				if got := read(t, at, path); got != content {
					t.Errorf("%s has %q", path, got)
				}
			}
		}
	}
	t.Logf("%d complete images seen in %d rounds of up to %v", complete, rounds, whole)
	if err := start(root).Wait(); err != nil {
		t.Errorf("undisturbed at last: %v", err)
	}
	if list, err := reopen(t, root).List(); err != nil || len(list) != 2 {
		t.Errorf("at last there are %v (%v)", list, err)
	}
}

// What a crash between two steps of a commit leaves, made by hand.
func TestOpenRemovesWhatBelongsToNobody(t *testing.T) {
	root := t.TempDir()
	s := testStore(t, func(c *Config) { c.Root = root })
	img := load(t, s, stacked(t, 2), "app:1")
	for _, path := range []string{"layers/77/etc", "layers/tmp/dead/0/etc"} {
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	work, err := s.newWorkplace()
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, root)
	if exists(s.layerDir(77)) || exists(filepath.Join(root, "layers/tmp/dead")) {
		t.Error("what nobody owns is still there")
	}
	if !exists(work.dir) {
		t.Error("the workplace of a living process was removed")
	}
	work.close()
	rootfs(t, s, img, t.TempDir(), false)
	if err := os.RemoveAll(s.layerDir(2)); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, root)
	if _, err := s.Rootfs(t.Context(), img, t.TempDir(), false); !errors.Is(err, ErrNotFound) {
		t.Errorf("an image whose layer vanished: %v", err)
	}
	load(t, s, stacked(t, 2), "app:1")
	checkDisk(t, s)
}

func TestSeveralProcessesLoadAtOnce(t *testing.T) {
	root := t.TempDir()
	s := testStore(t, func(c *Config) { c.Root = root })
	f := plainRegistry(t)
	push(t, f.host+"/app:1", stacked(t, 3))
	var group sync.WaitGroup
	for i := range 4 {
		archive := testimage.Archive(t, testimage.Extend(t, stacked(t, 3), testimage.File("mine", 0, fmt.Sprint(i))), fmt.Sprintf("app:%d", i))
		group.Go(func() {
			out, err := exec.Command("/proc/self/exe", "crash-work", root, archive, f.host+"/app:1").CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v: %s", i, err, out)
			}
		})
	}
	group.Wait()
	list, err := s.List()
	if err != nil || len(list) != 5 {
		t.Errorf("there are %d images (%v), want 5", len(list), err)
	}
	for i := range 4 {
		img, err := s.Find(fmt.Sprintf("app:%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, rootfs(t, s, img, t.TempDir(), false), "mine"); got != fmt.Sprint(i) {
			t.Errorf("image %d has %q", i, got)
		}
	}
	checkDisk(t, s)
}

// A damaged index is reported; a damaged image counts as absent and comes again.
func TestDamageOnDisk(t *testing.T) {
	root := t.TempDir()
	s := testStore(t, func(c *Config) { c.Root = root })
	img := load(t, s, stacked(t, 2), "app:1")
	config := filepath.Join(s.blobDir(), strings.TrimPrefix(img.ID, "sha256:"))
	info, err := os.Stat(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, make([]byte, info.Size()), 0o644); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, root)
	if _, err := s.Find("app:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a damaged image is found: %v", err)
	}
	load(t, s, stacked(t, 2), "app:1")
	if err := os.WriteFile(s.indexFile(), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("app:1"); err == nil || !strings.Contains(err.Error(), "cannot read the image index") {
		t.Errorf("a damaged index: %v", err)
	}
	s = reopen(t, root)
	if img, err = s.Find(img.ID); err != nil || len(img.Names) != 0 {
		t.Errorf("after a damaged index the image is %+v (%v), want it without name", img, err)
	}
	rootfs(t, s, img, t.TempDir(), false)
	load(t, s, stacked(t, 2), "app:1")
	checkDisk(t, s)
}

func TestDamagedLayerIsFetchedAgain(t *testing.T) {
	f := plainRegistry(t)
	img := noisy(t, 10_000)
	push(t, f.host+"/app:1", img)
	blob, size := topBlob(t, img)
	s := testStore(t)
	damaged := filepath.Join(s.blobDir(), strings.TrimPrefix(blob, "/blobs/sha256:"))
	if err := os.WriteFile(damaged, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := s.Pull(t.Context(), f.host+"/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rootfs(t, s, got, t.TempDir(), false)
}

func TestRootDirectoryOnOverlayIsRefused(t *testing.T) {
	s := testStore(t)
	at := rootfs(t, s, load(t, s, stacked(t, 1), "app:1"), t.TempDir(), false)
	_, err := Open(Config{Root: filepath.Join(at, "podd")})
	if err == nil || !strings.Contains(err.Error(), "lies on overlayfs") {
		t.Errorf("open gives %v", err)
	}
}
