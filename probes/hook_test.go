package probes

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hookServer answers with a status and tells what it was asked.
func hookServer(t *testing.T, tls bool, status int) (get HTTPGet, asked chan *http.Request) {
	t.Helper()
	asked = make(chan *http.Request, 10)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		w.WriteHeader(status)
		w.Write([]byte(strings.Repeat("x", 2*maxOutput)))
	})
	server := httptest.NewUnstartedServer(handler)
	if tls {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	get = HTTPGet{Host: host, Port: number, Path: "/bye?now=1"}
	if tls {
		get.Scheme = "HTTPS"
	}
	return get, asked
}

func TestHookTakesAnyStatusForASuccess(t *testing.T) {
	for _, status := range []int{200, 204, 404, 500} {
		get, asked := hookServer(t, false, status)
		if fellBack, err := Hook(t.Context(), get, nil); err != nil || fellBack {
			t.Errorf("status %d: fell back: %v, error: %v", status, fellBack, err)
		}
		if r := <-asked; r.UserAgent() != HookUserAgent || r.URL.String() != "/bye?now=1" {
			t.Errorf("asked for %s as %s", r.URL, r.UserAgent())
		}
	}
}

func TestHookVerifiesNoCertificate(t *testing.T) {
	get, _ := hookServer(t, true, 200)
	if fellBack, err := Hook(t.Context(), get, nil); err != nil || fellBack {
		t.Errorf("fell back: %v, error: %v", fellBack, err)
	}
}

func TestHookOverTLSFallsBackToHTTPWithoutAuthorization(t *testing.T) {
	get, asked := hookServer(t, false, 200)
	get.Scheme = "HTTPS"
	get.Headers = []Header{{"Authorization", "Bearer secret"}, {"X-Kept", "yes"}}
	if fellBack, err := Hook(t.Context(), get, nil); err != nil || !fellBack {
		t.Fatalf("fell back: %v, error: %v", fellBack, err)
	}
	if r := <-asked; r.Header.Get("Authorization") != "" || r.Header.Get("X-Kept") != "yes" {
		t.Errorf("headers %v", r.Header)
	}
}

func TestHookWithoutAnAnswerFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	if _, err := Hook(t.Context(), HTTPGet{Host: "127.0.0.1", Port: port, Path: "/"}, nil); err == nil {
		t.Error("nobody listens, and there was no error")
	}
}

func TestHookWaitsAsLongAsItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connections wait in its queue
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Hook(ctx, HTTPGet{Host: "127.0.0.1", Port: silent.Addr().(*net.TCPAddr).Port, Path: "/"}, nil)
	if err == nil || ctx.Err() == nil {
		t.Errorf("error %v, context %v", err, ctx.Err())
	}
}
