package node

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/objects"
	"podd/api/rest"
)

func TestProxyOfTheNodeReachesTheKubelet(t *testing.T) {
	kubelet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s?%s %s", r.Method, r.URL.EscapedPath(), r.URL.RawQuery, body)
	})
	store := objects.New()
	server := rest.New(rest.Config{Store: store, Log: logr.Discard(), Kinds: rest.Kinds(rest.KindOptions{Store: store, NodeProxy: Proxy(kubelet, "box", 10250)})})
	for _, name := range []string{"box", "other"} {
		key := objects.Key{Resource: v1.Resource("nodes"), Name: name}
		if _, err := store.Update(key, func(objects.Object) (objects.Object, error) {
			return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "box/proxy/pods", "", 200, "GET /pods? "},
		{"GET", "box/proxy", "", 200, "GET /? "},
		{"GET", "box:10250/proxy/logs/", "", 200, "GET /logs/? "},
		{"GET", "https:box:10250/proxy/logs/a%2Fb?x=1", "", 200, "GET /logs/a%2Fb?x=1 "},
		{"GET", "https:box:/proxy/metrics", "", 200, "GET /metrics? "},
		{"POST", "box/proxy/run/default/web/app?cmd=ls", "input", 200, "POST /run/default/web/app?cmd=ls input"},
		{"GET", "box:10255/proxy/pods", "", 400, `invalid node request \"box:10255\": expected box or https:box:10250, the kubelet's port`},
		{"GET", "http:box:10250/proxy/pods", "", 400, "invalid node request"},
		{"GET", "other/proxy/pods", "", 400, `invalid node request \"other\"`},
		{"GET", "none/proxy/pods", "", 404, `nodes \"none\" not found`},
	} {
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, httptest.NewRequest(c.method, "/api/v1/nodes/"+c.path, strings.NewReader(c.body)))
		if got := answer.Body.String(); answer.Code != c.code || !strings.Contains(got, c.want) || c.code == 200 && got != c.want {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, answer.Code, got, c.code, c.want)
		}
	}
}
