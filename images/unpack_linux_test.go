package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
	"podd/internal/testimage"
)

// layerDir makes an empty directory for a layer in a workplace.
func layerDir(t *testing.T, s *Store) (*workplace, string) {
	t.Helper()
	work, err := s.newWorkplace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(work.close)
	dir := filepath.Join(work.dir, "layer")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return work, dir
}

// unpackHere unpacks a layer's file as a pull does, in the process of its own,
// and returns the layer's directory.
func unpackHere(t *testing.T, s *Store, file []byte) (string, unpacked, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	work, dir := layerDir(t, s)
	result, err := s.unpackLayer(t.Context(), f, "", dir, work.lock, func(int64) {})
	return dir, result, err
}

// link is an entry of any type that has a target.
func link(kind byte, path, target string) testimage.Entry {
	return testimage.Entry{Header: tar.Header{Name: path, Linkname: target, Typeflag: kind}}
}

func device(kind byte, path string, major, minor int64) testimage.Entry {
	return testimage.Entry{Header: tar.Header{Name: path, Typeflag: kind, Devmajor: major, Devminor: minor, Mode: 0o666}}
}

func TestHostileLayersStayInside(t *testing.T) {
	long := strings.Repeat("n", 300)
	deep := strings.Repeat("d/", 600) + "x"
	for _, test := range []struct {
		name    string
		entries []testimage.Entry
		raw     []byte
		fails   string            // part of the error's text; empty: it is unpacked
		has     map[string]string // files of the layer and their content
	}{
		{
			name:    "an absolute name is a name below the layer's root",
			entries: []testimage.Entry{testimage.File("/HOST/evil", 0, "x"), testimage.File("//etc/passwd", 0, "y")},
			has:     map[string]string{"HOST/evil": "x", "etc/passwd": "y"},
		},
		{name: "a name that climbs out", entries: []testimage.Entry{testimage.File("../../HOST/evil", 0, "x")}, fails: `leads out of the layer with ".."`},
		{name: "a name that climbs out from below", entries: []testimage.Entry{testimage.File("a/../../HOST/evil", 0, "x")}, fails: `leads out of the layer with ".."`},
		{
			name:    "a name that climbs but stays inside",
			entries: []testimage.Entry{testimage.Dir("a/", 0), testimage.File("a/../b", 0, "x")},
			has:     map[string]string{"b": "x"},
		},
		{
			name:    "a write through an absolute symbolic link ends below the layer's root",
			entries: []testimage.Entry{testimage.Dir("HOST/", 0), testimage.Symlink("out", "/HOST"), testimage.File("out/evil", 0, "x")},
			has:     map[string]string{"HOST/evil": "x"},
		},
		{
			name:    "a write through a symbolic link of many ..",
			entries: []testimage.Entry{testimage.Dir("HOST/", 0), testimage.Symlink("out", "../../../../../../../../HOST"), testimage.File("out/evil", 0, "x")},
			has:     map[string]string{"HOST/evil": "x"},
		},
		{
			name:    "a write through a symbolic link to nowhere",
			entries: []testimage.Entry{testimage.Symlink("out", "/HOST"), testimage.File("out/evil", 0, "x")},
			fails:   "not a directory",
		},
		{
			name:    "a file over a symbolic link replaces the link",
			entries: []testimage.Entry{testimage.Symlink("f", "/HOST/victim"), testimage.File("f", 0, "new")},
			has:     map[string]string{"f": "new"},
		},
		{
			name:    "a directory over a symbolic link replaces the link",
			entries: []testimage.Entry{testimage.Symlink("d", "/HOST"), testimage.Dir("d/", 0o700), testimage.File("d/evil", 0, "x")},
			has:     map[string]string{"d/evil": "x"},
		},
		{
			name:    "symbolic links in a circle",
			entries: []testimage.Entry{testimage.Symlink("a", "b"), testimage.Symlink("b", "a"), testimage.File("a/x", 0, "x")},
			fails:   "lead in a circle",
		},
		{
			name:    "a magic link of /proc",
			entries: []testimage.Entry{testimage.Symlink("out", "/proc/self/root/HOST"), testimage.File("out/evil", 0, "x")},
			fails:   "not a directory",
		},
		{name: "a hard link to the outside", entries: []testimage.Entry{link(tar.TypeLink, "l", "/HOST/victim")}, fails: "which this layer does not have"},
		{name: "a hard link that climbs out", entries: []testimage.Entry{link(tar.TypeLink, "l", "../../HOST/victim")}, fails: `leads out of the layer with ".."`},
		{
			name:    "a hard link through a symbolic link",
			entries: []testimage.Entry{testimage.Symlink("s", "/HOST"), link(tar.TypeLink, "l", "s/victim")},
			fails:   "which this layer does not have",
		},
		{
			name:    "a hard link to a symbolic link is one to the link",
			entries: []testimage.Entry{testimage.Symlink("s", "/HOST/victim"), link(tar.TypeLink, "l", "s"), testimage.File("l", 0, "new")},
			has:     map[string]string{"l": "new"},
		},
		{name: "a hard link to a directory", entries: []testimage.Entry{testimage.Dir("d/", 0), link(tar.TypeLink, "l", "d")}, fails: "which is a directory"},
		{
			name:    "a hard link to itself",
			entries: []testimage.Entry{testimage.File("f", 0, "x"), link(tar.TypeLink, "f", "f")},
			has:     map[string]string{"f": "x"},
		},
		{
			name:    "a hard link that replaces the directory of its target",
			entries: []testimage.Entry{testimage.Dir("d/", 0), testimage.File("d/f", 0, "x"), link(tar.TypeLink, "d", "d/f")},
			fails:   "would replace what it links to",
		},
		{name: "a whiteout of ..", entries: []testimage.Entry{testimage.File("a/.wh...", 0, "")}, fails: `a whiteout of ".."`},
		{name: "a whiteout of .", entries: []testimage.Entry{testimage.File("a/.wh..", 0, "")}, fails: `a whiteout of "."`},
		{name: "a whiteout of nothing", entries: []testimage.Entry{testimage.File(".wh.", 0, "")}, fails: `a whiteout of ""`},
		{
			name:    "a whiteout through a symbolic link",
			entries: []testimage.Entry{testimage.Dir("HOST/", 0), testimage.Symlink("s", "/HOST"), testimage.File("s/.wh.victim", 0, "")},
		},
		{
			name:    "the later of two entries counts",
			entries: []testimage.Entry{testimage.File("f", 0, "old and long"), testimage.File("f", 0, "new")},
			has:     map[string]string{"f": "new"},
		},
		{
			name:    "a file over a full directory",
			entries: []testimage.Entry{testimage.Dir("d/", 0), testimage.File("d/a/b", 0, "x"), testimage.Symlink("d/s", "/HOST"), testimage.File("d", 0, "f")},
			has:     map[string]string{"d": "f"},
		},
		{
			name:    "a directory over a file",
			entries: []testimage.Entry{testimage.File("d", 0, "f"), testimage.Dir("d/", 0), testimage.File("d/x", 0, "x")},
			has:     map[string]string{"d/x": "x"},
		},
		{name: "a parent that is a file", entries: []testimage.Entry{testimage.File("f", 0, "x"), testimage.File("f/g", 0, "y")}, fails: "not a directory"},
		{name: "a root that is a file", entries: []testimage.Entry{testimage.File("./", 0, ""), testimage.File(".", 0, "x")}, fails: "can only be a directory"},
		{name: "a root that is a symbolic link", entries: []testimage.Entry{testimage.Symlink("./", "/HOST")}, fails: "can only be a directory"},
		{name: "a very long name", entries: []testimage.Entry{testimage.File(long, 0, "x")}, fails: "may have 255 bytes, one has 300"},
		{name: "a very long path", entries: []testimage.Entry{testimage.File(strings.Repeat("p/", 3000)+"x", 0, "x")}, fails: "may have 4095 bytes"},
		{name: "very deep directories", entries: []testimage.Entry{testimage.File(deep, 0, "x")}, fails: "nested more than 512 deep"},
		{name: "a device number out of range", entries: []testimage.Entry{device(tar.TypeBlock, "b", 1<<20, 0)}, fails: "out of range"},
		{name: "an owner that means no owner", entries: []testimage.Entry{{Header: tar.Header{Name: "f", Uid: 1<<32 - 1}}}, fails: "out of range"},
		{name: "an entry of unknown type", entries: []testimage.Entry{{Header: tar.Header{Name: "f", Typeflag: 'V'}}}, fails: "not supported"},
		{name: "no tar stream", raw: bytes.Repeat([]byte("no tar "), 500), fails: "cannot read the tar stream"},
		{name: "half a tar stream", raw: testimage.Tar(t, testimage.File("f", 0, strings.Repeat("x", 5000)))[:3000], fails: "unexpected EOF"},
		{name: "broken gzip", raw: []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}, fails: "cannot read the tar stream"},
		{name: "xz", raw: []byte{0xfd, '7', 'z', 'X', 'Z', 0, 0, 0}, fails: "bzip2 or xz"},
		{name: "an attribute that steers overlayfs", entries: []testimage.Entry{{Header: tar.Header{Name: "d/", PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/HOST", "SCHILY.xattr.user.overlay.opaque": "y"}}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testStore(t)
			host := t.TempDir()
			if err := os.WriteFile(filepath.Join(host, "victim"), []byte("host"), 0o600); err != nil {
				t.Fatal(err)
			}
			before := tree(t, host)
			raw := test.raw
			if raw == nil {
				for i := range test.entries {
					e := &test.entries[i]
					e.Name = strings.ReplaceAll(e.Name, "HOST", strings.TrimPrefix(host, "/"))
					e.Linkname = strings.ReplaceAll(e.Linkname, "/HOST", host)
				}
				raw = testimage.Tar(t, test.entries...)
			}
			dir, _, err := unpackHere(t, s, raw)
			switch {
			case test.fails == "" && err != nil:
				t.Errorf("cannot unpack: %v", err)
			case test.fails != "" && err == nil:
				t.Errorf("unpacked %v, want an error with %q", tree(t, dir), test.fails)
			case test.fails != "" && !strings.Contains(err.Error(), test.fails):
				t.Errorf("error is %q, want %q in it", err, test.fails)
			}
			for path, want := range test.has {
				path = strings.ReplaceAll(path, "HOST", strings.TrimPrefix(host, "/"))
				if got := read(t, dir, path); got != want {
					t.Errorf("%s has %q, want %q", path, got, want)
				}
			}
			if after := tree(t, host); after != before {
				t.Errorf("the host changed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// tree describes all files below a directory, one a line: type, mode, owner,
// links, size, time, device, attributes, target or digest of the content.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%q %o %d:%d %d.%d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			fmt.Fprintf(&b, " links %d size %d %s", st.Nlink, st.Size, hex.EncodeToString(sum[:4]))
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&b, " -> %s", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		names := make([]byte, 4096)
		if n, err := unix.Llistxattr(path, names); err == nil {
			for _, attr := range splitNul(names[:n]) {
				value := make([]byte, 4096)
				n, _ := unix.Lgetxattr(path, attr, value)
				fmt.Fprintf(&b, " %s=%x", attr, value[:n])
			}
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestBombsAreRefused(t *testing.T) {
	s := testStore(t, func(c *Config) { c.MaxLayerBytes, c.MaxLayerFiles = 1<<20, 50 })
	big := gzipped(t, testimage.Tar(t, testimage.File("big", 0, strings.Repeat("\x00", 2<<20))))
	if _, _, err := unpackHere(t, s, big); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("a file above the limit: %v", err)
	}
	var many []testimage.Entry
	for i := range 60 {
		many = append(many, testimage.File(fmt.Sprintf("f%d", i), 0, ""))
	}
	if _, _, err := unpackHere(t, s, testimage.Tar(t, many...)); err == nil || !strings.Contains(err.Error(), "more than 50 entries") {
		t.Errorf("entries above the limit: %v", err)
	}
	trailer := gzipped(t, append(testimage.Tar(t, testimage.File("f", 0, "x")), make([]byte, maxTrailer+4096)...))
	if _, _, err := unpackHere(t, s, trailer); err == nil || !strings.Contains(err.Error(), "follow the end") {
		t.Errorf("an endless trailer: %v", err)
	}
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhiteoutsBecomeOverlayfs(t *testing.T) {
	s := testStore(t)
	dir, result, err := unpackHere(t, s, testimage.Tar(t,
		testimage.Dir("a/", 0), testimage.File("a/.wh.gone", 0, ""),
		testimage.Dir("o/", 0), testimage.File("o/.wh..wh..opq", 0, ""), testimage.File("o/new", 0, "x"),
		testimage.File("kept", 0, "k"), testimage.File(".wh.kept", 0, ""),
		testimage.File(".wh.again", 0, ""), testimage.Dir("again/", 0), testimage.File("again/x", 0, "x"),
		testimage.Dir("both/", 0), testimage.File("both/x", 0, "x"), testimage.File(".wh.both", 0, ""),
		testimage.File(".wh..wh.plnk", 0, ""), testimage.File("i/j/f", 0, "x"),
	))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "a/gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the whiteout is %+v (%v)", st, err)
	}
	if got := read(t, dir, "kept"); got != "k" {
		t.Errorf("a file that the layer itself brings was hidden: %q", got)
	}
	for _, absent := range []string{".wh.kept", ".wh..wh.plnk", "o/.wh..wh..opq"} {
		if exists(filepath.Join(dir, absent)) {
			t.Errorf("%s was unpacked", absent)
		}
	}
	if got := fmt.Sprint(result.Marks); got != "{[. i i/j] [again both o]}" {
		t.Errorf("marks are %s", got)
	}
}

// A base system made of files of this machine, as GNU tar packs and unpacks it.
func TestLayerIsExactlyWhatGNUTarUnpacks(t *testing.T) {
	kerneltest.Root(t)
	gnutar, err := exec.LookPath("tar")
	kerneltest.Need(t, err == nil, "GNU tar")
	source := t.TempDir()
	makeSystem(t, source)
	for _, format := range []string{"gnu", "posix"} {
		for _, compression := range []string{"none", "gzip", "zstd"} {
			t.Run(format+" "+compression, func(t *testing.T) {
				var stream bytes.Buffer
				args := []string{"-C", source, "--format=" + format, "--numeric-owner", "--sparse", "-c", "."}
				if format == "posix" {
					args = append([]string{"--xattrs", "--xattrs-include=*"}, args...)
				}
				pack := exec.Command(gnutar, args...)
				pack.Stdout = &stream
				if err := pack.Run(); err != nil {
					t.Fatalf("tar cannot pack: %v", err)
				}
				want := t.TempDir()
				unpack := exec.Command(gnutar, "-C", want, "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-xp")
				unpack.Stdin = bytes.NewReader(stream.Bytes())
				if out, err := unpack.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				file := stream.Bytes()
				switch compression {
				case "gzip":
					file = gzipped(t, file)
				case "zstd":
					w, err := zstd.NewWriter(nil)
					if err != nil {
						t.Fatal(err)
					}
					file = w.EncodeAll(file, nil)
				}
				dir, result, err := unpackHere(t, testStore(t), file)
				if err != nil {
					t.Fatal(err)
				}
				if sum := sha256.Sum256(stream.Bytes()); result.DiffID != "sha256:"+hex.EncodeToString(sum[:]) {
					t.Errorf("diff id is %s", result.DiffID)
				}
				if a, b := tree(t, dir), tree(t, want); a != b {
					t.Errorf("unpacked differs from what tar unpacks:\n%s", difference(b, a))
				}
				var st unix.Stat_t
				if err := unix.Stat(filepath.Join(dir, "var/sparse"), &st); err != nil || st.Blocks*512 > st.Size/2 {
					t.Errorf("the file with holes has %d blocks for %d bytes (%v)", st.Blocks, st.Size, err)
				}
			})
		}
	}
}

func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	has := func(list []string, line string) bool {
		for _, l := range list {
			if l == line {
				return true
			}
		}
		return false
	}
	var b strings.Builder
	for _, line := range w {
		if !has(g, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	for _, line := range g {
		if !has(w, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	return b.String()
}

func makeSystem(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, mode := range map[string]os.FileMode{"usr/bin": 0o755, "etc": 0o755, "tmp": 0o777 | os.ModeSticky, "var/mail": 0o775 | os.ModeSetgid, "dev": 0o755, "root": 0o700} {
		must(os.MkdirAll(filepath.Join(dir, path), 0o755))
		must(os.Chmod(filepath.Join(dir, path), mode))
	}
	for _, file := range []string{"/etc/passwd", "/etc/group", "/bin/true"} {
		data, err := os.ReadFile(file)
		must(err)
		must(os.WriteFile(filepath.Join(dir, "etc", filepath.Base(file)), data, 0o644))
	}
	must(os.WriteFile(filepath.Join(dir, "usr/bin/su"), []byte("#!/bin/sh\n"), 0o755))
	must(os.Chown(filepath.Join(dir, "usr/bin/su"), 0, 42))
	must(os.Chmod(filepath.Join(dir, "usr/bin/su"), 0o755|os.ModeSetuid|os.ModeSetgid))
	must(os.WriteFile(filepath.Join(dir, "usr/bin/ping"), []byte("ping"), 0o755))
	must(os.Chown(filepath.Join(dir, "usr/bin/ping"), 1000, 100000))
	// cap_net_raw=ep, as setcap writes it.
	must(unix.Setxattr(filepath.Join(dir, "usr/bin/ping"), "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	must(unix.Setxattr(filepath.Join(dir, "usr/bin/su"), "user.note", []byte("a\x00b"), 0))
	must(os.Symlink("bin", filepath.Join(dir, "usr/sbin")))
	must(os.Symlink("/usr/bin/missing", filepath.Join(dir, "etc/dangling")))
	must(os.Link(filepath.Join(dir, "usr/bin/su"), filepath.Join(dir, "usr/bin/sudo")))
	must(unix.Mknod(filepath.Join(dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(filepath.Join(dir, "dev/loop"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))))
	must(unix.Mkfifo(filepath.Join(dir, "dev/fifo"), 0o620))
	longName := strings.Repeat("long", 60)
	must(os.MkdirAll(filepath.Join(dir, "var", longName), 0o755))
	must(os.WriteFile(filepath.Join(dir, "var", longName, "ümlaut "+longName[:100]), []byte("x"), 0o600))
	sparse, err := os.Create(filepath.Join(dir, "var/sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("middle"), 3<<20)
	must(err)
	must(sparse.Truncate(8 << 20))
	must(sparse.Close())
	for _, path := range []string{"etc/passwd", "usr/bin", "etc", "var", "."} {
		when := time.Unix(1_500_000_000, 0)
		must(os.Chtimes(filepath.Join(dir, path), when, when))
	}
}

func TestUnpackerSeesNothingOfTheHost(t *testing.T) {
	s := testStore(t)
	// A layer that never ends holds the process while it is looked at.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	work, dir := layerDir(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.unpackLayer(ctx, r, "", dir, work.lock, func(int64) {})
		ended <- err
	}()
	if _, err := w.Write(testimage.Tar(t, testimage.File("first", 0, "x"))[:1024]); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return exists(filepath.Join(dir, "first")) })
	pid := unpackerOf(t, dir)
	proc := func(name string) string { return filepath.Join("/proc", pid, name) }

	names, err := os.ReadDir(proc("root"))
	if err != nil || len(names) != 1 || names[0].Name() != "first" {
		t.Errorf("its root has %v (%v), want only the layer", names, err)
	}
	mounts := read(t, proc("mountinfo"))
	if strings.Count(mounts, "\n") != 1 || !strings.Contains(mounts, "nosuid,nodev,noexec") {
		t.Errorf("its mounts are:\n%s", mounts)
	}
	links := read(t, proc("net/dev"))
	if strings.Count(links, ":") != 1 || !strings.Contains(links, "lo:") {
		t.Errorf("its network is:\n%s", links)
	}
	for _, ns := range []string{"mnt", "net", "pid", "ipc", "uts"} {
		theirs, err := os.Readlink(proc("ns/" + ns))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if ours == theirs {
			t.Errorf("it is in our %s namespace", ns)
		}
	}
	want := fmt.Sprintf("%016x", uint64(unpackCapabilities))
	threads := 0
	for _, thread := range unpackerThreads(t, pid) {
		status := read(t, proc("task/"+thread+"/status"))
		for _, line := range []string{"CapInh:\t0000000000000000", "CapPrm:\t" + want, "CapEff:\t" + want, "CapBnd:\t" + want, "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(status, line+"\n") {
				t.Errorf("thread %s lacks %q:\n%s", thread, line, status)
			}
		}
		threads++
	}
	if threads == 0 {
		t.Error("no thread looked at")
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a cancelled unpacking succeeded")
	}
}

// unpackerOf finds the process whose root is dir.
func unpackerOf(t *testing.T, dir string) string {
	t.Helper()
	var want unix.Stat_t
	if err := unix.Stat(dir, &want); err != nil {
		t.Fatal(err)
	}
	var found string
	waitFor(t, func() bool {
		all, err := filepath.Glob("/proc/[0-9]*/root")
		if err != nil {
			t.Fatal(err)
		}
		for _, root := range all {
			var st unix.Stat_t
			if unix.Stat(root, &st) == nil && st.Ino == want.Ino && st.Dev == want.Dev {
				found = filepath.Base(filepath.Dir(root))
				return true
			}
		}
		return false
	})
	return found
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 30 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func FuzzUntar(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root")
	}
	f.Add(testimage.Tar(f, testimage.Dir("d/", 0), testimage.File("d/f", 0, "x"), testimage.Symlink("s", "d"), link(tar.TypeLink, "l", "d/f")))
	f.Add(testimage.Tar(f, testimage.Symlink("s", "/"), testimage.File("s/../x", 0, "x"), testimage.File("d/.wh.x", 0, ""), testimage.File("d/.wh..wh..opq", 0, "")))
	f.Add(testimage.Tar(f, testimage.File("d/x", 0, "x"), link(tar.TypeLink, "d", "d/x"), testimage.File("d", 0, ""), testimage.Dir("d/", 0)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		outer := t.TempDir()
		inner := filepath.Join(outer, "layer")
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.Open(inner)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		m, size, err := untar(root, bytes.NewReader(stream), limits{bytes: 1 << 20, files: 1000})
		if err == nil {
			if size > 1<<20 {
				t.Errorf("unpacked %d bytes", size)
			}
			if err := completeLayer(inner, m, []string{inner}); err != nil {
				t.Errorf("cannot complete: %v", err)
			}
		}
		names, err := os.ReadDir(outer)
		if err != nil || len(names) != 1 {
			t.Errorf("beside the layer there is %v (%v)", names, err)
		}
	})
}
