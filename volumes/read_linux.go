package volumes

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// ReadFile reads a regular file below the root of a volume, at most limitBytes
// of it; one that is larger is an error. Links lead no further than the volume.
// A missing file is an error that matches os.ErrNotExist. It never waits for what
// a workload put there, such as a FIFO.
func ReadFile(p Pod, v v1.Volume, name string, limitBytes int64) ([]byte, error) {
	if err := check(p, v); err != nil {
		return nil, err
	}
	if path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), "..") {
		return nil, fmt.Errorf("%q is not a relative path without ..", name)
	}
	root, err := openVolume(p, v)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// What it is must be known before it is opened for reading: opening a device
	// can do things.
	found, err := openat2(root, name, unix.O_PATH, beneath)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	info, err := found.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", name)
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", found.Fd()))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limitBytes+1))
	if err == nil && int64(len(data)) > limitBytes {
		err = fmt.Errorf("%q is larger than %d bytes", name, limitBytes)
	}
	return data, err
}
