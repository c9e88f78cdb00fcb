package images

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"podd/internal/atomicfile"
)

// The annotations of an entry in index.json. The first is everybody's, the
// others are ours.
const (
	nameAnnotation       = "org.opencontainers.image.ref.name" // complete name with tag
	configAnnotation     = "podd.image-id"                     // see idOf
	repoDigestAnnotation = "podd.repo-digest"                  // complete name@digest it was pulled as
	loadedAnnotation     = "podd.loaded"                       // "true": it came from an archive
	addedAnnotation      = "podd.added"                        // RFC 3339
)

// entry is one line of index.json. Several entries may be one image.
type entry struct {
	manifest   v1.Descriptor // without annotations
	id         string
	name       string // complete name with tag, or empty
	repoDigest string // complete name@digest, or empty
	loaded     bool
	added      time.Time
}

// state is what index.json and layers.json say. It is never changed, only
// replaced.
type state struct {
	index, layers fileIdentity
	entries       []entry
	images        map[string]*Image      // by id; LastUsed is left to the reader
	unpacked      map[string]layerRecord // by chain id
	nextLayer     int
}

// fileIdentity tells one version of an atomically replaced file from another.
type fileIdentity struct {
	inode uint64
	size  int64
	mtime time.Time
}

func identify(path string) fileIdentity {
	info, err := os.Stat(path)
	if err != nil {
		return fileIdentity{}
	}
	return fileIdentity{info.Sys().(*syscall.Stat_t).Ino, info.Size(), info.ModTime()}
}

func (s *Store) indexFile() string { return filepath.Join(s.layout, "index.json") }
func (s *Store) usedDir() string   { return filepath.Join(s.layout, "used") }
func (s *Store) usedFile(id string) string {
	return filepath.Join(s.usedDir(), strings.TrimPrefix(id, "sha256:"))
}

// lock keeps other processes, and other goroutines, from changing the index. It
// is held for milliseconds.
func (s *Store) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.config.Root, "images.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the image store: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock the image store: %w", err)
	}
	return func() { f.Close() }, nil
}

// state returns the present state, read anew if another process changed it.
func (s *Store) state() (state, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	index, layers := identify(s.indexFile()), identify(s.layersFile())
	if s.cached.images != nil && s.cached.index == index && s.cached.layers == layers {
		return s.cached, nil
	}
	// Between the look at the files and their reading they may be replaced; the
	// next call then sees a different identity and reads again.
	st := state{index: index, layers: layers}
	if err := s.readLayers(&st); err != nil {
		return state{}, err
	}
	if err := s.readIndex(&st); err != nil {
		return state{}, err
	}
	s.cached = st
	return st, nil
}

func (s *Store) readIndex(st *state) error {
	st.images = map[string]*Image{}
	data, err := os.ReadFile(s.indexFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the image index: %w", err)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("cannot read the image index %s: %w", s.indexFile(), err)
	}
	for _, d := range index.Manifests {
		e := entry{
			id:         d.Annotations[configAnnotation],
			name:       d.Annotations[nameAnnotation],
			repoDigest: d.Annotations[repoDigestAnnotation],
			loaded:     d.Annotations[loadedAnnotation] == "true",
		}
		e.added, _ = time.Parse(time.RFC3339Nano, d.Annotations[addedAnnotation])
		d.Annotations = nil
		e.manifest = d
		img := st.images[e.id]
		if img == nil {
			if img, err = s.readImage(d); err != nil || img.ID != e.id {
				// What is damaged counts as absent: it is pulled again.
				s.log.Info("image is damaged and counts as absent", "image", cmp.Or(e.name, e.repoDigest, e.id), "error", fmt.Sprint(err))
				continue
			}
			st.images[e.id] = img
		}
		img.addEntry(e)
		st.entries = append(st.entries, e)
	}
	for _, img := range st.images {
		img.Names = sortedSet(img.Names)
		img.RepoDigests = sortedSet(img.RepoDigests)
	}
	return nil
}

