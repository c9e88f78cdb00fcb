package discovery

import (
	"net/http/httptest"
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
