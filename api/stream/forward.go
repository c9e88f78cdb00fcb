package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/runtime"

	"podd/internal/refusal"
)

// Dial connects to a port of the pod. Its error is told to the client.
type Dial func(ctx context.Context, port uint16) (net.Conn, error)

// PortForward serves one port-forward request: any number of connections to ports of
// a pod. The context of dial ends when the client hangs up.
func PortForward(w http.ResponseWriter, r *http.Request, dial func(ctx context.Context, port uint16) (net.Conn, error)) {
	standard.portForward(w, r, dial)
}

func (l limits) portForward(w http.ResponseWriter, r *http.Request, dial Dial) {
	switch {
	case isWebSocket(r) && tunnelled(r):
		l.forwardTunnelled(w, r, dial)
	case isWebSocket(r):
		l.forwardChannels(w, r, dial)
	case isSPDY(r):
		if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardV1Name}); err != nil {
			return // it was answered
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		f := &forwarding{limits: l, ctx: ctx, cancel: cancel, dial: dial, pairs: map[string]*pair{}}
		f.serve(func() (*session, error) { return l.upgradeSPDY(w, cancel, f.accept) })
	default:
		refusal.Write(w, apierrors.NewBadRequest("Upgrade request required"))
	}
}

// tunnelPrefix begins the names of WebSocket protocols whose messages are the bytes
// of a SPDY connection.
const tunnelPrefix = "SPDY/3.1+"

func tunnelled(r *http.Request) bool {
	for _, name := range offeredProtocols(r) {
		if strings.HasPrefix(name, tunnelPrefix) {
			return true
		}
	}
	return false
}

func (l limits) forwardTunnelled(w http.ResponseWriter, r *http.Request, dial Dial) {
	name, _, ok := negotiate(w, r, map[string]struct{}{tunnelPrefix + portforward.PortForwardV1Name: {}})
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	socket, err := l.upgrade(w, r, name, cancel)
	if err != nil {
		return // it was answered
	}
	socket.idle.stop() // the session has its own
	defer socket.close()
	f := &forwarding{limits: l, ctx: ctx, cancel: cancel, dial: dial, pairs: map[string]*pair{}}
	t := &tunnel{Conn: socket.ws.NetConn(), ws: socket.ws}
	f.serve(func() (*session, error) { return l.newSession(&conn{Conn: t, linger: l.linger}, t, cancel, f.accept) })
}

// tunnel is the connection that a WebSocket's messages carry.
type tunnel struct {
	net.Conn // beneath the WebSocket: addresses and deadlines
	ws       *websocket.Conn
	message  io.Reader // what is left of one; used by the one who reads
	sending  sync.Mutex
}

