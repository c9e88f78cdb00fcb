package e2e

import (
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
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"podd/internal/testimage"
)

// makeImages writes the archives that scripts find in $IMAGES.
func makeImages(t *testing.T) (dir string) {
	dir = t.TempDir()
	data := func(content string) v1.Image {
		return testimage.Busybox(t, testimage.Files(testimage.Dir("www/sub", 0o755), testimage.File("www/sub/index.html", 0o644, content+"\n")))
	}
	for file, archive := range map[string]string{
		"busybox.tar": testimage.Archive(t, testimage.Busybox(t), "docker.io/library/busybox:1.36"),
		"late.tar":    testimage.Archive(t, testimage.Busybox(t, testimage.Label("late", "yes")), "docker.io/library/late:1.0"),
		"data1.tar":   testimage.Archive(t, data("one"), "docker.io/library/data:1.0"),
		"data2.tar":   testimage.Archive(t, data("two"), "docker.io/library/data:1.0"),
		"app.tar": testimage.Archive(t, testimage.Busybox(t,
			testimage.Entrypoint("/bin/sh", "-c"), testimage.Cmd("echo image command in $PWD as $(id -u) with $FROM_IMAGE; sleep 1000"),
			testimage.Env("FROM_IMAGE=image", "OVERRIDDEN=image"), testimage.WorkingDir("/home"), testimage.User("app"),
		), "docker.io/library/app:1.0"),
	} {
		if err := os.Rename(archive, filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// listen listens in the network of the world's host until the script ends.
func (w *world) listen(addr string) (l net.Listener, err error) {
	inErr := w.inHost(func() error {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if inErr == nil {
		w.ends = append(w.ends, func() { l.Close() })
	}
	return l, inErr
}

const registryAddr = "127.0.0.1:5000"

// cmdRegistry is "registry [USER PASSWORD]": a registry on port 5000 of the
// host's loopback that holds team/app:1.0 and an artifact of two files,
// team/files:1.0. With a password, it asks for it.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 && len(args) != 2 {
		ts.Fatalf("usage: registry [USER PASSWORD]")
	}
	w := worldOf(ts)
	l, err := w.listen(registryAddr)
	ts.Check(err)
	open := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	img, err := tarball.ImageFromPath(filepath.Join(ts.Getenv("IMAGES"), "app.tar"), nil)
	ts.Check(err)
	ref, err := name.ParseReference(registryAddr + "/team/app:1.0")
	ts.Check(err)
	var mu sync.Mutex
	asked := false // guarded by mu; whether passwords are asked for
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		need := asked
		mu.Unlock()
		if user, password, _ := r.BasicAuth(); need && (user != args[0] || password != args[1]) {
			rw.Header().Set("WWW-Authenticate", `Basic realm="team"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(rw, r)
	})}
	go server.Serve(l) // ends when the listener is closed
	ts.Check(remote.Write(ref, img, remote.WithTransport(w.transport())))
	files := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.example.files")
	for _, name := range []string{"motd", "conf/app.conf"} {
		files, err = mutate.Append(files, mutate.Addendum{
			Layer:       static.NewLayer([]byte("this is "+name+"\n"), "text/plain"),
			Annotations: map[string]string{"org.opencontainers.image.title": name},
		})
		ts.Check(err)
	}
	ts.Check(remote.Write(ref.Context().Registry.Repo("team/files").Tag("1.0"), files, remote.WithTransport(w.transport())))
	mu.Lock()
	asked = len(args) == 2
	mu.Unlock()
}

// target is what probes with a host of their own are sent to.
type target struct {
	mu     sync.Mutex
	up     bool     // guarded by mu
	seen   []string // guarded by mu
	health *health.Server
}

// ServeHTTP answers probes, and shows them at /seen.
func (t *target) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.URL.Path == "/seen" {
		fmt.Fprintln(rw, strings.Join(t.seen, "\n"))
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	t.seen = append(t.seen, fmt.Sprintf("%s %s %s X-Probe=%s %s", scheme, r.Host, r.URL, r.Header.Get("X-Probe"), r.UserAgent()))
	if !t.up {
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (t *target) set(up bool) {
	t.mu.Lock()
	t.up = up
	t.mu.Unlock()
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if up {
		status = healthpb.HealthCheckResponse_SERVING
	}
	t.health.SetServingStatus("shop", status)
}

// cmdServer is "server up" or "server down": servers on the host that answer
// probes well or badly, HTTP on port 8081, HTTPS on 8443, gRPC health on 8082
// for the service shop, and TCP on 8083, which is refused when down.
func cmdServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: server up | server down")
	}
	w := worldOf(ts)
	if w.target == nil {
		w.target = &target{health: health.NewServer()}
		plain, err := w.listen(":8081")
		ts.Check(err)
		secret, err := w.listen(":8443")
		ts.Check(err)
		calls, err := w.listen(":8082")
		ts.Check(err)
		s := httptest.NewUnstartedServer(w.target)
		s.Listener.Close()
		s.Listener = secret
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		grpcServer := grpc.NewServer()
		healthpb.RegisterHealthServer(grpcServer, w.target.health)
		go (&http.Server{Handler: w.target}).Serve(plain) // these end with their listeners
		go grpcServer.Serve(calls)
		w.ends = append(w.ends, s.Close, grpcServer.Stop)
	}
	w.target.set(args[0] == "up")
	if w.tcp != nil {
		w.tcp.Close()
		w.tcp = nil
	}
	if args[0] != "up" {
		return
	}
	var err error
	w.tcp, err = w.listen(":8083")
	ts.Check(err)
	go func(l net.Listener) { // ends with its listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}(w.tcp)
}
