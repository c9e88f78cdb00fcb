package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// TryOverlay mounts an overlay that is attached nowhere: it is gone with its
// descriptor, whatever happens to this process.
func TryOverlay(dir string) error {
	for {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	tmp, err := os.MkdirTemp(dir, ".doctor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("the kernel has no overlay file system (modprobe overlay): %w", err)
	}
	defer unix.Close(fsfd)
	for option, name := range map[string]string{"lowerdir": "l", "upperdir": "u", "workdir": "w"} {
		path := filepath.Join(tmp, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		// Not by its path: that may be too long, and some characters in it mean
		// something to overlayfs.
		dirfd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(dirfd)
		if err := unix.FsconfigSetString(fsfd, option, "/proc/self/fd/"+strconv.Itoa(dirfd)); err != nil {
			return fmt.Errorf("overlay refuses %s: %w", option, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return fmt.Errorf("overlay cannot write there: %w", err)
	}
	mnt, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot mount an overlay: %w", err)
	}
	defer unix.Close(mnt)
	// Some file systems let an overlay be mounted that then is read-only.
	var st unix.Statfs_t
	if err := unix.Fstatfs(mnt, &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return errors.New("an overlay is read-only there")
	}
	return nil
}

// ClockSynchronised tells whether somebody keeps the clock right.
func ClockSynchronised() (bool, error) {
	const unsynchronised = 0x40 // STA_UNSYNC of linux/timex.h
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unsynchronised == 0, err
}
