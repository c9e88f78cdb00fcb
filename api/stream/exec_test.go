package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	spdyframe "github.com/moby/spdystream/spdy"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"

	"podd/pod"
)

// protocols are all that exec is served over.
var protocols = []struct {
	name                  string
	jsonStatus, halfClose bool
}{
	{"v5.channel.k8s.io", true, true},
	{"v4.channel.k8s.io", true, false},
	{"v4.base64.channel.k8s.io", true, false},
	{"channel.k8s.io", false, false},
	{"base64.channel.k8s.io", false, false},
	{"", false, false},
	{"spdy+v4.channel.k8s.io", true, true},
	{"spdy+v3.channel.k8s.io", false, true},
	{"spdy+v2.channel.k8s.io", false, true},
	{"spdy+channel.k8s.io", false, true},
}

func execServer(t testing.TB, l limits, run func(context.Context, Streams) error) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) { l.exec(w, r, run) })
}

func TestExecCarriesInputOutputAndHowItEnded(t *testing.T) {
	input := strings.Repeat("0123456789abcdef", 20_000) // several messages
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			address := execServer(t, quick(), func(_ context.Context, s Streams) error {
				io.WriteString(s.Stderr, "said on stderr")
				if _, err := io.CopyN(s.Stdout, s.Stdin, int64(len(input))); err != nil {
					return err
				}
				if p.halfClose {
					if n, err := io.Copy(s.Stdout, s.Stdin); n != 0 || err != nil {
						return errors.New("stdin has more than was sent")
					}
				}
				return ExitCode(7)
			})
			c := dialExec(t, address, p.name, allStreams)
			go func() {
				io.Copy(c.stdin, strings.NewReader(input))
				if p.halfClose {
					c.end()
				}
			}()
			stdout, stderr, status := c.read()
			if stdout != input || stderr != "said on stderr" {
				t.Errorf("%d bytes of output, want %d; stderr %q", len(stdout), len(input), stderr)
			}
			if !p.jsonStatus {
				if status != "command terminated with non-zero exit code: exit code 7" {
					t.Errorf("status %q", status)
				}
				return
			}
			s := decodeStatus(t, status)
			if s.Status != metav1.StatusFailure || s.Reason != "NonZeroExitCode" || len(s.Details.Causes) != 1 ||
				s.Details.Causes[0] != (metav1.StatusCause{Type: "ExitCode", Message: "7"}) {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestExecTellsSuccessAndFailure(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want metav1.Status
		text string // before version 4
	}{
		{"success", nil, metav1.Status{Status: metav1.StatusSuccess}, ""},
		{"a failure", errors.New("no such file"), metav1.Status{Status: metav1.StatusFailure, Code: 500, Reason: metav1.StatusReasonInternalError,
			Message: "Internal error occurred: no such file"}, "Internal error occurred: no such file"},
		{"a status", apierrors.NewBadRequest("container is not running"), metav1.Status{Status: metav1.StatusFailure, Code: 400, Reason: metav1.StatusReasonBadRequest,
			Message: "container is not running"}, "container is not running"},
	} {
		for _, p := range protocols {
			t.Run(tc.name+" "+p.name, func(t *testing.T) {
				address := execServer(t, quick(), func(_ context.Context, s Streams) error {
					io.WriteString(s.Stdout, "out")
					return tc.err
				})
				stdout, _, status := dialExec(t, address, p.name, "stdout=true").read()
				if stdout != "out" {
					t.Errorf("stdout %q", stdout)
				}
				if !p.jsonStatus {
					if status != tc.text {
						t.Errorf("status %q, want %q", status, tc.text)
					}
				} else if s := decodeStatus(t, status); s.Status != tc.want.Status || s.Code != tc.want.Code || s.Reason != tc.want.Reason || s.Message != tc.want.Message {
					t.Errorf("status %+v, want %+v", s, tc.want)
				}
			})
		}
	}
}

// A command ends while its client still sends, and the client is slow to read: the
// socket has unread input when it is closed.
func TestExecLosesNoOutputWhenItEndsBeforeItsInput(t *testing.T) {
	output := bytes.Repeat([]byte("x"), 4<<20)
	for _, p := range []string{"v5.channel.k8s.io", "v4.base64.channel.k8s.io", "spdy+v4.channel.k8s.io"} {
		t.Run(p, func(t *testing.T) {
			ended := make(chan struct{})
			l := standard
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				l.exec(w, r, func(_ context.Context, s Streams) error {
					io.CopyN(io.Discard, s.Stdin, 10)
					_, err := s.Stdout.Write(output)
					return err
				})
			})
			c := dialExec(t, address, p, "stdin=true&stdout=true")
			go func() {
				for {
					if _, err := c.stdin.Write(make([]byte, 100)); err != nil {
						return
					}
				}
			}()
			reading := make(chan struct{})
			var stdout, status string
			go func() {
				defer close(reading)
				if !strings.HasPrefix(p, "spdy") {
					<-time.After(100 * time.Millisecond) // behind, for the length of a breath
				}
				stdout, _, status = c.read()
			}()
			await(t, "the end of the command", ended)
			await(t, "the end of the output", reading)
			if len(stdout) != len(output) || decodeStatus(t, status).Status != metav1.StatusSuccess {
				t.Errorf("%d bytes of %d, status %q", len(stdout), len(output), status)
			}
		})
	}
}

