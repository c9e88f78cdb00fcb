package stream

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// quick are the standard limits with a shorter farewell.
func quick() limits {
	l := standard
	l.linger = 2 * time.Second
	return l
}

// serve serves a handler until the test ends.
func serve(t testing.TB, handle http.HandlerFunc) (address string) {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// command is the client's side of an exec, whatever protocol carries it.
type command struct {
	stdin  io.Writer
	end    func() // ends stdin
	resize func(width, height uint16)
	ping   func(answered func()) // calls answered when the server has answered; WebSocket only
	// read returns everything that came until the server ended the streams.
	read func() (stdout, stderr, status string)
	hang func() // closes the connection without a word
	// expire lets sending fail after a while; WebSocket only.
	expire func(time.Duration)
}

const allStreams = "stdin=true&stdout=true&stderr=true"

// dialExec starts an exec with a protocol: the name of a WebSocket protocol or, with
// spdy+ before it, of one over SPDY.
func dialExec(t testing.TB, address, protocol, query string) command {
	t.Helper()
	if name, ok := strings.CutPrefix(protocol, "spdy+"); ok {
		return dialSPDY(t, address, name, query)
	}
	return dialWebSocket(t, address, protocol, query)
}

func dialWebSocket(t testing.TB, address, protocol, query string) command {
	t.Helper()
	dialer := websocket.Dialer{}
	if protocol != "" {
		dialer.Subprotocols = []string{"v9.channel.k8s.io", protocol}
	}
	ws, resp, err := dialer.Dial("ws://"+address+"/exec?"+query, nil)
	if err != nil {
		t.Fatalf("dial: %v (%+v)", err, resp)
	}
	t.Cleanup(func() { ws.Close() })
	if ws.Subprotocol() != protocol {
		t.Fatalf("protocol %q, want %q", ws.Subprotocol(), protocol)
	}
	isBase64 := strings.Contains(protocol, "base64")
	send := func(channel byte, p []byte) error {
		if isBase64 {
			return ws.WriteMessage(websocket.TextMessage, []byte(string('0'+rune(channel))+base64.StdEncoding.EncodeToString(p)))
		}
		return ws.WriteMessage(websocket.BinaryMessage, append([]byte{channel}, p...))
	}
	return command{
		stdin: writerFunc(func(p []byte) (int, error) { return len(p), send(channelStdin, p) }),
		end:   func() { ws.WriteMessage(websocket.BinaryMessage, []byte{channelClose, channelStdin}) },
		resize: func(width, height uint16) {
			send(channelResize, fmt.Appendf(nil, `{"Width":%d,"Height":%d}`+"\n", width, height))
		},
		read: func() (string, string, string) {
			var got [5]bytes.Buffer
			for {
				kind, p, err := ws.ReadMessage()
				if err != nil {
					if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
						t.Errorf("the socket ended with %v, want a normal close", err)
					}
					return got[1].String(), got[2].String(), got[3].String()
				}
				channel, data := p[0], p[1:]
				if isBase64 {
					channel -= '0'
					if data, err = base64.StdEncoding.AppendDecode(nil, data); err != nil || kind != websocket.TextMessage {
						t.Errorf("message %q of kind %d: %v", p, kind, err)
					}
				}
				got[channel].Write(data)
			}
		},
		ping: func(answered func()) {
			ws.SetPongHandler(func(string) error { answered(); return nil })
			ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience))
		},
		hang:   func() { ws.NetConn().Close() },
		expire: func(d time.Duration) { ws.SetWriteDeadline(time.Now().Add(d)) },
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// dialUpgrade opens a SPDY connection as client-go does.
func dialUpgrade(t testing.TB, address, path string, protocols ...string) (httpstream.Connection, *http.Response) {
	t.Helper()
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range protocols {
		req.Header.Add(httpstream.HeaderProtocolVersion, p)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rt.NewConnection(resp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, resp
}

func makeStream(t testing.TB, c httpstream.Connection, headers ...string) httpstream.Stream {
	t.Helper()
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	s, err := c.CreateStream(h)
	if err != nil {
		t.Fatalf("stream %v: %v", headers, err)
	}
	return s
}

func dialSPDY(t testing.TB, address, protocol, query string) command {
	t.Helper()
	c, resp := dialUpgrade(t, address, "/exec?"+query, "v9.channel.k8s.io", protocol)
	if got := resp.Header.Get(httpstream.HeaderProtocolVersion); got != protocol {
		t.Fatalf("protocol %q, want %q", got, protocol)
	}
	cmd := command{hang: func() { c.Close() }}
	failures := makeStream(t, c, "streamType", "error")
	failures.Close()
	outputs := map[string]io.Reader{"error": failures}
	if strings.Contains(query, "stdin=") {
		in := makeStream(t, c, "streamType", "stdin")
		cmd.stdin, cmd.end = in, func() { in.Close() }
	}
	for _, name := range []string{"stdout", "stderr"} {
		if strings.Contains(query, name) && !(name == "stderr" && strings.Contains(query, "tty")) {
			outputs[name] = makeStream(t, c, "streamType", name)
		}
	}
	if strings.Contains(query, "tty") && protocol >= "v3" {
		size := makeStream(t, c, "streamType", "resize")
		cmd.resize = func(width, height uint16) {
			json.NewEncoder(size).Encode(map[string]uint16{"Width": width, "Height": height})
		}
	}
	cmd.read = func() (string, string, string) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := map[string]string{}
		for name, r := range outputs {
			wg.Go(func() {
				p, _ := io.ReadAll(r)
				mu.Lock()
				got[name] = string(p)
				mu.Unlock()
			})
		}
		wg.Wait()
		return got["stdout"], got["stderr"], got["error"]
	}
	return cmd
}

// decodeStatus reads what clients take the exit code from.
func decodeStatus(t testing.TB, text string) metav1.Status {
	t.Helper()
	var s metav1.Status
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Errorf("status %q: %v", text, err)
	}
	return s
}

// await fails the test unless c is closed or sent to in time.
func await[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not within %s", what, patience)
	}
	return v
}

// echoServer answers each connection with what it reads, then with a last word, and
// closes it.
func echoServer(t testing.TB) uint16 {
	t.Helper()
	return listen(t, func(c *net.TCPConn) {
		io.Copy(c, c)
		io.WriteString(c, "!")
	})
}

// listen serves connections until the test ends.
func listen(t testing.TB, handle func(*net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// dialLocal connects to this machine, in place of a pod.
func dialLocal(ctx context.Context, port uint16) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to port %d of pod default/web: %w", port, errors.Unwrap(err))
	}
	return c, nil
}
