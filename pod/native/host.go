package native

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"podd/container/seccomp"
)

// boundingCapabilities names what the agent can give to containers.
func boundingCapabilities() ([]string, error) {
	caps, err := capability.NewPid2(0)
	if err == nil {
		err = caps.Load()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the agent's capabilities: %w", err)
	}
	var names []string
	for _, c := range capability.ListKnown() {
		if caps.Get(capability.BOUNDING, c) {
			names = append(names, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return names, nil
}

func kernelVersion() (seccomp.Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return seccomp.Kernel{}, fmt.Errorf("cannot tell the kernel's version: %w", err)
	}
	return seccomp.ParseKernel(unix.ByteSliceToString(u.Release[:]))
}

// hostDevices lists the device nodes below /dev for privileged containers, but
// for terminals, which are the container's own.
func hostDevices() []specs.LinuxDevice {
	var devices []specs.LinuxDevice
	filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // a device that went away while we looked
		}
		if d.IsDir() {
			switch path {
			case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 || path == "/dev/console" || path == "/dev/ptmx" {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		kind := "b"
		if d.Type()&fs.ModeCharDevice != 0 {
			kind = "c"
		}
		mode := os.FileMode(st.Mode & 0o7777)
		devices = append(devices, specs.LinuxDevice{
			Path: path, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
			FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		})
		return nil
	})
	return devices
}
