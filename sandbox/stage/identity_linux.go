package stage

import (
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// identity prepares what makes a thread the container's user, with its
// capabilities. After it the thread can do no more than the command may.
//
// The order is that of isolation's rules: the bounding set shrinks while SETPCAP
// is still held; a filter without no_new_privs is accepted only while SYS_ADMIN
// is held; groups before the user, the user before the capabilities; and with
// no_new_privs the filter is the very last step, see lastFilter.
//
// Every call is raw: the wrappers in package syscall change all threads.
func identity(b *block, p *wire.Process) []Call {
	calls := make([]Call, 0, manyCalls)
	add := func(name string, nr uintptr, a ...uintptr) {
		c := Call{Name: name, NR: nr}
		copy(c.A[:], a)
		calls = append(calls, c)
	}
	bounding := boundingSet()
	for c := uintptr(0); c < 64; c++ {
		if bounding&^p.Bounding&(1<<c) != 0 {
			add("drop capability", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
		}
	}
	add("clear the ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	if !p.NoNewPrivs {
		calls = append(calls, filter(b, p)...)
	}
	add("keep capabilities over the change of user", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)

	var groups uintptr
	if n := len(p.Groups); n > 0 {
		groups = b.put(unsafe.Slice((*byte)(unsafe.Pointer(&p.Groups[0])), 4*n))
	}
	add("set the supplemental groups", unix.SYS_SETGROUPS, uintptr(len(p.Groups)), groups)
	add("set the group", unix.SYS_SETRESGID, uintptr(p.GID), uintptr(p.GID), uintptr(p.GID))
	add("set the user", unix.SYS_SETRESUID, uintptr(p.UID), uintptr(p.UID), uintptr(p.UID))

	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(p.Effective), Permitted: uint32(p.Permitted), Inheritable: uint32(p.Inheritable)},
		{Effective: uint32(p.Effective >> 32), Permitted: uint32(p.Permitted >> 32), Inheritable: uint32(p.Inheritable >> 32)},
	}
	add("set the capabilities", unix.SYS_CAPSET, value(b, head), value(b, data))
	for c := uintptr(0); c < 64; c++ {
		if p.Ambient&(1<<c) != 0 {
			add("raise ambient capability "+strconv.Itoa(int(c)), unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c)
		}
	}
	add("forget kept capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0)
	add("set the umask", unix.SYS_UMASK, uintptr(p.Umask))
	return calls
}

// lastFilter prepares no_new_privs and the filter that may only follow it.
func lastFilter(b *block, p *wire.Process) []Call {
	if !p.NoNewPrivs {
		return nil
	}
	return append([]Call{{Name: "set no_new_privs", NR: unix.SYS_PRCTL, A: [6]uintptr{unix.PR_SET_NO_NEW_PRIVS, 1}}}, filter(b, p)...)
}

func filter(b *block, p *wire.Process) []Call {
	if len(p.Seccomp) == 0 {
		return nil
	}
	// As struct sock_fprog lies in memory; the type in package unix holds a Go
	// pointer.
	prog := struct {
		len    uint16
		filter uintptr
	}{uint16(len(p.Seccomp) / 8), b.put(p.Seccomp)}
	return []Call{{Name: "install the seccomp filter", NR: unix.SYS_SECCOMP,
		A: [6]uintptr{unix.SECCOMP_SET_MODE_FILTER, uintptr(p.SeccompFlags), value(b, prog)}}}
}

// boundingSet is the set of capabilities that this process can pass on. It does
// not change: only forked children give something up.
var boundingSet = sync.OnceValue(func() (set uint64) {
	for c := 0; c < 64; c++ {
		r, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil {
			break // above the last capability of this kernel
		}
		if r == 1 {
			set |= 1 << c
		}
	}
	return set
})

// limits prepares the resource limits and the OOM score. Raising a limit or
// lowering the score may be forbidden (no CAP_SYS_RESOURCE): then the inherited
// one stays. procFD is a procfs of the caller's own PID namespace.
func limits(b *block, p *wire.Process, procFD int) []Call {
	var calls []Call
	for i := range p.Rlimits {
		r := &p.Rlimits[i]
		lim := unix.Rlimit{Cur: r.Soft, Max: r.Max}
		calls = append(calls, Call{Name: "set a resource limit", NR: unix.SYS_PRLIMIT64, Optional: true,
			A: [6]uintptr{0, uintptr(r.Resource), value(b, lim)}})
	}
	if p.SetOOM {
		score := strconv.Itoa(p.OOMScoreAdj)
		calls = append(calls,
			Call{Name: "open the OOM score", NR: unix.SYS_OPENAT, Optional: true,
				A: [6]uintptr{uintptr(procFD), b.str("self/oom_score_adj"), unix.O_WRONLY | unix.O_CLOEXEC}},
			Call{Name: "set the OOM score", NR: unix.SYS_WRITE, Optional: true, OnLast: true,
				A: [6]uintptr{0, b.str(score), uintptr(len(score))}})
	}
	return calls
}
