package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func (m *Mirror) check() error {
	m.Prefix = strings.TrimSuffix(m.Prefix, "/")
	if m.Prefix == hubOldName || strings.HasPrefix(m.Prefix, hubOldName+"/") {
		m.Prefix = hub + strings.TrimPrefix(m.Prefix, hubOldName)
	}
	switch {
	case m.Prefix == "":
		return errors.New(`cannot use a registry mirror: no prefix given; "*" means all images`)
	case (m.URL == "") == (m.Dir == ""):
		return fmt.Errorf("cannot use the mirror for %s: expected either a URL or a directory", m.Prefix)
	case m.URL == "":
		return nil
	}
	u, err := url.Parse(m.URL)
	if err != nil {
		return fmt.Errorf("cannot use the mirror for %s: %w", m.Prefix, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("cannot use the mirror for %s: expected a URL such as https://mirror.example:5000/path, found %q", m.Prefix, m.URL)
	}
	return nil
}

func (m Mirror) label() string { return "mirror " + cmp.Or(m.URL, m.Dir) }

// covers says whether the mirror is for an image, and returns what follows the
// prefix in its name.
func (m Mirror) covers(r reference) (rest string, ok bool) {
	if m.Prefix == "*" {
		return r.repository, true
	}
	rest, ok = strings.CutPrefix(r.name(), m.Prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.TrimPrefix(rest, "/"), true
}

// endpoint is the mirror's registry, asked for what follows the prefix.
func (m Mirror) endpoint(rest string) *endpoint {
	u, err := url.Parse(m.URL)
	if err != nil {
		panic("mirror URL was checked when the store was opened: " + err.Error())
	}
	dir := strings.Trim(u.Path, "/")
	return &endpoint{
		label:      m.label(),
		host:       u.Host,
		repository: strings.Trim(dir+"/"+rest, "/"),
		plainHTTP:  u.Scheme == "http",
		caFile:     m.CAFile,
	}
}

// mirrorCache keeps the indexes of a directory mirror's archives, because
// reading a compressed one means to decompress all of it.
type mirrorCache struct {
	mu    sync.Mutex
	files map[string]mirrorFile
}

type mirrorFile struct {
	identity fileIdentity
	images   []mirrorImage
}

// mirrorImage is what the search needs of a bundledImage.
type mirrorImage struct {
	names  []string
	tag    string
	digest string
}

var archiveSuffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".oci"}

// pullFromDir gets an image from a directory of OCI layouts and archives. An
// image is found by its complete name in an index, by its digest, or, where an
// index has only a tag, by the layout's path: <dir>/[<registry>/]<repository>.
func (s *Store) pullFromDir(ctx context.Context, dir string, r reference, m *meter) (*Image, error) {
	var found *Image
	var unreadable []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case found != nil:
			return fs.SkipAll
		case d.IsDir() && !exists(filepath.Join(path, "oci-layout")):
			return nil
		case !d.IsDir() && !slices.ContainsFunc(archiveSuffixes, func(suffix string) bool { return strings.HasSuffix(path, suffix) }):
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		images, err := s.mirrorImages(ctx, path)
		if err != nil {
			unreadable = append(unreadable, fmt.Sprintf("%s: %v", rel, err))
		} else if i := slices.IndexFunc(images, func(img mirrorImage) bool { return img.is(r, rel) }); i >= 0 {
			if found, err = s.keepFromDir(ctx, path, i, r, m); err != nil {
				return fmt.Errorf("%s: %w", rel, err)
			}
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("mirror directory %s: %w", dir, err)
	}
	if found == nil {
		text := ""
		if len(unreadable) > 0 {
			text = "; not readable: " + strings.Join(unreadable, "; ")
		}
		return nil, fmt.Errorf("mirror directory %s has no image %s%s", dir, r.familiar(), text)
	}
	return found, nil
}

func (img mirrorImage) is(r reference, rel string) bool {
	if r.digest != "" {
		return img.digest == r.digest
	}
	return slices.Contains(img.names, r.String()) ||
		len(img.names) == 0 && img.tag == r.tag && (rel == r.name() || rel == r.repository)
}

func (s *Store) mirrorImages(ctx context.Context, path string) ([]mirrorImage, error) {
	index := path
	if exists(filepath.Join(path, "index.json")) {
		index = filepath.Join(path, "index.json")
	}
	identity := identify(index)
	s.mirror.mu.Lock()
	defer s.mirror.mu.Unlock()
	if file, ok := s.mirror.files[path]; ok && file.identity == identity {
		return file.images, nil
	}
	b, err := s.openBundle(ctx, path)
	if err != nil {
		return nil, err
	}
	defer b.close()
	images, err := b.images()
	if err != nil {
		return nil, err
	}
	list := make([]mirrorImage, len(images))
	for i, img := range images {
		list[i] = mirrorImage{img.names, img.tag, img.digest}
	}
	if s.mirror.files == nil {
		s.mirror.files = map[string]mirrorFile{}
	}
	s.mirror.files[path] = mirrorFile{identity, list}
	return list, nil
}

// keepFromDir brings image number i of a layout or archive into the store, as if
// it came from the registry: it can be had again.
func (s *Store) keepFromDir(ctx context.Context, path string, i int, r reference, m *meter) (*Image, error) {
	b, err := s.openBundle(ctx, path)
	if err != nil {
		return nil, err
	}
	defer b.close()
	images, err := b.images()
	if err != nil {
		return nil, err
	}
	if i >= len(images) {
		return nil, errors.New("it changed while it was read")
	}
	img := images[i]
	digest, err := v1.NewHash(img.digest)
	if err != nil {
		return nil, err
	}
	return s.keep(ctx, source{img.manifest, img.open}, func(base entry) []entry {
		base.repoDigest = r.at(digest.String()).String()
		if r.digest == "" {
			base.name = r.String()
		}
		return []entry{base}
	}, m)
}
