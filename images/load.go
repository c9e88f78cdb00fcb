package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// LoadOptions are the details of one load.
type LoadOptions struct {
	// Name is given to an image that the archive does not name. With more than
	// one such image it is an error.
	Name string
	// Progress is called from another goroutine, a few times a second; may be nil.
	Progress func(Progress)
}

// Load reads images from an OCI layout (a directory), or from a file: an OCI
// archive or a docker archive (docker save), plain or compressed with gzip or
// zstd. It returns the familiar names that now mean the loaded images, and the
// id of an image without name. A name that meant another image is moved.
func (s *Store) Load(ctx context.Context, file string, opts LoadOptions) ([]string, error) {
	names, err := s.load(ctx, filepath.Base(file), opts, func() (*bundle, error) { return s.openBundle(ctx, file) })
	if err != nil {
		return nil, fmt.Errorf("cannot load %s: %w", file, err)
	}
	return names, nil
}

// LoadStream is [Store.Load] of an archive that is read from r, such as standard
// input.
func (s *Store) LoadStream(ctx context.Context, r io.Reader, opts LoadOptions) ([]string, error) {
	names, err := s.load(ctx, "the archive", opts, func() (*bundle, error) { return s.spoolBundle(ctx, r) })
	if err != nil {
		return nil, fmt.Errorf("cannot load the archive: %w", err)
	}
	return names, nil
}

func (s *Store) load(ctx context.Context, label string, opts LoadOptions, open func() (*bundle, error)) ([]string, error) {
	b, err := open()
	if err != nil {
		return nil, err
	}
	defer b.close()
	images, err := b.images()
	if err != nil {
		return nil, err
	}
	if err := nameUnnamed(images, opts.Name); err != nil {
		return nil, err
	}
	var loaded []string
	for _, img := range images {
		m := &meter{}
		stop := m.watch(label, opts.Progress)
		kept, err := s.keep(ctx, source{img.manifest, img.open}, func(base entry) []entry {
			base.loaded = true
			if len(img.names) == 0 {
				return []entry{base}
			}
			var entries []entry
			for _, n := range img.names {
				base.name = n
				entries = append(entries, base)
			}
			return entries
		}, m)
		stop()
		if err != nil {
			if ctx.Err() != nil {
				return loaded, ctx.Err()
			}
			return loaded, err
		}
		for _, n := range img.names {
			loaded = append(loaded, familiar(n))
		}
		if len(img.names) == 0 {
			loaded = append(loaded, kept.ID)
		}
	}
	return loaded, nil
}

func nameUnnamed(images []bundledImage, name string) error {
	if name == "" {
		return nil
	}
	r, err := parseReference(name)
	if err != nil {
		return err
	}
	if r.digest != "" {
		return &InvalidNameError{Name: name, Err: errors.New("a loaded image can be given a tag, not a digest")}
	}
	unnamed := 0
	for i := range images {
		if len(images[i].names) == 0 {
			images[i].names = []string{r.String()}
			unnamed++
		}
	}
	if unnamed != 1 {
		return fmt.Errorf("the name %s can be given to exactly one image without name; it has %d", name, unnamed)
	}
	return nil
}

// watch reports a meter a few times a second until stop is called, and then once
// more.
func (m *meter) watch(label string, report func(Progress)) (stop func()) {
	if report == nil {
		return func() {}
	}
	return every(200*time.Millisecond, func() { report(m.read(label)) })
}

// every calls report at each interval until stop is called, and then once more.
func every(interval time.Duration, report func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	// Started here, ended by stop; owns nothing.
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				report()
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		report()
	}
}

// bundle is a set of files with images in it: a directory or an archive.
type bundle struct {
	open  func(name string) (content, error)
	close func()
}

// content is one file of a bundle.
type content struct {
	*io.SectionReader
	close func() error
}

func (c content) Close() error {
	if c.close == nil {
		return nil
	}
	return c.close()
}

// bundledImage is one image of a bundle.
type bundledImage struct {
	names    []string // complete names with tag
	tag      string   // the index says only this tag, not of what
	digest   string   // of what the index names: a manifest or an index of several platforms
	manifest document
	open     func(d v1.Descriptor) opener
}

