package stage

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Call is one prepared system call. What comes right before an execve is
// written as a list of calls, because it runs where Go code must not: in a
// forked child, under a filter that may forbid what the runtime needs, or with
// an identity that only one thread has. What its arguments point to lies in a
// block.
type Call struct {
	Name string // completes "cannot …"
	NR   uintptr
	A    [6]uintptr
	// Optional calls may fail.
	Optional bool
	// OnLast puts the result of the call before into the first argument.
	OnLast bool
}

// manyCalls is what an exec of a container without privileges takes.
const manyCalls = 64

// step is the call's name, with the capability that it drops.
func (c *Call) step() string {
	if c.NR == unix.SYS_PRCTL && c.A[0] == unix.PR_CAPBSET_DROP {
		return c.Name + " " + strconv.Itoa(int(c.A[1]))
	}
	return c.Name
}

// run performs the calls on this thread and returns the first that failed.
//
//go:norace
//go:nosplit
func run(calls []Call) (failed int, errno syscall.Errno) {
	last := uintptr(0)
	for i := range calls {
		c := &calls[i]
		a0 := c.A[0]
		if c.OnLast {
			a0 = last
		}
		r, _, e := syscall.RawSyscall6(c.NR, a0, c.A[1], c.A[2], c.A[3], c.A[4], c.A[5])
		if e != 0 && !c.Optional {
			return i, e
		}
		last = r
	}
	return -1, 0
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal uint64
	stack, stackSize, tls, setTID, setTIDSize     uint64
	cgroup                                        uint64
}

// An instruction is a [Call] as forkRun performs it: the call's number, six
// arguments, and in the last word its flags and, from bit 32 on, its index.
type instruction [8]uintptr

const (
	insnOptional = 1 << 0
	insnOnLast   = 1 << 1
	insnFork     = 1 << 2 // the child goes on, the parent exits
)

// report is how children of forkRun tell how far they came: a close-on-exec pipe
// to write to, and space for a message. It lies in memory that they share with
// whoever reaps them, and the kernel notes there whom it forked: either may be
// killed at any time, and a child nobody knows of would never be reaped.
type report struct {
	status  uint64
	message [reportSize / 4]uint32 // index of the call that failed, error number
	command uint32                 // pid
	middle  uint32                 // pid of the process between
	_       uint32
}

const reportSize = 8

// forkRun forks by clone3 and returns the pid or a negative error number. The
// child performs instructions until one executes a program or one that must not
// fail fails. It is no Go code: it needs no stack, no heap and no variable but
// what report and first point to.
func forkRun(args *cloneArgs, size uintptr, report *report, first *instruction) uintptr

// KeepFromForks takes this process's writable memory out of the copies that
// [Join] makes of it. What the Go runtime maps later is copied, which costs time
// only. Processes that share memory with their parent until they execute a
// program, such as those of package syscall, are not concerned. proc is a procfs.
func KeepFromForks(proc int) {
	text, err := (&stage{proc: proc}).readProc("self/maps")
	if err != nil {
		return
	}
	forking.Lock()
	defer forking.Unlock()
	for line := range strings.Lines(text) {
		area, rest, _ := strings.Cut(line, " ")
		low, high, _ := strings.Cut(area, "-")
		from, err1 := strconv.ParseUint(low, 16, 64)
		to, err2 := strconv.ParseUint(high, 16, 64)
		if err1 == nil && err2 == nil && strings.HasPrefix(rest, "rw") {
			unix.RawSyscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTFORK)
		}
	}
}

// forking is held for reading by who forks, and for writing by
// [KeepFromForks], which sees the blocks of others in the list of mappings and
// cannot tell them apart.
var forking sync.RWMutex

// A CallError says which prepared call failed.
type CallError struct {
	Name  string
	Errno syscall.Errno
	Exec  bool // it was the execve
}

func (e *CallError) Error() string { return "cannot " + e.Name + ": " + e.Errno.Error() }
func (e *CallError) Unwrap() error { return e.Errno }

