package images

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"podd/internal/testimage"
)

// fakeRegistry is a registry on loopback with a handler in front of it, which
// returns true if it answered itself.
type fakeRegistry struct {
	host   string
	server *httptest.Server
	mu     sync.Mutex
	before func(w http.ResponseWriter, r *http.Request) bool
	log    []string // method and path of each request
}

func (f *fakeRegistry) intercept(before func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.log = before, nil
}

func (f *fakeRegistry) requests(part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, line := range f.log {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func startRegistry(t *testing.T, start func(http.Handler) *httptest.Server) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{}
	back := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	f.server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		before := f.before
		f.log = append(f.log, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"))
		f.mu.Unlock()
		if before == nil || !before(w, r) {
			back.ServeHTTP(w, r)
		}
	}))
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(f.server.Close)
	f.host = strings.TrimPrefix(strings.TrimPrefix(f.server.URL, "http://"), "https://")
	return f
}

func plainRegistry(t *testing.T) *fakeRegistry { return startRegistry(t, httptest.NewServer) }

func isBlob(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }

// noisy is an image with a layer that does not compress, of about n bytes.
func noisy(t *testing.T, n int) v1.Image {
	t.Helper()
	var b strings.Builder
	x := uint32(1)
	for range n {
		x = x*1664525 + 1013904223
		b.WriteByte(byte(x >> 24))
	}
	return testimage.Extend(t, stacked(t, 1), testimage.File("noise", 0, b.String()))
}

// topBlob is the path end of an image's last layer in a registry.
func topBlob(t *testing.T, img v1.Image) (string, int64) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layers[len(layers)-1].Size()
	if err != nil {
		t.Fatal(err)
	}
	return "/blobs/" + digest.String(), size
}

func TestPullTrustsTheGivenAuthorities(t *testing.T) {
	f := startRegistry(t, httptest.NewTLSServer)
	img := stacked(t, 1)
	ref, err := name.ParseReference(f.host + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(f.server.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	certs := t.TempDir()
	if err := os.Mkdir(filepath.Join(certs, f.host), 0o755); err != nil {
		t.Fatal(err)
	}
	s := testStore(t, func(c *Config) { c.CertDirs = []string{certs} })
	if _, err := s.Pull(t.Context(), f.host+"/app:1", PullOptions{}); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("pull from an unknown authority: %v", err)
	}
	_, err = s.Ensure(t.Context(), Request{Ref: f.host + "/app:1"}, time.Now())
	var failed *EnsureError
	if !errors.As(err, &failed) || failed.Reason != ReasonPull {
		t.Errorf("an unknown authority is %v, want ErrImagePull: the registry is there", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(certs, f.host, "ca.crt"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), f.host+"/app:1", PullOptions{}); err != nil {
		t.Errorf("pull with the authority in certs.d: %v", err)
	}
	caFile := filepath.Join(certs, f.host, "ca.crt")
	m := testStore(t, func(c *Config) {
		c.Mirrors = []Mirror{{Prefix: "example.invalid", URL: "https://" + f.host, CAFile: caFile}}
	})
	if _, err := m.Pull(t.Context(), "example.invalid/app:1", PullOptions{}); err != nil {
		t.Errorf("pull from a mirror with an authority of its own: %v", err)
	}
}

func TestPlainHTTPIsForLoopbackOnly(t *testing.T) {
	e := &endpoint{host: "10.1.2.3:5000"}
	if err := e.prepare(nil); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodGet, "http://10.1.2.3:5000/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.RoundTrip(req); err == nil || !strings.Contains(err.Error(), "plain http to 10.1.2.3:5000 is refused") {
		t.Errorf("plain http to a private address: %v", err)
	}
	for host, want := range map[string]bool{"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "10.0.0.1": false, "example.com": false, "localhost.example.com": false} {
		if got := e.mayUsePlain(host); got != want {
			t.Errorf("plain http to %s: %v, want %v", host, got, want)
		}
	}
}

func dockerConfigFor(host, user, password string) []byte {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth)
}

