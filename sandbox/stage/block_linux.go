package stage

import (
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A block is memory outside of the Go heap that prepared calls and what their
// arguments point to live in. A process that runs them needs nothing else of our
// memory, so nothing else has to be copied for it; see [KeepFromForks]. It is
// shared with such processes, so that what one reports outlives it. The zero block
// is empty. It is not for concurrent use.
type block struct {
	chunks [][]byte
	used   int // of the last chunk
	err    error
}

const chunkSize = 64 << 10 // only what is touched of it takes memory

// room returns n zero bytes, aligned to 8. After it failed, it returns ordinary
// memory, and err says why nothing in the block may be used.
func (b *block) room(n int) []byte {
	n = max((n+7)&^7, 8)
	if len(b.chunks) == 0 || b.used+n > len(b.chunks[len(b.chunks)-1]) {
		chunk, err := unix.Mmap(-1, 0, max(n, chunkSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
		if err != nil {
			b.err = err
			return make([]byte, n)
		}
		b.chunks = append(b.chunks, chunk)
		b.used = 0
	}
	at := b.chunks[len(b.chunks)-1][b.used : b.used+n : b.used+n]
	b.used += n
	return at
}

// put copies p into the block and returns where it is.
func (b *block) put(p []byte) uintptr {
	at := b.room(len(p))
	copy(at, p)
	return uintptr(unsafe.Pointer(&at[0]))
}

// str is put for a string that the kernel reads up to its NUL.
func (b *block) str(s string) uintptr {
	if strings.IndexByte(s, 0) >= 0 {
		b.err = syscall.EINVAL
		return 0
	}
	at := b.room(len(s) + 1)
	copy(at, s)
	return uintptr(unsafe.Pointer(&at[0]))
}

// strs is an argv or envp.
func (b *block) strs(list []string) uintptr {
	at := b.room(8 * (len(list) + 1))
	for i, s := range list {
		*(*uintptr)(unsafe.Pointer(&at[8*i])) = b.str(s)
	}
	return uintptr(unsafe.Pointer(&at[0]))
}

// value copies v, which must hold no Go pointers, into the block.
func value[T any](b *block, v T) uintptr {
	return b.put(unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v)))
}

// keepInForks undoes what [KeepFromForks] may have done to the block.
func (b *block) keepInForks() {
	for _, c := range b.chunks {
		unix.Madvise(c, unix.MADV_DOFORK)
	}
}

// free gives the memory back. Children that have it too keep it.
func (b *block) free() {
	for _, c := range b.chunks {
		unix.Munmap(c)
	}
	b.chunks = nil
}
