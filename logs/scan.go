package logs

import (
	"bytes"
	"io"
)

const (
	readSize = 64 << 10
	// maxEntry is far more than a writer that cuts lines at 16 KiB makes. What is
	// longer is not a log entry and is skipped without being held in memory.
	maxEntry = 1 << 20
)

// scanner cuts a stream into lines. At the end of the stream it can be asked
// again, for what was written since.
type scanner struct {
	r        io.Reader
	buf      []byte
	from, to int  // what is read and not yet returned
	searched int  // buf[from:searched] has no newline
	dropping bool // within a line that is too long
	read     int64
}

// overlong stands for a line longer than maxEntry. It is no entry.
var overlong = []byte("\n")

// next returns the next complete line with its newline; it is valid until the
// next call. It returns io.EOF when there is none (yet).
func (s *scanner) next() ([]byte, error) {
	for {
		if i := bytes.IndexByte(s.buf[s.searched:s.to], '\n'); i >= 0 {
			line := s.buf[s.from : s.searched+i+1]
			s.from = s.searched + i + 1
			s.searched = s.from
			if s.dropping {
				s.dropping = false
				return overlong, nil
			}
			return line, nil
		}
		s.searched = s.to
		if s.dropping || s.to-s.from > maxEntry {
			s.dropping = true
			s.from, s.to, s.searched = 0, 0, 0
		}
		s.makeRoom()
		n, err := s.r.Read(s.buf[s.to:])
		s.to += n
		s.read += int64(n)
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

func (s *scanner) makeRoom() {
	switch {
	case s.buf == nil:
		s.buf = make([]byte, readSize)
	case s.from > 0:
		copy(s.buf, s.buf[s.from:s.to])
		s.to -= s.from
		s.searched -= s.from
		s.from = 0
	}
	if s.to == len(s.buf) {
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
}

// rest takes what follows the last complete line.
func (s *scanner) rest() []byte {
	line := s.buf[s.from:s.to]
	if s.dropping {
		line = overlong
	}
	s.from, s.to, s.searched, s.dropping = 0, 0, 0, false
	return line
}

// consumed returns how much of the stream the lines returned so far make up.
func (s *scanner) consumed() int64 { return s.read - int64(s.to-s.from) }
