package volumes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"podd/internal/kerneltest"
)

func onDisk(name string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}
}

func memory(name, limit string) v1.Volume {
	v := onDisk(name)
	v.EmptyDir.Medium = v1.StorageMediumMemory
	if limit != "" {
		q := resource.MustParse(limit)
		v.EmptyDir.SizeLimit = &q
	}
	return v
}

func onHost(path string, kind v1.HostPathType) v1.Volume {
	return v1.Volume{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

func at(path string) v1.VolumeMount { return v1.VolumeMount{MountPath: path} }

func (p Pod) emptyDirPath(name string) string {
	return filepath.Join(p.Dir, "volumes", emptyDirPlugin, name)
}

func openTree(t testing.TB, p Pod, v v1.Volume, m v1.VolumeMount, subPath string) *os.File {
	t.Helper()
	tree, err := Tree(t.Context(), p, v, m, subPath)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestEmptyDirModesAndGroup(t *testing.T) {
	group := int64(2000)
	for _, c := range []struct {
		name    string
		volume  v1.Volume
		fsGroup *int64
		mode    uint32
		gid     uint32
	}{
		{"disk", onDisk("v"), nil, 0o777, 0},
		{"disk with fsGroup", onDisk("v"), &group, 0o2777, 2000},
		{"memory", memory("v", "1Mi"), nil, 0o1777, 0},
		{"memory with fsGroup", memory("v", "1Mi"), &group, 0o3777, 2000},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPod(t, false)
			p.FSGroup = c.fsGroup
			old := unix.Umask(0o077)
			defer unix.Umask(old)
			if Present(p, c.volume) {
				t.Error("present before it was set up")
			}
			must(t, Ensure(t.Context(), p, c.volume))
			var st unix.Stat_t
			must(t, unix.Stat(p.emptyDirPath("v"), &st))
			if st.Mode&0o7777 != c.mode || st.Gid != c.gid || st.Uid != 0 {
				t.Errorf("mode %o uid %d gid %d, want %o 0 %d", st.Mode&0o7777, st.Uid, st.Gid, c.mode, c.gid)
			}
			if !Present(p, c.volume) {
				t.Error("not present after it was set up")
			}
		})
	}
}

func TestSettingUpAgainKeepsContentAndWhatTheWorkloadChanged(t *testing.T) {
	p := newPod(t, false)
	for _, v := range []v1.Volume{onDisk("disk"), memory("mem", "1Mi")} {
		must(t, Ensure(t.Context(), p, v))
		path := p.emptyDirPath(v.Name)
		must(t, os.WriteFile(path+"/kept", []byte("x"), 0o600))
		must(t, os.Chmod(path, 0o700))
		before := mountLines(t)
		must(t, Ensure(t.Context(), p, v))
		if len(mountLines(t)) != len(before) {
			t.Errorf("%s: mounted a second time", v.Name)
		}
		if _, err := os.Stat(path + "/kept"); err != nil || mode(t, path) != 0o700 {
			t.Errorf("%s: content or mode lost: %v, %o", v.Name, err, mode(t, path))
		}
	}
}

func TestSetupCompletesWhatACrashLeft(t *testing.T) {
	p := newPod(t, false)
	// A directory without its name yet, and one whose tmpfs is not there.
	must(t, os.MkdirAll(filepath.Dir(p.emptyDirPath("x"))+"/.disk.new", 0o700))
	must(t, os.MkdirAll(p.emptyDirPath("mem"), 0o777))
	if Present(p, memory("mem", "")) {
		t.Error("a directory without its tmpfs counts as present")
	}
	if _, err := Tree(t.Context(), p, memory("mem", ""), at("/m"), ""); err == nil || !strings.Contains(err.Error(), "nothing is mounted") {
		t.Errorf("mounting it: %v", err)
	}
	for _, v := range []v1.Volume{onDisk("disk"), memory("mem", "1Mi")} {
		must(t, Ensure(t.Context(), p, v))
		if !Present(p, v) {
			t.Errorf("%s is not present", v.Name)
		}
	}
	if got := mode(t, p.emptyDirPath("disk")); got != 0o777 {
		t.Errorf("mode %o, want 777", got)
	}
	// Half of a removal: the mount is gone, the directory not.
	must(t, unix.Unmount(p.emptyDirPath("mem"), 0))
	must(t, Remove(t.Context(), p))
	must(t, Remove(t.Context(), p))
}

func TestMemoryVolumeIsFullAtTheSmallestLimit(t *testing.T) {
	for _, c := range []struct {
		name, limit string
		node, pod   int64
		want        uint64
	}{
		{name: "sizeLimit", limit: "1Mi", node: 8 << 30, pod: 4 << 20, want: 1 << 20},
		{name: "pod memory limit", limit: "8Mi", node: 8 << 30, pod: 2 << 20, want: 2 << 20},
		{name: "node memory", limit: "", node: 3 << 20, want: 3 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPod(t, false)
			p.NodeMemoryBytes, p.PodMemoryLimit = c.node, c.pod
			v := memory("v", c.limit)
			must(t, Ensure(t.Context(), p, v))
			err := os.WriteFile(p.emptyDirPath("v")+"/big", make([]byte, c.want+1), 0o600)
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("writing one byte too much: %v, want ENOSPC", err)
			}
			must(t, os.WriteFile(p.emptyDirPath("v")+"/big", make([]byte, c.want), 0o600))
			u, err := Measure(t.Context(), p, v)
			must(t, err)
			if u.CapacityBytes != c.want || u.UsedBytes != c.want || u.AvailableBytes != 0 || u.InodesUsed != 2 {
				t.Errorf("usage %+v", u)
			}
		})
	}
	if got := tmpfsSize(Pod{}, &v1.EmptyDirVolumeSource{}); got != 0 {
		t.Errorf("size without any limit = %d", got)
	}
}

