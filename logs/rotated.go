package logs

import (
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	packedSuffix = ".gz"
	// unfinishedSuffix marks what a Compress was writing when it was interrupted.
	unfinishedSuffix = ".tmp"
	stampForm        = "00000000-000000" // YYYYMMDD-HHMMSS
)

// rotated is one file that the writer rotated away: n.log.<stamp>, or
// n.log.<stamp>.gz once it is packed, or both when packing was interrupted.
type rotated struct {
	stamp         string // YYYYMMDD-HHMMSS, and whatever tells rotations within one second apart
	plain, packed bool
}

// compareStamps puts the older rotation first. Within a second none comes before
// a number, and a shorter number before a longer one.
func compareStamps(a, b string) int {
	n := len(stampForm)
	return cmp.Or(cmp.Compare(a[:n], b[:n]), cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// parseRotated returns the stamp in a file's name after "n.log".
func parseRotated(rest string) (stamp string, packed, ok bool) {
	stamp, ok = strings.CutPrefix(rest, ".")
	stamp, packed = strings.CutSuffix(stamp, packedSuffix)
	ok = ok && len(stamp) >= len(stampForm) && hasForm([]byte(stamp[:len(stampForm)]), stampForm) &&
		!strings.HasSuffix(stamp, unfinishedSuffix)
	return stamp, packed, ok
}

// listRotated returns the rotated files of an attempt, the oldest first. It
// misses none that was there when it began, and none before the last one it returns.
//
// That takes four looks. A file that is packed while the directory is read may be
// passed over, its new name not there yet when the reading comes by and its old
// one gone already (readdir(3) promises only what is there all the time); the next
// look finds it. And of files that appear during the first two looks a later one
// may be found without an earlier one; two more looks find all that came before it.
func listRotated(dir string, attempt int) ([]rotated, error) {
	var list []rotated
	newest := ""
	for look := range 4 {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			list = addRotated(list, attempt, e.Name())
		}
		if len(list) == 0 && look == 1 {
			return nil, nil
		}
		slices.SortFunc(list, func(a, b rotated) int { return compareStamps(a.stamp, b.stamp) })
		if look == 1 {
			newest = list[len(list)-1].stamp
		}
	}
	return slices.DeleteFunc(list, func(f rotated) bool { return compareStamps(f.stamp, newest) > 0 }), nil
}

// addRotated adds the file called name to list if it is one of the attempt's.
func addRotated(list []rotated, attempt int, name string) []rotated {
	n, rest, ok := parseAttempt(name)
	if !ok || n != attempt {
		return list
	}
	stamp, packed, ok := parseRotated(rest)
	if !ok {
		return list
	}
	i := slices.IndexFunc(list, func(r rotated) bool { return r.stamp == stamp })
	if i < 0 {
		i = len(list)
		list = append(list, rotated{stamp: stamp})
	}
	list[i].packed = list[i].packed || packed
	list[i].plain = list[i].plain || !packed
	return list
}

// Rotated returns the paths of an attempt's rotated files, the oldest first. A
// directory that does not exist has none.
func Rotated(dir string, attempt int) ([]string, error) {
	list, err := listRotated(dir, attempt)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list logs: %w", err)
	}
	var paths []string
	for _, r := range list {
		path := stampFile(dir, attempt, r.stamp)
		if !r.plain {
			path += packedSuffix
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func stampFile(dir string, attempt int, stamp string) string {
	return filepath.Join(dir, fileName(attempt)+"."+stamp)
}

// Compress packs the rotated files of an attempt and removes the oldest, so that
// maxFiles are left, n.log included. The newest rotated one stays as it is: a
// reader or a shipper may not have come to its end. A maxFiles below 2 removes
// nothing.
//
// It may be interrupted at any point and is then completed by the next call.
// Readers may be at work meanwhile; another Compress of the same log may not.
// Order of the steps: kubelet, pkg/kubelet/logs/container_log_manager.go.
func Compress(dir string, attempt int, maxFiles int) error {
	list, err := listRotated(dir, attempt)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = removeUnfinished(dir, attempt)
	}
	if err != nil {
		return fmt.Errorf("cannot compress logs: %w", err)
	}
	var errs []error
	for maxFiles >= 2 && len(list) > maxFiles-1 {
		path := stampFile(dir, attempt, list[0].stamp)
		// The plain one first: a packed one that stays behind is still a whole
		// log file, and is found again.
		errs = append(errs, removeIfThere(path), removeIfThere(path+packedSuffix))
		list = list[1:]
	}
	for i, r := range list {
		path := stampFile(dir, attempt, r.stamp)
		switch {
		case r.plain && r.packed:
			errs = append(errs, removeIfThere(path))
		case r.plain && i < len(list)-1:
			errs = append(errs, pack(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot compress logs: %w", err)
	}
	return nil
}

func removeUnfinished(dir string, attempt int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if n, rest, ok := parseAttempt(e.Name()); ok && n == attempt && strings.HasSuffix(rest, unfinishedSuffix) {
			errs = append(errs, removeIfThere(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// pack replaces path by path.gz, with its mode and its time of last writing, by
// which readers tell how old the newest entry is.
func pack(path string) error {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the writer removes the oldest, too
	}
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	unfinished := path + packedSuffix + unfinishedSuffix
	out, err := os.OpenFile(unfinished, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer os.Remove(unfinished) // fails once renamed
	err = packInto(out, in)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Chtimes(unfinished, info.ModTime(), info.ModTime())
	}
	if err == nil {
		err = os.Rename(unfinished, path+packedSuffix)
	}
	if err != nil {
		return err
	}
	return removeIfThere(path)
}

// packInto favours speed: log lines shrink to a tenth at the lowest level already.
func packInto(out *os.File, in io.Reader) error {
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return out.Sync() // the plain file goes next
}
