package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLayers is below overlayfs' own limit of 500 by one, which [Store.Rootfs]
	// may need.
	maxLayers = 499
	// maxFsconfigString is the longest value that fsconfig(2) takes.
	maxFsconfigString = 255
)

// parallelUnpacks is how many layers of one image are unpacked at a time.
var parallelUnpacks = max(2, runtime.NumCPU())

// Rootfs mounts an image's root file system and returns it as a detached mount:
// the caller attaches it (move_mount(2)) and closes it, and it goes with its last
// user. Changes are kept in dir/upper; dir/work belongs to the kernel. Both are
// made if they are missing, and an upper with content is kept, so that a
// container can be given its changes again.
//
// With readOnly there is no upper, dir is not used and may be empty, and nothing
// can be made in the mount, no mount points either: that is for image volumes. A
// container with a read-only root needs a mount that is made read-only when its
// mount points are there.
//
// It notes the image as used.
func (s *Store) Rootfs(ctx context.Context, img *Image, dir string, readOnly bool) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lower, err := s.lowerNames(img)
	if err != nil {
		return nil, fmt.Errorf("cannot mount image %s: %w", img.displayName(), err)
	}
	o := overlay{layers: s.layers, lower: lower, readOnly: readOnly}
	if readOnly {
		// One layer alone is no overlay, and mounting it directly would hand out
		// the shared directory itself.
		if len(o.lower) == 1 {
			if err := os.MkdirAll(filepath.Join(s.layers, emptyLayer), 0o755); err != nil {
				return nil, fmt.Errorf("cannot mount image %s: %w", img.displayName(), err)
			}
			o.lower = []string{lower[0], emptyLayer}
		}
	} else if o.upper, o.work, err = makeUpper(dir, filepath.Join(s.layers, lower[0])); err != nil {
		return nil, fmt.Errorf("cannot mount image %s: %w", img.displayName(), err)
	}
	mount, err := o.mount()
	if err != nil {
		return nil, fmt.Errorf("cannot mount image %s: %w", img.displayName(), err)
	}
	s.touch(img.ID, time.Now())
	return mount, nil
}

// emptyLayer is a directory that stays empty.
const emptyLayer = "empty"

func (img *Image) displayName() string {
	if len(img.Names) > 0 {
		return img.Names[0]
	}
	return img.ID
}

// lowerNames returns the directories of an image's layers below layers/, the
// topmost first.
func (s *Store) lowerNames(img *Image) ([]string, error) {
	st, err := s.state()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, chain := range slices.Backward(img.Layers) {
		layer, ok := st.unpacked[chain.String()]
		if !ok {
			return nil, fmt.Errorf("%w: its layer %s was removed", ErrNotFound, chain)
		}
		names = append(names, strconv.Itoa(layer.Number))
		if layer.Opaque {
			break
		}
	}
	if len(names) == 0 {
		return nil, errors.New("it has no layers")
	}
	return names, nil
}

// makeUpper makes the directories for changes. The root of a mount looks like
// the upper directory, so a new one gets the looks of the topmost layer's root.
func makeUpper(dir, top string) (upper, work string, err error) {
	upper, work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", err
	}
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", "", err
	}
	// Complete before it has its name: an upper that is there is a good one.
	if exists(upper) {
		return upper, work, nil
	}
	draft := filepath.Join(dir, "upper.new")
	if err := os.Mkdir(draft, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", "", err
	}
	from, err := os.Open(top)
	if err != nil {
		return "", "", err
	}
	defer from.Close()
	to, err := os.Open(draft)
	if err != nil {
		return "", "", err
	}
	defer to.Close()
	if err := copyLooks(int(from.Fd()), int(to.Fd())); err != nil {
		return "", "", err
	}
	return upper, work, os.Rename(draft, upper)
}

// overlay is an overlay mount to be made.
type overlay struct {
	layers      string   // the directory of the layers
	lower       []string // names below it, the topmost first
	upper, work string   // paths; empty without upper
	readOnly    bool
}

// mount makes the overlay, one layer at a time where the kernel can (6.5).
func (o overlay) mount() (*os.File, error) {
	if takesAnything() {
		return o.mountAtOnce()
	}
	f, err := o.mountByParts()
	if errors.Is(err, errNoParts) {
		return o.mountAtOnce()
	}
	return f, err
}

// takesAnything says that the kernel gathers parameters of overlayfs without a
// look at them, for mount(2) as it was: so did Linux before 6.5. What it does not
// know, it refuses only when all is there.
var takesAnything = sync.OnceValue(func() bool {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false // told when it is mounted
	}
	defer unix.Close(fd)
	return unix.FsconfigSetFlag(fd, "podd_knows_of_no_such_flag") == nil
})