func TestExecTellsTheNewestSizeOfATerminal(t *testing.T) {
	for _, p := range []string{"v5.channel.k8s.io", "base64.channel.k8s.io", "spdy+v4.channel.k8s.io", "spdy+v3.channel.k8s.io"} {
		t.Run(p, func(t *testing.T) {
			sized := make(chan pod.TerminalSize)
			address := execServer(t, quick(), func(_ context.Context, s Streams) error {
				if !s.TTY || s.Stderr != nil {
					return errors.New("not a terminal")
				}
				for size := range s.Resize {
					sized <- size
					if size.Width == 132 {
						return nil
					}
				}
				return nil
			})
			c := dialExec(t, address, p, allStreams+"&tty=true")
			for _, want := range []pod.TerminalSize{{Width: 80, Height: 24}, {Width: 132, Height: 43}} {
				c.resize(want.Width, want.Height)
				if got := await(t, "a size", sized); got != want {
					t.Errorf("size %+v, want %+v", got, want)
				}
			}
			c.read()
		})
	}
}

// A command that does not look at sizes takes its input all the same.
func TestSizesThatNobodyTakesStopNothing(t *testing.T) {
	address := execServer(t, quick(), func(_ context.Context, s Streams) error {
		_, err := io.CopyN(s.Stdout, s.Stdin, 4)
		return err
	})
	c := dialExec(t, address, "v5.channel.k8s.io", allStreams+"&tty=true")
	for i := range uint16(100) {
		c.resize(i, i)
	}
	io.WriteString(c.stdin, "done")
	if stdout, _, _ := c.read(); stdout != "done" {
		t.Errorf("stdout %q", stdout)
	}
}

// A command that does not read its input is told of sizes all the same, and its
// client is answered: client-go gives up after a minute without an answer to its pings.
func TestUnreadInputHoldsUpNeitherSizesNorPings(t *testing.T) {
	input := strings.Repeat("x", maxUnread)
	address := execServer(t, quick(), func(_ context.Context, s Streams) error {
		if size := <-s.Resize; size != (pod.TerminalSize{Width: 80, Height: 24}) {
			return errors.New("another size")
		}
		_, err := io.Copy(s.Stdout, s.Stdin)
		return err
	})
	c := dialExec(t, address, "v5.channel.k8s.io", allStreams+"&tty=true")
	answered := make(chan struct{})
	io.Copy(c.stdin, strings.NewReader(input))
	c.ping(func() { close(answered) })
	c.resize(80, 24)
	c.end()
	if stdout, _, status := c.read(); stdout != input || decodeStatus(t, status).Status != metav1.StatusSuccess {
		t.Errorf("%d bytes of %d, status %q", len(stdout), len(input), status)
	}
	await(t, "the answer to a ping", answered)
}

