package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The rows are those of the kubelet's documentation and of its own tests.
func TestKubeletMatchImages(t *testing.T) {
	for _, test := range []struct {
		pattern, image string
		want           bool
	}{
		{"123456789.dkr.ecr.us-east-1.amazonaws.com", "123456789.dkr.ecr.us-east-1.amazonaws.com/a/b", true},
		{"*.azurecr.io", "team.azurecr.io/a", true},
		{"*.azurecr.io", "azurecr.io/a", false},
		{"*.*.registry.io", "a.b.registry.io/x", true},
		{"*.registry.io", "a.b.registry.io/x", false},
		{"app*.k8s.io", "app1.k8s.io/x", true},
		{"gcr.io", "gcr.io/a", true},
		{"registry.io:8080/path", "registry.io:8080/path/a", true},
		{"registry.io:8080/path", "registry.io:8080/other", false},
		{"registry.io:8080/path", "registry.io/path", false},
		{"registry.io", "registry.io:8080/path", false},
		{"registry.io/foo", "registry.io/foobar", true}, // the path is a prefix of text
		{"registry.io/*", "registry.io/foo", false},     // and no glob
		{"*", "docker.io/library/busybox", false},
		{"docker.io", "docker.io/library/busybox", true},
		{"127.0.0.1:5000", "127.0.0.1:5000/a", true},
		{"[bad", "x.io/a", false},
	} {
		if got := imageMatches(test.pattern, test.image); got != test.want {
			t.Errorf("%s for %s: %v, want %v", test.pattern, test.image, got, test.want)
		}
	}
	for _, test := range []struct {
		key, registry, image string
		want                 bool
	}{
		{"https://index.docker.io/v1/", "docker.io", "docker.io/library/busybox", true},
		{"https://index.docker.io/v1/", "r.io", "r.io/a", false},
		{"http://r.io/v2/", "r.io", "r.io/a", true},
		{"r.io/v1/team", "r.io", "r.io/team/a", true},
		{"*.r.io", "a.r.io", "a.r.io/a", true},
		{"r.io/team", "r.io", "r.io/other", false},
	} {
		if got := answerMatches(test.key, test.registry, test.image); got != test.want {
			t.Errorf("an answer's key %s for %s: %v, want %v", test.key, test.image, got, test.want)
		}
	}
}

