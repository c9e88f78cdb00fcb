package dist

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files lists what lies below a directory, as absolute paths of an installation.
func files(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func makeTarget(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "make", append([]string{"--no-print-directory", "-C", ".."}, args...)...)
	c.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS") })
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("make %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestUninstallLeavesNothingButData(t *testing.T) {
	root := t.TempDir()
	data := []string{"/etc/podd/manifests/web.yaml", "/usr/local/bin/other", "/usr/local/share/man/man1/poddle.1", "/var/lib/podd/pods/x/record.json"}
	for _, path := range data {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	makeTarget(t, "install", "DESTDIR="+root)
	installed := files(t, root)
	for _, path := range []string{
		"/usr/local/bin/podd", "/usr/local/bin/podd-pause", "/usr/local/lib/systemd/system/podd.service",
		"/usr/local/lib/systemd/system/podd-pods.service", "/usr/local/share/man/man1/podd.1", "/usr/local/share/man/man1/podd-run.1",
		"/usr/local/share/bash-completion/completions/podd", "/usr/local/share/zsh/site-functions/_podd",
		"/usr/local/share/fish/vendor_completions.d/podd.fish",
	} {
		if !slices.Contains(installed, path) {
			t.Errorf("%s is not installed", path)
		}
	}
	text, err := os.ReadFile(filepath.Join(root, "usr/local/lib/systemd/system/podd.service"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\nExecStart=/usr/local/bin/podd run ") {
		t.Errorf("the installed unit does not start the installed program:\n%s", text)
	}
	said := makeTarget(t, "uninstall", "DESTDIR="+root)
	if left := files(t, root); !slices.Equal(left, data) {
		t.Errorf("left are %q; want %q", left, data)
	}
	for _, dir := range []string{"/etc/podd", "/var/lib/podd", "/var/log/pods", "/run/podd"} {
		if !strings.Contains(said, dir) {
			t.Errorf("uninstall does not say that %s stays:\n%s", dir, said)
		}
	}
}
