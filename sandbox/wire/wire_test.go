package wire

import (
	"bytes"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// samples holds one message of each kind with every field set.
func samples() []fielder {
	p := Process{
		Args: []string{"sh", "-c", ""}, Env: []string{"A=b"}, Cwd: "/", UID: 1, GID: 2, Groups: []uint32{3, 4}, Umask: 0o22,
		Bounding: 1 << 40, Effective: 5, Permitted: 6, Inheritable: 7, Ambient: 8, NoNewPrivs: true, Seccomp: []byte{1, 2, 3},
		SeccompFlags: 9, Rlimits: []Rlimit{{7, 10, 1 << 63}}, SetOOM: true, OOMScoreAdj: -998, TTY: true, Height: 24, Width: 80,
	}
	up := Up{UID: "u", ID: "i", Attempt: 1, Hostname: "h", Domainname: "d", HostPID: true, SharePID: true, Sysctls: []KV{{"a", "b"}}, OOMScoreAdj: -1}
	ct := Container{ID: "i", Name: "n", Attempt: 2, Pid: 3, StartedAt: 4, Exited: true, Code: 137, Signal: 9, ExitedAt: 5}
	return []fielder{
		&up, &p, &ct,
		&Failed{CodeCommand, "step", "text"},
		&Start{ID: "i", Name: "n", Attempt: 1, LogName: "0.log", LogMaxBytes: 10, LogMaxFiles: 5, Stdin: true, StdinOnce: true, TTY: true,
			Unified: true, Procs: 2, Tasks: 3, UseStageForExec: true, PIDOf: "target", Process: p},
		&Started{1, 2},
		&Stage{Process: p, Mounts: []Mount{{MountFS, "/t", 1, "tmpfs", "s", []KV{{"k", ""}}, 2, 3, true}, {Target: "/u"}},
			Devices: []Device{{"/dev/x", 1, 2, 3, 4, 5}}, Masked: []string{"/m"}, ReadonlyPaths: []string{"/r"}, ReadonlyRoot: true,
			RootPropagation: 1, Sysctls: []KV{{"a", "b"}}, PrivateCgroupNS: true, MakeDev: true, Hostname: "h"},
		&Exec{ID: "i", RequestID: "r", Args: []string{"a"}, Env: []string{"b"}, SetEnv: true, Cwd: "/", TTY: true, Height: 1, Width: 2,
			Stdin: true, Stdout: true, Stderr: true, TimeoutNano: 3, OutputLimit: 4, KeepOnHangup: true, Unified: true, Tasks: 5},
		&ExecStage{p, true, true},
		&ExecDone{3, true, []byte("out")},
		&Name{"i", 15},
		&Attach{"i", 7},
		&Attached{true, true, true},
		&Detached{5},
		&State{Up: up, Pid: 1, UpAt: 2, Trouble: "t", Containers: []Container{ct, {ID: "j"}}},
	}
}

func fresh(m fielder) fielder { return reflect.New(reflect.TypeOf(m).Elem()).Interface().(fielder) }

func TestEveryFieldTravels(t *testing.T) {
	for _, m := range samples() {
		v := reflect.ValueOf(m).Elem()
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%T.%s is not set in the sample", m, v.Type().Field(i).Name)
			}
		}
		got := fresh(m)
		if err := Unmarshal(Marshal(m), got); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
	}
}

func TestPeersOfAnotherAge(t *testing.T) {
	for _, m := range samples() {
		newer := append(Marshal(m), "fields that we do not know"...)
		got := fresh(m)
		if err := Unmarshal(newer, got); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%T with more fields: %+v, %v", m, got, err)
		}
		if err := Unmarshal(nil, fresh(m)); err != nil {
			t.Errorf("%T without fields: %v", m, err)
		}
	}
	var up Up
	older := Marshal(&Name{ID: "uid"}) // a string, then a number of eight bytes
	if err := Unmarshal(older[:len(older)-8], &up); up.UID != "uid" || up.ID != "" {
		t.Errorf("with fewer fields: %+v, %v", up, err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	for i, m := range samples() {
		f.Add(byte(i), Marshal(m))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		all := samples()
		m := fresh(all[int(which)%len(all)])
		if Unmarshal(b, m) != nil {
			return
		}
		again := fresh(m)
		if err := Unmarshal(Marshal(m), again); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("accepted %+v came back as %+v, %v", m, again, err)
		}
	})
}

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err = NewConn(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err = NewConn(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestMessagesOfAnySizeWithManyDescriptors(t *testing.T) {
	a, b := pair(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, size := range []int{0, 1, maxInline - 100, maxInline, 1 << 20} {
		for _, n := range []int{0, 1, maxFiles, maxFiles + 1, 3*maxFiles + 7} {
			files := make([]*os.File, n)
			for i := range files {
				files[i] = null
			}
			out := bytes.Repeat([]byte("x"), size)
			sent := make(chan error, 1)
			go func() { sent <- a.Send(KindExecDone, &ExecDone{Output: out}, files...) }()
			m, err := b.Receive()
			if serr := <-sent; err != nil || serr != nil {
				t.Fatalf("%d bytes, %d descriptors: %v, %v", size, n, serr, err)
			}
			var done ExecDone
			if err := Unmarshal(m.Body, &done); err != nil || m.Kind != KindExecDone || !bytes.Equal(done.Output, out) || len(m.Files) != n {
				t.Errorf("%d bytes, %d descriptors: got %d bytes, %d descriptors, %v", size, n, len(done.Output), len(m.Files), err)
			}
			m.CloseFiles()
		}
	}
	a.Close()
	if _, err := b.Receive(); err != io.EOF {
		t.Errorf("after the hang-up: %v", err)
	}
}

func TestForeignMessagesAreRefused(t *testing.T) {
	for name, raw := range map[string][]byte{
		"short":         []byte("x"),
		"other program": bytes.Repeat([]byte{0xff}, headerSize),
		"wrong length":  {0x70, 0x64, Version, 0, 1, 0, 0, 0, 99, 0, 0, 0, 0, 0, 1, 0},
		"no such file":  {0x70, 0x64, Version, 0, 1, 0, flagMemfd, 0, 9, 0, 0, 0, 0, 0, 1, 0},
		"out of order":  {0x70, 0x64, Version, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 4, 0},
	} {
		a, b := pair(t)
		if err := a.sendmsg(raw, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Receive(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	a, b := pair(t)
	a.sendmsg([]byte{0x70, 0x64, Version + 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}, nil)
	if _, err := b.Receive(); err != ErrVersion {
		t.Errorf("another version: %v", err)
	}
}

func TestSealedFilesCannotBeChanged(t *testing.T) {
	f, err := SealedFile("test", []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("written")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("truncated")
	}
	if b, err := ReadSealed(f); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
}

// What a message has outgrown while it was written holds nothing of it any more.
func TestMarshalLeavesNoCopies(t *testing.T) {
	c := codec{buf: make([]byte, 0, 16)}
	first := c.buf[:cap(c.buf)]
	for _, text := range []string{"PASSWORD", "xyzzy", "plugh"} {
		c.str(&text)
	}
	if len(c.buf) != 3*4+8+5+5 || strings.Trim(string(first), "\x00") != "" {
		t.Errorf("%d bytes, and %q is left", len(c.buf), first)
	}
}
