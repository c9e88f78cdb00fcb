package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCredentialsAreFoundByName(t *testing.T) {
	for _, test := range []struct {
		key, registry, repository string
		matches                   bool
	}{
		{"https://index.docker.io/v1/", "docker.io", "library/busybox", true},
		{"docker.io", "docker.io", "team/app", true},
		{"registry.example", "registry.example", "a", true},
		{"https://registry.example", "registry.example", "a", true},
		{"registry.example:5000", "registry.example", "a", false},
		{"registry.example/team", "registry.example", "team/app", true},
		{"registry.example/team", "registry.example", "team", true},
		{"registry.example/team", "registry.example", "teams/app", false},
		{"*.example", "registry.example", "a", true},
		{"*.example", "a.registry.example", "a", false},
		{"r*.example", "registry.example", "a", true},
		{"evil.example", "registry.example", "a", false},
	} {
		if _, got := keyMatches(test.key, test.registry, test.repository); got != test.matches {
			t.Errorf("%s for %s/%s: %v, want %v", test.key, test.registry, test.repository, got, test.matches)
		}
	}
}

func TestPullSecretsComeBeforeFilesAndLongMatchesFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, dockerConfigFor("r.example", "file", "x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Store{config: Config{AuthFiles: []string{file}}}
	secret := []byte(`{"auths":{"r.example":{"username":"wide","password":"x"},"r.example/team":{"username":"narrow","password":"x"},"r.example/other":{"username":"no","password":"x"}}}`)
	old := []byte(`{"r.example":{"auth":"b2xkOng="}}`)
	found, _, err := s.credentials(t.Context(), "r.example", "team/app", [][]byte{secret, old})
	if err != nil {
		t.Fatal(err)
	}
	var users []string
	for _, c := range found {
		users = append(users, c.auth.Username)
	}
	if got := strings.Join(users, " "); got != "narrow wide old file" {
		t.Errorf("tried are %s", got)
	}
	if found, _, err := s.credentials(t.Context(), "elsewhere.example", "a", nil); err != nil || len(found) != 1 || found[0].from != "" {
		t.Errorf("without a match: %v (%v), want one try without credentials", found, err)
	}
	if _, _, err := s.credentials(t.Context(), "r.example", "a", [][]byte{[]byte("{")}); err == nil || !strings.Contains(err.Error(), "cannot read a pull secret") {
		t.Errorf("a broken secret: %v", err)
	}
}

func TestCredentialHelperIsAsked(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\nread -r server\n[ \"$server\" = r.example ] || { echo 'credentials not found in native keychain'; exit 1; }\necho '{\"Username\":\"<token>\",\"Secret\":\"t\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(`{"credHelpers":{"r.example":"test"},"credsStore":"test"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Store{config: Config{AuthFiles: []string{file}}}
	found, _, err := s.credentials(t.Context(), "r.example", "a", nil)
	if err != nil || len(found) != 1 || found[0].auth.IdentityToken != "t" {
		t.Errorf("credentials are %+v (%v)", found, err)
	}
	if found, _, err = s.credentials(t.Context(), "other.example", "a", nil); err != nil || found[0].from != "" {
		t.Errorf("credentials that the helper does not have: %+v (%v)", found, err)
	}
}

func TestMirrorsAreChecked(t *testing.T) {
	for _, test := range []struct {
		mirror Mirror
		want   string
	}{
		{Mirror{Prefix: "docker.io", URL: "https://m.example/hub"}, ""},
		{Mirror{Prefix: "*", Dir: "/srv/images"}, ""},
		{Mirror{URL: "https://m.example"}, "no prefix given"},
		{Mirror{Prefix: "docker.io"}, "either a URL or a directory"},
		{Mirror{Prefix: "docker.io", URL: "https://m", Dir: "/x"}, "either a URL or a directory"},
		{Mirror{Prefix: "docker.io", URL: "m.example:5000"}, "m.example:5000"},
		{Mirror{Prefix: "docker.io", URL: "ftp://m.example"}, "expected a URL"},
	} {
		err := test.mirror.check()
		if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.mirror, err, test.want)
		}
	}
	for _, test := range []struct {
		prefix, name, rest string
		covers             bool
	}{
		{"docker.io", "busybox", "library/busybox", true},
		{"docker.io/library", "busybox", "busybox", true},
		{"docker.io/lib", "busybox", "", false},
		{"r.example", "r.example/a/b", "a/b", true},
		{"r.example", "r.example:5000/a", "", false},
		{"*", "r.example/a/b", "a/b", true},
	} {
		r, err := parseReference(test.name)
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := (Mirror{Prefix: test.prefix}).covers(r); rest != test.rest || ok != test.covers {
			t.Errorf("%s for %s: %q, %v", test.prefix, test.name, rest, ok)
		}
	}
}
