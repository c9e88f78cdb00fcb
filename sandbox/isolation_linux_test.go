package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// CVE-2019-5736: a container that gets at our executable must not change it.
func TestOurProgramCannotBeOverwrittenFromAContainer(t *testing.T) {
	w := newWorld(t)
	must(t, os.WriteFile(filepath.Join(w.image, "bin/self"), []byte("#!/proc/self/exe\n"), 0o755))
	before, err := os.ReadFile(pauseBinary)
	must(t, err)
	s := w.sandbox()
	// The stage re-executes itself here, as an ordinary process of the container.
	r := w.request("/bin/self")
	if c, out := w.runOut(s, r); c.Exit.Code != 2 || !strings.Contains(out, "podd-pause is started by podd") {
		t.Errorf("the script ran something else: %+v %q", c.Exit, out)
	}
	r = w.request("/bin/sleep", "1000")
	w.start(s, r)
	if res, err := w.exec(s, r.ID, "/bin/self"); err != nil || res.ExitCode != 2 {
		t.Errorf("exec of the script: %+v, %v", res, err)
	}
	st, err := s.State(ctxOf(t))
	must(t, err)
	exe := fmt.Sprintf("/proc/%d/exe", st.Pid)
	if target, err := os.Readlink(exe); err != nil || !strings.Contains(target, "memfd:podd-pause") {
		t.Fatalf("the pause process executes from %q, %v", target, err)
	}
	held, err := unix.Open(exe, unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(held)
	if _, err := os.OpenFile(exe, os.O_WRONLY, 0); err == nil {
		t.Error("a running pause process's program can be opened for writing")
	}
	// Once nobody runs it, opening works and only the seal protects it.
	must(t, w.host.Destroy(ctxOf(t), s.uid))
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", held), os.O_RDWR, 0)
	if err == nil {
		defer f.Close()
		_, err = f.WriteAt([]byte("x"), 0)
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("writing the program: %v", err)
	}
	if after, err := os.ReadFile(pauseBinary); err != nil || !bytes.Equal(after, before) {
		t.Error("the file on disk changed")
	}
}

// CVE-2024-21626: no descriptor of ours leads out of the container.
func TestDescriptorsLeadNowhere(t *testing.T) {
	w := newWorld(t)
	for _, hostPID := range []bool{false, true} {
		s := w.sandbox(func(w *Want) { w.HostPID = hostPID })
		r := w.request("/bin/sleep", "1000")
		w.start(s, r)
		for fd := 3; fd <= 20; fd++ {
			dir := fmt.Sprintf("/proc/self/fd/%d", fd)
			for _, path := range []string{dir, dir + "/bin/busybox", dir + "/../../../usr/bin/busybox", dir + "/usr/bin/busybox"} {
				if res, err := w.exec(s, r.ID, path, "true"); err == nil {
					t.Errorf("exec of %s ran: %+v", path, res)
				}
			}
			for _, cwd := range []string{dir, dir + "/..", dir + "/../../.."} {
				if res, err := s.Exec(ctxOf(t), Exec{ID: r.ID, Args: []string{"pwd"}, Cwd: cwd, OutputLimit: 100}); err == nil {
					t.Errorf("exec in %s ran: %+v %s", cwd, res, res.Output)
				}
			}
			bad := w.request("/bin/pwd")
			bad.Spec.Process.Cwd = dir
			if _, err := s.Start(ctxOf(t), bad); err == nil {
				t.Errorf("a container started in %s", dir)
			}
		}
		for _, out := range []string{w.execOK(s, r.ID, "sh", "-c", "cd /proc/self/fd; echo *"), w.sh(s, "cd /proc/self/fd; echo *")} {
			// The shell itself has the directory open while it lists.
			if out != "0 1 2 3\n" && out != "0 1 2\n" {
				t.Errorf("descriptors: %q", out)
			}
		}
	}
}

func TestWorkingDirectoryStaysInside(t *testing.T) {
	w := newWorld(t)
	must(t, os.Symlink("../../../../../../tmp", filepath.Join(w.image, "climb")))
	must(t, os.Symlink("/proc/self/fd/5", filepath.Join(w.image, "magic")))
	s := w.sandbox()
	for cwd, want := range map[string]string{"/../../etc": "/etc", "/climb": "/tmp", "/made/for/it": "/made/for/it", "": "/"} {
		r := w.request("/bin/pwd")
		r.Spec.Process.Cwd = cwd
		if _, out := w.runOut(s, r); out != want+"\n" {
			t.Errorf("working directory %q is %q, want %q", cwd, out, want)
		}
	}
	r := w.request("/bin/pwd")
	r.Spec.Process.Cwd = "/magic"
	if _, err := s.Start(ctxOf(t), r); err == nil || !strings.Contains(err.Error(), "enter working directory /magic") {
		t.Errorf("a magic link as working directory: %v", err)
	}
}

// CVE-2019-19921, CVE-2023-27561: what is ours in a container is not where an
// image says.
func TestImagesThatRedirectOurMountsDoNotStart(t *testing.T) {
	for _, name := range []string{"proc", "dev", "sys"} {
		w := newWorld(t)
		must(t, os.Remove(filepath.Join(w.image, name)))
		must(t, os.Symlink("/tmp", filepath.Join(w.image, name)))
		s := w.sandbox()
		if _, err := s.Start(ctxOf(t), w.request("/bin/true")); err == nil || !strings.Contains(err.Error(), "mount /"+name) {
			t.Errorf("/%s as a link: %v", name, err)
		}
	}
	w := newWorld(t)
	s := w.sandbox()
	for _, target := range []string{"/proc/sys", "/proc", "/proc/self/attr"} {
		r := w.request("/bin/true")
		r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: target, Type: "bind"})
		r.Trees[len(r.Spec.Mounts)-1] = cloneTree(t, t.TempDir())
		if _, err := s.Start(ctxOf(t), r); err == nil {
			t.Errorf("a volume was mounted at %s", target)
		}
	}
}

