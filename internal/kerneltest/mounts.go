package kerneltest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// OthersMount says whether a mount point belongs to a test of another package, which
// runs at the same time: it is below the directory for temporary files, and not below
// one of this test's own.
func OthersMount(t testing.TB, point string) bool {
	t.Helper()
	own := filepath.Dir(t.TempDir()) + "/" // all temporary directories of a test are in one
	return strings.HasPrefix(point, os.TempDir()+"/") && !strings.HasPrefix(point+"/", own)
}

// Mounts returns the lines of this process' mount table, without [OthersMount].
func Mounts(t testing.TB) []string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(table)) {
		line = strings.TrimSuffix(line, "\n")
		// proc_pid_mountinfo(5): the fifth field is the mount point
		if f := strings.Fields(line); len(f) > 4 && !OthersMount(t, f[4]) {
			lines = append(lines, line)
		}
	}
	return lines
}
