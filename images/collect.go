package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// GC says when unused images are removed.
// Source: kubelet, KubeletConfiguration imageGC* and imageMinimumGCAge.
type GC struct {
	HighPercent int           // collection begins at this use of the disk; 0 means 85
	LowPercent  int           // and ends below this one; 0 means 80
	MinAge      time.Duration // unused for less is kept; 0 means 2 minutes
	MaxAge      time.Duration // unused for longer is removed however empty the disk is; 0 means never
}

func (g GC) withDefaults() GC {
	if g.HighPercent == 0 {
		g.HighPercent = 85
	}
	if g.LowPercent == 0 {
		g.LowPercent = 80
	}
	if g.MinAge == 0 {
		g.MinAge = 2 * time.Minute
	}
	return g
}

// Collect removes images that nobody uses, the least recently used first, when
// the disk is too full or an image is too old.
//
// inUse says whether a container, also a dead one that is kept, or a volume has
// the image with this id; named, whether a present manifest names this familiar
// name (see [Familiar]), with tag or digest; usage asks how full the disk is. Never removed are
// images in use, those used less than MinAge before now, those that a present
// manifest names, and those loaded from an archive while they have a name:
// nothing would bring them back.
//
// It returns the bytes freed and the removed images' names. The error says that
// the disk stays too full; what could be removed was removed.
// Source: kubelet, pkg/kubelet/images/image_gc_manager.go.
func (s *Store) Collect(ctx context.Context, gc GC, now time.Time, inUse func(id string) bool, named func(ref string) bool, usage func() (percent int, err error)) (freed int64, removed []string, err error) {
	gc = gc.withDefaults()
	list, err := s.List()
	if err != nil {
		return 0, nil, err
	}
	candidates := collectable(list, gc, now, inUse, named)
	percent, err := usage()
	if err != nil {
		return 0, nil, fmt.Errorf("cannot ask how full the image disk is: %w", err)
	}
	full := percent >= gc.HighPercent
	for _, img := range candidates {
		if err := ctx.Err(); err != nil {
			return freed, removed, err
		}
		tooOld := gc.MaxAge > 0 && now.Sub(img.LastUsed) > gc.MaxAge
		if !tooOld && (!full || percent <= gc.LowPercent) {
			continue
		}
		n, err := s.removeImages(func(other *Image) bool {
			// It may have been used, by another process too, since the list was made.
			return other.ID == img.ID && !other.LastUsed.After(img.LastUsed) && !inUse(img.ID)
		})
		if err != nil {
			return freed, removed, fmt.Errorf("cannot remove image %s: %w", img.displayName(), err)
		}
		freed += n
		removed = append(removed, img.displayName())
		if percent, err = usage(); err != nil {
			return freed, removed, fmt.Errorf("cannot ask how full the image disk is: %w", err)
		}
	}
	if full && percent > gc.LowPercent {
		return freed, removed, fmt.Errorf("the image disk is %d %% full, above %d %%, and removing unused images freed only %d bytes", percent, gc.LowPercent, freed)
	}
	return freed, removed, nil
}

// collectable returns the images that may go, in the order in which they go.
func collectable(list []Image, gc GC, now time.Time, inUse, named func(string) bool) []Image {
	candidates := slices.Clone(list)
	candidates = slices.DeleteFunc(candidates, func(img Image) bool {
		return inUse(img.ID) || now.Sub(img.LastUsed) < gc.MinAge || img.Loaded && len(img.Names) > 0 ||
			slices.ContainsFunc(img.Names, named) || slices.ContainsFunc(img.RepoDigests, named)
	})
	slices.SortStableFunc(candidates, func(a, b Image) int { return a.LastUsed.Compare(b.LastUsed) })
	return candidates
}

// Remove removes a name (then the image, if it was its last one) or, given an id
// or a digest, the image with all its names. Without force an image with more
// than one name is not removed by its id, and inUse, which may be nil, can keep
// one from being removed: the error is [ErrInUse] then.
func (s *Store) Remove(ref string, force bool, inUse func(id string) bool) error {
	img, err := s.Find(ref)
	if err != nil {
		return err
	}
	r, parseErr := parseReference(ref)
	byName := parseErr == nil && r.digest == "" && slices.Contains(img.Names, r.familiar())
	if byName && len(img.Names) > 1 {
		return s.untag(r.String())
	}
	if !force && inUse != nil && inUse(img.ID) {
		return fmt.Errorf("cannot remove %s: %w by a container", ref, ErrInUse)
	}
	if !force && !byName && len(img.Names) > 1 {
		return fmt.Errorf("cannot remove %s: %w under the names %s", ref, ErrInUse, strings.Join(img.Names, ", "))
	}
	_, err = s.removeImages(func(other *Image) bool { return other.ID == img.ID })
	return err
}

