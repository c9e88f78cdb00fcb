package container

import (
	"cmp"
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// mounts returns a container's mounts in the order in which they are made: the
// file systems of every container, then bind mounts, parents before children.
// A bind mount takes the place of a file system with the same destination; one
// at /dev also of everything below. Source: containerd's defaults.
func mounts(in Input) []specs.Mount {
	binds := bindMounts(in)
	taken := func(destination string) bool {
		return slices.ContainsFunc(binds, func(m specs.Mount) bool { return m.Destination == destination })
	}
	access := "ro"
	if privileged(in.Container) {
		access = "rw"
	}
	all := slices.DeleteFunc([]specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}, func(m specs.Mount) bool {
		return taken(m.Destination) || strings.HasPrefix(m.Destination, "/dev/") && taken("/dev")
	})
	return append(all, binds...)
}

func bindMounts(in Input) []specs.Mount {
	own := map[string]bool{}
	for _, m := range in.Mounts {
		if !m.Default {
			own[absolute(m.Destination)] = true
		}
	}
	var binds []specs.Mount
	for _, m := range in.Mounts {
		destination := absolute(m.Destination)
		if m.Default && (own[destination] || own["/dev"] && destination == "/dev/shm") {
			continue
		}
		readOnly := m.ReadOnly
		switch destination {
		case "/etc/hostname", "/etc/resolv.conf":
			// The runtime's own files follow the root file system. (/etc/hosts
			// and the termination log are the kubelet's, and stay writable.)
			readOnly = readOnly || m.Default && readOnlyRoot(in.Container)
		}
		access := "rw"
		switch {
		case readOnly && m.RecursiveReadOnly:
			access = "rro"
		case readOnly:
			access = "ro"
		}
		binds = append(binds, specs.Mount{
			Destination: destination, Type: "bind", Source: m.Source,
			Options: []string{"rbind", propagation(m.Propagation), access},
		})
	}
	slices.SortStableFunc(binds, func(a, b specs.Mount) int {
		return cmp.Compare(depth(a.Destination), depth(b.Destination))
	})
	return binds
}

// absolute cleans a path and takes a relative one from the root.
func absolute(p string) string { return path.Join("/", p) }

// depth is the number of a clean absolute path's components.
func depth(p string) int {
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

func propagation(mode v1.MountPropagationMode) string {
	switch mode {
	case v1.MountPropagationHostToContainer:
		return "rslave"
	case v1.MountPropagationBidirectional:
		return "rshared"
	}
	return "rprivate"
}

func readOnlyRoot(c *v1.Container) bool {
	s := c.SecurityContext
	return s != nil && s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
}

// devices returns the nodes of a container's /dev. There are none where a
// mount of the pod replaces /dev.
func devices(in Input) []specs.LinuxDevice {
	if slices.ContainsFunc(in.Mounts, func(m Mount) bool { return absolute(m.Destination) == "/dev" }) {
		return nil
	}
	node := func(path string, major, minor int64) specs.LinuxDevice {
		mode, root := os.FileMode(0o666), uint32(0)
		return specs.LinuxDevice{Path: path, Type: "c", Major: major, Minor: minor, FileMode: &mode, UID: &root, GID: &root}
	}
	nodes := []specs.LinuxDevice{
		node("/dev/null", 1, 3), node("/dev/zero", 1, 5), node("/dev/full", 1, 7),
		node("/dev/random", 1, 8), node("/dev/urandom", 1, 9), node("/dev/tty", 5, 0),
	}
	if !privileged(in.Container) {
		return nodes
	}
	for _, d := range in.HostDevices {
		known := slices.ContainsFunc(nodes, func(n specs.LinuxDevice) bool { return n.Path == d.Path })
		if !known && !ownDevice(d.Path) {
			nodes = append(nodes, d)
		}
	}
	return nodes
}

// ownDevice reports whether even a privileged container has its own instance of
// a device instead of the host's: terminals, and what lies in a file system of
// its own.
func ownDevice(path string) bool {
	return path == "/dev/console" || path == "/dev/ptmx" ||
		slices.ContainsFunc([]string{"/dev/pts/", "/dev/shm/", "/dev/mqueue/"}, func(dir string) bool {
			return strings.HasPrefix(path, dir)
		})
}

// deviceRules returns which devices a container may use, the last rule that
// matches counting: any may be made, only those of every container be opened.
// Source: runc.
func deviceRules(in Input) []specs.LinuxDeviceCgroup {
	if privileged(in.Container) {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	allow := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
		if major >= 0 {
			rule.Major = &major
		}
		if minor >= 0 {
			rule.Minor = &minor
		}
		return rule
	}
	const each = -1
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		allow("c", each, each, "m"),
		allow("b", each, each, "m"),
		allow("c", 1, 3, "rwm"),      // null
		allow("c", 1, 5, "rwm"),      // zero
		allow("c", 1, 7, "rwm"),      // full
		allow("c", 1, 8, "rwm"),      // random
		allow("c", 1, 9, "rwm"),      // urandom
		allow("c", 5, 0, "rwm"),      // tty
		allow("c", 5, 2, "rwm"),      // ptmx
		allow("c", 136, each, "rwm"), // pts/*
		allow("c", 10, 200, "rwm"),   // net/tun
	}
}
