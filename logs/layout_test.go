package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLayoutIsTheKubelets(t *testing.T) {
	dir := Dir("/var/log/pods", "default", "web", "1234", "app")
	if got, want := File(dir, 2), "/var/log/pods/default_web_1234/app/2.log"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := LinkName("default", "web", "app", "0123abcd"), "web_default_app-0123abcd.log"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLinkNamesFitTheFileSystem(t *testing.T) {
	id := strings.Repeat("f", 64)
	for length := range 254 {
		name := LinkName("default", strings.Repeat("n", length), "app", id)
		if len(name) > 255 || !strings.HasSuffix(name, ".log") || !strings.HasPrefix(name, strings.Repeat("n", min(length, 251))) {
			t.Fatalf("pod name of %d bytes: %d bytes, %s", length, len(name), name)
		}
		if whole := len("_default_app-") + length + len(id) + len(".log"); len(name) != min(whole, 255) {
			t.Fatalf("pod name of %d bytes: %d bytes, want %d", length, len(name), min(whole, 255))
		}
	}
}

func TestLinks(t *testing.T) {
	links, pods := filepath.Join(t.TempDir(), "containers"), t.TempDir()
	target := File(filepath.Join(pods, "default_web_1/app"), 0)
	check := func(want string) {
		t.Helper()
		got := ""
		if entries, err := os.ReadDir(links); err == nil {
			for _, e := range entries {
				at, _ := os.Readlink(filepath.Join(links, e.Name()))
				got += fmt.Sprintln(e.Name(), strings.TrimPrefix(at, pods+"/"))
			}
		}
		if got != want {
			t.Errorf("got links\n%swant\n%s", got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(Link(links, "a.log", target))
	check("") // there is no log yet
	must(UnlinkDangling(links, pods))

	writeFile(t, target, "")
	must(Link(links, "a.log", target))
	must(Link(links, "a.log", target))
	check("a.log default_web_1/app/0.log\n")

	next := File(filepath.Join(pods, "default_web_1/app"), 1)
	writeFile(t, next, "")
	must(Link(links, "a.log", next))
	check("a.log default_web_1/app/1.log\n")

	must(Unlink(links, "a.log", target)) // points elsewhere by now
	check("a.log default_web_1/app/1.log\n")
	must(Unlink(links, "a.log", next))
	must(Unlink(links, "a.log", next))
	check("")

	must(Link(links, "b.log", target))
	must(Link(links, "c.log", next))
	must(os.Symlink("/somewhere/of/another/agent", filepath.Join(links, "d.log")))
	must(os.Remove(next))
	must(UnlinkDangling(links, pods))
	check("b.log default_web_1/app/0.log\nd.log /somewhere/of/another/agent\n")
}

func TestRemoveTakesOneAttempt(t *testing.T) {
	dir := t.TempDir()
	if err := Remove(dir+"/none", 0); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"10.log", "2.log", "2.log.20260101-000000.gz", "2.log.20260101-000001", "3.log.20260101-000000",
		"notes.txt", "02.log", "-1.log", "2.logs"} {
		writeFile(t, filepath.Join(dir, name), "")
	}
	if err := Remove(dir, 2); err != nil {
		t.Error(err)
	}
	if got, want := names(t, dir), "-1.log 02.log 10.log 2.logs 3.log.20260101-000000 notes.txt"; got != want {
		t.Errorf("left: %s, want %s", got, want)
	}
}
