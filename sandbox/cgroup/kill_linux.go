package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killWait bounds [Group.Kill] where the context does not: a process killed
// while it waits for a broken disk dies when the disk answers, or never.
const killWait = 10 * time.Second

// Kill kills every process in the group and below it, whatever sessions and
// process groups they moved to, and returns when none is left. It waits until
// ctx ends, at most 10 s, and then names the processes that would not die. A
// group that is gone is no error.
//
// A process that another one forks while it is being killed dies too: v2 does
// that in the kernel; on v1 forking is forbidden for the time.
func (g *Group) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()

	var unified string
	for i := range g.tree.hiers {
		if h := &g.tree.hiers[i]; h.unified {
			unified = g.dir(h)
			if err := writeFile(unified, "cgroup.kill", "1"); err != nil && !gone(err) {
				return fmt.Errorf("cannot kill cgroup %s: %w", g.path, err)
			}
		}
	}
	if !g.tree.onlyUnified() && !g.Empty() {
		allow, err := g.forbidForks()
		if err != nil {
			return fmt.Errorf("cannot kill cgroup %s: %w", g.path, err)
		}
		defer allow()
	}
	for wait := 100 * time.Microsecond; !g.Empty(); wait = min(2*wait, 5*time.Millisecond) {
		if !g.tree.onlyUnified() {
			if err := g.killListed(); err != nil {
				return fmt.Errorf("cannot kill cgroup %s: %w", g.path, err)
			}
		}
		if ctx.Err() != nil {
			pids, _ := g.Pids()
			return fmt.Errorf("cannot kill cgroup %s: %s: %w", g.path, describe(pids), ctx.Err())
		}
		waitChange(unified, wait)
	}
	return nil
}

func (t *Tree) onlyUnified() bool { return t.version == V2 }

// forbidForks sets the v1 pids limit to 0 and returns what sets it back. Where
// there is no pids controller it does nothing: the loop of Kill then has to be
// faster than the forks.
func (g *Group) forbidForks() (allow func(), err error) {
	allow = func() {}
	for i := range g.tree.hiers {
		h := &g.tree.hiers[i]
		if h.unified || !h.has("pids") {
			continue
		}
		dir := g.dir(h)
		before, err := readFile(dir, "pids.max")
		if gone(err) {
			return allow, nil
		}
		if err != nil {
			return nil, err
		}
		if err := writeFile(dir, "pids.max", "0"); err != nil && !gone(err) {
			return nil, err
		}
		// The group may be gone by then, with its limit.
		return func() { _ = writeFile(dir, "pids.max", strings.TrimSpace(before)) }, nil
	}
	return allow, nil
}

// killListed kills the processes that are listed now. Between listing and
// killing a pid may come to mean another process, therefore each is held by a
// descriptor and killed only if it is still listed afterwards.
func (g *Group) killListed() error {
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	held := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			break // the rest has its turn in the next round
		}
		if err == nil {
			held[pid] = fd
		}
	}
	still, err := g.Pids()
	if err != nil {
		return err
	}
	for pid, fd := range held {
		if _, listed := slices.BinarySearch(still, pid); !listed {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}

// waitChange sleeps for at most d, less if the v2 group at dir changes between
// populated and empty. The kernel tells so at most once in 10 ms, therefore d is
// what a caller is ready to lose.
func waitChange(dir string, d time.Duration) {
	if dir != "" {
		fd, err := unix.Open(dir+"/cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			// Only a file that was read reports what happens after the reading.
			var buf [128]byte
			n, err := unix.Read(fd, buf[:])
			if err != nil || keyed(string(buf[:n]), "populated") == 0 {
				return
			}
			ts := unix.NsecToTimespec(int64(d))
			_, err = unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, &ts, nil)
			if err == nil || err == unix.EINTR {
				return
			}
		}
	}
	time.Sleep(d)
}

// describe names processes for an operator: pid, command and state.
func describe(pids []int) string {
	const shown = 5
	var parts []string
	for _, pid := range pids[:min(len(pids), shown)] {
		part := strconv.Itoa(pid)
		if stat, err := os.ReadFile("/proc/" + part + "/stat"); err == nil {
			if name, rest, ok := splitStat(string(stat)); ok {
				part += " (" + name + ", state " + rest[:1] + ")"
			}
		}
		parts = append(parts, part)
	}
	if more := len(pids) - shown; more > 0 {
		parts = append(parts, strconv.Itoa(more)+" more")
	}
	if len(parts) == 0 {
		return "no process is visible from here, but the group is not empty"
	}
	return "process " + strings.Join(parts, ", ")
}

// splitStat takes the command's name and what follows it out of /proc/PID/stat.
func splitStat(stat string) (name, rest string, ok bool) {
	i, j := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if i < 0 || j < i || len(stat) < j+3 {
		return "", "", false
	}
	return stat[i+1 : j], stat[j+2:], true
}
