// Package seccomp turns seccomp profiles into filters for the kernel.
//
// A profile is an OCI specs.LinuxSeccomp: [Default] makes the built-in one from
// the data of github.com/moby/profiles/seccomp, filtered by capabilities, kernel
// and architecture; [Parse] reads one that a user wrote. [Compile] turns either
// into a classic BPF program, without libseccomp. [Cache] keeps compiled default
// profiles, because most containers of a node share one.
//
// The package installs nothing and asks the kernel nothing.
//
// Read first: [Default], [Compile], [Cache].
package seccomp

import (
	"slices"
	"strings"
	"sync"
)

// Cache compiles the default profile, once for each set of capabilities. The
// zero value is ready; it may be used concurrently. It holds about 8 KB for
// each set it was asked for.
type Cache struct {
	mu      sync.Mutex
	filters map[cacheKey][]byte
}

type cacheKey struct {
	caps   string // sorted, separated by blanks
	kernel Kernel
	arch   string
}

// Default returns Compile(Default(caps, kernel, arch), arch). The caller must
// not change what it gets.
func (c *Cache) Default(caps []string, kernel Kernel, arch string) ([]byte, error) {
	key := cacheKey{strings.Join(slices.Sorted(slices.Values(caps)), " "), kernel, arch}

	c.mu.Lock()
	defer c.mu.Unlock()
	if filter, ok := c.filters[key]; ok {
		return filter, nil
	}
	filter, err := Compile(Default(caps, kernel, arch), arch)
	if err != nil {
		return nil, err
	}
	if c.filters == nil {
		c.filters = map[cacheKey][]byte{}
	}
	c.filters[key] = filter
	return filter, nil
}