func TestPullWithBasicCredentials(t *testing.T) {
	f := plainRegistry(t)
	push(t, f.host+"/team/app:1", stacked(t, 2))
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		if user == "me" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
		return true
	})
	file := filepath.Join(t.TempDir(), "config.json")
	s := testStore(t, func(c *Config) { c.AuthFiles = []string{file + ".missing", file} })
	_, err := s.Pull(t.Context(), f.host+"/team/app:1", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "there are no credentials") {
		t.Errorf("pull without credentials: %v", err)
	}
	if err := os.WriteFile(file, dockerConfigFor(f.host, "me", "wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = s.Pull(t.Context(), f.host+"/team/app:1", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "denies access") || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("pull with wrong credentials: %v", err)
	}
	secret := dockerConfigFor("http://"+f.host+"/team", "me", "secret")
	if _, err := s.Pull(t.Context(), f.host+"/team/app:1", PullOptions{DockerConfigs: [][]byte{secret}}); err != nil {
		t.Errorf("pull with a pull secret: %v", err)
	}
	if err := os.WriteFile(file, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), f.host+"/team/app:1", PullOptions{}); err != nil {
		t.Errorf("pull with a file's credentials: %v", err)
	}
}

// tokenAuth makes a registry ask for bearer tokens, which it gives out itself.
func tokenAuth(f *fakeRegistry, allowed func(r *http.Request) bool) {
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if !allowed(r) {
				http.Error(w, "no", http.StatusUnauthorized)
				return true
			}
			json.NewEncoder(w).Encode(map[string]string{"token": "good", "access_token": "good"})
			return true
		}
		if r.Header.Get("Authorization") == "Bearer good" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, f.host))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

func TestPullWithTokens(t *testing.T) {
	f := plainRegistry(t)
	push(t, f.host+"/app:1", stacked(t, 1))
	tokenAuth(f, func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.RawQuery, "app%3Apull")
	})
	if _, err := testStore(t).Pull(t.Context(), f.host+"/app:1", PullOptions{}); err != nil {
		t.Errorf("pull with an anonymous token: %v", err)
	}
	tokenAuth(f, func(r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		return user == "me" && password == "secret"
	})
	s := testStore(t)
	if _, err := s.Pull(t.Context(), f.host+"/app:1", PullOptions{}); err == nil || !strings.Contains(err.Error(), "denies access") {
		t.Errorf("pull with a refused token: %v", err)
	}
	secret := dockerConfigFor(f.host, "me", "secret")
	if _, err := s.Pull(t.Context(), f.host+"/app:1", PullOptions{DockerConfigs: [][]byte{secret}}); err != nil {
		t.Errorf("pull with a token for a user: %v", err)
	}
	tokenAuth(f, func(r *http.Request) bool {
		return r.Method == http.MethodPost && r.FormValue("grant_type") == "refresh_token" && r.FormValue("refresh_token") == "identity"
	})
	identity := fmt.Appendf(nil, `{"auths":{%q:{"identitytoken":"identity"}}}`, f.host)
	if _, err := testStore(t).Pull(t.Context(), f.host+"/app:1", PullOptions{DockerConfigs: [][]byte{identity}}); err != nil {
		t.Errorf("pull with an identity token: %v", err)
	}
}

