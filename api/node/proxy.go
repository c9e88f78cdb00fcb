package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/api/objects"
	"podd/api/rest"
)

// Proxy is the subresource proxy of the node: it leads to the kubelet's endpoints,
// which kubelet serves, or to another port of the node's main address.
func Proxy(kubelet http.Handler, f Facts) *rest.Subresource {
	return &rest.Subresource{Handler: func(w http.ResponseWriter, r *http.Request, _ objects.Object) {
		to, err := f.proxied(rest.RequestOf(r.Context()).Name)
		switch {
		case err != nil:
			rest.Fail(r.Context(), err)
		case to == nil:
			serveBelow(w, r, kubelet)
		default:
			rest.Forward(w, r, to, "node", &http.Transport{
				DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // nobody knows whose certificate it has, as in Kubernetes
			})
		}
	}}
}

// proxied is where the name of a proxy request leads: NAME, NAME:PORT or
// SCHEME:NAME:PORT; nil: to the kubelet's endpoints, which need no port.
// Source: Kubernetes API, connect to proxy of Node.
func (f Facts) proxied(name string) (*url.URL, error) {
	parts := strings.Split(name, ":")
	scheme := "http"
	if len(parts) == 3 {
		if parts[0] != "" {
			scheme = parts[0]
		}
		parts = parts[1:]
	}
	if len(parts) > 2 || parts[0] != f.Name || scheme != "http" && scheme != "https" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q: expected %s, %[2]s:PORT or SCHEME:%[2]s:PORT", name, f.Name))
	}
	if len(parts) == 1 || parts[1] == "" || parts[1] == strconv.Itoa(f.KubeletPort) {
		return nil, nil
	}
	if port, err := strconv.ParseUint(parts[1], 10, 16); err != nil || port == 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q: no port %q", name, parts[1]))
	}
	if len(f.IPs) == 0 {
		return nil, apierrors.NewServiceUnavailable("the node has no address")
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(f.IPs[0].String(), parts[1])}, nil
}

// serveBelow has a handler of this process answer, as if it had been asked itself.
func serveBelow(w http.ResponseWriter, r *http.Request, h http.Handler) {
	path, raw := rest.TailPath(r)
	below := strings.TrimSuffix(r.URL.EscapedPath(), raw)
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawPath = path, raw
	if r.Header.Get("Upgrade") == "" { // or the connection is the handler's own
		w = &belowWriter{w, strings.TrimSuffix(below, "/")}
	}
	h.ServeHTTP(w, r)
}

// belowWriter leads back to where the client is what leads somewhere else.
type belowWriter struct {
	http.ResponseWriter
	below string
}

func (b *belowWriter) WriteHeader(code int) {
	if to := b.Header().Get("Location"); slices.Contains([]int{301, 302, 303, 307, 308}, code) && strings.HasPrefix(to, "/") {
		b.Header().Set("Location", b.below+to)
	}
	b.ResponseWriter.WriteHeader(code)
}

// Unwrap leads [http.ResponseController] to what can flush and has deadlines.
func (b *belowWriter) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// Flush is for those who know no controller.
func (b *belowWriter) Flush() { _ = http.NewResponseController(b.ResponseWriter).Flush() }
