package kerneltest

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Swap exchanges what two paths name, over and over, until stop is called: what an
// attacker does who hopes to be looked up in between.
func Swap(t testing.TB, a, b string) (stop func()) {
	t.Helper()
	var over atomic.Bool
	var swapping sync.WaitGroup
	swapping.Go(func() { // ends with stop
		for !over.Load() {
			unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			runtime.Gosched()
		}
	})
	stop = sync.OnceFunc(func() { over.Store(true); swapping.Wait() })
	t.Cleanup(stop)
	return stop
}
