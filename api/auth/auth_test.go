package auth

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func open(t *testing.T, dir string, names ...string) *PKI {
	t.Helper()
	p, err := Open(dir, append(names, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve starts a server that answers with user and role.
func serve(t *testing.T, a *Auth) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{TLSConfig: a.TLS(), Handler: a.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, known := UserOf(r.Context())
		fmt.Fprintf(w, "%s %s %v", u.Name, u.Role, known)
	}))}
	var serving sync.WaitGroup
	serving.Go(func() { s.ServeTLS(l, "", "") })
	t.Cleanup(func() { s.Close(); serving.Wait() })
	return "https://" + l.Addr().String()
}

// client is one that trusts p and shows a certificate, if there is one.
func client(t *testing.T, p *PKI, cert, key []byte) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: p.Pool()}
	if cert != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, c *http.Client, url, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var text strings.Builder
	if _, err := fmt.Fprint(&text, readAll(t, answer)); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, text.String()
}

func readAll(t *testing.T, answer *http.Response) string {
	t.Helper()
	var s metav1.Status
	if answer.StatusCode >= 400 {
		if err := json.NewDecoder(answer.Body).Decode(&s); err != nil || s.Kind != "Status" || int(s.Code) != answer.StatusCode {
			t.Fatalf("expected a Status with code %d; found %+v, %v", answer.StatusCode, s, err)
		}
		return s.Message
	}
	data := make([]byte, 1024)
	n, _ := answer.Body.Read(data)
	return string(data[:n])
}

func issued(t *testing.T, p *PKI, user string, role Role, lifetime time.Duration) (cert, key []byte) {
	t.Helper()
	cert, key, err := p.Issue(user, role, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestUsersAreKnownByTheirCertificate(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	url := serve(t, New(p, nil, logr.Discard()))
	for _, role := range []Role{View, Edit, Admin} {
		cert, key := issued(t, p, "ada", role, time.Hour)
		if code, text := get(t, client(t, p, cert, key), url+"/api/v1/pods", ""); code != 200 || text != "ada "+string(role)+" true" {
			t.Errorf("%s: %d %s", role, code, text)
		}
	}
	other := open(t, t.TempDir())
	for name, certificate := range map[string]func() (cert, key []byte){
		"no certificate":                  func() ([]byte, []byte) { return nil, nil },
		"another authority's certificate": func() ([]byte, []byte) { return issued(t, other, "ada", Admin, time.Hour) },
		"a certificate past its end":      func() ([]byte, []byte) { return issued(t, p, "ada", Admin, -time.Second) },
		"a certificate without a name":    func() ([]byte, []byte) { return issued(t, p, "", Admin, time.Hour) },
		"the server's own certificate": func() ([]byte, []byte) {
			cert, err := os.ReadFile(filepath.Join(dir, "server.crt"))
			if err != nil {
				t.Fatal(err)
			}
			key, err := os.ReadFile(filepath.Join(dir, "server.key"))
			if err != nil {
				t.Fatal(err)
			}
			return cert, key
		},
	} {
		cert, key := certificate()
		c := client(t, p, cert, key)
		if code, text := get(t, c, url+"/api/v1/pods", ""); code != 401 || !strings.HasPrefix(text, "Unauthorized") {
			t.Errorf("%s: %d %s", name, code, text)
		}
		if code, _ := get(t, c, url+"/healthz", ""); code != 200 {
			t.Errorf("%s: /healthz is for everybody; found %d", name, code)
		}
	}
}

func TestACertificateThatWasGoodEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, t.TempDir())
		a := New(p, nil, logr.Discard())
		cert, _ := issued(t, p, "ada", View, time.Hour)
		block, _ := pem.Decode(cert)
		parsed, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, after := range []time.Duration{0, 59 * time.Minute, 2 * time.Minute} {
			time.Sleep(after)
			_, err := a.certified([]*x509.Certificate{parsed})
			if good := time.Now().Before(parsed.NotAfter); good != (err == nil) {
				t.Errorf("at %s, with the end at %s: %v", time.Now(), parsed.NotAfter, err)
			}
		}
	})
}

func TestUsersAreKnownByTheirToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.csv")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("# who watches\nsesame,grace,1,\"podd:view,others\"\nopen,linus,2\n", 0o600)
	tokens, err := OpenTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, t.TempDir())
	url := serve(t, New(p, tokens, logr.Discard()))
	c := client(t, p, nil, nil)
	expect := func(token string, code int, text string) {
		t.Helper()
		if found, said := get(t, c, url+"/api", token); found != code || !strings.HasPrefix(said, text) {
			t.Errorf("token %q: expected %d %s; found %d %s", token, code, text, found, said)
		}
	}
	expect("sesame", 200, "grace view true")
	expect("open", 200, "linus  true")
	expect("wrong", 401, "Unauthorized")
	expect("", 401, "Unauthorized")

	write("fresh,grace,1,podd:admin\n", 0o600)
	expect("fresh", 200, "grace admin true")
	expect("sesame", 401, "Unauthorized")

	write("broken\n", 0o600) // what was read last holds
	expect("fresh", 200, "grace admin true")
	write("fresh,grace,1\n", 0o644)
	if _, err := OpenTokens(file); err == nil || !strings.Contains(err.Error(), "chmod it to 0600") {
		t.Errorf("a file that others can read: %v", err)
	}
}

func TestMistakesInATokenFileNameTheLineAndNoToken(t *testing.T) {
	for text, where := range map[string]string{
		"secret-a,ada,1\nsecret-b\n":                "line 2",
		"secret-a,ada,1\nsecret-a,eve,2\n":          "line 2",
		",ada,1\n":                                  "line 1",
		"secret-a,,1\n":                             "line 1",
		"secret-a,\"ada,1\n":                        "line",
		"secret-a,ada,1,podd:view,podd:edit\n":      "line 1",
		"secret-a,ada,1\nsecret-\"b,eve,1,\"x\"y\n": "line 2",
	} {
		users, err := parseTokens(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), where) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, %v", text, users, err)
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add("a,b,c\n\"x\",y,z,\"g,h\"\n#\n")
	f.Fuzz(func(t *testing.T, text string) {
		users, err := parseTokens(strings.NewReader(text))
		if err == nil {
			for _, u := range users {
				if u.Name == "" {
					t.Errorf("a user without a name from %q", text)
				}
			}
		}
	})
}