func TestPullFollowsRedirectsWithoutCredentials(t *testing.T) {
	f := plainRegistry(t)
	img := noisy(t, 10_000)
	push(t, f.host+"/app:1", img)
	var leaked atomic.Bool
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		resp, err := http.Get("http://" + f.host + "/direct" + r.URL.Path)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		io.Copy(w, resp.Body)
	}))
	defer storage.Close()
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/direct"); ok {
			r.URL.Path = rest
			return false
		}
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if isBlob(r) {
			http.Redirect(w, r, storage.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	if _, err := testStore(t).Pull(t.Context(), f.host+"/app:1", PullOptions{DockerConfigs: [][]byte{dockerConfigFor(f.host, "a", "b")}}); err != nil {
		t.Fatal(err)
	}
	if leaked.Load() {
		t.Error("the storage server saw the registry's credentials")
	}
}

func TestPullTriesAgainWhenTheRegistryIsBusy(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway} {
		f := plainRegistry(t)
		push(t, f.host+"/app:1", stacked(t, 1))
		var manifests, blobs atomic.Int32
		f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			busy := strings.Contains(r.URL.Path, "/manifests/") && manifests.Add(1) <= 2 || isBlob(r) && blobs.Add(1) == 1
			if busy {
				w.WriteHeader(status)
			}
			return busy
		})
		if _, err := testStore(t).Pull(t.Context(), f.host+"/app:1", PullOptions{}); err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestPullWaitsAsLongAsTheRegistryAsks(t *testing.T) {
	f := plainRegistry(t)
	push(t, f.host+"/app:1", stacked(t, 1))
	var first, second time.Time
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		if first.IsZero() {
			first = time.Now()
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		second = time.Now()
		return false
	})
	if _, err := testStore(t).Pull(t.Context(), f.host+"/app:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if waited := second.Sub(first); waited < 2*time.Second {
		t.Errorf("asked again after %v, the registry said 2 s", waited)
	}
}

func TestInterruptedBlobIsContinued(t *testing.T) {
	f := plainRegistry(t)
	img := noisy(t, 300_000)
	push(t, f.host+"/app:1", img)
	blob, size := topBlob(t, img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := layers[1].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	var ranges []string
	var sent atomic.Int64
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, blob) {
			return false
		}
		from := 0
		if asked := r.Header.Get("Range"); asked != "" {
			ranges = append(ranges, asked)
			fmt.Sscanf(asked, "bytes=%d-", &from)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
			w.Header().Set("Content-Length", fmt.Sprint(size-int64(from)))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		to := min(from+120_000, len(content)) // then the connection breaks
		n, _ := w.Write(content[from:to])
		sent.Add(int64(n))
		return true
	})
	var last Progress
	img2, err := testStore(t).Pull(t.Context(), f.host+"/app:1", PullOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if len(ranges) != 2 || ranges[0] != fmt.Sprintf("bytes=120000-%d", size-1) || ranges[1] != fmt.Sprintf("bytes=240000-%d", size-1) || sent.Load() != size {
		t.Errorf("asked for %v, %d bytes of %d were sent", ranges, sent.Load(), size)
	}
	if last.Fetched != last.FetchTotal || last.Unpacked != last.UnpackTotal || last.FetchTotal == 0 {
		t.Errorf("the last progress is %+v", last)
	}
	if img2.ID != imageID(t, img) {
		t.Errorf("pulled %s", img2.ID)
	}
}

func TestDownloadIsContinuedByTheNextProcess(t *testing.T) {
	f := plainRegistry(t)
	img := noisy(t, 400_000)
	push(t, f.host+"/app:1", img)
	blob, size := topBlob(t, img)
	root := t.TempDir()
	s := testStore(t, func(c *Config) { c.Root = root })
	reached := make(chan struct{})
	var once sync.Once
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, blob) {
			return false
		}
		layers, _ := img.Layers()
		stream, _ := layers[1].Compressed()
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.CopyN(w, stream, 200_000)
		w.(http.Flusher).Flush()
		once.Do(func() { close(reached) })
		<-r.Context().Done()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, f.host+"/app:1", PullOptions{})
		ended <- err
	}()
	<-reached
	part := filepath.Join(root, "images/downloads", strings.TrimPrefix(blob, "/blobs/sha256:"))
	waitFor(t, func() bool {
		info, err := os.Stat(part)
		return err == nil && info.Size() == 200_000
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled pull returns %v", err)
	}
	f.intercept(nil)
	s = reopen(t, root)
	waitFor(t, func() bool { // the cancelled pull lets go of the file
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.pulls) == 0
	})
	if _, err := s.Pull(t.Context(), f.host+"/app:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if f.requests("bytes=200000-") != 1 {
		t.Errorf("requests are %v, want one from byte 200000", f.log)
	}
}

