package stream

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"podd/pod"
)

// isSPDY says whether a request asks for SPDY/3.1.
func isSPDY(r *http.Request) bool {
	return httpstream.IsUpgradeRequest(r) && strings.EqualFold(r.Header.Get(httpstream.HeaderUpgrade), spdy.HeaderSpdy31)
}

// session is a connection on which the client makes SPDY streams.
type session struct {
	httpstream.Connection
	conn *conn
	idle *idle
}

// upgradeSPDY answers 101 with the given protocol and begins a session. accept is
// called for each stream that the client makes; its error resets the stream.
func (l limits) upgradeSPDY(w http.ResponseWriter, cancel context.CancelFunc, accept httpstream.NewStreamHandler) (*session, error) {
	w.Header().Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	w.Header().Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	w.WriteHeader(http.StatusSwitchingProtocols)
	c, buffered, err := hijack(w, l.linger)
	if err != nil {
		return nil, err
	}
	return l.newSession(c, buffered.Reader, cancel, accept)
}

// newSession speaks SPDY over c, whose input is read from in. The session is over
// for the caller when cancel is called.
func (l limits) newSession(c *conn, in io.Reader, cancel context.CancelFunc, accept httpstream.NewStreamHandler) (*session, error) {
	s := &session{conn: c, idle: newIdle(l.idle, c, cancel)}
	connection, err := spdy.NewServerConnection(framed{c, &frameReader{r: in, idle: s.idle}}, bounded(accept))
	if err != nil {
		s.idle.stop()
		c.Conn.Close()
		return nil, err
	}
	s.Connection = connection
	// Ends with the connection.
	go func() {
		<-connection.CloseChan()
		cancel()
	}()
	return s, nil
}

// close ends all streams. Whoever reads or writes one ends soon after.
func (s *session) close() {
	s.idle.stop()
	s.Connection.Close()
	s.conn.Close() // the library waits for streams that the client is about to make
}

// bounded refuses streams whose headers are larger than any client's, and those with
// which accept panics: the library calls it from goroutines of its own.
func bounded(accept httpstream.NewStreamHandler) httpstream.NewStreamHandler {
	return func(stream httpstream.Stream, replySent <-chan struct{}) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		size := 0
		for name, values := range stream.Headers() {
			size += len(name)
			for _, v := range values {
				size += len(v)
			}
		}
		if size > maxControl {
			return errors.New("the headers of a stream are too large")
		}
		return accept(stream, replySent)
	}
}

// spdyStream is a stream that can be written to whatever became of the client.
type spdyStream struct {
	httpstream.Stream
	session *session
}

var errClosed = errors.New("the client closed the stream")

// writable says why nothing can be written. The library waits for ever with a
// stream that it could not confirm to the client, and goes on writing to one that
// the client has reset.
func (s spdyStream) writable() error {
	select {
	case <-s.session.CloseChan():
		return errClosed
	default:
	}
	finished, ok := s.Stream.(interface{ IsFinished() bool })
	if s.session.conn.failed.Load() || ok && finished.IsFinished() {
		return errClosed
	}
	return nil
}

func (s spdyStream) Write(p []byte) (int, error) {
	return inChunks(p, func(part []byte) error {
		if err := s.writable(); err != nil {
			return err
		}
		_, err := s.Stream.Write(part)
		s.session.idle.touch()
		return err
	})
}

// Close ends our side of the stream.
func (s spdyStream) Close() error {
	if err := s.writable(); err != nil {
		return err
	}
	return s.Stream.Close()
}

// spdyProtocols are the versions of exec over SPDY: from 2 on errors have a stream
// of their own, from 3 on a terminal can be resized, 4 tells exit codes.
var spdyProtocols = []string{
	remotecommand.StreamProtocolV4Name, remotecommand.StreamProtocolV3Name, remotecommand.StreamProtocolV2Name, remotecommand.StreamProtocolV1Name,
}

