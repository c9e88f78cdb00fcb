package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxName is the longest file name that Linux file systems take, in bytes.
const maxName = 255

// PodDir returns the directory of a pod's logs below podLogsDir.
func PodDir(podLogsDir, namespace, name, uid string) string {
	return filepath.Join(podLogsDir, namespace+"_"+name+"_"+uid)
}

// Dir returns the directory of a container's logs below podLogsDir.
func Dir(podLogsDir, namespace, name, uid, container string) string {
	return filepath.Join(PodDir(podLogsDir, namespace, name, uid), container)
}

// File returns the file that the writer of an attempt appends to. dir is the
// container's directory, attempt its restart count.
func File(dir string, attempt int) string {
	return filepath.Join(dir, fileName(attempt))
}

func fileName(attempt int) string { return strconv.Itoa(attempt) + ".log" }

// parseAttempt returns the attempt that a file name such as "3.log" or "3.log.x"
// belongs to, and what follows "3.log".
func parseAttempt(name string) (attempt int, rest string, ok bool) {
	number, rest, found := strings.Cut(name, ".log")
	n, err := strconv.Atoi(number)
	if !found || err != nil || n < 0 || strconv.Itoa(n) != number || rest != "" && rest[0] != '.' {
		return 0, "", false
	}
	return n, rest, true
}

// Remove removes all log files of an attempt. None is no error.
func Remove(dir string, attempt int) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove logs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if n, _, ok := parseAttempt(e.Name()); ok && n == attempt {
			errs = append(errs, removeIfThere(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// LinkName returns the name of the symbolic link in /var/log/containers by which
// log shippers find a container's log. A name too long for the file system
// loses the end of the container id.
// Source: kubelet, pkg/kubelet/kuberuntime/legacy.go.
func LinkName(namespace, name, container, containerID string) string {
	const suffix = ".log"
	stem := name + "_" + namespace + "_" + container + "-" + containerID
	return stem[:min(len(stem), maxName-len(suffix))] + suffix
}

// Link makes linksDir/link point to the log file target. An older link of that
// name is replaced. Nothing is made while target does not exist.
func Link(linksDir, link, target string) error {
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	path := filepath.Join(linksDir, link)
	if at, err := os.Readlink(path); err == nil && at == target {
		return nil
	}
	if err := os.MkdirAll(linksDir, 0o755); err != nil {
		return fmt.Errorf("cannot link log: %w", err)
	}
	if err := removeIfThere(path); err != nil {
		return fmt.Errorf("cannot link log: %w", err)
	}
	if err := os.Symlink(target, path); err != nil {
		return fmt.Errorf("cannot link log: %w", err)
	}
	return nil
}

// Unlink removes linksDir/link if it points to target: the name may have gone to
// another container. No link is no error.
func Unlink(linksDir, link, target string) error {
	path := filepath.Join(linksDir, link)
	if at, err := os.Readlink(path); err != nil || at != target {
		return nil
	}
	return removeIfThere(path)
}

// UnlinkDangling removes the links in linksDir that point below podLogsDir to
// nothing. Links to other places, of another agent perhaps, are left alone.
func UnlinkDangling(linksDir, podLogsDir string) error {
	entries, err := os.ReadDir(linksDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot clean links to logs: %w", err)
	}
	below := filepath.Clean(podLogsDir) + string(filepath.Separator)
	var errs []error
	for _, e := range entries {
		path := filepath.Join(linksDir, e.Name())
		at, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(at, below) {
			continue
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, removeIfThere(path))
		}
	}
	return errors.Join(errs...)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