func TestContainersShareOneMountAndARestartKeepsIt(t *testing.T) {
	p := newPod(t, false)
	v := memory("v", "1Mi")
	must(t, Ensure(t.Context(), p, v))
	a, b := newElsewhere(t), newElsewhere(t)
	inA, inB := a.attach(openTree(t, p, v, at("/a"), "")), b.attach(openTree(t, p, v, at("/b"), ""))
	a.do(func() { must(t, os.WriteFile(inA+"/f", []byte("from a"), 0o600)) })
	b.do(func() {
		if got, err := os.ReadFile(inB + "/f"); string(got) != "from a" {
			t.Errorf("b reads %q, %v", got, err)
		}
	})
	a.do(func() { must(t, unix.Unmount(inA, 0)) })
	again := newElsewhere(t)
	in := again.attach(openTree(t, p, v, at("/a"), ""))
	again.do(func() {
		if got, err := os.ReadFile(in + "/f"); string(got) != "from a" {
			t.Errorf("after a restart: %q, %v", got, err)
		}
	})
}

func TestHostPathTypes(t *testing.T) {
	kerneltest.Root(t)
	dir := t.TempDir()
	file, sub, sock, link := dir+"/file", dir+"/dir", dir+"/sock", dir+"/link"
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	must(t, os.Mkdir(sub, 0o700))
	must(t, os.Symlink("dir", link))
	l, err := net.Listen("unix", sock)
	must(t, err)
	defer l.Close()
	char, block := dir+"/char", dir+"/block"
	must(t, unix.Mknod(char, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(block, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))))

	kinds := map[v1.HostPathType]struct{ ok, what string }{
		v1.HostPathDirectory: {sub, "directory"}, v1.HostPathDirectoryOrCreate: {sub, "directory"},
		v1.HostPathFile: {file, "file"}, v1.HostPathFileOrCreate: {file, "file"},
		v1.HostPathSocket: {sock, "socket file"}, v1.HostPathCharDev: {char, "character device"}, v1.HostPathBlockDev: {block, "block device"},
	}
	for kind, k := range kinds {
		for _, path := range []string{file, sub, sock, char, block, dir + "/missing-" + string(kind)} {
			err := Ensure(t.Context(), Pod{Dir: dir}, onHost(path, kind))
			created := strings.Contains(path, "missing") && strings.HasSuffix(string(kind), "OrCreate")
			if path == k.ok || created {
				if err != nil {
					t.Errorf("%s %s: %v", kind, path, err)
				}
				continue
			}
			want := fmt.Sprintf(`cannot set up volume "host": hostPath type check failed: %s is not a %s`, path, k.what)
			if err == nil || err.Error() != want {
				t.Errorf("%s %s:\n%v\nwant\n%s", kind, path, err, want)
			}
		}
	}
	if got := mode(t, dir+"/missing-DirectoryOrCreate"); got != 0o755 {
		t.Errorf("created directory has mode %o", got)
	}
	if got := mode(t, dir+"/missing-FileOrCreate"); got != 0o644 {
		t.Errorf("created file has mode %o", got)
	}
	must(t, Ensure(t.Context(), Pod{Dir: dir}, onHost(link, v1.HostPathDirectory)))
	must(t, Ensure(t.Context(), Pod{Dir: dir}, onHost(file, v1.HostPathUnset)))
	must(t, Ensure(t.Context(), Pod{Dir: dir}, onHost(dir+"/a/b", v1.HostPathUnset)))
	if got := mode(t, dir+"/a/b"); got != 0o755 {
		t.Errorf("a missing path without type becomes mode %o", got)
	}
	if mode(t, file) != 0o600 || mode(t, sub) != 0o700 {
		t.Error("what was there was changed")
	}
	for _, c := range []struct {
		path string
		kind v1.HostPathType
		want string
	}{
		{dir + "/x/../y", v1.HostPathDirectoryOrCreate, "must not contain '..'"},
		{"relative", v1.HostPathUnset, "expected an absolute path"},
		{"", v1.HostPathUnset, "expected an absolute path"},
		{dir + "/no/parent", v1.HostPathFileOrCreate, "no such file or directory"},
		{dir, "Pipe", `hostPath type "Pipe" is not one of`},
		{file + "/below", v1.HostPathDirectory, "not a directory"},
	} {
		if err := Ensure(t.Context(), Pod{Dir: dir}, onHost(c.path, c.kind)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %s: %v, want %q", c.path, c.kind, err, c.want)
		}
	}
}

