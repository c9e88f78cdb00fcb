package seccomp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// runcCaps is the bounding set of an ordinary container.
var runcCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

var (
	someKernel = Kernel{6, 1}
	eperm      = uint32(retErrno | unix.EPERM)
	enosys     = uint32(retErrno | unix.ENOSYS)
)

func compile(t testing.TB, p *specs.LinuxSeccomp, arch string) []byte {
	t.Helper()
	filter, err := Compile(p, arch)
	if err != nil {
		t.Fatal(err)
	}
	return filter
}

// call builds the data of a call by name.
func callOf(t testing.TB, arch string, a abi, name string, args ...uint64) data {
	t.Helper()
	n, ok := number(name, a)
	if !ok {
		t.Fatalf("%s is no call of this ABI", name)
	}
	d := data{number: n}
	for _, m := range machines[arch].abis {
		if m.abi == a {
			d.arch = m.audit
		}
	}
	if a == x32 {
		d.number |= x32Bit
	}
	copy(d.args[:], args)
	return d
}

func TestDefaultProfile(t *testing.T) {
	const newUser = unix.CLONE_NEWUSER
	with := func(caps ...string) []string { return append(slices.Clone(runcCaps), caps...) }
	for _, tt := range []struct {
		name   string
		caps   []string
		kernel Kernel
		arch   string
		abi    abi
		call   string
		args   []uint64
		want   uint32
	}{
		{"ordinary calls pass", runcCaps, someKernel, "amd64", amd64, "openat", nil, retAllow},
		{"mount is refused", runcCaps, someKernel, "amd64", amd64, "mount", nil, eperm},
		{"mount passes with SYS_ADMIN", with("CAP_SYS_ADMIN"), someKernel, "amd64", amd64, "mount", nil, retAllow},
		{"unshare is refused", runcCaps, someKernel, "amd64", amd64, "unshare", []uint64{newUser}, eperm},
		{"clone of a thread passes", runcCaps, someKernel, "amd64", amd64, "clone", []uint64{0x3d0f00}, retAllow},
		{"clone of a user namespace is refused", runcCaps, someKernel, "amd64", amd64, "clone", []uint64{newUser | 17}, eperm},
		{"clone of namespaces passes with SYS_ADMIN", with("CAP_SYS_ADMIN"), someKernel, "amd64", amd64, "clone", []uint64{newUser}, retAllow},
		{"clone3 says it does not exist", runcCaps, someKernel, "amd64", amd64, "clone3", nil, enosys},
		{"clone3 passes with SYS_ADMIN", with("CAP_SYS_ADMIN"), someKernel, "amd64", amd64, "clone3", nil, retAllow},
		{"keyctl is refused", runcCaps, someKernel, "amd64", amd64, "keyctl", nil, eperm},
		{"io_uring is refused", runcCaps, someKernel, "amd64", amd64, "io_uring_setup", nil, eperm},
		{"socket of IPv6 passes", runcCaps, someKernel, "amd64", amd64, "socket", []uint64{unix.AF_INET6}, retAllow},
		{"socket of vsock is refused", runcCaps, someKernel, "amd64", amd64, "socket", []uint64{unix.AF_VSOCK}, eperm},
		{"socket of the crypto interface is refused", runcCaps, someKernel, "amd64", amd64, "socket", []uint64{unix.AF_ALG}, eperm},
		{"personality of Linux passes", runcCaps, someKernel, "amd64", amd64, "personality", []uint64{0}, retAllow},
		{"asking for the personality passes", runcCaps, someKernel, "amd64", amd64, "personality", []uint64{0xffffffff}, retAllow},
		{"personality with high bits is refused", runcCaps, someKernel, "amd64", amd64, "personality", []uint64{1 << 32}, eperm},
		{"a personality without randomised addresses is refused", runcCaps, someKernel, "amd64", amd64, "personality", []uint64{0x40000}, eperm},
		{"ptrace passes from 4.8", runcCaps, Kernel{4, 8}, "amd64", amd64, "ptrace", nil, retAllow},
		{"ptrace is refused before 4.8", runcCaps, Kernel{4, 7}, "amd64", amd64, "ptrace", nil, eperm},
		{"a later version is later", runcCaps, Kernel{10, 0}, "amd64", amd64, "ptrace", nil, retAllow},
		{"arch_prctl passes on amd64", runcCaps, someKernel, "amd64", amd64, "arch_prctl", nil, retAllow},
		{"chroot needs SYS_CHROOT", nil, someKernel, "amd64", amd64, "chroot", nil, eperm},
		{"i386 calls are known", runcCaps, someKernel, "amd64", i386, "openat", nil, retAllow},
		{"i386 mount is refused", runcCaps, someKernel, "amd64", i386, "mount", nil, eperm},
		{"x32 calls are known", runcCaps, someKernel, "amd64", x32, "execve", nil, retAllow},
		{"x32 mount is refused", runcCaps, someKernel, "amd64", x32, "mount", nil, eperm},
		{"x32 clone of namespaces is refused", runcCaps, someKernel, "amd64", x32, "clone", []uint64{newUser}, eperm},
		{"arm64 has its own numbers", runcCaps, someKernel, "arm64", arm64, "openat", nil, retAllow},
		{"arm64 mount is refused", runcCaps, someKernel, "arm64", arm64, "mount", nil, eperm},
		{"arm calls are known", runcCaps, someKernel, "arm64", arm, "openat", nil, retAllow},
		{"arm's private calls pass", runcCaps, someKernel, "arm64", arm, "cacheflush", nil, retAllow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			filter := compile(t, Default(tt.caps, tt.kernel, tt.arch), tt.arch)
			if got := run(t, filter, callOf(t, tt.arch, tt.abi, tt.call, tt.args...)); got != tt.want {
				t.Errorf("%s: got %#x, want %#x", tt.call, got, tt.want)
			}
		})
	}
}

