//go:build cgo

package images

import "testing"

// unpackerThreads returns the threads that must have dropped their privileges:
// in a test binary with cgo only the one that unpacks, the first.
func unpackerThreads(_ *testing.T, pid string) []string { return []string{pid} }
