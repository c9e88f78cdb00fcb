package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Check reads files, and the manifests in directories, as an agent would read
// them together, but for sealed Secrets, which stay sealed. pods counts the good ones. The problems come in the order of
// the files. The error joins one error for each path that cannot be read; the
// others are still checked.
func Check(files []string) (problems []Problem, pods int, err error) {
	order, results, err := parseAll(files)
	var all []loaded
	var sources []loadedSource
	byFile := map[string][]Problem{}
	for f, r := range results {
		byFile[f] = r.Problems
	}
	for _, f := range order {
		for _, s := range results[f].Sources {
			sources = append(sources, loadedSource{source: s})
		}
		for _, d := range results[f].Desired {
			all = append(all, loaded{desired: d})
		}
	}
	set, clashes := combine(all)
	_, more := combineSources(sources)
	for _, c := range append(clashes, more...) {
		byFile[c.loser.File] = append(byFile[c.loser.File], c.problem())
	}
	for _, f := range order {
		inFileOrder(byFile[f])
		problems = append(problems, byFile[f]...)
	}
	return problems, len(set), err
}

// Objects reads files, and the manifests in directories, and returns their objects,
// good and bad, in the order of the files. The error joins one error for each path
// that cannot be read and for each part of a file that is no object.
func Objects(files []string) ([]Object, error) {
	order, results, err := parseAll(files)
	var all []Object
	for _, f := range order {
		all = append(all, results[f].Objects...)
		told := map[Problem]bool{}
		for _, o := range results[f].Objects {
			for _, p := range o.Problems {
				told[p] = true
			}
		}
		for _, p := range results[f].Problems {
			if !p.Warning && !told[p] {
				err = errors.Join(err, errors.New(p.String()))
			}
		}
	}
	return all, err
}

// parseAll reads files, and the manifests in directories, each once. order lists
// those that could be read; the error joins one error for each of the others.
func parseAll(files []string) (order []string, results map[string]Result, err error) {
	results = map[string]Result{}
	var failures []error
	for _, file := range files {
		inside, err := expand(file)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		for _, f := range inside {
			if _, seen := results[f]; seen {
				continue
			}
			data, mode, err := read(f)
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", f, err))
				continue
			}
			r := Parse(f, data)
			r.Problems = append(r.Problems, readableSecret(r, mode)...)
			order, results[f] = append(order, f), r
		}
	}
	return order, results, errors.Join(failures...)
}

// expand lists the manifests of a directory; a file is listed as it is.
func expand(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be read: %w", path, reason(err))
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be read: %w", path, reason(err))
	}
	var files []string
	for _, e := range entries {
		if IsManifest(e.Name()) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files, nil
}

// reason leaves the path out of a file system's error; the caller names it.
func reason(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// read reads a manifest, one byte more than MaxSize at most. It never waits
// for a pipe or a device. mode is the file's.
func read(path string) (data []byte, mode fs.FileMode, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot be read: %w", reason(err))
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("cannot be read: %w", reason(err))
	case info.IsDir():
		return nil, 0, errors.New("cannot be read: it is a directory, not a file")
	case !info.Mode().IsRegular():
		return nil, 0, errors.New("cannot be read: it is not a regular file")
	}
	// Large enough from the start: a buffer that grows leaves copies of a Secret.
	b := bytes.NewBuffer(make([]byte, 0, min(info.Size(), MaxSize+1)+bytes.MinRead))
	if _, err := b.ReadFrom(io.LimitReader(f, MaxSize+1)); err != nil {
		return nil, 0, fmt.Errorf("cannot be read: %w", reason(err))
	}
	return b.Bytes(), info.Mode(), nil
}
