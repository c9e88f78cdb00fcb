package stage

import (
	"bytes"
	"errors"
	"syscall"
	"testing"
	"unsafe"
)

func bytesAt(p uintptr, n int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&p))), n)
}

func TestABlockHoldsWhatOfAnySizeWasPut(t *testing.T) {
	var b block
	defer b.free()
	var at []uintptr
	sizes := []int{0, 1, 7, 8, 9, 11, 3, chunkSize - 8, chunkSize, chunkSize + 1, 3, 1 << 20, 5}
	for i, n := range sizes {
		at = append(at, b.put(bytes.Repeat([]byte{byte(i + 1)}, n)))
	}
	for i, n := range sizes {
		if at[i]%8 != 0 {
			t.Errorf("%d bytes are not aligned", n)
		}
		if got := bytesAt(at[i], n); !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, n)) {
			t.Errorf("%d bytes were overwritten", n)
		}
	}
	argv := b.strs([]string{"sh", ""})
	first := *(*uintptr)(unsafe.Pointer(&bytesAt(argv, 24)[0]))
	last := *(*uintptr)(unsafe.Pointer(&bytesAt(argv, 24)[16]))
	if got := bytesAt(first, 3); string(got) != "sh\x00" || last != 0 {
		t.Errorf("argv begins with %q and ends with %#x", got, last)
	}
	if b.err != nil {
		t.Error(b.err)
	}
	if b.str("a\x00b"); !errors.Is(b.err, syscall.EINVAL) {
		t.Errorf("a string with a NUL in it: %v", b.err)
	}
}
