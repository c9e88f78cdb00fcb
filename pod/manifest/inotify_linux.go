package manifest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// inotify is the kernel's report on one directory and, while that is missing
// or a link, on its parent. Source: inotify(7).
type inotify struct {
	file   *os.File
	fd     int
	events chan []event
	quit   chan struct{}

	// The watch descriptors, -1 when there is none. The reading goroutine
	// hands raw events over; only their receiver knows these.
	dir, parent int32
	watched     inode
}

// event is one change of a directory entry, or of the directory itself.
type event struct {
	wd     int32
	mask   uint32
	cookie uint32
	name   string // empty: the directory itself
	// parent says that the entry is in the directory's parent.
	parent bool
	// lost says that events were dropped.
	lost bool
}

const (
	watchMask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE |
		unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	parentMask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ONLYDIR
)

func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch manifests: inotify: %w (see fs.inotify.max_user_instances)", err)
	}
	in := &inotify{fd: fd, file: os.NewFile(uintptr(fd), "inotify"), events: make(chan []event), quit: make(chan struct{}), dir: -1, parent: -1}
	// Started by Run, ended by close; it owns the read side of the descriptor.
	go in.read(in.events)
	return in, nil
}

func (in *inotify) close() {
	close(in.quit)
	in.file.Close()
}

func (in *inotify) read(events chan<- []event) {
	defer close(events)
	buffer := make([]byte, 64<<10)
	for {
		n, err := in.file.Read(buffer)
		if err != nil {
			return
		}
		select {
		case events <- in.parse(buffer[:n]):
		case <-in.quit:
			return
		}
	}
}

// parse cuts what one read returned into events.
func (in *inotify) parse(data []byte) []event {
	var events []event
	for len(data) >= unix.SizeofInotifyEvent {
		e := event{
			wd:     int32(binary.NativeEndian.Uint32(data)),
			mask:   binary.NativeEndian.Uint32(data[4:]),
			cookie: binary.NativeEndian.Uint32(data[8:]),
		}
		length := int(binary.NativeEndian.Uint32(data[12:]))
		data = data[unix.SizeofInotifyEvent:]
		e.name = string(bytes.TrimRight(data[:length], "\x00"))
		e.lost = e.mask&unix.IN_Q_OVERFLOW != 0
		data = data[length:]
		events = append(events, e)
	}
	return events
}

// sort drops the events of watches that are gone and marks those of the parent.
func (in *inotify) sort(events []event) []event {
	kept := events[:0]
	for _, e := range events {
		switch {
		case e.lost, e.wd == in.dir:
		case e.wd == in.parent:
			e.parent = true
		default:
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// watch watches the directory at path; when it is missing, its parent, for the
// moment it appears. The error is about a directory that is there.
func (in *inotify) watch(path string) error {
	in.forget()
	var failure error
	for range 2 {
		wd, err := unix.InotifyAddWatch(in.fd, path, watchMask)
		if err == nil {
			in.dir = int32(wd)
			in.watched, _ = identityOf(path)
			// A link to a directory may be switched: that shows in its parent.
			if link := isLink(filepath.Clean(path)); link && in.parent < 0 {
				in.watchParent(path)
			} else if !link && in.parent >= 0 {
				unix.InotifyRmWatch(in.fd, uint32(in.parent))
				in.parent = -1
			}
			return nil
		}
		if failure = err; errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			failure = nil // whoever reads the directory says so
		}
		// Once more after the parent is watched: it may have appeared between.
		in.watchParent(path)
	}
	return failure
}

func (in *inotify) watchParent(path string) {
	if wd, err := unix.InotifyAddWatch(in.fd, filepath.Dir(filepath.Clean(path)), parentMask); err == nil {
		in.parent = int32(wd)
	}
}

// watches says that the directory now at path is being watched.
func (in *inotify) watches(path string) bool {
	now, ok := identityOf(path)
	return in.dir >= 0 && ok && now == in.watched
}

// forget ends the watch of a directory that is no longer at its path.
func (in *inotify) forget() {
	if in.dir >= 0 {
		unix.InotifyRmWatch(in.fd, uint32(in.dir))
		in.dir = -1
	}
}

func identityOf(path string) (inode, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return inode{}, false
	}
	return inode{uint64(st.Dev), st.Ino}, true
}
