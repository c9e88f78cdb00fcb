package volumes

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/internal/kerneltest"
)

// ofFiles are a volume of each kind, by that kind's directory.
func ofFiles() map[string]v1.Volume {
	volumes := map[string]v1.Volume{}
	for _, v := range []v1.Volume{
		{Name: "v", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}},
		{Name: "v", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{}}},
		{Name: "v", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{}}},
		{Name: "v", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{}}},
	} {
		plugin, _ := filesPlugin(v)
		volumes[plugin] = v
	}
	return volumes
}

var settings = ofFiles()["kubernetes.io~configmap"]

// with says what the pod's volumes of files hold: "name=content", mode 0640.
func (p Pod) with(files ...string) Pod {
	p.Files = func(v1.Volume) (Files, error) {
		all := Files{Files: map[string]File{}}
		for _, f := range files {
			name, content, _ := strings.Cut(f, "=")
			all.Files[name] = File{[]byte(content), 0o640}
		}
		return all, nil
	}
	return p
}

func (p Pod) filesPath(v v1.Volume) string {
	plugin, _ := filesPlugin(v)
	return filepath.Join(p.Dir, "volumes", plugin, v.Name)
}

// shownIn lists a directory as a container sees it: "name=content", sorted,
// directories followed.
func shownIn(t testing.TB, dir string) string {
	t.Helper()
	var all []string
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		at := filepath.Join(dir, e.Name())
		info, err := os.Stat(at)
		must(t, err)
		if info.IsDir() {
			all = append(all, e.Name()+"/("+shownIn(t, at)+")")
			continue
		}
		data, err := os.ReadFile(at)
		must(t, err)
		all = append(all, e.Name()+"="+string(data))
	}
	return strings.Join(all, " ")
}

// hidden lists the names in a volume's root that begin with "..".
func hidden(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestFilesAreWrittenAndFollowTheirSource(t *testing.T) {
	kerneltest.Root(t)
	for plugin, v := range ofFiles() {
		t.Run(plugin, func(t *testing.T) {
			p := newPod(t, false)
			old := unix.Umask(0o077)
			defer unix.Umask(old)
			if Present(p, v) {
				t.Error("present before it was set up")
			}
			must(t, Ensure(t.Context(), p.with("a=1", "dir/b=2", "dir/deep/c=3"), v))
			path := p.filesPath(v)
			if got, want := shownIn(t, path), "a=1 dir/(b=2 deep/(c=3))"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if at, err := os.Readlink(path + "/dir"); at != "..data/dir" {
				t.Errorf("dir is %s, %v", at, err)
			}
			for name, want := range map[string]uint32{"a": 0o640, "dir/deep": 0o755, "..data/.": 0o755} {
				if got := mode(t, filepath.Join(path, name)); got != want {
					t.Errorf("%s has mode %o, want %o", name, got, want)
				}
			}
			if !Present(p, v) {
				t.Error("not present after it was set up")
			}
			// The same again writes nothing.
			before, err := os.Readlink(path + "/..data")
			must(t, err)
			must(t, Ensure(t.Context(), p.with("a=1", "dir/b=2", "dir/deep/c=3"), v))
			if after, _ := os.Readlink(path + "/..data"); after != before {
				t.Error("written again without a change")
			}
			must(t, Ensure(t.Context(), p.with("a=x", "new=4"), v))
			if got, want := shownIn(t, path), "a=x new=4"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if h := hidden(t, path); len(h) != 2 {
				t.Errorf("left in the volume: %v", h)
			}
			must(t, Ensure(t.Context(), p.with(), v))
			if got := shownIn(t, path); got != "" || !Present(p, v) {
				t.Errorf("an empty volume shows %q and is present: %v", got, Present(p, v))
			}
		})
	}
}

func TestFilesThatAreNotKnownAreAnErrorAndKeepWhatIsThere(t *testing.T) {
	kerneltest.Root(t)
	p := newPod(t, false)
	must(t, Ensure(t.Context(), p.with("a=1"), settings))
	missing := errors.New(`configmap "x" not found`)
	p.Files = func(v1.Volume) (Files, error) { return Files{}, missing }
	if err := Ensure(t.Context(), p, settings); err != missing {
		t.Errorf("got %v, want the error as it is", err)
	}
	if got := shownIn(t, p.filesPath(settings)); got != "a=1" {
		t.Errorf("the volume shows %q", got)
	}
}

func TestSecretFilesAreNeverOnADisk(t *testing.T) {
	kerneltest.Root(t)
	for plugin, v := range ofFiles() {
		p := newPod(t, false).with("a=1")
		must(t, Ensure(t.Context(), p, v))
		root, err := openFiles(p, v)
		must(t, err)
		var st unix.Statfs_t
		must(t, unix.Fstatfs(int(root.Fd()), &st))
		mounted, err := mountRoot(root)
		root.Close()
		if own := mounted && st.Type == unix.TMPFS_MAGIC; err != nil || own != (v.ConfigMap == nil) {
			t.Errorf("%s has memory of its own: %v, %v", plugin, own, err)
		}
		must(t, Remove(t.Context(), p))
		if Present(p, v) {
			t.Errorf("%s: present after removal", plugin)
		}
	}
}

func TestFSGroupCanReadFiles(t *testing.T) {
	kerneltest.Root(t)
	group := int64(2000)
	for plugin, v := range ofFiles() {
		p := newPod(t, false)
		p.FSGroup = &group
		p.Files = func(v1.Volume) (Files, error) {
			return Files{Files: map[string]File{"a": {[]byte("1"), 0o400}, "d/b": {[]byte("1"), 0o600}}}, nil
		}
		must(t, Ensure(t.Context(), p, v))
		for name, want := range map[string]uint32{"a": 0o440, "d/b": 0o640, "d": 0o2755} {
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(p.filesPath(v), name), &st))
			if st.Mode&0o7777 != want || st.Gid != 2000 || st.Uid != 0 {
				t.Errorf("%s: %s has mode %o, group %d, want %o, 2000", plugin, name, st.Mode&0o7777, st.Gid, want)
			}
		}
	}
}

