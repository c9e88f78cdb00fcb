package stream

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/internal/refusal"
	"podd/pod"
)

// The channels of exec and attach; a message is one byte of channel and data.
//
//	client                                          podd
//	GET …/exec?command=…&stdin=true&stdout=true ──▶
//	    Sec-WebSocket-Protocol: v5.channel.k8s.io
//	                                            ◀── 101 Switching Protocols
//	                                            ◀── 1, nothing: it begins
//	0 data, 4 {"Width":80,"Height":24} … ───────▶
//	255 0: no more input (v5) ──────────────────▶
//	                                            ◀── 1 data, 2 data …
//	                                            ◀── 3 how it ended
//	                                            ◀── close
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelStatus = 3
	channelResize = 4
	// channelClose is followed by the channel on which nothing more comes.
	channelClose = 255
)

// execProtocol is what a WebSocket protocol means for exec and attach.
type execProtocol struct {
	base64     bool // text messages: the channel as a digit, the data in base64
	jsonStatus bool // the end is told as a Status, not as a text after a failure
	halfClose  bool // the client can end one channel
}

// execProtocols are those of the kubelet. A client that names none speaks the
// first version.
var execProtocols = map[string]execProtocol{
	"":                         {},
	"channel.k8s.io":           {},
	"base64.channel.k8s.io":    {base64: true},
	"v4.channel.k8s.io":        {jsonStatus: true},
	"v4.base64.channel.k8s.io": {jsonStatus: true, base64: true},
	"v5.channel.k8s.io":        {jsonStatus: true, halfClose: true},
}

func (l limits) execWebSocket(w http.ResponseWriter, r *http.Request, wanted wanted, run func(context.Context, Streams) error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s, protocol, ok := accept(l, w, r, cancel, execProtocols)
	if !ok {
		return
	}
	defer s.close()
	s.base64 = protocol.base64

	var streams Streams
	input := newQueue()
	size := newSizes()
	streams.TTY = wanted.tty
	streams.Resize = size
	if wanted.stdin {
		streams.Stdin = input
	}
	if wanted.stderr {
		streams.Stderr = s.channel(channelStderr)
	}
	if wanted.stdout {
		streams.Stdout = s.channel(channelStdout)
	}
	// The kubelet tells that the connection stands on the lowest channel it writes.
	switch {
	case wanted.stdout:
		s.send(channelStdout, nil)
	case wanted.stderr:
		s.send(channelStderr, nil)
	default:
		s.send(channelStatus, nil)
	}
	// Owns the receiving side; ends when the client hangs up or the socket is closed.
	go func() {
		defer cancel()
		defer input.end()
		buf := make([]byte, chunk)
		s.receive(protocol.halfClose, func(channel byte, data io.Reader) {
			switch channel {
			case channelStdin:
				if wanted.stdin {
					io.CopyBuffer(input, data, buf) // fails once the command is over
				}
			case channelResize:
				var new pod.TerminalSize
				if json.NewDecoder(io.LimitReader(data, maxResize)).Decode(&new) == nil {
					size.tell(new)
				}
			}
		}, func(channel byte) {
			if channel == channelStdin {
				input.end()
			}
		})
	}()
	err := safely(run, ctx, streams)
	input.leave()
	writeStatus(s.channel(channelStatus), err, protocol.jsonStatus)
}

// maxResize bounds the message with a terminal's size, in bytes.
const maxResize = 1 << 10

// accept turns a request into a socket that speaks one of the protocols served. cancel
// is called when its client is gone. A request that cannot be is answered.
func accept[P any](l limits, w http.ResponseWriter, r *http.Request, cancel context.CancelFunc, served map[string]P) (s *socket, protocol P, ok bool) {
	name, protocol, ok := negotiate(w, r, served)
	if !ok {
		return nil, protocol, false
	}
	s, err := l.upgrade(w, r, name, cancel)
	return s, protocol, err == nil
}

// negotiate picks the first protocol of the client that is served, and answers the
// request if there is none.
func negotiate[P any](w http.ResponseWriter, r *http.Request, served map[string]P) (name string, protocol P, ok bool) {
	offered := offeredProtocols(r)
	if len(offered) == 0 {
		offered = []string{""}
	}
	for _, name := range offered {
		if protocol, ok := served[name]; ok {
			return name, protocol, true
		}
	}
	names := make([]string, 0, len(served))
	for name := range served {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	refusal.Write(w, apierrors.NewBadRequest(fmt.Sprintf("unable to negotiate protocol: client supports %v, server accepts %v", offered, names)))
	return "", protocol, false
}

func offeredProtocols(r *http.Request) []string {
	var all []string
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				all = append(all, name)
			}
		}
	}
	return all
}