func TestHostPathIsMountedAndNeverRemoved(t *testing.T) {
	p := newPod(t, false)
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/data", []byte("host's"), 0o600))
	c := newElsewhere(t)
	in := c.attach(openTree(t, p, onHost(dir, v1.HostPathDirectory), at("/h"), ""))
	file := c.attach(openTree(t, p, onHost(dir+"/data", v1.HostPathFile), at("/f"), ""))
	c.do(func() {
		for _, path := range []string{in + "/data", file} {
			if got, err := os.ReadFile(path); string(got) != "host's" {
				t.Errorf("%s = %q, %v", path, got, err)
			}
		}
	})
	// Gone since it was set up: made again, as runtimes do at every start.
	made := dir + "/made"
	openTree(t, p, onHost(made, v1.HostPathUnset), at("/h"), "").Close()
	if _, err := os.Stat(made); err != nil {
		t.Error(err)
	}
	if _, err := Tree(t.Context(), p, onHost(dir+"/none", v1.HostPathDirectory), at("/h"), ""); err == nil || !strings.Contains(err.Error(), "is not a directory") {
		t.Errorf("missing directory: %v", err)
	}
	must(t, Remove(t.Context(), p))
	if got, err := os.ReadFile(dir + "/data"); string(got) != "host's" {
		t.Errorf("host data after removal: %q, %v", got, err)
	}
}

