package rest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/objects"
)

func TestWatchesAreCounted(t *testing.T) {
	s := newServer(t, func(c *Config) {
		c.MaxWatches, c.MaxWatchesPerClient = 3, 2
		c.Client = func(r *http.Request) string { return "user " + r.Header.Get("User") }
	})
	url := listen(t, s)
	path := configMapsPath + "?watch=1&resourceVersion=0"
	refused := func(user string) {
		t.Helper()
		r := do(t, s, "GET", path, nil, "User", user)
		r.wantStatus(t, 429, "TooManyRequests", "too many watches at the same time: at most 3, 2 for each client")
		if r.header.Get("Retry-After") != "10" {
			t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
		}
	}
	do(t, s, "POST", configMapsPath, configMapNamed("x")).want(t, 201)
	first := startWatch(t, url+path, "User", "a")
	startWatch(t, url+path, "User", "a").want("ADDED x")
	refused("a")
	startWatch(t, url+path, "User", "b").want("ADDED x")
	refused("b")
	do(t, s, "GET", configMapsPath, nil, "User", "a").want(t, 200)
	first.body.Close()
	for deadline := time.Now().Add(time.Minute); ; { // until the server has noticed
		s.watchMu.Lock()
		n := s.watches[""]
		s.watchMu.Unlock()
		if n == 2 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d watches are counted", n)
		}
		time.Sleep(time.Millisecond)
	}
	startWatch(t, url+path, "User", "a").want("ADDED x")
}

var configMaps = schema.GroupResource{Resource: "configmaps"}

// A client that does not read loses its watch, and nobody else waits for it.
func TestAWatchThatIsNotReadEndsAlone(t *testing.T) {
	s := newServer(t, nil)
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Reads") == "no" {
			defer close(ended)
			w = hastyWriter{w}
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", address.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET %s?watch=1 HTTP/1.1\r\nHost: x\r\nReads: no\r\n\r\n", configMapsPath)
	if line, err := bufio.NewReader(io.LimitReader(c, 15)).ReadString('\r'); !strings.Contains(line+"200", "200") || err != nil && err != io.EOF {
		t.Fatal(line, err)
	}
	reader := startWatch(t, server.URL+configMapsPath+"?watch=1&resourceVersion=0", "Reads", "yes")
	big := strings.Repeat("x", 256<<10)
	for i := range 24 { // more than the buffers of two sockets
		name := fmt.Sprint("c", i)
		if _, err := s.put(s.stored(configMaps).key("default", name), func(objects.Object) (objects.Object, error) {
			return &v1.ConfigMap{ObjectMeta: newMeta("default", name), Data: map[string]string{"big": big}}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if line, err := reader.lines.ReadString('\n'); err != nil || !strings.Contains(line[:200], `"name":"`+name+`"`) {
			t.Fatalf("want %s, got %.200s, %v", name, line, err)
		}
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the watch goes on")
	}
}

// hastyWriter lets no write wait for long, whatever is asked for.
type hastyWriter struct{ http.ResponseWriter }

func (h hastyWriter) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h hastyWriter) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		t = t.Add(-writeWait).Add(50 * time.Millisecond)
	}
	return http.NewResponseController(h.ResponseWriter).SetWriteDeadline(t)
}

// A client that opens no window for an answer loses the answer, at the server's
// deadline; what takes long is not bound by it.
func TestAShortAnswerThatIsNotReadIsGivenUp(t *testing.T) {
	s := newServer(t, nil)
	do(t, s, "POST", configMapsPath, configMapNamed("x")).want(t, 201)
	server := httptest.NewUnstartedServer(s)
	server.EnableHTTP2 = true
	server.Config.WriteTimeout = 200 * time.Millisecond
	server.StartTLS()
	t.Cleanup(server.Close)
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+configMapsPath+"?watch=1&resourceVersion=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	watched, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer watched.Body.Close()
	lines := bufio.NewReader(watched.Body)
	if line, err := lines.ReadString('\n'); err != nil || watched.ProtoMajor != 2 {
		t.Fatal(line, err, watched.Proto)
	}

	c, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	var header bytes.Buffer
	e := hpack.NewEncoder(&header)
	for name, value := range map[string]string{":method": "GET", ":scheme": "https", ":authority": "x", ":path": configMapsPath + "/x"} {
		e.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: header.Bytes(), EndStream: true, EndHeaders: true})
	answered := false
	for given := false; !given; {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			answered = true
		case *http2.DataFrame:
			t.Errorf("%d bytes were sent to a closed window", len(frame.Data()))
		case *http2.RSTStreamFrame:
			given = true
		}
	}
	if !answered {
		t.Error("there was no answer to wait with")
	}

	do(t, s, "POST", configMapsPath, configMapNamed("y")).want(t, 201)
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, `"name":"y"`) {
		t.Errorf("the watch: %s %v", line, err)
	}
}