// A client makes the streams of a command by itself; each one's header streamType
// says which it is.
//
//	client                                        podd
//	POST …/exec?command=…&stdin=true&stdout=true ──▶
//	     Upgrade: SPDY/3.1
//	     X-Stream-Protocol-Version: v4.channel.k8s.io …
//	                                              ◀── 101 Switching Protocols
//	SYN_STREAM error, stdin, stdout … ───────────▶
//	                                              ◀── SYN_REPLY for each
//	data on stdin, FIN: no more input ───────────▶
//	                                              ◀── data on stdout …, FIN
//	                                              ◀── how it ended on error, FIN
func (l limits) execSPDY(w http.ResponseWriter, r *http.Request, wanted wanted, run func(context.Context, Streams) error) {
	protocol, err := httpstream.Handshake(r, w, spdyProtocols)
	if err != nil {
		return // it was answered
	}
	jsonStatus := protocol == remotecommand.StreamProtocolV4Name
	expected := map[string]bool{
		"error": true, "stdin": wanted.stdin, "stdout": wanted.stdout, "stderr": wanted.stderr,
		"resize": wanted.tty && (jsonStatus || protocol == remotecommand.StreamProtocolV3Name),
	}
	missing := 0
	for _, is := range expected {
		if is {
			missing++
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	type made struct {
		httpstream.Stream
		kind      string
		replySent <-chan struct{}
	}
	arriving := make(chan made, len(expected)) // each kind once
	var mu sync.Mutex
	refused := 0 // guarded by mu, as is expected
	s, err := l.upgradeSPDY(w, cancel, func(stream httpstream.Stream, replySent <-chan struct{}) error {
		mu.Lock()
		defer mu.Unlock()
		kind := stream.Headers().Get("streamType")
		if !expected[kind] {
			if refused++; refused > maxRefused {
				cancel()
			}
			return fmt.Errorf("unexpected stream type: %q", kind)
		}
		expected[kind] = false
		arriving <- made{stream, kind, replySent}
		return nil
	})
	if err != nil {
		return // nobody is left to tell
	}
	defer s.close()

	streams := map[string]spdyStream{}
	late := time.NewTimer(l.creation)
	defer late.Stop()
	for range missing {
		select {
		case m := <-arriving:
			select {
			case <-m.replySent:
				streams[m.kind] = spdyStream{m.Stream, s}
			case <-ctx.Done():
				return
			}
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
	size := newSizes()
	given := Streams{TTY: wanted.tty, Resize: size}
	if stream, ok := streams["stdin"]; ok {
		given.Stdin = stream
	}
	if stream, ok := streams["stdout"]; ok {
		given.Stdout = stream
	}
	if stream, ok := streams["stderr"]; ok {
		given.Stderr = stream
	}
	if stream, ok := streams["resize"]; ok {
		// Ends with the session.
		go readSizes(stream, size)
	}
	err = safely(run, ctx, given)
	for _, kind := range []string{"stdout", "stderr"} {
		if stream, ok := streams[kind]; ok {
			stream.Close()
		}
	}
	writeStatus(streams["error"], err, jsonStatus)
	streams["error"].Close()
}

// maxRefused is how many streams without meaning a client may make.
const maxRefused = 100

// readSizes takes JSON objects from a stream until it ends or has something else.
func readSizes(r io.Reader, size sizes) {
	bound := &io.LimitedReader{R: r}
	dec := json.NewDecoder(bound)
	for {
		bound.N = maxResize
		var new pod.TerminalSize
		if dec.Decode(&new) != nil {
			return
		}
		size.tell(new)
	}
}

// maxControl bounds SPDY's control frames, in bytes. Those of clients have some
// hundred.
const maxControl = 4 << 10

// framed is a connection of which SPDY reads the frames through a [frameReader].
type framed struct {
	*conn
	in *frameReader
}

func (f framed) Read(p []byte) (int, error) { return f.in.Read(p) }

// frameReader passes SPDY/3 frames on in a form that bounds what the library
// allocates for each of them: it makes room for a whole data frame, of up to 16 MB,
// once it has seen the length, and keeps 250 of them; here they become frames of at
// most a chunk. A control frame that is too large ends the connection.
//
// A frame has eight bytes of header: one bit that tells control frames, 31 bits of
// which for data frames are the stream, eight of flags, 24 of length.
// Source: SPDY Protocol, Draft 3.1, section 2.2.
type frameReader struct {
	r    io.Reader
	idle *idle

	head []byte // what is to be passed on of buf
	buf  [8]byte
	left int   // bytes of the frame that is being passed on
	rest int   // bytes of the data frame for which further frames will be made
	last byte  // flags of the last of these
	err  error // why nothing more comes
}

func (f *frameReader) Read(p []byte) (int, error) {
	for len(f.head) == 0 && f.left == 0 {
		if f.err == nil {
			f.err = f.next()
		}
		if f.err != nil {
			return 0, f.err
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.r.Read(p[:min(len(p), f.left)])
	f.left -= n
	if n > 0 {
		f.idle.touch()
	}
	return n, err
}

// next prepares the header of another frame.
func (f *frameReader) next() error {
	if f.rest > 0 {
		f.split()
		return nil
	}
	if _, err := io.ReadFull(f.r, f.buf[:]); err != nil {
		return err
	}
	f.idle.touch()
	f.head = f.buf[:]
	length := int(binary.BigEndian.Uint32(f.buf[4:]) & 0xffffff)
	switch control := f.buf[0]&0x80 != 0; {
	case control && length > maxControl:
		f.head = nil
		return fmt.Errorf("a control frame of %d bytes is too large", length)
	case control || length <= chunk:
		f.left = length
	default:
		f.rest, f.last = length, f.buf[4]
		f.split()
	}
	return nil
}

// split makes the header for the next part of a data frame; only the last part has
// its flags, which say that nothing more comes on the stream.
func (f *frameReader) split() {
	f.left = min(f.rest, chunk)
	f.rest -= f.left
	binary.BigEndian.PutUint32(f.buf[4:], uint32(f.left))
	if f.rest == 0 {
		f.buf[4] = f.last
	}
	f.head = f.buf[:]
}
