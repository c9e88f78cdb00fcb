package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// world is what one script has: an agent's directories and a network.
type world struct {
	name   string
	dir    string
	host   netns.NsHandle // the network namespace that is the agent's host
	agent  *exec.Cmd      // nil while none runs
	log    *os.File
	notes  map[string]string
	target *target
	// kubectl runs on the agent's host; empty where the script has none.
	kubectl string
	tcp     net.Listener
	// ends are called last to first when the script is over.
	ends []func()
}

var worlds atomic.Int32

// newWorld makes a world in an empty directory and loads images into it.
func newWorld(dir string, archives ...string) (*world, error) {
	w := &world{
		name:  fmt.Sprintf("podde2e%d-%d", os.Getpid(), worlds.Add(1)),
		dir:   dir,
		notes: map[string]string{},
	}
	for _, dir := range []string{"manifests", "root", "run", "logs"} {
		if err := os.MkdirAll(filepath.Join(w.dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	// In memory, as /run is; close unmounts it.
	if err := unix.Mount("e2e", filepath.Join(w.dir, "run"), "tmpfs", 0, "mode=755"); err != nil {
		return nil, fmt.Errorf("cannot mount the run directory: %w", err)
	}
	if err := w.makeNetwork(); err != nil {
		return nil, err
	}
	for _, archive := range archives {
		if out, err := w.command("image", "load", archive).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("cannot load the test image: %w\n%s", err, out)
		}
	}
	return w, nil
}

// makeNetwork makes a namespace with a loopback device and, so that pods have
// an outside, an uplink to nowhere with a default route.
func (w *world) makeNetwork() error {
	runtime.LockOSThread() // unlocked only once the thread is back home
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	if w.host, err = netns.New(); err != nil {
		return err
	}
	err = setUpHost()
	if back := netns.Set(home); back != nil {
		return back
	}
	runtime.UnlockOSThread()
	return err
}

func setUpHost() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "uplink-far"}
	if err := netlink.LinkAdd(uplink); err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("192.0.2.10/24")
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.LinkSetUp(lo),
		netlink.AddrAdd(uplink, addr),
		netlink.LinkSetUp(uplink),
		netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)}),
	)
}

// inHost runs f in the world's network namespace.
func (w *world) inHost(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(w.host); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// command is podd with this world's directories.
func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, "podd"), append([]string{
		"--root-dir", filepath.Join(w.dir, "root"), "--run-dir", filepath.Join(w.dir, "run"),
	}, args...)...)
	cmd.Dir = w.dir
	return cmd
}

// kubectlCommand is kubectl as root of the agent's host.
func (w *world) kubectlCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(w.kubectl, args...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(w.dir, "root/kubeconfig"), "HOME="+filepath.Join(w.dir, "home"))
	return cmd
}

const readOnlyPort = "10255"

// startAgent starts the agent and returns when it answers.
func (w *world) startAgent(args []string) error {
	if w.agent != nil {
		return errors.New("an agent runs already")
	}
	cmd := w.command(append([]string{
		"run", "--manifests", filepath.Join(w.dir, "manifests"), "--pod-logs-dir", filepath.Join(w.dir, "logs"),
		"--cgroup-root", w.name, "--hostname-override", "node", "--read-only-port", readOnlyPort,
	}, args...)...)
	log, err := os.OpenFile(filepath.Join(w.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := w.inHost(cmd.Start); err != nil {
		return err
	}
	w.agent = cmd
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		if _, err := w.fetch(ctx, "http://127.0.0.1:"+readOnlyPort+"/healthz"); err == nil {
			return nil
		}
		if unix.Kill(cmd.Process.Pid, 0) != nil || ctx.Err() != nil {
			w.endAgent(unix.SIGQUIT) // where it hangs, if it does, is in its log
			return fmt.Errorf("the agent does not answer:\n%s", w.agentLog())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// endAgent sends the signal and waits for the agent's end.
func (w *world) endAgent(sig os.Signal) error {
	if w.agent == nil {
		return errors.New("no agent runs")
	}
	if err := w.agent.Process.Signal(sig); err != nil {
		return err
	}
	err := w.agent.Wait()
	w.agent = nil
	if strings.Contains(w.agentLog(), "DATA RACE") {
		return fmt.Errorf("data race in the agent:\n%s", w.agentLog())
	}
	if sig == unix.SIGKILL {
		return nil
	}
	return err
}

func (w *world) agentLog() string {
	data, _ := os.ReadFile(filepath.Join(w.dir, "agent.log")) // empty where none was started
	return string(data)
}

// transport connects as something on the world's host would.
func (w *world) transport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			inErr := w.inHost(func() error {
				var d net.Dialer
				conn, err = d.DialContext(ctx, network, addr)
				return err
			})
			return conn, inErr
		},
	}
}

// fetch gets a page as something on the world's host would.
func (w *world) fetch(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: w.transport()}).Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, errors.New(resp.Status)
	}
	return resp, err
}

// things lists everything an agent may leave behind: processes below the
// world's cgroups, those cgroups, mounts below its directory, links of its
// network, pod directories.
func (w *world) things() string {
	var all []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, w.name+"/") {
			switch d.Name() {
			case "burstable", "besteffort", "podd-pause":
			default:
				procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
				all = append(all, "cgroup "+path+" processes "+strings.Join(strings.Fields(string(procs)), ","))
			}
		}
		return nil
	})
	for _, at := range mountsBelow(filepath.Join(w.dir, "root")) {
		all = append(all, "mount "+at)
	}
	w.inHost(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "veth" && !strings.HasPrefix(l.Attrs().Name, "uplink") {
				all = append(all, "link "+l.Attrs().Name)
			}
		}
		return err
	})
	for _, pattern := range []string{"root/pods/*", "run/pods/*", "logs/*", "logs-containers/*"} {
		all = append(all, w.files(pattern)...)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// close ends everything of the world, whatever the script left.
func (w *world) close() {
	for _, end := range w.ends {
		defer end()
	}
	if w.agent == nil {
		if err := w.startAgent(nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if w.agent != nil {
		for _, m := range w.files("manifests/*") {
			os.Remove(m)
		}
		for deadline := time.Now().Add(patience); w.things() != "" && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
		w.endAgent(unix.SIGTERM)
	}
	if left := w.things(); left != "" {
		fmt.Fprintf(os.Stderr, "left behind by %s:\n%s\n%s", w.dir, left, w.agentLog())
	}
	for _, controller := range []string{"", "burstable", "besteffort", "podd-pause"} {
		groups, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", w.name, controller))
		direct, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", w.name, controller))
		defer func() {
			for _, g := range append(groups, direct...) {
				os.Remove(g)
			}
		}()
	}
	w.leave()
}

// leave lets go of the world's network and unmounts what lies below its
// directory.
func (w *world) leave() {
	w.host.Close()
	// The run directory, the root directory where it had to be made shared, and
	// what a script that failed has mounted.
	for _, at := range slices.Backward(mountsBelow(w.dir)) {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			fmt.Fprintf(os.Stderr, "cannot unmount %s: %v\n", at, err)
		}
	}
}

// files are the files of the world that match a pattern, whatever its directory
// is called.
func (w *world) files(pattern string) []string {
	found, _ := fs.Glob(os.DirFS(w.dir), pattern) // the pattern is well formed
	for i := range found {
		found[i] = filepath.Join(w.dir, found[i])
	}
	return found
}

// mountsBelow lists what is mounted below a directory, outer mounts first.
func mountsBelow(dir string) []string {
	mounts, _ := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	var all []string
	for _, m := range mounts {
		all = append(all, m.Mountpoint)
	}
	return all
}
