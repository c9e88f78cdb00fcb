package probes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// max1xx is how many informational answers may come before the final one, as
// for http.Transport.
const max1xx = 5

// oneShot is the round tripper for plain HTTP. http.Transport keeps a pool and
// runs three goroutines for each connection, which costs as much again as the
// request; a connection that is used once needs neither.
type oneShot struct{ dial Dial }

func (o oneShot) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	addr := req.URL.Host
	if req.URL.Port() == "" { // as a redirect may name it
		addr = net.JoinHostPort(req.URL.Hostname(), "80")
	}
	conn, err := o.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// Ends reading and writing when time is over; stopped before the
	// connection is closed.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	body := &oneShotBody{conn: conn, stop: stop, ctx: ctx, buffers: buffers.Get().(*bufferPair)}
	res, err := o.exchange(conn, req, body)
	if err != nil {
		body.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	body.ReadCloser = res.Body
	res.Body = body
	return res, nil
}

func (o oneShot) exchange(conn net.Conn, req *http.Request, body *oneShotBody) (*http.Response, error) {
	req = req.WithContext(req.Context()) // a round tripper may not change its request
	req.Close = true
	w := body.buffers.w
	w.Reset(conn)
	if err := req.Write(w); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	head := &io.LimitedReader{R: conn, N: maxResponseHeader}
	r := body.buffers.r
	r.Reset(head)
	if _, err := r.Peek(1); err != nil {
		return nil, err
	}
	for range max1xx + 1 {
		res, err := http.ReadResponse(r, req)
		switch {
		case err != nil && head.N <= 0:
			return nil, fmt.Errorf("net/http: server response headers exceeded %d bytes; aborted", maxResponseHeader)
		case err != nil:
			return nil, fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", err)
		case res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols || res.StatusCode < 100:
			head.N = 1 << 62 // the body is limited by who reads it
			return res, nil
		}
	}
	return nil, errors.New("net/http: too many 1xx informational responses")
}

// A bufferPair is what a connection is written and read through.
type bufferPair struct {
	w *bufio.Writer
	r *bufio.Reader
}

// buffers are reused: at a hundred attempts a second they would be most of what
// the agent allocates.
var buffers = sync.Pool{New: func() any { return &bufferPair{bufio.NewWriter(nil), bufio.NewReader(nil)} }}

// oneShotBody closes the connection with the body, without reading the rest.
type oneShotBody struct {
	io.ReadCloser
	conn    net.Conn
	stop    func() bool
	ctx     context.Context
	buffers *bufferPair // nil once it is closed
}

func (b *oneShotBody) Read(p []byte) (int, error) {
	if b.buffers == nil {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	return n, err
}

func (b *oneShotBody) Close() error {
	b.stop()
	if b.buffers != nil {
		b.buffers.w.Reset(nil)
		b.buffers.r.Reset(nil)
		buffers.Put(b.buffers)
		b.buffers = nil
	}
	return b.conn.Close()
}
