package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// limits bound one unpacked layer.
type limits struct {
	bytes, files int64
}

const (
	// maxDepth bounds nested directories, so that deleting a layer stays cheap.
	maxDepth = 512
	// maxMarks bounds what unpacking reports about directories.
	maxMarks = 200_000

	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// marks are directories of a layer that need more work, which is done outside:
// the one who unpacks sees neither lower layers nor may it set trusted
// attributes. Paths are relative to the layer; "." is its root.
type marks struct {
	Implicit []string // have no entry of their own: they look as in the lower layers
	Opaque   []string // hide what the lower layers have there
}

// untar unpacks one layer's tar stream into an empty directory, in the form that
// overlayfs wants: a whiteout becomes a character device 0:0. Every name is
// resolved with the directory as its root.
// Source: OCI image specification, layer.md.
func untar(root *os.File, stream io.Reader, limit limits) (marks, int64, error) {
	u := &unpacker{
		root:     int(root.Fd()),
		limit:    limit,
		parent:   -1,
		implicit: map[string]bool{".": true},
		opaque:   map[string]bool{},
		depth:    map[uint64]int{},
		buf:      make([]byte, 256<<10),
	}
	defer u.forgetParent()
	defer runtime.KeepAlive(root) // its number alone would not keep it open
	var st unix.Stat_t
	if err := unix.Fstat(u.root, &st); err != nil {
		return marks{}, 0, err
	}
	u.depth[st.Ino] = 0
	r := tar.NewReader(stream)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return marks{}, 0, fmt.Errorf("cannot read the tar stream: %w", err)
		}
		if err := u.entry(h, r); err != nil {
			return marks{}, 0, fmt.Errorf("entry %s: %w", quoted(h.Name), err)
		}
	}
	if err := u.finishTimes(); err != nil {
		return marks{}, 0, err
	}
	m := marks{Implicit: keys(u.implicit), Opaque: keys(u.opaque)}
	return m, u.bytes, nil
}

func keys(set map[string]bool) []string {
	list := make([]string, 0, len(set))
	for k := range set {
		list = append(list, k)
	}
	slices.Sort(list) // parents first
	return list
}

// quoted keeps error texts short.
func quoted(name string) string {
	if len(name) > 120 {
		return fmt.Sprintf("%q… (%d bytes)", name[:120], len(name))
	}
	return fmt.Sprintf("%q", name)
}

type unpacker struct {
	root  int
	limit limits
	bytes int64
	files int64

	// The last entry's directory, because the next one is mostly in it too.
	parent     int
	parentName string

	implicit map[string]bool
	opaque   map[string]bool
	depth    map[uint64]int // of directories, by inode
	times    []dirTime
	buf      []byte
}

// dirTime is a directory's modification time, set when nothing more is made in it.
type dirTime struct {
	name  string
	mtime time.Time
}

var errNotDirectory = errors.New("not a directory")

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("entries of type %q are not supported", h.Typeflag)
	}
	if u.files++; u.files > u.limit.files {
		return fmt.Errorf("the layer has more than %d entries", u.limit.files)
	}
	if h.Uid < 0 || h.Gid < 0 || h.Uid >= math.MaxUint32 || h.Gid >= math.MaxUint32 {
		return fmt.Errorf("owner %d:%d is out of range", h.Uid, h.Gid)
	}
	name, err := layerPath(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root of a layer can only be a directory")
		}
		delete(u.implicit, ".")
		u.times = append(u.times, dirTime{".", h.ModTime})
		return fileMetadata(u.root, h)
	}
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if err := u.openParent(dir); err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(dir, base)
	}
	return u.make(h, content, name, base)
}

// layerPath makes a name relative to the layer: "/etc/x" and "./etc/x" are
// etc/x, the root is ".".
func layerPath(name string) (string, error) {
	if len(name) >= unix.PathMax {
		return "", fmt.Errorf("a path may have %d bytes", unix.PathMax-1)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", errors.New(`the name leads out of the layer with ".."`)
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > unix.NAME_MAX {
			return "", fmt.Errorf("a part of the path may have %d bytes, one has %d", unix.NAME_MAX, len(part))
		}
	}
	return clean, nil
}

func (u *unpacker) forgetParent() {
	if u.parent >= 0 && u.parent != u.root {
		unix.Close(u.parent)
	}
	u.parent, u.parentName = -1, ""
}

// openParent makes dir the current directory of entries, and makes it and the
// directories above if they are missing.
func (u *unpacker) openParent(dir string) error {
	if u.parent >= 0 && u.parentName == dir {
		return nil
	}
	u.forgetParent()
	if dir == "." {
		u.parent, u.parentName = u.root, dir
		return nil
	}
	fd, err := u.openDir(dir)
	if err == unix.ENOENT {
		fd, err = u.makeParents(dir)
	}
	switch err {
	case nil:
		u.parent, u.parentName = fd, dir
		return nil
	case unix.ENOTDIR:
		return fmt.Errorf("a directory above it is %w in this layer", errNotDirectory)
	case unix.ELOOP:
		return errors.New("the symbolic links above it lead in a circle")
	}
	return fmt.Errorf("cannot open its directory: %w", err)
}

