package probes

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// target returns a request for a server's path.
func target(tb testing.TB, server, path string, headers ...Header) HTTPGet {
	tb.Helper()
	u, err := url.Parse(server)
	if err != nil {
		tb.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		tb.Fatal(err)
	}
	return HTTPGet{Scheme: strings.ToUpper(u.Scheme), Host: u.Hostname(), Port: port, Path: path, Headers: headers}
}

func TestHTTPStatusDecides(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		w.WriteHeader(code)
		if code != http.StatusNoContent && code != http.StatusNotModified {
			fmt.Fprint(w, "body")
		}
	}))
	defer s.Close()
	for code, want := range map[int]Attempt{
		200: {Outcome: Success, Output: "body"},
		204: {Outcome: Success},
		299: {Outcome: Success, Output: "body"},
		300: {Outcome: Warning, Output: "Probe terminated redirects, Response body: body"},
		304: {Outcome: Warning, Output: "Probe terminated redirects, Response body: "},
		399: {Outcome: Warning, Output: "Probe terminated redirects, Response body: body"},
		400: {Outcome: Failure, Output: "HTTP probe failed with statuscode: 400"},
		404: {Outcome: Failure, Output: "HTTP probe failed with statuscode: 404"},
		503: {Outcome: Failure, Output: "HTTP probe failed with statuscode: 503"},
		600: {Outcome: Failure, Output: "HTTP probe failed with statuscode: 600"},
	} {
		got := attempt(t, HTTP(target(t, s.URL, "/?code="+strconv.Itoa(code)), nil), long)
		wantAttempt(t, got, want.Outcome, want.Output)
	}
}

func TestHTTPRequest(t *testing.T) {
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = fmt.Sprintf("%s %s host=%s agent=%q accept=%q x=%q encoding=%q close=%t", r.Method, r.RequestURI, r.Host,
			r.Header["User-Agent"], r.Header["Accept"], r.Header["X-A"], r.Header["Accept-Encoding"], r.Close)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	for name, test := range map[string]struct {
		path    string
		headers []Header
		want    string
	}{
		"defaults": {"/healthz", nil,
			"GET /healthz host=" + host + ` agent=["kube-probe/1.36"] accept=["*/*"] x=[] encoding=[] close=true`},
		"a query": {"/a?b=c&d=%20", nil,
			"GET /a?b=c&d=%20 host=" + host + ` agent=["kube-probe/1.36"] accept=["*/*"] x=[] encoding=[] close=true`},
		"a path without a slash": {"ready", nil,
			"GET /ready host=" + host + ` agent=["kube-probe/1.36"] accept=["*/*"] x=[] encoding=[] close=true`},
		"a path that cannot be parsed is sent as it is": {"/%zz", nil,
			"GET /%25zz host=" + host + ` agent=["kube-probe/1.36"] accept=["*/*"] x=[] encoding=[] close=true`},
		"headers of one's own, in order": {"/", []Header{{"X-A", "1"}, {"x-a", "2"}, {"user-agent", "mine"}, {"Accept", "text/plain"}},
			"GET / host=" + host + ` agent=["mine"] accept=["text/plain"] x=["1" "2"] encoding=[] close=true`},
		"empty headers are left out": {"/", []Header{{"User-Agent", ""}, {"Accept", ""}},
			"GET / host=" + host + ` agent=[] accept=[] x=[] encoding=[] close=true`},
		"a host of one's own": {"/", []Header{{"Host", "example.com"}},
			`GET / host=example.com agent=["kube-probe/1.36"] accept=["*/*"] x=[] encoding=[] close=true`},
	} {
		t.Run(name, func(t *testing.T) {
			wantAttempt(t, attempt(t, HTTP(target(t, s.URL, test.path, test.headers...), nil), long), Success, "")
			if got != test.want {
				t.Errorf("got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestHTTPIgnoresProxies(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	var dialed string
	check := HTTP(HTTPGet{Host: "192.0.2.1", Port: 80, Path: "/"}, func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed = addr
		return nil, fmt.Errorf("not today")
	})
	wantAttempt(t, attempt(t, check, long), Failure, `Get "http://192.0.2.1:80/": not today`)
	if dialed != "192.0.2.1:80" {
		t.Errorf("dialed %s", dialed)
	}
}

func TestHTTPRedirects(t *testing.T) {
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	defer s.Close()
	hops := 0
	mux.HandleFunc("/hops/{n}", func(w http.ResponseWriter, r *http.Request) {
		hops++
		n, _ := strconv.Atoi(r.PathValue("n"))
		if n == 0 {
			fmt.Fprint(w, "arrived")
			return
		}
		http.Redirect(w, r, fmt.Sprintf("/hops/%d", n-1), http.StatusFound)
	})
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://elsewhere.invalid/")
		w.WriteHeader(http.StatusMovedPermanently)
		fmt.Fprint(w, "over there")
	})
	mux.HandleFunc("/otherport", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
	})
	get := func(path string) Attempt { return attempt(t, HTTP(target(t, s.URL, path), nil), long) }

	wantAttempt(t, get("/hops/9"), Success, "arrived")
	hops = 0
	wantAttempt(t, get("/hops/10"), Failure, `Get "/hops/0": stopped after 10 redirects`)
	if hops != 10 {
		t.Errorf("%d requests were made", hops)
	}
	wantAttempt(t, get("/elsewhere"), Warning, "Probe terminated redirects, Response body: over there")
	// The host is what counts, not the port.
	if got := get("/otherport"); got.Outcome != Failure || !strings.Contains(got.Output, "connection refused") {
		t.Errorf("got %+v", got)
	}
}

func TestHTTPRedirectWithoutAPort(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "http://127.0.0.1/there", http.StatusFound)
		}
	}))
	defer s.Close()
	dialed := ""
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed += addr + " "
		return net.Dial(network, strings.TrimPrefix(s.URL, "http://"))
	}
	wantAttempt(t, attempt(t, HTTP(HTTPGet{Host: "127.0.0.1", Port: 8080, Path: "/"}, dial), long), Success, "")
	if dialed != "127.0.0.1:8080 127.0.0.1:80 " {
		t.Errorf("dialed %s", dialed)
	}
}

