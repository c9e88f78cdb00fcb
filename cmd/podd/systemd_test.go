package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

// A bare ticker would go on where nothing else does.
func TestTheWatchdogIsNotFedByAnAgentThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		var hangs atomic.Bool
		alive := func(ctx context.Context) error {
			if hangs.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		var pings, misses atomic.Int32
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			pingWhileAlive(ctx, 10*time.Second, alive, func(err error) {
				if err != nil {
					misses.Add(1)
				} else {
					pings.Add(1)
				}
			})
		}()
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if pings.Load() != 3 || misses.Load() != 0 {
			t.Errorf("%d pings and %d misses in 31 s of life; want 3 and 0", pings.Load(), misses.Load())
		}
		hangs.Store(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		if pings.Load() != 3 || misses.Load() < 100 {
			t.Errorf("%d pings and %d misses after an hour without an answer; want 3, and one for each tick", pings.Load(), misses.Load())
		}
		hangs.Store(false)
		time.Sleep(time.Minute)
		if pings.Load() < 7 {
			t.Errorf("%d pings after another minute of life; want at least 7", pings.Load())
		}
		end()
		<-ended
	})
}

// A ping says nothing while the agent ends: what is asked is over already.
func TestNothingIsSaidOfAnAgentThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		alive := func(context.Context) error { end(); return errors.New("stopped") }
		pingWhileAlive(ctx, time.Second, alive, func(err error) { t.Errorf("said %v", err) })
	})
}

func TestStatusLine(t *testing.T) {
	pod := func(ready v1.ConditionStatus) *v1.Pod {
		return &v1.Pod{Status: v1.PodStatus{Conditions: []v1.PodCondition{
			{Type: v1.PodInitialized, Status: v1.ConditionTrue}, {Type: v1.PodReady, Status: ready}}}}
	}
	for _, c := range []struct {
		pods    []*v1.Pod
		refused int
		want    string
	}{
		{nil, 0, "0 of 0 pods ready"},
		{[]*v1.Pod{pod(v1.ConditionTrue), pod(v1.ConditionFalse), {}}, 0, "1 of 3 pods ready"},
		{[]*v1.Pod{pod(v1.ConditionTrue)}, 2, "1 of 1 pods ready, 2 manifests refused (see podd get)"},
	} {
		if got := statusLine(c.pods, c.refused); got != c.want {
			t.Errorf("%q; want %q", got, c.want)
		}
	}
}
