package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that takes well under a second.
const patience = 60 * time.Second

const (
	bridge  = "podd0"
	address = "127.0.0.1:10255" // of the read-only port, in a namespace of its own
)

// world is the agent under test, and all it has.
type world struct {
	bin   string // directory of podd and podd-pause
	dir   string
	group string // cgroup root
	host  netns.NsHandle
	agent *exec.Cmd // nil while none runs
	lines chan line // what pods write into the fifo
	fifo  *os.File
}

// line is one line that a pod wrote, and when it arrived.
type line struct {
	at   time.Time
	text string
}

func newWorld(bin string) (*world, error) {
	dir, err := os.MkdirTemp("", "podd-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{bin: bin, dir: dir, group: filepath.Base(dir), host: netns.None(), lines: make(chan line, 4096)}
	if err := w.setUp(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) setUp() error {
	for _, d := range []string{"manifests", "staging", "root", "run", "logs", "shared"} {
		if err := os.MkdirAll(filepath.Join(w.dir, d), 0o755); err != nil {
			return err
		}
	}
	// In memory, as /run is on users' machines.
	if err := unix.Mount("podd-bench", filepath.Join(w.dir, "run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("cannot mount a file system in memory: %w", err)
	}
	if err := w.makeFifo(); err != nil {
		return err
	}
	if err := w.makeNetwork(); err != nil {
		return fmt.Errorf("cannot make a network namespace: %w", err)
	}
	archive := filepath.Join(w.dir, "image.tar")
	if err := writeImage(archive); err != nil {
		return fmt.Errorf("cannot make the image: %w", err)
	}
	if out, err := w.podd("image", "load", archive).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot load the image: %w\n%s", err, out)
	}
	return nil
}

// makeFifo makes what pods report through, and starts its reader. It stays open
// for writing here, so that the reader never sees its end.
func (w *world) makeFifo() error {
	path := filepath.Join(w.dir, "shared", "fifo")
	if err := unix.Mkfifo(path, 0o622); err != nil {
		return err
	}
	// Blocking, on a thread that does nothing else: a line's time is when the
	// kernel wakes the reader, without a detour through a poller.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.fifo = os.NewFile(uintptr(fd), path)
	go w.readFifo(fd) // ends with the line that close writes
	return nil
}

const lastLine = "the bench ends"

func (w *world) readFifo(fd int) {
	runtime.LockOSThread()
	var rest []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		now := time.Now()
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		rest = append(rest, buf[:n]...)
		for {
			text, after, ok := bytes.Cut(rest, []byte("\n"))
			if !ok {
				break
			}
			if string(text) == lastLine {
				return
			}
			w.lines <- line{now, string(text)}
			rest = after
		}
	}
}

// await returns when the line has arrived, and drops others before it.
func (w *world) await(ctx context.Context, text string) (time.Time, error) {
	times, err := w.awaitAll(ctx, []string{text})
	if err != nil {
		return time.Time{}, err
	}
	return times[0], nil
}

// awaitAll returns the times of arrival of all the lines, sorted.
func (w *world) awaitAll(ctx context.Context, texts []string) ([]time.Time, error) {
	missing := map[string]bool{}
	for _, t := range texts {
		missing[t] = true
	}
	var times []time.Time
	timeout := time.After(patience)
	for len(missing) > 0 {
		select {
		case l := <-w.lines:
			if missing[l.text] {
				delete(missing, l.text)
				times = append(times, l.at)
			}
		case <-timeout:
			return nil, fmt.Errorf("%d of %d pods have not said %q within %v\n%s", len(missing), len(texts), texts[0], patience, w.trouble())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return times, nil
}

// until waits for ok, looking often.
func (w *world) until(ctx context.Context, what string, ok func() bool) error {
	for deadline := time.Now().Add(patience); !ok(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %v\n%s", what, patience, w.trouble())
		}
		time.Sleep(200 * time.Microsecond)
	}
	return nil
}

// trouble is the end of the agent's log, for an error message.
func (w *world) trouble() string {
	data, _ := os.ReadFile(filepath.Join(w.dir, "agent.log")) // empty where none ran
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "the agent's last lines:\n" + strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// makeNetwork makes the namespace that is the agent's host, with an uplink to
// nowhere.
func (w *world) makeNetwork() (err error) {
	onThread(func() {
		if w.host, err = netns.New(); err != nil {
			return
		}
		uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "uplink-far"}
		if err = netlink.LinkAdd(uplink); err != nil {
			return
		}
		err = errors.Join(
			linkUp("lo"),
			netlink.AddrAdd(uplink, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 10), Mask: net.CIDRMask(24, 32)}}),
			netlink.LinkSetUp(uplink),
			netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)}),
		)
	})
	return err
}

func linkUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// onThread runs f on a thread of its own, which then ends, and waits for it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good; never the leader, which main holds
		f()
	}()
	<-done
}

// inHost runs f in the agent's network namespace.
func (w *world) inHost(f func() error) (err error) {
	onThread(func() {
		if err = netns.Set(w.host); err == nil {
			err = f()
		}
	})
	return err
}

func (w *world) podd(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(w.bin, "podd"), append([]string{
		"--root-dir", filepath.Join(w.dir, "root"), "--run-dir", filepath.Join(w.dir, "run"),
	}, args...)...)
	cmd.Dir = w.dir
	return cmd
}

// startAgent starts the agent without waiting for it.
func (w *world) startAgent() error {
	cmd := w.podd("run", "--manifests", filepath.Join(w.dir, "manifests"), "--pod-logs-dir", filepath.Join(w.dir, "logs"),
		"--cgroup-root", w.group, "--bridge", bridge, "--hostname-override", "node")
	cmd.Env = append(os.Environ(), agentEnv...)
	log, err := os.OpenFile(filepath.Join(w.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C ends the bench, which still needs the agent.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := w.inHost(cmd.Start); err != nil {
		return fmt.Errorf("cannot start the agent: %w", err)
	}
	w.agent = cmd
	return nil
}

// agentEnv is added to the agent's environment, for experiments.
var agentEnv = strings.Fields(os.Getenv("PODD_BENCH_AGENT_ENV"))

// running starts an agent and waits until it answers.
func (w *world) running(ctx context.Context) error {
	if err := w.startAgent(); err != nil {
		return err
	}
	return w.until(ctx, "the agent answers", func() bool {
		_, err := w.get("/healthz")
		return err == nil
	})
}

// endAgent ends the agent and waits for its end.
func (w *world) endAgent(sig os.Signal) {
	w.agent.Process.Signal(sig)
	w.agent.Wait()
	w.agent = nil
}

// get fetches a page of the read-only port.
func (w *world) get(path string) ([]byte, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
			inErr := w.inHost(func() error {
				conn, err = net.DialTimeout("tcp", address, 5*time.Second)
				return nil
			})
			return conn, errors.Join(inErr, err)
		},
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get("http://" + address + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// pod is a manifest. Its command may use $say, which writes a line to the fifo
// in one piece.
func (w *world) pod(name, script, extra string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - name: main
    image: %s
    imagePullPolicy: Never
    command: [sh, -c, %q]
    volumeMounts:
    - {name: shared, mountPath: /bench}
%s  volumes:
  - name: shared
    hostPath: {path: %s, type: Directory}
`, name, imageName, script, extra, filepath.Join(w.dir, "shared"))
}

// idle is the script of a pod that says so when it has started, then waits, and
// honours SIGTERM at once.
func idle(name string) string {
	return "trap 'exit 0' TERM; echo started " + name + " >/bench/fifo; sleep 1000000 & wait"
}

// drop renames manifests into the watched directory, all at once, and returns
// when it began to.
func (w *world) drop(pods map[string]string) (time.Time, error) {
	for name, text := range pods {
		if err := os.WriteFile(w.staging(name), []byte(text), 0o644); err != nil {
			return time.Time{}, err
		}
	}
	began := time.Now()
	for name := range pods {
		if err := os.Rename(w.staging(name), w.manifest(name)); err != nil {
			return time.Time{}, err
		}
	}
	return began, nil
}

func (w *world) staging(name string) string  { return filepath.Join(w.dir, "staging", name+".yaml") }
func (w *world) manifest(name string) string { return filepath.Join(w.dir, "manifests", name+".yaml") }

// clear removes all manifests and waits until nothing is left of their pods.
func (w *world) clear(ctx context.Context) error {
	files, err := filepath.Glob(w.manifest("*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return w.until(ctx, "all pods are gone", func() bool { return w.things().gone(w) && w.things().empty() })
}

// things are what pods are made of, outside of files.
type things struct {
	paths  []string // cgroups and directories
	pids   []int
	mounts []string // mount points
	links  []string // host ends
}

func (t things) empty() bool {
	return len(t.paths) == 0 && len(t.pids) == 0 && len(t.mounts) == 0 && len(t.links) == 0
}

func (t things) String() string {
	return fmt.Sprintf("paths %q, processes %v, mounts %q, links %q", t.paths, t.pids, t.mounts, t.links)
}

// things lists everything of all pods.
func (w *world) things() things {
	t := things{mounts: w.mounts(), links: w.links()}
	for _, root := range w.groups("") {
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() || path == root {
				return nil
			}
			if filepath.Dir(path) == root && slices.Contains(standing, d.Name()) {
				return nil
			}
			t.paths = append(t.paths, path)
			t.pids = append(t.pids, processes(path)...)
			return nil
		})
	}
	for _, pattern := range []string{"root/pods/*", "run/pods/*", "logs/*", "logs-containers/*"} {
		found, _ := filepath.Glob(filepath.Join(w.dir, pattern)) // the pattern is well formed
		t.paths = append(t.paths, found...)
	}
	slices.Sort(t.pids)
	t.pids = slices.Compact(t.pids)
	return t
}

// gone reports whether none of the things exists any more.
func (t things) gone(w *world) bool {
	for _, p := range t.pids {
		if unix.Kill(p, 0) == nil {
			return false
		}
	}
	for _, p := range t.paths {
		if _, err := os.Lstat(p); err == nil {
			return false
		}
	}
	both := func(before, now []string) bool {
		return slices.ContainsFunc(before, func(s string) bool { return slices.Contains(now, s) })
	}
	return !both(t.mounts, w.mounts()) && !both(t.links, w.links())
}

// standing are the agent's groups that outlive pods.
var standing = []string{"burstable", "besteffort", "podd-pause"}

// groups returns the directories of a group below the agent's root, one for
// each hierarchy that has it.
func (w *world) groups(below string) []string {
	path := filepath.Join(w.group, below)
	found, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", path)) // the pattern is well formed
	v1, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", path))
	return append(found, v1...)
}

func processes(group string) (pids []int) {
	data, _ := os.ReadFile(filepath.Join(group, "cgroup.procs")) // gone: no processes
	for f := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// pausePids returns the pause processes.
func (w *world) pausePids() (pids []int) {
	for _, g := range w.groups("podd-pause/*") {
		pids = append(pids, processes(g)...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func (w *world) mounts() (points []string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	prefix := w.dir + "/root/"
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) > 4 && strings.HasPrefix(f[4], prefix) {
			points = append(points, f[4])
		}
	}
	return points
}

// links returns the links that the agent's host has for pods.
func (w *world) links() (names []string) {
	if w.agent == nil {
		return nil
	}
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", w.agent.Process.Pid))
	for l := range strings.Lines(string(data)) {
		name, _, ok := strings.Cut(strings.TrimSpace(l), ":")
		if ok && name != "lo" && name != bridge && !strings.HasPrefix(name, "uplink") {
			names = append(names, name)
		}
	}
	return names
}

// close removes everything, whatever happened before.
func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if w.host.IsOpen() {
		if err := w.removePods(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			fmt.Fprintln(os.Stderr, "bench: left behind:", w.things())
		}
		if w.agent != nil {
			w.endAgent(unix.SIGTERM)
		}
		w.host.Close()
	}
	if w.fifo != nil {
		w.fifo.WriteString(lastLine + "\n")
	}
	for _, g := range w.groups("") {
		for _, d := range append(standing, "") {
			os.Remove(filepath.Join(g, d)) // what is not empty was told above
		}
	}
	for _, name := range []string{"root", "run"} {
		at := filepath.Join(w.dir, name)
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			fmt.Fprintf(os.Stderr, "bench: cannot unmount %s: %v\n", at, err)
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cannot remove the working directory:", err)
	}
}

func (w *world) removePods(ctx context.Context) error {
	if w.agent != nil && unix.Kill(w.agent.Process.Pid, 0) != nil {
		w.endAgent(unix.SIGKILL) // it died; the next one tidies up
	}
	if w.agent == nil {
		if w.things().empty() {
			return nil
		}
		if err := w.running(ctx); err != nil {
			return err
		}
	}
	return w.clear(ctx)
}

// cpu is how much processor time the agent and the groups below one group have
// used so far.
func (w *world) cpu(group string) (time.Duration, error) {
	own, err := processClock(w.agent.Process.Pid)
	if err != nil {
		return 0, fmt.Errorf("cannot read the agent's processor time: %w", err)
	}
	theirs, err := w.groupClock(group)
	return own + theirs, err
}

// processClock reads another process's processor time, of its ended threads
// too. Source: clock_getcpuclockid(3).
func processClock(pid int) (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|scheduler), &t)
	return time.Duration(t.Nano()), err
}

func (w *world) groupClock(group string) (time.Duration, error) {
	for _, dir := range w.groups(group) {
		if data, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage")); err == nil {
			ns, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
			return time.Duration(ns), err
		}
		data, _ := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		for l := range strings.Lines(string(data)) {
			if s, ok := strings.CutPrefix(l, "usage_usec "); ok {
				us, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
				return time.Duration(us) * time.Microsecond, err
			}
		}
	}
	return 0, fmt.Errorf("cannot find the processor time of cgroup %s", filepath.Join(w.group, group))
}

// pss returns a process's proportional share of memory in bytes.
func pss(pid int) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if f := strings.Fields(s.Text()); len(f) == 3 && f[0] == "Pss:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("cannot find the memory of process %d", pid)
}