func TestKindsThatAreNotServedAreNamed(t *testing.T) {
	p := Pod{UID: "u", Dir: t.TempDir()}
	for _, c := range []struct {
		source v1.VolumeSource
		want   string
	}{
		{v1.VolumeSource{Cinder: &v1.CinderVolumeSource{}}, `volume "v": volume kind cinder not supported here; supported: ` + strings.Join(Kinds(), ", ")},
		{v1.VolumeSource{}, `volume "v": a volume without a kind is not supported here; supported: ` + strings.Join(Kinds(), ", ")},
		{v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "HugePages"}}, `volume "v": emptyDir.medium "HugePages" not supported here; supported: "", "Memory"`},
	} {
		v := v1.Volume{Name: "v", VolumeSource: c.source}
		_, treeErr := Tree(t.Context(), p, v, at("/m"), "")
		for _, err := range []error{Ensure(t.Context(), p, v), treeErr} {
			var unsupported *UnsupportedError
			if !errors.As(err, &unsupported) || err.Error() != c.want {
				t.Errorf("error %v\nwant  %s", err, c.want)
			}
		}
		if Present(p, v) {
			t.Error("present")
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", ".hidden", strings.Repeat("x", 64)} {
		if err := Ensure(t.Context(), p, onDisk(name)); err == nil || !strings.Contains(err.Error(), "not a name") {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if err := Ensure(t.Context(), Pod{Dir: "pods/u"}, onDisk("v")); err == nil {
		t.Error("a relative pod directory was accepted")
	}
}

func TestSubPathIsMadeWithTheRootsMode(t *testing.T) {
	p := newPod(t, false)
	v := onDisk("v")
	must(t, Ensure(t.Context(), p, v))
	root := p.emptyDirPath("v")
	must(t, os.Chmod(root, 0o2775|os.ModeSetgid))
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	c := newElsewhere(t)
	in := c.attach(openTree(t, p, v, at("/m"), "a/b//c/./d"))
	for _, dir := range []string{"a", "a/b", "a/b/c", "a/b/c/d"} {
		if got := mode(t, filepath.Join(root, dir)); got != 0o2775 {
			t.Errorf("%s has mode %o, want 2775", dir, got)
		}
	}
	c.do(func() { must(t, os.WriteFile(in+"/f", nil, 0o600)) })
	if _, err := os.Stat(root + "/a/b/c/d/f"); err != nil {
		t.Error(err)
	}
	// Existing parts keep their mode; a file is a fine target.
	must(t, os.Chmod(root+"/a", 0o711))
	file := c.attach(openTree(t, p, v, at("/m"), "a/b/c/d/f"))
	c.do(func() { must(t, os.WriteFile(file, []byte("x"), 0o600)) })
	openTree(t, p, v, at("/m"), "a/new").Close()
	if mode(t, root+"/a") != 0o711 || mode(t, root+"/a/new") != 0o2775 {
		t.Errorf("modes %o, %o", mode(t, root+"/a"), mode(t, root+"/a/new"))
	}
}

func TestSubPathNeverLeavesTheVolume(t *testing.T) {
	p := newPod(t, false)
	v := onDisk("v")
	must(t, Ensure(t.Context(), p, v))
	root := p.emptyDirPath("v")
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/secret", nil, 0o600))
	must(t, os.Mkdir(root+"/in", 0o755))
	must(t, os.WriteFile(root+"/file", nil, 0o600))
	for name, target := range map[string]string{
		"abs": outside, "up": "../../../..", "proc": "/proc/self/root", "nowhere": "missing", "loop": "loop", "good": "in", "deep": "in/../../../..",
	} {
		must(t, os.Symlink(target, filepath.Join(root, name)))
	}
	for _, c := range []struct{ subPath, want string }{
		{"abs", "leads out of the volume"},
		{"abs/secret", "leads out of the volume"},
		{"abs/new", "leads out of the volume"},
		{"up", "leads out of the volume"},
		{"up/etc", "leads out of the volume"},
		{"deep/x", "leads out of the volume"},
		{"proc/etc", "leads out of the volume"},
		{"nowhere", "is a symbolic link to something that is missing"},
		{"nowhere/x", "is a symbolic link to something that is missing"},
		{"loop/x", "too many symbolic links"},
		{"file/x", "a part of it is not a directory"},
		{"/etc", "must be a relative path"},
		{"in/../..", "must not contain '..'"},
		{"..", "must not contain '..'"},
	} {
		tree, err := Tree(t.Context(), p, v, at("/m"), c.subPath)
		if err == nil {
			tree.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("subPath %q: %v, want %q", c.subPath, err, c.want)
		}
	}
	openTree(t, p, v, at("/m"), "good/made").Close()
	if _, err := os.Stat(root + "/in/made"); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 1 {
		t.Errorf("something was made outside: %v", left)
	}
}

// A container swaps a part of the path for a link out of the volume, again and
// again, while others start with that path.
func TestSubPathHoldsAgainstASwapWhileItIsResolved(t *testing.T) {
	p := newPod(t, false)
	v := onDisk("v")
	must(t, Ensure(t.Context(), p, v))
	root := p.emptyDirPath("v")
	outside := t.TempDir()
	var outsideStat unix.Stat_t
	must(t, unix.Stat(outside, &outsideStat))
	must(t, os.MkdirAll(root+"/dir/sub", 0o755))
	must(t, os.Symlink(outside, root+"/link"))
	must(t, os.MkdirAll(outside+"/sub", 0o755))

	defer kerneltest.Swap(t, root+"/dir", root+"/link")()

	var rootStat unix.Stat_t
	must(t, unix.Stat(root, &rootStat))
	opened, refused := 0, 0
	for round := range 1000 {
		subPath := "dir/sub"
		if round%2 == 1 {
			subPath = fmt.Sprintf("dir/sub/new%d/x", round)
		}
		tree, err := Tree(t.Context(), p, v, at("/m"), subPath)
		if err != nil {
			refused++
			continue
		}
		opened++
		var st unix.Stat_t
		must(t, unix.Fstat(int(tree.Fd()), &st))
		if st.Dev != rootStat.Dev {
			t.Fatalf("round %d: the tree is on another file system: outside of the volume", round)
		}
		tree.Close()
	}
	if opened == 0 {
		t.Error("no round got through")
	}
	if entries, _ := os.ReadDir(outside + "/sub"); len(entries) > 0 {
		t.Errorf("made outside of the volume: %v", entries)
	}
	t.Logf("%d opened, %d refused", opened, refused)
}

func TestASwapAfterTheStartChangesNothingForTheContainer(t *testing.T) {
	p := newPod(t, false)
	v := onDisk("v")
	must(t, Ensure(t.Context(), p, v))
	root := p.emptyDirPath("v")
	c := newElsewhere(t)
	in := c.attach(openTree(t, p, v, at("/m"), "sub"))
	must(t, os.Rename(root+"/sub", root+"/moved"))
	must(t, os.Symlink("/etc", root+"/sub"))
	c.do(func() {
		must(t, os.WriteFile(in+"/mark", nil, 0o600))
		if _, err := os.Stat(in + "/passwd"); err == nil {
			t.Error("the container sees the host's /etc")
		}
	})
	if _, err := os.Stat(root + "/moved/mark"); err != nil {
		t.Error(err)
	}
	// Its restart does not get there either.
	if _, err := Tree(t.Context(), p, v, at("/m"), "sub"); err == nil || !strings.Contains(err.Error(), "leads out of the volume") {
		t.Errorf("restart with the swapped path: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	p := newPod(t, false)
	host := t.TempDir()
	must(t, os.Mkdir(host+"/nested", 0o755))
	must(t, unix.Mount("podd-test", host+"/nested", "tmpfs", 0, ""))
	t.Cleanup(func() { unix.Unmount(host+"/nested", unix.MNT_DETACH) })
	must(t, os.WriteFile(host+"/nested/seen", nil, 0o600))
	v := onHost(host, v1.HostPathUnset)
	enabled, ifPossible, disabled := v1.RecursiveReadOnlyEnabled, v1.RecursiveReadOnlyIfPossible, v1.RecursiveReadOnlyDisabled
	for _, c := range []struct {
		name        string
		readOnly    bool
		recursive   *v1.RecursiveReadOnlyMode
		top, nested error
	}{
		{"writable", false, nil, nil, nil},
		{"read-only", true, nil, unix.EROFS, nil},
		{"read-only, recursive disabled", true, &disabled, unix.EROFS, nil},
		{"recursive", true, &enabled, unix.EROFS, unix.EROFS},
		{"recursive if possible", true, &ifPossible, unix.EROFS, unix.EROFS},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := at("/m")
			m.ReadOnly, m.RecursiveReadOnly = c.readOnly, c.recursive
			e := newElsewhere(t)
			in := e.attach(openTree(t, p, v, m, ""))
			e.do(func() {
				if _, err := os.Stat(in + "/nested/seen"); err != nil {
					t.Errorf("the nested mount is not there: %v", err)
				}
				if err := os.WriteFile(in+"/f", nil, 0o600); !errors.Is(err, c.top) {
					t.Errorf("write: %v, want %v", err, c.top)
				}
				if err := os.WriteFile(in+"/nested/f", nil, 0o600); !errors.Is(err, c.nested) {
					t.Errorf("write in the nested mount: %v, want %v", err, c.nested)
				}
			})
			must(t, os.WriteFile(host+"/host-still-writes", nil, 0o600))
		})
	}
}

func TestMountPropagation(t *testing.T) {
	none, slave, shared := v1.MountPropagationNone, v1.MountPropagationHostToContainer, v1.MountPropagationBidirectional
	for _, c := range []struct {
		name             string
		mode             *v1.MountPropagationMode
		toInside, toHost bool
		private          string
	}{
		{"not given", nil, false, false, ""},
		{"None", &none, false, false, ""},
		{"HostToContainer", &slave, true, false, "it is not a shared or slave mount"},
		{"Bidirectional", &shared, true, true, "it is not a shared mount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPod(t, true)
			v := onDisk("v")
			must(t, Ensure(t.Context(), p, v))
			root := p.emptyDirPath("v")
			for _, dir := range []string{"/before", "/later", "/fromcontainer"} {
				must(t, os.Mkdir(root+dir, 0o755))
			}
			must(t, unix.Mount("podd-test", root+"/before", "tmpfs", 0, ""))
			must(t, os.WriteFile(root+"/before/seen", nil, 0o600))
			m := at("/m")
			m.MountPropagation = c.mode
			e := newElsewhere(t)
			in := e.attach(openTree(t, p, v, m, ""))
			must(t, unix.Mount("podd-test", root+"/later", "tmpfs", 0, ""))
			must(t, os.WriteFile(root+"/later/seen", nil, 0o600))
			e.do(func() {
				if _, err := os.Stat(in + "/before/seen"); err != nil {
					t.Errorf("a mount from before the start: %v", err)
				}
				if _, err := os.Stat(in + "/later/seen"); (err == nil) != c.toInside {
					t.Errorf("a later mount of the host: %v, want seen: %v", err, c.toInside)
				}
				must(t, unix.Mount("podd-test", in+"/fromcontainer", "tmpfs", 0, ""))
				must(t, os.WriteFile(in+"/fromcontainer/seen", nil, 0o600))
			})
			if _, err := os.Stat(root + "/fromcontainer/seen"); (err == nil) != c.toHost {
				t.Errorf("the container's mount on the host: %v, want seen: %v", err, c.toHost)
			}
			// The host unmounts: where nothing propagates the container keeps its own.
			must(t, unix.Unmount(root+"/before", 0))
			e.do(func() {
				if _, err := os.Stat(in + "/before/seen"); (err != nil) != c.toInside {
					t.Errorf("after the host unmounted: %v", err)
				}
			})

			// On a private mount nothing could travel, which is said.
			q := newPod(t, false)
			must(t, Ensure(t.Context(), q, v))
			tree, err := Tree(t.Context(), q, v, m, "")
			if err == nil {
				tree.Close()
			}
			if (err != nil) != (c.private != "") || err != nil && (!strings.Contains(err.Error(), c.private) || !strings.Contains(err.Error(), q.emptyDirPath("v"))) {
				t.Errorf("on a private mount: %v, want %q", err, c.private)
			}
		})
	}
	wrong := v1.MountPropagationMode("Sideways")
	p := newPod(t, true)
	must(t, Ensure(t.Context(), p, onDisk("v")))
	if _, err := Tree(t.Context(), p, onDisk("v"), v1.VolumeMount{MountPropagation: &wrong}, ""); err == nil || !strings.Contains(err.Error(), `"Sideways"`) {
		t.Errorf("unknown mode: %v", err)
	}
}

func TestARootDirectoryOnAPrivateMountCanBeShared(t *testing.T) {
	p := newPod(t, false)
	root := filepath.Dir(p.Dir)
	// A volume from before stays reachable.
	must(t, Ensure(t.Context(), p, memory("mem", "1Mi")))
	must(t, os.WriteFile(p.emptyDirPath("mem")+"/kept", nil, 0o600))
	must(t, Share(root))
	t.Cleanup(func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) })
	before := mountLines(t)
	must(t, Share(root))
	if after := mountLines(t); len(after) != len(before) {
		t.Error("shared a second time")
	}
	if _, err := os.Stat(p.emptyDirPath("mem") + "/kept"); err != nil || !Present(p, memory("mem", "1Mi")) {
		t.Errorf("the volume from before: %v", err)
	}
	v := onDisk("v")
	must(t, Ensure(t.Context(), p, v))
	must(t, os.Mkdir(p.emptyDirPath("v")+"/later", 0o755))
	slave := v1.MountPropagationHostToContainer
	m := at("/m")
	m.MountPropagation = &slave
	e := newElsewhere(t)
	in := e.attach(openTree(t, p, v, m, ""))
	must(t, unix.Mount("podd-test", p.emptyDirPath("v")+"/later", "tmpfs", 0, ""))
	must(t, os.WriteFile(p.emptyDirPath("v")+"/later/seen", nil, 0o600))
	e.do(func() {
		if _, err := os.Stat(in + "/later/seen"); err != nil {
			t.Errorf("a later mount of the host: %v", err)
		}
	})
	if err := Share(root + "/missing"); err == nil {
		t.Error("a directory that is not there was shared")
	}
}