// CVE-2021-30465: a volume's mount point is swapped while a container starts.
func TestMountPointsSwappedDuringTheStart(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	shared := t.TempDir()
	must(t, os.Mkdir(filepath.Join(shared, "target"), 0o755))
	must(t, os.Symlink("../../../../../../../../../../tmp", filepath.Join(shared, "link")))
	volume := t.TempDir()
	must(t, os.WriteFile(filepath.Join(volume, "marker"), nil, 0o644))
	defer kerneltest.Swap(t, filepath.Join(shared, "target"), filepath.Join(shared, "link"))()
	for range 50 {
		// The volume is found inside the container, wherever the link led.
		r := w.request("/bin/sh", "-c", `i=0; while [ $i -lt 1000 ]; do for p in /shared/target /shared/link /tmp; do [ -e $p/marker ] && exit 0; done; i=$((i+1)); done; exit 1`)
		r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/shared", Type: "bind"}, specs.Mount{Destination: "/shared/target", Type: "bind"})
		n := len(r.Spec.Mounts)
		r.Trees[n-2], r.Trees[n-1] = cloneTree(t, shared), cloneTree(t, volume)
		if _, err := s.Start(ctxOf(t), r); err != nil {
			continue // found out and refused
		}
		if c := w.exit(s, r.ID); c.Exit.Code != 0 {
			t.Fatal("the volume was mounted outside the container")
		}
		must(t, s.Forget(ctxOf(t), r.ID))
	}
	if _, err := os.Stat("/tmp/marker"); err == nil {
		t.Fatal("the volume was mounted on the host")
	}
}

// CVE-2025-31133: masks are made of the null device and of nothing else.
func TestAFalseNullDeviceStopsTheStart(t *testing.T) {
	fakes := map[string]func(string) error{
		"link":   func(p string) error { return os.Symlink("/proc/sys/kernel/core_pattern", p) },
		"file":   func(p string) error { return os.WriteFile(p, nil, 0o666) },
		"zero":   func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"absent": func(string) error { return nil },
	}
	for name, fake := range fakes {
		w := newWorld(t)
		must(t, fake(filepath.Join(w.image, "dev/null")))
		s := w.sandbox()
		r := w.request("/bin/true")
		r.Spec.Mounts = r.Spec.Mounts[:1] // the image's own /dev
		if _, err := s.Start(ctxOf(t), r); err == nil || !strings.Contains(err.Error(), "/dev/null") {
			t.Errorf("/dev/null as %s: %v", name, err)
		}
	}
}