// rescueIndex sets an unreadable index aside and makes a new one of the complete
// images among the blobs. They have lost their names, but keep their layers, on
// which containers may run. The caller holds the lock.
func (s *Store) rescueIndex() error {
	data, err := os.ReadFile(s.indexFile())
	if err != nil || json.Unmarshal(data, new(v1.IndexManifest)) == nil {
		return nil
	}
	aside := s.indexFile() + ".unreadable"
	if err := os.Rename(s.indexFile(), aside); err != nil {
		return err
	}
	files, err := os.ReadDir(s.blobDir())
	if err != nil {
		return err
	}
	var entries []entry
	for _, file := range files {
		digest := v1.Hash{Algorithm: "sha256", Hex: file.Name()}
		info, err := file.Info()
		if err != nil || info.Size() > maxDocument {
			continue
		}
		manifest, _, err := s.readManifest(digest)
		if err != nil || len(manifest.Layers) == 0 {
			continue
		}
		if _, err := s.readConfig(manifest.Config.Digest); err != nil && artifactType(manifest) == "" {
			continue
		}
		entries = append(entries, entry{
			manifest: v1.Descriptor{MediaType: manifest.MediaType, Digest: digest, Size: info.Size()},
			id:       idOf(manifest, digest),
			added:    info.ModTime(),
		})
	}
	s.log.Info("the image index was unreadable and is set aside; images have lost their names", "file", aside, "images", len(entries))
	return s.writeIndex(entries)
}

func (img *Image) addEntry(e entry) {
	if e.name != "" {
		img.Names = append(img.Names, familiar(e.name))
		img.Loaded = img.Loaded || e.loaded
	}
	if e.repoDigest != "" {
		img.RepoDigests = append(img.RepoDigests, familiar(e.repoDigest))
	}
	if img.Added.IsZero() || e.added.Before(img.Added) {
		img.Added = e.added
	}
}

