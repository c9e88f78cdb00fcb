package stage

import (
	"path"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// newFS makes a detached mount of a new file system.
func newFS(fstype, source string, options []wire.KV, attrs uint64) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return -1, fsError(fs, err)
		}
	}
	for _, o := range options {
		if o.Value == "" {
			err = unix.FsconfigSetFlag(fs, o.Key)
		} else {
			err = unix.FsconfigSetString(fs, o.Key, o.Value)
		}
		if err != nil {
			return -1, fsError(fs, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fsError(fs, err)
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attrs))
}

// fsError adds what the file system itself says of the failure (fsopen(2)).
func fsError(fs int, err error) error {
	var b [256]byte
	n, rerr := unix.Read(fs, b[:])
	if rerr != nil || n < 3 {
		return err
	}
	return plainError(err.Error() + " (" + strings.TrimSpace(string(b[2:n])) + ")")
}

// attach puts a detached mount on a place, both by descriptor.
func attach(mount, place int) error {
	return unix.MoveMount(mount, "", place, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func setAttr(fd int, flags uint, a unix.MountAttr) error {
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|flags, &a)
}

func isDir(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// procFiles may be covered by a volume, as lxcfs does; nothing else in /proc may.
var procFiles = []string{
	"cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps",
	"sys/crypto/fips_enabled", "sys/kernel/ns_last_pid", "uptime",
}

// checkProc refuses mounts of volumes inside /proc: a container that can choose
// what lies at /proc/self/attr or /proc/sys controls its own confinement.
func checkProc(place int, p string) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(place, &fs); err != nil {
		return err
	}
	p = path.Clean("/" + p)
	if fs.Type != unix.PROC_SUPER_MAGIC && p != "/proc" && !strings.HasPrefix(p, "/proc/") {
		return nil
	}
	for _, f := range procFiles {
		if p == "/proc/"+f {
			return nil
		}
	}
	return plainError("nothing may be mounted inside /proc")
}

// mount performs one mount of the list.
func (s *stage) mount(m *wire.Mount) error {
	var fd int
	var err error
	dir := true
	switch m.Kind {
	case wire.MountTree:
		if m.Tree < 0 || m.Tree >= 4096 {
			return plainError("its volume did not arrive")
		}
		fd = wire.StageFiles + 1 + m.Tree
		dir = isDir(fd)
	case wire.MountFS:
		if fd, err = newFS(m.FSType, m.Source, m.Options, m.Attrs); err != nil {
			return err
		}
		defer unix.Close(fd)
	case wire.MountCgroup:
		return s.mountCgroup(m)
	}
	place, err := target(s.root, m.Target, dir)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	if m.Kind == wire.MountTree {
		if err := checkProc(place, m.Target); err != nil {
			return err
		}
	}
	if m.CopyUp && isDir(place) {
		if err := copyTree(place, fd, 0); err != nil {
			return err
		}
	}
	if err := attach(fd, place); err != nil {
		return err
	}
	if m.Propagation != 0 {
		flags, propagation := uint(0), m.Propagation
		if propagation&unix.MS_REC != 0 {
			flags, propagation = unix.AT_RECURSIVE, propagation&^unix.MS_REC
		}
		return setAttr(fd, flags, unix.MountAttr{Propagation: propagation})
	}
	return nil
}

// mountCgroup shows the cgroup tree: cgroup2 where that is all there is,
// otherwise one directory per hierarchy, as on the host.
func (s *stage) mountCgroup(m *wire.Mount) error {
	text, err := s.readProc("self/cgroup")
	if err != nil {
		return err
	}
	type hierarchy struct{ controllers string }
	var v1 []hierarchy
	unified := false
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 {
			continue
		}
		if f[1] == "" {
			unified = true
		} else {
			v1 = append(v1, hierarchy{f[1]})
		}
	}
	if len(v1) == 0 {
		fd, err := newFS("cgroup2", "cgroup", nil, m.Attrs)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return s.attachAt(fd, m.Target)
	}
	top, err := newFS("tmpfs", "cgroup", []wire.KV{{Key: "mode", Value: "755"}}, m.Attrs&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	if err := s.attachAt(top, m.Target); err != nil {
		return err
	}
	sort.Slice(v1, func(i, j int) bool { return v1[i].controllers < v1[j].controllers })
	mountOne := func(name, fstype string, options []wire.KV) error {
		fd, err := newFS(fstype, "cgroup", options, m.Attrs)
		if err != nil {
			return fail("mount cgroup hierarchy "+name, err)
		}
		defer unix.Close(fd)
		if err := unix.Mkdirat(top, name, 0o755); err != nil {
			return err
		}
		place, err := unix.Openat(top, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(place)
		return attach(fd, place)
	}
	for _, h := range v1 {
		var options []wire.KV
		name, named := strings.CutPrefix(h.controllers, "name=")
		if named {
			options = []wire.KV{{Key: "none"}, {Key: "name", Value: name}}
		} else {
			for c := range strings.SplitSeq(name, ",") {
				options = append(options, wire.KV{Key: c})
			}
		}
		if err := mountOne(name, "cgroup", options); err != nil {
			return err
		}
		if !named && strings.Contains(name, ",") {
			for c := range strings.SplitSeq(name, ",") {
				unix.Symlinkat(name, top, c)
			}
		}
	}
	if unified {
		if err := mountOne("unified", "cgroup2", nil); err != nil {
			return err
		}
	}
	if m.Attrs&unix.MOUNT_ATTR_RDONLY != 0 {
		return setAttr(top, 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	return nil
}

func (s *stage) attachAt(fd int, p string) error {
	place, err := target(s.root, p, true)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	return attach(fd, place)
}

// mask hides a path: an empty read-only directory over a directory, the null
// device over anything else. A path that does not exist needs no mask.
func (s *stage) mask(p string, null int) error {
	place, err := openIn(s.root, p, unix.O_PATH, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(place)
	var cover int
	if isDir(place) {
		cover, err = newFS("tmpfs", "tmpfs", []wire.KV{{Key: "nr_blocks", Value: "1"}, {Key: "nr_inodes", Value: "1"}, {Key: "mode", Value: "755"}},
			unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	} else {
		cover, err = unix.OpenTree(null, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	}
	if err != nil {
		return err
	}
	defer unix.Close(cover)
	return attach(cover, place)
}

// freeze makes a path read-only by mounting it, read-only, onto itself.
func (s *stage) freeze(p string) error {
	place, err := openIn(s.root, p, unix.O_PATH, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(place)
	tree, err := unix.OpenTree(place, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := setAttr(tree, unix.AT_RECURSIVE, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	return attach(tree, place)
}

// pivot makes the container's root file system the root of this namespace and
// lets go of the host's.
func (s *stage) pivot() error {
	if err := unix.Fchdir(s.root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	// The old root now lies over the new one; "." is still the old one's place.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// copyTree copies directories, regular files and links, for a tmpfs that shall
// start with what its mount point held.
func copyTree(from, to, depth int) error {
	if depth > 64 {
		return unix.ELOOP
	}
	dir, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	names, err := list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			err = copyDir(dir, to, name, st.Mode, depth)
		case unix.S_IFREG:
			err = copyFile(dir, to, name, st.Mode)
		case unix.S_IFLNK:
			buf := make([]byte, unix.PathMax)
			var n int
			if n, err = unix.Readlinkat(dir, name, buf); err == nil {
				err = unix.Symlinkat(string(buf[:n]), to, name)
			}
		default:
			continue
		}
		if err == nil {
			err = unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copyDir(from, to int, name string, mode uint32, depth int) error {
	if err := unix.Mkdirat(to, name, mode&0o7777); err != nil {
		return err
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	f, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	t, err := unix.Openat(to, name, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(t)
	return copyTree(f, t, depth+1)
}

func copyFile(from, to int, name string, mode uint32) error {
	f, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	t, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, mode&0o7777)
	if err != nil {
		return err
	}
	defer unix.Close(t)
	for {
		n, err := unix.Sendfile(t, f, nil, 1<<30)
		if err != nil || n == 0 {
			return err
		}
	}
}

// list returns the names in a directory.
func list(dir int) ([]string, error) {
	var names []string
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// procFS makes a detached procfs, known to be one: what is written through it
// cannot be redirected by anything mounted elsewhere (CVE-2025-52881).
func procFS() (int, error) {
	fd, err := newFS("proc", "proc", nil, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, err
	}
	var fs unix.Statfs_t
	if err = unix.Fstatfs(fd, &fs); err == nil && fs.Type != unix.PROC_SUPER_MAGIC {
		err = plainError("the kernel gave another file system")
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// ProcFS makes a detached procfs of this PID namespace, for [SetSysctl] and [Join].
func ProcFS() (int, error) {
	fd, err := procFS()
	return fd, fail("make a proc file system", err)
}

// SetSysctl writes a kernel parameter of the namespaces we are in. Dots and
// slashes both separate the parts of the key.
func SetSysctl(proc int, key, value string) error {
	step := "set sysctl " + key
	p := key
	if !strings.Contains(key, "/") {
		p = strings.ReplaceAll(key, ".", "/")
	}
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(proc, "sys/"+p, &how)
	if err != nil {
		return fail(step, err)
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return fail(step, err)
}

func (s *stage) readProc(p string) (string, error) {
	fd, err := unix.Openat(s.proc, p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return "", err
		}
		if n == 0 {
			return string(all), nil
		}
		all = append(all, buf[:n]...)
	}
}
