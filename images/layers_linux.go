package images

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"podd/internal/atomicfile"
)

// layerRecord is one unpacked layer in layers.json.
type layerRecord struct {
	Number int    `json:"number"` // its directory below layers/
	Chain  string `json:"chain"`  // its chain id
	DiffID string `json:"diffID"` // of its tar stream; see [part] for artifacts
	Bytes  int64  `json:"bytes"`  // of its files
	// Opaque: its root hides all layers below.
	Opaque bool `json:"opaque,omitempty"`
}

type layerIndex struct {
	Next   int           `json:"next"` // numbers are not used twice
	Layers []layerRecord `json:"layers"`
}

func (s *Store) layersFile() string { return filepath.Join(s.layers, "layers.json") }
func (s *Store) layerTmp() string   { return filepath.Join(s.layers, "tmp") }
func (s *Store) layerDir(number int) string {
	return filepath.Join(s.layers, strconv.Itoa(number))
}

// chainIDs returns the chain id of each layer: the digest of the layers below
// and its own.
// Source: OCI image specification, config.md, "Layer ChainID".
func chainIDs(diffIDs []v1.Hash) []v1.Hash {
	chain := make([]v1.Hash, len(diffIDs))
	for i, diff := range diffIDs {
		if i == 0 {
			chain[i] = diff
			continue
		}
		sum := sha256.Sum256([]byte(chain[i-1].String() + " " + diff.String()))
		chain[i] = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
	}
	return chain
}

func (s *Store) readLayers(st *state) error {
	st.unpacked, st.nextLayer = map[string]layerRecord{}, 1
	data, err := os.ReadFile(s.layersFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the list of layers: %w", err)
	}
	var index layerIndex
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("cannot read the list of layers %s: %w", s.layersFile(), err)
	}
	st.nextLayer = max(1, index.Next)
	for _, l := range index.Layers {
		st.unpacked[l.Chain] = l
		st.nextLayer = max(st.nextLayer, l.Number+1)
	}
	return nil
}