// A container with Bidirectional propagation mounts a tree of the host's, with
// mounts inside, into its volume, and dies. Removing the volume must unmount the
// copies and not the originals.
func TestRemoveUnmountsWhatAContainerLeftAndSparesTheHost(t *testing.T) {
	p := newPod(t, true)
	host := t.TempDir()
	must(t, unix.Mount("podd-test", host, "tmpfs", 0, ""))
	t.Cleanup(func() { unix.Unmount(host+"/inner", 0); unix.Unmount(host, 0) })
	must(t, unix.Mount("", host, "", unix.MS_SHARED, ""))
	must(t, os.Mkdir(host+"/inner", 0o755))
	must(t, unix.Mount("podd-test", host+"/inner", "tmpfs", 0, ""))
	must(t, os.WriteFile(host+"/inner/data", []byte("host's"), 0o600))

	shared := v1.MountPropagationBidirectional
	for _, v := range []v1.Volume{onDisk("disk"), memory("mem", "8Mi")} {
		must(t, Ensure(t.Context(), p, v))
		m := at("/m")
		m.MountPropagation = &shared
		e := newElsewhere(t)
		in := e.attach(openTree(t, p, v, m, ""))
		hostInside := e.attach(openTree(t, p, onHost(host, v1.HostPathUnset), m, ""))
		e.do(func() {
			name := in + "/odd name\t\\040\n"
			must(t, os.Mkdir(name, 0o755))
			must(t, unix.Mount(hostInside, name, "", unix.MS_BIND|unix.MS_REC, ""))
			// Twice on one spot, and one on another's inside.
			must(t, os.Mkdir(in+"/twice", 0o755))
			must(t, unix.Mount("podd-test", in+"/twice", "tmpfs", 0, ""))
			must(t, unix.Mount("podd-test", in+"/twice", "tmpfs", 0, ""))
			must(t, os.Mkdir(in+"/twice/x", 0o755))
			must(t, unix.Mount("podd-test", in+"/twice/x", "tmpfs", 0, ""))
		})
		if _, err := os.Stat(p.emptyDirPath(v.Name) + "/odd name\t\\040\n/inner/data"); err != nil {
			t.Fatalf("the container's mount did not arrive on the host: %v", err)
		}
	}
	must(t, Remove(t.Context(), p))
	if _, err := os.Stat(p.Dir + "/volumes"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("volumes is left: %v", err)
	}
	if got, err := os.ReadFile(host + "/inner/data"); string(got) != "host's" {
		t.Errorf("the host's mount after removal: %q, %v", got, err)
	}
}