func sortedSet(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

// readImage makes an Image of a manifest in the store.
func (s *Store) readImage(d v1.Descriptor) (*Image, error) {
	manifest, _, err := s.readManifest(d.Digest)
	if err != nil {
		return nil, err
	}
	img := &Image{
		ID:       idOf(manifest, d.Digest),
		Manifest: d.Digest.String(),
		Size:     d.Size + manifest.Config.Size,
		Artifact: artifactType(manifest),
	}
	if img.Artifact == "" {
		if img.Config, err = s.readConfig(manifest.Config.Digest); err != nil {
			return nil, err
		}
		img.Layers = chainIDs(img.Config.RootFS.DiffIDs)
	} else {
		parts, err := artifactParts(manifest)
		if err != nil {
			return nil, err
		}
		img.Config, img.Layers = &v1.ConfigFile{}, chainIDs(diffIDs(parts))
	}
	for _, layer := range manifest.Layers {
		img.Size += layer.Size
	}
	return img, nil
}

// idOf is the digest of an image's configuration; many artifacts have the same
// empty one, so theirs is the manifest's.
func idOf(m *v1.Manifest, digest v1.Hash) string {
	if artifactType(m) != "" {
		return digest.String()
	}
	return m.Config.Digest.String()
}

func (s *Store) readManifest(digest v1.Hash) (*v1.Manifest, []byte, error) {
	data, err := s.readBlob(digest)
	if err != nil {
		return nil, nil, err
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, nil, fmt.Errorf("cannot read manifest %s: %w", digest, err)
	}
	return &manifest, data, nil
}

func (s *Store) readConfig(digest v1.Hash) (*v1.ConfigFile, error) {
	data, err := s.readBlob(digest)
	if err != nil {
		return nil, err
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("cannot read image configuration %s: %w", digest, err)
	}
	return &config, nil
}

// writeIndex replaces index.json. The caller holds the lock.
func (s *Store) writeIndex(entries []entry) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	for _, e := range entries {
		d := e.manifest
		d.Annotations = map[string]string{configAnnotation: e.id, addedAnnotation: e.added.UTC().Format(time.RFC3339Nano)}
		if e.name != "" {
			d.Annotations[nameAnnotation] = e.name
		}
		if e.repoDigest != "" {
			d.Annotations[repoDigestAnnotation] = e.repoDigest
		}
		if e.loaded {
			d.Annotations[loadedAnnotation] = "true"
		}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(s.indexFile(), append(data, '\n'), 0o644)
}

func (s *Store) writeLayoutFile() error {
	path := filepath.Join(s.layout, "oci-layout")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return atomicfile.Write(path, []byte(`{"imageLayoutVersion":"1.0.0"}`+"\n"), 0o644)
}

// withEntries returns entries with the given ones added. A name belongs to one
// image only: an older entry of the same name loses it, and goes if its image
// has another entry. An entry that says the same is replaced, keeping its time.
func withEntries(entries []entry, added ...entry) []entry {
	entries = slices.Clone(entries)
	for _, a := range added {
		kept := entries[:0]
		for _, e := range entries {
			if e.id == a.id && e.name == a.name && (a.name != "" || e.repoDigest == a.repoDigest) {
				if e.added.Before(a.added) {
					a.added = e.added
				}
				continue
			}
			if a.name != "" && e.name == a.name {
				e.name = ""
			}
			kept = append(kept, e)
		}
		entries = append(kept, a)
	}
	// An entry without name only keeps its image known, also by its digest.
	var needed []entry
	for i, e := range entries {
		redundant := e.name == "" && slices.ContainsFunc(append(entries[i+1:len(entries):len(entries)], needed...), func(other entry) bool {
			return other.id == e.id && (e.repoDigest == "" || e.repoDigest == other.repoDigest)
		})
		if !redundant {
			needed = append(needed, e)
		}
	}
	return needed
}

// Find returns the image with this name, name@digest or id (sha256:<64 hex>, or
// its hex digits, at least 12 of them). It returns [ErrNotFound] or
// *[InvalidNameError].
func (s *Store) Find(ref string) (*Image, error) {
	st, err := s.state()
	if err != nil {
		return nil, err
	}
	img := st.findID(ref)
	if img == nil {
		r, err := parseReference(ref)
		if err != nil {
			return nil, err
		}
		if img = st.find(r); img == nil {
			return nil, fmt.Errorf("%w: %s", ErrNotFound, ref)
		}
	}
	return s.withTimes(img), nil
}

func (st *state) find(r reference) *Image {
	full := r.String()
	for _, e := range st.entries {
		switch {
		case r.digest == "" && e.name == full, r.digest != "" && e.repoDigest == full:
			return st.images[e.id]
		case r.digest != "" && e.manifest.Digest.String() == r.digest && strings.HasPrefix(e.name, r.name()+":"):
			return st.images[e.id]
		}
	}
	return nil
}

func (st *state) findID(ref string) *Image {
	if img := st.images[ref]; img != nil {
		return img
	}
	if len(ref) < 12 || strings.Trim(ref, "0123456789abcdef") != "" {
		return nil
	}
	var found *Image
	for id, img := range st.images {
		if strings.HasPrefix(id, "sha256:"+ref) {
			if found != nil {
				return nil
			}
			found = img
		}
	}
	return found
}

// withTimes returns a copy of img with LastUsed filled in.
func (s *Store) withTimes(img *Image) *Image {
	c := *img
	c.LastUsed = c.Added
	if info, err := os.Stat(s.usedFile(c.ID)); err == nil && info.ModTime().After(c.Added) {
		c.LastUsed = info.ModTime()
	}
	return &c
}

// touch notes that an image is used now. It is not synced: after a power cut an
// image may look longer unused than it is, and nothing worse.
func (s *Store) touch(id string, now time.Time) {
	path := s.usedFile(id)
	if err := os.Chtimes(path, now, now); errors.Is(err, fs.ErrNotExist) {
		if f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			f.Close()
			os.Chtimes(path, now, now)
		}
	}
}

// List returns all images, the last used first.
func (s *Store) List() ([]Image, error) {
	st, err := s.state()
	if err != nil {
		return nil, err
	}
	list := make([]Image, 0, len(st.images))
	for _, id := range slices.Sorted(maps.Keys(st.images)) {
		list = append(list, *s.withTimes(st.images[id]))
	}
	slices.SortStableFunc(list, func(a, b Image) int { return b.LastUsed.Compare(a.LastUsed) })
	return list, nil
}