// openDir opens a directory of the layer. Symbolic links are followed as a
// process would whose root is the layer.
func (u *unpacker) openDir(name string) (int, error) {
	return openInRoot(u.root, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
}

func openInRoot(root int, name string, flags uint64) (int, error) {
	for {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

func (u *unpacker) makeParents(dir string) (int, error) {
	at := u.root
	var made string
	for part := range strings.SplitSeq(dir, "/") {
		made = path.Join(made, part)
		fd, err := u.openDir(made)
		if err == unix.ENOENT {
			if err = u.mkdir(at, part); err == unix.EEXIST {
				err = unix.ENOTDIR // a symbolic link to nowhere
			}
			if err == nil {
				if err = u.mark(u.implicit, made); err == nil {
					fd, err = u.openDir(made)
				}
			}
		}
		if at != u.root {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at = fd
	}
	return at, nil
}

func (u *unpacker) mark(set map[string]bool, name string) error {
	if len(u.implicit)+len(u.opaque) >= maxMarks {
		return fmt.Errorf("the layer has more than %d directories that are opaque or have no entry of their own", maxMarks)
	}
	set[name] = true
	return nil
}

// mkdir makes a directory and watches how deep the layer becomes.
func (u *unpacker) mkdir(parent int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstat(parent, &st); err != nil {
		return err
	}
	depth := u.depth[st.Ino] + 1
	if depth > maxDepth {
		return fmt.Errorf("directories are nested more than %d deep", maxDepth)
	}
	if err := unix.Mkdirat(parent, base, 0o755); err != nil {
		return err
	}
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	u.depth[st.Ino] = depth
	return nil
}

// whiteout hides what lower layers have. What this layer itself brings stays.
func (u *unpacker) whiteout(dir, base string) error {
	if base == opaqueMarker {
		return u.mark(u.opaque, dir)
	}
	if strings.HasPrefix(base, aufsPrefix) {
		return nil // bookkeeping of a file system of old
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return fmt.Errorf("a whiteout of %q", hidden)
	}
	existing, found, err := u.look(hidden)
	if err != nil {
		return err
	}
	if found {
		if existing.Mode&unix.S_IFMT == unix.S_IFDIR {
			return u.mark(u.opaque, path.Join(dir, hidden))
		}
		return nil
	}
	return unix.Mknodat(u.parent, hidden, unix.S_IFCHR, int(unix.Mkdev(0, 0)))
}

func (u *unpacker) look(base string) (unix.Stat_t, bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(u.parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return st, false, nil
	}
	return st, err == nil, err
}

// make makes one entry in the current directory. A later entry replaces an
// earlier one of the same name.
func (u *unpacker) make(h *tar.Header, content io.Reader, name, base string) error {
	existing, found, err := u.look(base)
	if err != nil {
		return err
	}
	isDir := found && existing.Mode&unix.S_IFMT == unix.S_IFDIR
	if h.Typeflag == tar.TypeDir {
		return u.makeDir(h, name, base, found, isDir)
	}
	if h.Typeflag == tar.TypeLink {
		return u.makeLink(h, base, &existing, found, isDir)
	}
	if err := u.clear(base, found, isDir); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, u.parent, base); err != nil {
			return err
		}
		if err := unix.Fchownat(u.parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		return u.setTime(u.parent, base, h.ModTime)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.makeDevice(h, base)
	}
	return u.makeFile(h, content, base)
}

// clear removes what an entry replaces. Marks below it may stay: what they name
// is then not there, or was made anew and hides the lower layers' rightly.
func (u *unpacker) clear(base string, found, isDir bool) error {
	switch {
	case !found:
		return nil
	case isDir:
		return removeTree(u.parent, base)
	}
	return unix.Unlinkat(u.parent, base, 0)
}

// removeTree removes a directory and all in it, following nothing.
func removeTree(parent int, base string) error {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), base)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Unlinkat(fd, name, 0)
		if err == unix.EISDIR {
			err = removeTree(fd, name)
		}
		if err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}

func (u *unpacker) makeDir(h *tar.Header, name, base string, found, isDir bool) error {
	if found && !isDir {
		// A whiteout or a file hid the lower layers' directory before this one
		// was made: nothing of theirs shows in it.
		if err := u.mark(u.opaque, name); err != nil {
			return err
		}
		if err := unix.Unlinkat(u.parent, base, 0); err != nil {
			return err
		}
	}
	if !isDir {
		if err := u.mkdir(u.parent, base); err != nil {
			return err
		}
	}
	delete(u.implicit, name)
	fd, err := unix.Openat(u.parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	u.times = append(u.times, dirTime{name, h.ModTime})
	return fileMetadata(fd, h)
}

// fileMetadata sets owner, then mode, then attributes: a change of owner clears
// set-id bits, and both clear capabilities.
func fileMetadata(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("cannot set its owner: %w", err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return fmt.Errorf("cannot set its mode: %w", err)
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !keepAttribute(attr) {
			continue
		}
		if err := unix.Fsetxattr(fd, attr, []byte(value), 0); err != nil && !(err == unix.ENOTSUP && attr != "security.capability") {
			return fmt.Errorf("cannot set its attribute %s: %w", quoted(attr), err)
		}
	}
	return nil
}

// keepAttribute says whether a layer may set an extended attribute. Those by
// which overlayfs, or a security module of the host, is steered are left out.
func keepAttribute(attr string) bool {
	switch {
	case strings.HasPrefix(attr, "user.overlay."):
		return false
	case strings.HasPrefix(attr, "user."):
		return true
	}
	return attr == "security.capability" || attr == "system.posix_acl_access" || attr == "system.posix_acl_default"
}

func (u *unpacker) setTime(parent int, base string, mtime time.Time) error {
	ts, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return fmt.Errorf("cannot set its time: %w", err)
	}
	if err := unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot set its time: %w", err)
	}
	return nil
}