func TestHTTPEndlessHeaders(t *testing.T) {
	addr := listen(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1024))
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n")
		for {
			if _, err := fmt.Fprint(conn, "X-A: ", strings.Repeat("x", 1000), "\r\n"); err != nil {
				return
			}
		}
	})
	wantAttempt(t, attempt(t, HTTP(target(t, "http://"+addr, "/"), nil), long), Failure,
		`Get "http://`+addr+`/": net/http: server response headers exceeded 1048576 bytes; aborted`)
}

func TestHTTPBodies(t *testing.T) {
	release := make(chan struct{})
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	defer s.Close()
	defer close(release)
	mux.HandleFunc("/huge", func(w http.ResponseWriter, r *http.Request) {
		for range 1 << 10 {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
		t.Error("a GiB was read")
	})
	mux.HandleFunc("/stalls", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "some")
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/breaks", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "some")
	})
	get := func(path string, timeout time.Duration) Attempt {
		return attempt(t, HTTP(target(t, s.URL, path), nil), timeout)
	}
	if got := get("/huge", long); got.Outcome != Success || len(got.Output) != 10<<10 {
		t.Errorf("huge body: %s with %d bytes", got.Outcome, len(got.Output))
	}
	wantAttempt(t, get("/stalls", 300*time.Millisecond), Failure, "context deadline exceeded (Client.Timeout exceeded while reading body)")
	wantAttempt(t, get("/breaks", long), Failure, "unexpected EOF")
}

func TestHTTPFailsAgainstServersThatDoNotAnswer(t *testing.T) {
	silent := listen(t, func(conn net.Conn) { waitForClose(conn) })
	resetting := listen(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1))
		conn.(*net.TCPConn).SetLinger(0)
	})
	garbage := listen(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1024))
		fmt.Fprint(conn, "SSH-2.0-OpenSSH\r\n\r\n")
	})
	informing := listen(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1024))
		fmt.Fprint(conn, "HTTP/1.1 199 Wait\r\n\r\n")
		waitForClose(conn)
	})
	for name, test := range map[string]struct {
		addr    string
		timeout time.Duration
		want    string // %s: the address
	}{
		"refusing":  {refusing(t), long, `Get "http://%[1]s/": dial tcp %[1]s: connect: connection refused`},
		"silent":    {silent, 200 * time.Millisecond, `Get "http://%[1]s/": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`},
		"garbage":   {garbage, long, `Get "http://%[1]s/": net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0-OpenSSH"`},
		"199 only":  {informing, 200 * time.Millisecond, `Get "http://%[1]s/": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`},
		"resetting": {resetting, long, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := attempt(t, HTTP(target(t, "http://"+test.addr, "/"), nil), test.timeout)
			if test.want == "" {
				if got.Outcome != Failure || !strings.Contains(got.Output, "connection reset by peer") {
					t.Errorf("got %+v", got)
				}
				return
			}
			wantAttempt(t, got, Failure, fmt.Sprintf(test.want, test.addr))
		})
	}
}

func TestHTTPSVerifiesNoCertificate(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		var proto string
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			proto = r.Proto
			fmt.Fprint(w, "secret")
		}))
		s.EnableHTTP2 = http2
		s.StartTLS()
		wantAttempt(t, attempt(t, HTTP(target(t, s.URL, "/"), nil), long), Success, "secret")
		if want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]; proto != want {
			t.Errorf("spoke %s, want %s", proto, want)
		}
		plain := target(t, s.URL, "/")
		plain.Scheme = "HTTP"
		wantAttempt(t, attempt(t, HTTP(plain, nil), long), Failure, "HTTP probe failed with statuscode: 400")
		s.Close()
	}
}

func TestHTTPOverIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err) // IPv6 on loopback is part of every kernel we test on
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) }))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	defer s.Close()
	wantAttempt(t, attempt(t, HTTP(target(t, s.URL, "/"), nil), long), Success, l.Addr().String())
	wantAttempt(t, attempt(t, TCP(l.Addr().String(), nil), long), Success, "")
}

func TestNoConnectionIsKept(t *testing.T) {
	var open, ever int
	states := make(chan http.ConnState, 100)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) { states <- state }
	s.Start()
	check := HTTP(target(t, s.URL, "/"), nil)
	for range 5 {
		wantAttempt(t, attempt(t, check, long), Success, "")
	}
	s.Close()
	close(states)
	for state := range states {
		switch state {
		case http.StateNew:
			open++
			ever++
		case http.StateClosed:
			open--
		case http.StateIdle:
			t.Error("a connection was kept")
		}
	}
	if open != 0 || ever != 5 {
		t.Errorf("%d connections for 5 attempts, %d still open", ever, open)
	}
}

func TestACancelledAttemptIsNoFailure(t *testing.T) {
	silent := listen(t, func(conn net.Conn) { waitForClose(conn) })
	hanging := func(ctx context.Context, network, addr string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	for name, check := range map[string]Check{
		"http": HTTP(target(t, "http://"+silent, "/"), nil),
		"tcp":  TCP("192.0.2.1:80", hanging),
		"grpc": GRPC(silent, "", long, nil),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if got := check(ctx); got.Outcome != Unknown || got.Err != context.Canceled {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func BenchmarkHTTP(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer s.Close()
	benchmark(b, HTTP(target(b, s.URL, "/"), nil))
}
