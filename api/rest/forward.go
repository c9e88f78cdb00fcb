package rest

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TailPath is the path that a request for the subresource proxy means at the other
// end, decoded and as it was sent.
func TailPath(r *http.Request) (path, raw string) {
	raw = "/" + RequestOf(r.Context()).Tail
	path, err := url.PathUnescape(raw)
	if err != nil {
		path = raw
	}
	return path, raw
}

// Forward serves a request for the subresource proxy by what answers at another place,
// which has scheme and host; what says what that is. What is about our user stays here.
func Forward(w http.ResponseWriter, r *http.Request, to *url.URL, what string, by http.RoundTripper) {
	path, raw := TailPath(r)
	(&httputil.ReverseProxy{
		Transport:     by,
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = &url.URL{Scheme: to.Scheme, Host: to.Host, Path: path, RawPath: raw, RawQuery: p.In.URL.RawQuery}
			p.Out.Host = to.Host
			p.Out.Header.Del("Authorization")
			p.SetXForwarded()
		},
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			Fail(r.Context(), apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach %s: %v", what, err)))
		},
	}).ServeHTTP(w, r)
}
