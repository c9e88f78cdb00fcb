package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

func TestContainerRunsAndItsExitAndOutputAreKept(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sh", "-c", "echo out; echo err >&2; printf last; exit 7")
	st := w.start(s, r)
	if st.Pid <= 1 || st.At.IsZero() {
		t.Fatalf("started: %+v", st)
	}
	c := w.exit(s, r.ID)
	if c.Exit.Code != 7 || c.Exit.Signal != 0 || c.Name != r.Name || c.Pid != st.Pid {
		t.Fatalf("exit: %+v %+v", c, c.Exit)
	}
	b, err := os.ReadFile(r.LogPath)
	must(t, err)
	for _, want := range []string{" stdout F out\n", " stderr F err\n", " stdout P last\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("log lacks %q:\n%s", want, b)
		}
	}
	rec, err := ReadExitFile(filepath.Join(w.host.dir(s.uid), "c", r.Name, "0", "exit"))
	if err != nil || rec.Exit == nil || rec.Exit.Code != 7 || rec.Pid != st.Pid || rec.ID != r.ID {
		t.Fatalf("exit file: %+v, %v", rec, err)
	}
	again, err := s.Start(ctxOf(t), r)
	if err != nil || again.Pid != st.Pid {
		t.Fatalf("a repeated start must return the first: %+v, %v", again, err)
	}
}

func TestExitBySignalIs128PlusSignal(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	w.start(s, r)
	must(t, s.Signal(ctxOf(t), r.ID, unix.SIGKILL))
	if c := w.exit(s, r.ID); c.Exit.Code != 137 || c.Exit.Signal != 9 {
		t.Fatalf("exit: %+v", c.Exit)
	}
	if err := s.Signal(ctxOf(t), r.ID, unix.SIGTERM); !errors.Is(err, ErrNoContainer) {
		t.Fatalf("signal to an exited container: %v", err)
	}
	must(t, s.Forget(ctxOf(t), r.ID))
	must(t, s.Forget(ctxOf(t), r.ID))
	st, err := s.State(ctxOf(t))
	if err != nil || len(st.Containers) != 0 {
		t.Fatalf("after Forget: %+v, %v", st, err)
	}
}

