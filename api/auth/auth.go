package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/internal/refusal"
)

// Auth knows users and what they may do.
type Auth struct {
	pki    *PKI
	tokens *Tokens // nil: nobody has a token
	pool   *x509.CertPool
	log    logr.Logger

	mu    sync.Mutex
	known map[[sha256.Size]byte]certified // guarded by mu; certificates seen to be good
}

// certified is what a certificate says.
type certified struct {
	user  User
	until time.Time
}

// maxKnown bounds how many certificates are remembered.
const maxKnown = 1024

// New returns an Auth for the users of an authority and, unless it is nil, of a
// file of tokens.
func New(pki *PKI, tokens *Tokens, log logr.Logger) *Auth {
	return &Auth{pki: pki, tokens: tokens, pool: pki.Pool(), log: log, known: map[[sha256.Size]byte]certified{}}
}

// TLS is how to serve. A client's certificate is asked for and not judged here:
// who shows a bad one is told so over HTTP.
func (a *Auth) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		ClientAuth:     tls.RequestClientCert,
		ClientCAs:      a.pool,
		GetCertificate: a.pki.ServerCertificate,
		NextProtos:     []string{"h2", "http/1.1"},
	}
}

// User finds who asks: by certificate, else by token. It returns an error that
// may be shown where there is neither or it is not good.
func (a *Auth) User(r *http.Request) (User, error) {
	var why error
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		u, err := a.certified(r.TLS.PeerCertificates)
		if err == nil {
			return u, nil
		}
		why = fmt.Errorf("the client certificate is not good: %w", err)
	}
	if token, given := bearer(r); given && a.tokens != nil {
		u, err := a.tokens.user(token)
		if err == nil {
			return u, nil
		}
		a.log.V(1).Info("a token was refused", "reason", err.Error())
	}
	return User{}, cmp.Or(why, errNobody)
}

var errNobody = errors.New("neither a client certificate nor a bearer token that is known here")

// bearer is the token of a request.
func bearer(r *http.Request) (string, bool) {
	scheme, token, given := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), given && strings.EqualFold(scheme, "Bearer")
}

// certified verifies a certificate, once for all requests.
func (a *Auth) certified(chain []*x509.Certificate) (User, error) {
	now := time.Now()
	digest := sha256.Sum256(chain[0].Raw)
	a.mu.Lock()
	known, seen := a.known[digest]
	a.mu.Unlock()
	if seen && now.Before(known.until) {
		return known.user, nil
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: a.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return User{}, err
	}
	if chain[0].Subject.CommonName == "" {
		return User{}, errors.New("it names no user (common name)")
	}
	u := newUser(chain[0].Subject.CommonName, "", chain[0].Subject.Organization)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxKnown {
		clear(a.known)
	}
	a.known[digest] = certified{u, chain[0].NotAfter}
	return u, nil
}

type userKey struct{}

// UserOf is who asks, behind [Auth.Handler].
func UserOf(ctx context.Context) (User, bool) {
	u, known := ctx.Value(userKey{}).(User)
	return u, known
}

// WithUser returns a context in which u asks.
func WithUser(ctx context.Context, u User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// Handler lets users in, and everybody to what is public; others are told 401.
func (a *Auth) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := a.User(r)
		switch {
		case err == nil:
			if u, err = impersonated(u, r); err != nil {
				refusal.Write(w, err)
				return
			}
			r = r.WithContext(WithUser(r.Context(), u))
		case isPublic(r.URL.Path) && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		default:
			refusal.Write(w, apierrors.NewUnauthorized("Unauthorized: "+err.Error()))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Allowed says whether the user of a context may do something, and if not, why
// in the words of Kubernetes.
func Allowed(ctx context.Context, at Attributes) error {
	u, known := UserOf(ctx)
	if !known {
		if at.Resource == "" && isPublic(at.Path) {
			return nil
		}
		return apierrors.NewUnauthorized("Unauthorized")
	}
	if u.Role.Allows(at) {
		return nil
	}
	role := fmt.Sprintf("the role %q does not allow it", u.Role)
	if u.Role == None {
		role = "none of the user's groups gives a role"
	}
	if at.Resource == "" {
		return forbidden("", "", fmt.Sprintf("User %q cannot %s path %q: %s", u.Name, at.Verb, at.Path, role))
	}
	resource := at.Resource
	if at.Subresource != "" {
		resource += "/" + at.Subresource
	}
	where := "at the cluster scope"
	if at.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", at.Namespace)
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: at.Group, Resource: at.Resource}, at.Name,
		fmt.Errorf("User %q cannot %s resource %q in API group %q %s: %s", u.Name, at.Verb, resource, at.Group, where, role))
}

func forbidden(resource, name, message string) *apierrors.StatusError {
	err := apierrors.NewForbidden(schema.GroupResource{Resource: resource}, name, nil)
	err.ErrStatus.Message = "forbidden: " + message
	return err
}
