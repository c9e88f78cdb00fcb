package stream

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// transports are the two ways of a SPDY connection for port-forward.
var transports = []struct {
	name string
	dial func(t testing.TB, address string) httpstream.Connection
}{
	{"SPDY", func(t testing.TB, address string) httpstream.Connection {
		c, _ := dialUpgrade(t, address, "/portforward", "portforward.k8s.io")
		return c
	}},
	{"tunnelled", func(t testing.TB, address string) httpstream.Connection {
		dialer := websocket.Dialer{Subprotocols: []string{"SPDY/3.1+portforward.k8s.io"}}
		ws, resp, err := dialer.Dial("ws://"+address+"/portforward", nil)
		if err != nil {
			t.Fatalf("%v: %+v", err, resp)
		}
		c, err := spdy.NewClientConnection(&tunnel{Conn: ws.NetConn(), ws: ws})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}},
}

func forwardServer(t testing.TB, l limits, dial Dial) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) { l.portForward(w, r, dial) })
}

// forwardTo opens one forwarded connection, as kubectl does.
func forwardTo(t testing.TB, c httpstream.Connection, request int, port uint16) (data, failures httpstream.Stream) {
	t.Helper()
	h := []string{"port", strconv.Itoa(int(port)), "requestID", strconv.Itoa(request), "streamType"}
	failures = makeStream(t, c, append(h, "error")...)
	failures.Close()
	return makeStream(t, c, append(h, "data")...), failures
}

func TestPortForwardCarriesManyConnectionsAtOnce(t *testing.T) {
	port := echoServer(t)
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			c := transport.dial(t, forwardServer(t, quick(), dialLocal))
			var wg sync.WaitGroup
			for i := range 40 {
				size := 1000
				if i%10 == 0 {
					size = 2 << 20
				}
				sent := make([]byte, size)
				random := rand.NewChaCha8([32]byte{byte(i)})
				random.Read(sent)
				data, failures := forwardTo(t, c, i, port)
				wg.Go(func() {
					for rest := sent; len(rest) > 0; {
						n, err := data.Write(rest[:min(len(rest), 50_000)]) // more than a chunk
						if err != nil {
							t.Error(err)
							return
						}
						rest = rest[n:]
					}
					data.Close() // half: the last word comes after it
				})
				wg.Go(func() {
					got, _ := io.ReadAll(data)
					if !bytes.Equal(got, append(sent, '!')) {
						t.Errorf("connection %d: %d bytes came back of %d", i, len(got), len(sent)+1)
					}
					if text, _ := io.ReadAll(failures); len(text) > 0 {
						t.Errorf("connection %d: %s", i, text)
					}
				})
			}
			wg.Wait()
		})
	}
}

// As with a kubelet, the client learns on the error stream that nobody listens, and
// the session goes on.
func TestPortForwardTellsThatAPortIsRefused(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	echo := echoServer(t)
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			c := transport.dial(t, forwardServer(t, quick(), dialLocal))
			data, failures := forwardTo(t, c, 0, port)
			text, _ := io.ReadAll(failures)
			want := fmt.Sprintf("error forwarding port %d: cannot connect to port %d of pod default/web: connect: connection refused", port, port)
			if string(text) != want {
				t.Errorf("told %q, want %q", text, want)
			}
			if got, _ := io.ReadAll(data); len(got) > 0 {
				t.Errorf("data %q", got)
			}
			data, _ = forwardTo(t, c, 1, echo)
			data.Close()
			if got, _ := io.ReadAll(data); string(got) != "!" {
				t.Errorf("the next connection: %q", got)
			}
		})
	}
}

