//go:build !cgo

package images

import (
	"os"
	"testing"
)

// unpackerThreads returns the threads that must have dropped their privileges:
// all of them.
func unpackerThreads(t *testing.T, pid string) []string {
	t.Helper()
	tasks, err := os.ReadDir("/proc/" + pid + "/task")
	if err != nil {
		t.Fatal(err)
	}
	var threads []string
	for _, task := range tasks {
		threads = append(threads, task.Name())
	}
	return threads
}