// CVE-2025-52565: the terminal is one of the container's own.
func TestTerminal(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sh", "-c", "tty; test -c /dev/console && stat -c %t /dev/console; stty size; ls /dev/pts; echo err >&2")
	r.TTY, r.Spec.Process.ConsoleSize = true, &specs.Box{Height: 33, Width: 77}
	_, out := w.runOut(s, r)
	if out != "/dev/console\n88\n33 77\n0  ptmx\nerr\n" && out != "/dev/pts/0\n88\n33 77\n0     ptmx\nerr\n" && !(strings.Contains(out, "33 77\n") && strings.Contains(out, "\n88\n") && strings.HasSuffix(out, "err\n")) {
		t.Errorf("terminal of a container: %q", out)
	}
	r = w.request("/bin/sleep", "1000")
	w.start(s, r)
	outR, outW, err := os.Pipe()
	must(t, err)
	resize := make(chan Size, 1)
	resize <- Size{Width: 99, Height: 11}
	res, err := s.Exec(ctxOf(t), Exec{ID: r.ID, TTY: true, Args: []string{"sh", "-c", "tty; stty size; exit 6"}, Stdout: outW, Resize: resize})
	outW.Close()
	buf := make([]byte, 1000)
	n, _ := outR.Read(buf)
	if err != nil || res.ExitCode != 6 || string(buf[:n]) != "/dev/pts/0\r\n11 99\r\n" {
		t.Errorf("terminal of an exec: %+v, %v, %q", res, err, buf[:n])
	}
	// A directory in place of devpts gives no terminal.
	bad := w.request("/bin/true")
	bad.TTY = true
	bad.Spec.Mounts[2] = specs.Mount{Destination: "/dev/pts", Type: "tmpfs", Source: "tmpfs"}
	if _, err := s.Start(ctxOf(t), bad); err == nil {
		t.Error("a terminal came from something that is no devpts")
	}
}

// CVE-2025-52881: kernel parameters are written to a procfs of our own, not to
// what lies at /proc.
func TestSysctlsDoNotGoThroughTheContainersProc(t *testing.T) {
	w := newWorld(t)
	must(t, os.MkdirAll(filepath.Join(w.image, "proc/sys/net/ipv4"), 0o755))
	decoy := filepath.Join(w.image, "proc/sys/net/ipv4/ip_local_port_range")
	must(t, os.WriteFile(decoy, []byte("decoy"), 0o666))
	s := w.sandbox()
	r := w.request("/bin/true")
	r.Spec.Mounts = r.Spec.Mounts[1:]
	r.Spec.Linux.MaskedPaths = nil
	r.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_local_port_range": "20000 30000"}
	w.runOut(s, r)
	if b, _ := os.ReadFile(decoy); string(b) != "decoy" {
		t.Errorf("the decoy was written: %q", b)
	}
	if out := w.sh(s, "cat /proc/sys/net/ipv4/ip_local_port_range"); strings.Join(strings.Fields(out), " ") != "20000 30000" {
		t.Errorf("sysctl: %q", out)
	}
	r = w.request("/bin/true")
	r.Spec.Linux.Sysctl = map[string]string{"../../self/oom_score_adj": "1"}
	if _, err := s.Start(ctxOf(t), r); err == nil {
		t.Error("a sysctl led out of /proc/sys")
	}
}

