package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/pod"
)

// Probes and requests run on one processor, and what pods need on all.
func TestAnAgentAtRestRunsOnOneProcessor(t *testing.T) {
	defer runtime.SetDefaultGOMAXPROCS()
	runtime.SetDefaultGOMAXPROCS()
	all := runtime.GOMAXPROCS(0)
	if all == 1 {
		t.Log("this machine has one processor: that it goes back to all cannot be seen")
	}
	synctest.Test(t, func(t *testing.T) {
		board := pod.NewBoard()
		var pulls, asked atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { restWhenIdle(ctx, board, func() int { return int(pulls.Load()) }, asked.Load, logr.Discard()) })
		after := func(wait time.Duration, what string, want int) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if got := runtime.GOMAXPROCS(0); got != want {
				t.Errorf("%s: %d processors, expected %d", what, got, want)
			}
		}
		change := func(phase v1.PodPhase) {
			board.Set(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Status: v1.PodStatus{Phase: phase}})
		}
		after(time.Second, "a moment after the start", all)
		after(4*time.Second, "nothing happened", 1)
		asked.Add(1)
		after(2*time.Minute, "a request was served", 1)
		change(v1.PodPending)
		after(0, "a pod changes", all)
		pulls.Add(1)
		after(30*time.Second, "an image is pulled", all)
		after(10*time.Minute, "it takes its time", all)
		pulls.Add(-1)
		change(v1.PodRunning)
		after(2*time.Second, "it is there", all)
		after(3*time.Second, "all is quiet again", 1)
		stop()
		running.Wait()
	})
}
