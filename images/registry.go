package images

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// unreachableError says that the registry could not be asked, as opposed to one
// that answered no.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string { return e.err.Error() }
func (e *unreachableError) Unwrap() error { return e.err }

// retryAfterError is a failure with the registry's wish when to ask again.
type retryAfterError struct {
	err   error
	after time.Duration
}

func (e *retryAfterError) Error() string { return e.err.Error() }
func (e *retryAfterError) Unwrap() error { return e.err }

// maxRetryAfter bounds how long a registry can make us wait.
const maxRetryAfter = time.Minute

// endpoint is one registry that may have an image: the image's own, or a mirror.
type endpoint struct {
	label      string // for messages: "registry docker.io", "mirror https://m.example"
	host       string // whose credentials and certificates count
	repository string // the image's repository there
	plainHTTP  bool   // the operator asked for plain http
	caFile     string

	registry   name.Registry
	transport  *http.Transport
	client     *http.Client // authorised, once connected
	credential credential
	retryAfter atomic.Int64 // the last wish of the registry, nanoseconds
}

// origin is the endpoint of the image's own registry.
func origin(r reference) *endpoint {
	return &endpoint{label: "registry " + r.registry, host: r.registry, repository: r.repository}
}

func (e *endpoint) name() (name.Registry, error) {
	if e.plainHTTP {
		return name.NewRegistry(e.host, name.Insecure)
	}
	return name.NewRegistry(e.host)
}

func (e *endpoint) close() {
	if e.transport != nil {
		e.transport.CloseIdleConnections()
	}
}

// prepare makes the connections' settings.
func (e *endpoint) prepare(certDirs []string) error {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	config.RootCAs = pool
	if e.caFile != "" {
		if err := trust(pool, e.caFile); err != nil {
			return err
		}
	}
	for _, dir := range certDirs {
		if err := trustDir(config, filepath.Join(dir, e.host)); err != nil {
			return err
		}
	}
	if e.registry, err = e.name(); err != nil {
		return err
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	e.transport = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       config,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   30 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       30 * time.Second,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return stallingConn{conn}, nil
		},
	}
	return nil
}

// stallingConn fails when nothing arrives for a while: a pull has no deadline,
// so a connection that died silently must not hold it for ever.
type stallingConn struct{ net.Conn }

const stallTimeout = 90 * time.Second

func (c stallingConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func trust(pool *x509.CertPool, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read certificate authorities: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("cannot read certificate authorities: %s has no PEM certificate", file)
	}
	return nil
}

// trustDir reads one directory in the manner of /etc/docker/certs.d/HOST.
func trustDir(config *tls.Config, dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil // most registries have none
	}
	for _, file := range files {
		path := filepath.Join(dir, file.Name())
		switch filepath.Ext(path) {
		case ".crt":
			if err := trust(config.RootCAs, path); err != nil {
				return err
			}
		case ".cert":
			pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
			if err != nil {
				return fmt.Errorf("cannot read the client certificate for a registry: %w", err)
			}
			config.Certificates = append(config.Certificates, pair)
		}
	}
	return nil
}

// RoundTrip lets plain http through only where it was asked for, and notes the
// registry's wish when it is busy.
func (e *endpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" && !e.mayUsePlain(req.URL.Hostname()) {
		return nil, &permanentError{fmt.Errorf("plain http to %s is refused: it is used for loopback registries and for mirrors that say http://", req.URL.Host)}
	}
	resp, err := e.transport.RoundTrip(req)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
			e.retryAfter.Store(int64(min(time.Duration(seconds)*time.Second, maxRetryAfter)))
		}
	}
	return resp, err
}