// CVE-2022-29162 and the rest of a process's standing, for main processes and
// execs alike.
func TestCapabilitiesAndIdentity(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	all := &specs.LinuxCapabilities{Bounding: names(), Effective: names(), Permitted: names()}
	full := fmt.Sprintf("%016x", permittedCapabilities())
	const std, none = "00000000a80425fb", "0000000000000000"
	withAdmin := defaultCaps()
	withAdmin.Bounding = append(withAdmin.Bounding, "CAP_NET_ADMIN")
	withAdmin.Effective, withAdmin.Permitted = withAdmin.Bounding, withAdmin.Bounding
	type golden struct{ bnd, prm, eff string }
	for _, c := range []struct {
		name string
		caps *specs.LinuxCapabilities
		user specs.User
		nnp  bool
		want golden
		uid  string
		grps string
	}{
		{"default", defaultCaps(), specs.User{}, false, golden{std, std, std}, "0", ""},
		{"add NET_ADMIN", withAdmin, specs.User{}, false, golden{"00000000a80435fb", "00000000a80435fb", "00000000a80435fb"}, "0", ""},
		{"drop ALL", &specs.LinuxCapabilities{}, specs.User{}, true, golden{none, none, none}, "0", ""},
		{"no capabilities given", nil, specs.User{}, false, golden{none, none, none}, "0", ""},
		{"non-root", defaultCaps(), specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{3000, 4000}}, true, golden{std, none, none}, "1000", "3000 4000"},
		{"privileged", all, specs.User{}, false, golden{full, full, full}, "0", ""},
		{"unknown names", &specs.LinuxCapabilities{Bounding: []string{"CAP_NO_SUCH"}}, specs.User{}, false, golden{none, none, none}, "0", ""},
	} {
		for _, byStage := range []bool{false, true} {
			r := w.request("/bin/sh", "-c", "cat /proc/self/status; umask; exec sleep 1000")
			r.Spec.Process.Capabilities, r.Spec.Process.User, r.Spec.Process.NoNewPrivileges = c.caps, c.user, c.nnp
			r.UseStageForExec = byStage
			w.start(s, r)
			main := ""
			eventually(t, "the container has written its status", func() bool {
				main = logText(t, r.LogPath)
				return strings.HasSuffix(main, "\n0022\n")
			})
			for what, status := range map[string]string{"main": main, "exec": w.execOK(s, r.ID, "sh", "-c", "cat /proc/self/status; umask")} {
				nnp := "0"
				if c.nnp {
					nnp = "1"
				}
				for field, want := range map[string]string{
					"CapInh": none, "CapAmb": none, "CapBnd": c.want.bnd, "CapPrm": c.want.prm, "CapEff": c.want.eff,
					"NoNewPrivs": nnp, "Groups": c.grps,
					"Uid": strings.TrimSpace(strings.Repeat(c.uid+" ", 4)),
				} {
					if got := field1(status, field); got != want {
						t.Errorf("%s, %s (stage %t): %s is %q, want %q", c.name, what, byStage, field, got, want)
					}
				}
				if !strings.HasSuffix(status, "0022\n") {
					t.Errorf("%s, %s: umask is not 0022", c.name, what)
				}
			}
			must(t, s.KillContainer(ctxOf(t), r.ID))
		}
	}
}

func names() []string { return append([]string(nil), capabilities...) }

// field1 returns a field of /proc/PID/status with single spaces.
func field1(status, name string) string {
	for line := range strings.SplitSeq(status, "\n") {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return "(missing)"
}

// CVE-2016-9962: processes on their way into a container give its inhabitants
// nothing to hold on to.
func TestNeighboursCannotLookIntoOurProcesses(t *testing.T) {
	w := newWorld(t)
	secret := filepath.Join(w.run, "host-secret")
	must(t, os.WriteFile(secret, []byte("x"), 0o644))
	spy := `while [ ! -e /tmp/stop ]; do for p in /proc/[0-9]*; do
[ -e $p/root` + secret + ` ] && echo LEAK root; [ -e $p/cwd` + secret + ` ] && echo LEAK cwd
for f in $p/fd/*; do [ -e $f` + secret + ` ] && echo LEAK fd $f; done
grep -q asyncpreemptoff $p/environ 2>/dev/null && echo LEAK environ
done; done; echo finished`
	s := w.sandbox(func(w *Want) { w.ShareProcessNamespace = true })
	r := w.request("/bin/sh", "-c", spy)
	w.start(s, r)
	for range 30 {
		other := w.request("/bin/true")
		w.start(s, other)
		w.exit(s, other.ID)
		w.execOK(s, r.ID, "true")
	}
	// The container may end, and the command with it, before the command's end
	// is known: only what the spy says counts.
	s.Exec(ctxOf(t), Exec{ID: r.ID, Args: []string{"touch", "/tmp/stop"}})
	w.exit(s, r.ID)
	if out := logText(t, r.LogPath); out != "finished\n" {
		t.Errorf("the spy found: %s", out)
	}
	host := w.sandbox(func(w *Want) { w.HostPID = true })
	st, err := host.State(ctxOf(t))
	must(t, err)
	out := w.sh(host, fmt.Sprintf("cd /proc/%d; for f in root cwd exe fd/3; do readlink $f && echo LEAK $f; done; for f in environ mem maps; do head -c 1 $f 2>/dev/null | grep -q . && echo LEAK $f; done; true", st.Pid))
	if strings.Contains(out, "LEAK") {
		t.Errorf("a container in the host's PID namespace sees of its pause process: %s", out)
	}
}

// errnoFilter forbids one system call.
func errnoFilter(nr uint32) []byte {
	var b []byte
	for _, i := range []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: nr},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	} {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}

