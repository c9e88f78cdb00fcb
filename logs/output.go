package logs

import (
	"errors"
	"io"
)

// errLimit says that the output has reached its limit. It never leaves the package.
var errLimit = errors.New("limit reached")

// output writes entries as the container wrote them. It gathers them into
// large writes; flush hands over what is gathered.
type output struct {
	w          io.Writer
	handOver   func() error // calls Flush of w; may be nil
	opts       Options
	buf        []byte
	left       int64 // bytes up to the limit; negative: no limit
	withinLine bool  // the last entry was a piece that goes on
	unparsable int64
	unflushed  bool // w has data that its Flush was not called for
	full       bool // the limit is reached
}

func newOutput(w io.Writer, opts Options) *output {
	o := &output{w: w, opts: opts, left: -1}
	switch w := w.(type) {
	case interface{ Flush() }: // http.Flusher
		o.handOver = func() error { w.Flush(); return nil }
	case interface{ Flush() error }: // bufio.Writer
		o.handOver = w.Flush
	}
	if opts.LimitBytes != nil {
		o.left = max(0, *opts.LimitBytes)
	}
	return o
}

// line shows one line of a log file, if it is an entry that was asked for.
func (o *output) line(line []byte) error {
	e, ok := parseEntry(line)
	if !ok {
		o.unparsable++
		return nil
	}
	if o.opts.Stream != "" && o.opts.Stream != string(e.stream) {
		return nil
	}
	if !o.opts.SinceTime.IsZero() {
		before, ok := e.before(o.opts.SinceTime)
		if !ok {
			o.unparsable++
		}
		if before || !ok {
			return nil
		}
	}
	if o.opts.Timestamps && !o.withinLine {
		o.buf = append(appendFixedTime(o.buf, e.time), ' ')
	}
	o.buf = append(o.buf, e.content...)
	if !e.partial {
		o.buf = append(o.buf, '\n')
	}
	o.withinLine = e.partial
	if len(o.buf) >= readSize || o.left >= 0 && int64(len(o.buf)) >= o.left {
		return o.write()
	}
	return nil
}

func (o *output) write() error {
	if o.left >= 0 && int64(len(o.buf)) >= o.left {
		o.buf = o.buf[:o.left]
		o.full = true
	}
	if len(o.buf) > 0 {
		if _, err := o.w.Write(o.buf); err != nil {
			return err
		}
		o.unflushed = true
	}
	if o.left >= 0 {
		o.left -= int64(len(o.buf))
	}
	o.buf = o.buf[:0]
	if o.full {
		return errLimit
	}
	return nil
}

func (o *output) flush() error {
	err := o.write()
	if o.unflushed && o.handOver != nil {
		err = errors.Join(err, o.handOver())
	}
	o.unflushed = false
	return err
}
