package auth

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
)

// Who asks in another's name may do what the other may, and nothing more; only who
// may do everything can.
func TestAdminsAskInTheNameOfOthers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.csv")
	lines := "all,ada,1,podd:admin\nsome,eve,2,podd:edit\nnone,bob,3\n"
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := OpenTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	served := New(open(t, t.TempDir()), tokens, logr.Discard()).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, _ := UserOf(r.Context())
		fmt.Fprintf(w, "%s/%s %q %v", u.Name, u.UID, u.Role, u.Groups)
		for name := range r.Header {
			if strings.HasPrefix(name, "Impersonate") {
				t.Errorf("the header %s goes on", name)
			}
		}
	}))
	for _, c := range []struct {
		token   string
		headers string // NAME=VALUE, by commas
		want    string
	}{
		{"all", "", `200 ada/1 "admin" [podd:admin system:authenticated]`},
		{"all", "Impersonate-User=joe", `200 joe/ "" [system:authenticated]`},
		{"all", "impersonate-user=joe,impersonate-group=podd:view,Impersonate-Group=x,Impersonate-Uid=9,Impersonate-Extra-Why=test",
			`200 joe/9 "view" [podd:view x system:authenticated]`},
		{"all", "Impersonate-User=joe,Impersonate-Group=system:authenticated", `200 joe/ "" [system:authenticated]`},
		{"all", "Impersonate-User=system:serviceaccount:team:robot",
			`200 system:serviceaccount:team:robot/ "" [system:serviceaccounts system:serviceaccounts:team system:authenticated]`},
		{"all", "Impersonate-Group=podd:view", `400 `},
		{"all", "Impersonate-Extra-Why=test", `400 `},
		{"some", "Impersonate-User=joe", `403 `},
		{"some", "Impersonate-User=eve,Impersonate-Group=podd:admin", `403 `},
		{"none", "Impersonate-User=ada,Impersonate-Group=system:masters", `403 `},
		{"none", "", `200 bob/3 "" [system:authenticated]`},
		{"", "Impersonate-User=ada", `401 `},
	} {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil)
		r.Header.Set("Authorization", "Bearer "+c.token)
		for h := range strings.SplitSeq(c.headers, ",") {
			if name, value, given := strings.Cut(h, "="); given {
				r.Header.Add(name, value)
			}
		}
		w := httptest.NewRecorder()
		served.ServeHTTP(w, r)
		if got := fmt.Sprint(w.Code, " ", w.Body.String()); got != c.want && !(w.Code >= 400 && strings.HasPrefix(got, c.want)) {
			t.Errorf("%q with %q: got %s, want %s", c.token, c.headers, got, c.want)
		}
		if w.Code == 403 && !strings.Contains(w.Body.String(), `cannot impersonate resource \"users\" in API group \"\" at the cluster scope`) {
			t.Errorf("%q with %q: refused with %s", c.token, c.headers, w.Body)
		}
	}
}