func TestRemoveNeverFollowsWhatAWorkloadLeft(t *testing.T) {
	p := newPod(t, false)
	v := onDisk("v")
	must(t, Ensure(t.Context(), p, v))
	root := p.emptyDirPath("v")
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/data", []byte("x"), 0o600))
	must(t, os.Symlink(outside, root+"/link"))
	must(t, os.Link(outside+"/data", outside+"/other"))
	must(t, os.Mkdir(root+"/locked", 0))
	must(t, unix.Mkfifo(root+"/fifo", 0o600))
	// Deeper than descriptors and path names reach.
	at, err := os.Open(root)
	must(t, err)
	for range 3000 {
		must(t, unix.Mkdirat(int(at.Fd()), "d", 0o755))
		fd, err := unix.Openat(int(at.Fd()), "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		at.Close()
		at = os.NewFile(uintptr(fd), "d")
	}
	at.Close()
	for i := range 3000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", root, i), nil, 0o600))
	}
	var files unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: files.Max}))
	err = Remove(t.Context(), p)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &files))
	must(t, err)
	if left, _ := os.ReadDir(p.Dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if left, _ := os.ReadDir(outside); len(left) != 2 {
		t.Errorf("outside: %v", left)
	}
	must(t, Remove(t.Context(), Pod{UID: "u", Dir: p.Dir + "/never/was"}))
	if err := Remove(t.Context(), Pod{UID: "u"}); err == nil {
		t.Error("a pod without directory was accepted")
	}
}