func TestCallsNewerThanTheProfileDoNotExist(t *testing.T) {
	filter := compile(t, Default(runcCaps, someKernel, "amd64"), "amd64")
	armFilter := compile(t, Default(runcCaps, someKernel, "arm64"), "arm64")
	for _, tt := range []struct {
		filter []byte
		d      data
	}{
		{filter, data{arch: auditX8664, number: 600}},
		{filter, data{arch: auditX8664, number: x32Bit - 1}},
		{filter, data{arch: auditX8664, number: x32Bit | 600}},
		{filter, data{arch: auditX8664, number: 1<<32 - 1}},
		{filter, data{arch: auditI386, number: 600}},
		{armFilter, data{arch: auditAArch64, number: 600}},
		{armFilter, data{arch: auditARM, number: 600}},
		{armFilter, data{arch: auditARM, number: armPrivate + 100}},
	} {
		if got := run(t, tt.filter, tt.d); got != enosys {
			t.Errorf("%v: got %#x, want ENOSYS", tt.d, got)
		}
	}
}

func TestForeignABIsKillTheThread(t *testing.T) {
	p := Default(runcCaps, someKernel, "amd64")
	if got := run(t, compile(t, p, "amd64"), data{arch: auditAArch64, number: 1}); got != retKillThread {
		t.Errorf("an architecture that amd64 cannot run: got %#x", got)
	}
	p.Architectures = []specs.Arch{specs.ArchX86_64}
	filter := compile(t, p, "amd64")
	for _, d := range []data{
		{arch: auditI386, number: 1},
		{arch: auditX8664, number: x32Bit | 1},
	} {
		if got := run(t, filter, d); got != retKillThread {
			t.Errorf("%v, not listed: got %#x", d, got)
		}
	}
	if got := run(t, filter, callOf(t, "amd64", amd64, "read")); got != retAllow {
		t.Errorf("read: got %#x", got)
	}
}

func errno(n uint) *uint { return &n }

