package images

import (
	"errors"
	"strings"
	"testing"
)

func TestNamesAreCompletedAndShortened(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for _, test := range []struct{ given, full, familiar string }{
		{"busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"},
		{"library/busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"team/app", "docker.io/team/app:latest", "team/app:latest"},
		{"a/b/c:v1", "docker.io/a/b/c:v1", "a/b/c:v1"},
		{"localhost/app", "localhost/app:latest", "localhost/app:latest"},
		{"localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"},
		{"[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"},
		{"registry.k8s.io/e2e/agnhost:2.53", "registry.k8s.io/e2e/agnhost:2.53", "registry.k8s.io/e2e/agnhost:2.53"},
		{"busybox@" + digest, "docker.io/library/busybox@" + digest, "busybox@" + digest},
		{"busybox:1.36@" + digest, "docker.io/library/busybox@" + digest, "busybox@" + digest},
		{"quay.io/x/y__z.a-b--c", "quay.io/x/y__z.a-b--c:latest", "quay.io/x/y__z.a-b--c:latest"},
	} {
		r, err := parseReference(test.given)
		if err != nil {
			t.Errorf("%s: %v", test.given, err)
			continue
		}
		if r.String() != test.full || r.familiar() != test.familiar {
			t.Errorf("%s is %s and %s, want %s and %s", test.given, r, r.familiar(), test.full, test.familiar)
		}
		if got, err := Familiar(test.full); err != nil || got != test.familiar {
			t.Errorf("%s is short %s (%v), want %s", test.full, got, err, test.familiar)
		}
	}
}

func TestBadNamesAreExplained(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "it is empty",
		" busybox":               "blanks",
		"busy box":               "blanks",
		"Busybox":                "lower case",
		"team/App:1":             "lower case",
		"https://example.com/a":  "no scheme",
		"a//b":                   "is empty",
		"busybox:":               "a tag is",
		"busybox:-x":             "a tag is",
		"busybox:a:b":            "with single",
		"busybox@sha256:12":      "64 lower-case hex digits",
		"busybox@md5:00":         "64 lower-case hex digits",
		"-a":                     "with single",
		"a..b":                   "with single",
		"exa_mple.com:5000/a":    "must be a host name",
		strings.Repeat("a", 300): "longer than 255",
		"../etc/passwd":          "must be a host name",
	} {
		_, err := parseReference(name)
		var invalid *InvalidNameError
		if !errors.As(err, &invalid) || invalid.Name != name || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", name, err, want)
		}
	}
}

func FuzzReference(f *testing.F) {
	for _, seed := range []string{"busybox", "a.b:5/c/d:e", "x@sha256:" + strings.Repeat("0", 64), "[::1]/a", "localhost/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseReference(s)
		if err != nil {
			return
		}
		for _, form := range []string{r.String(), r.familiar()} {
			again, err := parseReference(form)
			if err != nil || again != r {
				t.Errorf("%q is %+v, but its form %q is %+v (%v)", s, r, form, again, err)
			}
		}
	})
}
