package conns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serve returns the address of a server whose users say who they are in a header.
// A request for /wait waits for the test.
func serve(t *testing.T, l *Limits) (address string, release chan struct{}) {
	t.Helper()
	l.UserOf = func(r *http.Request) (string, bool) { u := r.Header.Get("User"); return u, u != "" }
	l.Refuse = func(w http.ResponseWriter, why string) { http.Error(w, why, http.StatusTooManyRequests) }
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	release = make(chan struct{})
	s := &http.Server{ConnContext: l.Context, Handler: l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		if r.URL.Path == "/wait" {
			<-release
		}
	}))}
	go s.Serve(l.Listener(inner)) // ends with Close
	t.Cleanup(func() {
		s.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.known != 0 || l.newcomers.Len() != 0 {
			t.Errorf("%d connections of users and %d newcomers are counted when all are closed", l.known, l.newcomers.Len())
		}
	})
	return inner.Addr().String(), release
}

type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, address string) *client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &client{c, bufio.NewReader(c)}
}

// ask returns the status that a user is answered with, and why; 0 where the
// connection is gone.
func (c *client) ask(user, path string) (int, string) {
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nUser: %s\r\n\r\n", path, user)
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err.Error()
	}
	if path == "/wait" {
		return resp.StatusCode, ""
	}
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(text))
}

func (c *client) wants(t *testing.T, user string, status int, why string) {
	t.Helper()
	if got, text := c.ask(user, "/"); got != status || text != why {
		t.Errorf("%s is answered %d %q, want %d %q", user, got, text, status, why)
	}
}

func (c *client) isClosed() bool {
	_, err := c.in.ReadByte()
	var late net.Error
	return err != nil && !(errors.As(err, &late) && late.Timeout())
}

func TestTheOldestNewcomerMakesRoom(t *testing.T) {
	address, _ := serve(t, &Limits{Newcomers: 3})
	known := dial(t, address)
	known.wants(t, "root", 200, "")
	nobody := dial(t, address)
	nobody.wants(t, "", 200, "") // asks, but is not known
	silent := dial(t, address)
	third := dial(t, address)
	for _, old := range []*client{nobody, silent} {
		dial(t, address)
		if !old.isClosed() {
			t.Error("the oldest newcomer is not closed")
		}
	}
	third.wants(t, "root", 200, "")
	known.wants(t, "root", 200, "")
}

func TestAFloodOfSilentConnectionsShutsNobodyOut(t *testing.T) {
	address, _ := serve(t, &Limits{})
	for range 2000 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	dial(t, address).wants(t, "root", 200, "")
}

func TestAUserHasAShareOfConnections(t *testing.T) {
	address, _ := serve(t, &Limits{User: 2})
	a := dial(t, address)
	a.wants(t, "a", 200, "")
	dial(t, address).wants(t, "a", 200, "")
	third := dial(t, address)
	third.wants(t, "a", 429, "too many connections of this user")
	if !third.isClosed() {
		t.Error("a connection too many stays open")
	}
	dial(t, address).wants(t, "b", 200, "")
	a.wants(t, "a", 200, "") // the ones it has go on
	a.Close()
	for deadline := time.Now().Add(time.Minute); ; { // until the server has noticed
		if status, _ := dial(t, address).ask("a", "/"); status == 200 {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the place of a closed connection is not given to another")
		}
	}
}

func TestEveryUserHasAReserve(t *testing.T) {
	address, _ := serve(t, &Limits{All: 2, Reserve: 1})
	dial(t, address).wants(t, "a", 200, "")
	dial(t, address).wants(t, "a", 200, "")
	dial(t, address).wants(t, "a", 429, "too many connections of all users")
	dial(t, address).wants(t, "b", 200, "")
	dial(t, address).wants(t, "b", 429, "too many connections of all users")
}

func TestRequestsAtTheSameTimeAreCounted(t *testing.T) {
	address, release := serve(t, &Limits{Requests: 1})
	if status, _ := dial(t, address).ask("a", "/wait"); status != 200 {
		t.Fatal(status)
	}
	dial(t, address).wants(t, "a", 429, "too many requests of this user at the same time")
	dial(t, address).wants(t, "b", 200, "")
	close(release)
	for deadline := time.Now().Add(time.Minute); ; {
		if status, _ := dial(t, address).ask("a", "/"); status == 200 {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("a request that is over is still counted")
		}
	}
}