// A body that comes slowly is given up, while others are served.
func TestASlowBodyIsGivenUp(t *testing.T) {
	s := newServer(t, nil)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(impatient{w}, r) }))
	t.Cleanup(server.Close)
	for path, want := range map[string]int{configMapsPath: 400, "/api/v1/nothings": 404} {
		c, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", path)
		do(t, s, "POST", configMapsPath, `{"metadata":{"generateName":"other-"}}`).want(t, 201)
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		from := bufio.NewReader(c)
		answer, err := http.ReadResponse(from, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %d %s", path, answer.StatusCode, text)
		}
		if _, err := from.ReadByte(); err != io.EOF {
			t.Errorf("%s: the connection stays: %v", path, err)
		}
	}
}

// impatient gives a body 50 ms.
type impatient struct{ http.ResponseWriter }

func (i impatient) Unwrap() http.ResponseWriter { return i.ResponseWriter }

func (i impatient) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		t = t.Add(-bodyWait).Add(50 * time.Millisecond)
	}
	return http.NewResponseController(i.ResponseWriter).SetReadDeadline(t)
}

// slowly sends requests whose bodies stop before their end, and returns how to read
// each answer. The client's name is in a header.
func slowly(t *testing.T, address, client string, requests int, body string) []*bufio.Reader {
	t.Helper()
	var all []*bufio.Reader
	for range requests {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nUser: %s\r\nContent-Length: %d\r\n\r\n%s", configMapsPath, client, len(body)+1, body)
		all = append(all, bufio.NewReader(c))
	}
	return all
}

// listenSlowly serves s to clients that name themselves, and counts what they have sent.
func listenSlowly(t *testing.T) (s *Server, address string, until func(client string, want sent)) {
	s = newServer(t, func(c *Config) { c.Client = func(r *http.Request) string { return r.Header.Get("User") } })
	server := httptest.NewServer(s)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	until = func(client string, want sent) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			s.bodies.mu.Lock()
			got := s.bodies.clients[client]
			s.bodies.mu.Unlock()
			if got == want {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("%s has %+v, want %+v", client, got, want)
			}
		}
	}
	return s, strings.TrimPrefix(server.URL, "http://"), until
}

// Bodies that do not come take no place from others.
func TestSlowBodiesOfOneClientHoldUpNobodyElse(t *testing.T) {
	s, address, until := listenSlowly(t)
	slow := slowly(t, address, "slow", 64, "{")
	until("slow", sent{requests: 24})
	do(t, s, "POST", configMapsPath, configMapNamed("own"), "User", "slow").
		wantStatus(t, 429, "TooManyRequests", "too many requests of this client that change something at the same time")
	do(t, s, "POST", configMapsPath, configMapNamed("web"), "User", "other").want(t, 201)
	do(t, s, "DELETE", configMapsPath+"/web", nil, "User", "other").want(t, 200)
	do(t, s, "GET", configMapsPath, nil, "User", "slow").want(t, 200)
	refused := make(chan int, len(slow))
	for _, from := range slow {
		go func() {
			code := 0
			if answer, err := http.ReadResponse(from, nil); err == nil {
				answer.Body.Close()
				code = answer.StatusCode
			}
			refused <- code
		}()
	}
	for range 64 - 24 {
		if code := <-refused; code != 429 {
			t.Errorf("code %d", code)
		}
	}
}

