// Package store keeps the records of pods on disk. It is [pod.Store].
//
// Each pod has two files of the same form. <run>/pods/<uid>/pod.json is written
// without waiting for any disk before each action begins: it serves an agent
// that is killed and started again. <root>/pods/<uid>/record.json is written
// durably a little later: it serves a machine that is started again. The package
// owns these two files and nothing else in the two directories; what a record
// means is [pod.Record]'s matter.
//
// Beside them it keeps ConfigMaps and Secrets; see [Sources].
//
// Read first: [Open], [Store.List], and parse.
package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"podd/internal/atomicfile"
	"podd/pod"
)

// version is the form of the files. A file of another version is set aside.
const version = 1

const (
	recordFile = "record.json"
	noteFile   = "pod.json"
)

// file is what is written.
type file struct {
	Version int `json:"version"`
	// Boot names the boot of the machine during which the file was written.
	Boot   string     `json:"boot"`
	Record pod.Record `json:"record"`
}

// Config says where records are.
type Config struct {
	// RootDir and RunDir are the agent's directories; records are in pods/<uid>
	// below each. RunDir is expected to be empty after a reboot, and need not be.
	RootDir string
	RunDir  string
	// BootID names this boot of the machine. Empty: the kernel's own name for it,
	// /proc/sys/kernel/random/boot_id.
	BootID string
	Logger logr.Logger
}

// Store keeps records in directories. Calls for different pods may come from
// different goroutines.
type Store struct {
	config Config

	mu sync.Mutex
	// content is of what each file holds, by its path, as far as it is known: what is
	// there already is not written again.
	content map[string][sha256.Size]byte
}

// Open makes the directories that are missing.
func Open(c Config) (*Store, error) {
	if c.BootID == "" {
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return nil, fmt.Errorf("cannot learn the machine's boot id: %w", err)
		}
		c.BootID = strings.TrimSpace(string(id))
	}
	if c.Logger.GetSink() == nil {
		c.Logger = logr.Discard()
	}
	for _, dir := range []string{c.RootDir, c.RunDir} {
		if err := os.MkdirAll(filepath.Join(dir, "pods"), 0o755); err != nil {
			return nil, fmt.Errorf("cannot keep records of pods: %w", err)
		}
	}
	return &Store{config: c, content: map[string][sha256.Size]byte{}}, nil
}

// path names a file of one pod.
func path(dir string, uid types.UID, name string) string {
	return filepath.Join(dir, "pods", string(uid), name)
}

// checkUID refuses what is no single directory name.
func checkUID(uid types.UID) error {
	if uid == "" || strings.HasPrefix(string(uid), ".") || strings.ContainsAny(string(uid), "/\x00") {
		return fmt.Errorf("%q is no pod UID", uid)
	}
	return nil
}

// Save replaces the pod's record durably: 1 to 5 ms on a disk, nothing where the disk
// has it already.
func (s *Store) Save(r pod.Record) error {
	if err := s.write(s.config.RootDir, recordFile, r, atomicfile.Write); err != nil {
		return fmt.Errorf("cannot save the record of pod %s: %w", r.Key, err)
	}
	return nil
}

// Note replaces what is remembered for as long as the machine runs. It does
// not wait for a disk.
func (s *Store) Note(r pod.Record) error {
	if err := s.write(s.config.RunDir, noteFile, r, atomicfile.WriteInMemory); err != nil {
		return fmt.Errorf("cannot note the state of pod %s: %w", r.Key, err)
	}
	return nil
}

// write replaces one file of a pod's, unless that holds the same.
func (s *Store) write(dir, name string, r pod.Record, replace func(path string, data []byte, mode os.FileMode) error) error {
	if err := checkUID(r.UID); err != nil {
		return err
	}
	data, err := json.Marshal(file{Version: version, Boot: s.config.BootID, Record: r})
	if err != nil {
		return err
	}
	full := path(dir, r.UID, name)
	if s.holds(full, data) {
		return nil
	}
	s.forget(full)
	err = replace(full, data, 0o600)
	// Its directory is not there yet, or was taken meanwhile, while empty, by the end
	// of its sandbox or of the pod.
	for range 2 {
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err = os.MkdirAll(filepath.Dir(full), 0o755); err == nil {
			err = replace(full, data, 0o600)
		}
	}
	if err == nil {
		s.learn(full, data)
	}
	return err
}

// holds says whether a file is there and is known to hold data.
func (s *Store) holds(path string, data []byte) bool {
	sum := sha256.Sum256(data)
	s.mu.Lock()
	known, found := s.content[path]
	s.mu.Unlock()
	if !found || known != sum {
		return false
	}
	_, err := os.Lstat(path)
	return err == nil
}

// learn takes in what a file holds.
func (s *Store) learn(path string, data []byte) {
	sum := sha256.Sum256(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content[path] = sum
}

// forget takes in that a file may hold something else.
func (s *Store) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.content, path)
}