// plugin writes a provider: a shell script that has the request in $request.
func plugin(t *testing.T, dir, name, script string) {
	t.Helper()
	script = "#!/bin/sh\nrequest=$(cat)\n" + script
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// providersOf loads a configuration of the given providers, in YAML.
func providersOf(t *testing.T, dir, list string) (*CredentialProviders, error) {
	t.Helper()
	file := filepath.Join(dir, "config.yaml")
	text := "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n" + list
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadCredentialProviders(file, dir)
}

// oneProvider is a provider in a configuration, for the images of one registry.
func oneProvider(name, match string) string {
	return fmt.Sprintf("- {name: %s, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [%q], defaultCacheDuration: 1h}\n", name, match)
}

// answering is a script that answers with one user and notes each request.
func answering(dir, name, cacheKeyType, match, user, password string) string {
	return fmt.Sprintf(`echo "$request" >> %s/%s.asked
cat <<END
{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":%q,
 "auth":{%q:{"username":%q,"password":%q}}}
END
`, dir, name, cacheKeyType, match, user, password)
}

func TestCredentialProviderConfigIsChecked(t *testing.T) {
	dir := t.TempDir()
	plugin(t, dir, "good", "")
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const good = "apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [r.io], defaultCacheDuration: 1h"
	for _, test := range []struct{ name, list, want string }{
		{"good", "- {name: good, " + good + ", args: [get], env: [{name: A, value: b}]}", ""},
		{"an older version", "- {name: good, apiVersion: credentialprovider.kubelet.k8s.io/v1alpha1, matchImages: [r.io], defaultCacheDuration: 0s}", ""},
		{"none", "  []", "providers: expected at least one"},
		{"no name", "- {" + good + "}", "providers[0].name: required"},
		{"a path", "- {name: ../good, " + good + "}", "providers[0].name: expected the name of a program"},
		{"twice", "- {name: good, " + good + "}\n- {name: good, " + good + "}", `providers[1].name: "good" is given twice`},
		{"not there", "- {name: absent, " + good + "}", "absent: no such file or directory"},
		{"not executable", "- {name: plain, " + good + "}", "plain cannot be executed: permission denied"},
		{"no images", "- {name: good, apiVersion: credentialprovider.kubelet.k8s.io/v1, defaultCacheDuration: 1h}", "providers[0].matchImages: expected at least one"},
		{"a port that is a glob", `- {name: good, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: ["r.io:*"], defaultCacheDuration: 1h}`, "providers[0].matchImages[0]: expected a host"},
		{"no duration", "- {name: good, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [r.io]}", "providers[0].defaultCacheDuration: required"},
		{"a duration below zero", "- {name: good, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [r.io], defaultCacheDuration: -1s}", "providers[0].defaultCacheDuration: expected a duration from 0s; found -1s"},
		{"a version of its own", "- {name: good, apiVersion: v1, matchImages: [r.io], defaultCacheDuration: 1s}", "providers[0].apiVersion: expected credentialprovider.kubelet.k8s.io/v1"},
		{"a token", "- {name: good, " + good + ", tokenAttributes: {requireServiceAccount: true}}", "providers[0].tokenAttributes: not supported here: there are no service accounts"},
		{"a typo", "- {name: good, " + good + ", arg: [x]}", `unknown field "arg"`},
	} {
		_, err := providersOf(t, dir, test.list)
		if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := LoadCredentialProviders(dir, filepath.Join(dir, "nowhere")); err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("without a directory of programs: %v", err)
	}
	many := t.TempDir()
	for name, kind := range map[string]string{"a.yaml": "CredentialProviderConfig", "b.json": "KubeletConfiguration", "c.txt": "x"} {
		text := "{apiVersion: kubelet.config.k8s.io/v1beta1, kind: " + kind + ", providers: [{name: good, " + good + "}]}"
		if err := os.WriteFile(filepath.Join(many, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadCredentialProviders(many, dir); err == nil || !strings.Contains(err.Error(), `b.json: expected kind CredentialProviderConfig`) || strings.Contains(err.Error(), "c.txt") {
		t.Errorf("a directory: %v", err)
	}
}

func TestKubeletCredentialProviderCache(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hour, none := &metav1.Duration{Duration: time.Hour}, &metav1.Duration{}
	for _, test := range []struct {
		name     string
		key      string
		duration *metav1.Duration
		image    string
		after    time.Duration
		held     bool
	}{
		{"the same image", "Image", hour, "r.io/a", time.Minute, true},
		{"another image", "Image", hour, "r.io/b", time.Minute, false},
		{"another image of the registry", "Registry", hour, "r.io/b", time.Minute, true},
		{"another registry", "Registry", hour, "s.io/a", time.Minute, false},
		{"everything", "Global", hour, "s.io/a", time.Minute, true},
		{"too old", "Global", hour, "r.io/a", time.Hour, false},
		{"as long as configured", "Image", nil, "r.io/a", 2*time.Hour - 1, true},
		{"longer than configured", "Image", nil, "r.io/a", 2 * time.Hour, false},
		{"not at all", "Image", none, "r.io/a", 0, false},
	} {
		p := &credentialProvider{answers: map[string]cachedAnswer{}}
		p.DefaultCacheDuration = &metav1.Duration{Duration: 2 * time.Hour}
		if _, err := p.keep("r.io/a", providerResponse{CacheKeyType: test.key, CacheDuration: test.duration}, start); err != nil {
			t.Fatal(err)
		}
		if _, held := p.held(test.image, start.Add(test.after)); held != test.held {
			t.Errorf("%s: held is %v", test.name, held)
		}
	}
	p := &credentialProvider{}
	if _, err := p.keep("r.io/a", providerResponse{CacheKeyType: "Node"}, start); err == nil || !strings.Contains(err.Error(), `did not return a valid cacheKeyType: "Node"`) {
		t.Errorf("an unknown cacheKeyType: %v", err)
	}
}

func TestCredentialProviderIsAskedAsByAKubelet(t *testing.T) {
	dir := t.TempDir()
	plugin(t, dir, "echo", `echo "$request $1 $A $HOME" > `+dir+`/seen
[ "$A" = b ] || exit 1
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","cacheKeyType":"Image","cacheDuration":"0s","auth":{"r.io":{"username":"wide","password":"1"},"r.io/team":{"username":"narrow","password":"2"},"other.io":{"username":"no","password":"3"}}}'
`)
	t.Setenv("HOME", "/home/agent")
	t.Setenv("A", "of the agent")
	ps, err := providersOf(t, dir, "- {name: echo, apiVersion: credentialprovider.kubelet.k8s.io/v1beta1, matchImages: [r.io], defaultCacheDuration: 1h, args: [get], env: [{name: A, value: b}]}")
	if err != nil {
		t.Fatal(err)
	}
	found, failed := ps.credentials(t.Context(), "r.io", "team/app")
	if len(failed) > 0 {
		t.Fatal(failed)
	}
	if len(found) != 2 || found[0].auth.Username != "narrow" || found[1].auth.Username != "wide" || found[0].from != "credential provider echo" {
		t.Errorf("found are %+v", found)
	}
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	want := `{"apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","kind":"CredentialProviderRequest","image":"r.io/team/app"} get b /home/agent` + "\n"
	if err != nil || string(seen) != want {
		t.Errorf("the plugin saw %q (%v), want %q", seen, err, want)
	}
	if found, failed := ps.credentials(t.Context(), "s.io", "team/app"); len(found)+len(failed) > 0 {
		t.Errorf("an image that is not the provider's: %v %v", found, failed)
	}
}

func TestFailuresOfCredentialProviders(t *testing.T) {
	dir := t.TempDir()
	const head = `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1"`
	for _, test := range []struct{ name, script, want string }{
		{"exits", "echo no token >&2; exit 3", "error execing credential provider plugin exits for image r.io/a: exit status 3"},
		{"silent", "", "error decoding credential provider plugin response from stdout"},
		{"chatty", "echo 'hello, hunter2'", "error decoding credential provider plugin response from stdout"},
		{"old", `echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1alpha1"}'`, "did not match expected apiVersion:credentialprovider.kubelet.k8s.io/v1, actual apiVersion:credentialprovider.kubelet.k8s.io/v1alpha1"},
		{"kindless", `echo '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1"}'`, `answered with kind ""`},
		{"keyless", "echo '" + head + "}'", `did not return a valid cacheKeyType: ""`},
	} {
		plugin(t, dir, test.name, test.script)
		ps, err := providersOf(t, dir, oneProvider(test.name, "r.io"))
		if err != nil {
			t.Fatal(err)
		}
		_, failed := ps.credentials(t.Context(), "r.io", "a")
		if len(failed) != 1 || !strings.Contains(failed[0].Error(), test.want) || strings.Contains(failed[0].Error(), "no token") || strings.Contains(failed[0].Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", test.name, failed, test.want)
		}
		var f *failedProvider
		if test.name == "exits" && (!errors.As(failed[0], &f) || f.stderr != "no token") {
			t.Errorf("the log is not told what the plugin wrote: %+v", f)
		}
	}
}

// A provider that hangs is killed with its children, one of which holds its output.
func TestHungCredentialProviderIsKilled(t *testing.T) {
	dir := t.TempDir()
	plugin(t, dir, "hung", "sleep 1000 & echo $! > "+dir+"/child; wait")
	ps, err := providersOf(t, dir, oneProvider("hung", "r.io"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if data, err := os.ReadFile(filepath.Join(dir, "child")); err == nil && len(data) > 0 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := ps.providers[0].ask(ctx, "r.io/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a hung provider: %v", err)
	}
	child, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	for gone := false; !gone; {
		status, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(child)), "status"))
		gone = err != nil || strings.Contains(string(status), "State:\tZ")
		if t.Context().Err() != nil {
			t.Fatal("the provider's child still runs")
		}
	}
}

func TestPullWithCredentialProviders(t *testing.T) {
	f := plainRegistry(t)
	for _, name := range []string{"app", "other"} {
		push(t, f.host+"/team/"+name+":1", stacked(t, 1))
	}
	var mu sync.Mutex
	var tried []string // guarded by mu; users in the order they came, repetitions left out
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		user, password, given := r.BasicAuth()
		mu.Lock()
		defer mu.Unlock()
		if given && (len(tried) == 0 || tried[len(tried)-1] != user) {
			tried = append(tried, user)
		}
		if user == "provided" && password == "right" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	dir := t.TempDir()
	plugin(t, dir, "broken", "exit 1")
	plugin(t, dir, "wrong", answering(dir, "wrong", "Image", f.host, "provided", "wrong"))
	plugin(t, dir, "right", answering(dir, "right", "Registry", f.host, "provided", "right"))
	file := filepath.Join(dir, "docker.json")
	if err := os.WriteFile(file, dockerConfigFor(f.host, "node", "x"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(list string) *Store {
		ps, err := providersOf(t, dir, list)
		if err != nil {
			t.Fatal(err)
		}
		return testStore(t, func(c *Config) { c.AuthFiles, c.Providers = []string{file}, ps })
	}
	secret := PullOptions{DockerConfigs: [][]byte{dockerConfigFor(f.host, "secret", "x")}}
	match := f.host + "/team"
	s := open(oneProvider("broken", match) + oneProvider("wrong", match))
	_, err := s.Pull(t.Context(), f.host+"/team/app:1", secret)
	for _, want := range []string{"denies access", "credential provider wrong", "credential provider broken gave no answer: error execing credential provider plugin broken for image " + f.host + "/team/app: exit status 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a pull that no provider helps: %v, want %q", err, want)
		}
	}
	tried = nil
	s = open(oneProvider("wrong", match) + oneProvider("right", match))
	for _, name := range []string{"app", "other", "app"} {
		if _, err := s.Pull(t.Context(), f.host+"/team/"+name+":1", secret); err != nil {
			t.Fatalf("pull of %s: %v", name, err)
		}
	}
	if got := strings.Join(tried[:3], " "); got != "secret node provided" {
		t.Errorf("tried are %s; want pull secrets, the node's files, providers", got)
	}
	for name, want := range map[string]int{"wrong": 3, "right": 1} { // "wrong" also for the pull before
		asked, err := os.ReadFile(filepath.Join(dir, name+".asked"))
		if got := strings.Count(string(asked), "\n"); got != want || err != nil {
			t.Errorf("provider %s was asked %d times (%v), want %d", name, got, err, want)
		}
	}
}