var errNoParts = errors.New("this kernel takes no layers one by one")

// mountByParts uses the parameter lowerdir+ of Linux 6.5.
// Source: kernel documentation, filesystems/overlayfs.rst.
func (o overlay) mountByParts() (*os.File, error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot use overlayfs: %w", err)
	}
	defer unix.Close(fd)
	for i, name := range o.lower {
		if err := o.setPath(fd, "lowerdir+", filepath.Join(o.layers, name)); err != nil {
			if i == 0 && err == unix.EINVAL {
				return nil, errNoParts
			}
			return nil, kernelSays(fd, err)
		}
	}
	if o.upper != "" {
		if err := o.setPath(fd, "upperdir", o.upper); err != nil {
			return nil, kernelSays(fd, err)
		}
		if err := o.setPath(fd, "workdir", o.work); err != nil {
			return nil, kernelSays(fd, err)
		}
	}
	if err := unix.FsconfigSetString(fd, "source", "podd"); err != nil {
		return nil, kernelSays(fd, err)
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, kernelSays(fd, err)
	}
	attributes := 0
	if o.readOnly {
		attributes = unix.MOUNT_ATTR_RDONLY
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, kernelSays(fd, err)
	}
	return os.NewFile(uintptr(mount), "rootfs"), nil
}

// setPath hands a directory over by name, or by descriptor if the name is too
// long for fsconfig, or has a character that overlayfs takes for more than
// itself: a backslash quotes, in some versions a colon or comma separates.
func (o overlay) setPath(fd int, key, path string) error {
	if len(path) <= maxFsconfigString && !strings.ContainsAny(path, `\:,`) {
		return unix.FsconfigSetString(fd, key, path)
	}
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return unix.FsconfigSetString(fd, key, "/proc/self/fd/"+strconv.Itoa(dir))
}

// kernelSays adds what the kernel wrote about a failed mount.
func kernelSays(fd int, err error) error {
	var text []string
	buf := make([]byte, 1024)
	for {
		n, readErr := unix.Read(fd, buf)
		if readErr != nil || n <= 0 {
			break
		}
		line := strings.TrimSpace(string(buf[:n]))
		if rest, ok := strings.CutPrefix(line, "e "); ok {
			text = append(text, rest)
		}
	}
	if len(text) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(text, "; "))
}

// mountAtOnce uses mount(2), which takes all layers in one string of at most a
// page: their names are short and relative to layers/. It happens on a thread
// with a mount namespace of its own, so that the mount is seen nowhere, and the
// thread, and with it the namespace, dies afterwards.
func (o overlay) mountAtOnce() (*os.File, error) {
	var mount *os.File
	var err error
	onThrowAwayThread(func() { mount, err = o.mountOnThread() })
	return mount, err
}

// onThrowAwayThread runs f on a thread that dies afterwards. It is never the
// first thread of the process: what f does to that one, /proc/self would show,
// and it cannot die alone.
func onThrowAwayThread(f func()) {
	done := make(chan struct{})
	// Started here, ends with f; owns its thread.
	go func() {
		defer close(done)
		runtime.LockOSThread() // not unlocked: the thread dies with the goroutine
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		onThrowAwayThread(f) // while the first thread is held here, it gets another
		runtime.UnlockOSThread()
	}()
	<-done
}

func (o overlay) mountOnThread() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("cannot leave the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("cannot make mounts private: %w", err)
	}
	if err := unix.Chdir(o.layers); err != nil {
		return nil, err
	}
	options := "lowerdir=" + strings.Join(o.lower, ":")
	if o.upper != "" {
		// Descriptors stand for the two paths, which may hold commas and colons.
		upper, err := unix.Open(o.upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(upper)
		work, err := unix.Open(o.work, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(work)
		options += fmt.Sprintf(",upperdir=/proc/thread-self/fd/%d,workdir=/proc/thread-self/fd/%d", upper, work)
	}
	var flags uintptr
	if o.readOnly {
		flags = unix.MS_RDONLY
	}
	if len(options) >= os.Getpagesize() {
		return nil, fmt.Errorf("%d layers are too many for this kernel; Linux 6.5 has no such limit", len(o.lower))
	}
	if err := unix.Mount("podd", ".", "overlay", flags, options); err != nil {
		return nil, fmt.Errorf("cannot mount overlayfs: %w", err)
	}
	mount, err := unix.OpenTree(unix.AT_FDCWD, o.layers, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(mount), "rootfs"), nil
}

// refuseOverlay refuses a directory on overlayfs: an overlay on an overlay
// mostly works, and fails in ways that nobody expects.
func refuseOverlay(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return errors.New("the directory lies on overlayfs, as in a container, where image layers cannot be stacked again; choose a root directory on a disk or a volume")
	}
	return nil
}
