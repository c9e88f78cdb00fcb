package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// writeCertificate makes a self-signed certificate for 127.0.0.1.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "podd"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string][]byte{"server.crt": cert, "server.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

func TestWebConfigAsksForTLSAndPasswords(t *testing.T) {
	dir := t.TempDir()
	pool := writeCertificate(t, dir)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "web.yml")
	text := "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\nbasic_auth_users:\n  prometheus: " + string(hash) + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadWebConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: c.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics") }))}
	go server.Serve(c.Listener(l))
	defer server.Close()

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	for _, tc := range []struct {
		user, password string
		want           int
	}{
		{"prometheus", "secret", 200},
		{"prometheus", "secret", 200}, // from memory
		{"prometheus", "wrong", 401},
		{"nobody", "secret", 401},
		{"", "", 401},
	} {
		req, err := http.NewRequest(http.MethodGet, "https://"+l.Addr().String()+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.user != "" {
			req.SetBasicAuth(tc.user, tc.password)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%q with %q: %d, want %d", tc.user, tc.password, resp.StatusCode, tc.want)
		}
	}
	if resp, err := http.Get("http://" + l.Addr().String() + "/metrics"); err == nil && resp.StatusCode == 200 {
		t.Error("metrics were served without TLS")
	}
}

func TestWebConfigThatCannotProtectIsRefused(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir)
	for name, tc := range map[string]struct{ text, want string }{
		"nothing in it":      {"{}\n", "neither tls_server_config nor basic_auth_users"},
		"an unknown key":     {"tls_server_confg: {}\n", "tls_server_confg"},
		"an unserved key":    {"http_server_config: {http2: true}\n", "http_server_config"},
		"no certificate":     {"tls_server_config: {cert_file: a, key_file: b}\n", "no such file"},
		"a plain password":   {"basic_auth_users: {a: secret}\n", "basic_auth_users.a: expected a bcrypt hash"},
		"an old version":     {"tls_server_config: {cert_file: server.crt, key_file: server.key, min_version: TLS10}\n", "expected TLS12 or TLS13"},
		"clients without CA": {"tls_server_config: {cert_file: server.crt, key_file: server.key, client_auth_type: RequireAndVerifyClientCert}\n", "client_ca_file: required"},
		"an unknown type":    {"tls_server_config: {cert_file: server.crt, key_file: server.key, client_auth_type: Maybe}\n", `unknown value "Maybe"`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "web.yml")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadWebConfig(path); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}
