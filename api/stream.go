package api

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"podd/pod"
)

// An exec or an attach is one HTTP request that both sides turn into a two-way stream of
// frames once the command is about to start or the container is found:
//
//	client                                      agent
//	POST /exec/ns/pod/c?command=…  ─────────▶   (or /attach/ns/pod/c)
//	     Upgrade: podd-exec/1
//	                               ◀─────────   101 Switching Protocols
//	stdin, resize, empty stdin = end ───────▶
//	                               ◀─────────   stdout, stderr …
//	                               ◀─────────   result, then end of stream
//
// A frame is one byte of channel, four bytes of length in big-endian order,
// and so many bytes.
const upgradeProtocol = "podd-exec/1"

// The channels have the numbers that Kubernetes' remote command protocol has.
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelResult = 3
	channelResize = 4
)

// maxFrame bounds what a peer can make us allocate.
const maxFrame = 64 << 10

// execResult is the content of the result channel.
type execResult struct {
	ExitCode int    `json:"exitCode"`
	Error    string `json:"error,omitempty"`
}

// frameWriter writes the frames of several channels to one stream.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (f *frameWriter) frame(channel byte, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	buf := make([]byte, 5, 5+len(p))
	buf[0] = channel
	binary.BigEndian.PutUint32(buf[1:], uint32(len(p)))
	_, err := f.w.Write(append(buf, p...))
	return err
}

func (f *frameWriter) json(channel byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.frame(channel, data)
}

// channel is an io.Writer for one channel.
func (f *frameWriter) channel(n byte) io.Writer { return channelWriter{f, n} }

type channelWriter struct {
	frames  *frameWriter
	channel byte
}

func (c channelWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		part := p[:min(len(p), maxFrame)]
		if err := c.frames.frame(c.channel, part); err != nil {
			return written, err
		}
		written += len(part)
		p = p[len(part):]
	}
	return written, nil
}

var errFrameTooLarge = errors.New("frame is larger than the protocol allows")

func readFrame(r io.Reader) (channel byte, p []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes", errFrameTooLarge, n)
	}
	p = make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return 0, nil, err
	}
	return head[0], p, nil
}

// readInput gives a client's frames to stdin and sizes until the stream ends.
func readInput(r io.Reader, stdin *io.PipeWriter, sizes chan<- pod.TerminalSize, done <-chan struct{}) {
	defer stdin.Close()
	for {
		channel, p, err := readFrame(r)
		if err != nil {
			return
		}
		switch channel {
		case channelStdin:
			if len(p) == 0 {
				stdin.Close()
			} else {
				stdin.Write(p) // a command that reads no more has ended or closed it
			}
		case channelResize:
			var size pod.TerminalSize
			if json.Unmarshal(p, &size) != nil {
				continue
			}
			select {
			case sizes <- size:
			case <-done:
				return
			}
		}
	}
}