// untag removes one name of an image that has others.
func (s *Store) untag(full string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	st, err := s.state()
	if err != nil {
		return err
	}
	return s.writeIndex(slices.DeleteFunc(slices.Clone(st.entries), func(e entry) bool { return e.name == full }))
}

// Prune removes the images that nobody uses, as inUse says by their ids: those
// without a name, or with all set every one, also loaded ones. What failed pulls
// left behind goes too. It returns the bytes freed and the removed images' names.
func (s *Store) Prune(all bool, inUse func(id string) bool) (freed int64, removed []string, err error) {
	freed, err = s.removeImages(func(img *Image) bool {
		if inUse(img.ID) || !all && len(img.Names) > 0 {
			return false
		}
		removed = append(removed, img.displayName())
		return true
	})
	if err != nil {
		return freed, nil, err
	}
	unlock, err := s.lock()
	if err != nil {
		return freed, removed, err
	}
	defer unlock()
	swept, err := s.sweep()
	return freed + swept, removed, err
}

// removeImages removes the images that chosen names, with the blobs and layers
// that no other image has, and returns the bytes freed. Index first, content
// last: what a crash leaves is rubbish, and never an image without its layers.
func (s *Store) removeImages(chosen func(*Image) bool) (int64, error) {
	unlock, err := s.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	st, err := s.state()
	if err != nil {
		return 0, err
	}
	gone := map[string]*Image{}
	for id, img := range st.images {
		if img = s.withTimes(img); chosen(img) {
			gone[id] = img
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	entries := slices.DeleteFunc(slices.Clone(st.entries), func(e entry) bool { return gone[e.id] != nil })
	candidates := s.blobsOf(slices.DeleteFunc(slices.Clone(st.entries), func(e entry) bool { return gone[e.id] == nil }))
	keep := s.blobsOf(entries)
	if err := s.writeIndex(entries); err != nil {
		return 0, err
	}
	var freed int64
	for hex := range candidates {
		if !keep[hex] {
			freed += removeFile(filepath.Join(s.blobDir(), hex))
		}
	}
	for id := range gone {
		os.Remove(s.usedFile(id))
	}
	layers, err := s.sweepLayers()
	return freed + layers, err
}

// blobsOf returns the hex digests of all blobs that entries refer to.
func (s *Store) blobsOf(entries []entry) map[string]bool {
	blobs := map[string]bool{}
	for _, e := range entries {
		blobs[e.manifest.Digest.Hex] = true
		manifest, _, err := s.readManifest(e.manifest.Digest)
		if err != nil {
			continue
		}
		blobs[manifest.Config.Digest.Hex] = true
		for _, layer := range manifest.Layers {
			blobs[layer.Digest.Hex] = true
		}
	}
	return blobs
}

func removeFile(path string) int64 {
	info, err := os.Lstat(path)
	if err != nil || os.Remove(path) != nil {
		return 0
	}
	return info.Size()
}

// sweepLayers removes the layers that no image has. The caller holds the lock.
func (s *Store) sweepLayers() (int64, error) {
	st, err := s.state()
	if err != nil {
		return 0, err
	}
	used := map[string]bool{}
	for _, img := range st.images {
		for _, chain := range img.Layers {
			used[chain.String()] = true
		}
	}
	known := map[string]layerRecord{}
	var gone []layerRecord
	for chain, l := range st.unpacked {
		if used[chain] {
			known[chain] = l
		} else {
			gone = append(gone, l)
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	if err := s.writeLayers(known, st.nextLayer); err != nil {
		return 0, err
	}
	var freed int64
	for _, l := range gone {
		if err := os.RemoveAll(s.layerDir(l.Number)); err != nil {
			return freed, err
		}
		freed += l.Bytes
	}
	return freed, nil
}

// orphanAge is how long a blob without image stays: it may belong to a pull
// under way, in another process too, or shorten the next attempt of one.
const orphanAge = 24 * time.Hour

// sweep removes blobs and layers that belong to no image. The caller holds the lock.
func (s *Store) sweep() (int64, error) {
	freed, err := s.sweepLayers()
	if err != nil {
		return freed, err
	}
	st, err := s.state()
	if err != nil {
		return freed, err
	}
	keep := s.blobsOf(st.entries)
	files, err := os.ReadDir(s.blobDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return freed, err
	}
	for _, file := range files {
		info, err := file.Info()
		if err == nil && !keep[file.Name()] && time.Since(info.ModTime()) > orphanAge {
			freed += removeFile(filepath.Join(s.blobDir(), file.Name()))
		}
	}
	return freed, s.cleanDownloads()
}
