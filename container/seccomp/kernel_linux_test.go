package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// childVariable makes the test binary a process that installs the default
// filter and tries system calls.
const childVariable = "PODD_SECCOMP_TEST_CHILD"

func TestMain(m *testing.M) {
	if caps, ok := os.LookupEnv(childVariable); ok {
		if err := tryCalls(strings.Fields(caps)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// install puts a filter on the calling thread, with its no_new_privs bit.
func install(filter []byte, flags uint32) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("the kernel does not take the filter: %w", errno)
	}
	return nil
}

// tryCalls prints a line for each call: its name and what came of it. The calls
// are such that a kernel without a filter fails them in another way, or not.
func tryCalls(caps []string) error {
	runtime.LockOSThread()
	profile := Default(caps, Kernel{6, 1}, runtime.GOARCH)
	filter, err := Compile(profile, runtime.GOARCH)
	if err != nil {
		return err
	}
	flags, err := Flags(profile)
	if err != nil {
		return err
	}
	if err := install(filter, flags); err != nil {
		return err
	}
	const nowhere = 1 << 30 // an address that is not mapped, a descriptor that is not open
	for _, try := range []struct {
		name string
		call [4]uintptr
	}{
		{"getpid", [4]uintptr{unix.SYS_GETPID}},
		{"mount", [4]uintptr{unix.SYS_MOUNT, nowhere, nowhere, nowhere}},
		{"unshare user namespace", [4]uintptr{unix.SYS_UNSHARE, unix.CLONE_NEWUSER}},
		{"keyctl", [4]uintptr{unix.SYS_KEYCTL, 0, nowhere}},
		{"clone3", [4]uintptr{unix.SYS_CLONE3, nowhere, 1}},
		{"call 900", [4]uintptr{900}},
		{"socket AF_VSOCK", [4]uintptr{unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM}},
		{"socket AF_UNIX", [4]uintptr{unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM}},
		{"personality query", [4]uintptr{unix.SYS_PERSONALITY, 0xffffffff}},
		{"personality 0x40000", [4]uintptr{unix.SYS_PERSONALITY, 0x40000}},
		{"close", [4]uintptr{unix.SYS_CLOSE, nowhere}},
	} {
		_, _, errno := unix.RawSyscall(try.call[0], try.call[1], try.call[2], try.call[3])
		result := "passes"
		if errno != 0 {
			result = unix.ErrnoName(errno)
		}
		fmt.Printf("%s: %s\n", try.name, result)
	}
	return nil
}

func TestTheKernelEnforcesTheDefaultFilter(t *testing.T) {
	kerneltest.Root(t) // otherwise mount fails with EPERM by itself
	for _, tt := range []struct{ caps, want string }{
		{strings.Join(runcCaps, " "), `getpid: passes
mount: EPERM
unshare user namespace: EPERM
keyctl: EPERM
clone3: ENOSYS
call 900: ENOSYS
socket AF_VSOCK: EPERM
socket AF_UNIX: passes
personality query: passes
personality 0x40000: EPERM
close: EBADF
`},
		{"CAP_SYS_ADMIN", `getpid: passes
mount: EFAULT
unshare user namespace: EINVAL
keyctl: EPERM
clone3: EINVAL
call 900: ENOSYS
socket AF_VSOCK: EPERM
socket AF_UNIX: passes
personality query: passes
personality 0x40000: EPERM
close: EBADF
`}, // a process with several threads cannot unshare its user namespace: EINVAL
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childVariable+"="+tt.caps)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, exit.Stderr)
		} else if err != nil {
			t.Fatal(err)
		}
		if string(out) != tt.want {
			t.Errorf("with %s:\n%s\nwant:\n%s", tt.caps, out, tt.want)
		}
	}
}