func (e *endpoint) mayUsePlain(host string) bool {
	return e.plainHTTP || isLoopback(host)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// failed adds to an error what is known about asking again.
func (e *endpoint) failed(err error) error {
	if after := e.retryAfter.Swap(0); after > 0 {
		return &retryAfterError{err, time.Duration(after)}
	}
	return err
}

// connect learns how the registry wants to be spoken to and proves who we are.
func (s *Store) connect(ctx context.Context, e *endpoint, c credential) error {
	e.credential = c
	auth := authn.Anonymous
	if c.from != "" {
		auth = authn.FromConfig(c.auth)
	}
	scope := e.registry.Repo(e.repository).Scope(transport.PullScope)
	return s.retry(ctx, func() error {
		rt, err := transport.NewWithContext(ctx, e.registry, auth, e, []string{scope})
		if err != nil {
			return e.failed(err)
		}
		e.client = &http.Client{Transport: rt}
		return nil
	})
}

// retry calls f until it succeeds, fails for good, or failed maxAttempts times.
func (s *Store) retry(ctx context.Context, f func() error) error {
	for failures := 1; ; failures++ {
		err := f()
		if err == nil || failures >= maxAttempts || !mayPass(err) {
			return err
		}
		s.log.V(1).Info("registry request failed and is tried again", "error", err.Error())
		if err := s.pause(ctx, failures, err); err != nil {
			return err
		}
	}
}

// mayPass says whether the same request may succeed a little later.
func mayPass(err error) bool {
	var permanent *permanentError
	var answer *transport.Error
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &permanent), isUntrusted(err):
		return false
	case errors.As(err, &answer):
		return busyStatus(answer.StatusCode)
	case errors.As(err, &dns):
		return dns.IsTemporary && !dns.IsNotFound
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return false
	}
	return isNetworkError(err)
}

func isUntrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

func busyStatus(code int) bool {
	return code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout
}

func isNetworkError(err error) bool {
	var netError net.Error
	return errors.As(err, &netError) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (e *endpoint) url(kind, identifier string) string {
	u := url.URL{Scheme: e.registry.Scheme(), Host: e.registry.RegistryStr(), Path: "/v2/" + e.repository + "/" + kind + "/" + identifier}
	return u.String()
}

var manifestTypes = strings.Join([]string{
	string(types.OCIImageIndex), string(types.DockerManifestList),
	string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
}, ", ")

// manifest gets a manifest or an index by tag or digest.
func (s *Store) manifest(ctx context.Context, e *endpoint, identifier string) (document, error) {
	var doc document
	err := s.retry(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url("manifests", identifier), nil)
		if err != nil {
			return &permanentError{err}
		}
		req.Header.Set("Accept", manifestTypes)
		resp, err := e.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := transport.CheckError(resp, http.StatusOK); err != nil {
			return e.failed(err)
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
		if err != nil {
			return err
		}
		if len(data) > maxDocument {
			return &permanentError{fmt.Errorf("the manifest is larger than %d bytes", maxDocument)}
		}
		digest := digestOf(data)
		want := identifier
		if !strings.HasPrefix(want, "sha256:") {
			want = resp.Header.Get("Docker-Content-Digest")
		}
		if strings.HasPrefix(want, "sha256:") && want != digest.String() {
			return &permanentError{fmt.Errorf("manifest %s has wrong content: what arrived has digest %s", want, digest)}
		}
		doc, err = newDocument(data, resp.Header.Get("Content-Type"))
		if err != nil {
			return &permanentError{err}
		}
		return nil
	})
	return doc, err
}

// blob returns an opener for a blob of the registry.
func (e *endpoint) blob(d v1.Descriptor) opener {
	var open opener
	open = func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url("blobs", d.Digest.String()), nil)
		if err != nil {
			return nil, 0, &permanentError{err}
		}
		if offset > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, d.Size-1))
		}
		resp, err := e.client.Do(req)
		if err != nil {
			if !mayPass(err) {
				err = &permanentError{err}
			}
			return nil, 0, err
		}
		switch {
		case resp.StatusCode == http.StatusOK:
			return resp.Body, 0, nil
		case resp.StatusCode == http.StatusPartialContent && offset > 0:
			begins, err := rangeStart(resp.Header.Get("Content-Range"))
			if err == nil {
				return resp.Body, begins, nil
			}
			resp.Body.Close()
			return nil, 0, &permanentError{err}
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0 {
			return open(ctx, 0) // it knows no ranges
		}
		err = transport.CheckError(resp)
		if !busyStatus(resp.StatusCode) {
			return nil, 0, &permanentError{err}
		}
		return nil, 0, e.failed(err)
	}
	return open
}