func TestLargeBodiesAreBoundedTogether(t *testing.T) {
	s, address, until := listenSlowly(t)
	large := "{" + strings.Repeat(" ", 5<<19)
	held := sent{requests: 3, bytes: 3 * (len(large) - bodyFree)}
	for _, client := range []string{"a", "b", "c"} {
		slowly(t, address, client, 3, large)
		until(client, held)
	}
	// One more would be too much, of this client and of all; a small one is not.
	for client, want := range map[string]int{"a": 429, "d": 429} {
		slow := slowly(t, address, client, 1, large)
		answer, err := http.ReadResponse(slow[0], nil)
		if err != nil || answer.StatusCode != want {
			t.Errorf("%s: %v %v", client, answer, err)
		}
		do(t, s, "POST", configMapsPath, configMapNamed("of-"+client), "User", client).want(t, 201)
	}
	until("a", held)
	until("d", sent{})
	s.bodies.mu.Lock()
	defer s.bodies.mu.Unlock()
	if s.bodies.bytes != 3*held.bytes {
		t.Errorf("%d bytes are counted", s.bodies.bytes)
	}
}

// A write that hangs, such as a pod that is refused slowly, holds up neither
// reading nor, below the limit, other writes.
func TestWritesAreCounted(t *testing.T) {
	s := newServer(t, func(c *Config) { c.MaxWrites = 2 })
	release := make(chan struct{})
	entered := make(chan struct{}, 2)
	s.Persist = func(_, o objects.Object) error {
		if c, is := o.(*v1.ConfigMap); is && strings.HasPrefix(c.Name, "slow") {
			entered <- struct{}{}
			<-release
		}
		return nil
	}
	var slow sync.WaitGroup
	slow.Go(func() { do(t, s, "POST", configMapsPath, configMapNamed("slow1")) })
	<-entered
	do(t, s, "POST", configMapsPath, configMapNamed("quick")).want(t, 201)
	slow.Go(func() { do(t, s, "POST", configMapsPath, configMapNamed("slow2")) })
	<-entered
	do(t, s, "POST", configMapsPath, configMapNamed("late")).wantStatus(t, 429, "TooManyRequests", "too many requests that change something")
	do(t, s, "GET", configMapsPath+"/quick", nil).want(t, 200)
	close(release)
	slow.Wait()
	do(t, s, "POST", configMapsPath, configMapNamed("late")).want(t, 201)
}

func TestAnswersForABrokenConnectionPanicQuietly(t *testing.T) {
	s := newServer(t, nil)
	do(t, s, "POST", configMapsPath, configMapNamed("web")).want(t, 201)
	defer func() {
		if r := recover(); r != http.ErrAbortHandler {
			t.Errorf("recovered %v", r)
		}
	}()
	s.ServeHTTP(brokenWriter{httptest.NewRecorder()}, httptest.NewRequestWithContext(t.Context(), "GET", configMapsPath, nil))
}

type brokenWriter struct{ http.ResponseWriter }

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// Headers that a client can fill with anything end up in warnings only as text.
func TestWarningsCannotBreakHeaders(t *testing.T) {
	s := newServer(t, nil)
	body := `{"metadata":{"name":"web"},"x\r\nSet-Cookie: a\u0000\"\\":1,` + `"` + strings.Repeat("y", 5000) + `":1`
	for i := range 100 {
		body += fmt.Sprintf(`,"f%d":1`, i)
	}
	warnings := do(t, s, "POST", configMapsPath, body+"}").want(t, 201).header.Values("Warning")
	if len(warnings) == 0 || len(warnings) > 16 {
		t.Errorf("%d warnings", len(warnings))
	}
	for _, w := range warnings {
		if len(w) > 600 || strings.ContainsAny(w, "\r\n\x00") {
			t.Errorf("warning %q", w)
		}
	}
}

