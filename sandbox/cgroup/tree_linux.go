package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// pauseDir holds the pause processes' groups, beside the pods.
const pauseDir = "podd-pause"

// Tree is the agent's part of the machine's control groups.
type Tree struct {
	root    string // relative to every mount point, without slashes at the ends
	version Version
	hiers   []hierarchy
	log     logr.Logger
}

// Open finds the machine's cgroup hierarchies and creates the agent's groups in
// them: root, and below it burstable, besteffort and podd-pause. On v2 it turns
// on the controllers on the way down to root; processes of others stay where
// they are. Opening an existing tree changes nothing in it.
//
// root is a path below the mount points, such as "podd" or "podd.slice/pods".
func Open(root string, log logr.Logger) (*Tree, error) {
	hiers, version, err := detect("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return open(root, hiers, version, log)
}

func open(root string, hiers []hierarchy, version Version, log logr.Logger) (*Tree, error) {
	root = strings.Trim(root, "/")
	if root == "" || root != filepath.Clean(root) || root == ".." || strings.HasPrefix(root, "../") || root == "." {
		return nil, fmt.Errorf("cannot use cgroup root %q: expected a path below the cgroup mount point, such as \"podd\"", root)
	}
	t := &Tree{root: root, version: version, hiers: hiers, log: log}
	if err := t.enableControllers(); err != nil {
		return nil, err
	}
	for _, dir := range []string{"", "burstable", "besteffort", pauseDir} {
		g := t.group(filepath.Join(root, dir))
		if err := g.create(); err != nil {
			return nil, err
		}
		if err := g.delegate(); err != nil {
			return nil, err
		}
	}
	if t.has("cpu") {
		if err := t.group(filepath.Join(root, "besteffort")).Set(Limits{CPUShares: 2}); err != nil {
			return nil, err
		}
	}
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !t.has(c) {
			log.Info("cgroup controller is missing; pods that set limits for it will not start", "controller", c)
		}
	}
	return t, nil
}