func TestSeccompWithAndWithoutNoNewPrivs(t *testing.T) {
	w := newWorld(t)
	euid, err := kerneltest.Build(t.TempDir(), "podd/sandbox/testdata/euid", "-ldflags=-s -w")
	must(t, err)
	program, err := os.ReadFile(euid)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(w.image, "bin/euid"), program, 0o755))
	must(t, os.Chmod(filepath.Join(w.image, "bin/euid"), 0o755|os.ModeSetuid))
	s := w.sandbox()
	for _, nnp := range []bool{false, true} {
		for _, byStage := range []bool{false, true} {
			r := w.request("/bin/sh", "-c", "euid; grep Seccomp: /proc/self/status; nice -n 5 true 2>/dev/null || echo refused; exec sleep 1000")
			r.Spec.Process.User.UID, r.Spec.Process.NoNewPrivileges = 7, nnp
			r.Seccomp, r.UseStageForExec = errnoFilter(unix.SYS_SETPRIORITY), byStage
			w.start(s, r)
			euid := map[bool]string{false: "0", true: "7"}[nnp]
			want := euid + "\nSeccomp:\t2\nrefused\n"
			eventually(t, "output of the container", func() bool { return strings.Count(logText(t, r.LogPath), "\n") == 3 })
			if got := logText(t, r.LogPath); got != want {
				t.Errorf("no_new_privs %t: %q, want %q", nnp, got, want)
			}
			if got := w.execOK(s, r.ID, "sh", "-c", "euid; grep Seccomp: /proc/self/status; nice -n 5 true 2>/dev/null || echo refused"); got != want {
				t.Errorf("exec, no_new_privs %t: %q, want %q", nnp, got, want)
			}
			must(t, s.KillContainer(ctxOf(t), r.ID))
		}
	}
	// A filter that would stop the Go runtime stops neither stage nor pause process.
	for _, nr := range []uint32{unix.SYS_FUTEX, unix.SYS_MMAP, unix.SYS_RT_SIGRETURN} {
		r := w.request("/bin/sleep", "1000")
		r.Seccomp, r.Spec.Process.NoNewPrivileges = errnoFilter(nr), true
		w.start(s, r)
		for range 20 {
			if _, err := w.exec(s, r.ID, "true"); err != nil {
				t.Errorf("exec under a filter of system call %d: %v", nr, err)
			}
		}
	}
	if _, err := s.State(ctxOf(t)); err != nil {
		t.Errorf("the pause process: %v", err)
	}
}

