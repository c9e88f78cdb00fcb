package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// settle is how long a follower waits for last words after the container
// ended: its exit is announced without waiting for its output to end.
const settle = 200 * time.Millisecond

// Read writes the log of an attempt to w as the container wrote it: pieces of
// long lines joined, rotated files (packed ones, too) before the live one. dir is
// the container's directory, see [Dir]. Where w has a Flush method, it is called
// whenever everything written so far is handed over.
//
// Without Follow it ends where the log ended when Read began. With Follow it
// goes on, over rotations, with every line once, until the container has ended
// and all is read; it then returns nil.
//
// skipped counts lines that are no log entries; they are left out, as is the
// rest of a packed file that is damaged. An attempt without any log file is an
// error that wraps fs.ErrNotExist, unless Follow waits for one. The context's
// error is returned when it ends first.
func Read(ctx context.Context, dir string, attempt int, opts Options, w io.Writer) (skipped int64, err error) {
	r := &reader{ctx: ctx, dir: dir, attempt: attempt, opts: opts, out: newOutput(w, opts)}
	err = r.read()
	if flushErr := r.out.flush(); err == nil {
		err = flushErr
	}
	if errors.Is(err, errLimit) {
		err = nil
	}
	if err != nil && ctx.Err() != nil {
		return r.out.unparsable, ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("cannot read log of attempt %d: %w", attempt, err)
	}
	return r.out.unparsable, err
}

// messageLines and messageBytes bound the log's part in a termination message.
// Source: kubelet, pkg/kubelet/container/runtime.go.
const (
	messageLines = 80
	messageBytes = 2048
)

// TailMessage returns the end of an attempt's log, at most 80 entries and 2048
// bytes of it: the message of a container whose terminationMessagePolicy is
// FallbackToLogsOnError. An attempt without a log has none.
func TailMessage(dir string, attempt int) (string, error) {
	lines := int64(messageLines)
	var end lastBytes
	_, err := Read(context.Background(), dir, attempt, Options{TailLines: &lines}, &end)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return string(end), nil
}

// lastBytes keeps the last messageBytes of what is written to it.
type lastBytes []byte

func (l *lastBytes) Write(p []byte) (int, error) {
	all := append(*l, p[max(0, len(p)-messageBytes):]...)
	*l = all[max(0, len(all)-messageBytes):]
	return len(p), nil
}

// reader is one call of Read.
type reader struct {
	ctx     context.Context
	dir     string
	attempt int
	opts    Options
	out     *output
}

// part is one file of the log, opened.
type part struct {
	file  *os.File
	stamp string // of a rotated one; empty: it was the live one when it was opened
	scanner
}

func (p *part) Close() error { return p.file.Close() }

func (r *reader) read() error {
	var changed <-chan struct{}
	if r.opts.Follow {
		// Before the first look, or a change between the two would be missed.
		notices, stop, err := r.watch()
		if err != nil {
			return err
		}
		defer stop()
		changed = notices
	}
	older, live, err := r.snapshot()
	if err != nil {
		return err
	}
	defer func() {
		if live != nil {
			live.Close()
		}
	}()
	if live == nil && len(older) == 0 && !r.opts.Follow {
		return fs.ErrNotExist
	}
	offset, err := r.seekStart(&older, live)
	if err != nil {
		return err
	}
	for _, f := range older {
		if err := r.readRotated(f.stamp, offset); err != nil {
			return err
		}
		offset = 0
	}
	if !r.opts.Follow {
		return r.readLive(live)
	}
	last := ""
	if len(older) > 0 {
		last = older[len(older)-1].stamp
	}
	// From here on the part at hand changes with every rotation.
	current := live
	live = nil
	return r.follow(current, last, changed)
}

// watch returns notices of changes in the log's directory.
func (r *reader) watch() (<-chan struct{}, func(), error) {
	if r.opts.Watch != nil {
		return r.opts.Watch(r.dir)
	}
	own, err := NewWatcher()
	if err != nil {
		return nil, nil, err
	}
	changed, stop, err := own.Watch(r.dir)
	if err != nil {
		own.Close()
		return nil, nil, err
	}
	return changed, func() { stop(); own.Close() }, nil
}

// snapshot returns the rotated files that are older than the live one, and the
// live one opened, nil if there is none. A rotation meanwhile neither hides a
// file nor shows one twice: the live one is opened first, and its descriptor
// tells afterwards what became of it.
func (r *reader) snapshot() (older []rotated, live *part, err error) {
	live, err = r.openLive()
	if err != nil {
		return nil, nil, err
	}
	older, err = listRotated(r.dir, r.attempt)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if live == nil || err != nil {
		return older, live, err
	}
	stamp, _, err := r.nameNow(live)
	if err != nil {
		live.Close()
		return nil, nil, err
	}
	if stamp != "" {
		older = slices.DeleteFunc(older, func(f rotated) bool { return compareStamps(f.stamp, stamp) >= 0 })
	}
	return older, live, nil
}