// A server that resets a connection must not end the client's other connections: a
// client gives up the session when it is told of an error.
func TestConnectionResetInThePodEndsNoOther(t *testing.T) {
	port := listen(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
	})
	echo := echoServer(t)
	c := transports[0].dial(t, forwardServer(t, quick(), dialLocal))
	other, _ := forwardTo(t, c, 0, echo)
	data, failures := forwardTo(t, c, 1, port)
	data.Write([]byte("xx"))
	if got, _ := io.ReadAll(data); len(got) > 0 {
		t.Errorf("data %q", got)
	}
	if text, _ := io.ReadAll(failures); len(text) > 0 {
		t.Errorf("told %q", text)
	}
	io.WriteString(other, "on")
	other.Close()
	if got, _ := io.ReadAll(other); string(got) != "on!" {
		t.Errorf("the other connection: %q", got)
	}
}

// What the client no longer reads is not sent for ever.
func TestConnectionResetByTheClientEndsInThePod(t *testing.T) {
	ended := make(chan struct{})
	port := listen(t, func(c *net.TCPConn) {
		defer close(ended)
		for {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	})
	c := transports[0].dial(t, forwardServer(t, quick(), dialLocal))
	data, _ := forwardTo(t, c, 0, port)
	io.ReadFull(data, make([]byte, 10_000))
	data.Reset()
	await(t, "the end in the pod", ended)
}

func TestPortForwardEndsWithItsClient(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			taken, ended := make(chan struct{}), make(chan struct{})
			port := listen(t, func(c *net.TCPConn) {
				close(taken)
				io.Copy(io.Discard, c)
				close(ended)
			})
			served := make(chan struct{})
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				quick().portForward(w, r, dialLocal)
				close(served)
			})
			c := transport.dial(t, address)
			forwardTo(t, c, 0, port)
			await(t, "the connection", taken)
			c.Close()
			await(t, "its end", ended)
			await(t, "the end of the request", served)
		})
	}
}

func TestPortForwardThatIsIdleEnds(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			l := quick()
			l.idle = 200 * time.Millisecond
			c := transport.dial(t, forwardServer(t, l, dialLocal))
			await(t, "the end of the session", c.CloseChan())
		})
	}
}

func TestPortForwardRefusesStreamsWithoutMeaning(t *testing.T) {
	l := quick()
	l.forwards = 2
	echo := echoServer(t)
	c := transports[0].dial(t, forwardServer(t, l, dialLocal))
	port := strconv.Itoa(int(echo))
	makeStream(t, c, "port", port, "requestID", "a", "streamType", "error")
	for _, tc := range []struct{ name, port, request, kind string }{
		{"no port", "", "1", "data"}, {"port 0", "0", "1", "data"}, {"a large port", "65536", "1", "data"}, {"no number", "http", "1", "data"},
		{"no type", port, "1", ""}, {"another type", port, "1", "stdout"}, {"twice", port, "a", "error"}, {"another port", "1", "a", "data"},
	} {
		h := http.Header{}
		for name, value := range map[string]string{"port": tc.port, "requestID": tc.request, "streamType": tc.kind} {
			if value != "" {
				h.Set(name, value)
			}
		}
		if _, err := c.CreateStream(h); err == nil {
			t.Errorf("%s: taken", tc.name)
		}
	}
	makeStream(t, c, "port", port, "requestID", "b", "streamType", "error")
	if _, err := c.CreateStream(http.Header{"Port": {port}, "Requestid": {"c"}, "Streamtype": {"error"}}); err == nil {
		t.Error("three connections at once where two are allowed")
	}
	data := makeStream(t, c, "port", port, "requestID", "b", "streamType", "data")
	data.Close()
	if got, _ := io.ReadAll(data); string(got) != "!" {
		t.Errorf("got %q", got)
	}
}

// Clients without a request ID make the data stream right after the error stream.
func TestPortForwardPairsStreamsOfOldClients(t *testing.T) {
	port := strconv.Itoa(int(echoServer(t)))
	c := transports[0].dial(t, forwardServer(t, quick(), dialLocal))
	for range 2 {
		makeStream(t, c, "port", port, "streamType", "error")
		data := makeStream(t, c, "port", port, "streamType", "data")
		data.Close()
		if got, _ := io.ReadAll(data); string(got) != "!" {
			t.Errorf("got %q", got)
		}
	}
}

