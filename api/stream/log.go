package stream

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// Log serves a log that read writes, as it comes: as text, or to a client that asks
// for a WebSocket as the messages of binary.k8s.io or base64.binary.k8s.io. Whether
// there is such a log is to be settled before. The context of read ends when the
// client hangs up; what read fails with later is told as the last line.
func Log(w http.ResponseWriter, r *http.Request, read func(ctx context.Context, w io.Writer) error) {
	standard.log(w, r, read)
}

func (l limits) log(w http.ResponseWriter, r *http.Request, read func(context.Context, io.Writer) error) {
	if isWebSocket(r) {
		l.logMessages(w, r, read)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := flushWriter{w, http.NewResponseController(w), l.idle}
	defer out.control.SetWriteDeadline(time.Time{}) // the connection may serve another request
	out.control.Flush()                             // a follower learns that its request was taken
	if err := read(r.Context(), out); err != nil && r.Context().Err() == nil {
		fmt.Fprintln(out, err)
	}
}

// flushWriter sends each write at once, and waits only so long for a client to take it.
type flushWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	idle    time.Duration
}

func (w flushWriter) Write(p []byte) (int, error) {
	w.control.SetWriteDeadline(time.Now().Add(w.idle)) // not there in tests with a recorder
	n, err := w.ResponseWriter.Write(p)
	if err == nil {
		err = w.control.Flush()
	}
	return n, err
}

func (l limits) logMessages(w http.ResponseWriter, r *http.Request, read func(context.Context, io.Writer) error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s, isBase64, ok := accept(l, w, r, cancel, map[string]bool{"": false, "binary.k8s.io": false, "base64.binary.k8s.io": true})
	if !ok {
		return
	}
	defer s.close()
	// Ends when the client hangs up or the socket is closed.
	go func() {
		defer cancel()
		for {
			if _, _, err := s.ws.NextReader(); err != nil {
				return
			}
		}
	}()
	out := messageWriter{s, isBase64}
	out.send(nil) // as Kubernetes does, to tell that the connection stands
	if err := read(ctx, out); err != nil && ctx.Err() == nil {
		fmt.Fprintln(out, err)
	}
}

// messageWriter sends what is written as messages without a channel.
type messageWriter struct {
	*socket
	base64 bool
}

func (m messageWriter) Write(p []byte) (int, error) { return inChunks(p, m.send) }

func (m messageWriter) send(p []byte) error {
	defer m.idle.touch()
	if m.base64 {
		return m.ws.WriteMessage(websocket.TextMessage, []byte(base64.StdEncoding.EncodeToString(p)))
	}
	return m.ws.WriteMessage(websocket.BinaryMessage, p)
}