func TestActions(t *testing.T) {
	for _, tt := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
	}{
		{specs.ActAllow, nil, retAllow},
		{specs.ActLog, nil, retLog},
		{specs.ActKill, nil, retKillThread},
		{specs.ActKillThread, nil, retKillThread},
		{specs.ActKillProcess, nil, retKillProcess},
		{specs.ActTrap, nil, retTrap},
		{specs.ActErrno, nil, retErrno | uint32(unix.EPERM)},
		{specs.ActErrno, errno(0), retErrno},
		{specs.ActErrno, errno(38), retErrno | 38},
		{specs.ActTrace, errno(7), retTrace | 7},
	} {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"getpid"}, Action: tt.action, ErrnoRet: tt.errno},
		}}
		filter := compile(t, p, "amd64")
		if got := run(t, filter, callOf(t, "amd64", amd64, "getpid")); got != tt.want {
			t.Errorf("%s: got %#x, want %#x", tt.action, got, tt.want)
		}
		if got := run(t, filter, callOf(t, "amd64", amd64, "getppid")); got != retAllow {
			t.Errorf("beside %s: got %#x", tt.action, got)
		}
	}
}

func TestOnlyAPermissiveDefaultLetsUnknownCallsPass(t *testing.T) {
	rules := []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActTrap}}
	for action, want := range map[specs.LinuxSeccompAction]uint32{
		specs.ActAllow:       retAllow,
		specs.ActLog:         retLog,
		specs.ActTrace:       retTrace | uint32(unix.EPERM),
		specs.ActErrno:       enosys,
		specs.ActKillProcess: enosys,
	} {
		filter := compile(t, &specs.LinuxSeccomp{DefaultAction: action, Syscalls: rules}, "amd64")
		if got := run(t, filter, data{arch: auditX8664, number: 9999}); got != want {
			t.Errorf("default %s: got %#x, want %#x", action, got, want)
		}
	}
}

func TestSocketsAndIPCBehindOneI386Call(t *testing.T) {
	p := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"socket", "shmget"}, Action: specs.ActErrno}},
	}
	filter := compile(t, p, "amd64")
	for _, tt := range []struct {
		call string
		arg  uint64
		want uint32
	}{
		{"socketcall", 1, eperm},
		{"socketcall", 2, retAllow},
		{"ipc", 23, eperm},
		{"ipc", 1<<16 | 23, eperm},
		{"ipc", 22, retAllow},
		{"socket", 0, eperm},
	} {
		if got := run(t, filter, callOf(t, "amd64", i386, tt.call, tt.arg)); got != tt.want {
			t.Errorf("%s(%#x): got %#x, want %#x", tt.call, tt.arg, got, tt.want)
		}
	}
}

// meaning is what a profile means for each call, rule by rule.
type meaning struct {
	arch     string
	deflt    uint32
	permits  bool
	sections map[abi]*section
}

type section struct {
	rules  map[uint32][]meantRule // by number
	named  bool
	newest uint32
}

type meantRule struct {
	args []specs.LinuxSeccompArg
	ret  uint32
}

func meaningOf(t testing.TB, p *specs.LinuxSeccomp, arch string) *meaning {
	t.Helper()
	must := func(action specs.LinuxSeccompAction, errnoRet *uint) uint32 {
		ret, err := returned(action, errnoRet)
		if err != nil {
			t.Fatal(err)
		}
		return ret
	}
	m := &meaning{arch: arch, deflt: must(p.DefaultAction, p.DefaultErrnoRet), sections: map[abi]*section{}}
	m.permits = p.DefaultAction == specs.ActAllow || p.DefaultAction == specs.ActLog || p.DefaultAction == specs.ActTrace
	for _, a := range machines[arch].abis {
		if a.name != machines[arch].native && !slices.Contains(p.Architectures, a.name) {
			continue
		}
		s := &section{rules: map[uint32][]meantRule{}}
		m.sections[a.abi] = s
		for _, c := range p.Syscalls {
			for _, name := range c.Names {
				if n, ok := number(name, a.abi); ok {
					s.rules[n] = append(s.rules[n], meantRule{c.Args, must(c.Action, c.ErrnoRet)})
					if n < armPrivate {
						s.named, s.newest = true, max(s.newest, n)
					}
				}
			}
		}
	}
	return m
}

