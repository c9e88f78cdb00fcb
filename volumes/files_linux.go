package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// Volumes of files: configMap, secret, downwardAPI and projected. The agent writes
// them, containers read them, and all files of one change together:
//
//	<volume>/..2026_01_02_03_04_05.123456789/   the files
//	<volume>/..data → that directory
//	<volume>/name → ..data/name                 for each name in the volume's root
//
// A change writes a new directory and renames another ..data over the old one.
// Source: Kubernetes, the atomic writer of its volumes.

// Files is what a volume of files holds.
type Files struct {
	// Files are its files by relative path.
	Files map[string]File
	// MountPoints are directories in the volume that containers mount other
	// volumes on: they cannot be made in a read-only mount.
	MountPoints []string
}

// File is a regular file that belongs to root.
type File struct {
	Data []byte
	Mode fs.FileMode // permission bits
}

// HoldsFiles says whether a volume is one of files: [Ensure] brings it up to date
// each time.
func HoldsFiles(v v1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// filesPlugin is the kubelet's directory for a volume of files. What may be
// secret is never on a disk.
func filesPlugin(v v1.Volume) (plugin string, memory bool) {
	switch {
	case v.ConfigMap != nil:
		return "kubernetes.io~configmap", false
	case v.Secret != nil:
		return "kubernetes.io~secret", true
	case v.DownwardAPI != nil:
		return "kubernetes.io~downward-api", true
	}
	return "kubernetes.io~projected", true
}

// ensureFiles makes the volume if it is missing and writes what changed. Its
// error is what kept the files from being known, as it is, or names the volume.
func ensureFiles(ctx context.Context, p Pod, v v1.Volume) error {
	if p.Files == nil {
		return fmt.Errorf("cannot set up volume %q: nobody knows its files", v.Name)
	}
	want, err := p.Files(v)
	if err != nil {
		return err
	}
	plugin, memory := filesPlugin(v)
	var fs *tmpfs
	if memory {
		fs = &tmpfs{mode: 0o1777} // without a size: no workload writes to it
	}
	err = ensureDir(ctx, p, plugin, v.Name, fs)
	if err == nil {
		err = writeFiles(ctx, p, v, want)
	}
	if err != nil {
		return fmt.Errorf("cannot set up volume %q: %w", v.Name, err)
	}
	return nil
}

// openFiles opens the volume's root if it is set up.
func openFiles(p Pod, v v1.Volume) (*os.File, error) {
	plugin, memory := filesPlugin(v)
	dir, err := openDir(p, plugin, v.Name, memory)
	if err != nil {
		return nil, err
	}
	if _, err := openedData(dir); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

const dataLink = "..data"

// openedData reads where ..data leads.
func openedData(dir *os.File) (string, error) {
	buf := make([]byte, unix.NAME_MAX+1)
	n, err := unix.Readlinkat(int(dir.Fd()), dataLink, buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: filepath.Join(dir.Name(), dataLink), Err: err}
	}
	return string(buf[:n]), nil
}

// writeFiles brings the volume's files to want. A privileged container may have
// put anything there: nothing is reached through a link that leads out.
func writeFiles(ctx context.Context, p Pod, v v1.Volume, want Files) error {
	plugin, memory := filesPlugin(v)
	dir, err := openDir(p, plugin, v.Name, memory)
	if err != nil {
		return err
	}
	defer dir.Close()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return err
	}
	defer root.Close()
	for _, m := range want.MountPoints {
		if err := root.MkdirAll(m, 0o755); err != nil {
			return err
		}
	}
	current, err := openedData(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil || !holds(root, current, want.Files) {
		current = newVersionName()
		if err := writeVersion(ctx, p, root, filepath.Join(p.Dir, "volumes", plugin, v.Name), current, want.Files); err != nil {
			return errors.Join(err, root.RemoveAll(current))
		}
		if err := pointTo(root, current); err != nil {
			return err
		}
	}
	return errors.Join(linkNames(root, want.Files), removeOld(root, current, want.Files))
}

// newVersionName is unique in its volume, also when the clock is set back.
func newVersionName() string {
	return time.Now().UTC().Format("..2006_01_02_15_04_05.") + fmt.Sprintf("%09d", rand.IntN(1e9))
}

// holds says whether a version consists of exactly these files.
func holds(root *os.Root, version string, files map[string]File) bool {
	if !isVersion(version) {
		return false
	}
	found := 0
	err := fs.WalkDir(root.FS(), version, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, wanted := files[strings.TrimPrefix(name, version+"/")]
		if !wanted || !d.Type().IsRegular() {
			return fs.ErrExist
		}
		data, err := root.ReadFile(name)
		if err == nil && !bytes.Equal(data, f.Data) {
			err = fs.ErrExist
		}
		clear(data) // of a Secret, perhaps
		found++
		return err
	})
	return err == nil && found == len(files)
}

func isVersion(name string) bool {
	return strings.HasPrefix(name, "..") && len(name) > 2 && !strings.Contains(name, "/") && name != dataLink
}

// writeVersion writes files into a new directory of the volume at the path
// volume.
func writeVersion(ctx context.Context, p Pod, root *os.Root, volume, version string, files map[string]File) error {
	makeDir := func(name string) error {
		err := root.Mkdir(name, 0o755)
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		if err == nil {
			err = root.Chmod(name, 0o755) // whatever the agent's umask
		}
		return err
	}
	if err := makeDir(version); err != nil {
		return err
	}
	for name, f := range files {
		at := version
		for part := range strings.SplitSeq(path.Dir(name), "/") {
			if at = path.Join(at, part); at != version {
				if err := makeDir(at); err != nil {
					return err
				}
			}
		}
		if err := writeFile(root, path.Join(version, name), f); err != nil {
			return err
		}
	}
	if p.FSGroup == nil {
		return nil
	}
	return SetGroup(ctx, filepath.Join(volume, version), *p.FSGroup, true, v1.FSGroupChangeAlways)
}

func writeFile(root *os.Root, name string, f File) error {
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(f.Data)
	if err == nil {
		err = out.Chmod(f.Mode.Perm())
	}
	return errors.Join(err, out.Close())
}

// pointTo makes a version the one that containers see.
func pointTo(root *os.Root, version string) error {
	const unfinished = "..data_tmp"
	if err := root.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := root.Symlink(version, unfinished); err != nil {
		return err
	}
	return root.Rename(unfinished, dataLink)
}

// linkNames makes a link for each name in the volume's root.
func linkNames(root *os.Root, files map[string]File) error {
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		target := dataLink + "/" + top
		if at, err := root.Readlink(top); err == nil && at == target {
			continue
		}
		err := root.Symlink(target, top)
		if errors.Is(err, os.ErrExist) {
			// What stands there may be the directory that a missing subPath became.
			if err = root.Remove(top); err == nil {
				err = root.Symlink(target, top)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeOld removes the links of names that are gone, and every version but the
// current one.
func removeOld(root *os.Root, current string, files map[string]File) error {
	wanted := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		wanted[top] = true
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		switch name := e.Name(); {
		case name == dataLink || name == current || wanted[name]:
		case strings.HasPrefix(name, ".."):
			errs = append(errs, root.RemoveAll(name))
		case e.Type() == fs.ModeSymlink:
			if at, err := root.Readlink(name); err == nil && at == dataLink+"/"+name {
				errs = append(errs, root.Remove(name))
			}
		}
	}
	return errors.Join(errs...)
}
