package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What a filter returns: linux/seccomp.h. The low 16 bits of ERRNO and TRACE
// are the error number and the message to the tracer.
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
)

const (
	maxErrno        = 4095 // MAX_ERRNO of the kernel
	maxInstructions = 4096 // BPF_MAXINSNS
	maxArgs         = 6
)

// Compile turns a profile into a filter for seccomp(2): an array of struct
// sock_filter, 8 bytes each, in the byte order of arch (a GOARCH).
//
// The filter decides as runc does with libseccomp:
//
//   - A rule without args decides for its call, whatever rules with args say;
//     of several such rules the first counts. Otherwise the first rule whose
//     args match decides, and where none does, the default action. All args of
//     a rule must match; args that name one argument twice are alternatives.
//   - Arguments are compared as unsigned 64-bit numbers.
//   - Names that the architecture lacks are passed over.
//   - Unless the default action lets calls pass, a call with a higher number
//     than any that the profile names fails with ENOSYS, so that programs fall
//     back to what they used before there was such a call.
//   - The native ABI is always filtered; calls through an ABI that the profile
//     does not list kill the thread.
//   - On i386, a rule without args for a socket or System V IPC call holds for
//     the same call made through socketcall(2) or ipc(2) too. Rules with args
//     cannot see behind those.
//
// Profiles that ask for SCMP_ACT_NOTIFY are refused.
func Compile(p *specs.LinuxSeccomp, arch string) ([]byte, error) {
	m, ok := machines[arch]
	if !ok {
		return nil, fmt.Errorf("no seccomp filters for architecture %q", arch)
	}
	if _, err := Flags(p); err != nil {
		return nil, err
	}
	if p.ListenerPath != "" {
		return nil, errors.New("listenerPath: not supported here")
	}
	for i, a := range p.Architectures {
		if !slices.Contains(knownArchitectures, a) {
			return nil, fmt.Errorf("architectures[%d]: unknown architecture %q", i, a)
		}
	}
	defaultRet, err := returned(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	rules, err := readRules(p.Syscalls)
	if err != nil {
		return nil, err
	}

	// The program is built from its end (see program), so the first question,
	// "which ABI", is written last.
	var prog program
	entry := prog.ret(retKillThread)
	for _, mABI := range slices.Backward(m.abis) {
		if mABI.abi == x32 {
			continue // behind the same audit value as amd64, below
		}
		if mABI.name != m.native && !slices.Contains(p.Architectures, mABI.name) {
			continue
		}
		section := prog.search(ranges(rules, mABI.abi, defaultRet), 0)
		if mABI.abi == amd64 {
			foreign := prog.ret(retKillThread)
			if slices.Contains(p.Architectures, specs.ArchX32) {
				foreign = prog.search(ranges(rules, x32, defaultRet), x32Bit)
			}
			section = prog.jump(jge, x32Bit, foreign, section)
		}
		section = prog.loadBefore(offsetNumber, section)
		entry = prog.jump(jeq, mABI.audit, section, entry)
	}
	prog.loadBefore(offsetArch, entry)
	return prog.bytes()
}

// Flags returns the flags for seccomp(2) that a profile asks for. A profile
// without flags asks for SPEC_ALLOW, as under runc; an empty list asks for none.
func Flags(p *specs.LinuxSeccomp) (uint32, error) {
	if p.Flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var flags uint32
	for i, f := range p.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// The one thread of a container's start has nobody to synchronise with.
		default:
			return 0, fmt.Errorf("flags[%d]: %q: not supported here", i, f)
		}
	}
	return flags, nil
}

// returned is what a filter returns for an action. Source: the OCI runtime
// spec; ERRNO and TRACE without errnoRet mean EPERM.
func returned(action specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errnoRet != nil {
		if *errnoRet > maxErrno {
			return 0, fmt.Errorf("errnoRet: expected 0 to %d; found %d", maxErrno, *errnoRet)
		}
		data = uint32(*errnoRet)
	}
	switch action {
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActErrno:
		return retErrno | data, nil
	case specs.ActTrace:
		return retTrace | data, nil
	case specs.ActLog:
		return retLog, nil
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActNotify:
		return 0, fmt.Errorf("%s: not supported here", action)
	case "":
		return 0, errors.New("required, not given")
	}
	return 0, fmt.Errorf("unknown action %q", action)
}

