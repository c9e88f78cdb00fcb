package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"podd/internal/atomicfile"
	"podd/pod"
)

// Sources keeps the objects beside the pods that are in force, so that an agent
// that is started again while their file has a mistake still has the last good
// version, as it has of pods. <root>/sources holds them, one file each. Secrets are
// never written to a disk: <run>/sources holds them, if it is in memory, until
// the machine is started anew; otherwise nothing does.
//
// [Sources.Keep] owns these two directories.
type Sources struct {
	store   *Store
	secrets bool // the run directory is in memory
	// wanted holds the newest set that is not written yet.
	wanted chan []pod.Source
}

// sourceFile is what is written.
type sourceFile struct {
	Version int        `json:"version"`
	Source  pod.Source `json:"source"`
}

// Sources prepares keeping them; nothing is made before the first is kept.
func (s *Store) Sources() (*Sources, error) {
	memory, err := inMemory(s.config.RunDir)
	if err != nil {
		return nil, fmt.Errorf("cannot tell where Secrets would be kept: %w", err)
	}
	return &Sources{store: s, secrets: memory, wanted: make(chan []pod.Source, 1)}, nil
}

// inMemory says whether a directory is on a file system without a disk.
func inMemory(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC, nil
}

// Set says what is in force from now on. It returns at once; Keep writes.
func (s *Sources) Set(sources []pod.Source) {
	select {
	case <-s.wanted:
	default:
	}
	s.wanted <- sources
}

// Keep writes what Set said until ctx ends. What cannot be written is logged:
// it would be missing after a restart of the agent and nowhere else.
func (s *Sources) Keep(ctx context.Context) {
	written := map[string][sha256.Size]byte{}
	for {
		select {
		case <-ctx.Done():
			return
		case sources := <-s.wanted:
			if err := s.write(sources, written); err != nil {
				s.store.config.Logger.Error(err, "a restart of the agent would not find all objects beside the pods")
			}
		}
	}
}

// write brings the directories to a set. written holds a sum of each file that
// is known to be up to date.
func (s *Sources) write(sources []pod.Source, written map[string][sha256.Size]byte) error {
	var errs []error
	wanted := map[string]bool{}
	for _, source := range sources {
		dir := s.dir(source)
		if dir == "" {
			continue
		}
		data, err := json.Marshal(sourceFile{Version: version, Source: source})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		path, sum := filepath.Join(dir, sourceName(source)), sha256.Sum256(data)
		wanted[path] = true
		if written[path] == sum {
			clear(data)
			continue
		}
		err = os.MkdirAll(dir, 0o700)
		if err == nil {
			err = atomicfile.Write(path, data, 0o600)
		}
		clear(data) // of a Secret, perhaps
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot keep %s: %w", source, err))
			continue
		}
		written[path] = sum
	}
	for _, dir := range s.dirs() {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if wanted[path] || strings.Contains(e.Name(), ".bad-") {
				continue
			}
			delete(written, path)
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (s *Sources) dirs() []string {
	return []string{filepath.Join(s.store.config.RootDir, "sources"), filepath.Join(s.store.config.RunDir, "sources")}
}

// dir is where a source is kept; empty: nowhere.
func (s *Sources) dir(source pod.Source) string {
	switch {
	case source.Secret == nil:
		return s.dirs()[0]
	case s.secrets:
		return s.dirs()[1]
	}
	return ""
}

// sourceName is a file's name. Names have no "_", and of one kind each
// namespace has one of each. What may be as long as a file's name is cut and told
// apart by a sum.
func sourceName(s pod.Source) string {
	id := s.ID()
	name := id.Key.Namespace + "_" + id.Key.Name
	switch id.Kind {
	case pod.KindClaim, pod.KindVolume:
		name = id.Kind + "_" + name
	}
	const most = 200
	if len(name) > most {
		sum := sha256.Sum256([]byte(name))
		name = name[:most] + "_" + hex.EncodeToString(sum[:8])
	}
	return name + ".json"
}

// List returns what the last agent kept. A file that cannot be read is set
// aside.
func (s *Sources) List() ([]pod.Source, error) {
	var all []pod.Source
	for _, dir := range s.dirs() {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list the objects beside the pods: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if filepath.Ext(path) != ".json" || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			source, err := readSource(path)
			if err != nil {
				aside := setAside(path)
				s.store.config.Logger.Error(err, "cannot read a kept object; it is set aside", "file", aside)
				continue
			}
			all = append(all, source)
		}
	}
	return all, nil
}

func readSource(path string) (pod.Source, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return pod.Source{}, err
	}
	defer clear(data)
	source, err := parseSource(data)
	if err == nil && sourceName(source) != filepath.Base(path) {
		err = errors.New("it is of another name")
	}
	return source, err
}

// parseSource reads a file's content. Its errors tell nothing of it.
func parseSource(data []byte) (pod.Source, error) {
	var f sourceFile
	if json.Unmarshal(data, &f) != nil {
		return pod.Source{}, errors.New("not an object that is kept")
	}
	if f.Version != version {
		return pod.Source{}, fmt.Errorf("version %d is not known here; expected %d", f.Version, version)
	}
	objects := 0
	for _, given := range []bool{f.Source.ConfigMap != nil, f.Source.Secret != nil, f.Source.Claim != nil, f.Source.Volume != nil} {
		if given {
			objects++
		}
	}
	if objects != 1 {
		return pod.Source{}, errors.New("expected one object in it")
	}
	return f.Source, nil
}