func TestAuthorityAndCertificatesOutliveTheAgent(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, "box")
	before, err := first.ServerCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := issued(t, first, "ada", Admin, time.Hour)
	second := open(t, dir, "box")
	after, err := second.ServerCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !before.Leaf.Equal(after.Leaf) {
		t.Error("the server's certificate was made anew without need")
	}
	url := serve(t, New(second, nil, logr.Discard()))
	if code, _ := get(t, client(t, first, cert, key), url, ""); code != 200 {
		t.Errorf("a certificate from before the restart: %d", code)
	}
	renamed, err := open(t, dir, "box", "192.0.2.7").ServerCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := renamed.Leaf.VerifyHostname("192.0.2.7"); err != nil {
		t.Error(err)
	}
	for name, mode := range map[string]os.FileMode{"": 0o700, "ca.key": 0o600, "server.key": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode && name != "" {
			t.Errorf("%s: expected mode %o; found %v, %v", name, mode, info.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), []byte("dust"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "remove ca.crt and ca.key") {
		t.Errorf("a broken authority: %v", err)
	}
}

func TestKubeconfigIsKeptGood(t *testing.T) {
	const server = "https://127.0.0.1:6443"
	p := open(t, t.TempDir())
	path := filepath.Join(t.TempDir(), "podd", "kubeconfig")
	keep := func(p *PKI, server string, expect bool) {
		t.Helper()
		if written, err := p.KeepKubeconfig(path, server, "root"); err != nil || written != expect {
			t.Errorf("expected written to be %v; found %v, %v", expect, written, err)
		}
	}
	keep(p, server, true)
	keep(p, server, false)
	keep(p, "https://127.0.0.1:7443", true)
	keep(open(t, t.TempDir()), "https://127.0.0.1:7443", true)
	keep(p, server, true)
	short, err := p.Kubeconfig(server, "root", Admin, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, short, 0o600); err != nil {
		t.Fatal(err)
	}
	keep(p, server, true)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	var k kubeconfig
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, &k); err != nil {
		t.Fatal(err)
	}
	url := serve(t, New(p, nil, logr.Discard()))
	if code, text := get(t, client(t, p, k.Users[0].User.Certificate, k.Users[0].User.Key), url, ""); text != "root admin true" {
		t.Errorf("by the kubeconfig: %d %s", code, text)
	}

	foreign := []byte("apiVersion: v1\nkind: Config\nclusters: [{name: other, cluster: {server: x}}]\nusers: []\n")
	if err := os.WriteFile(path, foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	if written, err := p.KeepKubeconfig(path, server, "root"); err == nil || written {
		t.Error("another's kubeconfig was replaced")
	}
	if data, _ := os.ReadFile(path); string(data) != string(foreign) {
		t.Error("another's kubeconfig was changed")
	}
}

func TestRolesAllowWhatKubernetesRolesOfThatNameDo(t *testing.T) {
	const all = "view edit admin"
	for _, c := range []struct {
		verb, resource, subresource string
		who                         string
	}{
		{"get", "pods", "", all},
		{"list", "pods", "", all},
		{"watch", "configmaps", "", all},
		{"get", "pods", "log", all},
		{"get", "pods", "status", all},
		{"get", "nodes", "", all},
		{"get", "nodes", "metrics", all},
		{"list", "persistentvolumes", "", all},
		{"list", "events", "", all},
		{"create", "selfsubjectaccessreviews", "", all},
		{"get", "secrets", "", "edit admin"},
		{"list", "secrets", "", "edit admin"},
		{"create", "pods", "", "edit admin"},
		{"delete", "pods", "", "edit admin"},
		{"deletecollection", "pods", "", "edit admin"},
		{"patch", "configmaps", "", "edit admin"},
		{"create", "pods", "exec", "edit admin"},
		{"get", "pods", "exec", "edit admin"}, // WebSocket clients get
		{"get", "pods", "attach", "edit admin"},
		{"get", "pods", "portforward", "edit admin"},
		{"get", "pods", "proxy", "edit admin"},
		{"create", "pods", "eviction", "edit admin"},
		{"patch", "pods", "ephemeralcontainers", "edit admin"},
		{"patch", "nodes", "", "admin"},
		{"get", "nodes", "proxy", "admin"},
		{"get", "nodes", "log", "admin"},
		{"create", "namespaces", "", "admin"},
		{"delete", "namespaces", "", "admin"},
		{"create", "persistentvolumes", "", "admin"},
		{"delete", "runtimeclasses", "", "admin"},
		{"impersonate", "users", "", "admin"},
	} {
		for _, r := range []Role{View, Edit, Admin} {
			at := Attributes{Verb: c.verb, Resource: c.resource, Subresource: c.subresource, Namespace: "default"}
			if allowed := r.Allows(at); allowed != strings.Contains(c.who, string(r)) {
				t.Errorf("%s %s/%s: %s: %v", c.verb, c.resource, c.subresource, r, allowed)
			}
		}
	}
	for path, who := range map[string]string{
		"/healthz": "everybody", "/version": "everybody", "/api": "known", "/apis/events.k8s.io/v1": "known", "/openapi/v3": "known",
		"/debug/pprof/heap": "admin", "/apisx": "admin", "/healthzx": "admin",
	} {
		if isPublic(path) != (who == "everybody") {
			t.Errorf("%s: public %v", path, isPublic(path))
		}
		at := Attributes{Verb: "get", Path: path}
		if None.Allows(at) != (who != "admin") || View.Allows(at) != (who != "admin") || !Admin.Allows(at) {
			t.Errorf("%s is for %s: none %v, view %v, admin %v", path, who, None.Allows(at), View.Allows(at), Admin.Allows(at))
		}
		if at.Verb = "create"; View.Allows(at) {
			t.Errorf("view may write to %s", path)
		}
	}
	if None.Allows(Attributes{Verb: "get", Resource: "pods"}) || !None.Allows(Attributes{Verb: "create", Resource: "selfsubjectaccessreviews"}) {
		t.Error("a user without a role may ask what they may do, and no more")
	}
}

func TestWhoMayNotIsToldWhoAndWhat(t *testing.T) {
	ctx := WithUser(t.Context(), newUser("ada", "", []string{GroupOf(View)}))
	for want, at := range map[string]Attributes{
		`pods "web" is forbidden: User "ada" cannot delete resource "pods" in API group "" in the namespace "default": the role "view" does not allow it`: {
			Verb: "delete", Resource: "pods", Namespace: "default", Name: "web"},
		`nodes "box" is forbidden: User "ada" cannot get resource "nodes/proxy" in API group "" at the cluster scope: the role "view" does not allow it`: {
			Verb: "get", Resource: "nodes", Subresource: "proxy", Name: "box"},
		`forbidden: User "ada" cannot get path "/debug": the role "view" does not allow it`: {Verb: "get", Path: "/debug"},
	} {
		if err := Allowed(ctx, at); err == nil || err.Error() != want {
			t.Errorf("expected %s\nfound    %v", want, err)
		}
	}
	if err := Allowed(ctx, Attributes{Verb: "list", Resource: "pods"}); err != nil {
		t.Error(err)
	}
	if err := Allowed(t.Context(), Attributes{Verb: "list", Resource: "pods"}); err == nil {
		t.Error("nobody may list pods")
	}
	if err := Allowed(t.Context(), Attributes{Verb: "get", Path: "/livez"}); err != nil {
		t.Error(err)
	}
}
