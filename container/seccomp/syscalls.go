package seccomp

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

//go:generate go run gen.go

// abi is one of the system call interfaces that a process can use on the
// machines we run on. It indexes call.numbers.
type abi int

const (
	amd64 abi = iota
	i386
	x32 // of amd64: its numbers carry x32Bit, and its audit value is amd64's
	arm64
	arm
	abis
)

type call struct {
	name    string
	numbers [abis]int32
}

// x32Bit is set in the number of a call through the x32 ABI.
const x32Bit = 0x40000000

// armPrivate is where the arm ABI's own calls begin (__ARM_NR_BASE).
const armPrivate = 0xf0000

// Values of struct seccomp_data's arch: linux/audit.h.
const (
	auditX8664   = 0xc000003e
	auditI386    = 0x40000003
	auditAArch64 = 0xc00000b7
	auditARM     = 0x40000028
)

// machine is what a filter for one GOARCH has to tell apart.
type machine struct {
	native specs.Arch
	// abis in the order in which a filter asks for them: native first.
	abis []machineABI
}

type machineABI struct {
	abi   abi
	name  specs.Arch
	audit uint32
}

var machines = map[string]machine{
	"amd64": {specs.ArchX86_64, []machineABI{
		{amd64, specs.ArchX86_64, auditX8664},
		{x32, specs.ArchX32, auditX8664},
		{i386, specs.ArchX86, auditI386},
	}},
	"arm64": {specs.ArchAARCH64, []machineABI{
		{arm64, specs.ArchAARCH64, auditAArch64},
		{arm, specs.ArchARM, auditARM},
	}},
}

// number returns a call's number in an ABI, without x32Bit.
func number(name string, a abi) (n uint32, ok bool) {
	i, ok := slices.BinarySearchFunc(calls[:], name, func(c call, name string) int {
		return strings.Compare(c.name, name)
	})
	if !ok || calls[i].numbers[a] < 0 {
		return 0, false
	}
	return uint32(calls[i].numbers[a]), true
}

// On i386 old programs reach sockets and System V IPC through one call each,
// whose first argument says what is meant: socketcall(2) and ipc(2).
var i386Multiplexed = map[string]struct {
	through string
	value   uint64
}{
	"socket": {"socketcall", 1}, "bind": {"socketcall", 2}, "connect": {"socketcall", 3},
	"listen": {"socketcall", 4}, "accept": {"socketcall", 5}, "getsockname": {"socketcall", 6},
	"getpeername": {"socketcall", 7}, "socketpair": {"socketcall", 8}, "send": {"socketcall", 9},
	"recv": {"socketcall", 10}, "sendto": {"socketcall", 11}, "recvfrom": {"socketcall", 12},
	"shutdown": {"socketcall", 13}, "setsockopt": {"socketcall", 14}, "getsockopt": {"socketcall", 15},
	"sendmsg": {"socketcall", 16}, "recvmsg": {"socketcall", 17}, "accept4": {"socketcall", 18},
	"recvmmsg": {"socketcall", 19}, "sendmmsg": {"socketcall", 20},

	"semop": {"ipc", 1}, "semget": {"ipc", 2}, "semctl": {"ipc", 3}, "semtimedop": {"ipc", 4},
	"msgsnd": {"ipc", 11}, "msgrcv": {"ipc", 12}, "msgget": {"ipc", 13}, "msgctl": {"ipc", 14},
	"shmat": {"ipc", 21}, "shmdt": {"ipc", 22}, "shmget": {"ipc", 23}, "shmctl": {"ipc", 24},
}
