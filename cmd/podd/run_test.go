package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"podd/pod"
	"podd/pod/runtimetest"
)

// /healthz asks the manager: an agent that hangs or ends must not be called healthy.
func TestAnAgentIsHealthyWhileItsManagerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{manager: pod.NewManager(pod.Config{Runtime: runtimetest.NewFake(), Store: &runtimetest.Store{}, Board: pod.NewBoard()})}
		if err := a.healthy(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while nothing runs: %v; want %v", err, context.DeadlineExceeded)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.manager.Run(ctx, make(chan []pod.Desired)) }()
		if err := a.healthy(); err != nil {
			t.Errorf("while it runs: %v", err)
		}
		stop()
		<-ended
		if err := a.healthy(); !errors.Is(err, pod.ErrStopped) {
			t.Errorf("when it has ended: %v; want %v", err, pod.ErrStopped)
		}
	})
}