func TestWrongContentIsRefused(t *testing.T) {
	f := plainRegistry(t)
	img := noisy(t, 10_000)
	digest := push(t, f.host+"/app:1", img)
	blob, size := topBlob(t, img)
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, blob) {
			w.Write(make([]byte, size))
			return true
		}
		return false
	})
	s := testStore(t)
	_, err := s.Pull(t.Context(), f.host+"/app:1", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "wrong content") {
		t.Errorf("a blob with another content: %v", err)
	}
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, blob) {
			w.Write(make([]byte, size+1))
			return true
		}
		return false
	})
	if _, err = s.Pull(t.Context(), f.host+"/app:1", PullOptions{}); err == nil || !strings.Contains(err.Error(), "more than the blob's") {
		t.Errorf("a blob that is too long: %v", err)
	}
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/sha256:") {
			w.Write([]byte(`{"schemaVersion":2}`))
			return true
		}
		return false
	})
	if _, err = s.Pull(t.Context(), f.host+"/app@"+digest.String(), PullOptions{}); err == nil || !strings.Contains(err.Error(), "wrong content") {
		t.Errorf("a manifest with another content: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("the store has %v (%v)", list, err)
	}
	f.intercept(nil)
	if _, err := s.Pull(t.Context(), f.host+"/app@"+digest.String(), PullOptions{}); err != nil {
		t.Errorf("after that, the right content: %v", err)
	}
}

func TestLayerThatIsNotWhatTheConfigurationSaysIsRefused(t *testing.T) {
	f := plainRegistry(t)
	img := stacked(t, 1)
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.RootFS.DiffIDs[0] = digestOf([]byte("other"))
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	push(t, f.host+"/app:1", img)
	if _, err := testStore(t).Pull(t.Context(), f.host+"/app:1", PullOptions{}); err == nil || !strings.Contains(err.Error(), "the image's configuration says "+config.RootFS.DiffIDs[0].String()) {
		t.Errorf("pull gives %v", err)
	}
}

func pushIndex(t *testing.T, ref string, images map[string]v1.Image) v1.Hash {
	t.Helper()
	var index v1.ImageIndex = empty.Index
	for arch, img := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r, index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func TestPullTakesThisMachinesPlatform(t *testing.T) {
	f := plainRegistry(t)
	mine := stacked(t, 2)
	digest := pushIndex(t, f.host+"/multi:1", map[string]v1.Image{"s390x": testimage.Extend(t, mine, testimage.File("other", 0, "")), platform().Architecture: mine})
	s := testStore(t)
	img, err := s.Pull(t.Context(), f.host+"/multi:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if img.ID != imageID(t, mine) || img.RepoDigests[0] != f.host+"/multi@"+digest.String() {
		t.Errorf("pulled %s %v, want this platform's, known by the index's digest", img.ID, img.RepoDigests)
	}
	if _, err := s.Find(f.host + "/multi@" + digest.String()); err != nil {
		t.Errorf("by the index's digest: %v", err)
	}
	pushIndex(t, f.host+"/foreign:1", map[string]v1.Image{"s390x": mine, "riscv64": stacked(t, 1)})
	_, err = s.Pull(t.Context(), f.host+"/foreign:1", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "not made for linux/"+platform().Architecture) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("an index without this platform: %v", err)
	}
	push(t, f.host+"/single:1", testimage.Busybox(t, testimage.Architecture("s390x")))
	_, err = s.Pull(t.Context(), f.host+"/single:1", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "made for linux/s390x, this machine is linux/"+platform().Architecture) {
		t.Errorf("an image of another platform: %v", err)
	}
}