// seekStart moves to where TailLines begin: older loses the files before, and
// offset is where to begin in its first one. If that is in the live one, older is
// emptied and live stands there.
func (r *reader) seekStart(older *[]rotated, live *part) (offset int64, err error) {
	if r.opts.TailLines == nil {
		return 0, nil
	}
	want := max(0, *r.opts.TailLines)
	if live != nil {
		info, err := live.file.Stat()
		if err != nil {
			return 0, err
		}
		offset, found, err := tailOffset(live.file, info.Size(), want, r.opts.Stream)
		if err != nil {
			return 0, err
		}
		if found >= want {
			*older = nil
			live.read = offset
			_, err = live.file.Seek(offset, io.SeekStart)
			return 0, err
		}
		want -= found
	}
	for i := len(*older) - 1; i >= 0; i-- {
		if want == 0 {
			*older = (*older)[i+1:]
			return 0, nil
		}
		offset, found, err := r.tailOfRotated((*older)[i].stamp, want)
		if err != nil {
			return 0, err
		}
		if found >= want {
			*older = (*older)[i:]
			return offset, nil
		}
		want -= found
	}
	return 0, nil
}

// tailOfRotated is [tailOffset] for a rotated file. One that is gone has no lines.
func (r *reader) tailOfRotated(stamp string, want int64) (offset, found int64, err error) {
	p, err := r.openRotated(stamp)
	if p == nil || err != nil {
		return 0, 0, err
	}
	defer p.Close()
	if p.r == p.file {
		info, err := p.file.Stat()
		if err != nil {
			return 0, 0, err
		}
		return tailOffset(p.file, info.Size(), want, r.opts.Stream)
	}
	// What is packed is read from its beginning, twice: to count, and to find.
	found, _ = countEntries(&p.scanner, r.opts.Stream, -1)
	if found <= want {
		return 0, found, nil
	}
	again, err := r.openRotated(stamp)
	if again == nil || err != nil {
		return 0, 0, err
	}
	defer again.Close()
	_, offset = countEntries(&again.scanner, r.opts.Stream, found-want)
	return offset, want, nil
}

// readRotated shows a rotated file from offset on. One that is gone by now was
// removed as the oldest and is left out.
func (r *reader) readRotated(stamp string, offset int64) error {
	p, err := r.openRotated(stamp)
	if p == nil || err != nil {
		return err
	}
	defer p.Close()
	return r.readToEnd(p, offset)
}

func (r *reader) readToEnd(p *part, offset int64) error {
	packed := p.r != io.Reader(p.file)
	if r.allBefore(p) {
		return nil
	}
	err := p.skip(offset)
	if err == nil {
		err = r.drain(p, -1)
	}
	if err == nil {
		err = r.drainRest(p)
	}
	if packed && errors.As(err, new(damagedError)) {
		r.out.unparsable++
		return nil
	}
	return err
}

// allBefore tells whether a file was last written before SinceTime. The kernel's
// time stamps may be some milliseconds behind; a second is allowed for.
func (r *reader) allBefore(p *part) bool {
	if r.opts.SinceTime.IsZero() {
		return false
	}
	info, err := p.file.Stat()
	return err == nil && info.ModTime().Add(time.Second).Before(r.opts.SinceTime)
}

// readLive shows what the live file holds now, and its last line to its end.
func (r *reader) readLive(live *part) error {
	if live == nil {
		return nil
	}
	info, err := live.file.Stat()
	if err != nil {
		return err
	}
	if err := r.drain(live, info.Size()); err != nil {
		return err
	}
	if live.consumed() < info.Size() {
		return r.drainRest(live)
	}
	return nil
}

// drain shows the complete lines up to the end of the file, or up to the first
// that begins at stopAt or behind it; negative: to the end.
func (r *reader) drain(p *part, stopAt int64) error {
	for n := 0; stopAt < 0 || p.consumed() < stopAt; n++ {
		if n%1024 == 0 && r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		line, err := p.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.out.line(line); err != nil {
			return err
		}
	}
	return nil
}

// drainRest shows a last line that will not be completed any more.
func (r *reader) drainRest(p *part) error {
	if rest := p.rest(); len(rest) > 0 {
		return r.out.line(rest)
	}
	return nil
}

// follow shows current and everything that comes after it. last is the stamp of
// the newest rotated file before current; current is nil while there is no live
// file.
func (r *reader) follow(current *part, last string, changed <-chan struct{}) error {
	defer func() {
		if current != nil {
			current.Close()
		}
	}()
	done := r.opts.Done
	var endAt time.Time // when done: if nothing comes until then, nothing will
	for {
		progressed := false
		if current != nil {
			before := current.read
			if err := r.advance(current); err != nil {
				return err
			}
			progressed = current.read != before
		}
		next, err := r.successor(current, &last)
		if err != nil {
			return err
		}
		if next != nil {
			if current != nil {
				// The writer has turned to another file: now this one is complete.
				err := r.readToEnd(current, 0)
				current.Close()
				if err != nil {
					current = nil
					next.Close()
					return err
				}
			}
			current = next
			continue
		}
		if err := r.out.flush(); err != nil {
			return err
		}
		if done == nil && (progressed || endAt.IsZero()) && r.opts.Done != nil {
			endAt = time.Now().Add(settle)
		}
		var quiet <-chan time.Time
		if done == nil && r.opts.Done != nil {
			if !time.Now().Before(endAt) {
				if current != nil {
					return r.drainRest(current)
				}
				return nil
			}
			quiet = time.After(time.Until(endAt))
		}
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-done:
			done = nil
		case <-changed:
		case <-quiet:
		}
	}
}