// finishTimes sets the directories' times, which making files in them changed.
func (u *unpacker) finishTimes() error {
	u.forgetParent()
	for _, t := range slices.Backward(u.times) {
		parent, base := u.root, "."
		if t.name != "." {
			dir, last := path.Split(t.name)
			fd, err := u.openDir(path.Join(".", dir))
			if err != nil {
				continue // a later entry replaced it
			}
			parent, base = fd, last
		}
		err := u.setTime(parent, base, t.mtime)
		if parent != u.root {
			unix.Close(parent)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("entry %s: %w", quoted(t.name), err)
		}
	}
	return nil
}

// makeLink makes a hard link to an earlier entry of the layer.
func (u *unpacker) makeLink(h *tar.Header, base string, existing *unix.Stat_t, found, isDir bool) error {
	target, err := layerPath(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", quoted(h.Linkname), err)
	}
	dir, last := path.Split(target)
	from, err := u.openDir(path.Join(".", dir))
	if err != nil {
		return fmt.Errorf("hard link to %s, which this layer does not have", quoted(h.Linkname))
	}
	defer unix.Close(from)
	var st unix.Stat_t
	if err := unix.Fstatat(from, last, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("hard link to %s, which this layer does not have", quoted(h.Linkname))
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("hard link to %s, which is a directory", quoted(h.Linkname))
	}
	if found && existing.Ino == st.Ino {
		return nil
	}
	name := path.Join(u.parentName, base)
	if found && isDir {
		// The target may be inside of what the link replaces.
		if target == name || strings.HasPrefix(target, name+"/") {
			return fmt.Errorf("hard link to %s would replace what it links to", quoted(h.Linkname))
		}
	}
	if err := u.clear(base, found, isDir); err != nil {
		return err
	}
	if err := unix.Linkat(from, last, u.parent, base, 0); err != nil {
		return fmt.Errorf("hard link to %s: %w", quoted(h.Linkname), err)
	}
	return nil
}

func (u *unpacker) makeDevice(h *tar.Header, base string) error {
	mode := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	case tar.TypeFifo:
		mode |= unix.S_IFIFO
	}
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor >= 1<<12 || h.Devminor >= 1<<20 {
		return fmt.Errorf("device number %d:%d is out of range", h.Devmajor, h.Devminor)
	}
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	if err := unix.Mknodat(u.parent, base, mode, int(dev)); err != nil {
		return err
	}
	if err := unix.Fchownat(u.parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	// Not a symbolic link: it was made two lines above, and nobody else is here.
	if err := unix.Fchmodat(u.parent, base, uint32(h.Mode)&0o7777, 0); err != nil {
		return err
	}
	return u.setTime(u.parent, base, h.ModTime)
}

func (u *unpacker) makeFile(h *tar.Header, content io.Reader, base string) error {
	if h.Size > u.limit.bytes-u.bytes {
		return fmt.Errorf("the layer has more than %d bytes of files", u.limit.bytes)
	}
	u.bytes += h.Size
	fd, err := unix.Openat(u.parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if isSparse(h) {
		err = u.copySparse(f, content, h.Size)
	} else {
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, content, u.buf)
	}
	if err != nil {
		return fmt.Errorf("cannot write its content: %w", err)
	}
	if err := fileMetadata(fd, h); err != nil {
		return err
	}
	return u.setTime(u.parent, base, h.ModTime)
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

var zeros [4096]byte

// copySparse copies a file and leaves holes where it has blocks of zeros.
func (u *unpacker) copySparse(f *os.File, content io.Reader, size int64) error {
	for offset := int64(0); offset < size; {
		n, err := io.ReadFull(content, u.buf[:min(int64(len(u.buf)), size-offset)])
		for block := range slices.Chunk(u.buf[:n], len(zeros)) {
			if !bytes.Equal(block, zeros[:len(block)]) {
				if _, err := f.WriteAt(block, offset); err != nil {
					return err
				}
			}
			offset += int64(len(block))
		}
		if err != nil {
			return err
		}
	}
	return f.Truncate(size)
}
