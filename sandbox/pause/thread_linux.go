package pause

import "runtime"

// onThread runs f on an OS thread that nothing else ever runs on: the goroutine
// is locked to it and never unlocked, so the thread dies with f. It returns at
// once; it is started by whoever forks and owns what f captures.
//
// The leader thread is safe, because the main goroutine holds it forever.
func (p *process) onThread(f func()) {
	p.forks <- struct{}{}
	go func() {
		runtime.LockOSThread()
		defer func() { <-p.forks }()
		f()
	}()
}
