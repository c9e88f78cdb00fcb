package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Group is one group, in every hierarchy at once. It may be gone already: every
// method says what then happens.
type Group struct {
	tree *Tree
	path string
}

func (t *Tree) group(path string) *Group { return &Group{tree: t, path: path} }

// Path is the group's name below the mount points, such as
// "podd/burstable/pod1234/ab12".
func (g *Group) Path() string { return g.path }

func (g *Group) dir(h *hierarchy) string { return h.dir + "/" + g.path }

// create makes the group's directories where they are missing, parents included.
func (g *Group) create() error {
	for i := range g.tree.hiers {
		dir := g.dir(&g.tree.hiers[i])
		err := mkdir(dir)
		if errors.Is(err, unix.ENOENT) {
			// Somebody removed a parent that Open or Pod had made.
			err = g.createParents(&g.tree.hiers[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) createParents(h *hierarchy) error {
	dir := h.dir
	for _, name := range strings.Split(g.path, "/") {
		if h.unified && len(h.controllers) > 0 {
			if err := enable(dir, h.controllers); err != nil {
				return err
			}
		}
		dir = filepath.Join(dir, name)
		if err := mkdir(dir); err != nil {
			return err
		}
	}
	return nil
}

// delegate turns the controllers on for the group's children, which v2 wants
// and v1 does by itself. The group can then hold no process of its own.
func (g *Group) delegate() error {
	for i := range g.tree.hiers {
		if h := &g.tree.hiers[i]; h.unified && len(h.controllers) > 0 {
			return enable(g.dir(h), h.controllers)
		}
	}
	return nil
}

// Exists tells whether the group is there in any hierarchy.
func (g *Group) Exists() bool {
	for i := range g.tree.hiers {
		if unix.Access(g.dir(&g.tree.hiers[i]), unix.F_OK) == nil {
			return true
		}
	}
	return false
}

// Files opens what a process joins the group by. The caller closes all of them.
//
// unified is the directory in the v2 hierarchy, for CLONE_INTO_CGROUP and for
// cgroup.kill inside it; nil on v1. procs and tasks are open for writing, one for
// each v1 hierarchy; both are empty on v2. Writing a pid to each of procs moves
// that whole process, which can take 5 to 12 ms; writing "0" to each of tasks
// moves the calling thread alone, in a fraction of that.
func (g *Group) Files() (unified *os.File, procs, tasks []*os.File, err error) {
	open := func(name string, flags int) *os.File {
		if err != nil {
			return nil
		}
		var fd int
		err = retry(func() (e error) { fd, e = unix.Open(name, flags|unix.O_CLOEXEC, 0); return })
		if err != nil {
			err = fmt.Errorf("cannot open cgroup %s: %w", g.path, &os.PathError{Op: "open", Path: name, Err: err})
			return nil
		}
		return os.NewFile(uintptr(fd), name)
	}
	for i := range g.tree.hiers {
		h := &g.tree.hiers[i]
		if dir := g.dir(h); h.unified {
			unified = open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
		} else {
			procs = append(procs, open(dir+"/cgroup.procs", unix.O_WRONLY))
			tasks = append(tasks, open(dir+"/tasks", unix.O_WRONLY))
		}
	}
	if err != nil {
		for _, f := range append(append(procs, tasks...), unified) {
			if f != nil {
				f.Close()
			}
		}
		return nil, nil, nil, err
	}
	return unified, procs, tasks, nil
}

// Pids lists the processes of the group and of the groups below it, sorted;
// none when the group is gone. On the hybrid layout a process counts when it is
// in any hierarchy's group.
func (g *Group) Pids() ([]int, error) {
	var pids []int
	for i := range g.tree.hiers {
		found, err := pidsBelow(g.dir(&g.tree.hiers[i]))
		if err != nil {
			return nil, fmt.Errorf("cannot list the processes of cgroup %s: %w", g.path, err)
		}
		pids = append(pids, found...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// Empty tells whether no process is left in the group and below it. A group
// that is gone is empty.
func (g *Group) Empty() bool {
	for i := range g.tree.hiers {
		h := &g.tree.hiers[i]
		if !h.unified {
			pids, err := pidsBelow(g.dir(h))
			if err != nil || len(pids) > 0 {
				return false
			}
			continue
		}
		events, err := readFile(g.dir(h), "cgroup.events")
		if err != nil && !gone(err) {
			return false
		}
		if err == nil && keyed(events, "populated") != 0 {
			return false
		}
	}
	return true
}

// Remove removes the group and those below it, in every hierarchy. It fails
// when processes are left inside: see [Group.Kill]. For about a second, or until
// ctx ends, it waits for processes that are just dying. A group that is gone is
// no error.
func (g *Group) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for i := range g.tree.hiers {
		if err := removeTree(ctx, g.dir(&g.tree.hiers[i])); err != nil {
			if errors.Is(err, unix.EBUSY) {
				if pids, _ := g.Pids(); len(pids) > 0 {
					return fmt.Errorf("cannot remove cgroup %s: processes are left in it: %s", g.path, describe(pids))
				}
			}
			return fmt.Errorf("cannot remove cgroup %s: %w", g.path, err)
		}
	}
	return nil
}

// removeTree removes one directory of groups, children first. It tries the
// group itself before it looks for children, since there rarely are any.
func removeTree(ctx context.Context, dir string) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		err := retry(func() error { return unix.Rmdir(dir) })
		if err == nil || gone(err) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		children, listErr := subdirs(dir)
		if listErr != nil {
			return listErr
		}
		for _, child := range children {
			if err := removeTree(ctx, dir+"/"+child); err != nil {
				return err
			}
		}
		if len(children) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		case <-time.After(wait):
		}
	}
}

// subdirs lists the directories in dir; none when it is gone.
func subdirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if gone(err) {
			return nil, nil
		}
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// pidsBelow lists the processes in the group at dir and below; none when it is
// gone.
func pidsBelow(dir string) ([]int, error) {
	var pids []int
	text, err := readFile(dir, "cgroup.procs")
	switch {
	case gone(err):
		return nil, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		// A threaded group; its processes are listed above it.
	case err != nil:
		return nil, err
	}
	for line := range strings.Lines(text) {
		// A process that is not visible in this PID namespace is listed as 0.
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	// A directory's links count its children; most groups have none to look for.
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil && st.Nlink == 2 {
		return pids, nil
	}
	children, err := subdirs(dir)
	if err != nil {
		return nil, err
	}
	for _, child := range children {
		below, err := pidsBelow(dir + "/" + child)
		if err != nil {
			return nil, err
		}
		pids = append(pids, below...)
	}
	return pids, nil
}

// gone tells whether err says that the group was removed, before or while its
// file was open.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) }

// readFile and writeFile go around os.File: registering each of these files
// with the runtime's poller would double the system calls of a container start.
func readFile(dir, name string) (string, error) {
	path := dir + "/" + name
	var fd int
	err := retry(func() (e error) { fd, e = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); return })
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 4096)
	for {
		var n int
		err := retry(func() (e error) { n, e = unix.Read(fd, buf[len(buf):cap(buf)]); return })
		if err != nil {
			return "", &os.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return string(buf), nil
		}
		buf = buf[:len(buf)+n]
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, len(buf))
		}
	}
}

// writeFile writes each value with one write of its own, as the files of a
// cgroup want it.
func writeFile(dir, name string, values ...string) error {
	path := dir + "/" + name
	var fd int
	err := retry(func() (e error) { fd, e = unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0); return })
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for _, value := range values {
		err := retry(func() (e error) { _, e = unix.Write(fd, []byte(value)); return })
		if err != nil {
			return fmt.Errorf("write %q: %w", value, &os.PathError{Op: "write", Path: path, Err: err})
		}
	}
	return nil
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
