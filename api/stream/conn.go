package stream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// conn is a client's connection once it is no longer HTTP.
type conn struct {
	net.Conn
	linger time.Duration
	ending sync.Once
	failed atomic.Bool // a write failed: nothing reaches the client any more
}

// hijack takes the connection over from the HTTP server.
func hijack(w http.ResponseWriter, linger time.Duration) (*conn, *bufio.ReadWriter, error) {
	raw, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	raw.SetDeadline(time.Time{}) // those of the server were for the request
	return &conn{Conn: raw, linger: linger}, buffered, nil
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.failed.Store(true)
	}
	return n, err
}

// Close ends our side and gives the client time to take what is on the way to it.
// Closing a socket in which there is unread input resets the connection, and what
// the client has not yet received would be lost: the end of a command's output,
// whenever the client still sends something. See tcp(7) and RFC 1122, 4.2.2.13.
func (c *conn) Close() error {
	c.ending.Do(func() {
		// Ends with the client's side of the connection or with the deadline.
		go func() {
			defer c.Conn.Close()
			c.SetDeadline(time.Now().Add(c.linger))
			if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				io.Copy(io.Discard, c.Conn)
			}
		}()
	})
	return nil
}

// idle ends a connection in which nothing moves.
type idle struct {
	after time.Duration

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool // guarded by mu
}

// newIdle calls cancel and closes c once nothing was touched for as long as after.
func newIdle(after time.Duration, c *conn, cancel context.CancelFunc) *idle {
	return &idle{after: after, timer: time.AfterFunc(after, func() {
		cancel()
		c.Conn.Close()
	})}
}

func (i *idle) touch() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.stopped {
		i.timer.Reset(i.after)
	}
}

func (i *idle) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
	i.timer.Stop()
}

// chunk bounds the messages and frames that are sent at once, and the buffers that
// what arrives goes through.
const chunk = 32 << 10

// inChunks hands p to write piece by piece.
func inChunks(p []byte, write func([]byte) error) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), chunk)]
		if err := write(part); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}
