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
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
type Store struct{ config Config }

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
	return &Store{config: c}, nil
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

// Save replaces the pod's record durably: 1 to 5 ms on a disk.
func (s *Store) Save(r pod.Record) error {
	save := func() error {
		data, err := s.prepare(s.config.RootDir, r)
		if err != nil {
			return err
		}
		return atomicfile.Write(path(s.config.RootDir, r.UID, recordFile), data, 0o600)
	}
	err := twice(save)
	if err != nil {
		return fmt.Errorf("cannot save the record of pod %s: %w", r.Key, err)
	}
	return nil
}

// Note replaces what is remembered for as long as the machine runs. It does
// not wait for a disk.
func (s *Store) Note(r pod.Record) error {
	note := func() error {
		data, err := s.prepare(s.config.RunDir, r)
		if err != nil {
			return err
		}
		return atomicfile.WriteInMemory(path(s.config.RunDir, r.UID, noteFile), data, 0o600)
	}
	err := twice(note)
	if err != nil {
		return fmt.Errorf("cannot note the state of pod %s: %w", r.Key, err)
	}
	return nil
}

// twice writes once more where the pod's empty directory was taken meanwhile, by the
// end of its sandbox or of the pod.
func twice(write func() error) error {
	err := write()
	if errors.Is(err, fs.ErrNotExist) {
		err = write()
	}
	return err
}

// prepare makes the pod's directory and what is to be written there.
func (s *Store) prepare(dir string, r pod.Record) ([]byte, error) {
	if err := checkUID(r.UID); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "pods", string(r.UID)), 0o755); err != nil {
		return nil, err
	}
	return json.Marshal(file{Version: version, Boot: s.config.BootID, Record: r})
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
	newest := map[types.UID]file{}
	// Within one boot a note is never older than the record on disk; a note of an
	// earlier boot is used only where nothing else is left.
	for _, dir := range []struct{ root, name string }{{s.config.RootDir, recordFile}, {s.config.RunDir, noteFile}} {
		entries, err := os.ReadDir(filepath.Join(dir.root, "pods"))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			uid := types.UID(e.Name())
			f, found := s.read(dir.root, uid, dir.name)
			if !found {
				continue
			}
			if _, known := newest[uid]; !known || f.Boot == s.config.BootID {
				newest[uid] = f
			}
		}
	}
	var records []pod.Record
	for _, f := range newest {
		f.Record.Rebooted = f.Boot != s.config.BootID
		records = append(records, f.Record)
	}
	slices.SortFunc(records, func(a, b pod.Record) int { return strings.Compare(string(a.UID), string(b.UID)) })
	return records, nil
}

// read reads one file, or sets it aside.
func (s *Store) read(dir string, uid types.UID, name string) (file, bool) {
	full := path(dir, uid, name)
	data, err := os.ReadFile(full)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, false
	}
	var f file
	if err == nil {
		f, err = parse(data)
	}
	if err == nil && f.Record.UID != uid {
		err = fmt.Errorf("it belongs to pod %s", f.Record.UID)
	}
	if err == nil {
		return f, true
	}
	s.config.Logger.Error(err, "cannot read the record of a pod; it is set aside", "file", setAside(full), "uid", string(uid))
	return file{}, false
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
	// Some times can be read and not be written, or not be read again.
	written, err := json.Marshal(f)
	if err == nil {
		err = json.Unmarshal(written, new(file))
	}
	if err != nil {
		return file{}, fmt.Errorf("not a record: %w", err)
	}
	return f, nil
}
