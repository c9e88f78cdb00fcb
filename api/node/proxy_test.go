package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/objects"
	"podd/api/rest"
)

// proxying serves the node "box", whose kubelet's endpoints are on port 10250.
func proxying(t *testing.T, kubelet http.Handler, allowed func(context.Context, rest.Request) error) *httptest.Server {
	t.Helper()
	store := objects.New()
	facts := Facts{Name: "box", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, KubeletPort: 10250}
	kinds := rest.Kinds(rest.KindOptions{Store: store, NodeProxy: Proxy(kubelet, facts)})
	for _, name := range []string{"box", "other"} {
		if _, err := store.Update(objects.Key{Resource: Nodes, Name: name}, func(objects.Object) (objects.Object, error) {
			return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewServer(rest.New(rest.Config{Store: store, Kinds: kinds, Log: logr.Discard(), Allowed: allowed}))
	t.Cleanup(s.Close)
	return s
}

func ask(t *testing.T, method, url string) (code int, body string, header http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("input"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret")
	answer, err := http.DefaultTransport.RoundTrip(r) // follows nothing
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header
}

func TestTheNodesProxyLeadsToTheKubeletsEndpoints(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
	})
	mux.HandleFunc("/logs/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "logs ", r.URL.Path) })
	s := proxying(t, mux, nil)
	for path, want := range map[string]string{
		"/box/proxy/stats/summary?only_cpu_and_memory=true": "GET /stats/summary?only_cpu_and_memory=true input",
		"/box:10250/proxy/metrics":                          "GET /metrics input",
		"/https:box:10250/proxy/healthz":                    "GET /healthz input",
		"/https:box:/proxy/healthz":                         "GET /healthz input",
		"/box/proxy":                                        "GET / input",
		"/box/proxy/":                                       "GET / input",
		"/box/proxy/logs/":                                  "logs /logs/",
		"/box/proxy/logs/pods/":                             "logs /logs/pods/",
		"/box/proxy/exec/a%20b":                             "GET /exec/a%20b input",
	} {
		if code, body, _ := ask(t, "GET", s.URL+"/api/v1/nodes"+path); code != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, code, body, want)
		}
	}
	if code, body, _ := ask(t, "POST", s.URL+"/api/v1/nodes/box/proxy/run/default/web/app?cmd=id"); code != 200 || body != "POST /run/default/web/app?cmd=id input" {
		t.Errorf("%d %q", code, body)
	}
	// What leads somewhere else leads there by the same way.
	if code, _, header := ask(t, "GET", s.URL+"/api/v1/nodes/box/proxy/logs"); code != 307 && code != 301 || header.Get("Location") != "/api/v1/nodes/box/proxy/logs/" {
		t.Errorf("%d, Location %q", code, header.Get("Location"))
	}
}

func TestTheNodesProxyLeadsToOtherPortsOfTheNode(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s, authorization %q", r.URL.Path, r.Header.Get("Authorization"))
	}
	plain, secure := httptest.NewServer(http.HandlerFunc(echo)), httptest.NewTLSServer(http.HandlerFunc(echo))
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	port := func(s *httptest.Server) string {
		_, port, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	s := proxying(t, http.NotFoundHandler(), nil)
	for _, name := range []string{"box:" + port(plain), "http:box:" + port(plain), "https:box:" + port(secure)} {
		if code, body, _ := ask(t, "GET", s.URL+"/api/v1/nodes/"+name+"/proxy/x"); code != 200 || body != `/x, authorization ""` {
			t.Errorf("%s: %d %q", name, code, body)
		}
	}
	plain.Close()
	if code, body, _ := ask(t, "GET", s.URL+"/api/v1/nodes/box:"+port(plain)+"/proxy/x"); code != 503 || !strings.Contains(body, "error trying to reach node") {
		t.Errorf("%d %q", code, body)
	}
}

func TestTheNodesProxyRefuses(t *testing.T) {
	s := proxying(t, http.NotFoundHandler(), nil)
	for name, want := range map[string]int{"box:x": 400, "box:0": 400, "box:70000": 400, "ftp:box:21": 400, "other": 400, "none": 404, "http:none:80": 404} {
		if code, body, _ := ask(t, "GET", s.URL+"/api/v1/nodes/"+name+"/proxy/x"); code != want {
			t.Errorf("%s: %d %s, want %d", name, code, body, want)
		}
	}
}

// Who asks needs the permission nodes/proxy by the verb of the method.
func TestTheNodesProxyNeedsAPermission(t *testing.T) {
	var asked []string
	s := proxying(t, http.NotFoundHandler(), func(_ context.Context, q rest.Request) error {
		asked = append(asked, fmt.Sprint(q.Verb, " ", q.Resource, "/", q.Subresource, " ", q.Name))
		return apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, q.Name, nil)
	})
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		if code, body, _ := ask(t, method, s.URL+"/api/v1/nodes/box/proxy/pods"); code != 403 {
			t.Errorf("%s: %d %s", method, code, body)
		}
	}
	if got := strings.Join(asked, ", "); got != "get nodes/proxy box, create nodes/proxy box, update nodes/proxy box, patch nodes/proxy box, delete nodes/proxy box" {
		t.Error(got)
	}
}