// Its input is full, so that nobody sees the connection end.
func TestCommandThatDoesNotReadItsInputEndsWithItsClient(t *testing.T) {
	l := quick()
	l.ping = 20 * time.Millisecond
	ended := make(chan struct{})
	address := execServer(t, l, func(ctx context.Context, _ Streams) error {
		<-ctx.Done()
		close(ended)
		return nil
	})
	c := dialExec(t, address, "v5.channel.k8s.io", allStreams)
	c.expire(time.Second) // by then the server takes no more
	for {
		if _, err := c.stdin.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	c.hang()
	await(t, "the end of the command", ended)
}

func TestQueueKeepsWhatIsNotReadUpToItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		if n, err := q.Write(make([]byte, maxUnread)); n != maxUnread || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		wrote := make(chan error, 1)
		go func() {
			_, err := q.Write([]byte("more"))
			q.end()
			wrote <- err
		}()
		synctest.Wait()
		if len(wrote) > 0 {
			t.Error("more than the limit was taken")
		}
		got, err := io.ReadAll(q)
		if len(got) != maxUnread+4 || string(got[maxUnread:]) != "more" || err != nil || <-wrote != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := q.Write([]byte("late")); err == nil {
			t.Error("written after the end")
		}
		q = newQueue()
		q.Write(make([]byte, maxUnread))
		go func() {
			_, err := q.Write([]byte("more"))
			wrote <- err
		}()
		synctest.Wait()
		q.leave()
		if err := <-wrote; err == nil {
			t.Error("written although nobody reads")
		}
		if n, err := q.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v", n, err)
		}
	})
}

func TestExecEndsWhenItsClientHangsUp(t *testing.T) {
	for _, p := range []string{"v5.channel.k8s.io", "spdy+v4.channel.k8s.io"} {
		t.Run(p, func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan struct{})
			address := execServer(t, quick(), func(ctx context.Context, s Streams) error {
				close(began)
				<-ctx.Done()
				io.Copy(io.Discard, s.Stdin) // has ended too
				s.Stdout.Write(make([]byte, 1<<20))
				close(ended)
				return ctx.Err()
			})
			c := dialExec(t, address, p, allStreams)
			await(t, "the command", began)
			c.hang()
			await(t, "the end of the command", ended)
		})
	}
}

func TestExecThatIsIdleEnds(t *testing.T) {
	for _, p := range []string{"v5.channel.k8s.io", "spdy+v4.channel.k8s.io"} {
		t.Run(p, func(t *testing.T) {
			l := quick()
			l.idle = 300 * time.Millisecond
			ended := make(chan struct{})
			address := execServer(t, l, func(ctx context.Context, s Streams) error {
				<-ctx.Done()
				close(ended)
				return ctx.Err()
			})
			dialExec(t, address, p, allStreams)
			await(t, "the end of the command", ended)
		})
	}
}

// A client that does not read what it asked for stops its own command only.
func TestSlowClientBlocksOnlyItself(t *testing.T) {
	for _, p := range []string{"v5.channel.k8s.io", "spdy+v4.channel.k8s.io"} {
		t.Run(p, func(t *testing.T) {
			address := execServer(t, quick(), func(ctx context.Context, s Streams) error {
				for ctx.Err() == nil {
					if _, err := s.Stdout.Write(make([]byte, 1<<16)); err != nil {
						return err
					}
				}
				return nil
			})
			slow := dialExec(t, address, p, "stdout=true")
			other := execServer(t, quick(), func(_ context.Context, s Streams) error {
				_, err := io.WriteString(s.Stdout, "quick")
				return err
			})
			if stdout, _, _ := dialExec(t, other, p, "stdout=true").read(); stdout != "quick" {
				t.Errorf("stdout %q", stdout)
			}
			slow.hang()
		})
	}
}