func TestCommandsThatCannotBeExecuted(t *testing.T) {
	w := newWorld(t)
	must(t, os.WriteFile(filepath.Join(w.image, "bin/badformat"), []byte("\x00\x01nonsense"), 0o755))
	must(t, os.WriteFile(filepath.Join(w.image, "bin/nointerpreter"), []byte("#!/no/such/interpreter\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(w.image, "bin/rootonly"), []byte("#!/bin/sh\n"), 0o700))
	s := w.sandbox()
	running := w.request("/bin/sleep", "1000")
	running.Spec.Process.User.UID = 1000
	running.Spec.Process.Capabilities = nil
	w.start(s, running)
	for _, c := range []struct{ command, want string }{
		{"foo", `exec: "foo": executable file not found in $PATH`},
		{"/bin/foo", `exec: "/bin/foo": stat /bin/foo: no such file or directory`},
		{"/etc/notexec", `exec: "/etc/notexec": permission denied`},
		{"/bin", `exec: "/bin": is a directory`},
		{"rootonly", `exec: "rootonly": permission denied`},
	} {
		r := w.request(c.command)
		r.Spec.Process.User.UID = 1000
		r.Spec.Process.Capabilities = nil
		_, err := s.Start(ctxOf(t), r)
		var se *StartError
		if !errors.As(err, &se) || se.Error() != c.want || se.ExitCode != 128 {
			t.Errorf("start %s: %v", c.command, err)
		}
		_, err = w.exec(s, running.ID, c.command)
		if !errors.As(err, &se) || se.Error() != c.want {
			t.Errorf("exec %s: %v", c.command, err)
		}
	}
	for _, command := range []string{"badformat", "nointerpreter"} {
		r := w.request(command)
		c, out := w.runOut(s, r)
		if c.Exit.Code != 255 || !strings.Contains(out, "exec /bin/"+command+": ") {
			t.Errorf("%s: exit %+v, output %q; want 255, as a kubelet shows it", command, c.Exit, out)
		}
	}
	st, err := s.State(ctxOf(t))
	if err != nil || len(st.Containers) != 3 {
		t.Errorf("failed starts must leave nothing: %+v, %v", st, err)
	}
}

func TestSandboxSharesNetworkIPCAndNameAndNothingElse(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox(func(w *Want) {
		w.Domainname = "pod.example"
		w.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "kernel/shm_rmid_forced": "1"}
	})
	const script = `for n in net ipc uts mnt pid cgroup; do readlink /proc/self/ns/$n; done; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/domainname; echo $$`
	one := strings.Fields(w.sh(s, script))
	two := strings.Fields(w.sh(s, script))
	for i, n := range []string{"net", "ipc", "uts", "mnt", "pid", "cgroup"} {
		host, err := os.Readlink("/proc/self/ns/" + n)
		must(t, err)
		if one[i] == host {
			t.Errorf("%s namespace is the host's", n)
		}
		// Namespaces of the first container may be gone and their numbers given again.
		if shared := i < 3; shared && one[i] != two[i] {
			t.Errorf("%s namespace is not shared: %s, %s", n, one[i], two[i])
		}
	}
	if got := strings.Join(one[6:], " "); got != "pod-host 0 1 pod.example 1" {
		t.Errorf("host name, sysctls, domain name, pid: %q", got)
	}
}

func TestHostNamespaces(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox(func(w *Want) { w.HostNetwork, w.HostIPC, w.HostPID = true, true, true })
	got := strings.Fields(w.sh(s, `for n in net ipc uts pid; do readlink /proc/self/ns/$n; done`))
	for i, n := range []string{"net", "ipc", "uts", "pid"} {
		if host, _ := os.Readlink("/proc/self/ns/" + n); got[i] != host {
			t.Errorf("%s namespace: %s, the host's is %s", n, got[i], host)
		}
	}
	r := w.request("/bin/sleep", "1000")
	w.start(s, r)
	if out := w.execOK(s, r.ID, "readlink", "/proc/self/ns/pid"); !strings.Contains(out, got[3]) {
		t.Errorf("exec is in PID namespace %s", out)
	}
}

func TestSharedProcessNamespaceHasAReaperWithoutPrivileges(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox(func(w *Want) { w.ShareProcessNamespace = true })
	r := w.request("/bin/sleep", "1234")
	w.start(s, r)
	out := w.sh(s, `cat /proc/1/status; ps; (setsid sleep 0.05 &) ; sleep 0.3; ps; ls -l /proc/1/root 2>&1; ls -l /proc/1/fd 2>&1; true`)
	for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "Uid:\t65534", "NoNewPrivs:\t1", "sleep 1234", "Permission denied"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "[sleep]") {
		t.Errorf("an orphan was not reaped:\n%s", out)
	}
	// The death of the reaper must end the containers, and a pause process that
	// dies takes the reaper with it.
	st, err := s.State(ctxOf(t))
	must(t, err)
	must(t, unix.Kill(st.Pid, unix.SIGKILL))
	eventually(t, "containers of a shared PID namespace end with their pause process", func() bool {
		return zombie(st.Containers[0].Pid)
	})
}

func TestExecOutputAndExitCode(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	r.Spec.Process.Env = append(r.Spec.Process.Env, "COLOUR=blue")
	r.Spec.Process.Cwd = "/tmp"
	w.start(s, r)
	res, err := w.exec(s, r.ID, "sh", "-c", "echo $COLOUR; pwd; echo problem >&2; exit 3")
	if err != nil || res.ExitCode != 3 || string(res.Output) != "blue\n/tmp\nproblem\n" {
		t.Fatalf("%+v %q, %v", res, res.Output, err)
	}
	res, err = w.exec(s, r.ID, "sh", "-c", "kill -9 $$")
	if err != nil || res.ExitCode != 137 {
		t.Fatalf("%+v, %v", res, err)
	}
	res, err = s.Exec(ctxOf(t), Exec{ID: r.ID, Args: []string{"seq", "100000"}, OutputLimit: 10 << 10})
	if err != nil || len(res.Output) != 10<<10 || res.ExitCode != 0 {
		t.Fatalf("%d bytes of output, exit %d, %v", len(res.Output), res.ExitCode, err)
	}
	res, err = s.Exec(ctxOf(t), Exec{ID: r.ID, Args: []string{"/bin/env"}, Env: []string{"A=b"}, Cwd: "/etc", OutputLimit: 1000})
	if err != nil || string(res.Output) != "A=b\n" {
		t.Fatalf("%q, %v", res.Output, err)
	}
	if _, err := s.Exec(ctxOf(t), Exec{ID: newID(), Args: []string{"true"}}); !errors.Is(err, ErrNoContainer) {
		t.Fatalf("exec in an unknown container: %v", err)
	}
}

func TestExecStreamsThroughGivenDescriptors(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	w.start(s, r)
	inR, inW, err := os.Pipe()
	must(t, err)
	outR, outW, err := os.Pipe()
	must(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := s.Exec(ctxOf(t), Exec{ID: r.ID, Args: []string{"cat"}, Stdin: inR, Stdout: outW})
		inR.Close()
		outW.Close()
		done <- err
	}()
	inW.WriteString("through and back")
	inW.Close()
	buf := make([]byte, 100)
	n, err := outR.Read(buf)
	if err != nil || string(buf[:n]) != "through and back" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	must(t, <-done)
}

func TestExecTimeoutLeavesNoProcess(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	// A main process that reaps, as PID 1 should.
	r := w.request("/bin/sh", "-c", "while :; do sleep 0.05; done")
	w.start(s, r)
	start := time.Now()
	res, err := s.Exec(ctxOf(t), Exec{ID: r.ID, Timeout: 300 * time.Millisecond, OutputLimit: 100,
		Args: []string{"sh", "-c", "echo begun; (setsid sh -c 'sleep 7771 & sleep 7772' &) ; sleep 7773"}})
	if err != nil || !res.TimedOut || res.ExitCode != 137 || string(res.Output) != "begun\n" {
		t.Fatalf("%+v %q, %v", res, res.Output, err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if w.cgroup == "" {
		return
	}
	eventually(t, "everything that the exec started is gone", func() bool {
		return !strings.Contains(w.execOK(s, r.ID, "ps"), "777") && !strings.Contains(w.execOK(s, r.ID, "ps"), "Z")
	})
	leaves, _ := filepath.Glob(filepath.Join(w.cgroup, "ctr-"+r.ID[:12], "podd-exec-*"))
	if len(leaves) != 0 {
		t.Errorf("exec cgroups left: %v", leaves)
	}
}

func TestExecResultIsKeptUntilItIsFetched(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	w.start(s, r)
	e := Exec{ID: r.ID, RequestID: "probe-1", Args: []string{"sh", "-c", "echo ran >> /tmp/ran; sleep 0.2; echo result; exit 4"}, OutputLimit: 100, KeepOnHangup: true}
	ctx, cancel := context.WithTimeout(ctxOf(t), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Exec(ctx, e); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the first request was to be given up: %v", err)
	}
	for range 2 {
		res, err := s.Exec(ctxOf(t), e)
		if err != nil || res.ExitCode != 4 || string(res.Output) != "result\n" {
			t.Fatalf("%+v %q, %v", res, res.Output, err)
		}
	}
	if out := w.execOK(s, r.ID, "cat", "/tmp/ran"); out != "ran\n" {
		t.Fatalf("the command must run once: %q", out)
	}
	// Without KeepOnHangup the command ends with the request.
	ctx, cancel = context.WithTimeout(ctxOf(t), 100*time.Millisecond)
	defer cancel()
	s.Exec(ctx, Exec{ID: r.ID, Args: []string{"sleep", "8881"}})
	eventually(t, "the given up command is gone", func() bool { return !strings.Contains(w.execOK(s, r.ID, "ps"), "8881") })
}

// agentMain is an agent in a process of its own: it makes a sandbox with one
// container and waits to be killed.
func agentMain(dir string) int {
	h, err := Open(Config{RunDir: filepath.Join(dir, "run"), PauseBinary: os.Getenv("PODD_TEST_PAUSE")})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 1
	}
	ctx := context.Background()
	s, err := h.Ensure(ctx, Want{UID: "adopted", ID: strings.Repeat("a", 64), Hostname: "x"})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 1
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(dir, "image"), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil { // a root is private, wherever it comes from
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 1
	}
	_, err = s.Start(ctx, Start{ID: strings.Repeat("c", 64), Name: "app", Rootfs: os.NewFile(uintptr(fd), ""), LogPath: filepath.Join(dir, "logs", "0.log"),
		Spec: defaultSpec("sh", "-c", "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.01; done; echo end; exit 9")})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 1
	}
	os.Stdout.WriteString("up\n")
	select {}
}

func TestPodOutlivesAKilledAgent(t *testing.T) {
	w := newWorld(t)
	self, err := os.Executable()
	must(t, err)
	agent := exec.Command(self)
	agent.Env = append(os.Environ(), "PODD_TEST_AGENT="+filepath.Dir(w.run), "PODD_TEST_PAUSE="+pauseBinary)
	out, err := agent.StdoutPipe()
	must(t, err)
	agent.Stderr = os.Stderr
	must(t, agent.Start())
	t.Cleanup(func() { w.host.Destroy(context.Background(), "adopted") })
	buf := make([]byte, 3)
	if _, err := out.Read(buf); err != nil || string(buf) != "up\n" {
		t.Fatalf("agent said %q, %v", buf, err)
	}
	must(t, agent.Process.Kill())
	agent.Wait()

	id := strings.Repeat("c", 64)
	s, st, err := w.host.Adopt(ctxOf(t), "adopted")
	if err != nil || st.ID != strings.Repeat("a", 64) || len(st.Containers) != 1 || st.Containers[0].Exit != nil {
		t.Fatalf("adopted: %+v, %v", st, err)
	}
	// On a busy machine the container's end comes before that of the command.
	if r, err := w.exec(s, id, "touch", "/tmp/stop"); err != nil || r.ExitCode != 0 && r.ExitCode != 137 {
		t.Fatalf("touch: %+v, %v", r, err)
	}
	eventually(t, "the container exits", func() bool {
		st, err = s.State(ctxOf(t))
		return err == nil && st.Containers[0].Exit != nil
	})
	// A second agent gets the exit of which the first heard nothing, and a third
	// gets it again, until it is acknowledged.
	for range 2 {
		if c := w.exit(s, id); c.Exit.Code != 9 {
			t.Fatalf("exit: %+v", c.Exit)
		}
	}
	lines := strings.Fields(logText(t, filepath.Join(w.logs, "0.log")))
	for i, l := range lines[:len(lines)-1] {
		if l != strconv.Itoa(i+1) {
			t.Fatalf("log line %d is %q", i+1, l)
		}
	}
	if lines[len(lines)-1] != "end" {
		t.Fatalf("the log ends with %q", lines[len(lines)-1])
	}
	must(t, s.Forget(ctxOf(t), id))
	must(t, w.host.Destroy(ctxOf(t), "adopted"))
	if _, _, err := w.host.Adopt(ctxOf(t), "adopted"); !errors.Is(err, ErrNoSandbox) {
		t.Fatalf("adopting a destroyed sandbox: %v", err)
	}
}

func TestEnsureIsRepeatable(t *testing.T) {
	w := newWorld(t)
	want := Want{UID: "again", ID: newID(), Hostname: "x"}
	networks := 0
	want.Network = func(ctx context.Context, netns *os.File) error { networks++; return nil }
	t.Cleanup(func() { w.host.Destroy(context.Background(), "again") })
	s, err := w.host.Ensure(ctxOf(t), want)
	must(t, err)
	first, err := s.State(ctxOf(t))
	must(t, err)
	s, err = w.host.Ensure(ctxOf(t), want)
	must(t, err)
	if second, err := s.State(ctxOf(t)); err != nil || second.Pid != first.Pid || networks != 2 {
		t.Fatalf("pause process %d, then %d; network set up %d times; %v", first.Pid, second.Pid, networks, err)
	}
	want.ID, want.Attempt = newID(), 1
	s, err = w.host.Ensure(ctxOf(t), want)
	must(t, err)
	if third, err := s.State(ctxOf(t)); err != nil || third.Pid == first.Pid || third.Attempt != 1 {
		t.Fatalf("another ID must give another sandbox: %+v, %v", third, err)
	}
	eventually(t, "the first pause process is gone", func() bool { return zombie(first.Pid) })

	want.UID, want.Network = "failing", func(context.Context, *os.File) error { return errors.New("no address left") }
	if _, err := w.host.Ensure(ctxOf(t), want); err == nil || !strings.Contains(err.Error(), "no address left") {
		t.Fatalf("a failing network: %v", err)
	}
	if _, _, err := w.host.Adopt(ctxOf(t), "failing"); !errors.Is(err, ErrNoSandbox) {
		t.Fatalf("a half-made sandbox must not stay: %v", err)
	}
	w.host.Destroy(ctxOf(t), "failing")
}

func TestLostPauseProcessIsNoticedAndItsContainersEnd(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	r := w.request("/bin/sleep", "1000")
	st := w.start(s, r)
	state, err := s.State(ctxOf(t))
	must(t, err)
	lost := make(chan error, 1)
	go func() { lost <- s.Watch(ctxOf(t), func(Event) {}) }()
	time.Sleep(20 * time.Millisecond)
	must(t, unix.Kill(state.Pid, unix.SIGKILL))
	if err := <-lost; !errors.Is(err, ErrLost) {
		t.Fatalf("Watch: %v", err)
	}
	if _, err := s.State(ctxOf(t)); !errors.Is(err, ErrLost) {
		t.Fatalf("State: %v", err)
	}
	must(t, w.host.Destroy(ctxOf(t), s.uid))
	eventually(t, "the container is gone", func() bool { return zombie(st.Pid) })
}

func zombie(pid int) bool {
	_, err := startTicks(pid)
	return err != nil
}

func TestMainProcessExitKillsTheRestOfItsContainer(t *testing.T) {
	w := newWorld(t)
	for _, share := range []bool{false, true} {
		s := w.sandbox(func(w *Want) { w.ShareProcessNamespace = share })
		r := w.request("/bin/sh", "-c", "setsid sleep 6661 & setsid sh -c 'sleep 6662 & sleep 6663' & sleep 0.1; exit 0")
		w.start(s, r)
		began := time.Now()
		if c := w.exit(s, r.ID); c.Exit.Code != 0 {
			t.Fatalf("exit: %+v", c.Exit)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("left-over processes held up the exit by %s", took)
		}
		if w.cgroup != "" {
			eventually(t, "the container's cgroup is empty", func() bool {
				b, err := os.ReadFile(filepath.Join(w.cgroup, "ctr-"+r.ID[:12], "cgroup.procs"))
				return err == nil && len(b) == 0
			})
		}
	}
}

func TestDestroyLeavesNothing(t *testing.T) {
	w := newWorld(t)
	mounts := kerneltest.Mounts(t)
	var pids []int
	var uids []string
	for range 3 {
		s := w.sandbox()
		uids = append(uids, s.uid)
		for range 2 {
			r := w.request("/bin/sh", "-c", "sleep 1000 & sleep 1000")
			pids = append(pids, w.start(s, r).Pid)
		}
		st, err := s.State(ctxOf(t))
		must(t, err)
		pids = append(pids, st.Pid)
	}
	for _, uid := range uids {
		must(t, w.host.Destroy(ctxOf(t), uid))
		must(t, w.host.Destroy(ctxOf(t), uid))
	}
	for _, pid := range pids {
		eventually(t, "process "+strconv.Itoa(pid)+" is gone", func() bool { return zombie(pid) })
	}
	if left, err := w.host.List(); err != nil || len(left) != 0 {
		t.Errorf("sandboxes left: %v, %v", left, err)
	}
	if after := kerneltest.Mounts(t); !slices.Equal(after, mounts) {
		t.Errorf("mounts before:\n%s\nafter:\n%s", strings.Join(mounts, "\n"), strings.Join(after, "\n"))
	}
	if w.cgroup != "" {
		eventually(t, "cgroups are empty", func() bool {
			b, err := os.ReadFile(filepath.Join(w.cgroup, "cgroup.events"))
			return err == nil && strings.Contains(string(b), "populated 0")
		})
	}
}

// A container that is to share another's processes sees them, with that one's as
// process 1, and its end ends nothing else.
func TestAContainerSharesAnothersProcesses(t *testing.T) {
	w := newWorld(t)
	s := w.sandbox()
	target := w.request("/bin/sleep", "7001")
	w.start(s, target)
	guest := w.request("/bin/sleep", "7002")
	guest.PIDOf = target.ID
	w.start(s, guest)
	for _, id := range []string{guest.ID, target.ID} {
		out := strings.ReplaceAll(w.execOK(s, id, "sh", "-c", "cat /proc/[0-9]*/cmdline; echo; cat /proc/1/cmdline"), "\x00", " ")
		if !strings.Contains(out, "sleep 7001") || !strings.Contains(out, "sleep 7002") || !strings.HasSuffix(strings.TrimSpace(out), "sleep 7001") {
			t.Errorf("processes that %.4s sees: %q", id, out)
		}
	}
	must(t, s.KillContainer(ctxOf(t), guest.ID))
	if c := w.exit(s, guest.ID); c.Exit.Signal != 9 {
		t.Errorf("the guest: %+v", c.Exit)
	}
	w.execOK(s, target.ID, "true")
	late := w.request("/bin/sleep", "7003")
	late.PIDOf = guest.ID
	if _, err := s.Start(ctxOf(t), late); !errors.Is(err, ErrNoContainer) {
		t.Errorf("sharing the processes of one that has exited: %v", err)
	}
}
