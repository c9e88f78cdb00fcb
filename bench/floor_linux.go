package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"podd/container/seccomp"
)

// floor does by bare system calls what a pod with one container needs, and
// nothing that makes it safe, repeatable or observable. What it takes is what
// the kernel takes.
type floor struct {
	w    *world
	dir  string
	host *netlink.Handle // in the agent's network namespace
}

func newFloor(w *world) (*floor, error) {
	f := &floor{w: w, dir: filepath.Join(w.dir, "floor")}
	if err := writeRoot(filepath.Join(f.dir, "image")); err != nil {
		return nil, err
	}
	host, err := netlink.NewHandleAt(w.host, unix.NETLINK_ROUTE)
	f.host = host
	return f, err
}

func (f *floor) close() { f.host.Close() }

// floorPod is what one run of the floor has made.
type floorPod struct {
	name string
	pid  int
}

// start makes namespaces, a veth pair, mounts, and executes the workload that
// idle describes. It does so on a thread of its own, which leaves its namespaces
// to the workload and ends.
func (f *floor) start(name string) (p floorPod, err error) {
	p.name = name
	onThread(func() { p.pid, err = f.run(name) })
	if err != nil {
		err = fmt.Errorf("floor: %w", err)
	}
	return p, err
}

func (f *floor) run(name string) (pid int, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return 0, fmt.Errorf("cannot make namespaces: %w", err)
	}
	if err := f.network(name); err != nil {
		return 0, fmt.Errorf("cannot make the network: %w", err)
	}
	return f.container(name)
}

// container does the part that starting one more container takes.
func (f *floor) container(name string) (pid int, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP); err != nil {
		return 0, fmt.Errorf("cannot make namespaces: %w", err)
	}
	if err := f.mount(name); err != nil {
		return 0, fmt.Errorf("cannot mount: %w", err)
	}
	pid, err = syscall.ForkExec("/bin/sh", []string{"sh", "-c", idle(name)}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/bin"}, Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID},
	})
	if err != nil {
		return 0, fmt.Errorf("cannot execute the workload: %w", err)
	}
	return pid, nil
}

// network runs in the pod's namespace.
func (f *floor) network(name string) error {
	master, err := f.host.LinkByName(bridge)
	if err != nil {
		return err
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	pod, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer pod.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: master.Attrs().Index, Flags: net.FlagUp},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(ns.Fd()),
	}
	if err := f.host.LinkAdd(veth); err != nil {
		return err
	}
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0, err := pod.LinkByName("eth0")
	if err != nil {
		return err
	}
	return errors.Join(
		pod.LinkSetUp(lo),
		pod.LinkSetUp(eth0),
		pod.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 244, 0, 254), Mask: net.CIDRMask(24, 32)}}),
		pod.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 244, 0, 1)}),
	)
}

// mount makes the container's file systems and makes them the thread's root.
// The proc file system is the one of the host's processes, since nobody is in
// the new PID namespace yet; that costs the same.
func (f *floor) mount(name string) error {
	dir := filepath.Join(f.dir, name)
	root := filepath.Join(dir, "root")
	for _, d := range []string{dir, dir + "/upper", dir + "/work", root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	options := "lowerdir=" + f.dir + "/image,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return err
	}
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"proc", "/proc", "proc", strict, ""},
		{"tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755,size=65536k"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"mqueue", "/dev/mqueue", "mqueue", strict, ""},
		{"sysfs", "/sys", "sysfs", strict | unix.MS_RDONLY, ""},
		{filepath.Join(f.w.dir, "shared"), "/bench", "", unix.MS_BIND | unix.MS_REC, ""},
		{f.file("hosts"), "/etc/hosts", "", unix.MS_BIND, ""},
		{f.file("hostname"), "/etc/hostname", "", unix.MS_BIND, ""},
		{f.file("resolv.conf"), "/etc/resolv.conf", "", unix.MS_BIND, ""},
		{f.file("shm"), "/dev/shm", "", unix.MS_BIND, ""},
		{f.file("termination-log"), "/dev/termination-log", "", unix.MS_BIND, ""},
	} {
		target := root + m.target
		if m.flags&unix.MS_BIND != 0 && m.target != "/bench" {
			if err := makeLike(m.source, target); err != nil {
				return err
			}
		} else if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("%s: %w", m.target, err)
		}
	}
	for i, d := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		number := []uint64{unix.Mkdev(1, 3), unix.Mkdev(1, 5), unix.Mkdev(1, 7), unix.Mkdev(1, 8), unix.Mkdev(1, 9), unix.Mkdev(5, 0)}[i]
		if err := unix.Mknod(root+"/dev/"+d, unix.S_IFCHR|0o666, int(number)); err != nil {
			return err
		}
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// file is one that all floor pods share, as a pod's containers share theirs.
func (f *floor) file(name string) string { return filepath.Join(f.dir, "files", name) }

func (f *floor) makeFiles() error {
	if err := os.MkdirAll(f.file("shm"), 0o755); err != nil {
		return err
	}
	for _, n := range []string{"hosts", "hostname", "resolv.conf", "termination-log"} {
		if err := os.WriteFile(f.file(n), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeLike makes a mount point for source.
func makeLike(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(target, 0o755)
	}
	return os.WriteFile(target, nil, 0o644)
}

// stop ends the workload and returns when its process, mounts, link and
// directories are gone.
func (f *floor) stop(p floorPod) error {
	if err := unix.Kill(p.pid, unix.SIGTERM); err != nil {
		return err
	}
	if _, err := unix.Wait4(p.pid, nil, 0, nil); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(f.dir, p.name)); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); slices.Contains(f.w.links(), p.name); {
		if time.Now().After(deadline) {
			return fmt.Errorf("floor: link %s stays", p.name)
		}
		time.Sleep(200 * time.Microsecond)
	}
	return nil
}