func (m *meaning) of(d data) uint32 {
	n := d.number
	var s *section
	for _, a := range machines[m.arch].abis {
		isX32 := d.arch == auditX8664 && n >= x32Bit
		if a.audit == d.arch && isX32 == (a.abi == x32) {
			s = m.sections[a.abi]
		}
	}
	if s == nil {
		return retKillThread
	}
	if d.arch == auditX8664 {
		n &^= x32Bit
	}
	rules := s.rules[n]
	for _, r := range rules {
		if len(r.args) == 0 && r.ret != m.deflt {
			return r.ret
		}
	}
	for _, r := range rules {
		if len(r.args) > 0 && r.ret != m.deflt && argsMatch(r.args, d) {
			return r.ret
		}
	}
	if rules == nil && s.named && n > s.newest && !m.permits {
		return enosys
	}
	return m.deflt
}

func argsMatch(args []specs.LinuxSeccompArg, d data) bool {
	var seen [maxArgs]bool
	twice := false
	for _, a := range args {
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	matches := 0
	for _, a := range args {
		v, hit := d.args[a.Index], false
		switch a.Op {
		case specs.OpEqualTo:
			hit = v == a.Value
		case specs.OpNotEqual:
			hit = v != a.Value
		case specs.OpLessThan:
			hit = v < a.Value
		case specs.OpLessEqual:
			hit = v <= a.Value
		case specs.OpGreaterThan:
			hit = v > a.Value
		case specs.OpGreaterEqual:
			hit = v >= a.Value
		case specs.OpMaskedEqual:
			hit = v&a.Value == a.ValueTwo&a.Value
		}
		if hit {
			matches++
		}
	}
	if twice {
		return matches > 0
	}
	return matches == len(args)
}

// probes returns calls that together pass every edge of a profile: each number
// of each ABI, and for calls with arguments each compared value and its
// neighbours, in both halves.
func probes(p *specs.LinuxSeccomp, arch string) []data {
	values := map[uint64]bool{0: true, 1: true, 1<<64 - 1: true, 1 << 63: true, 1<<32 - 1: true, 1 << 32: true}
	for _, c := range p.Syscalls {
		for _, a := range c.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				for _, w := range []uint64{v, v + 1, v - 1, v + 1<<32, v ^ 1<<40, v & 0xffffffff, v &^ 0xffffffff, ^v} {
					values[w] = true
				}
			}
		}
	}
	edges := slices.Sorted(maps.Keys(values))
	r := rand.New(rand.NewPCG(1, 2))
	var all []data
	for _, m := range machines[arch].abis {
		compared := map[uint32]bool{}
		for _, c := range p.Syscalls {
			for _, name := range c.Names {
				if n, ok := number(name, m.abi); ok && len(c.Args) > 0 {
					compared[n] = true
				}
			}
		}
		base := uint32(0)
		if m.abi == x32 {
			base = x32Bit
		}
		var numbers []uint32
		for n := range uint32(620) {
			numbers = append(numbers, n)
		}
		numbers = append(numbers, armPrivate-1, armPrivate, armPrivate+1, armPrivate+2, armPrivate+5, armPrivate+7, 1<<30-1)
		for _, n := range numbers {
			all = append(all, data{number: base + n, arch: m.audit})
			if !compared[n] {
				continue
			}
			for i := range maxArgs {
				for _, v := range edges {
					d := data{number: base + n, arch: m.audit}
					d.args[i] = v
					all = append(all, d)
				}
			}
			for range 200 {
				d := data{number: base + n, arch: m.audit}
				for i := range d.args {
					d.args[i] = edges[r.IntN(len(edges))]
				}
				all = append(all, d)
			}
		}
	}
	return append(all, data{arch: 0x1234, number: 1}, data{arch: auditARM, number: 1}, data{arch: auditX8664, number: 1})
}

// randomProfile makes a profile of all actions and operators.
func randomProfile(r *rand.Rand, arch string) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActLog, specs.ActErrno, specs.ActTrap, specs.ActKillProcess, specs.ActKill, specs.ActTrace,
	}
	value := func() uint64 {
		switch r.IntN(4) {
		case 0:
			return uint64(r.IntN(50))
		case 1:
			return uint64(r.Uint32())
		case 2:
			return uint64(r.IntN(3))<<32 | uint64(r.IntN(3))
		}
		return r.Uint64()
	}
	p := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions))]}
	for _, m := range machines[arch].abis {
		if r.IntN(2) == 0 {
			p.Architectures = append(p.Architectures, m.name)
		}
	}
	for range r.IntN(60) {
		c := specs.LinuxSyscall{Action: actions[r.IntN(len(actions))]}
		if r.IntN(2) == 0 {
			c.ErrnoRet = errno(uint(r.IntN(maxErrno + 1)))
		}
		for range 1 + r.IntN(4) {
			c.Names = append(c.Names, calls[r.IntN(len(calls))].name)
		}
		for range r.IntN(4) {
			c.Args = append(c.Args, specs.LinuxSeccompArg{
				Index: uint(r.IntN(maxArgs)), Value: value(), ValueTwo: value(), Op: operators[r.IntN(len(operators))],
			})
		}
		p.Syscalls = append(p.Syscalls, c)
	}
	return p
}

