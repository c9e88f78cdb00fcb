package logs

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// changes are what a follower must hear of: something written, a file renamed,
// made or removed.
const changes = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_ONLYDIR

// Watcher tells when something in directories changes, any number of them with
// one inotify instance, of which a user has few. Its Watch method fits
// [Options.Watch]. Make one with [NewWatcher].
type Watcher struct {
	file  *os.File
	ended chan struct{}

	mu      sync.Mutex
	waiting map[int32][]chan struct{} // by watch descriptor
}

// NewWatcher returns a watcher. Its goroutine, which reads from inotify and
// owns nothing, ends with [Watcher.Close].
func NewWatcher() (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch logs: %w (see fs.inotify.max_user_instances)", os.NewSyscallError("inotify_init1", err))
	}
	w := &Watcher{
		file:    os.NewFile(uintptr(fd), "inotify"),
		ended:   make(chan struct{}),
		waiting: make(map[int32][]chan struct{}),
	}
	go w.receive()
	return w, nil
}

// Watch reports changes of dir's files until stop is called. changed holds at
// most one notice, which means: look again. It is never closed.
func (w *Watcher) Watch(dir string) (changed <-chan struct{}, stop func(), err error) {
	notices := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	var wd int
	err = w.control(func(fd int) (err error) {
		wd, err = unix.InotifyAddWatch(fd, dir, changes)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot watch logs: %w", &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err})
	}
	// The kernel answers with the same descriptor for the same directory.
	w.waiting[int32(wd)] = append(w.waiting[int32(wd)], notices)
	return notices, func() { w.forget(int32(wd), notices) }, nil
}

func (w *Watcher) forget(wd int32, notices chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.waiting[wd]
	i := slices.Index(list, notices)
	if i < 0 {
		return // stopped before, or the directory is gone
	}
	list = slices.Delete(list, i, i+1)
	w.waiting[wd] = list
	if len(list) > 0 {
		return
	}
	delete(w.waiting, wd)
	// Fails when the directory went away or the watcher is closed.
	_ = w.control(func(fd int) error {
		_, err := unix.InotifyRmWatch(fd, uint32(wd))
		return err
	})
}

// Close ends the watcher. Nobody is told of changes any more.
func (w *Watcher) Close() error {
	err := w.file.Close()
	<-w.ended
	return err
}

func (w *Watcher) control(do func(fd int) error) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = do(int(fd)) }); err != nil {
		return err
	}
	return result
}

func (w *Watcher) receive() {
	defer close(w.ended)
	buf := make([]byte, 16<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return // closed
		}
		w.deliver(buf[:n])
	}
}

// deliver wakes whom the events concern. Format of events: inotify(7).
func (w *Watcher) deliver(events []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events[0:]))
		mask := binary.NativeEndian.Uint32(events[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		events = events[min(size, len(events)):]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, list := range w.waiting {
				wake(list)
			}
			continue
		}
		wake(w.waiting[wd])
		if mask&unix.IN_IGNORED != 0 { // the directory is gone
			delete(w.waiting, wd)
		}
	}
}

func wake(list []chan struct{}) {
	for _, notices := range list {
		select {
		case notices <- struct{}{}:
		default: // there is a notice that was not looked at yet
		}
	}
}
