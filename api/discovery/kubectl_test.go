package discovery

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/internal/kubectltest"
)

// What kubectl asks before it does anything, and kubectl explain.
func TestKubectlFindsAndExplainsWhatIsServed(t *testing.T) {
	server := httptest.NewServer(served)
	defer server.Close()
	kubectltest.Each(t, func(t *testing.T, k kubectltest.Kubectl) {
		k.Args = []string{"-s", server.URL}
		run := func(args ...string) string {
			t.Helper()
			out, err := k.Run(t, args...)
			if err != nil {
				t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
			}
			return out
		}
		if out := run("version"); !strings.Contains(out, "Server Version: v1.37.2+podd") {
			t.Errorf("version:\n%s", out)
		}
		var versions []string
		for gv := range byGroupVersion(Served) {
			versions = append(versions, gv.String())
		}
		slices.Sort(versions)
		if got := strings.Fields(run("api-versions")); !slices.Equal(got, versions) {
			t.Errorf("api-versions: got %q, want %q", got, versions)
		}
		explained := map[schema.GroupVersion]bool{} // one kind of each document; what the documents have is another test's
		resources := strings.Split(strings.TrimSpace(run("api-resources", "-o", "wide", "--no-headers")), "\n")
		for _, r := range Served {
			want := strings.Join(slices.DeleteFunc([]string{
				r.Plural, strings.Join(r.ShortNames, ","), r.GroupVersion().String(), map[bool]string{true: "true", false: "false"}[r.Namespaced], r.Kind,
				strings.Join(r.Verbs, ","), strings.Join(r.Categories, ","),
			}, func(s string) bool { return s == "" }), " ")
			if !slices.ContainsFunc(resources, func(line string) bool { return strings.Join(strings.Fields(line), " ") == want }) {
				t.Errorf("api-resources lacks: %s", want)
			}
			if explained[r.GroupVersion()] {
				continue
			}
			explained[r.GroupVersion()] = true
			if out := run("explain", r.Plural, "--recursive", "--api-version="+r.GroupVersion().String()); !strings.Contains(out, "KIND:       "+r.Kind+"\n") || !strings.Contains(out, "  metadata\t<ObjectMeta>") {
				t.Errorf("explain %s:\n%s", r.Plural, out)
			}
		}
		if out := run("explain", "po.spec.containers.livenessProbe.httpGet.port"); !strings.Contains(out, "Name or number of the port to access on the container") {
			t.Errorf("explain of a field:\n%s", out)
		}
	})
}

// kubectl takes version 2 where there is no version 3, as older ones always do.
// Where its server does not validate fields, kubectl does so with the definitions.
func TestKubectlValidatesAndExplainsWithOpenAPIv2(t *testing.T) {
	asked := make(chan string, 10) // whom a creation asks to validate
	server := func(document func([]byte) []byte) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasPrefix(r.URL.Path, "/openapi/v3"):
				http.NotFound(w, r)
			case r.URL.Path == "/openapi/v2":
				answer := httptest.NewRecorder()
				r.Header.Del("Accept-Encoding")
				served.ServeHTTP(answer, r)
				w.Write(document(answer.Body.Bytes()))
			case r.Method == http.MethodPost: // there are no pods here
				asked <- r.URL.Query().Get("fieldValidation")
				http.NotFound(w, r)
			default:
				served.ServeHTTP(w, r)
			}
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	validates := server(func(document []byte) []byte { return document })
	doesNot := server(func(document []byte) []byte {
		return bytes.ReplaceAll(document, []byte("fieldValidation"), []byte("fieldVaporation"))
	})
	manifest := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(manifest, []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, imag: b}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectltest.Each(t, func(t *testing.T, k kubectltest.Kubectl) {
		k.Args = []string{"-s", validates}
		if out, err := k.Run(t, "explain", "po.spec.containers.image", "--output=plaintext-openapiv2"); err != nil || !strings.Contains(out, "FIELD:    image <string>") {
			t.Errorf("explain: %v\n%s", err, out)
		}
		if out, err := k.Run(t, "get", "--raw", "/openapi/v2"); err != nil || !json.Valid([]byte(out)) {
			t.Errorf("get --raw: %v\n%.200s", err, out)
		}
		out, _ := k.Run(t, "create", "-f", manifest, "--validate=strict")
		select {
		case how := <-asked:
			if how != "Strict" {
				t.Errorf("fieldValidation=%s", how)
			}
		default:
			t.Errorf("the server was not asked to validate:\n%s", out)
		}
		k.Args, k.Home = []string{"-s", doesNot}, t.TempDir()
		if out, err := k.Run(t, "create", "-f", manifest, "--validate=strict"); err == nil || !strings.Contains(out, `unknown field "imag" in io.k8s.api.core.v1.Container`) {
			t.Errorf("validation by kubectl: %v\n%s", err, out)
		}
		if len(asked) != 0 {
			t.Error("what kubectl refuses was sent nevertheless")
		}
	})
}
