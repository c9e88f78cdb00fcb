package images

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// The test binary is the unpacking process too, as the real
// program is, and a process that tests kill.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "unpack-layer" {
		UnpackMain()
	}
	if len(os.Args) > 1 && os.Args[1] == "crash-work" {
		if err := crashWork(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testStore opens a store in a directory of its own.
func testStore(t *testing.T, change ...func(*Config)) *Store {
	t.Helper()
	kerneltest.Root(t)
	return reopen(t, t.TempDir(), change...)
}

func reopen(t *testing.T, root string, change ...func(*Config)) *Store {
	t.Helper()
	config := Config{Root: root, AuthFiles: []string{}, CertDirs: []string{}, Logger: testr.New(t)}
	fastExit(t, &config)
	for _, f := range change {
		f(&config)
	}
	s, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newRegistry serves an empty registry on loopback and returns its host:port.
func newRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// push puts an image into a registry on loopback and returns its digest.
func push(t *testing.T, ref string, img v1.Image) v1.Hash {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// imageID is the digest of an image's configuration.
func imageID(t *testing.T, img v1.Image) string {
	t.Helper()
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// rootfs mounts an image and returns a path below which its files are seen while
// the test runs.
func rootfs(t *testing.T, s *Store, img *Image, dir string, readOnly bool) string {
	t.Helper()
	mount, err := s.Rootfs(t.Context(), img, dir, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	return attach(t, mount)
}

func attach(t *testing.T, mount *os.File) string {
	t.Helper()
	defer mount.Close()
	at := t.TempDir()
	if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
