package stage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

func rootOf(t *testing.T) (string, int) {
	t.Helper()
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return dir, fd
}

func nameOf(t *testing.T, fd int) string {
	t.Helper()
	n, err := os.Readlink("/proc/self/fd/" + itoa(fd))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func itoa(n int) string {
	s := ""
	for ; n > 9; n /= 10 {
		s = string(rune('0'+n%10)) + s
	}
	return string(rune('0'+n)) + s
}

func TestTargetsAreMadeInsideTheRoot(t *testing.T) {
	dir, root := rootOf(t)
	for _, err := range []error{
		os.Symlink("/absolute/elsewhere", filepath.Join(dir, "dangling")),
		os.Symlink("../../../../up", filepath.Join(dir, "climbing")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Mkdir(filepath.Join(dir, "real"), 0o755),
		os.Symlink("real", filepath.Join(dir, "alias")),
		os.Symlink("/tmp", filepath.Join(dir, "proc")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[string]string{
		"/a/b/c": "/a/b/c", "/../../x": "/x", "/dangling": "/absolute/elsewhere", "/climbing": "/up",
		"/dangling/deeper": "/absolute/elsewhere/deeper", "/alias/in": "/real/in", "/": "",
	} {
		for range 2 { // made, then found
			fd, err := target(root, p, true)
			if err != nil {
				t.Errorf("%s: %v", p, err)
				continue
			}
			if got := nameOf(t, fd); got != dir+want {
				t.Errorf("%s is %s, want %s", p, got, dir+want)
			}
			unix.Close(fd)
		}
	}
	if fd, err := target(root, "/files/f", false); err != nil || isDir(fd) {
		t.Errorf("a file as target: %v", err)
	}
	for _, p := range []string{"/loop", "/proc", "/proc/x"} {
		if _, err := target(root, p, true); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %v, want too many links", p, err)
		}
	}
}

// CVE-2021-30465: what is being renamed while it is looked up never leads out.
func TestRacingRenamesNeverLeadOut(t *testing.T) {
	dir, root := rootOf(t)
	os.MkdirAll(filepath.Join(dir, "vol/target"), 0o755)
	os.Symlink("../../../../../../../../etc", filepath.Join(dir, "vol/link"))
	stop := kerneltest.Swap(t, filepath.Join(dir, "vol/target"), filepath.Join(dir, "vol/link"))
	inside := 0
	for range 1000 {
		fd, err := target(root, "/vol/target/sub", true)
		if err != nil {
			continue
		}
		if n := nameOf(t, fd); !strings.HasPrefix(n, dir+"/") {
			t.Errorf("led to %s", n)
		} else {
			inside++
		}
		unix.Close(fd)
	}
	stop()
	if inside == 0 {
		t.Error("no lookup succeeded, so nothing was shown")
	}
}

func TestOnlyTheNullDeviceIsTheNullDevice(t *testing.T) {
	kerneltest.Root(t)
	fakes := map[string]func(string) error{
		"file": func(p string) error { return os.WriteFile(p, nil, 0o666) },
		"link": func(p string) error { return os.Symlink("/etc/passwd", p) },
		"fifo": func(p string) error { return unix.Mkfifo(p, 0o666) },
		"zero": func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
	}
	for name, make := range fakes {
		dir, root := rootOf(t)
		os.Mkdir(filepath.Join(dir, "dev"), 0o755)
		if err := make(filepath.Join(dir, "dev/null")); err != nil {
			t.Fatal(err)
		}
		if _, err := openNull(root, unix.O_PATH); err == nil {
			t.Errorf("%s passed", name)
		}
	}
	dir, root := rootOf(t)
	os.Mkdir(filepath.Join(dir, "dev"), 0o755)
	if err := unix.Mknod(filepath.Join(dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if _, err := openNull(root, unix.O_PATH); err != nil {
		t.Errorf("the real one: %v", err)
	}
}

func TestDescriptorsToCloseLeaveOutTheKept(t *testing.T) {
	closed := func(keep ...int) (got []int) {
		for _, c := range closeAllBut(keep...) {
			for fd := c.A[0]; fd <= c.A[1] && fd < 12; fd++ {
				got = append(got, int(fd))
			}
		}
		return got
	}
	for _, c := range []struct{ keep, want []int }{
		{nil, []int{3, 4, 5, 6, 7, 8, 9, 10, 11}},
		{[]int{3}, []int{4, 5, 6, 7, 8, 9, 10, 11}},
		{[]int{7, 4, 5}, []int{3, 6, 8, 9, 10, 11}},
		{[]int{11}, []int{3, 4, 5, 6, 7, 8, 9, 10}},
	} {
		got := closed(c.keep...)
		if len(got) != len(c.want) {
			t.Errorf("keeping %v closes %v", c.keep, got)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("keeping %v closes %v", c.keep, got)
				break
			}
		}
	}
}

func TestCommandIsSearchedAsOtherRuntimesDo(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/run": 0o755, "b/run": 0o755, "a/data": 0o644} {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		os.WriteFile(filepath.Join(dir, name), nil, mode)
	}
	os.MkdirAll(filepath.Join(dir, "b/sub"), 0o755)
	env := []string{"PATH=/nowhere", "PATH=" + dir + "/a:" + dir + "/b:"}
	for name, want := range map[string]string{
		"run": dir + "/a/run " + dir + "/b/run", dir + "/a/run": dir + "/a/run",
		"data": `exec: "data": permission denied`, "none": `exec: "none": executable file not found in $PATH`,
		"sub": `exec: "sub": executable file not found in $PATH`, "": `exec: "": executable file not found in $PATH`,
		dir + "/x": `exec: "` + dir + `/x": stat ` + dir + `/x: no such file or directory`,
	} {
		got, err := candidates(name, env)
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("%q: %s, want %s", name, text, want)
		}
	}
}