func rangeStart(header string) (int64, error) {
	rest, ok := strings.CutPrefix(header, "bytes ")
	start, _, found := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(start, 10, 64)
	if !ok || !found || err != nil || n < 0 {
		return 0, fmt.Errorf("the registry answers with the range %q, which cannot be read", header)
	}
	return n, nil
}

// explain puts an endpoint's failure into words for the author of a manifest.
func (e *endpoint) explain(r reference, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var answer *transport.Error
	if !errors.As(err, &answer) {
		wrapped := fmt.Errorf("%s: %w", e.label, err)
		var permanent *permanentError
		if isNetworkError(err) && !isUntrusted(err) && !errors.As(err, &permanent) {
			return &unreachableError{wrapped}
		}
		return wrapped
	}
	switch code := answer.StatusCode; {
	case code == http.StatusNotFound:
		return fmt.Errorf("%s has no image %s: %w", e.label, r.familiar(), err)
	case (code == http.StatusUnauthorized || code == http.StatusForbidden) && e.credential.from == "":
		return fmt.Errorf("%s denies access to %s, and there are no credentials for it, or it does not exist: %w", e.label, r.familiar(), err)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%s denies access to %s with the credentials of %s: %w", e.label, r.familiar(), e.credential.from, err)
	case code == http.StatusTooManyRequests:
		return fmt.Errorf("%s limits how often it is asked: %w", e.label, err)
	case code >= 500:
		return &unreachableError{fmt.Errorf("%s is out of order: %w", e.label, err)}
	}
	return fmt.Errorf("%s: %w", e.label, err)
}

func isDenied(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden)
}

// document is a manifest or an index as it came.
type document struct {
	data      []byte
	digest    v1.Hash
	mediaType types.MediaType
}

// newDocument recognises a document; contentType counts if it does not say
// itself what it is.
func newDocument(data []byte, contentType string) (document, error) {
	var head struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return document{}, fmt.Errorf("cannot read the manifest: %w", err)
	}
	if head.SchemaVersion == 1 {
		return document{}, errors.New("the image has a manifest of the docker schema 1, which is not supported; push it again with a current tool")
	}
	mediaType := head.MediaType
	if mediaType == "" {
		mediaType = types.MediaType(strings.TrimSpace(strings.Split(contentType, ";")[0]))
	}
	if !mediaType.IsIndex() && !mediaType.IsImage() {
		mediaType = types.OCIManifestSchema1
		if head.Manifests != nil {
			mediaType = types.OCIImageIndex
		}
	}
	return document{data, digestOf(data), mediaType}, nil
}

// choose returns the manifest of an index that is for this machine.
func (d document) choose() (v1.Hash, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(d.data, &index); err != nil {
		return v1.Hash{}, fmt.Errorf("cannot read the image index: %w", err)
	}
	want := platform()
	var offered []string
	best, bestScore := v1.Hash{}, -1
	for _, m := range index.Manifests {
		p := m.Platform
		if p == nil && len(index.Manifests) == 1 {
			return m.Digest, nil
		}
		if p == nil || p.OS == "unknown" {
			continue // an attestation
		}
		offered = append(offered, p.String())
		if p.OS != want.OS || p.Architecture != want.Architecture {
			continue
		}
		if score := variantScore(p.Architecture, p.Variant); score > bestScore {
			best, bestScore = m.Digest, score
		}
	}
	if bestScore < 0 {
		return v1.Hash{}, fmt.Errorf("the image is not made for %s; it is made for: %s", want.String(), strings.Join(offered, ", "))
	}
	return best, nil
}

// variantScore prefers the variant that every processor of the architecture
// can run; negative means that it may not run here.
func variantScore(architecture, variant string) int {
	switch {
	case variant == "":
		return 2
	case architecture == "arm64" && variant == "v8", architecture == "amd64" && variant == "v1":
		return 3
	case architecture == "amd64" && (variant == "v2" || variant == "v3" || variant == "v4"):
		return -1
	}
	return 1
}