// writeLayers replaces layers.json. The caller holds the lock.
func (s *Store) writeLayers(layers map[string]layerRecord, next int) error {
	index := layerIndex{Next: next, Layers: []layerRecord{}}
	for _, l := range layers {
		index.Layers = append(index.Layers, l)
	}
	slices.SortFunc(index.Layers, func(a, b layerRecord) int { return a.Number - b.Number })
	data, err := json.MarshalIndent(index, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(s.layersFile(), append(data, '\n'), 0o600)
}

// workplace is a directory for layers under way. While its lock is held nobody
// removes it.
type workplace struct {
	dir  string
	lock *os.File
}

func (s *Store) newWorkplace() (*workplace, error) {
	unlock, err := s.lock() // or it may be cleaned up before its lock is taken
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.MkdirTemp(s.layerTmp(), "")
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &workplace{dir, lock}, nil
}

func (w *workplace) close() {
	os.RemoveAll(w.dir)
	w.lock.Close()
}

// newLayer is a layer that was unpacked but is not in layers.json yet.
type newLayer struct {
	chain  string
	diffID string
	dir    string // below the workplace
	result unpacked
}

// layerJob is one layer of an image to be made present.
type layerJob struct {
	part
	chain v1.Hash
	ready <-chan struct{} // closed when the blob is in the store
}

// unpackMissing unpacks, each as soon as its blob is there and as many at a time
// as there are processors, the layers that are not unpacked yet, and completes
// them from the lowest up. The layers returned are complete and synced.
func (s *Store) unpackMissing(ctx context.Context, w *workplace, jobs []layerJob, done func(n int64)) ([]newLayer, error) {
	st, err := s.state()
	if err != nil {
		return nil, err
	}
	fresh := make([]*newLayer, len(jobs))
	group, ctx := errgroup.WithContext(ctx)
	turns := make(chan struct{}, parallelUnpacks)
	for i, job := range jobs {
		if _, ok := st.unpacked[job.chain.String()]; ok {
			done(job.blob.Size)
			continue
		}
		layer := &newLayer{chain: job.chain.String(), diffID: job.diffID.String(), dir: filepath.Join(w.dir, strconv.Itoa(i))}
		fresh[i] = layer
		group.Go(func() error {
			select {
			case <-job.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case turns <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			defer func() { <-turns }()
			if err := s.unpackOne(ctx, w, layer, job.part, done); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if s.dropDamaged(job.blob.Digest) {
					return errVanished
				}
				return fmt.Errorf("cannot unpack layer %d of %d (%s): %w", i+1, len(jobs), job.blob.Digest, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var below []string // directories of the layers below, lowest first
	var list []newLayer
	for i, job := range jobs {
		if layer := fresh[i]; layer != nil {
			if err := completeLayer(layer.dir, layer.result.Marks, below); err != nil {
				return nil, fmt.Errorf("cannot complete layer %d of %d: %w", i+1, len(jobs), err)
			}
			below = append(below, layer.dir)
			list = append(list, *layer)
			continue
		}
		below = append(below, s.layerDir(st.unpacked[job.chain.String()].Number))
	}
	if len(list) > 0 {
		// One sync for all files of all layers; fsync of each would take minutes.
		if err := unix.Syncfs(int(w.lock.Fd())); err != nil {
			return nil, fmt.Errorf("cannot write the layers to disk: %w", err)
		}
	}
	return list, nil
}

func (s *Store) unpackOne(ctx context.Context, w *workplace, layer *newLayer, p part, done func(int64)) error {
	file, err := os.Open(s.blobFile(p.blob.Digest))
	if err != nil {
		return err
	}
	defer file.Close()
	if p.artifact { // or only the digest of what is unpacked would tell of damage
		if got, _, err := v1.SHA256(file); err != nil || got != p.blob.Digest {
			return cmp.Or(err, errors.New("its content is damaged"))
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	if err := os.Mkdir(layer.dir, 0o755); err != nil {
		return err
	}
	var reported atomic.Int64
	layer.result, err = s.unpackLayer(ctx, file, p.file, layer.dir, w.lock, func(offset int64) {
		offset = min(offset, p.blob.Size)
		done(offset - reported.Swap(offset))
	})
	if err != nil {
		return err
	}
	done(p.blob.Size - reported.Load())
	if !p.artifact && layer.result.DiffID != layer.diffID {
		return fmt.Errorf("its content has digest %s, the image's configuration says %s", layer.result.DiffID, layer.diffID)
	}
	return nil
}

// completeLayer does what the unpacker may not or cannot: it marks opaque
// directories, and gives a directory without entry of its own the looks it has
// in the layers below, which would otherwise be hidden by defaults.
func completeLayer(dir string, m marks, below []string) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	for _, name := range m.Opaque {
		err := onDirectory(root, name, func(fd int) error {
			return unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0)
		})
		if err != nil {
			return fmt.Errorf("cannot mark %s opaque: %w", quoted(name), err)
		}
	}
	if len(m.Implicit) == 0 || len(below) == 0 {
		return nil
	}
	lower := make([]int, 0, len(below))
	defer func() {
		for _, fd := range lower {
			unix.Close(fd)
		}
	}()
	for _, dir := range slices.Backward(below) {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		lower = append(lower, fd)
	}
	for _, name := range m.Implicit {
		err := onDirectory(root, name, func(fd int) error { return inheritLooks(fd, name, lower) })
		if err != nil {
			return fmt.Errorf("cannot complete directory %s: %w", quoted(name), err)
		}
	}
	return nil
}

// onDirectory opens a directory of a layer, with the layer as root. One that a
// later entry replaced is passed over.
func onDirectory(root int, name string, do func(fd int) error) error {
	fd, err := openInRoot(root, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	switch err {
	case nil:
		defer unix.Close(fd)
		return do(fd)
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil
	}
	return err
}

// inheritLooks copies owner, mode, time and attributes of the directory that the
// topmost of the lower layers has under the same name.
func inheritLooks(fd int, name string, lower []int) error {
	for _, root := range lower {
		from, err := unix.Openat2(root, name, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil // no directory there: this layer's hides it
		}
		defer unix.Close(from)
		return copyLooks(from, fd)
	}
	return nil
}

func copyLooks(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	names := make([]byte, 64<<10)
	n, err := unix.Flistxattr(from, names)
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for _, attr := range splitNul(names[:n]) {
		if !keepAttribute(attr) {
			continue
		}
		size, err := unix.Fgetxattr(from, attr, value)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(to, attr, value[:size], 0); err != nil {
			return err
		}
	}
	times := []unix.Timespec{st.Mtim, st.Mtim}
	return unix.UtimesNanoAt(to, ".", times, 0)
}

func splitNul(b []byte) []string {
	var list []string
	for len(b) > 0 {
		end := slices.Index(b, 0)
		if end < 0 {
			break
		}
		list = append(list, string(b[:end]))
		b = b[end+1:]
	}
	return list
}

// keepLayers moves complete layers to their place. The caller holds the lock.
func (s *Store) keepLayers(st state, layers []newLayer) error {
	known := map[string]layerRecord{}
	for k, v := range st.unpacked {
		known[k] = v
	}
	next := st.nextLayer
	for _, l := range layers {
		if _, ok := known[l.chain]; ok {
			continue // another process was faster
		}
		if err := os.RemoveAll(s.layerDir(next)); err != nil {
			return err
		}
		if err := os.Rename(l.dir, s.layerDir(next)); err != nil {
			return err
		}
		known[l.chain] = layerRecord{
			Number: next, Chain: l.chain, DiffID: l.diffID, Bytes: l.result.Bytes,
			Opaque: slices.Contains(l.result.Marks.Opaque, "."),
		}
		next++
	}
	if len(known) == len(st.unpacked) {
		return nil
	}
	if err := atomicfile.SyncDir(s.layers); err != nil {
		return err
	}
	return s.writeLayers(known, next)
}

// clean removes what died processes left: layers under way, directories that
// layers.json does not name, old downloads. The caller holds the lock.
func (s *Store) clean() error {
	if err := s.rescueIndex(); err != nil {
		return err
	}
	st, err := s.state()
	if err != nil {
		return err
	}
	works, err := os.ReadDir(s.layerTmp())
	if err != nil {
		return err
	}
	for _, work := range works {
		s.cleanWorkplace(filepath.Join(s.layerTmp(), work.Name()))
	}
	wanted := map[string]bool{}
	missing := false
	for _, l := range st.unpacked {
		wanted[strconv.Itoa(l.Number)] = true
		missing = missing || !exists(s.layerDir(l.Number))
	}
	dirs, err := os.ReadDir(s.layers)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, err := strconv.Atoi(dir.Name()); err == nil && !wanted[dir.Name()] {
			if err := os.RemoveAll(filepath.Join(s.layers, dir.Name())); err != nil {
				return err
			}
		}
	}
	if missing {
		known := map[string]layerRecord{}
		for chain, l := range st.unpacked {
			if exists(s.layerDir(l.Number)) {
				known[chain] = l
			}
		}
		if err := s.writeLayers(known, st.nextLayer); err != nil {
			return err
		}
	}
	return s.cleanDownloads()
}

// cleanWorkplace removes a workplace whose owner is gone.
func (s *Store) cleanWorkplace(dir string) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err == nil {
		defer lock.Close()
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		s.log.Info("cannot remove layers left half unpacked", "directory", dir, "error", err.Error())
	}
}

// keepDownloads is how long a download that nobody continues stays.
const keepDownloads = 7 * 24 * time.Hour

func (s *Store) cleanDownloads() error {
	files, err := os.ReadDir(s.downloadDir())
	if err != nil {
		return err
	}
	for _, file := range files {
		info, err := file.Info()
		if err == nil && time.Since(info.ModTime()) > keepDownloads {
			os.RemoveAll(filepath.Join(s.downloadDir(), file.Name()))
		}
	}
	return nil
}
