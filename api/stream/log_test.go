package stream

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

func logServer(t testing.TB, read func(context.Context, io.Writer) error) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) { quick().log(w, r, read) })
}

func TestLogIsTextAsItComes(t *testing.T) {
	next := make(chan struct{})
	address := logServer(t, func(_ context.Context, w io.Writer) error {
		<-next
		io.WriteString(w, "one\n")
		<-next
		io.WriteString(w, "two\n")
		return errors.New("the disk is gone")
	})
	resp, err := http.Get("http://" + address) // the header comes before the first line
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
		t.Errorf("content type %q", kind)
	}
	next <- struct{}{}
	line := make([]byte, 4)
	if io.ReadFull(resp.Body, line); string(line) != "one\n" {
		t.Errorf("first %q", line)
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); string(rest) != "two\nthe disk is gone\n" || err != nil {
		t.Errorf("then %q, %v", rest, err)
	}
}

func TestLogAsMessages(t *testing.T) {
	text := strings.Repeat("a line\n", 20_000)
	address := logServer(t, func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
	for _, protocol := range []string{"binary.k8s.io", "base64.binary.k8s.io", ""} {
		t.Run(protocol, func(t *testing.T) {
			dialer := websocket.Dialer{}
			if protocol != "" {
				dialer.Subprotocols = []string{protocol}
			}
			ws, resp, err := dialer.Dial("ws://"+address, nil)
			if err != nil {
				t.Fatalf("%v: %+v", err, resp)
			}
			defer ws.Close()
			var got bytes.Buffer
			for first := true; ; first = false {
				_, p, err := ws.ReadMessage()
				if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if first && len(p) > 0 {
					t.Errorf("the first message is %q, want none", p)
				}
				if protocol == "base64.binary.k8s.io" {
					if p, err = base64.StdEncoding.DecodeString(string(p)); err != nil {
						t.Fatal(err)
					}
				}
				got.Write(p)
			}
			if got.String() != text {
				t.Errorf("%d bytes of %d", got.Len(), len(text))
			}
		})
	}
}

func TestLogEndsWhenItsClientHangsUp(t *testing.T) {
	began, ended := make(chan struct{}, 2), make(chan struct{}, 2)
	address := logServer(t, func(ctx context.Context, w io.Writer) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return nil
	})
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+address, nil)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the log", began)
	ws.NetConn().Close()
	await(t, "its end", ended)
	resp, err := http.Get("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the log", began)
	resp.Body.Close()
	await(t, "its end", ended)
}