// isMultiplexer leaves out what TestSocketsAndIPCBehindOneI386Call is about.
func isMultiplexer(d data) bool {
	return d.arch == auditI386 && (d.number == 102 || d.number == 117)
}

func TestFiltersMeanWhatTheirProfilesSay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for arch := range machines {
		profiles := []*specs.LinuxSeccomp{
			Default(runcCaps, someKernel, arch),
			Default(nil, Kernel{4, 0}, arch),
			Default(append(slices.Clone(runcCaps), "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"), someKernel, arch),
			{DefaultAction: specs.ActAllow},
			{DefaultAction: specs.ActErrno},
			{DefaultAction: specs.ActLog, Architectures: []specs.Arch{
				specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM, specs.ArchS390X}},
		}
		for range 15 {
			profiles = append(profiles, randomProfile(r, arch))
		}
		for i, p := range profiles {
			filter := compile(t, p, arch)
			means := meaningOf(t, p, arch)
			for _, d := range probes(p, arch) {
				if got, want := run(t, filter, d), means.of(d); got != want && !isMultiplexer(d) {
					t.Fatalf("%s profile %d, %v: got %#x, want %#x", arch, i, d, got, want)
				}
			}
		}
	}
}

// libseccompScript reads a profile and writes the filter that libseccomp makes
// of it, as runc asks for it. Calls that this libseccomp does not know come
// back on stderr.
const libseccompScript = `
import json, sys, seccomp
p = json.load(sys.stdin)
def act(name, errno):
    errno = 1 if errno is None else errno
    return {"SCMP_ACT_KILL": seccomp.KILL, "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS, "SCMP_ACT_TRAP": seccomp.TRAP,
            "SCMP_ACT_LOG": seccomp.LOG, "SCMP_ACT_ALLOW": seccomp.ALLOW,
            "SCMP_ACT_ERRNO": seccomp.ERRNO(errno), "SCMP_ACT_TRACE": seccomp.TRACE(errno)}[name]
ops = {"SCMP_CMP_NE": seccomp.NE, "SCMP_CMP_LT": seccomp.LT, "SCMP_CMP_LE": seccomp.LE, "SCMP_CMP_EQ": seccomp.EQ,
       "SCMP_CMP_GE": seccomp.GE, "SCMP_CMP_GT": seccomp.GT, "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ}
default = act(p["defaultAction"], p.get("defaultErrnoRet"))
f = seccomp.SyscallFilter(default)
arches = {"SCMP_ARCH_X86_64": seccomp.Arch.X86_64, "SCMP_ARCH_X86": seccomp.Arch.X86, "SCMP_ARCH_X32": seccomp.Arch.X32}
for a in p.get("architectures") or []:
    if not f.exist_arch(arches[a]):
        f.add_arch(arches[a])
unknown = []
for c in p.get("syscalls") or []:
    action = act(c["action"], c.get("errnoRet"))
    if action == default:
        continue
    for name in c["names"]:
        args = [seccomp.Arg(a["index"], ops[a["op"]], a["value"], a.get("valueTwo", 0)) for a in c.get("args") or []]
        if seccomp.resolve_syscall(seccomp.Arch(), name) == -1:
            unknown.append(name)
            continue
        indices = [a["index"] for a in c.get("args") or []]
        if len(set(indices)) == len(indices):
            f.add_rule(action, name, *args)
        else:
            for a in args:
                f.add_rule(action, name, a)
f.export_bpf(sys.stdout)
print(json.dumps(unknown), file=sys.stderr)
`

