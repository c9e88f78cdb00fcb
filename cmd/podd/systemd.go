package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// tellReady tells systemd that the agent serves, and starts what it is told from
// then on; nothing of it where no service manager listens. What start starts ends
// with ctx.
func (a *agent) tellReady(ctx context.Context, start func(func() error)) {
	if ctx.Err() != nil {
		return // it ends before it served
	}
	a.told(a.systemd.Ready())
	if every := a.systemd.Watchdog() / 3; every > 0 {
		start(func() error {
			pingWhileAlive(ctx, every, a.manager.Alive, func(err error) {
				if err != nil {
					a.log.Error(err, "the agent hangs; systemd will start it again, pods go on")
					return
				}
				a.told(a.systemd.Ping())
			})
			return nil
		})
	}
	if a.systemd != nil {
		start(func() error { a.tellStatus(ctx); return nil })
	}
	start(func() error { a.rescanOnHangup(ctx); return nil })
}

// told notes what could not be told; pods do not depend on it.
func (a *agent) told(err error) {
	if err != nil {
		a.log.Error(err, "systemd does not learn how the agent fares")
	}
}

// pingWhileAlive asks at every tick whether the agent is alive, and hands on the
// answer, or the error when there is none within a tick. It ends with ctx.
func pingWhileAlive(ctx context.Context, every time.Duration, alive func(context.Context) error, ping func(error)) {
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		answer, cancel := context.WithTimeout(ctx, every)
		err := alive(answer)
		cancel()
		if ctx.Err() == nil {
			ping(err)
		}
	}
}

// tellStatus keeps the line that `systemctl status` shows. It ends with ctx.
func (a *agent) tellStatus(ctx context.Context) {
	const often, seldom = time.Second, 20 * time.Second
	last := ""
	for ctx.Err() == nil {
		pods, version := a.board.Snapshot()
		if text := statusLine(pods, a.watcher.Refused()); text != last {
			a.told(a.systemd.Status(text))
			last = text
		}
		select {
		case <-time.After(often):
		case <-ctx.Done():
		}
		wait, cancel := context.WithTimeout(ctx, seldom)
		_, _ = a.board.Gather(wait, version) // whatever it says, it is time to look
		cancel()
	}
}

// statusLine says how many pods there are and how many are ready, and how many
// files are being refused.
func statusLine(pods []*v1.Pod, refused int) string {
	ready := 0
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
				ready++
			}
		}
	}
	text := fmt.Sprintf("%d of %d pods ready", ready, len(pods))
	if refused > 0 {
		text += fmt.Sprintf(", %d manifests refused (see podd get)", refused)
	}
	return text
}

// rescanOnHangup looks at all manifests again on SIGHUP, which is what
// `systemctl reload` sends. It ends with ctx.
func (a *agent) rescanOnHangup(ctx context.Context) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		a.told(a.systemd.Reloading())
		if err := a.watcher.Rescan(ctx); err != nil {
			return // the agent ends
		}
		a.log.Info("looked at all manifests again")
		a.told(a.systemd.Ready())
	}
}
