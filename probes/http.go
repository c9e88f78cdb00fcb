package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

const (
	maxRedirects = 10
	// maxResponseHeader is what a response may have in headers. A kubelet reads
	// up to 10 MiB; a container shall not make the agent that large.
	maxResponseHeader = 1 << 20
)

// HTTPGet is what an HTTP check asks for.
type HTTPGet struct {
	Scheme string // "http" or "https", upper case as in manifests allowed; empty: http
	Host   string // host name or address, an IPv6 address without brackets
	Port   int
	Path   string // with query, as in the manifest
	// Headers are sent in this order. "Host" names the host asked for; an empty
	// "User-Agent" or "Accept" leaves that header out.
	Headers []Header
}

// Header is one header of a request.
type Header struct{ Name, Value string }

// HTTP returns a check that succeeds when a GET is answered with a status from
// 200 to 399. Redirects are followed on the same host, ten at most; one to
// another host ends the attempt with a Warning. Certificates are not verified,
// proxies not used, connections not kept.
// Source: kubelet, pkg/probe/http.
func HTTP(get HTTPGet, dial Dial) Check {
	template, err := newRequest(get, UserAgent)
	if err != nil {
		return func(context.Context) Attempt { return errored(err) }
	}
	client := newClient(dial)
	return func(ctx context.Context) Attempt {
		return getOnce(ctx, client, template)
	}
}

// newClient returns the client of probes and hooks: it verifies no certificate,
// uses no proxy and keeps no connection.
func newClient(dial Dial) *http.Client {
	dial = dial.orDefault()
	return &http.Client{
		Transport: bySchemes{
			plain: oneShot{dial},
			secure: &http.Transport{
				DialContext:            dial,
				TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
				ForceAttemptHTTP2:      true,
				DisableKeepAlives:      true,
				DisableCompression:     true,
				MaxResponseHeaderBytes: maxResponseHeader,
			},
		},
		CheckRedirect: checkRedirect,
	}
}

// bySchemes leaves http to one round tripper and everything else to another: a
// redirect may change the scheme.
type bySchemes struct{ plain, secure http.RoundTripper }

func (b bySchemes) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" {
		return b.plain.RoundTrip(req)
	}
	return b.secure.RoundTrip(req)
}

func getOnce(ctx context.Context, client *http.Client, template *http.Request) Attempt {
	res, err := client.Do(template.WithContext(ctx))
	if err != nil {
		return transportError(ctx, err, "awaiting headers")
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	if err != nil {
		return transportError(ctx, err, "reading body")
	}
	switch {
	case res.StatusCode >= 400 || res.StatusCode < 200:
		return failed("HTTP probe failed with statuscode: " + strconv.Itoa(res.StatusCode))
	case res.StatusCode >= 300:
		return Attempt{Outcome: Warning, Output: "Probe terminated redirects, Response body: " + string(body)}
	}
	return succeeded(string(body))
}

// transportError is the attempt that came to no answer, in the words that
// net/http has for a client with a timeout.
func transportError(ctx context.Context, err error, while string) Attempt {
	switch ctx.Err() {
	case context.Canceled:
		return errored(context.Canceled)
	case context.DeadlineExceeded:
		return timedOut(fmt.Sprintf("%v (Client.Timeout exceeded while %s)", err, while))
	}
	return Attempt{Outcome: Failure, Output: err.Error(), TimedOut: overDeadline(err)}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// newRequest builds the request that every attempt sends a copy of.
func newRequest(get HTTPGet, userAgent string) (*http.Request, error) {
	u, err := url.Parse(get.Path)
	if err != nil {
		u = &url.URL{Path: get.Path} // passed on as it is
	}
	u.Scheme = "http"
	if get.Scheme == "HTTPS" || get.Scheme == "https" {
		u.Scheme = "https"
	}
	u.Host = net.JoinHostPort(get.Host, strconv.Itoa(get.Port))
	req, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make a request of path %q: %w", get.Path, err)
	}
	for _, h := range get.Headers {
		req.Header.Add(h.Name, h.Value)
	}
	if _, given := req.Header["User-Agent"]; !given {
		req.Header.Set("User-Agent", userAgent)
	}
	if _, given := req.Header["Accept"]; !given {
		req.Header.Set("Accept", "*/*")
	} else if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept")
	}
	req.Host = req.Header.Get("Host")
	return req, nil
}
