package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// layer collects the files of one image layer by path, so that a later file
// replaces an earlier one and directories appear once.
type layer struct {
	entries map[string]entry
}

type entry struct {
	header tar.Header
	data   []byte
}

func newLayer() *layer { return &layer{entries: map[string]entry{}} }

func (l *layer) add(h tar.Header, data []byte) {
	h.Format = tar.FormatPAX
	h.ModTime = time.Unix(h.ModTime.Unix(), 0)
	l.entries[h.Name] = entry{h, data}
}

func (l *layer) dir(name string, mode int64) {
	l.add(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

func (l *layer) file(name string, mode int64, content string) {
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, []byte(content))
}

func (l *layer) symlink(name, target string) {
	l.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (l *layer) copy(name string, mode int64, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}, data)
	return nil
}

// addPackage adds the files of a Debian package. Documentation is left out.
func (l *layer) addPackage(deb string) error {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = l.addTar(out)
	if waitErr := cmd.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("%w: %s", waitErr, stderr.String())
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", filepath.Base(deb), err)
	}
	return nil
}

func (l *layer) addTar(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		h.Name = merged(h.Name)
		if h.Name == "" || strings.HasPrefix(h.Name, "usr/share/doc/") || strings.HasPrefix(h.Name, "usr/share/man/") ||
			strings.HasPrefix(h.Name, "usr/share/locale/") {
			continue
		}
		if old, ok := l.entries[h.Name]; ok && h.Typeflag == tar.TypeDir && old.header.Typeflag == tar.TypeSymlink {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = merged(h.Linkname)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		l.add(*h, data)
	}
}

// merged maps a package's path to the merged-/usr layout that all Debian
// systems have: /bin, /sbin and /lib are links into /usr.
func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if strings.HasPrefix(name, dir+"/") {
			return "usr/" + name
		}
	}
	return name
}

func (l *layer) tar() []byte {
	names := make([]string, 0, len(l.entries))
	for name := range l.entries {
		names = append(names, name)
	}
	sort.Strings(names)
	// A hard link must follow the file it names, whatever the two are called.
	sort.SliceStable(names, func(i, j int) bool {
		return l.entries[names[i]].header.Typeflag != tar.TypeLink && l.entries[names[j]].header.Typeflag == tar.TypeLink
	})
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		e := l.entries[name]
		if err := w.WriteHeader(&e.header); err != nil {
			panic(fmt.Sprintf("header of %s: %v", name, err)) // headers come from a tar or from this file
		}
		w.Write(e.data) // a bytes.Buffer takes everything
	}
	w.Close()
	return buf.Bytes()
}

// write makes an archive with a one-layer image of the given name.
func (l *layer) write(archive, ref string, config v1.Config) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	content := l.tar()
	tl, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithCompressionLevel(1))
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, tl)
	if err != nil {
		return err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", runtime.GOARCH, config
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return err
	}
	if err := tarball.WriteToFile(archive+".tmp", tag, img); err != nil {
		return err
	}
	return os.Rename(archive+".tmp", archive)
}

// fetchPackages downloads packages with all they depend on, as if nothing were
// installed, and returns the paths of the .deb files.
func fetchPackages(dir string, packages ...string) ([]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return nil, err
	}
	nothing := filepath.Join(dir, "status")
	if err := os.WriteFile(nothing, nil, 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command("apt-get", append([]string{
		"-qq", "-y", "--download-only", "--no-install-recommends", "install",
		"-o", "Dir::State::status=" + nothing,
		"-o", "Dir::Cache::archives=" + dir,
		"-o", "Debug::NoLocking=1",
		"-o", "APT::Sandbox::User=",
	}, packages...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("apt-get cannot download %s (if the package lists are old, run apt-get update): %w\n%s",
			strings.Join(packages, ", "), err, out)
	}
	return filepath.Glob(filepath.Join(dir, "*.deb"))
}