func TestPortForwardTellsThatAStreamIsMissing(t *testing.T) {
	l := quick()
	l.creation = 100 * time.Millisecond
	c := transports[0].dial(t, forwardServer(t, l, dialLocal))
	failures := makeStream(t, c, "port", "80", "requestID", "7", "streamType", "error")
	if text, _ := io.ReadAll(failures); string(text) != "timed out waiting for the streams of request 7" {
		t.Errorf("told %q", text)
	}
	data := makeStream(t, c, "port", "80", "requestID", "8", "streamType", "data")
	if got, _ := io.ReadAll(data); len(got) > 0 {
		t.Errorf("data %q", got)
	}
}

// The channels of clients in browsers and scripts.
func TestPortForwardOverChannels(t *testing.T) {
	echo := echoServer(t)
	for _, protocol := range []string{"v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""} {
		t.Run(protocol, func(t *testing.T) {
			address := forwardServer(t, quick(), func(ctx context.Context, port uint16) (net.Conn, error) {
				if port == 81 {
					return nil, fmt.Errorf("nobody listens")
				}
				return dialLocal(ctx, port)
			})
			dialer := websocket.Dialer{}
			if protocol != "" {
				dialer.Subprotocols = []string{protocol}
			}
			ws, resp, err := dialer.Dial(fmt.Sprintf("ws://%s/portforward?ports=%d,81", address, echo), nil)
			if err != nil {
				t.Fatalf("%v: %+v", err, resp)
			}
			defer ws.Close()
			isBase64 := strings.Contains(protocol, "base64")
			message := append([]byte{0}, "hello"...)
			if isBase64 {
				message = []byte("0" + base64.StdEncoding.EncodeToString([]byte("hello")))
			}
			ws.WriteMessage(websocket.BinaryMessage, message)
			want := []string{"hello", "", "", "error forwarding port 81: nobody listens"}
			got := [4]bytes.Buffer{}
			for got[0].Len() < 2+len(want[0]) || got[3].Len() < 2+len(want[3]) {
				_, p, err := ws.ReadMessage()
				if err != nil {
					t.Fatal(err)
				}
				if isBase64 {
					p[0] -= '0'
					if p, err = base64.StdEncoding.AppendDecode(p[:1:1], p[1:]); err != nil {
						t.Fatal(err)
					}
				}
				got[p[0]].Write(p[1:])
			}
			for i, port := range []uint16{echo, echo, 81, 81} {
				if binary.LittleEndian.Uint16(got[i].Next(2)) != port || got[i].String() != want[i] {
					t.Errorf("channel %d has %q, want port %d and %q", i, got[i].String(), port, want[i])
				}
			}
		})
	}
}

func TestPortForwardRefusesWhatItCannotServe(t *testing.T) {
	address := forwardServer(t, quick(), nil)
	for query, want := range map[string]string{
		"": `"ports" is required`, "?ports=": `unable to parse "" as a port`, "?ports=80,x": `unable to parse "x" as a port`,
		"?port=0": `unable to parse "0" as a port`, "?ports=1" + strings.Repeat(",1", 300): "at most 256 ports",
	} {
		_, resp, err := websocket.DefaultDialer.Dial("ws://"+address+"/portforward"+query, nil)
		if err == nil {
			t.Fatalf("%s: taken", query)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 || !strings.Contains(strings.ReplaceAll(string(body), `\"`, `"`), want) {
			t.Errorf("%.20s: %d %s, want %s", query, resp.StatusCode, body, want)
		}
	}
	dialer := websocket.Dialer{Subprotocols: []string{"SPDY/3.1+other.k8s.io"}}
	if _, resp, err := dialer.Dial("ws://"+address+"/portforward", nil); err == nil || resp.StatusCode != 400 {
		t.Errorf("an unknown tunnel: %v, %+v", err, resp)
	}
}
