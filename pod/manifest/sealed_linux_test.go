package manifest

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"podd/internal/seal"
)

// sealedLogin is the Secret login with its password sealed.
func sealedLogin(t *testing.T, password string, to seal.Recipients) string {
	t.Helper()
	sealed, err := seal.Value([]byte(password), to)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: login, annotations: {podd/sealed: age}}\ndata:\n  password: %s\n",
		base64.StdEncoding.EncodeToString(sealed))
}

func identity(t *testing.T, path string) (*seal.Opener, seal.Recipients) {
	t.Helper()
	must(t, seal.NewIdentity(path))
	o := &seal.Opener{Path: path}
	to, _, err := o.Recipients()
	must(t, err)
	return o, to
}

func TestSealedSecretsAreOpened(t *testing.T) {
	keys := t.TempDir()
	_, stranger := identity(t, filepath.Join(keys, "stranger"))
	open := &seal.Opener{Path: filepath.Join(keys, "identity")}
	w := watch(t, newDir(t), func(c *Config) { c.Open = open.Open })
	w.rename("shop.yaml", shop)
	w.shows("")
	w.rename("login.yaml", sealedLogin(t, "first", stranger))
	w.reports("login.yaml:5:13: data.password: cannot be opened: there is no identity " + open.Path)
	// The identity comes, and what could not be opened is tried again.
	_, to := identity(t, open.Path)
	must(t, w.w.Rescan(t.Context()))
	w.reports("login.yaml:5:13: data.password: cannot be opened: it was sealed for another identity than " + open.Path)
	w.rename("login.yaml", sealedLogin(t, "second", to))
	w.shows(" p=second")
	w.isClean() // that others can read a sealed Secret's file is what it is for

	// The last good version holds.
	w.rename("login.yaml", sealedLogin(t, "third", stranger))
	r := w.reports("cannot be opened")
	if !strings.Contains(r.Summary(), "Secret default/login stays as loaded at") {
		t.Errorf("summary is %q", r.Summary())
	}
	w.shows(" p=second")
	w.rename("login.yaml", sealedLogin(t, "fourth", to))
	w.shows(" p=fourth")
}

func TestSealedSecretsAreCheckedWithoutAnIdentity(t *testing.T) {
	_, to := identity(t, filepath.Join(t.TempDir(), "identity"))
	r := Parse("login.yaml", []byte(sealedLogin(t, "hidden", to)))
	if len(r.Problems) > 0 || len(r.Sources) != 1 || !r.Unopened {
		t.Errorf("problems are %v, %d sources, unopened %v", r.Problems, len(r.Sources), r.Unopened)
	}
	// A type whose content is looked at cannot be, and needs not be.
	typed := strings.Replace(sealedLogin(t, "no JSON", to), "data:\n  password", "type: kubernetes.io/dockerconfigjson\ndata:\n  .dockerconfigjson", 1)
	if r := Parse("login.yaml", []byte(typed)); len(r.Problems) > 0 {
		t.Errorf("problems are %v", r.Problems)
	}
}

func TestWhatIsInASealedSecretIsChecked(t *testing.T) {
	open, to := identity(t, filepath.Join(t.TempDir(), "identity"))
	typed := strings.Replace(sealedLogin(t, "no JSON", to), "data:\n  password", "type: kubernetes.io/dockerconfigjson\ndata:\n  .dockerconfigjson", 1)
	r := Opener(open.Open).parse("login.yaml", []byte(typed))
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, "expected docker's configuration in JSON") {
		t.Errorf("problems are %v", r.Problems)
	}
	if r := Opener(open.Open).parse("login.yaml", []byte(sealedLogin(t, strings.Repeat("x", maxSourceBytes+1), to))); len(r.Problems) != 1 {
		t.Errorf("problems are %v, want one about its size", r.Problems)
	}
}

func TestSealedSecretsDoNotComeThroughTheAPI(t *testing.T) {
	_, to := identity(t, filepath.Join(t.TempDir(), "identity"))
	r := ParseObject("login.yaml", []byte(sealedLogin(t, "hidden", to)))
	if len(r.Sources) > 0 || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, "only Secrets in files of the manifest directory may be sealed") {
		t.Errorf("problems are %v, %d sources", r.Problems, len(r.Sources))
	}
}