// A small body must not become a thousand times its size in memory.
func TestBodiesThatUnfoldAreRefused(t *testing.T) {
	s := newServer(t, nil)
	const path = "/api/v1/namespaces/default/podtemplates"
	many := func(element string) string {
		return `{"metadata":{"name":"x"},"template":{"spec":{"containers":[` + strings.Repeat(element+",", maxParts) + element + `]}}}`
	}
	folded := &v1.PodTemplate{}
	folded.Name = "x"
	folded.Template.Spec.Containers = make([]v1.Container, maxParts)
	for media, body := range map[string]any{mediaJSON: many("{}"), mediaYAML: many("null"), mediaProtobuf: enveloped(t, folded, "v1", "PodTemplate")} {
		do(t, s, "POST", path, body, "Content-Type", media).wantStatus(t, 413, "RequestEntityTooLarge", "the body has more than 50000 elements and fields")
	}
	list := "metadata: {name: x}\ntemplate:\n  spec:\n    containers: # \"\n" + strings.Repeat("    -\n", maxParts+1)
	do(t, s, "POST", path, list, "Content-Type", mediaYAML).wantStatus(t, 413, "RequestEntityTooLarge", "elements and fields")
	do(t, s, "PATCH", path+"/x?fieldManager=a", list, "Content-Type", applyPatch).wantStatus(t, 413, "RequestEntityTooLarge", "elements and fields")
	do(t, s, "POST", path, many("1")).wantStatus(t, 413, "RequestEntityTooLarge", "elements and fields")
	do(t, s, "PATCH", configMapsPath+"/x", many("{}"), "Content-Type", "application/merge-patch+json").wantStatus(t, 413, "RequestEntityTooLarge", "elements and fields")
	// What is only text may have as many of these characters as it likes.
	text := strings.Repeat(`{"a,b":[1,2]},`, 40_000)
	do(t, s, "POST", configMapsPath, configMapNamed("json", "a", text)).want(t, 201)
	do(t, s, "POST", configMapsPath, enveloped(t, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "proto"}, Data: map[string]string{"a": text},
		BinaryData: map[string][]byte{"b": make([]byte, 400_000)}}, "v1", "ConfigMap"), "Content-Type", mediaProtobuf).want(t, 201)
}

func FuzzPath(f *testing.F) {
	for _, path := range []string{"/api/v1/pods", "/api/v1/namespaces/a/pods/b/log", "/apis/g/v/namespaces/a/r/n/s/t/u", "/api/v1/namespaces/%2e%2e/x", "//", "/api/v1/namespaces/a/status/"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		q, ok := parsePath(path)
		if !ok {
			return
		}
		for _, part := range []string{q.Version, q.Resource} {
			if part == "" {
				t.Errorf("%q: a part is empty: %+v", path, q)
			}
		}
		for _, part := range []string{q.Group, q.Version, q.Namespace, q.Resource, q.Name, q.Subresource} {
			if strings.ContainsAny(part, "/\\\x00") || part == "." || part == ".." {
				t.Errorf("%q: a part is %q", path, part)
			}
		}
		// What was understood is understood again.
		again := "/api/"
		if q.Group != "" {
			again = "/apis/" + url.PathEscape(q.Group) + "/"
		}
		again += url.PathEscape(q.Version)
		if q.Namespace != "" {
			again += "/namespaces/" + url.PathEscape(q.Namespace)
		}
		for _, part := range []string{q.Resource, q.Name, q.Subresource} {
			if part != "" {
				again += "/" + url.PathEscape(part)
			}
		}
		if q.Tail != "" {
			again += "/" + q.Tail
		}
		if same, ok := parsePath(again); strings.HasPrefix(path, "/api/") == (q.Group == "") && (!ok || same != q) {
			t.Errorf("%q is %+v, but %q is %+v", path, q, again, same)
		}
	})
}

func FuzzBody(f *testing.F) {
	for _, media := range []string{mediaJSON, mediaYAML} {
		f.Add(media, []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`))
		f.Add(media, []byte("a: &a [1]\nb: [*a, *a]\n"))
	}
	f.Add(mediaProtobuf, enveloped(f, &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}}}}, "v1", "Pod"))
	kind := v1.SchemeGroupVersion.WithKind("Pod")
	f.Fuzz(func(t *testing.T, media string, data []byte) {
		if media != mediaYAML && media != mediaProtobuf {
			media = mediaJSON
		}
		p := &v1.Pod{}
		if _, err := decode(data, media, kind, p); err != nil {
			return
		}
		// What is accepted can be written and read again.
		for _, media := range []string{mediaJSON, mediaProtobuf} {
			var text strings.Builder
			if err := encode(&text, media, withKind(p, kind)); err != nil {
				t.Fatal(err)
			}
			if strict, err := decode([]byte(text.String()), media, kind, &v1.Pod{}); err != nil || len(strict) > 0 {
				t.Errorf("%s: %v %v", text.String(), strict, err)
			}
		}
	})
}