// advance shows what current has by now.
//
// A file that became shorter is read on from its new end: its writer takes back
// half an entry that a full disk did not hold. One that was emptied begins anew.
func (r *reader) advance(current *part) error {
	if current.r == io.Reader(current.file) {
		info, err := current.file.Stat()
		if err != nil {
			return err
		}
		if info.Size() < current.read {
			at := min(info.Size(), current.consumed())
			current.rest()
			current.read = at
			if _, err := current.file.Seek(at, io.SeekStart); err != nil {
				return err
			}
		}
	}
	err := r.drain(current, -1)
	if errors.As(err, new(damagedError)) {
		return nil // counted when the file is left
	}
	return err
}

// successor returns the file that the writer, or an earlier writer, turned to
// after current; nil while current is the newest. last becomes the stamp that
// current has by now.
func (r *reader) successor(current *part, last *string) (*part, error) {
	if current != nil {
		stamp, gone, err := r.nameNow(current)
		if err != nil {
			return nil, err
		}
		if stamp == "" && !gone {
			return nil, nil // still the live one
		}
		if stamp != "" {
			*last = stamp
		}
	}
	for {
		live, err := r.openLive()
		if err != nil {
			return nil, err
		}
		list, err := listRotated(r.dir, r.attempt)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if *last != "" {
			list = slices.DeleteFunc(list, func(f rotated) bool { return compareStamps(f.stamp, *last) <= 0 })
		}
		if err == nil && len(list) == 0 {
			return live, nil
		}
		if err == nil && live != nil {
			var stamp string
			// If it was rotated since it was opened, it may be the one we look for,
			// listed or not.
			stamp, _, err = r.nameNow(live)
			if err == nil && stamp != "" && compareStamps(stamp, list[0].stamp) <= 0 {
				return live, nil
			}
		}
		if live != nil {
			live.Close()
		}
		if err != nil {
			return nil, err
		}
		next, err := r.openRotated(list[0].stamp)
		if next != nil || err != nil {
			return next, err
		}
		*last = list[0].stamp // removed as the oldest meanwhile
	}
}

// openLive opens the file that the writer appends to; nil if there is none.
func (r *reader) openLive() (*part, error) {
	f, err := os.Open(File(r.dir, r.attempt))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &part{file: f, scanner: scanner{r: f}}, nil
}

// openRotated opens a rotated file, packed or not; nil if it is gone. A plain file
// that goes away was packed before.
func (r *reader) openRotated(stamp string) (*part, error) {
	path := stampFile(r.dir, r.attempt, stamp)
	f, err := os.Open(path)
	if err == nil {
		return &part{file: f, stamp: stamp, scanner: scanner{r: f}}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(path + packedSuffix)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &part{file: f, stamp: stamp, scanner: scanner{r: &unpacker{file: f}}}, nil
}

// nameNow tells what became of a part since it was opened: the stamp it was
// rotated to, if any, and whether it was removed. The kernel keeps the name of an
// open file up to date in /proc/self/fd (proc(5)).
func (r *reader) nameNow(p *part) (stamp string, gone bool, err error) {
	if p.stamp != "" {
		return p.stamp, false, nil
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", p.file.Fd()))
	if err != nil {
		return "", false, err
	}
	path, gone = strings.CutSuffix(path, " (deleted)")
	if n, rest, ok := parseAttempt(filepath.Base(path)); ok && n == r.attempt {
		if stamp, _, ok := parseRotated(rest); ok {
			return stamp, gone, nil
		}
	}
	return "", gone, nil
}

// damagedError is an error in the content of a packed file.
type damagedError struct{ error }

func (e damagedError) Unwrap() error { return e.error }

// unpacker reads a packed file. The first Read opens it, so that all damage is
// met in one place.
type unpacker struct {
	file *os.File
	z    *gzip.Reader
	err  error
}

func (u *unpacker) Read(p []byte) (int, error) {
	if u.z == nil && u.err == nil {
		u.z, u.err = gzip.NewReader(u.file)
		if u.err != nil {
			u.err = damagedError{u.err}
		}
	}
	if u.err != nil {
		return 0, u.err
	}
	n, err := u.z.Read(p)
	if err != nil && err != io.EOF {
		err = damagedError{err}
	}
	return n, err
}

// skip moves a part that was not read from yet by offset bytes.
func (p *part) skip(offset int64) error {
	if offset == 0 {
		return nil
	}
	n, err := io.CopyN(io.Discard, p.r, offset)
	p.read += n
	if err == io.EOF {
		return nil // shorter than when it was measured: nothing is left to show
	}
	return err
}