// socket is a WebSocket whose messages belong to channels.
type socket struct {
	ws     *websocket.Conn
	base64 bool
	idle   *idle
	linger time.Duration
	closed chan struct{} // by close

	sending sync.Mutex
	message []byte // the one being sent; guarded by sending
}

// isWebSocket says whether a request asks for a WebSocket.
func isWebSocket(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// upgrade turns a request into a socket; a request that cannot be is answered.
func (l limits) upgrade(w http.ResponseWriter, r *http.Request, protocol string, cancel context.CancelFunc) (*socket, error) {
	upgrader := websocket.Upgrader{
		CheckOrigin: sameOrigin,
		Error: func(w http.ResponseWriter, _ *http.Request, code int, reason error) {
			status := apierrors.NewBadRequest(reason.Error())
			status.ErrStatus.Code = int32(code)
			refusal.Write(w, status)
		},
	}
	header := http.Header{}
	if protocol != "" {
		header.Set("Sec-Websocket-Protocol", protocol)
	}
	h := &hijacker{ResponseWriter: w, linger: l.linger}
	ws, err := upgrader.Upgrade(h, r, header)
	if err != nil {
		if h.conn != nil {
			h.conn.Conn.Close()
		}
		return nil, err
	}
	s := &socket{ws: ws, idle: newIdle(l.idle, h.conn, cancel), linger: l.linger, closed: make(chan struct{})}
	go s.lookAfter(l.ping, cancel)
	return s, nil
}

// lookAfter notices that the client is gone while nobody receives, because a command
// does not read its input: what is sent to a socket that nobody has any more is
// answered with a reset, and the next time sending fails. Ends with the socket.
func (s *socket) lookAfter(every time.Duration, cancel context.CancelFunc) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-s.closed:
			return
		case <-t.C:
		}
		var slow net.Error
		err := s.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
		if err != nil && !(errors.As(err, &slow) && slow.Timeout()) {
			cancel()
			return
		}
	}
}

// hijacker gives the websocket library a connection that ends as ours do.
type hijacker struct {
	http.ResponseWriter
	linger time.Duration
	conn   *conn // after Hijack
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffered, err := hijack(h.ResponseWriter, h.linger)
	if err != nil {
		return nil, nil, err
	}
	h.conn = c
	return c, buffered, nil
}

// sameOrigin keeps pages of other sites out: a browser that holds a client
// certificate for us would present it for any page that opens a WebSocket, and the
// browser's rules for requests do not hold for those. Programs send no Origin, or
// one of this machine.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil && addr.IsLoopback() {
		return true
	}
	return strings.EqualFold(u.Host, r.Host) || strings.EqualFold(u.Hostname(), "localhost")
}

// close says goodbye. Whoever still receives ends soon after.
func (s *socket) close() {
	s.idle.stop()
	close(s.closed)
	s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(s.linger))
	s.ws.Close()
}

// send sends one message on a channel.
func (s *socket) send(channel byte, p []byte) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	kind := websocket.BinaryMessage
	if s.base64 {
		kind = websocket.TextMessage
		s.message = base64.StdEncoding.AppendEncode(append(s.message[:0], '0'+channel), p)
	} else {
		s.message = append(append(s.message[:0], channel), p...)
	}
	err := s.ws.WriteMessage(kind, s.message)
	s.idle.touch()
	return err
}

// channel is a writer to one channel; each message holds a bounded part.
func (s *socket) channel(n byte) io.Writer { return channelWriter{s, n} }

type channelWriter struct {
	socket  *socket
	channel byte
}

func (c channelWriter) Write(p []byte) (int, error) {
	return inChunks(p, func(part []byte) error { return c.socket.send(c.channel, part) })
}

// receive hands each message's data to got, and to closed each channel that the
// client ends, until the client hangs up. It goes on with the next message when got
// returns, whatever was read.
func (s *socket) receive(halfClose bool, got func(channel byte, data io.Reader), closed func(channel byte)) {
	for {
		_, message, err := s.ws.NextReader()
		if err != nil {
			return
		}
		s.idle.touch()
		var channel [1]byte
		if _, err := io.ReadFull(message, channel[:]); err != nil {
			continue // an empty message, or the next read says what is wrong
		}
		switch {
		case halfClose && channel[0] == channelClose:
			if _, err := io.ReadFull(message, channel[:]); err == nil {
				closed(channel[0])
			}
		case s.base64:
			got(channel[0]-'0', base64.NewDecoder(base64.StdEncoding, message))
		default:
			got(channel[0], message)
		}
	}
}