func TestExecSurvivesAPanicOfTheCommand(t *testing.T) {
	for _, p := range []string{"v5.channel.k8s.io", "spdy+v4.channel.k8s.io"} {
		t.Run(p, func(t *testing.T) {
			address := execServer(t, quick(), func(context.Context, Streams) error { panic("oops") })
			_, _, status := dialExec(t, address, p, "stdout=true").read()
			if s := decodeStatus(t, status); s.Reason != metav1.StatusReasonInternalError || strings.Contains(s.Message, "goroutine") {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestExecRefusesWhatItCannotServe(t *testing.T) {
	upgrade := func(h ...string) http.Header {
		header := http.Header{}
		for i := 0; i < len(h); i += 2 {
			header.Set(h[i], h[i+1])
		}
		return header
	}
	webSocket := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for _, tc := range []struct {
		name, query string
		header      http.Header
		code        int
		want        string
	}{
		{"no stream", "command=date", nil, 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"streams that are off", "stdin=false&stdout=0", nil, 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"no upgrade", "stdout=true", nil, 400, "Upgrade request required"},
		{"an unknown upgrade", "stdout=true", upgrade("Connection", "Upgrade", "Upgrade", "h2c"), 400, "Upgrade request required"},
		{"an unknown WebSocket protocol", "stdout=true", upgrade(append(webSocket, "Sec-WebSocket-Protocol", "v9.channel.k8s.io, mqtt")...), 400,
			"unable to negotiate protocol: client supports [v9.channel.k8s.io mqtt], server accepts [base64.channel.k8s.io channel.k8s.io v4.base64.channel.k8s.io v4.channel.k8s.io v5.channel.k8s.io]"},
		{"a WebSocket without a key", "stdout=true", upgrade(webSocket[:6]...), 400, "Sec-WebSocket-Key"},
		{"a page of another site", "stdout=true", upgrade(append(webSocket, "Origin", "https://evil.example")...), 403, "origin not allowed"},
		{"SPDY without a protocol", "stdout=true", upgrade("Connection", "Upgrade", "Upgrade", "SPDY/3.1"), 400, "X-Stream-Protocol-Version"},
		{"an unknown SPDY protocol", "stdout=true", upgrade("Connection", "Upgrade", "Upgrade", "SPDY/3.1", "X-Stream-Protocol-Version", "v9"), 403, "unable to negotiate protocol"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := execServer(t, quick(), func(context.Context, Streams) error { panic("it ran") })
			req, err := http.NewRequest(http.MethodGet, "http://"+address+"/exec?"+tc.query, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.header != nil {
				req.Header = tc.header
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tc.code || !strings.Contains(string(body), tc.want) {
				t.Errorf("%d %s, want %d with %q", resp.StatusCode, body, tc.code, tc.want)
			}
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		})
	}
}

// Programs have no page of their own, or one of this machine; Kubernetes' own tests
// call themselves http://localhost.
func TestPagesOfThisMachineMayOpenWebSockets(t *testing.T) {
	for origin, want := range map[string]bool{
		"": true, "http://localhost": true, "http://127.0.0.1:8001": true, "http://[::1]:8001": true, "https://box.lan:6443": true,
		"https://box.lan": false, "https://evil.example": false, "null": false, "http://localhost.evil.example": false, "%": false,
	} {
		r := httptest.NewRequest(http.MethodGet, "https://box.lan:6443/exec", nil)
		r.Header.Set("Origin", origin)
		if got := sameOrigin(r); got != want {
			t.Errorf("origin %q: %t, want %t", origin, got, want)
		}
	}
}

func TestQueriesNameStreamsAsTheAPIOrTheKubeletDoes(t *testing.T) {
	for query, want := range map[string]wanted{
		"stdin=true&stdout=true&stderr=true":   {stdin: true, stdout: true, stderr: true},
		"input=1&output=1&error=1":             {stdin: true, stdout: true, stderr: true},
		"stdin=1&stdout=&tty=TRUE&stderr=true": {stdin: true, stdout: true, tty: true},
		"stdin=False&stdout=true&tty=0":        {stdout: true},
		"command=stdin":                        {},
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got := wantedStreams(q); got != want {
			t.Errorf("%s: %+v, want %+v", query, got, want)
		}
	}
}

// Clients may send a message in pieces, empty messages and channels that mean nothing.
func TestExecTakesMessagesInAnyForm(t *testing.T) {
	address := execServer(t, quick(), func(_ context.Context, s Streams) error {
		_, err := io.Copy(s.Stdout, s.Stdin)
		return err
	})
	dialer := websocket.Dialer{Subprotocols: []string{"v5.channel.k8s.io"}, WriteBufferSize: 16}
	ws, _, err := dialer.Dial("ws://"+address+"/exec?"+allStreams, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.WriteMessage(websocket.BinaryMessage, nil)
	for _, p := range [][]byte{{channelStdin}, {9, 'x'}, {channelStdout, 'x'}, {channelResize, '{'}, {channelClose}, {channelClose, 77}} {
		ws.WriteMessage(websocket.BinaryMessage, p)
	}
	w, err := ws.NextWriter(websocket.BinaryMessage) // 16 bytes a frame
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte{channelStdin})
	text := strings.Repeat("one message in many frames ", 100)
	io.WriteString(w, text)
	w.Close()
	ws.WriteMessage(websocket.BinaryMessage, []byte{channelClose, channelStdin})
	var got strings.Builder
	for {
		_, p, err := ws.ReadMessage()
		if err != nil {
			break
		}
		if p[0] == channelStdout {
			got.Write(p[1:])
		}
	}
	if got.String() != text {
		t.Errorf("got %q", got.String())
	}
}

func TestSPDYClientThatMakesTooFewStreamsIsDropped(t *testing.T) {
	l := quick()
	l.creation = 100 * time.Millisecond
	address := execServer(t, l, func(context.Context, Streams) error { panic("it ran") })
	c, _ := dialUpgrade(t, address, "/exec?"+allStreams, "v4.channel.k8s.io")
	makeStream(t, c, "streamType", "error")
	await(t, "the end of the connection", c.CloseChan())
}

func TestSPDYStreamsWithoutMeaningAreRefused(t *testing.T) {
	began := make(chan struct{})
	address := execServer(t, quick(), func(ctx context.Context, _ Streams) error {
		close(began)
		<-ctx.Done()
		return nil
	})
	c, _ := dialUpgrade(t, address, "/exec?stdout=true", "v4.channel.k8s.io")
	for _, kind := range []string{"error", "stdout"} {
		makeStream(t, c, "streamType", kind)
	}
	await(t, "the command", began)
	for _, kind := range []string{"stdout", "stdin", "", strings.Repeat("x", 3000)} {
		if _, err := c.CreateStream(http.Header{"Streamtype": {kind}}); err == nil {
			t.Errorf("a stream of type %.10q was taken", kind)
		}
	}
}

func TestSPDYClientThatGoesOnMakingStreamsIsDropped(t *testing.T) {
	l := quick()
	l.linger = 100 * time.Millisecond
	address := execServer(t, l, func(context.Context, Streams) error { panic("it ran") })
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /exec?stdout=true HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n")
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}()
	var head bytes.Buffer // all frames share one compressor, as the protocol has it
	f, err := spdyframe.NewFramer(&head, &head)
	if err != nil {
		t.Fatal(err)
	}
	for id := spdyframe.StreamId(1); ; id += 2 {
		head.Reset()
		if err := f.WriteFrame(&spdyframe.SynStreamFrame{StreamId: id, Headers: http.Header{"Streamtype": {"nothing"}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(head.Bytes()); err != nil {
			break
		}
	}
	await(t, "the end of the connection", ended)
}

// dead is a connection of which writes fail.
type dead struct{ net.Conn }

func (dead) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// The library would wait for ever to write to a stream that it could not confirm.
func TestStreamOfADeadConnectionCannotBeWritten(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	_, cancel := context.WithCancel(t.Context())
	wrote := make(chan error, 1)
	got := make(chan *session, 1)
	accepted := make(chan spdyStream, 1)
	l := quick()
	c := &conn{Conn: dead{ours}, linger: l.linger}
	s, err := l.newSession(c, ours, cancel, func(stream httpstream.Stream, replySent <-chan struct{}) error {
		go func() {
			<-replySent
			s := <-got
			accepted <- spdyStream{stream, s}
			_, err := spdyStream{stream, s}.Write([]byte("x"))
			wrote <- err
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	got <- s
	go theirs.Write(synStream(t, 1, http.Header{"Streamtype": {"stdout"}}))
	if err := await(t, "the write", wrote); err == nil {
		t.Error("it was written")
	}
	if err := (<-accepted).Close(); err == nil {
		t.Error("it was closed")
	}
}
