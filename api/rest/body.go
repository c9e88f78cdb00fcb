package rest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// The most a body may have, as in Kubernetes.
	maxBody = 3 << 20
	// How long a client may take to send one.
	bodyWait = 30 * time.Second

	// What bodies that are kept may have together, of one client and of all, counting
	// of each what is beyond bodyFree: there is always room for a small one.
	bodyFree       = 64 << 10
	clientBodies   = 8 << 20
	bodiesTogether = 24 << 20
)

// limitBody gives the client bodyWait to send the body, however the request
// goes on: who is refused sends the rest to nobody, and that must end too. Once
// the body was read, or belongs to a handler, nothing limits it.
func limitBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait)) // a test's writer has none
	}
}

func unlimitBody(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// bodies counts the requests that change something, from before their bodies are read,
// which clients can make last, until they are answered.
type bodies struct {
	perClient int

	mu      sync.Mutex
	clients map[string]sent // guarded by mu, as is bytes
	bytes   int
}

// sent is what the server keeps of one client, or of one request.
type sent struct{ requests, bytes int }

// begin counts one more request of a client, unless it has too many.
func (b *bodies) begin(client string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	has := b.clients[client]
	if has.requests >= b.perClient {
		return false
	}
	has.requests++
	b.clients[client] = has
	return true
}

// grow counts more bytes of a client's, unless there are too many.
func (b *bodies) grow(client string, bytes int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	has := b.clients[client]
	if has.bytes+bytes > clientBodies || b.bytes+bytes > bodiesTogether {
		return false
	}
	has.bytes += bytes
	b.bytes += bytes
	b.clients[client] = has
	return true
}

// end counts a request no longer.
func (b *bodies) end(client string, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= bytes
	has := b.clients[client]
	has.bytes -= bytes
	if has.requests--; has.requests == 0 {
		delete(b.clients, client)
		return
	}
	b.clients[client] = has
}

var errBodies = errors.New("too many bodies")

// countedBody is a body of which every byte is counted that comes.
type countedBody struct {
	io.Reader
	bodies  *bodies
	client  string
	free    int // bytes that count nothing
	counted int
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	beyond := max(0, n-c.free)
	c.free -= n - beyond
	if beyond > 0 && !c.bodies.grow(c.client, beyond) {
		return n, errBodies
	}
	c.counted += beyond
	return n, err
}

// receive reads the body, and counts the request until done is called.
func (c *call) receive() (done func(), err error) {
	client := c.s.Client(c.r)
	if !c.s.bodies.begin(client) {
		c.w.Header().Set("Connection", "close") // or the answer waits for the body
		return nil, apierrors.NewTooManyRequests("too many requests of this client that change something at the same time", 1)
	}
	body := &countedBody{Reader: http.MaxBytesReader(c.w, c.r.Body, maxBody), bodies: &c.s.bodies, client: client, free: bodyFree}
	done = func() { c.s.bodies.end(client, body.counted) }
	c.body, err = io.ReadAll(body)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		unlimitBody(c.w)
		return done, nil
	case errors.As(err, &tooLarge):
		err = apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	case errors.Is(err, errBodies):
		c.w.Header().Set("Connection", "close")
		err = apierrors.NewTooManyRequests("too many large requests at the same time", 1)
	default:
		c.w.Header().Set("Connection", "close")
		err = apierrors.NewBadRequest("cannot read the body: " + err.Error())
	}
	done()
	return nil, err
}
