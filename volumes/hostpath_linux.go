package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

func checkHostPath(source *v1.HostPathVolumeSource) error {
	if !filepath.IsAbs(source.Path) {
		return fmt.Errorf("hostPath %q: expected an absolute path", source.Path)
	}
	if slices.Contains(strings.Split(source.Path, "/"), "..") {
		return fmt.Errorf("hostPath %q: must not contain '..'", source.Path)
	}
	return nil
}

// ensureHostPath makes what a type with OrCreate asks for and checks what is
// there, links followed. A path without a type is not checked; a missing one
// becomes a directory, as container runtimes make it. What is there already is
// never changed.
func ensureHostPath(source *v1.HostPathVolumeSource) error {
	if err := checkHostPath(source); err != nil {
		return err
	}
	path := source.Path
	kind := v1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	switch kind {
	case v1.HostPathUnset:
		return makeHostDir(path)
	case v1.HostPathDirectoryOrCreate:
		if err := makeHostDir(path); err != nil {
			return err
		}
		return expectHostPath(path, "directory", fs.FileMode.IsDir)
	case v1.HostPathDirectory:
		return expectHostPath(path, "directory", fs.FileMode.IsDir)
	case v1.HostPathFileOrCreate:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			err = errors.Join(f.Chmod(0o644), f.Close())
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return expectHostPath(path, "file", fs.FileMode.IsRegular)
	case v1.HostPathFile:
		return expectHostPath(path, "file", fs.FileMode.IsRegular)
	case v1.HostPathSocket:
		return expectHostPath(path, "socket file", func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 })
	case v1.HostPathCharDev:
		return expectHostPath(path, "character device", func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 })
	case v1.HostPathBlockDev:
		return expectHostPath(path, "block device", func(m fs.FileMode) bool {
			return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
		})
	}
	return fmt.Errorf("hostPath type %q is not one of DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice, BlockDevice", kind)
}

// SourceThere tells whether the source of a volume that could not be set up is
// there by now, as far as that is seen by looking: a hostPath of a type that is not
// made when missing.
func SourceThere(v v1.Volume) bool {
	if v.HostPath == nil || v.HostPath.Type == nil {
		return false
	}
	switch *v.HostPath.Type {
	case v1.HostPathUnset, v1.HostPathDirectoryOrCreate, v1.HostPathFileOrCreate:
		return false
	}
	return ensureHostPath(v.HostPath) == nil
}

// makeHostDir makes a directory, with its parents, where nothing is.
func makeHostDir(path string) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.MkdirAll(path, 0o755)
}

// expectHostPath says, in the kubelet's words, what a path is not.
func expectHostPath(path, what string, is func(fs.FileMode) bool) error {
	info, err := os.Stat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	if err != nil || !is(info.Mode()) {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
	}
	return nil
}

// openHostPath opens what the path names now, links followed.
func openHostPath(source *v1.HostPathVolumeSource) (*os.File, error) {
	if err := checkHostPath(source); err != nil {
		return nil, err
	}
	return openPath(source.Path, 0)
}