// libseccomp compiles a profile with the machine's libseccomp, through
// Debian's python3-seccomp.
func libseccomp(t testing.TB, p *specs.LinuxSeccomp) (filter []byte, unknown []string) {
	t.Helper()
	input, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-c", libseccompScript)
	cmd.Stdin = bytes.NewReader(input)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	filter, err = cmd.Output()
	if err == nil {
		err = json.Unmarshal(complaints.Bytes(), &unknown)
	}
	if err != nil {
		t.Fatalf("libseccomp: %v\n%s\n%s", err, complaints.Bytes(), input)
	}
	return filter, unknown
}

func needLibseccomp(t testing.TB) {
	t.Helper()
	kerneltest.Need(t, runtime.GOARCH == "amd64", "amd64, whose filters are compared")
	err := exec.Command("/usr/bin/python3", "-c", "import seccomp").Run()
	kerneltest.Need(t, err == nil, "libseccomp for Python (Debian package python3-seccomp)")
}

// without removes names from a profile.
func without(p *specs.LinuxSeccomp, names []string) *specs.LinuxSeccomp {
	q := *p
	q.Syscalls = nil
	for _, c := range p.Syscalls {
		c.Names = slices.DeleteFunc(slices.Clone(c.Names), func(n string) bool { return slices.Contains(names, n) })
		if len(c.Names) > 0 {
			q.Syscalls = append(q.Syscalls, c)
		}
	}
	return &q
}

// sameAsLibseccomp compares a filter with libseccomp's. It leaves out what we
// do differently on purpose: calls newer than the profile, which runc handles
// before libseccomp's filter, i386's multiplexers, and upper halves of
// arguments, which do not exist in 32-bit ABIs (and which libseccomp does not
// look at for x32).
func sameAsLibseccomp(t *testing.T, p *specs.LinuxSeccomp) {
	t.Helper()
	theirs, unknown := libseccomp(t, p)
	p = without(p, unknown)
	ours := compile(t, p, "amd64")
	compared := 0
	for _, d := range probes(p, "amd64") {
		if d.arch != auditX8664 || d.number >= x32Bit {
			for i := range d.args {
				d.args[i] &= 0xffffffff
			}
		}
		got, want := run(t, ours, d), run(t, theirs, d)
		if isMultiplexer(d) || got == enosys && want == meantByDefault(t, p) {
			continue
		}
		compared++
		if got != want {
			t.Fatalf("%v: got %#x, libseccomp says %#x", d, got, want)
		}
	}
	if compared < 1000 {
		t.Errorf("only %d calls were compared", compared)
	}
}