// cpuOfHere returns the processor time that n calls of f take, of this thread
// and of processes it starts. The caller has the thread to itself.
func cpuOfHere(n int, f func() error) (time.Duration, error) {
	var own, children [2]unix.Rusage
	read := func(i int) error {
		return errors.Join(unix.Getrusage(unix.RUSAGE_THREAD, &own[i]), unix.Getrusage(unix.RUSAGE_CHILDREN, &children[i]))
	}
	if err := read(0); err != nil {
		return 0, err
	}
	for range n {
		if err := f(); err != nil {
			return 0, err
		}
	}
	if err := read(1); err != nil {
		return 0, err
	}
	used := func(i int) int64 {
		return own[i].Utime.Nano() + own[i].Stime.Nano() + children[i].Utime.Nano() + children[i].Stime.Nano()
	}
	return time.Duration((used(1) - used(0)) / int64(n)), nil
}

// container is one that runs, as a bare exec joins it.
type container struct {
	pidfd   int
	tasks   []int // of cgroup v1, to write to
	unified int   // its cgroup v2 directory, or -1
	filter  []byte
}

func (c *container) close() {
	for _, fd := range append(c.tasks, c.pidfd, c.unified) {
		unix.Close(fd)
	}
}

// anyContainer opens a container of a pod of the agent under test.
func (b *bench) anyContainer() (c *container, err error) {
	var dirs []string
	for _, dir := range b.groups("besteffort/pod*/*") {
		if len(processes(dir)) > 0 {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return nil, errors.New("floor: no container runs")
	}
	name := filepath.Base(dirs[0])
	dirs = slices.DeleteFunc(dirs, func(dir string) bool { return filepath.Base(dir) != name })
	c = &container{pidfd: -1, unified: -1}
	for _, dir := range dirs {
		// Only v1 has tasks.
		if fd, terr := unix.Open(filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC, 0); terr == nil {
			c.tasks = append(c.tasks, fd)
		} else if c.unified, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			c.close()
			return nil, err
		}
	}
	if c.pidfd, err = unix.PidfdOpen(processes(dirs[0])[0], 0); err == nil {
		c.filter, err = defaultFilter()
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func defaultFilter() ([]byte, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	kernel, err := seccomp.ParseKernel(unix.ByteSliceToString(u.Release[:]))
	if err != nil {
		return nil, err
	}
	return seccomp.Compile(seccomp.Default(nil, kernel, runtime.GOARCH), runtime.GOARCH)
}

// execTrue is an exec probe's floor: join, fork, exec, wait, filter. It returns
// the processor time of the thread, without its birth and death, and of the
// command. The thread is spent.
func (c *container) execTrue() (used time.Duration, err error) {
	var before, after unix.Timespec
	var usage unix.Rusage
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before); err != nil {
		return 0, err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return 0, err
	}
	for _, t := range c.tasks {
		if _, err := unix.Write(t, []byte("0")); err != nil {
			return 0, fmt.Errorf("floor: cannot join the container's cgroup: %w", err)
		}
	}
	if err := unix.Setns(c.pidfd, unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS); err != nil {
		return 0, fmt.Errorf("floor: cannot join the container's namespaces: %w", err)
	}
	attr := &syscall.ProcAttr{Sys: &syscall.SysProcAttr{UseCgroupFD: c.unified >= 0, CgroupFD: c.unified}}
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, attr)
	if err != nil {
		return 0, err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, &usage); err != nil {
		return 0, err
	}
	if status.ExitStatus() != 0 {
		return 0, fmt.Errorf("floor: true exits with %d", status.ExitStatus())
	}
	// Afterwards, as it forbids the clone3 that enters a cgroup; it costs the same.
	program := unix.SockFprog{Len: uint16(len(c.filter) / unix.SizeofSockFilter), Filter: (*unix.SockFilter)(unsafe.Pointer(&c.filter[0]))}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return 0, fmt.Errorf("floor: cannot install a filter: %w", errno)
	}
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after); err != nil {
		return 0, err
	}
	return time.Duration(after.Nano() - before.Nano() + usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// execFloor is the mean of many bare execs in a container.
func (b *bench) execFloor() (*float64, error) {
	c, err := b.anyContainer()
	if err != nil {
		return nil, err
	}
	defer c.close()
	var sum time.Duration
	n := b.runs(200, 60)
	for range n {
		paced()
		onThread(func() {
			var used time.Duration
			used, err = c.execTrue()
			sum += used
		})
		if err != nil {
			return nil, err
		}
	}
	return number(inMS(sum / time.Duration(n))), nil
}

// paced waits as long as there is between two attempts of the probes measured, so
// that caches are as cold.
func paced() { unix.Nanosleep(&unix.Timespec{Nsec: int64(time.Second / 60)}, nil) }

// connectTo is a tcp probe's floor, and with a request an http probe's.
func connectTo(to unix.SockaddrInet4, request []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &to); err != nil {
		return fmt.Errorf("floor: cannot connect: %w", err)
	}
	if request == nil {
		return nil
	}
	if _, err := unix.Write(fd, request); err != nil {
		return err
	}
	var answer strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		answer.Write(buf[:n])
	}
	if !strings.Contains(answer.String(), " 200 ") {
		return fmt.Errorf("floor: unexpected answer %q", answer.String())
	}
	return nil
}
