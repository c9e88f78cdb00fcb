// Package transcript keeps what is written, for a test that looks at it meanwhile.
package transcript

import (
	"strings"
	"sync"
)

// T is a writer. The zero value is empty; it may be used from many goroutines.
type T struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

// Write implements [io.Writer].
func (t *T) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

// String is all that was written so far.
func (t *T) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}
