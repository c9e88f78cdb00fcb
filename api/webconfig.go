package api

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/bcrypt"
	"sigs.k8s.io/yaml"
)

// WebConfig protects a port with TLS and passwords. Its file has the form of
// Prometheus' exporters (web.yml), as far as a port for scrapers needs it:
//
//	tls_server_config:
//	  cert_file: server.crt          # relative to the file
//	  key_file: server.key
//	  client_auth_type: RequireAndVerifyClientCert
//	  client_ca_file: clients.crt
//	  min_version: TLS13
//	basic_auth_users:
//	  prometheus: $2y$10$…           # bcrypt, as htpasswd -B makes it
type WebConfig struct {
	TLS   *webTLS           `json:"tls_server_config"`
	Users map[string]string `json:"basic_auth_users"`

	dir   string
	known sync.Map // sha256 of user, hash and password → true, once they were seen to match
}

type webTLS struct {
	CertFile       string `json:"cert_file"`
	KeyFile        string `json:"key_file"`
	ClientAuthType string `json:"client_auth_type"`
	ClientCAFile   string `json:"client_ca_file"`
	MinVersion     string `json:"min_version"`
}

var clientAuthTypes = map[string]tls.ClientAuthType{
	"":                           tls.NoClientCert,
	"NoClientCert":               tls.NoClientCert,
	"RequestClientCert":          tls.RequestClientCert,
	"RequireAnyClientCert":       tls.RequireAnyClientCert,
	"RequireClientCert":          tls.RequireAnyClientCert,
	"VerifyClientCertIfGiven":    tls.VerifyClientCertIfGiven,
	"RequireAndVerifyClientCert": tls.RequireAndVerifyClientCert,
}

var tlsVersions = map[string]uint16{"": tls.VersionTLS12, "TLS12": tls.VersionTLS12, "TLS13": tls.VersionTLS13}

// LoadWebConfig reads a file. A key that is not served here is an error, and so
// are certificates that cannot be read and a file that protects nothing.
func LoadWebConfig(path string) (*WebConfig, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &WebConfig{dir: filepath.Dir(path)}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, fmt.Errorf("%s: %w (served here: tls_server_config with cert_file, key_file, client_auth_type, client_ca_file and min_version; basic_auth_users)", path, err)
	}
	if c.TLS == nil && len(c.Users) == 0 {
		return nil, fmt.Errorf("%s: neither tls_server_config nor basic_auth_users is given", path)
	}
	if c.TLS != nil {
		if _, err := c.tlsConfig(); err != nil {
			return nil, fmt.Errorf("%s: tls_server_config: %w", path, err)
		}
	}
	for user, hash := range c.Users {
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("%s: basic_auth_users.%s: expected a bcrypt hash, as htpasswd -B makes it", path, user)
		}
	}
	return c, nil
}

func (c *WebConfig) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.dir, name)
}

// tlsConfig reads the certificates.
func (c *WebConfig) tlsConfig() (*tls.Config, error) {
	auth, ok := clientAuthTypes[c.TLS.ClientAuthType]
	if !ok {
		return nil, fmt.Errorf("client_auth_type: unknown value %q", c.TLS.ClientAuthType)
	}
	least, ok := tlsVersions[c.TLS.MinVersion]
	if !ok {
		return nil, fmt.Errorf("min_version: expected TLS12 or TLS13; found %q", c.TLS.MinVersion)
	}
	cert, err := tls.LoadX509KeyPair(c.path(c.TLS.CertFile), c.path(c.TLS.KeyFile))
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: auth, MinVersion: least, NextProtos: []string{"http/1.1"}}
	if c.TLS.ClientCAFile != "" {
		pem, err := os.ReadFile(c.path(c.TLS.ClientCAFile))
		if err != nil {
			return nil, err
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("client_ca_file: no certificate in %s", c.TLS.ClientCAFile)
		}
	} else if auth >= tls.VerifyClientCertIfGiven {
		return nil, errors.New("client_ca_file: required to verify clients, not given")
	}
	return config, nil
}

// Listener returns l with TLS, where the file asks for it. Certificates are
// read anew for each connection, so that renewed ones are served at once.
func (c *WebConfig) Listener(l net.Listener) net.Listener {
	if c.TLS == nil {
		return l
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.tlsConfig() },
	})
}

// nobody's hash is compared where a user is unknown, so that the time of an
// answer does not tell who exists.
const nobody = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"

// Handler returns h behind the passwords of the file, if it has any.
func (c *WebConfig) Handler(h http.Handler) http.Handler {
	if len(c.Users) == 0 {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if !c.matches(user, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="podd"`)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// matches says whether the password is the user's. bcrypt is slow on purpose;
// what matched once is remembered by a digest.
func (c *WebConfig) matches(user, password string) bool {
	hash, exists := c.Users[user]
	if !exists {
		hash = nobody
	}
	digest := sha256.Sum256([]byte(user + "\x00" + hash + "\x00" + password))
	if _, seen := c.known.Load(digest); seen {
		return true
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) != nil || !exists {
		return false
	}
	c.known.Store(digest, true)
	return true
}
