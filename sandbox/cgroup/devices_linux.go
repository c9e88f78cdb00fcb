package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rule writes d as the v1 files devices.allow and devices.deny want it.
func (d Device) rule() string {
	if d.Type == 'a' {
		return "a"
	}
	number := func(n int64) string {
		if n < 0 {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return string(d.Type) + " " + number(d.Major) + ":" + number(d.Minor) + " " + d.Access
}

func (d Device) check() error {
	switch {
	case d.Type == 'a':
		return nil
	case d.Type != 'b' && d.Type != 'c':
		return fmt.Errorf("device rule %q: expected type a, b or c", d.rule())
	case d.Access == "" || strings.Trim(d.Access, "rwm") != "":
		return fmt.Errorf("device rule %q: expected access of r, w and m", d.rule())
	case d.Major > 1<<32-1 || d.Minor > 1<<32-1:
		return fmt.Errorf("device rule %q: device number too large", d.rule())
	}
	return nil
}

// setDevicesV1 applies the rules one after the other. Rules of one direction
// in a row share an open file.
func setDevicesV1(dir string, lim Limits) error {
	for i := 0; i < len(lim.Devices); {
		allow := lim.Devices[i].Allow
		var rules []string
		for ; i < len(lim.Devices) && lim.Devices[i].Allow == allow; i++ {
			if err := lim.Devices[i].check(); err != nil {
				return err
			}
			rules = append(rules, lim.Devices[i].rule())
		}
		file := "devices.deny"
		if allow {
			file = "devices.allow"
		}
		if err := writeFile(dir, file, rules...); err != nil {
			if errors.Is(err, unix.EPERM) {
				return fmt.Errorf("%w; a group cannot have devices that the one it lives in has not", err)
			}
			return err
		}
	}
	return nil
}

// setDevicesV2 attaches a program that decides by the rules, in place of those
// this group has. The filters of the groups above apply as well.
func setDevicesV2(dir string, lim Limits) error {
	for _, d := range lim.Devices {
		if err := d.check(); err != nil {
			return err
		}
	}
	group, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(group)

	old, err := deviceFilters(group)
	if err != nil {
		return fmt.Errorf("cannot read the device filter: %w", err)
	}
	defer func() {
		for _, fd := range old {
			unix.Close(fd)
		}
	}()
	program, err := loadFilter(deviceFilter(lim.Devices))
	if err != nil {
		return fmt.Errorf("cannot load the device filter: %w", err)
	}
	defer unix.Close(program)

	// BPF_PROG_ATTACH: target, program, type, flags, program to replace.
	flags, replaced := uint32(unix.BPF_F_ALLOW_MULTI), uint32(0)
	if len(old) > 0 {
		flags, replaced = flags|unix.BPF_F_REPLACE, uint32(old[0])
	}
	var attr bpfAttr
	attr.u32(0, uint32(group)).u32(4, uint32(program)).u32(8, unix.BPF_CGROUP_DEVICE).u32(12, flags).u32(16, replaced)
	if _, err := attr.call(unix.BPF_PROG_ATTACH); err != nil {
		return fmt.Errorf("cannot attach the device filter: %w", err)
	}
	for _, fd := range old[min(len(old), 1):] {
		var attr bpfAttr
		attr.u32(0, uint32(group)).u32(4, uint32(fd)).u32(8, unix.BPF_CGROUP_DEVICE)
		if _, err := attr.call(unix.BPF_PROG_DETACH); err != nil {
			return fmt.Errorf("cannot detach an old device filter: %w", err)
		}
	}
	return nil
}

// deviceFilters opens the programs attached to this very group.
func deviceFilters(group int) ([]int, error) {
	const most = 64 // the kernel's limit for one group
	ids := make([]uint32, most)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	// BPF_PROG_QUERY: target, type, flags, -, ids (address), count.
	var attr bpfAttr
	attr.u32(0, uint32(group)).u32(4, unix.BPF_CGROUP_DEVICE)
	attr.u64(16, uint64(uintptr(unsafe.Pointer(&ids[0])))).u32(24, most)
	if _, err := attr.call(unix.BPF_PROG_QUERY); err != nil {
		return nil, err
	}
	var fds []int
	for _, id := range ids[:binary.NativeEndian.Uint32(attr[24:])] {
		var attr bpfAttr
		fd, err := attr.u32(0, id).call(unix.BPF_PROG_GET_FD_BY_ID)
		if errors.Is(err, unix.ENOENT) {
			continue // detached in between
		}
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func loadFilter(program []bpfInsn) (int, error) {
	license := []byte("Apache-2.0\x00")
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&program[0])
	pin.Pin(&license[0])
	// BPF_PROG_LOAD: type, number of instructions, instructions, license.
	var attr bpfAttr
	attr.u32(0, unix.BPF_PROG_TYPE_CGROUP_DEVICE).u32(4, uint32(len(program)))
	attr.u64(8, uint64(uintptr(unsafe.Pointer(&program[0])))).u64(16, uint64(uintptr(unsafe.Pointer(&license[0]))))
	return attr.call(unix.BPF_PROG_LOAD)
}

// bpfAttr is the argument of bpf(2), larger than any kernel's so far: the kernel
// accepts more than it knows as long as it is zero.
type bpfAttr [256]byte

func (a *bpfAttr) u32(offset int, v uint32) *bpfAttr {
	binary.NativeEndian.PutUint32(a[offset:], v)
	return a
}

func (a *bpfAttr) u64(offset int, v uint64) *bpfAttr {
	binary.NativeEndian.PutUint64(a[offset:], v)
	return a
}

func (a *bpfAttr) call(cmd int) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(unsafe.Pointer(a)), uintptr(len(a)))
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN: // the verifier gives way to a signal
			continue
		}
		return -1, os.NewSyscallError("bpf", errno)
	}
}
