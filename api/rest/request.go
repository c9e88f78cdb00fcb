package rest

import (
	"context"
	"net/url"
	"strings"
)

// Request says what a client asks for: who may ask it is for [Config.Allowed]
// to say.
type Request struct {
	Verb                     string // get, list, watch, create, update, patch, delete, deletecollection
	Group, Version, Resource string
	Subresource              string
	Namespace, Name          string
	Tail                     string // what follows the subresource in the path, without the first slash, as it was sent
}

type requestKey struct{}

// RequestOf returns what the request that is served in ctx asks for.
func RequestOf(ctx context.Context) Request {
	if c, _ := ctx.Value(requestKey{}).(*call); c != nil {
		return c.Request
	}
	return Request{}
}

// Warn adds a Warning header to the answer of the request served in ctx.
func Warn(ctx context.Context, text string) {
	if c, _ := ctx.Value(requestKey{}).(*call); c != nil {
		c.warn(text)
	}
}

// Fail answers the request served in ctx with an error, where its subresource serves
// it whole and has not begun to answer.
func Fail(ctx context.Context, err error) {
	if c, _ := ctx.Value(requestKey{}).(*call); c != nil {
		c.begun = false
		c.fail(err)
	}
}

// parsePath takes the path of a resource apart: /api/v1/..., /apis/GROUP/VERSION/....
// ok is false for any other path, for empty segments, and for segments that
// would mean something else once decoded. One slash at the end is no matter.
// Verb stays empty.
func parsePath(escaped string) (q Request, ok bool) {
	raw := strings.Split(escaped, "/")
	if len(raw) < 2 || raw[0] != "" {
		return q, false
	}
	raw = raw[1:]
	var at int // of the resource
	switch raw[0] {
	case "api":
		at = 2
	case "apis":
		at = 3
	default:
		return q, false
	}
	if len(raw) <= at {
		return q, false
	}
	// namespaces/NAME/status and /finalize are subresources, not resources in it.
	inNamespace := raw[at] == "namespaces" && len(raw) > at+2 && raw[at+2] != "" && raw[at+2] != "status" && raw[at+2] != "finalize"
	if inNamespace {
		at += 2
	}
	// What a proxy passes on ends as it was written.
	if n := len(raw); n > at+1 && n <= at+4 && raw[n-1] == "" {
		raw = raw[:n-1]
	}
	var plain []string
	for _, segment := range raw[:min(len(raw), at+3)] {
		p, err := url.PathUnescape(segment)
		if err != nil || p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/\\\x00") {
			return q, false
		}
		plain = append(plain, p)
	}
	if raw[0] == "api" {
		q.Version = plain[1]
	} else {
		q.Group, q.Version = plain[1], plain[2]
	}
	if inNamespace {
		q.Namespace = plain[at-1]
	}
	q.Resource = plain[at]
	if len(plain) > at+1 {
		q.Name = plain[at+1]
	}
	if len(plain) > at+2 {
		q.Subresource = plain[at+2]
	}
	if len(raw) > at+3 {
		q.Tail = strings.Join(raw[at+3:], "/")
	}
	return q, true
}