func TestShmIsOneForAllContainersAndPlainInside(t *testing.T) {
	p := newPod(t, false)
	if _, err := ShmTree(p); err == nil {
		t.Error("a tree before Shm")
	}
	must(t, Shm(t.Context(), p))
	must(t, Shm(t.Context(), p))
	var st unix.Statfs_t
	must(t, unix.Statfs(p.Dir+"/shm", &st))
	const onHost = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	if st.Flags&onHost != onHost || st.Blocks*uint64(st.Bsize) != 64<<20 || mode(t, p.Dir+"/shm") != 0o1777 {
		t.Errorf("flags %x, %d bytes, mode %o", st.Flags, st.Blocks*uint64(st.Bsize), mode(t, p.Dir+"/shm"))
	}
	for _, content := range []string{"", "first"} {
		tree, err := ShmTree(p)
		must(t, err)
		e := newElsewhere(t)
		in := e.attach(tree)
		e.do(func() {
			must(t, unix.Statfs(in, &st))
			if st.Flags&(onHost|unix.ST_RDONLY) != 0 || st.Flags&unix.ST_RELATIME == 0 {
				t.Errorf("flags inside %x", st.Flags)
			}
			if got, _ := os.ReadFile(in + "/f"); string(got) != content {
				t.Errorf("content %q, want %q", got, content)
			}
			must(t, os.WriteFile(in+"/f", []byte("first"), 0o600))
		})
	}
}

func TestFileTree(t *testing.T) {
	kerneltest.Root(t)
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/hosts", []byte("x"), 0o644))
	must(t, os.Symlink("hosts", dir+"/link"))
	for readOnly, want := range map[bool]error{false: nil, true: unix.EROFS} {
		tree, err := FileTree(dir+"/hosts", readOnly)
		must(t, err)
		e := newElsewhere(t)
		in := e.attach(tree)
		e.do(func() {
			if err := os.WriteFile(in, []byte("y"), 0o644); !errors.Is(err, want) {
				t.Errorf("write: %v, want %v", err, want)
			}
		})
	}
	for _, path := range []string{dir + "/link", dir, dir + "/missing"} {
		if _, err := FileTree(path, true); err == nil {
			t.Errorf("FileTree(%s) succeeded", path)
		}
	}
}