func (s *Store) openBundle(ctx context.Context, file string) (*bundle, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if info.IsDir() {
		return openLayout(file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	magic := make([]byte, 6)
	n, _ := io.ReadFull(f, magic)
	if _, err := f.Seek(0, io.SeekStart); err != nil || !info.Mode().IsRegular() || isCompressed(magic[:n]) {
		defer f.Close()
		if err != nil || !info.Mode().IsRegular() {
			return s.spoolBundle(ctx, io.MultiReader(bytes.NewReader(magic[:n]), f))
		}
		return s.spoolBundle(ctx, f)
	}
	b, err := openArchive(f)
	if err != nil {
		f.Close()
	}
	return b, err
}

func isCompressed(magic []byte) bool {
	plain, err := decompress(bytes.NewReader(magic))
	if err != nil {
		return true
	}
	defer plain.Close()
	return bytes.HasPrefix(magic, []byte{0x1f, 0x8b}) || bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// spoolBundle writes a stream, decompressed, to a file without name.
func (s *Store) spoolBundle(ctx context.Context, r io.Reader) (*bundle, error) {
	f, err := os.CreateTemp(s.downloadDir(), "archive-*")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	plain, err := decompress(contextReader{ctx, r})
	if err == nil {
		_, err = io.Copy(f, plain)
		plain.Close()
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	var b *bundle
	if err == nil {
		b, err = openArchive(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

// contextReader ends when the context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// openLayout opens a directory. What is in it cannot lead out of it.
func openLayout(dir string) (*bundle, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &bundle{
		open: func(name string) (content, error) {
			f, err := root.Open(name)
			if err != nil {
				return content{}, err
			}
			info, err := f.Stat()
			if err == nil && !info.Mode().IsRegular() {
				err = fmt.Errorf("%s is no file", name)
			}
			if err != nil {
				f.Close()
				return content{}, err
			}
			return content{io.NewSectionReader(f, 0, info.Size()), f.Close}, nil
		},
		close: func() { root.Close() },
	}, nil
}

// maxMembers bounds the entries of an archive.
const maxMembers = 100_000

// openArchive notes where the files of a tar archive are. The bundle owns f.
func openArchive(f *os.File) (*bundle, error) {
	type member struct {
		offset, size int64
		link         string
	}
	members := map[string]member{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("it is no tar archive, or it is damaged: %w", err)
		}
		if len(members) >= maxMembers {
			return nil, fmt.Errorf("the archive has more than %d files", maxMembers)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if isSparse(h) {
				continue
			}
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			members[name] = member{offset: offset, size: h.Size}
		case tar.TypeSymlink: // docker save, for a layer that several images have
			members[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			members[name] = member{link: path.Clean(h.Linkname)}
		}
	}
	return &bundle{
		open: func(name string) (content, error) {
			name = path.Clean(name)
			for range 8 {
				m, ok := members[name]
				if !ok {
					break
				}
				if m.link == "" {
					return content{io.NewSectionReader(f, m.offset, m.size), nil}, nil
				}
				name = m.link
			}
			return content{}, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
		close: func() { f.Close() },
	}, nil
}

// document reads a small file of the bundle.
func (b *bundle) document(name string) ([]byte, error) {
	f, err := b.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() > maxDocument {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxDocument)
	}
	return io.ReadAll(f)
}

// file is the opener of a file of the bundle.
func (b *bundle) file(name string) opener {
	return func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
		f, err := b.open(name)
		if err != nil {
			return nil, 0, &permanentError{err}
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			f.Close()
			return nil, 0, &permanentError{err}
		}
		return struct {
			io.Reader
			io.Closer
		}{contextReader{ctx, f}, f}, offset, nil
	}
}

// images reads the bundle's index.
func (b *bundle) images() ([]bundledImage, error) {
	data, err := b.document("index.json")
	if err == nil {
		images, err := b.ociImages(data)
		if err != nil {
			return nil, err
		}
		return images, b.addDockerNames(images)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	data, err = b.document("manifest.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("it is no OCI layout, OCI archive or docker archive: it has neither index.json nor manifest.json")
	}
	if err != nil {
		return nil, err
	}
	return b.dockerImages(data)
}

func ociFile(digest v1.Hash) string { return path.Join("blobs", digest.Algorithm, digest.Hex) }

func (b *bundle) ociImages(data []byte) ([]bundledImage, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("cannot read index.json: %w", err)
	}
	if len(index.Manifests) == 0 {
		return nil, errors.New("there is no image in it")
	}
	want := platform()
	var images []bundledImage
	var others []string
	for _, d := range index.Manifests {
		if p := d.Platform; p != nil && (p.OS != want.OS || p.Architecture != want.Architecture) {
			others = append(others, p.String())
			continue
		}
		img, err := b.ociImage(d)
		if err != nil {
			return nil, err
		}
		// The same image under several names has one entry for each.
		same := slices.IndexFunc(images, func(other bundledImage) bool { return other.digest == img.digest })
		if same >= 0 && len(img.names) > 0 {
			images[same].names = append(images[same].names, img.names...)
			continue
		}
		images = append(images, img)
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("its images are not made for %s; they are made for: %s", want.String(), strings.Join(others, ", "))
	}
	return images, nil
}

func (b *bundle) ociImage(d v1.Descriptor) (bundledImage, error) {
	doc, err := b.ociDocument(d.Digest)
	if err != nil {
		return bundledImage{}, err
	}
	img := bundledImage{
		digest:   d.Digest.String(),
		manifest: doc,
		open:     func(d v1.Descriptor) opener { return b.file(ociFile(d.Digest)) },
	}
	for _, annotation := range []string{"io.containerd.image.name", nameAnnotation} {
		n := d.Annotations[annotation]
		if n == "" || len(img.names) > 0 {
			continue
		}
		if !strings.ContainsAny(n, "/:") {
			img.tag = n // "latest": of what, only the directory may know
			continue
		}
		r, err := parseReference(n)
		if err != nil {
			return img, err
		}
		if r.digest == "" {
			img.names = append(img.names, r.String())
		}
	}
	if doc.mediaType.IsIndex() {
		digest, err := doc.choose()
		if err != nil {
			return img, err
		}
		if img.manifest, err = b.ociDocument(digest); err != nil {
			return img, err
		}
	}
	return img, nil
}

func (b *bundle) ociDocument(digest v1.Hash) (document, error) {
	data, err := b.document(ociFile(digest))
	if err != nil {
		return document{}, fmt.Errorf("manifest %s: %w", digest, err)
	}
	if got := digestOf(data); got != digest {
		return document{}, fmt.Errorf("manifest %s has wrong content: its digest is %s", digest, got)
	}
	return newDocument(data, "")
}

// dockerManifest is one image in a docker archive's manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// addDockerNames takes the names of an archive that is of both kinds, as docker
// writes them: its index may say only the tag.
func (b *bundle) addDockerNames(images []bundledImage) error {
	data, err := b.document("manifest.json")
	if err != nil {
		return nil // of one kind only
	}
	var list []dockerManifest
	if json.Unmarshal(data, &list) != nil {
		return nil
	}
	for i := range images {
		if len(images[i].names) > 0 {
			continue
		}
		var manifest v1.Manifest
		if json.Unmarshal(images[i].manifest.data, &manifest) != nil {
			continue
		}
		for _, d := range list {
			if strings.TrimSuffix(path.Base(d.Config), ".json") == manifest.Config.Digest.Hex {
				if images[i].names, err = completeNames(d.RepoTags); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func completeNames(tags []string) ([]string, error) {
	var names []string
	for _, tag := range tags {
		r, err := parseReference(tag)
		if err != nil {
			return nil, err
		}
		if r.digest == "" {
			names = append(names, r.String())
		}
	}
	return names, nil
}

func (b *bundle) dockerImages(data []byte) ([]bundledImage, error) {
	var list []dockerManifest
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("cannot read manifest.json: %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New("there is no image in it")
	}
	var images []bundledImage
	for _, d := range list {
		img, err := b.dockerImage(d)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// dockerImage makes an OCI manifest of a docker archive's description. Layers
// stay as they are, compressed or not.
func (b *bundle) dockerImage(d dockerManifest) (bundledImage, error) {
	names, err := completeNames(d.RepoTags)
	if err != nil {
		return bundledImage{}, err
	}
	configData, err := b.document(d.Config)
	if err != nil {
		return bundledImage{}, fmt.Errorf("cannot read the image's configuration: %w", err)
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(configData, &config); err != nil {
		return bundledImage{}, fmt.Errorf("cannot read the image's configuration %s: %w", d.Config, err)
	}
	if len(config.RootFS.DiffIDs) != len(d.Layers) {
		return bundledImage{}, fmt.Errorf("manifest.json has %d layers, the image's configuration %d", len(d.Layers), len(config.RootFS.DiffIDs))
	}
	manifest := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: digestOf(configData), Size: int64(len(configData))},
		Layers: []v1.Descriptor{},
	}
	files := map[v1.Hash]string{manifest.Config.Digest: d.Config}
	for i, file := range d.Layers {
		layer, err := b.dockerLayer(file, config.RootFS.DiffIDs[i])
		if err != nil {
			return bundledImage{}, fmt.Errorf("cannot read layer %d of %d: %w", i+1, len(d.Layers), err)
		}
		files[layer.Digest] = file
		manifest.Layers = append(manifest.Layers, layer)
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return bundledImage{}, err
	}
	doc := document{data, digestOf(data), types.OCIManifestSchema1}
	return bundledImage{
		names: names, digest: doc.digest.String(), manifest: doc,
		open: func(d v1.Descriptor) opener { return b.file(files[d.Digest]) },
	}, nil
}

func (b *bundle) dockerLayer(file string, diffID v1.Hash) (v1.Descriptor, error) {
	f, err := b.open(file)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	magic := make([]byte, 6)
	n, _ := io.ReadFull(f, magic)
	if !isCompressed(magic[:n]) {
		return v1.Descriptor{MediaType: types.OCIUncompressedLayer, Digest: diffID, Size: f.Size()}, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return v1.Descriptor{}, err
	}
	digest, size, err := v1.SHA256(f)
	mediaType := types.OCILayer
	if bytes.HasPrefix(magic, []byte{0x28, 0xb5}) {
		mediaType = types.OCILayerZStd
	}
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}, err
}
