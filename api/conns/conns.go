// Package conns bounds what clients can make a server keep: connections and
// requests, so that no user shuts out another, and nobody unknown shuts out anybody.
// It knows neither TLS nor who is who.
//
// A connection is a newcomer until a user that the server knows has asked something
// on it. Newcomers are few; one too many closes the one that is a newcomer longest,
// which has had the most time to say who it is. Whoever holds many connections open
// without a word thus loses them to others. A known user has connections up to a
// share, and beyond it none: what this user asks on another is answered with 429.
//
// Read first: [Limits], [Limits.Listener], [Limits.Handler].
package conns

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// Limits are the bounds of one server, and what counts against them. Numbers that
// are 0 have the values given with them.
type Limits struct {
	Newcomers int // 256
	All       int // of all known users: 1024
	User      int // connections of one user: 256
	Reserve   int // connections that a user has also beyond All: 8
	Requests  int // of one user at the same time: 512

	// UserOf names who asks; false for one who is not known.
	UserOf func(*http.Request) (string, bool)
	// Refuse answers a request beyond the limits; why is a sentence for the user.
	Refuse func(w http.ResponseWriter, why string)

	mu        sync.Mutex
	newcomers list.List      // of *conn, the oldest in front
	known     int            // connections of known users
	users     map[string]use // without those that have nothing
}

// use is what one user has.
type use struct{ connections, requests int }

// conn is one connection. Its fields are guarded by Limits.mu.
type conn struct {
	net.Conn
	limits *Limits
	place  *list.Element // among the newcomers; nil: it is none any more
	user   string        // who it counts for; "" for nobody
	closed bool
}

func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// Listener returns l with its connections counted.
func (l *Limits) Listener(inner net.Listener) net.Listener { return &listener{inner, l} }

type listener struct {
	net.Listener
	limits *Limits
}

// Accept never waits for room: it makes room.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.limits.enter(c), nil
}

func (l *Limits) enter(inner net.Conn) *conn {
	c := &conn{Conn: inner, limits: l}
	l.mu.Lock()
	var oldest *conn
	if l.newcomers.Len() >= or(l.Newcomers, 256) {
		oldest = l.newcomers.Front().Value.(*conn)
		l.leave(oldest)
	}
	c.place = l.newcomers.PushBack(c)
	l.mu.Unlock()
	if oldest != nil {
		oldest.Conn.Close()
	}
	return c
}

// leave counts a connection no longer. l.mu is held.
func (l *Limits) leave(c *conn) {
	c.closed = true
	if c.place != nil {
		l.newcomers.Remove(c.place)
		c.place = nil
	}
	if c.user != "" {
		l.known--
		l.change(c.user, use{connections: -1})
		c.user = ""
	}
}

// change adds to what a user has. l.mu is held.
func (l *Limits) change(user string, by use) {
	u := l.users[user]
	u.connections += by.connections
	u.requests += by.requests
	if l.users == nil {
		l.users = map[string]use{}
	}
	if l.users[user] = u; u == (use{}) {
		delete(l.users, user)
	}
}

// Close closes the connection, and it counts no longer.
func (c *conn) Close() error {
	c.limits.mu.Lock()
	if !c.closed {
		c.limits.leave(c)
	}
	c.limits.mu.Unlock()
	return c.Conn.Close()
}

type connKey struct{}

// Context is for [http.Server.ConnContext]: it leads from a request to its
// connection.
func (l *Limits) Context(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// Handler serves next within the limits. It comes after what finds out who asks.
func (l *Limits) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, known := l.UserOf(r)
		if !known || user == "" {
			next.ServeHTTP(w, r)
			return
		}
		c, _ := r.Context().Value(connKey{}).(*conn)
		if why := l.begin(user, c); why != "" {
			w.Header().Set("Connection", "close") // HTTP/2 too ends its connection by this
			w.Header().Set("Retry-After", "1")
			l.Refuse(w, why)
			return
		}
		defer l.end(user)
		next.ServeHTTP(w, r)
	})
}

// begin counts a request, and its connection if it is the first of a known user on
// it. It returns why the request may not be served.
func (l *Limits) begin(user string, c *conn) (why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	has := l.users[user]
	if has.requests >= or(l.Requests, 512) {
		return "too many requests of this user at the same time"
	}
	if c != nil && c.place != nil {
		switch {
		case has.connections >= or(l.User, 256):
			return "too many connections of this user"
		case l.known >= or(l.All, 1024) && has.connections >= or(l.Reserve, 8):
			return "too many connections of all users"
		}
		l.newcomers.Remove(c.place)
		c.place, c.user = nil, user
		l.known++
		l.change(user, use{connections: 1})
	}
	l.change(user, use{requests: 1})
	return ""
}

func (l *Limits) end(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.change(user, use{requests: -1})
}