func meantByDefault(t testing.TB, p *specs.LinuxSeccomp) uint32 {
	t.Helper()
	ret, err := returned(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	return ret
}

func TestSameAsLibseccomp(t *testing.T) {
	needLibseccomp(t)
	t.Run("default", func(t *testing.T) { sameAsLibseccomp(t, Default(runcCaps, someKernel, "amd64")) })
	t.Run("default without capabilities", func(t *testing.T) { sameAsLibseccomp(t, Default(nil, someKernel, "amd64")) })
	t.Run("default with many", func(t *testing.T) {
		sameAsLibseccomp(t, Default([]string{"CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_BPF", "CAP_SYS_NICE"}, someKernel, "amd64"))
	})
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 12 {
		p := randomProfile(r, "amd64")
		// libseccomp looks at rules of one call in an order of its own, and has
		// no high halves in 32-bit ABIs: one rule for each call, small values
		// where those ABIs are listed.
		seen := map[string]bool{}
		for j := range p.Syscalls {
			c := &p.Syscalls[j]
			c.Names = slices.DeleteFunc(c.Names, func(n string) bool {
				_, behind := i386Multiplexed[n]
				twice := seen[n] || behind || n == "socketcall" || n == "ipc"
				seen[n] = true
				return twice
			})
			if len(p.Architectures) > 0 {
				for k := range c.Args {
					c.Args[k].Value &= 0xffffffff
					c.Args[k].ValueTwo &= 0xffffffff
				}
			}
		}
		p = without(p, nil)
		t.Run(fmt.Sprint("random ", i), func(t *testing.T) { sameAsLibseccomp(t, p) })
	}
}

func TestCallNumbersAreLibseccomps(t *testing.T) {
	needLibseccomp(t)
	var names []string
	for _, c := range calls {
		names = append(names, c.name)
	}
	cmd := exec.Command("/usr/bin/python3", "-c", `
import json, sys, seccomp
from seccomp import Arch
arches = [Arch.X86_64, Arch.X86, Arch.X32, Arch.AARCH64, Arch.ARM]
json.dump([[seccomp.resolve_syscall(a, n) for a in arches] for n in json.load(sys.stdin)], sys.stdout)`)
	input, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs [][]int64
	if err := json.Unmarshal(output, &theirs); err != nil {
		t.Fatal(err)
	}
	known := 0
	for i, c := range calls {
		for a := range abis {
			want := theirs[i][a]
			if _, behind := i386Multiplexed[c.name]; want < 0 || behind && a == i386 {
				continue // unknown to this libseccomp, lacking in this ABI, or reached through another call
			}
			known++
			if a == x32 {
				want &^= x32Bit
			}
			if int64(c.numbers[a]) != want {
				t.Errorf("%s, ABI %d: got %d, libseccomp says %d", c.name, a, c.numbers[a], want)
			}
		}
	}
	if known < 1500 {
		t.Errorf("only %d numbers were compared", known)
	}
}

func TestProfileErrors(t *testing.T) {
	for _, tt := range []struct{ name, profile, want string }{
		{"no JSON", `{`, "unexpected end of JSON input"},
		{"no default action", `{}`, "defaultAction: required, not given"},
		{"unknown default action", `{"defaultAction":"ALLOW"}`, `defaultAction: unknown action "ALLOW"`},
		{"unknown action", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_DENY"}]}`,
			`syscalls[0].action: unknown action "SCMP_ACT_DENY"`},
		{"notify", `{"defaultAction":"SCMP_ACT_NOTIFY"}`, "defaultAction: SCMP_ACT_NOTIFY: not supported here"},
		{"error number out of range", `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}`,
			"defaultAction: errnoRet: expected 0 to 4095; found 5000"},
		{"no names", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_LOG"}]}`,
			"syscalls[0].names: required, not given"},
		{"null rule", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[null]}`, "syscalls[0]: expected a rule; found null"},
		{"name and names", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_LOG"}]}`,
			"syscalls[0]: name and names exclude each other"},
		{"argument out of range",
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}`,
			"syscalls[0].args[0].index: expected 0 to 5; found 6"},
		{"unknown operator",
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":0,"op":"=="}]}]}`,
			`syscalls[0].args[0].op: unknown operator "=="`},
		{"unknown architecture", `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["amd64"]}`,
			`architectures[0]: unknown architecture "amd64"`},
		{"two kinds of architectures",
			`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}`,
			"architectures and archMap exclude each other"},
		{"unknown flag", `{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_X"]}`,
			`flags[0]: "SECCOMP_FILTER_FLAG_X": not supported here`},
		{"listener", `{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/s"}`, "listenerPath: not supported here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.profile), nil, someKernel, "amd64")
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestRulesThatDependOnTheContainer(t *testing.T) {
	const profile = `{
		"defaultAction": "SCMP_ACT_ERRNO",
		"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
		"syscalls": [
			{"name": "read", "action": "SCMP_ACT_ALLOW"},
			{"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
			{"names": ["umount2"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
			{"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
			{"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}}
		]}`
	allowed := func(p *specs.LinuxSeccomp) string {
		var names []string
		for _, c := range p.Syscalls {
			names = append(names, c.Names...)
		}
		return strings.Join(names, " ")
	}
	for _, tt := range []struct {
		caps   []string
		kernel Kernel
		want   string
	}{
		{nil, Kernel{6, 1}, "read umount2"},
		{[]string{"CAP_SYS_ADMIN"}, Kernel{6, 2}, "read mount ptrace"},
	} {
		p, err := Parse([]byte(profile), tt.caps, tt.kernel, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		if got := allowed(p); got != tt.want {
			t.Errorf("%v on %v: got %q, want %q", tt.caps, tt.kernel, got, tt.want)
		}
		if want := []specs.Arch{specs.ArchX86_64, specs.ArchX86}; !slices.Equal(p.Architectures, want) {
			t.Errorf("architectures: got %v, want %v", p.Architectures, want)
		}
	}
}

func TestKernelReleases(t *testing.T) {
	for release, want := range map[string]Kernel{
		"6.18.44-fc-v595": {6, 18}, "6.1.0-25-cloud-amd64": {6, 1}, "7.0": {7, 0}, "6.12-rc5": {6, 12},
	} {
		if got, err := ParseKernel(release); got != want || err != nil {
			t.Errorf("%s: got %v, %v", release, got, err)
		}
	}
	for _, release := range []string{"", "linux", "6", "6.x", "-6.1", "6.-1"} {
		if got, err := ParseKernel(release); err == nil {
			t.Errorf("%q: got %v", release, got)
		}
	}
}

func TestAFilterThatTheKernelWouldNotTakeIsRefused(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(1500) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: i << 32, Op: specs.OpEqualTo}}})
	}
	const want = "instructions; the kernel takes 4096"
	if _, err := Compile(p, "amd64"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want ...%s", err, want)
	}
	if _, err := Compile(p, "mips"); err == nil {
		t.Error("a filter was made for an architecture that we do not know")
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		flags []specs.LinuxSeccompFlag
		want  uint32
	}{
		{nil, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{[]specs.LinuxSeccompFlag{}, 0},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}, unix.SECCOMP_FILTER_FLAG_LOG},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagSpecAllow, "SECCOMP_FILTER_FLAG_TSYNC"}, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
	} {
		got, err := Flags(&specs.LinuxSeccomp{Flags: tt.flags})
		if err != nil || got != tt.want {
			t.Errorf("%v: got %#x, %v; want %#x", tt.flags, got, err, tt.want)
		}
	}
}

