package pause

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxPart is how much of a line one entry of the log holds; a longer line is cut
// into entries tagged P and a last one tagged F. Source: the CRI log format.
const maxPart = 16384

// readSize is how much is read from a container's pipe at once. All of it gets
// one timestamp and one write.
const readSize = 128 << 10

// buffers hold a batch while it is being read and written. An idle container
// holds none.
var buffers = sync.Pool{New: func() any { return new(batch) }}

type batch struct {
	in  [readSize]byte
	out []byte
}

// logFile is the log of one attempt, written by at most two streams. A write
// ends at the end of an entry, and so does a file.
type logFile struct {
	mu       sync.Mutex
	dir      *os.File // nil: output is thrown away
	name     string   // <attempt>.log
	file     *os.File
	size     int64
	maxBytes int64
	maxFiles int
	last     time.Time // stamp of the newest rotated file
}

// reopen opens the log by its name and goes on at its end.
func (l *logFile) reopen() error {
	fd, err := unix.Openat(rawFD(l.dir), l.name, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return failedStep("open log "+l.name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return failedStep("look at log "+l.name, err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size = os.NewFile(uintptr(fd), l.name), st.Size
	return nil
}

// Reopen is reopen for those who do not hold the lock.
func (l *logFile) Reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	return l.reopen()
}

// Rotate rotates now, if the log is open and not empty.
func (l *logFile) Rotate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.size == 0 {
		return nil
	}
	return l.rotate(time.Now())
}

// Close ends the log; what is written later is thrown away.
func (l *logFile) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.dir.Close()
		l.file = nil
	}
}

// write appends whole entries. What a full disk does not take is lost, to keep
// the container running, but never half of an entry stays.
func (l *logFile) write(p []byte, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	// A file grows at most one entry beyond its limit, however large the batch.
	for l.maxBytes > 0 && l.size+int64(len(p)) >= l.maxBytes {
		cut := len(p)
		if room := l.maxBytes - l.size; room < int64(len(p)) {
			cut = max(int(room), 1)
			end := bytes.IndexByte(p[cut-1:], '\n')
			cut += end
		}
		l.append(p[:cut])
		p = p[cut:]
		if l.rotate(now) != nil {
			break // go on in the old file rather than lose lines
		}
	}
	l.append(p)
}

func (l *logFile) append(p []byte) {
	if len(p) == 0 {
		return
	}
	if _, err := l.file.Write(p); err != nil {
		l.file.Truncate(l.size)
		return
	}
	l.size += int64(len(p))
}

// rotated is the form of the time in a rotated log's name. The kubelet writes
// local time; ours is UTC, because everybody tells the order of the files by
// their names and local clocks go back once a year.
const rotated = "20060102-150405"

// rotate renames the log and opens a new one. Two rotations within a second get
// stamps a second apart, so that names sort by age and none is overwritten.
func (l *logFile) rotate(now time.Time) error {
	now = now.UTC()
	if !now.After(l.last.Add(time.Second)) {
		now = l.last.Add(time.Second)
	}
	dir := rawFD(l.dir)
	for {
		err := unix.Renameat2(dir, l.name, dir, l.name+"."+now.Format(rotated), unix.RENAME_NOREPLACE)
		if err == nil {
			break
		}
		if err != unix.EEXIST {
			return failedStep("rotate log "+l.name, err)
		}
		now = now.Add(time.Second)
	}
	l.last = now
	if err := l.reopen(); err != nil {
		unix.Renameat2(dir, l.name+"."+now.Format(rotated), dir, l.name, unix.RENAME_NOREPLACE)
		return err
	}
	if l.maxFiles > 0 {
		l.prune(l.maxFiles - 1)
	}
	return nil
}

// prune removes the oldest rotated files, compressed or not, but keep of them.
func (l *logFile) prune(keep int) {
	fd, err := unix.Openat(rawFD(l.dir), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	d := os.NewFile(uintptr(fd), "log directory")
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return
	}
	var stamps []string // file and its compressed form count as one
	for _, n := range names {
		if s, ok := rotatedStamp(l.name, n); ok {
			stamps = insert(stamps, s)
		}
	}
	for len(stamps) > keep {
		unix.Unlinkat(rawFD(l.dir), l.name+"."+stamps[0], 0)
		unix.Unlinkat(rawFD(l.dir), l.name+"."+stamps[0]+".gz", 0)
		stamps = stamps[1:]
	}
}

// rotatedStamp returns the stamp in the name of a rotated file of this log.
func rotatedStamp(log, name string) (string, bool) {
	s, ok := strings.CutPrefix(name, log+".")
	s = strings.TrimSuffix(s, ".gz")
	if !ok || len(s) != len(rotated) {
		return "", false
	}
	_, err := time.Parse(rotated, s)
	return s, err == nil
}

