package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/internal/kerneltest"
	"podd/pod"
)

func configMap(name, value string) pod.Source {
	return pod.Source{
		ConfigMap: &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"a": value}},
		Origin:    pod.Origin{File: "a.yaml", Line: 3},
	}
}

func secretSource(name string) pod.Source {
	return pod.Source{Secret: &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string][]byte{"a": []byte("hidden")},
	}}
}

// keep writes sets as Keep does, one after the other.
func keep(t *testing.T, s *Store, sets ...[]pod.Source) {
	t.Helper()
	sources, err := s.Sources()
	if err != nil {
		t.Fatal(err)
	}
	written := map[string][32]byte{}
	for _, set := range sets {
		if err := sources.write(set, written); err != nil {
			t.Fatal(err)
		}
	}
}

// keptSources are what a new agent finds, as text.
func keptSources(t *testing.T, s *Store) string {
	t.Helper()
	sources, err := s.Sources()
	if err != nil {
		t.Fatal(err)
	}
	all, err := sources.List()
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, source := range all {
		text := source.String()
		if source.ConfigMap != nil {
			text += " " + source.ConfigMap.Data["a"] + " of " + source.Origin.String()
		} else {
			text += " " + string(source.Secret.Data["a"])
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func TestConfigMapsInForceSurviveTheAgent(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	s := opened(t, root, run, "boot", nil)
	keep(t, s, []pod.Source{configMap("one", "1"), configMap("two", "2")}, []pod.Source{configMap("one", "3")})
	if got, want := keptSources(t, s), "ConfigMap default/one 3 of a.yaml:3"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var log []string
	s = opened(t, root, run, "boot", &log)
	file := filepath.Join(root, "sources", "default_one.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := keptSources(t, s); got != "" || len(log) != 1 || !strings.Contains(log[0], "default_one.json.bad-") {
		t.Errorf("a broken file is read as %q; log %q", got, log)
	}
	keep(t, s, nil)
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file of a ConfigMap that is gone: %v", err)
	}
}

func TestSecretsAreKeptInMemoryOnly(t *testing.T) {
	kerneltest.Root(t)
	root, run := t.TempDir(), t.TempDir()
	if err := unix.Mount("test", run, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(run, unix.MNT_DETACH) })
	s := opened(t, root, run, "boot", nil)
	set := []pod.Source{configMap("one", "1"), secretSource("login")}
	keep(t, s, set)
	if got, want := keptSources(t, s), "ConfigMap default/one 1 of a.yaml:3, Secret default/login hidden"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	info, err := os.Stat(filepath.Join(run, "sources", "default_login.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kept Secret: %v, %v; want mode 0600", info.Mode(), err)
	}
	keep(t, s, set[:1])
	if got := keptSources(t, s); strings.Contains(got, "Secret") {
		t.Errorf("a Secret that is gone is kept: %s", got)
	}

	// Where the run directory is on a disk, they are kept nowhere.
	sources, err := s.Sources()
	if err != nil {
		t.Fatal(err)
	}
	sources.secrets = false
	if err := sources.write(set, map[string][32]byte{}); err != nil {
		t.Fatal(err)
	}
	if got := keptSources(t, s); strings.Contains(got, "Secret") {
		t.Errorf("a Secret is kept on a disk: %s", got)
	}
	for dir, want := range map[string]bool{run: true, "/proc": false} {
		if memory, err := inMemory(dir); err != nil || memory != want {
			t.Errorf("%s is in memory: %v, %v", dir, memory, err)
		}
	}
}

func TestOnlyTheNewestSetIsWritten(t *testing.T) {
	s, err := opened(t, t.TempDir(), t.TempDir(), "boot", nil).Sources()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s.wanted = make(chan []pod.Source, 1) // of this bubble
		s.Set([]pod.Source{configMap("one", "1")})
		s.Set([]pod.Source{configMap("two", "2")})
		if got := (<-s.wanted)[0].String(); got != "ConfigMap default/two" {
			t.Errorf("to be written: %s", got)
		}
	})
}

// What a kept file says is told to nobody, a broken one's neither.
func TestKeptSourceIsReadStrictly(t *testing.T) {
	for text, want := range map[string]string{
		`{"version":1,"source":{"Secret":{"data":{"a":"topsecret!"}}}}`: "not an object that is kept",
		`topsecret`:                                           "not an object that is kept",
		`{"version":2,"source":{"Secret":{}}}`:                "version 2 is not known here; expected 1",
		`{"version":1,"source":{}}`:                           "expected one object in it",
		`{"version":1,"source":{"Secret":{},"ConfigMap":{}}}`: "expected one object in it",
	} {
		if _, err := parseSource([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
