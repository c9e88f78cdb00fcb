package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"podd/api/auth"
)

const (
	kubeAddress    = "127.0.0.1:6443"
	kubeletAddress = "127.0.0.1:10250"
)

// kubeUser is somebody who asks the world's Kubernetes API.
type kubeUser struct {
	testing.TB
	world *world
	tls   *tls.Config
}

// pki is the world's certificate authority.
func (s *story) pki() *auth.PKI {
	s.Helper()
	pki, err := auth.Open(filepath.Join(s.dir, "root/pki"), nil)
	if err != nil {
		s.Fatal(err)
	}
	return pki
}

// kubeUser has a certificate of issuer's; without one it has none.
func (s *story) kubeUser(issuer *auth.PKI, name string, role auth.Role, lifetime time.Duration) *kubeUser {
	s.Helper()
	u := &kubeUser{TB: s.TB, world: s.world, tls: &tls.Config{RootCAs: s.pki().Pool(), ServerName: "localhost"}}
	if issuer == nil {
		return u
	}
	cert, key, err := issuer.Issue(name, role, lifetime)
	if err != nil {
		s.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		s.Fatal(err)
	}
	// The server names the authorities it knows; this shows the certificate anyway.
	u.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return u
}

func (s *story) kubeRoot() *kubeUser {
	s.Helper()
	return s.kubeUser(s.pki(), "root", auth.Admin, 24*time.Hour) // longer than any soak
}

// client has connections of its own, one for all its requests over HTTP/2.
func (u *kubeUser) client() *http.Client {
	t := &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: u.tls.Clone(),
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) { return u.world.dialHost(address) },
	}
	u.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// dial opens one connection for HTTP/1.1.
func (u *kubeUser) dial(address string) *tls.Conn {
	u.Helper()
	raw, err := u.world.dialHost(address)
	if err != nil {
		u.Fatal(err)
	}
	c := tls.Client(raw, u.tls.Clone())
	u.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// do asks and returns status and body.
func (u *kubeUser) do(c *http.Client, method, path string, body io.Reader) (int, string) {
	u.Helper()
	return u.doAt(c, kubeAddress, method, path, body)
}

func (u *kubeUser) doAt(c *http.Client, address, method, path string, body io.Reader) (int, string) {
	u.Helper()
	r, err := http.NewRequestWithContext(u.Context(), method, "https://"+address+path, body)
	if err != nil {
		u.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		u.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		u.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// dialHost connects as something on the world's host would.
func (w *world) dialHost(address string) (conn net.Conn, err error) {
	inErr := w.inHost(func() error {
		conn, err = net.DialTimeout("tcp", address, patience)
		return nil
	})
	if inErr != nil {
		return nil, inErr
	}
	return conn, err
}