// permissive reports whether calls that nobody thought of pass, or are left to
// a tracer.
func permissive(ret uint32) bool {
	return ret == retAllow || ret == retLog || ret&^0xffff == retTrace
}

// rule is a checked specs.LinuxSyscall. Its alternatives are conjunctions; no
// alternatives: the rule has no args.
type rule struct {
	names        []string
	ret          uint32
	alternatives [][]specs.LinuxSeccompArg
}

func readRules(calls []specs.LinuxSyscall) ([]rule, error) {
	rules := make([]rule, 0, len(calls))
	for i, c := range calls {
		if len(c.Names) == 0 {
			return nil, fmt.Errorf("syscalls[%d].names: required, not given", i)
		}
		ret, err := returned(c.Action, c.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d].action: %w", i, err)
		}
		r := rule{names: c.Names, ret: ret}
		var seen [maxArgs]bool
		twice := false
		for j, a := range c.Args {
			if a.Index >= maxArgs {
				return nil, fmt.Errorf("syscalls[%d].args[%d].index: expected 0 to %d; found %d", i, j, maxArgs-1, a.Index)
			}
			if !slices.Contains(operators, a.Op) {
				return nil, fmt.Errorf("syscalls[%d].args[%d].op: unknown operator %q", i, j, a.Op)
			}
			twice = twice || seen[a.Index]
			seen[a.Index] = true
		}
		switch {
		case twice:
			for _, a := range c.Args {
				r.alternatives = append(r.alternatives, []specs.LinuxSeccompArg{a})
			}
		case len(c.Args) > 0:
			r.alternatives = [][]specs.LinuxSeccompArg{c.Args}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

var operators = []specs.LinuxSeccompOperator{
	specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
	specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
}

// knownArchitectures are those of the OCI runtime spec. Those that a machine
// cannot run need no part in its filter.
var knownArchitectures = []specs.Arch{
	specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64,
	specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64,
	specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390,
	specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64,
	specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// test is one conjunction of comparisons and what follows from it.
type test struct {
	args []specs.LinuxSeccompArg
	ret  uint32
}

// verdict is what a filter says about one call: the first test that holds,
// otherwise ret.
type verdict struct {
	tests   []test
	ret     uint32
	decided bool // by a rule without args; further rules change nothing
}

// span is a range of call numbers with one verdict, from first to before the
// next span's first.
type span struct {
	first uint32
	verdict
}

// ranges returns the verdicts for all numbers of an ABI, from 0 on.
func ranges(rules []rule, a abi, defaultRet uint32) []span {
	verdicts := map[uint32]*verdict{}
	var last uint32 // highest number that a rule names
	named := false
	add := func(n, ret uint32, alternatives [][]specs.LinuxSeccompArg) {
		if n < armPrivate {
			last, named = max(last, n), true
		}
		if ret == defaultRet && n < armPrivate {
			return
		}
		v := verdicts[n]
		if v == nil {
			v = &verdict{ret: defaultRet}
			verdicts[n] = v
		}
		if v.decided {
			return
		}
		if alternatives == nil {
			*v = verdict{ret: ret, decided: true}
			return
		}
		for _, args := range alternatives {
			v.tests = append(v.tests, test{args, ret})
		}
	}
	for _, r := range rules {
		for _, name := range r.names {
			if n, ok := number(name, a); ok {
				add(n, r.ret, r.alternatives)
			}
			if a == i386 && r.alternatives == nil {
				if n, arg, ok := multiplexed(name); ok {
					add(n, r.ret, [][]specs.LinuxSeccompArg{{arg}})
				}
			}
		}
	}

	tail := defaultRet // for numbers that are newer than the profile
	if named && !permissive(defaultRet) {
		tail = retErrno | uint32(unix.ENOSYS)
	}
	var spans []span
	put := func(s span) {
		if n := len(spans); n > 0 {
			before := spans[n-1]
			if before.tests == nil && s.tests == nil && before.ret == s.ret {
				return // the span before reaches further
			}
		}
		spans = append(spans, s)
	}
	next := uint32(0)
	fill := func(until uint32) { // unnamed numbers from next to before until
		if next <= last && next < until {
			put(span{next, verdict{ret: defaultRet}})
			next = min(until, last+1)
		}
		if next < until {
			put(span{next, verdict{ret: tail}})
			next = until
		}
	}
	if !named {
		last, tail = 0, defaultRet
	}
	for _, n := range slices.Sorted(maps.Keys(verdicts)) {
		fill(n)
		put(span{n, *verdicts[n]})
		next = n + 1
	}
	fill(1<<32 - 1)
	return spans
}

// multiplexed returns the test that stands for an i386 call made through
// another one.
func multiplexed(name string) (n uint32, arg specs.LinuxSeccompArg, ok bool) {
	m, ok := i386Multiplexed[name]
	if !ok {
		return 0, arg, false
	}
	n, ok = number(m.through, i386)
	arg = specs.LinuxSeccompArg{Index: 0, Value: m.value, Op: specs.OpEqualTo}
	if m.through == "ipc" {
		// ipc(2) carries a version above the low 16 bits.
		arg = specs.LinuxSeccompArg{Index: 0, Value: 0xffff, ValueTwo: m.value, Op: specs.OpMaskedEqual}
	}
	return n, arg, ok
}

// Classic BPF, as far as filters need it: linux/bpf_common.h.
const (
	ldAbs = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	andK  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	ja    = unix.BPF_JMP | unix.BPF_JA
	jeq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jgt   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jge   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	retK  = unix.BPF_RET | unix.BPF_K
)

// Offsets into struct seccomp_data.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// argument returns the offsets of an argument's halves, on little-endian
// machines.
func argument(index uint) (low, high uint32) {
	low = offsetArgs + 8*uint32(index)
	return low, low + 4
}

type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// program is built from its last instruction to its first, because BPF jumps
// only forward: every target is known when the jump to it is written.
type program struct {
	reversed []instruction
	rets     map[uint32]label // the latest "return k"
}

// label is an instruction's place, counted from the end of the program.
type label int

// Conditional jumps skip at most 255 instructions. near leaves room for the
// instruction that bringing the jump's other target near may add.
const near = 254

func (p *program) emit(i instruction) label {
	p.reversed = append(p.reversed, i)
	return label(len(p.reversed) - 1)
}

// distance is how many instructions a jump written next has to skip.
func (p *program) distance(to label) int { return len(p.reversed) - int(to) - 1 }

// load loads a word and goes on with the instruction written last.
func (p *program) load(offset uint32) label { return p.emit(instruction{code: ldAbs, k: offset}) }

// loadBefore loads a word and goes on anywhere.
func (p *program) loadBefore(offset uint32, next label) label {
	if skip := p.distance(next); skip > 0 {
		p.emit(instruction{code: ja, k: uint32(skip)})
	}
	return p.load(offset)
}

func (p *program) ret(k uint32) label {
	if l, ok := p.rets[k]; ok && p.distance(l) < near {
		return l
	}
	if p.rets == nil {
		p.rets = map[uint32]label{}
	}
	p.rets[k] = p.emit(instruction{code: retK, k: k})
	return p.rets[k]
}

// bringNear returns a place that does what the target does and that a
// conditional jump can reach.
func (p *program) bringNear(to label) label {
	if p.distance(to) < near {
		return to
	}
	if target := p.reversed[to]; target.code == retK {
		return p.ret(target.k)
	}
	return p.emit(instruction{code: ja, k: uint32(p.distance(to))})
}

// jump compares the accumulator with k.
func (p *program) jump(code uint16, k uint32, yes, no label) label {
	yes, no = p.bringNear(yes), p.bringNear(no)
	return p.emit(instruction{code: code, k: k, jt: uint8(p.distance(yes)), jf: uint8(p.distance(no))})
}

// search writes a binary search for the call number, which is in the
// accumulator, over an ABI's spans. base is added to their numbers.
func (p *program) search(spans []span, base uint32) label {
	if len(spans) == 1 {
		return p.verdict(spans[0].verdict)
	}
	middle := len(spans) / 2
	upper := p.search(spans[middle:], base)
	lower := p.search(spans[:middle], base)
	return p.jump(jge, base+spans[middle].first, upper, lower)
}

// verdict writes the tests of a verdict, in order.
func (p *program) verdict(v verdict) label {
	otherwise := p.ret(v.ret)
	for end := len(v.tests); end > 0; {
		start := end - 1
		for start > 0 && sameHalf(v.tests[start-1], v.tests[end-1]) {
			start--
		}
		if start < end-1 {
			otherwise = p.oneOf(v.tests[start:end], otherwise)
		} else {
			otherwise = p.all(v.tests[start], otherwise)
		}
		end = start
	}
	return otherwise
}

// sameHalf reports whether two tests each compare one and the same argument
// for equality with numbers that share their upper half.
func sameHalf(a, b test) bool {
	return len(a.args) == 1 && len(b.args) == 1 && a.args[0].Index == b.args[0].Index &&
		a.args[0].Op == specs.OpEqualTo && b.args[0].Op == specs.OpEqualTo &&
		a.args[0].Value>>32 == b.args[0].Value>>32
}

// oneOf writes tests of which sameHalf holds: both halves are loaded once.
func (p *program) oneOf(tests []test, otherwise label) label {
	low, high := argument(tests[0].args[0].Index)
	next := otherwise
	for _, t := range slices.Backward(tests) {
		next = p.jump(jeq, uint32(t.args[0].Value), p.ret(t.ret), next)
	}
	lowHalf := p.load(low)
	p.jump(jeq, uint32(tests[0].args[0].Value>>32), lowHalf, otherwise)
	return p.load(high)
}

// all writes the comparisons of one test.
func (p *program) all(t test, otherwise label) label {
	next := p.ret(t.ret)
	for _, a := range slices.Backward(t.args) {
		next = p.compare(a, next, otherwise)
	}
	return next
}

func (p *program) compare(a specs.LinuxSeccompArg, yes, no label) label {
	low, high := argument(a.Index)
	switch a.Op {
	case specs.OpNotEqual:
		a.Op = specs.OpEqualTo
		return p.compare(a, no, yes)
	case specs.OpLessThan:
		a.Op = specs.OpGreaterEqual
		return p.compare(a, no, yes)
	case specs.OpLessEqual:
		a.Op = specs.OpGreaterThan
		return p.compare(a, no, yes)
	case specs.OpEqualTo:
		p.jump(jeq, uint32(a.Value), yes, no)
		lowHalf := p.load(low)
		p.jump(jeq, uint32(a.Value>>32), lowHalf, no)
		return p.load(high)
	case specs.OpMaskedEqual:
		// Value is the mask. Bits of ValueTwo outside it say nothing, as with
		// libseccomp.
		mask, want := a.Value, a.ValueTwo&a.Value
		p.jump(jeq, uint32(want), yes, no)
		p.emit(instruction{code: andK, k: uint32(mask)})
		half := p.load(low)
		if mask>>32 != 0 {
			p.jump(jeq, uint32(want>>32), half, no)
			p.emit(instruction{code: andK, k: uint32(mask >> 32)})
			half = p.load(high)
		}
		return half
	}
	code := uint16(jgt)
	if a.Op == specs.OpGreaterEqual {
		code = jge
	}
	p.jump(code, uint32(a.Value), yes, no)
	lowHalf := p.load(low)
	tie := p.jump(jeq, uint32(a.Value>>32), lowHalf, no)
	p.jump(jgt, uint32(a.Value>>32), yes, tie)
	return p.load(high)
}

// bytes returns the program in its own order.
func (p *program) bytes() ([]byte, error) {
	if n := len(p.reversed); n > maxInstructions {
		return nil, fmt.Errorf("the filter has %d instructions; the kernel takes %d", n, maxInstructions)
	}
	b := make([]byte, 0, 8*len(p.reversed))
	for _, i := range slices.Backward(p.reversed) {
		b = binary.LittleEndian.AppendUint16(b, i.code)
		b = append(b, i.jt, i.jf)
		b = binary.LittleEndian.AppendUint32(b, i.k)
	}
	return b, nil
}