func TestMasksReadOnlyPathsAndRoot(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	out := w.sh(s, `cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l; grep -c ' /proc/sys .*ro,' /proc/self/mountinfo
touch /proc/sys/kernel/x 2>&1; echo 1 > /proc/sys/kernel/hostname; touch /new 2>&1; ls -ln /dev/null | cut -c1-10; readlink /dev/fd; readlink /dev/ptmx`, func(r *Start) { r.Spec.Root.Readonly = true })
	for _, want := range []string{"0\n0\n1\n", "touch: /new: Read-only file system", "/proc/self/fd\npts/ptmx\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	hosts := filepath.Join(t.TempDir(), "resolv")
	must(t, os.WriteFile(hosts, []byte("nameserver x\n"), 0o644))
	must(t, os.Symlink("../run/systemd/resolve/stub.conf", filepath.Join(w.image, "etc/resolv.conf")))
	out = w.sh(s, "cat /etc/resolv.conf", func(r *Start) {
		r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/etc/resolv.conf", Type: "bind"})
		r.Trees[len(r.Spec.Mounts)-1] = cloneTree(t, hosts)
	})
	if out != "nameserver x\n" {
		t.Errorf("a file mounted over a dangling link: %q", out)
	}
	out = w.sh(s, "ls /sys/fs/cgroup; cat /proc/self/cgroup")
	if w.cgroup != "" && (!strings.Contains(out, "0::/\n")) {
		t.Errorf("the container sees its place in the cgroup tree:\n%s", out)
	}
}

// A goroutine that execs on the leader thread would move the whole process.
func TestThousandExecsLeaveThePauseProcessWhereItWas(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sh", "-c", "while :; do sleep 1; done")
	w.start(s, r)
	st, err := s.State(ctxOf(t))
	must(t, err)
	where := func() string {
		var b strings.Builder
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", st.Pid))
		must(t, err)
		seen := map[string]bool{}
		for _, task := range tasks {
			for _, l := range []string{"ns/mnt", "ns/net", "ns/ipc", "ns/uts", "ns/pid", "ns/pid_for_children", "ns/cgroup", "ns/user", "root", "cwd"} {
				v, err := os.Readlink(filepath.Join(task, l))
				if err == nil && !seen[l+v] { // a thread may end meanwhile
					seen[l+v] = true
					fmt.Fprintln(&b, l, v)
				}
			}
			status, _ := os.ReadFile(filepath.Join(task, "status"))
			if c := field1(string(status), "CapEff"); len(status) > 0 && !seen[c] {
				seen[c] = true
				fmt.Fprintln(&b, c)
			}
		}
		return b.String()
	}
	before := where()
	errs := make(chan error, 1000)
	ctx, cancel := context.WithTimeout(context.Background(), 120*1e9)
	defer cancel()
	for i := range 1000 {
		go func() {
			e := Exec{ID: r.ID, Args: []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i%200)}, OutputLimit: 100}
			res, err := s.Exec(ctx, e)
			if err == nil && (res.ExitCode != i%200 || string(res.Output) != fmt.Sprintf("%d\n", i)) {
				err = fmt.Errorf("exec %d: %+v %q", i, res, res.Output)
			}
			errs <- err
		}()
	}
	for range 1000 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all threads are where they were: "+before, func() bool { return where() == before })
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", st.Pid)); err != nil || len(fds) > 40 {
		t.Errorf("%d descriptors are open after all execs, %v", len(fds), err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", st.Pid, st.Pid))
	all := strings.Fields(string(children))
	if err == nil && len(all) > 1 {
		t.Errorf("children left: %v", all)
	}
}

// Destroying waits for everything in the pod's PID namespaces, execs on their way
// in included.
func TestASandboxEndsInAStormOfExecs(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		s := w.sandbox()
		r := w.request("/bin/sleep", "1000")
		w.start(s, r)
		ctx, cancel := context.WithCancel(ctxOf(t))
		var storm sync.WaitGroup
		for range 50 {
			storm.Go(func() {
				for ctx.Err() == nil {
					s.Exec(ctx, Exec{ID: r.ID, Args: []string{"/bin/true"}, OutputLimit: 100}) // fails at some point
				}
			})
		}
		w.execOK(s, r.ID, "/bin/true")
		begin := time.Now()
		must(t, w.host.Destroy(ctx, s.uid))
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("the sandbox took %v to end", took)
		}
		cancel()
		storm.Wait()
	}
}

// VmFlags "dc" marks memory that a fork does not copy (proc_pid_smaps(5)).
func TestExecsCopyNoneOfThePauseProcessesMemory(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	w.start(s, r)
	w.execOK(s, r.ID, "/bin/true")
	st, err := s.State(ctxOf(t))
	must(t, err)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", st.Pid))
	must(t, err)
	copied, kept, anonymous := 0, 0, 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch f[0] {
		case "Anonymous:":
			anonymous, err = strconv.Atoi(f[1])
			must(t, err)
		case "VmFlags:":
			if slices.Contains(f, "dc") {
				kept += anonymous
			} else {
				copied += anonymous
			}
		}
	}
	if kept == 0 || copied > kept/4 {
		t.Errorf("an exec copies %d kB of the pause process, and leaves out %d kB", copied, kept)
	}
}
