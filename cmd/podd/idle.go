package main

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"

	"podd/pod"
)

// restWhenIdle has the agent need less while nothing changes: when no pod has changed for a
// while, or at the latest every minute, what many starts at once needed is returned to
// the machine. What requests needed goes within a minute. The runtime alone would keep
// most of it.
//
// Probes and requests then run on one processor. What the runtime does to spread over
// several what is one after the other costs more than it is worth: it wakes threads,
// which look for work and sleep again.
//
// pulling says how many images are being pulled, asked how many requests of the API
// there have been. It ends with ctx.
func restWhenIdle(ctx context.Context, board *pod.Board, pulling func() int, asked func() int64, log logr.Logger) {
	const quiet, latest = 3 * time.Second, time.Minute
	for ctx.Err() == nil {
		began, changed, version := time.Now(), time.Now(), board.Version()
		for ctx.Err() == nil && time.Since(changed) < quiet && time.Since(began) < latest {
			select {
			case <-time.After(quiet / 3):
			case <-ctx.Done():
			}
			if now := board.Version(); now != version || pulling() > 0 {
				runtime.SetDefaultGOMAXPROCS()
				version, changed = now, time.Now()
			}
		}
		runtime.GC() // what pools hold goes with the second collection after its use
		debug.FreeOSMemory()
		if err := unmapProgram(); err != nil {
			log.V(1).Info("the program's pages stay mapped", "error", err.Error())
		}
		if time.Since(changed) >= quiet {
			runtime.GOMAXPROCS(1)
		}
		before := asked()
		for idle := true; idle && ctx.Err() == nil; {
			wait, cancel := context.WithTimeout(ctx, latest)
			_, err := board.Changes(wait, version)
			cancel()
			unchanged := errors.Is(err, context.DeadlineExceeded)
			if !unchanged {
				runtime.SetDefaultGOMAXPROCS()
			}
			idle = unchanged && asked() == before
		}
	}
}
