package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// imageStore mounts file systems with one file, called like their image's id.
type imageStore struct {
	names  map[string]string // reference → id
	mounts int
}

func (s *imageStore) find(ref string) (string, func() (*os.File, error), error) {
	id, ok := s.names[ref]
	if !ok {
		return "", nil, errors.New("image not found")
	}
	return id, func() (*os.File, error) {
		s.mounts++
		return detachedTmpfs(id)
	}, nil
}

func detachedTmpfs(file string) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	mount := os.NewFile(uintptr(fd), "image")
	for _, dir := range []string{"dir", "dir/below"} {
		if err := unix.Mkdirat(fd, dir, 0o755); err != nil {
			mount.Close()
			return nil, err
		}
	}
	made, err := unix.Openat(fd, "dir/"+file, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		mount.Close()
		return nil, err
	}
	return mount, unix.Close(made)
}

func TestImageVolumeIsMountedOnceReadOnlyAndFollowsItsName(t *testing.T) {
	p := newPod(t, false)
	store := &imageStore{names: map[string]string{"site": "sha256:aaaa"}}
	p.Images = store.find
	v := v1.Volume{Name: "site", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "site"}}}
	must(t, Ensure(t.Context(), p, v))
	if store.mounts != 0 {
		t.Error("mounted before a container needs it")
	}
	if !Present(p, v) {
		t.Error("a volume that nobody needs yet is waited for")
	}
	outside := newElsewhere(t)
	content := func(at string) string {
		var names string
		outside.do(func() {
			entries, err := os.ReadDir(at)
			if err != nil {
				t.Error(err)
			}
			for _, e := range entries {
				names += e.Name() + " "
			}
		})
		return names
	}
	one := outside.attach(openTree(t, p, v, at("/a"), "dir"))
	two := outside.attach(openTree(t, p, v, at("/b"), ""))
	if got := content(one); got != "below sha256:aaaa " {
		t.Errorf("the part holds %q", got)
	}
	outside.do(func() {
		for _, file := range []string{filepath.Join(one, "x"), filepath.Join(two, "dir/below/x")} {
			if err := os.WriteFile(file, nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("writing %s: %v, want EROFS", file, err)
			}
		}
	})
	if store.mounts != 1 {
		t.Errorf("mounted %d times for two containers", store.mounts)
	}
	if _, err := Tree(t.Context(), p, v, at("/c"), "absent/part"); err == nil || !strings.Contains(err.Error(), "not in the volume") {
		t.Errorf("a part that is missing: %v", err)
	}
	used, err := MountedImages(filepath.Dir(p.Dir))
	must(t, err)
	if len(used) != 1 || !used["sha256:aaaa"] {
		t.Errorf("mounted images: %v", used)
	}

	store.names["site"] = "sha256:bbbb"
	three := outside.attach(openTree(t, p, v, at("/d"), "dir"))
	if got := content(three); got != "below sha256:bbbb " {
		t.Errorf("after the name moved, a new container sees %q", got)
	}
	if got := content(one); got != "below sha256:aaaa " {
		t.Errorf("after the name moved, the old container sees %q", got)
	}
	if used, err = MountedImages(filepath.Dir(p.Dir)); err != nil || len(used) != 1 || !used["sha256:bbbb"] {
		t.Errorf("mounted images: %v, %v", used, err)
	}

	delete(store.names, "site")
	if _, err := Tree(t.Context(), p, v, at("/e"), ""); err == nil || !strings.Contains(err.Error(), "image not found") {
		t.Errorf("an image that is gone: %v", err)
	}
}
