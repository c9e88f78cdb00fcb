package stream

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/iotest"
	"time"

	spdyframe "github.com/moby/spdystream/spdy"
)

func synStream(t testing.TB, id uint32, h http.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	f, err := spdyframe.NewFramer(&out, &out)
	if err == nil {
		err = f.WriteFrame(&spdyframe.SynStreamFrame{StreamId: spdyframe.StreamId(id), Headers: h})
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func dataFrame(stream byte, flags byte, n int) []byte {
	p := append([]byte{0, 0, 0, stream, flags, byte(n >> 16), byte(n >> 8), byte(n)}, bytes.Repeat([]byte{stream}, n)...)
	return p
}

func still(t testing.TB) *idle {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	i := newIdle(time.Hour, &conn{Conn: ours}, func() {})
	t.Cleanup(i.stop)
	return i
}

func TestFramesAreBoundedOnTheirWayToTheLibrary(t *testing.T) {
	control := func(n int) []byte {
		return append([]byte{0x80, 3, 0, 6, 0, byte(n >> 16), byte(n >> 8), byte(n)}, make([]byte, n)...)
	}
	for _, tc := range []struct {
		name     string
		in, want []byte
		fails    bool
	}{
		{"small frames as they are", append(append(dataFrame(1, 1, 5), dataFrame(3, 0, 0)...), control(4)...), append(append(dataFrame(1, 1, 5), dataFrame(3, 0, 0)...), control(4)...), false},
		{"a chunk as it is", dataFrame(1, 1, chunk), dataFrame(1, 1, chunk), false},
		{"a large frame in parts, the last with its flags", append(dataFrame(5, 1, 2*chunk+7), control(4)...),
			append(append(append(dataFrame(5, 0, chunk), dataFrame(5, 0, chunk)...), dataFrame(5, 1, 7)...), control(4)...), false},
		{"a large control frame ends it", append(dataFrame(1, 0, 3), control(maxControl+1)...), dataFrame(1, 0, 3), true},
		{"half a header", []byte{0, 0, 0}, nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(tc.in), iotest.OneByteReader(bytes.NewReader(tc.in))} {
				got, err := io.ReadAll(&frameReader{r: r, idle: still(t)})
				if !bytes.Equal(got, tc.want) || (err != nil) != tc.fails {
					t.Errorf("%d bytes, want %d; %v", len(got), len(tc.want), err)
				}
			}
		})
	}
}

// Whatever a client sends, the session ends with its connection: no panic, and
// nothing is left of it (TestMain).
func FuzzSPDYSession(f *testing.F) {
	syn := synStream(f, 1, http.Header{"Streamtype": {"data"}, "Port": {"80"}, "Requestid": {"1"}})
	f.Add(syn)
	f.Add(append(bytes.Clone(syn), dataFrame(1, 1, 40_000)...))
	f.Add([]byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1}) // ping
	f.Add([]byte{0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5, 0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, input []byte) {
		ours, theirs := net.Pipe()
		l := limits{idle: time.Minute, creation: 10 * time.Millisecond, linger: 10 * time.Millisecond, forwards: 4}
		ctx, cancel := context.WithCancel(t.Context())
		fw := &forwarding{limits: l, ctx: ctx, cancel: cancel, pairs: map[string]*pair{}, dial: func(context.Context, uint16) (net.Conn, error) {
			a, b := net.Pipe()
			go func() { io.Copy(b, b); b.Close() }()
			return a, nil
		}}
		served := make(chan struct{})
		go func() {
			defer close(served)
			fw.serve(func() (*session, error) {
				return l.newSession(&conn{Conn: ours, linger: l.linger}, ours, cancel, fw.accept)
			})
		}()
		go io.Copy(io.Discard, theirs)
		theirs.SetDeadline(time.Now().Add(5 * time.Second))
		theirs.Write(input)
		theirs.Close()
		await(t, "the end of the session", served)
	})
}