func TestFilesAreReadOnlyWhateverTheMountSays(t *testing.T) {
	kerneltest.Root(t)
	p := newPod(t, false).with("a=1")
	must(t, Ensure(t.Context(), p, settings))
	tree := openTree(t, p, settings, at("/c"), "")
	defer tree.Close()
	fd, err := unix.Openat(int(tree.Fd()), "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != unix.EROFS {
		unix.Close(fd)
		t.Errorf("writing into it: %v, want EROFS", err)
	}
}

// A reader that opens ..data once sees one version, and every reader a whole one.
func TestFilesChangeTogether(t *testing.T) {
	kerneltest.Root(t)
	p := newPod(t, false)
	must(t, Ensure(t.Context(), p.with("a=0", "b=0"), settings))
	tree := openTree(t, p, settings, at("/c"), "")
	defer tree.Close()
	stop, rounds := make(chan struct{}), 0
	var reader sync.WaitGroup
	reader.Go(func() {
		read := func(dir int, name string) (string, error) {
			fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			f := os.NewFile(uintptr(fd), name)
			defer f.Close()
			data, err := io.ReadAll(f)
			return string(data), err
		}
		for {
			select {
			case <-stop:
				return
			default:
			}
			dir, err := unix.Openat(int(tree.Fd()), "..data", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err == unix.ENOENT {
				continue // removed between the link and what it led to, as in Kubernetes
			}
			if err != nil {
				t.Errorf("..data cannot be opened: %v", err)
				return
			}
			a, errA := read(dir, "a")
			b, errB := read(dir, "b")
			unix.Close(dir)
			// A version that is older than the reader may be removed under it.
			if errA == nil && errB == nil && a != b {
				t.Errorf("a of version %q beside b of version %q", a, b)
				return
			}
			rounds++
		}
	})
	for i := range 500 {
		must(t, Ensure(t.Context(), p.with(fmt.Sprintf("a=%d", i), fmt.Sprintf("b=%d", i)), settings))
	}
	close(stop)
	reader.Wait()
	if rounds == 0 {
		t.Error("nothing was read meanwhile")
	}
}

func TestSubPathOfAFileStaysAtItsVersion(t *testing.T) {
	kerneltest.Root(t)
	p := newPod(t, false)
	must(t, Ensure(t.Context(), p.with("a=1"), settings))
	tree := openTree(t, p, settings, at("/a"), "a")
	defer tree.Close()
	must(t, Ensure(t.Context(), p.with("a=2"), settings))
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", tree.Fd()))
	if err != nil || string(data) != "1" {
		t.Errorf("the mounted file has %q, %v, want 1", data, err)
	}
	// A subPath that is missing becomes a directory, and gives way to a file.
	missing := openTree(t, p, settings, at("/b"), "b")
	missing.Close()
	must(t, Ensure(t.Context(), p.with("a=2", "b=3"), settings))
	if got := shownIn(t, p.filesPath(settings)); got != "a=2 b=3" {
		t.Errorf("the volume shows %q", got)
	}
}

func TestWritingFilesCompletesWhatACrashLeft(t *testing.T) {
	kerneltest.Root(t)
	for plugin, v := range ofFiles() {
		p := newPod(t, false)
		must(t, Ensure(t.Context(), p.with("a=1"), v))
		path := p.filesPath(v)
		// Another version was half written, and none is pointed to.
		must(t, os.Mkdir(path+"/..2026_01_02_03_04_05.1", 0o755))
		must(t, os.WriteFile(path+"/..2026_01_02_03_04_05.1/a", []byte("half"), 0o600))
		must(t, os.Symlink("..2026_01_02_03_04_05.1", path+"/..data_tmp"))
		must(t, os.Remove(path+"/..data"))
		if Present(p, v) {
			t.Errorf("%s: present without ..data", plugin)
		}
		must(t, Ensure(t.Context(), p.with("a=2"), v))
		if got, left := shownIn(t, path), hidden(t, path); got != "a=2" || len(left) != 2 {
			t.Errorf("%s: shows %q, holds %v", plugin, got, left)
		}
	}
}

// A privileged container can make its mount writable and put anything into it.
func TestWhatAContainerPutBesideFilesLeadsNowhere(t *testing.T) {
	kerneltest.Root(t)
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/a", []byte("outside"), 0o644))
	p := newPod(t, false)
	must(t, Ensure(t.Context(), p.with("a=1", "d/x=1"), settings))
	path := p.filesPath(settings)
	for _, links := range [][2]string{{"..data", outside}, {"..data_tmp", outside}, {"a", outside + "/a"}, {"d", outside}, {"..2026_x", outside}} {
		must(t, os.RemoveAll(filepath.Join(path, links[0])))
		must(t, os.Symlink(links[1], filepath.Join(path, links[0])))
	}
	must(t, Ensure(t.Context(), p.with("a=2", "d/x=2"), settings))
	if got := shownIn(t, path); got != "a=2 d/(x=2)" {
		t.Errorf("the volume shows %q", got)
	}
	if got := shownIn(t, outside); got != "a=outside" {
		t.Errorf("outside there is %q", got)
	}
}

func TestMountPointsAreMadeInVolumesOfFiles(t *testing.T) {
	kerneltest.Root(t)
	p := newPod(t, false)
	p.Files = func(v1.Volume) (Files, error) {
		return Files{Files: map[string]File{"a": {nil, 0o644}}, MountPoints: []string{"inner/deep"}}, nil
	}
	for range 2 {
		must(t, Ensure(t.Context(), p, settings))
		if got := shownIn(t, p.filesPath(settings)); got != "a= inner/(deep/())" {
			t.Errorf("the volume shows %q", got)
		}
	}
}

func TestFileOfAVolumeIsReadWithinIt(t *testing.T) {
	kerneltest.Root(t)
	p, v := newPod(t, false), onDisk("v")
	must(t, Ensure(t.Context(), p, v))
	path := p.emptyDirPath("v")
	must(t, os.WriteFile(path+"/file", []byte("12345"), 0o600))
	must(t, os.Symlink("file", path+"/inside"))
	must(t, os.Symlink("/etc/passwd", path+"/outside"))
	must(t, unix.Mkfifo(path+"/fifo", 0o600))
	for name, want := range map[string]string{
		"file": "12345", "inside": "12345",
		"outside": "error", "fifo": "error", "../v/file": "error", "/file": "error", ".": "error", "absent": "error",
	} {
		data, err := ReadFile(p, v, name, 5)
		if err != nil {
			data = []byte("error")
		}
		if string(data) != want {
			t.Errorf("%s is read as %q, %v, want %s", name, data, err, want)
		}
		if name == "absent" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a missing file is %v", err)
		}
	}
	if _, err := ReadFile(p, v, "file", 4); err == nil {
		t.Error("a file that is too large is read")
	}
}
