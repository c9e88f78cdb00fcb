// Program podd-pause is a pod's pause process, a container's stage before its
// command runs, and the reaper of a shared PID namespace. podd starts it; see
// package podd/sandbox/pause.
package main

import (
	"os"
	"runtime"

	"podd/sandbox/pause"
)

// The main goroutine keeps the leader thread for good: no exec may ever run on it.
func init() { runtime.LockOSThread() }

func main() { os.Exit(pause.Main(os.Args)) }