// insert keeps a sorted set; there are few rotated files.
func insert(set []string, s string) []string {
	i := 0
	for i < len(set) && set[i] < s {
		i++
	}
	if i < len(set) && set[i] == s {
		return set
	}
	set = append(set, "")
	copy(set[i+1:], set[i:])
	set[i] = s
	return set
}

// A stream turns what a container writes to one descriptor into entries.
type stream struct {
	tag     string // stdout or stderr
	partial []byte // the beginning of a line that is not complete
}

// entries appends to out the entries that in completes, all with one time.
func (s *stream) entries(out, in []byte, now time.Time) []byte {
	var stamp [64]byte
	head := append(now.AppendFormat(stamp[:0], time.RFC3339Nano), ' ')
	head = append(append(head, s.tag...), " F "...)
	kind := len(head) - 2

	for len(in) > 0 {
		nl := bytes.IndexByte(in, '\n')
		if len(s.partial) == 0 && nl >= 0 && nl <= maxPart {
			line := in[:nl]
			in = in[nl+1:]
			out = append(append(out, head...), chomp(line)...)
			out = append(out, '\n')
			continue
		}
		piece := in
		if nl >= 0 {
			piece = in[:nl]
		}
		// More than a part is known to be in the line: a full part goes out.
		if room := maxPart - len(s.partial); len(piece) > room {
			head[kind] = 'P'
			out = append(append(append(out, head...), s.partial...), piece[:room]...)
			out = append(out, '\n')
			head[kind] = 'F'
			s.partial = s.partial[:0]
			in = in[room:]
			continue
		}
		if nl < 0 {
			s.partial = append(s.partial, piece...)
			break
		}
		in = in[nl+1:]
		s.partial = append(s.partial, piece...)
		out = append(append(out, head...), chomp(s.partial)...)
		out = append(out, '\n')
		s.partial = s.partial[:0]
	}
	if len(s.partial) == 0 {
		s.partial = nil
	}
	return out
}

// chomp drops a carriage return before the newline that ended the line.
func chomp(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[:n-1]
	}
	return line
}

// rest returns the entry for a last line without newline: always a P.
func (s *stream) rest(out []byte, now time.Time) []byte {
	if len(s.partial) == 0 {
		return out
	}
	out = now.AppendFormat(out, time.RFC3339Nano)
	out = append(append(append(out, ' '), s.tag...), " P "...)
	out = append(append(out, s.partial...), '\n')
	s.partial = nil
	return out
}

// copyLog copies a container's output to its log, and then to tee, until the writers
// are gone or the deadline of r passes. It is started with the container, owns r, and
// closes it at the end.
func copyLog(r *os.File, tag string, l *logFile, tee func([]byte), done func()) {
	defer done()
	defer r.Close()
	s := stream{tag: tag}
	rc, err := r.SyscallConn()
	for err == nil {
		var b *batch
		n := 0
		rerr := rc.Read(func(fd uintptr) bool {
			if b == nil {
				b = buffers.Get().(*batch)
			}
			n, err = readFull(int(fd), b.in[:])
			if n == 0 && err == unix.EAGAIN {
				buffers.Put(b)
				b = nil
				return false
			}
			return true
		})
		if rerr != nil {
			err = rerr // the deadline
		} else if n == 0 && err == nil {
			err = io.EOF
		} else if n > 0 {
			err = nil
		}
		if n > 0 && rerr == nil {
			now := time.Now()
			b.out = s.entries(b.out[:0], b.in[:n], now)
			l.write(b.out, now)
			tee(b.in[:n])
		}
		if b != nil {
			buffers.Put(b)
		}
	}
	now := time.Now()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// What a busy machine has not let us read yet is in the pipe; somebody who
		// still writes gets no more than this.
		b := buffers.Get().(*batch)
		n := readNow(r, b.in[:])
		l.write(s.entries(nil, b.in[:n], now), now)
		tee(b.in[:n])
		buffers.Put(b)
	}
	l.write(s.rest(nil, now), now)
}

// readNow reads what there is, whatever the deadline.
func readNow(r *os.File, buf []byte) (n int) {
	if rc, err := r.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { n, _ = readFull(int(fd), buf) })
	}
	return max(n, 0)
}

// readFull reads what there is, as much as fits: a pipe gives at most a few
// pages at a time.
func readFull(fd int, buf []byte) (n int, err error) {
	for n < len(buf) {
		m, err := unix.Read(fd, buf[n:]) // m is -1 with an error
		if err == unix.EINTR {
			continue
		}
		if err == unix.EIO { // a terminal whose last user closed it
			return n, nil
		}
		if err != nil || m == 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}