// enableControllers hands the v2 hierarchy's controllers down to the root
// group's parent, and forgets those that do not get there.
func (t *Tree) enableControllers() error {
	for i := range t.hiers {
		h := &t.hiers[i]
		if !h.unified || len(h.controllers) == 0 {
			continue
		}
		dir := h.dir
		for _, name := range strings.Split(t.root, "/") {
			available, err := readFile(dir, "cgroup.controllers")
			if err != nil {
				return fmt.Errorf("cannot read the controllers of cgroup %s: %w", dir, err)
			}
			fields := strings.Fields(available)
			h.controllers = slices.DeleteFunc(h.controllers, func(c string) bool { return !slices.Contains(fields, c) })
			if err := enable(dir, h.controllers); err != nil {
				return err
			}
			dir = filepath.Join(dir, name)
			if err := mkdir(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// Version tells which layout the machine has.
func (t *Tree) Version() Version { return t.version }

// Controllers lists the controllers in use, sorted, by their names on this
// machine: "cpuacct" and "devices" exist on v1 only.
func (t *Tree) Controllers() []string {
	var all []string
	for _, h := range t.hiers {
		all = append(all, h.controllers...)
	}
	slices.Sort(all)
	return all
}

func (t *Tree) has(controller string) bool {
	for _, h := range t.hiers {
		if h.has(controller) {
			return true
		}
	}
	return false
}

// Root is the group above all pods, for limits on all of them together.
func (t *Tree) Root() *Group { return t.group(t.root) }

// Pod creates the group of one pod, or completes it, and applies its limits.
// uid becomes part of a file name.
func (t *Tree) Pod(qos v1.PodQOSClass, uid string, lim Limits) (*Group, error) {
	path, err := t.podPath(qos, uid)
	if err != nil {
		return nil, err
	}
	g := t.group(path)
	if err := g.create(); err != nil {
		return nil, err
	}
	if err := g.delegate(); err != nil {
		return nil, err
	}
	if err := g.Set(lim); err != nil {
		return nil, err
	}
	return g, nil
}

// FindPod names the group of one pod without creating it.
func (t *Tree) FindPod(qos v1.PodQOSClass, uid string) (*Group, error) {
	path, err := t.podPath(qos, uid)
	if err != nil {
		return nil, err
	}
	return t.group(path), nil
}

// Container creates the group of one container below its pod's. It has no
// limits yet: those are for [Group.Set], once the process inside has finished
// preparations that may need more than the container is given.
func (t *Tree) Container(qos v1.PodQOSClass, uid, id string) (*Group, error) {
	g, err := t.FindContainer(qos, uid, id)
	if err != nil {
		return nil, err
	}
	return g, g.create()
}

// FindContainer names the group of one container without creating it.
func (t *Tree) FindContainer(qos v1.PodQOSClass, uid, id string) (*Group, error) {
	path, err := t.podPath(qos, uid)
	if err != nil {
		return nil, err
	}
	if err := checkName("container id", id); err != nil {
		return nil, err
	}
	return t.group(filepath.Join(path, id)), nil
}

// Pause creates the group of one sandbox's pause process, outside the pod's.
func (t *Tree) Pause(id string) (*Group, error) {
	g, err := t.FindPause(id)
	if err != nil {
		return nil, err
	}
	return g, g.create()
}

// FindPause names the group of one sandbox's pause process without creating it.
func (t *Tree) FindPause(id string) (*Group, error) {
	if err := checkName("sandbox id", id); err != nil {
		return nil, err
	}
	return t.group(filepath.Join(t.root, pauseDir, id)), nil
}

// Pods lists the uids of all pods that have a group in any hierarchy, sorted.
func (t *Tree) Pods() ([]string, error) {
	var uids []string
	for _, dir := range podParents {
		names, err := t.children(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if uid, ok := strings.CutPrefix(name, "pod"); ok && uid != "" && (dir != "" || name != pauseDir) {
				uids = append(uids, uid)
			}
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids), nil
}

// Pauses lists the sandbox ids that have a pause group, sorted.
func (t *Tree) Pauses() ([]string, error) { return t.children(pauseDir) }

// children lists the groups below dir, a path below the root group, in any
// hierarchy, sorted.
func (t *Tree) children(dir string) ([]string, error) {
	var names []string
	for _, h := range t.hiers {
		found, err := subdirs(filepath.Join(h.dir, t.root, dir))
		if err != nil {
			return nil, fmt.Errorf("cannot list cgroup %s: %w", filepath.Join(t.root, dir), err)
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// RemovePod kills what is left in the pod's groups, whatever its QoS class was,
// and removes them. A pod without groups is no error.
func (t *Tree) RemovePod(ctx context.Context, uid string) error {
	if err := checkName("pod uid", uid); err != nil {
		return err
	}
	var errs []error
	for _, dir := range podParents {
		g := t.group(filepath.Join(t.root, dir, "pod"+uid))
		if !g.Exists() {
			continue
		}
		err := g.Kill(ctx)
		if err == nil {
			err = g.Remove(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// SetBurstableShares gives the Burstable pods together the weight of their
// summed CPU requests, so that many small ones do not outweigh a Guaranteed pod.
func (t *Tree) SetBurstableShares(shares uint64) error {
	return t.group(filepath.Join(t.root, "burstable")).Set(Limits{CPUShares: max(shares, 2)})
}

// Close removes the root group and everything below it. It fails while any
// process is left inside.
func (t *Tree) Close(ctx context.Context) error { return t.Root().Remove(ctx) }

// podParents are the places of pods below the root group.
var podParents = [...]string{"", "burstable", "besteffort"}

func (t *Tree) podPath(qos v1.PodQOSClass, uid string) (string, error) {
	if err := checkName("pod uid", uid); err != nil {
		return "", err
	}
	switch qos {
	case v1.PodQOSGuaranteed:
		return filepath.Join(t.root, "pod"+uid), nil
	case v1.PodQOSBurstable:
		return filepath.Join(t.root, "burstable", "pod"+uid), nil
	case v1.PodQOSBestEffort:
		return filepath.Join(t.root, "besteffort", "pod"+uid), nil
	}
	return "", fmt.Errorf("cannot place pod %s: expected QoS class Guaranteed, Burstable or BestEffort; found %q", uid, qos)
}

// checkName refuses what is not one plain element of a path.
func checkName(what, name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 200 || strings.ContainsAny(name, "/\x00\n") {
		return fmt.Errorf("cannot use %s %q as the name of a cgroup", what, name)
	}
	return nil
}

// enable turns controllers on for the children of dir.
func enable(dir string, controllers []string) error {
	on, err := readFile(dir, "cgroup.subtree_control")
	if err != nil {
		return fmt.Errorf("cannot read the controllers of cgroup %s: %w", dir, err)
	}
	fields := strings.Fields(on)
	var missing []string
	for _, c := range controllers {
		if !slices.Contains(fields, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	err = writeFile(dir, "cgroup.subtree_control", strings.Join(missing, " "))
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("cannot enable controllers %s below cgroup %s: processes live in that group itself; "+
			"move them into a child group, or choose another cgroup root", strings.Join(missing, " "), dir)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("cannot enable controllers %s below cgroup %s: the group is threaded; "+
			"choose another cgroup root", strings.Join(missing, " "), dir)
	case err != nil:
		return fmt.Errorf("cannot enable controllers %s below cgroup %s: %w", strings.Join(missing, " "), dir, err)
	}
	return nil
}

func mkdir(dir string) error {
	err := retry(func() error { return unix.Mkdir(dir, 0o755) })
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("cannot create cgroup %s: the cgroup file system is mounted read-only; remount it writable", dir)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("cannot create cgroup %s: %w; the agent must run as root, or own the parent group", dir, err)
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("cannot create cgroup %s: %w; cgroup.max.descendants or cgroup.max.depth of a parent is reached", dir, err)
	}
	return &os.PathError{Op: "mkdir", Path: dir, Err: err}
}
