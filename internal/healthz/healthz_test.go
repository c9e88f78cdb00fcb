package healthz

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

func get(h http.Handler, path string) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return fmt.Sprint(w.Code, " ", w.Body.String())
}

func TestHandler(t *testing.T) {
	var wrong error
	h := Handler("/livez", func() error { return wrong })
	for _, c := range []struct {
		wrong      error
		path, want string
	}{
		{nil, "/livez", "200 ok"},
		{nil, "/livez/", "200 ok"},
		{nil, "/livez/ping", "200 ok"},
		{nil, "/livez/nothing", "404 404 page not found\n"},
		{nil, "/livez?verbose", "200 [+]ping ok\n[+]log ok\n[+]syncloop ok\nlivez check passed\n"},
		{nil, "/livez/ping?verbose=1", "200 [+]ping ok\nlivez check passed\n"},
		{errors.New("it hangs"), "/livez", "500 [+]ping ok\n[+]log ok\n[-]syncloop failed: it hangs\nlivez check failed\n"},
		{errors.New("it hangs"), "/livez/ping", "200 ok"},
		{errors.New("it hangs"), "/livez/syncloop", "500 [-]syncloop failed: it hangs\nlivez check failed\n"},
	} {
		wrong = c.wrong
		if got := get(h, c.path); got != c.want {
			t.Errorf("%s while %v: got %q, want %q", c.path, c.wrong, got, c.want)
		}
	}
	if got := get(Handler("/healthz", nil), "/healthz"); got != "200 ok" {
		t.Errorf("with nothing to look at: %s", got)
	}
}

func TestSLIs(t *testing.T) {
	var wrong error
	h := SLIs(func() error { return wrong })
	get(h, "/metrics/slis")
	wrong = errors.New("it hangs")
	want := `200 # HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.
# TYPE kubernetes_healthcheck gauge
kubernetes_healthcheck{name="ping",type="healthz"} 1
kubernetes_healthcheck{name="log",type="healthz"} 1
kubernetes_healthcheck{name="syncloop",type="healthz"} 0
# HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.
# TYPE kubernetes_healthchecks_total counter
kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 2
kubernetes_healthchecks_total{name="log",status="success",type="healthz"} 2
kubernetes_healthchecks_total{name="syncloop",status="error",type="healthz"} 1
kubernetes_healthchecks_total{name="syncloop",status="success",type="healthz"} 1
`
	if got := get(h, "/metrics/slis"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