func TestSetGroup(t *testing.T) {
	kerneltest.Root(t)
	build := func(t *testing.T) string {
		dir := t.TempDir() + "/v"
		must(t, os.MkdirAll(dir+"/sub", 0o700))
		must(t, os.WriteFile(dir+"/sub/file", nil, 0o400))
		must(t, os.WriteFile(dir+"/tool", nil, 0o755))
		must(t, os.WriteFile(dir+"/../outside", nil, 0o600))
		must(t, os.Symlink("../outside", dir+"/link"))
		must(t, os.Chown(dir+"/tool", 1000, 1000))
		must(t, os.Chmod(dir+"/tool", 0o755|os.ModeSetuid))
		return dir
	}
	look := func(path string) string {
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		return fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
	}
	for _, c := range []struct {
		name     string
		readOnly bool
		want     map[string]string
	}{
		{"read and write", false, map[string]string{"": "2770 0:3000", "/sub": "2770 0:3000", "/sub/file": "660 0:3000",
			"/tool": "4775 1000:3000", "/link": "777 0:3000", "/../outside": "600 0:0"}},
		{"read-only", true, map[string]string{"": "2750 0:3000", "/sub": "2750 0:3000", "/sub/file": "440 0:3000",
			"/tool": "4755 1000:3000", "/link": "777 0:3000", "/../outside": "600 0:0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := build(t)
			// TempDir's modes depend on the umask; the volume's root is ours.
			must(t, os.Chmod(dir, 0o700))
			must(t, SetGroup(t.Context(), dir, 3000, c.readOnly, v1.FSGroupChangeAlways))
			for name, want := range c.want {
				if got := look(dir + name); got != want {
					t.Errorf("%q: %s, want %s", name, got, want)
				}
			}
		})
	}
	t.Run("OnRootMismatch", func(t *testing.T) {
		dir := build(t)
		must(t, SetGroup(t.Context(), dir, 3000, false, v1.FSGroupChangeOnRootMismatch))
		must(t, os.Chown(dir+"/sub/file", 5, 5))
		must(t, SetGroup(t.Context(), dir, 3000, false, v1.FSGroupChangeOnRootMismatch))
		if got := look(dir + "/sub/file"); got != "660 5:5" {
			t.Errorf("root matched, but the file became %s", got)
		}
		for _, spoil := range []func() error{
			func() error { return os.Chown(dir, 0, 1) },
			func() error { return os.Chmod(dir, 0o770) },
			func() error { return os.Chmod(dir, 0o750|os.ModeSetgid) },
		} {
			must(t, spoil())
			must(t, os.Chown(dir+"/sub/file", 5, 5))
			must(t, SetGroup(t.Context(), dir, 3000, false, v1.FSGroupChangeOnRootMismatch))
			if got := look(dir + "/sub/file"); got != "660 5:3000" {
				t.Errorf("root did not match, but the file is %s", got)
			}
		}
	})
	if err := SetGroup(t.Context(), t.TempDir(), -1, false, ""); err == nil {
		t.Error("group -1 was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := SetGroup(ctx, t.TempDir(), 1, false, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestUsageOfADiskVolume(t *testing.T) {
	p := newPod(t, false)
	limit := resource.MustParse("1Mi")
	v := onDisk("v")
	v.EmptyDir.SizeLimit = &limit
	must(t, Ensure(t.Context(), p, v))
	root := p.emptyDirPath("v")
	over := func(want bool) {
		t.Helper()
		if got, err := OverLimit(t.Context(), p, v); got != want || err != nil {
			t.Errorf("OverLimit = %v, %v; want %v", got, err, want)
		}
	}
	over(false)
	must(t, os.MkdirAll(root+"/a/b", 0o755))
	must(t, os.WriteFile(root+"/a/b/f", make([]byte, 1<<20), 0o600))
	must(t, os.Link(root+"/a/b/f", root+"/again"))
	must(t, os.Symlink("/usr", root+"/usr"))
	// A sparse file takes nothing, another mount does not count.
	must(t, os.Truncate(root+"/a/b/f", 100<<20))
	must(t, os.Mkdir(root+"/m", 0o755))
	must(t, unix.Mount("podd-test", root+"/m", "tmpfs", 0, ""))
	must(t, os.WriteFile(root+"/m/f", make([]byte, 2<<20), 0o600))
	u, err := Measure(t.Context(), p, v)
	must(t, err)
	if u.UsedBytes < 1<<20 || u.UsedBytes > 1<<20+64<<10 || u.InodesUsed < 5 || u.InodesUsed > 6 || u.CapacityBytes != 256<<20 || u.AvailableBytes >= u.CapacityBytes {
		t.Errorf("usage %+v", u)
	}
	over(false)
	must(t, os.WriteFile(root+"/more", make([]byte, 8<<10), 0o600))
	over(true)
	v.EmptyDir.SizeLimit = nil
	over(false)

	if _, err := Measure(t.Context(), p, onHost("/", v1.HostPathUnset)); !errors.Is(err, ErrNotMeasured) {
		t.Errorf("measuring a hostPath: %v", err)
	}
	if got, err := OverLimit(t.Context(), p, onHost("/", v1.HostPathUnset)); got || err != nil {
		t.Errorf("limit of a hostPath: %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Measure(ctx, p, v); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func BenchmarkTree(b *testing.B) {
	p := newPod(b, false)
	v := memory("v", "1Mi")
	must(b, Ensure(b.Context(), p, v))
	for b.Loop() {
		tree, err := Tree(b.Context(), p, v, at("/m"), "")
		if err != nil {
			b.Fatal(err)
		}
		tree.Close()
	}
}

func BenchmarkMemoryVolume(b *testing.B) {
	p := newPod(b, false)
	for b.Loop() {
		must(b, Ensure(b.Context(), p, memory("v", "1Mi")))
		must(b, Remove(b.Context(), p))
	}
}

// Whatever a manifest's author writes as subPath, into a volume full of links
// that a workload may have left, what is opened lies inside the volume.
func FuzzSubPath(f *testing.F) {
	p := newPod(f, false)
	v := memory("v", "16Mi") // a file system of its own, so that outside is told from inside
	must(f, Ensure(f.Context(), p, v))
	root := p.emptyDirPath("v")
	must(f, os.MkdirAll(root+"/d/e", 0o755))
	must(f, os.WriteFile(root+"/f", nil, 0o600))
	for name, target := range map[string]string{"a": "/", "u": "..", "uu": "../../../../..", "s": "d/e", "l": "l", "p": "/proc/self/root", "c": "d/../u"} {
		must(f, os.Symlink(target, filepath.Join(root, name)))
	}
	inside, err := os.Open(root)
	must(f, err)
	f.Cleanup(func() { inside.Close() })
	var home unix.Stat_t
	must(f, unix.Stat(root, &home))
	for _, seed := range []string{"d", "a/etc", "u", "uu/etc", "s/x/y", "l", "p/etc", "c/c", "../x", "/etc", "d//./e/", ".", "f/x", "d/\x00", strings.Repeat("n/", 300), "..d/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, subPath string) {
		tree, err := Tree(context.Background(), p, v, at("/m"), subPath)
		if err != nil {
			return
		}
		defer tree.Close()
		var st unix.Stat_t
		must(t, unix.Fstat(int(tree.Fd()), &st))
		if st.Dev != home.Dev {
			t.Errorf("subPath %q is outside of the volume", subPath)
		}
	})
}