// forkInto forks a child that does first, and from it a grandchild that does
// second, whose last call executes a command. It waits for that and returns the
// grandchild's pid. The grandchild is a child of the calling process, not of the
// short-lived one between them. The calls keep the status pipe's writing end
// open; it closes by the execve.
//
// With a shared report both are children of the calling process's parent, which
// reaps them and finds their pids there; see [Forked].
//
// Two forks, because a process enters a PID namespace only by being forked into
// it, and must have given up its capabilities before (CVE-2016-9962). The first
// is a copy: a process in the container's cgroup or PID namespace shares no
// heap with us, or the OOM killer would kill us with it. It is a small one, as
// the block is all that is needed. The second shares the first one's memory, and
// so the first waits until the command is executed. The descriptor table is a copy
// as well, so closing descriptors there cannot hurt the runtime here.
func forkInto(b *block, cgroupFD int, status [2]int, shared *report, first, second []Call) (pid int, err error) {
	rep := shared
	if rep == nil {
		rep = (*report)(unsafe.Pointer(&b.room(int(unsafe.Sizeof(report{})))[0]))
	}
	rep.status = uint64(status[1])
	args := &cloneArgs{ // exit signal 0: only wait4 with __WALL sees it
		flags:     unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PARENT_SETTID,
		parentTID: uint64(uintptr(unsafe.Pointer(&rep.middle))),
	}
	if shared != nil {
		args.flags |= unix.CLONE_PARENT
	}
	if cgroupFD >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroupFD)
	}
	fork := Call{Name: "fork into the container", NR: unix.SYS_CLONE, A: [6]uintptr{
		unix.CLONE_PARENT | unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PARENT_SETTID | uintptr(unix.SIGCHLD),
		0, uintptr(unsafe.Pointer(&rep.command)),
	}}
	calls := append(append(append(make([]Call, 0, len(first)+1+len(second)), first...), fork), second...)
	mem := b.room(len(calls) * int(unsafe.Sizeof(instruction{})))
	prog := unsafe.Slice((*instruction)(unsafe.Pointer(&mem[0])), len(calls))
	for i := range calls {
		c := &calls[i]
		flags := uintptr(i) << 32
		if c.Optional {
			flags |= insnOptional
		}
		if c.OnLast {
			flags |= insnOnLast
		}
		if i == len(first) {
			flags |= insnFork
		}
		prog[i] = instruction{c.NR, c.A[0], c.A[1], c.A[2], c.A[3], c.A[4], c.A[5], flags}
	}
	if b.err != nil {
		unix.Close(status[1])
		return 0, fail("prepare the command", b.err)
	}
	forking.RLock()
	b.keepInForks()
	child := forkRun(args, unsafe.Sizeof(*args), rep, &prog[0])
	forking.RUnlock()
	unix.Close(status[1])
	if errno := -int(child); errno > 0 && errno < 4096 {
		return 0, &CallError{Name: "fork", Errno: syscall.Errno(errno)}
	}
	var failed error
	for { // until the command runs, or everybody on the way to it is gone
		var m [reportSize]byte
		n, rerr := unix.Read(status[0], m[:])
		if rerr == unix.EINTR {
			continue
		}
		if rerr != nil || n != reportSize {
			break
		}
		if x := binary.NativeEndian.Uint32(m[:]); int(x) < len(calls) {
			failed = &CallError{Name: calls[x].step(), Errno: syscall.Errno(binary.NativeEndian.Uint32(m[4:])), Exec: calls[x].NR == unix.SYS_EXECVE}
		}
	}
	if shared == nil {
		reap(int(child))
	}
	pid = int(atomic.LoadUint32(&rep.command))
	if failed != nil && pid != 0 && shared == nil {
		reap(pid)
	}
	if failed == nil && pid == 0 {
		failed = errors.New("cannot fork into the container: killed on the way")
	}
	if failed != nil {
		return 0, failed
	}
	return pid, nil
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != unix.EINTR {
			return
		}
	}
}

// NewReport makes the file of [Joiner].Report.
func NewReport() (*os.File, error) {
	fd, err := unix.MemfdCreate("podd-exec-report", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fail("make a report", err)
	}
	f := os.NewFile(uintptr(fd), "report")
	if err := f.Truncate(int64(unsafe.Sizeof(report{}))); err != nil {
		f.Close()
		return nil, fail("make a report", err)
	}
	return f, nil
}

// mapReport maps the file of a report that another process reads.
func mapReport(fd int) (*report, error) {
	mem, err := unix.Mmap(fd, 0, int(unsafe.Sizeof(report{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fail("share the report", err)
	}
	return (*report)(unsafe.Pointer(&mem[0])), nil
}

// Forked reads from a report whom a Join has forked, whatever became of it: the
// process in the middle and the command, 0 where it did not come so far.
func Forked(f *os.File) (middle, command int) {
	var r report
	if _, err := f.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r)), 0); err != nil {
		return 0, 0
	}
	return int(r.middle), int(r.command)
}

// closeAllBut closes every descriptor from 3 up that is not kept. Close-on-exec
// is not enough: an execve resolves /proc/self/fd/N before it closes N
// (CVE-2024-21626).
func closeAllBut(keep ...int) []Call {
	var calls []Call
	from := 3
	for from >= 0 {
		next := -1
		for _, k := range keep {
			if k >= from && (next < 0 || k < next) {
				next = k
			}
		}
		last := uintptr(^uint32(0))
		if next >= 0 {
			last = uintptr(next) - 1
		}
		if next != from {
			calls = append(calls, Call{Name: "close descriptors", NR: unix.SYS_CLOSE_RANGE, A: [6]uintptr{uintptr(from), last}})
		}
		if next < 0 {
			break
		}
		from = next + 1
	}
	return calls
}

// execve prepares one try per candidate. Only the last one's failure is
// reported, and no call follows a try that succeeds.
func execve(b *block, candidates []string, args, env []string) []Call {
	argv, envp := b.strs(args), b.strs(env)
	var calls []Call
	for i, c := range candidates {
		calls = append(calls, Call{
			Name: "execute " + c, NR: unix.SYS_EXECVE, Optional: i < len(candidates)-1,
			A: [6]uintptr{b.str(c), argv, envp},
		})
	}
	return calls
}