func (t *tunnel) Read(p []byte) (int, error) {
	for {
		if t.message == nil {
			var err error
			if _, t.message, err = t.ws.NextReader(); err != nil {
				return 0, io.EOF
			}
		}
		n, err := t.message.Read(p)
		if err != nil {
			t.message = nil // io.EOF ends a message only
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
}

func (t *tunnel) Write(p []byte) (int, error) {
	t.sending.Lock()
	defer t.sending.Unlock()
	if err := t.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// forwarding is one request's session. A client makes two streams for each
// connection, with a common header requestID: one for the data both ways and one on
// which it is told what failed.
//
//	client                                              podd
//	SYN_STREAM streamType=error port=80 requestID=0 ──▶
//	SYN_STREAM streamType=data port=80 requestID=0 ───▶     connects to the port
//	data ◀───────────────────────────────────────────▶ data
//	FIN: the client's end of input ───────────────────▶     shutdown(SHUT_WR)
//	                                                  ◀── FIN: the pod's end
type forwarding struct {
	limits
	ctx    context.Context
	cancel context.CancelFunc
	dial   Dial

	started sync.WaitGroup // connections being forwarded

	mu      sync.Mutex
	session *session         // guarded by mu
	pairs   map[string]*pair // by request, until they are over; guarded by mu
	refused int              // streams without meaning; guarded by mu
	over    bool             // nothing starts any more; guarded by mu
}

// pair are the two streams of one connection.
type pair struct {
	port     uint16
	streams  [2]httpstream.Stream // data, error
	replied  [2]<-chan struct{}
	complete chan struct{} // closed once both are there
}

// serve returns when the client hung up and all connections are closed.
func (f *forwarding) serve(begin func() (*session, error)) {
	f.mu.Lock() // the client may be quick; accept waits for the session
	s, err := begin()
	f.session = s
	f.mu.Unlock()
	if err != nil {
		return // nobody is left to tell
	}
	<-f.ctx.Done()
	s.close()
	f.mu.Lock()
	f.over = true
	f.mu.Unlock()
	f.started.Wait()
}

// accept takes one stream of a client.
func (f *forwarding) accept(stream httpstream.Stream, replySent <-chan struct{}) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return errClosed
	}
	err := f.take(stream, replySent)
	if err != nil {
		if f.refused++; f.refused > maxRefused {
			f.cancel()
		}
	}
	return err
}

func (f *forwarding) take(stream httpstream.Stream, replySent <-chan struct{}) error {
	h := stream.Headers()
	port, err := strconv.ParseUint(h.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("unable to parse %q as a port", h.Get("port"))
	}
	kind, request, id := 0, h.Get("requestID"), stream.Identifier()
	switch h.Get("streamType") {
	case "data":
		if request == "" { // as clients did that had none: made right after the error stream
			request = "stream " + strconv.FormatUint(uint64(id-2), 10)
		}
	case "error":
		kind = 1
		if request == "" {
			request = "stream " + strconv.FormatUint(uint64(id), 10)
		}
	default:
		return fmt.Errorf("invalid stream type %q", h.Get("streamType"))
	}
	p := f.pairs[request]
	switch {
	case p == nil && len(f.pairs) >= f.forwards:
		return fmt.Errorf("%d connections are forwarded already", len(f.pairs))
	case p == nil:
		p = &pair{port: uint16(port), complete: make(chan struct{})}
		f.pairs[request] = p
		f.started.Go(func() {
			defer runtime.HandleCrashWithContext(f.ctx)
			defer f.forget(request, p)
			f.forward(request, p)
		})
	case p.streams[kind] != nil:
		return errors.New("error stream or data stream already assigned")
	case p.port != uint16(port):
		return fmt.Errorf("port %d and %d in one request", p.port, port)
	}
	p.streams[kind], p.replied[kind] = stream, replySent
	if p.streams[0] != nil && p.streams[1] != nil {
		close(p.complete)
	}
	return nil
}

// forget ends what is left of a pair.
func (f *forwarding) forget(request string, p *pair) {
	f.mu.Lock()
	delete(f.pairs, request)
	streams, s := p.streams, f.session
	f.mu.Unlock()
	for _, stream := range streams {
		if stream != nil {
			stream.Reset() // does nothing to what is closed on both sides
			s.RemoveStreams(stream)
		}
	}
}

// forward carries one connection until both sides are through.
func (f *forwarding) forward(request string, p *pair) {
	late := time.NewTimer(f.creation)
	defer late.Stop()
	var timedOut bool
	select {
	case <-p.complete:
	case <-late.C:
		timedOut = true
	case <-f.ctx.Done():
		return
	}
	f.mu.Lock()
	s := f.session
	streams, replied := p.streams, p.replied
	f.mu.Unlock()
	for _, sent := range replied {
		if sent == nil {
			continue
		}
		select {
		case <-sent:
		case <-f.ctx.Done():
			return
		}
	}
	data, failures := spdyStream{streams[0], s}, spdyStream{streams[1], s}
	if timedOut {
		if failures.Stream != nil {
			fmt.Fprintf(failures, "timed out waiting for the streams of request %s", request)
			failures.Close()
		}
		return
	}
	c, err := f.dial(f.ctx, p.port)
	if err != nil {
		fmt.Fprintf(failures, "error forwarding port %d: %v", p.port, err)
		failures.Close()
		data.Close()
		return
	}
	defer c.Close()
	join(f.ctx, c, data)
	failures.Close()
}

// join copies both ways until both ways have ended. The end of one way is passed on
// and does not end the other; a failure ends both.
func join(ctx context.Context, c net.Conn, client io.ReadWriteCloser) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	toPod := make(chan struct{})
	// Ends when the client ends its side or its stream is reset.
	go func() {
		defer runtime.HandleCrashWithContext(ctx)
		defer close(toPod)
		if _, err := io.Copy(c, onlyReader{client}); err != nil {
			c.Close()
		} else if half, ok := c.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	if _, err := io.Copy(onlyWriter{client}, c); err != nil {
		return // what the pod reset is reset for the client too
	}
	client.Close()
	<-toPod
}

// onlyReader and onlyWriter keep io.Copy to its own buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// forwardChannels serves what clients in browsers and scripts speak: the ports are
// in the query, each has a channel of data and one of errors, and a client cannot
// end its side. The first message on each channel is the port, two bytes in
// little-endian order.
// Source: the kubelet's streaming server, which has it from before there was a tunnel.
func (l limits) forwardChannels(w http.ResponseWriter, r *http.Request, dial Dial) {
	ports, err := forwardPorts(r.URL.Query())
	if err == nil && len(ports) > l.forwards {
		err = fmt.Errorf("at most %d ports", l.forwards)
	}
	if err != nil {
		refusal.Write(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s, isBase64, ok := accept(l, w, r, cancel, map[string]bool{"": false, "v4.channel.k8s.io": false, "v4.base64.channel.k8s.io": true})
	if !ok {
		return
	}
	defer s.close()
	s.base64 = isBase64
	inputs := make([]*io.PipeWriter, len(ports))
	var forwarded sync.WaitGroup
	defer forwarded.Wait()
	for i, port := range ports {
		var in *io.PipeReader
		in, inputs[i] = io.Pipe()
		data, failures := byte(2*i), byte(2*i+1)
		s.send(data, binary.LittleEndian.AppendUint16(nil, port))
		s.send(failures, binary.LittleEndian.AppendUint16(nil, port))
		forwarded.Go(func() {
			defer runtime.HandleCrashWithContext(ctx)
			defer in.Close()
			c, err := dial(ctx, port)
			if err != nil {
				fmt.Fprintf(s.channel(failures), "error forwarding port %d: %v", port, err)
				return
			}
			defer c.Close()
			join(ctx, c, struct {
				io.Reader
				io.Writer
				io.Closer
			}{in, s.channel(data), in})
		})
	}
	buf := make([]byte, chunk)
	s.receive(false, func(channel byte, data io.Reader) {
		if i := int(channel) / 2; channel%2 == 0 && i < len(inputs) {
			io.CopyBuffer(inputs[i], data, buf) // fails once the connection is over
		}
	}, nil)
	cancel()
	for _, in := range inputs {
		in.Close()
	}
}

// forwardPorts reads ?ports=80,81&ports=82 as the API has it, or the kubelet's ?port=.
func forwardPorts(q url.Values) ([]uint16, error) {
	var ports []uint16
	for _, list := range append(q["ports"], q["port"]...) {
		for text := range strings.SplitSeq(list, ",") {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil || port == 0 {
				return nil, fmt.Errorf("unable to parse %q as a port", text)
			}
			ports = append(ports, uint16(port))
		}
	}
	if len(ports) == 0 {
		return nil, errors.New(`query parameter "ports" is required`)
	}
	return ports, nil
}