func TestCacheTellsCapabilitiesApart(t *testing.T) {
	var c Cache
	get := func(caps ...string) []byte {
		t.Helper()
		filter, err := c.Default(caps, someKernel, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		return filter
	}
	a, b := get("CAP_SYS_ADMIN", "CAP_CHOWN"), get("CAP_CHOWN", "CAP_SYS_ADMIN")
	if &a[0] != &b[0] {
		t.Error("the same capabilities in another order were compiled again")
	}
	mount := callOf(t, "amd64", amd64, "mount")
	if got := run(t, get("CAP_CHOWN"), mount); got != eperm {
		t.Errorf("mount without SYS_ADMIN: got %#x", got)
	}
	if got := run(t, a, mount); got != retAllow {
		t.Errorf("mount with SYS_ADMIN: got %#x", got)
	}
}

func TestDefaultFilterIsSmall(t *testing.T) {
	for arch := range machines {
		filter := compile(t, Default(runcCaps, someKernel, arch), arch)
		t.Logf("%s: %d instructions", arch, len(filter)/8)
		if n := len(filter) / 8; n > 1500 {
			t.Errorf("%s: %d instructions", arch, n)
		}
	}
}

func BenchmarkCompileDefault(b *testing.B) {
	for b.Loop() {
		if _, err := Compile(Default(runcCaps, someKernel, "amd64"), "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":38,"op":"SCMP_CMP_NE"}]}]}`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X32"]}],"syscalls":[{"name":"mount","action":"SCMP_ACT_KILL","excludes":{"minKernel":"4.8"}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text, runcCaps, someKernel, "amd64")
		if err != nil {
			return
		}
		filter, err := Compile(p, "amd64")
		if err != nil {
			t.Fatalf("accepted, but: %v", err)
		}
		means := meaningOf(t, p, "amd64")
		for _, d := range []data{
			callOf(t, "amd64", amd64, "mount"), callOf(t, "amd64", i386, "read"), callOf(t, "amd64", x32, "socket", 38),
			{arch: auditX8664, number: 1<<32 - 1}, callOf(t, "amd64", amd64, "socket", 38, 1, 2, 3, 4, 5),
		} {
			if got, want := run(t, filter, d), means.of(d); got != want && !isMultiplexer(d) {
				t.Errorf("%v: got %#x, want %#x", d, got, want)
			}
		}
	})
}