func TestMirrorsAreAskedFirst(t *testing.T) {
	mirror, origin := plainRegistry(t), plainRegistry(t)
	img, newer := stacked(t, 1), stacked(t, 2)
	push(t, mirror.host+"/hub/library/busybox:1", img)
	push(t, origin.host+"/team/app:2", newer)
	s := testStore(t, func(c *Config) {
		c.Mirrors = []Mirror{
			{Prefix: "docker.io", URL: "http://" + mirror.host + "/hub"},
			{Prefix: origin.host + "/team", URL: "http://" + mirror.host},
		}
	})
	got, err := s.Pull(t.Context(), "busybox:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != imageID(t, img) || got.Names[0] != "busybox:1" || !strings.HasPrefix(got.RepoDigests[0], "busybox@sha256:") {
		t.Errorf("pulled %+v", got)
	}
	if got, err = s.Pull(t.Context(), origin.host+"/team/app:2", PullOptions{}); err != nil || got.ID != imageID(t, newer) {
		t.Errorf("what the mirror lacks: %v, %v", got, err)
	}
	if mirror.requests("GET /v2/app/manifests/2") == 0 {
		t.Errorf("the mirror was asked %v, want the name without the prefix", mirror.log)
	}
	mirror.server.Close()
	if _, err = s.Pull(t.Context(), origin.host+"/team/app:2", PullOptions{}); err != nil {
		t.Errorf("with the mirror down: %v", err)
	}
	_, err = s.Pull(t.Context(), origin.host+"/team/app:3", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "has no image "+origin.host+"/team/app:3") || !strings.Contains(err.Error(), "before that, mirror http://"+mirror.host) {
		t.Errorf("what neither has: %v", err)
	}
}

func TestDirectoryAsOfflineMirror(t *testing.T) {
	dir := t.TempDir()
	move := func(from, to string) {
		t.Helper()
		to = filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	one, two, three, four := stacked(t, 1), stacked(t, 2), stacked(t, 3), stacked(t, 4)
	move(testimage.Layout(t, one, "docker.io/library/one:1"), "layouts/one")
	move(testimage.Layout(t, two, "1.2"), "example.com/team/two")
	move(testimage.Archive(t, three, "example.com/three:1"), "three.tar")
	move(testimage.OCIArchive(t, four, "example.com/four:1"), "four.tar")
	data, err := os.ReadFile(filepath.Join(dir, "four.tar"))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "four.tar"))
	if err := os.WriteFile(filepath.Join(dir, "four.tar.gz"), gzipped(t, data), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README"), []byte("not an archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "broken.tar"), []byte("not a tar"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := testStore(t, func(c *Config) { c.Mirrors = []Mirror{{Prefix: "*", Dir: dir}} })
	digest, err := one.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for ref, img := range map[string]v1.Image{
		"one:1": one, "one@" + digest.String(): one, "example.com/team/two:1.2": two, "example.com/three:1": three, "example.com/four:1": four,
	} {
		got, err := s.Pull(t.Context(), ref, PullOptions{})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if got.ID != imageID(t, img) || got.Loaded || len(got.RepoDigests) == 0 {
			t.Errorf("%s: pulled %+v", ref, got)
		}
	}
	_, err = s.Pull(t.Context(), "127.0.0.1:1/missing:1", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "mirror directory "+dir+" has no image 127.0.0.1:1/missing:1") || !strings.Contains(err.Error(), "broken.tar") {
		t.Errorf("what it lacks: %v", err)
	}
}

func TestErrorsOfAPullAreUnderstood(t *testing.T) {
	f := plainRegistry(t)
	push(t, f.host+"/app:1", stacked(t, 1))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	s := testStore(t)
	for _, test := range []struct{ ref, reason, text string }{
		{f.host + "/app:missing", ReasonPull, "has no image " + f.host + "/app:missing"},
		{f.host + "/nothing:1", ReasonPull, "has no image"},
		{closed.Addr().String() + "/app:1", ReasonRegistryNotThere, "connection refused"},
		{"Bad Name", ReasonInvalidName, `Failed to apply default image tag "Bad Name"`},
	} {
		_, err := s.Ensure(t.Context(), Request{Ref: test.ref, Policy: "Always"}, time.Now())
		var failed *EnsureError
		if !errors.As(err, &failed) {
			t.Errorf("%s: %v is no EnsureError", test.ref, err)
			continue
		}
		if failed.Reason != test.reason || !strings.Contains(failed.Message, test.text) {
			t.Errorf("%s: reason %s, message %q; want %s and %q", test.ref, failed.Reason, failed.Message, test.reason, test.text)
		}
	}
}
