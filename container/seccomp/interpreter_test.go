package seccomp

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// data is struct seccomp_data without its instruction pointer.
type data struct {
	number, arch uint32
	args         [maxArgs]uint64
}

func (d data) String() string {
	return fmt.Sprintf("arch %#x number %d args %#x", d.arch, d.number, d.args)
}

// run executes a filter the way the kernel does, refusing whatever the kernel's
// verifier refuses.
func run(t testing.TB, filter []byte, d data) uint32 {
	var memory [64]byte
	binary.LittleEndian.PutUint32(memory[0:], d.number)
	binary.LittleEndian.PutUint32(memory[4:], d.arch)
	for i, a := range d.args {
		binary.LittleEndian.PutUint64(memory[16+8*i:], a)
	}
	var a uint32
	for pc := 0; ; pc++ {
		if 8*pc+8 > len(filter) {
			t.Fatalf("%v: the program runs past its end, at %d", d, pc)
		}
		code := binary.LittleEndian.Uint16(filter[8*pc:])
		jt, jf := int(filter[8*pc+2]), int(filter[8*pc+3])
		k := binary.LittleEndian.Uint32(filter[8*pc+4:])
		branch := func(yes bool) {
			if yes {
				pc += jt
			} else {
				pc += jf
			}
		}
		switch code {
		case ldAbs:
			if k%4 != 0 || k >= 64 {
				t.Fatalf("load of offset %d", k)
			}
			a = binary.LittleEndian.Uint32(memory[k:])
		case andK:
			a &= k
		case ja:
			pc += int(k)
		case jeq:
			branch(a == k)
		case jgt:
			branch(a > k)
		case jge:
			branch(a >= k)
		case retK:
			return k
		case 0x04: // libseccomp's programs use a few more: add
			a += k
		case 0x45: // jset
			branch(a&k != 0)
		default:
			t.Fatalf("instruction %d has code %#x", pc, code)
		}
	}
}