// Delete forgets a pod. The directories go if nothing else is in them.
func (s *Store) Delete(uid types.UID) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	// A Save that was killed leaves a hidden file.
	unfinished, err := fs.Glob(os.DirFS(path(s.config.RootDir, uid, ".")), "."+recordFile+".*")
	if err != nil {
		return err
	}
	var files []string
	for _, name := range append(unfinished, recordFile) {
		files = append(files, path(s.config.RootDir, uid, name))
	}
	var errs []error
	for _, name := range append(files,
		path(s.config.RunDir, uid, noteFile),
		path(s.config.RunDir, uid, noteFile+".new"),
	) {
		s.forget(name)
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		_ = os.Remove(filepath.Dir(name)) // stays while it holds anything
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot forget pod %s: %w", uid, err)
	}
	return nil
}

// List returns one record for each pod, the newest that can be read, sorted by
// UID. A file that cannot be read is renamed to <name>.bad-<time> and logged.
func (s *Store) List() ([]pod.Record, error) {
	var uids []types.UID
	for _, dir := range []string{s.config.RootDir, s.config.RunDir} {
		entries, err := os.ReadDir(filepath.Join(dir, "pods"))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	slices.Sort(uids)
	uids = slices.Compact(uids)
	// The agent's start waits for this: every processor reads.
	found := make([]*file, len(uids))
	next := make(chan int)
	var readers sync.WaitGroup
	for range min(len(uids), runtime.GOMAXPROCS(0)) {
		readers.Go(func() { // ends when next is closed
			for i := range next {
				found[i] = s.newest(uids[i])
			}
		})
	}
	for i := range uids {
		next <- i
	}
	close(next)
	readers.Wait()
	var records []pod.Record
	for _, f := range found {
		if f != nil {
			f.Record.Rebooted = f.Boot != s.config.BootID
			records = append(records, f.Record)
		}
	}
	return records, nil
}

// newest reads a pod's two files; nil: there is none that can be read. Within one boot
// a note is never older than the record on disk; a note of an earlier boot is used only
// where nothing else is left. Where nothing happens to a pod both hold the same.
func (s *Store) newest(uid types.UID) *file {
	record := s.read(s.config.RootDir, uid, recordFile)
	note := s.read(s.config.RunDir, uid, noteFile)
	kept := s.understand(record)
	switch {
	case note.data == nil && note.err == nil:
		return kept
	case kept != nil && bytes.Equal(record.data, note.data):
		s.learn(note.path, note.data)
		return kept
	}
	if noted := s.understand(note); noted != nil && (kept == nil || noted.Boot == s.config.BootID) {
		return noted
	}
	return kept
}

// content is what a file of a pod's holds.
type content struct {
	uid  types.UID
	path string
	data []byte // nil: there is no such file
	err  error  // why it cannot be read
}

func (s *Store) read(dir string, uid types.UID, name string) content {
	c := content{uid: uid, path: path(dir, uid, name)}
	c.data, c.err = os.ReadFile(c.path)
	if errors.Is(c.err, fs.ErrNotExist) {
		c.data, c.err = nil, nil
	}
	return c
}

// understand parses what was read, or sets it aside; nil: there is nothing.
func (s *Store) understand(c content) *file {
	if c.data == nil && c.err == nil {
		return nil
	}
	var f file
	err := c.err
	if err == nil {
		f, err = parse(c.data)
	}
	if err == nil && f.Record.UID != c.uid {
		err = fmt.Errorf("it belongs to pod %s", f.Record.UID)
	}
	if err == nil {
		s.learn(c.path, c.data)
		return &f
	}
	s.config.Logger.Error(err, "cannot read the record of a pod; it is set aside", "file", setAside(c.path), "uid", string(c.uid))
	return nil
}

// setAside gives a file that cannot be read another name, which it returns.
func setAside(path string) string {
	aside := path + ".bad-" + time.Now().UTC().Format("20060102T150405.000000000")
	if err := os.Rename(path, aside); err != nil {
		return path + " (" + err.Error() + ")"
	}
	return aside
}

// parse reads a file's content. What it accepts can be written back.
func parse(data []byte) (file, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return file{}, fmt.Errorf("not a record: %w", err)
	}
	switch {
	case f.Version != version:
		return file{}, fmt.Errorf("version %d of a record is not known here; expected %d", f.Version, version)
	case f.Record.Pod == nil:
		return file{}, errors.New("no pod in it")
	}
	if err := checkUID(f.Record.UID); err != nil {
		return file{}, err
	}
	// Some times can be read and not be written, or not be read again. What is written
	// as it was read can be.
	written, err := json.Marshal(f)
	if err == nil && !bytes.Equal(written, data) {
		err = json.Unmarshal(written, new(file))
	}
	if err != nil {
		return file{}, fmt.Errorf("not a record: %w", err)
	}
	return f, nil
}
