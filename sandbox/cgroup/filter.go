package cgroup

import (
	"encoding/binary"
	"strings"
	"unsafe"
)

// bpfInsn is one instruction of the kernel's BPF machine, as it lies in memory.
type bpfInsn struct {
	op   uint8
	regs uint8 // destination and source, four bits each; see insn
	off  int16 // of a jump: instructions to skip
	imm  int32
}

// Instructions used here. Source: Linux, Documentation/bpf/standardization/instruction-set.rst.
const (
	opLoad32  = 0x61 // dst = *(u32 *)(src + off)
	opMovReg  = 0xbf // dst = src
	opMovImm  = 0xb7 // dst = imm
	opAndImm  = 0x57 // dst &= imm
	opRshImm  = 0x77 // dst >>= imm
	opJumpEq  = 0x16 // if (u32)dst == imm skip off
	opJumpNe  = 0x56 // if (u32)dst != imm skip off
	opExit    = 0x95 // return r0
	regResult = 0
	regCtx    = 1
)

// The program's context, struct bpf_cgroup_dev_ctx, and the bits in it.
const (
	ctxAccessType, ctxMajor, ctxMinor = 0, 4, 8

	devBlock, devChar                 = 1, 2
	accessMknod, accessRead, accessWr = 1, 2, 4
)

// Where the program keeps what it was asked.
const (
	regType, regAccess, regMajor, regMinor = 2, 3, 4, 5
	regScratch                             = 1 // the context is not needed any more
)

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// insn builds one instruction. The two registers share a byte whose halves swap
// with the machine's byte order.
func insn(op uint8, dst, src uint8, off int16, imm int32) bpfInsn {
	regs := src<<4 | dst
	if bigEndian {
		regs = dst<<4 | src
	}
	return bpfInsn{op, regs, off, imm}
}

// deviceFilter writes the rules as a program that returns 1 to allow an access
// and 0 to refuse it. The last matching rule decides, so the program asks from
// the last to the first; an access that no rule matches is allowed, as in a v1
// group that nobody wrote to.
func deviceFilter(rules []Device) []bpfInsn {
	program := []bpfInsn{
		insn(opLoad32, regType, regCtx, ctxAccessType, 0),
		insn(opMovReg, regAccess, regType, 0, 0),
		insn(opAndImm, regType, 0, 0, 0xffff),
		insn(opRshImm, regAccess, 0, 0, 16),
		insn(opLoad32, regMajor, regCtx, ctxMajor, 0),
		insn(opLoad32, regMinor, regCtx, ctxMinor, 0),
	}
	answer := func(allow bool) []bpfInsn {
		value := int32(0)
		if allow {
			value = 1
		}
		return []bpfInsn{insn(opMovImm, regResult, 0, 0, value), insn(opExit, 0, 0, 0, 0)}
	}
	for i := len(rules) - 1; i >= 0; i-- {
		rule := rules[i]
		if rule.Type == 'a' {
			// Everything matches: what stands before it never decides.
			return append(program, answer(rule.Allow)...)
		}
		// Each test skips to the next rule; how far is known at the end.
		var tests []bpfInsn
		if rule.Type == 'b' {
			tests = append(tests, insn(opJumpNe, regType, 0, 0, devBlock))
		} else {
			tests = append(tests, insn(opJumpNe, regType, 0, 0, devChar))
		}
		tests = append(tests, insn(opMovReg, regScratch, regAccess, 0, 0))
		if access := accessBits(rule.Access); rule.Allow {
			// Allowing needs every asked-for right to be in the rule.
			tests = append(tests,
				insn(opAndImm, regScratch, 0, 0, ^access),
				insn(opJumpNe, regScratch, 0, 0, 0))
		} else {
			// Refusing needs only one.
			tests = append(tests,
				insn(opAndImm, regScratch, 0, 0, access),
				insn(opJumpEq, regScratch, 0, 0, 0))
		}
		if rule.Major >= 0 {
			tests = append(tests, insn(opJumpNe, regMajor, 0, 0, int32(uint32(rule.Major))))
		}
		if rule.Minor >= 0 {
			tests = append(tests, insn(opJumpNe, regMinor, 0, 0, int32(uint32(rule.Minor))))
		}
		block := append(tests, answer(rule.Allow)...)
		for j := range block {
			if op := block[j].op; op == opJumpNe || op == opJumpEq {
				block[j].off = int16(len(block) - j - 1)
			}
		}
		program = append(program, block...)
	}
	return append(program, answer(true)...)
}

func accessBits(access string) int32 {
	var bits int32
	if strings.Contains(access, "m") {
		bits |= accessMknod
	}
	if strings.Contains(access, "r") {
		bits |= accessRead
	}
	if strings.Contains(access, "w") {
		bits |= accessWr
	}
	return bits
}

// The kernel reads instructions of eight bytes each.
var _ [8]byte = [unsafe.Sizeof(bpfInsn{})]byte{}
