package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/time/rate"
)

// Config says where images are kept and how registries are reached.
type Config struct {
	// Root is the directory that holds images/ and layers/, such as
	// /var/lib/podd. It must not lie on overlayfs.
	Root string

	// AuthFiles are docker config.json files with credentials, the first match
	// wins. Files that do not exist are ignored. nil means
	// $DOCKER_CONFIG/config.json, Root/config.json and /root/.docker/config.json.
	AuthFiles []string

	// Providers are asked for credentials after pull secrets and AuthFiles; nil
	// means none.
	Providers *CredentialProviders

	// Mirrors are asked before the registry itself, in order.
	Mirrors []Mirror

	// CertDirs are directories in the manner of /etc/docker/certs.d: below each,
	// the directory <host>[:<port>] holds *.crt files of authorities to trust
	// for this registry, and NAME.cert with NAME.key as our certificate. nil
	// means /etc/podd/certs.d and /etc/docker/certs.d.
	CertDirs []string

	// MaxParallelPulls is the number of images that are pulled at the same time;
	// 0 means 4.
	MaxParallelPulls int

	// QPS and Burst limit how many pulls begin per second; a pull above the limit
	// fails with "pull QPS exceeded". QPS 0 means no limit.
	QPS   float64
	Burst int

	// MaxLayerBytes and MaxLayerFiles bound one unpacked layer; a layer above is
	// refused. 0 means 64 GiB and 4,000,000 files.
	MaxLayerBytes int64
	MaxLayerFiles int64

	// UnpackCommand starts a process that calls [UnpackMain]. nil means the
	// current program with the argument "unpack-layer".
	UnpackCommand []string

	Logger logr.Logger
}

// Mirror is another place for the images of a registry, or of a part of it.
type Mirror struct {
	// Prefix selects images: a registry ("docker.io", "registry.example:5000") or
	// a registry and the beginning of a repository ("docker.io/library"). "*"
	// selects every image.
	Prefix string

	// URL is a registry that serves what comes after Prefix, such as
	// https://mirror.example or http://10.0.0.1:5000/hub. For a Prefix of "*" that
	// is the repository without its registry. Plain http is used only if the URL
	// says so.
	URL string

	// Dir is, instead of a URL, a directory of this machine with OCI layouts and
	// archives, in any depth: images are found by the names in their indexes.
	Dir string

	// CAFile is a PEM file of authorities to trust for URL, beside the system's.
	CAFile string
}

// Image is one image of the store.
type Image struct {
	ID          string         // the config's digest, sha256:<64 hex>; an artifact's manifest's
	Manifest    string         // the digest of this platform's manifest
	Names       []string       // familiar names with tag (busybox:1.36), sorted; may be empty
	RepoDigests []string       // familiar name@digest for what was pulled, sorted; may be empty
	Size        int64          // bytes of manifest, config and compressed layers
	Config      *v1.ConfigFile // the image's configuration, an artifact's is empty; not to be changed
	Layers      []v1.Hash      // chain ids of the unpacked layers, lowest first
	Artifact    string         // an OCI artifact's type; empty: a container image
	Loaded      bool           // a name came from an archive: no registry can bring it back
	Added       time.Time      // when it first came
	LastUsed    time.Time      // the last Ensure or Rootfs; Added if none
}

// Progress tells how far a pull or load is. Bytes are compressed bytes.
type Progress struct {
	Image          string // as the caller named it
	Fetched        int64  // bytes of layers downloaded or copied
	FetchTotal     int64  // 0 until the manifest is known
	Unpacked       int64  // bytes of layers unpacked
	UnpackTotal    int64  // 0 until the manifest is known
	ResumedOrFound int64  // bytes of Fetched that were here already
}

// ErrNotFound is returned, wrapped, when an image is not in the store.
var ErrNotFound = errors.New("image not present")

// ErrInUse is returned, wrapped, by [Store.Remove] for an image that may not
// be removed without force.
var ErrInUse = errors.New("image is in use")

// InvalidNameError says that an image's name cannot be read.
type InvalidNameError struct {
	Name string // as it was given
	Err  error
}

func (e *InvalidNameError) Error() string {
	return fmt.Sprintf("cannot parse image name %q: %v", e.Name, e.Err)
}

func (e *InvalidNameError) Unwrap() error { return e.Err }

// Store is the images of one root directory. All methods may be called at the
// same time, and by several processes on one directory.
type Store struct {
	config  Config
	layout  string // images/
	layers  string // layers/
	log     logr.Logger
	limiter *rate.Limiter
	turns   chan struct{} // one element per pull under way

	mu     sync.Mutex
	pulls  map[string]*pull // by full name and credentials
	cached state            // the last read state of index.json and layers.json
	mirror mirrorCache
}

// Open opens the store of config.Root, creates what is missing and removes what
// processes that died left behind.
func Open(config Config) (*Store, error) {
	if config.Root == "" {
		return nil, errors.New("cannot open the image store: no root directory given")
	}
	root, err := filepath.Abs(config.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot open the image store: %w", err)
	}
	config.Root = root
	if config.AuthFiles == nil {
		config.AuthFiles = defaultAuthFiles(root)
	}
	if config.CertDirs == nil {
		config.CertDirs = []string{"/etc/podd/certs.d", "/etc/docker/certs.d"}
	}
	if config.MaxParallelPulls <= 0 {
		config.MaxParallelPulls = 4
	}
	if config.MaxLayerBytes <= 0 {
		config.MaxLayerBytes = 64 << 30
	}
	if config.MaxLayerFiles <= 0 {
		config.MaxLayerFiles = 4_000_000
	}
	if config.UnpackCommand == nil {
		config.UnpackCommand = []string{"/proc/self/exe", "unpack-layer"}
	}
	config.Mirrors = slices.Clone(config.Mirrors)
	for i := range config.Mirrors {
		if err := config.Mirrors[i].check(); err != nil {
			return nil, err
		}
	}
	s := &Store{
		config: config,
		layout: filepath.Join(root, "images"),
		layers: filepath.Join(root, "layers"),
		log:    config.Logger,
		turns:  make(chan struct{}, config.MaxParallelPulls),
		pulls:  map[string]*pull{},
	}
	if config.QPS > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(config.QPS), max(1, config.Burst))
	}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("cannot open the image store in %s: %w", root, err)
	}
	return s, nil
}

// prepare makes the store's directories and cleans up.
func (s *Store) prepare() error {
	// The layers hold setuid programs and device nodes of strangers: nobody but
	// root may reach them by path.
	for dir, mode := range map[string]os.FileMode{
		s.layout: 0o700, s.blobDir(): 0o755, s.usedDir(): 0o755, s.downloadDir(): 0o700,
		s.layers: 0o700, s.layerTmp(): 0o700,
	} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
	}
	if err := os.Chmod(s.layers, 0o700); err != nil {
		return err
	}
	if err := refuseOverlay(s.layers); err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.writeLayoutFile(); err != nil {
		return err
	}
	return s.clean()
}

// platform is the one whose images run here.
func platform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
}
