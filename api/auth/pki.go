package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"podd/internal/atomicfile"
)

const (
	caLifetime     = 10 * 365 * 24 * time.Hour
	serverLifetime = 365 * 24 * time.Hour
	// UserLifetime is how long a user's certificate is good if nothing else is said.
	UserLifetime = 365 * 24 * time.Hour
	// renewBefore is how long before their end certificates are made anew.
	renewBefore = 60 * 24 * time.Hour
	// skew is how far clocks may differ.
	skew = 5 * time.Minute
)

// PKI is the node's certificate authority and the server's certificate, in one
// directory: ca.crt, ca.key, server.crt and server.key. Whoever has ca.key can
// become anybody, so the directory is root's alone.
type PKI struct {
	dir   string
	ca    *x509.Certificate
	key   crypto.Signer
	names []string // of the server: host names and addresses

	mu     sync.Mutex
	server *tls.Certificate // guarded by mu; nil until the first connection
}

// Open reads the certificate authority in dir and makes it where there is none.
// names are the host names and addresses that the server's certificate is for;
// it is not made before the first connection. A certificate authority that
// cannot be read is an error: a new one would shut all users out.
func Open(dir string, names []string) (*PKI, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep certificates: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot keep certificates in %s: %w", dir, err)
	}
	defer unlock()
	p := &PKI{dir: dir, names: slices.Clone(names)}
	pair, err := p.load("ca")
	if errors.Is(err, fs.ErrNotExist) {
		pair, err = p.makeCA()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the certificate authority in %s (remove ca.crt and ca.key there to make a new one, which no user's certificate is good for): %w", dir, err)
	}
	p.ca, p.key = pair.Leaf, pair.PrivateKey.(crypto.Signer)
	return p, nil
}

// lock makes sure that two programs do not make a certificate authority each.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// load reads a certificate and its key.
func (p *PKI) load(name string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(p.dir, name+".crt"), filepath.Join(p.dir, name+".key"))
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// save writes a certificate and its key, the key first: a certificate without
// one would be found by the next start.
func (p *PKI) save(name string, cert, key []byte) error {
	if err := atomicfile.Write(filepath.Join(p.dir, name+".key"), key, 0o600); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(p.dir, name+".crt"), cert, 0o644)
}

func (p *PKI) makeCA() (*tls.Certificate, error) {
	// A random part in the name: clients that know two authorities of one name
	// would try one for the other.
	id, err := serial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: fmt.Sprintf("podd CA %x", id.Bytes()[:4])},
		NotAfter:              time.Now().Add(caLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	cert, key, err := issue(template, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := p.save("ca", cert, key); err != nil {
		return nil, err
	}
	return p.load("ca")
}

// Certificate is the authority's own, as PEM.
func (p *PKI) Certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.ca.Raw})
}

// Pool holds the authority alone.
func (p *PKI) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	return pool
}

// Issue makes a certificate by which a user is known, and its key, as PEM.
func (p *PKI) Issue(user string, role Role, lifetime time.Duration) (cert, key []byte, err error) {
	return issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: []string{GroupOf(role)}},
		NotAfter:    time.Now().Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, p.ca, p.key)
}

// ServerCertificate is the certificate to show, for [tls.Config.GetCertificate].
// One that nears its end, or that is for other names, is made anew.
func (p *PKI) ServerCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		if pair, err := p.load("server"); err == nil && p.isOurs(pair.Leaf) {
			p.server = pair
		}
	}
	if p.server != nil && time.Until(p.server.Leaf.NotAfter) > renewBefore {
		return p.server, nil
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "podd"},
		NotAfter:    time.Now().Add(serverLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range p.names {
		if ip, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	cert, key, err := issue(template, p.ca, p.key)
	if err != nil {
		return nil, fmt.Errorf("cannot make the server's certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot use the server's new certificate: %w", err)
	}
	p.server = &pair
	// It serves from memory also where the disk is full.
	_ = p.save("server", cert, key)
	return p.server, nil
}

// isOurs says whether a server certificate is of this authority and for all names.
func (p *PKI) isOurs(c *x509.Certificate) bool {
	if c.CheckSignatureFrom(p.ca) != nil {
		return false
	}
	return !slices.ContainsFunc(p.names, func(name string) bool { return c.VerifyHostname(name) != nil })
}

// issue signs a certificate for a new key; without a parent it signs itself.
func issue(template, parent *x509.Certificate, signer crypto.Signer) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, nil, err
	}
	template.NotBefore = time.Now().Add(-skew)
	if parent == nil {
		parent, signer = template, private
	} else if template.NotAfter.After(parent.NotAfter) {
		template.NotAfter = parent.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) }
