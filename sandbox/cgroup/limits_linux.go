package cgroup

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrMemoryInUse is returned by [Group.Set] on v1 when the group uses more
// memory than the new limit and the kernel could not free enough of it.
var ErrMemoryInUse = errors.New("more memory is in use than the new limit allows")

// MissingControllerError says that a limit was asked for that nothing on this
// machine can hold. [Group.Set] returns it.
type MissingControllerError struct {
	Controller string // "cpu", "memory", "pids" or "devices"
}

func (e *MissingControllerError) Error() string {
	hint := "enable it in the kernel's configuration or command line"
	if e.Controller == "memory" {
		hint = "boot with cgroup_enable=memory, or mount its hierarchy"
	}
	return fmt.Sprintf("cgroup controller %q is not available on this machine; %s", e.Controller, hint)
}

// The kernel's smallest quota, and the kubelet's period.
const (
	minQuotaMicros      = 1000
	defaultPeriodMicros = 100000
)

// Set applies the limits that are given, to a group with or without processes.
// Source: Linux, Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
func (g *Group) Set(lim Limits) error {
	for _, part := range []struct {
		controller string
		wanted     bool
		v1, v2     func(dir string, lim Limits) error
	}{
		{"cpu", lim.CPUShares != 0 || lim.CPUQuotaMicros != 0, setCPUv1, setCPUv2},
		{"memory", lim.MemoryBytes != 0 || lim.SwapBytes != 0 || lim.OOMGroup, setMemoryV1, setMemoryV2},
		{"pids", lim.PidsMax != 0, setPids, setPids},
		{"devices", lim.Devices != nil, setDevicesV1, setDevicesV2},
	} {
		if !part.wanted {
			continue
		}
		h := g.tree.holder(part.controller)
		if h == nil {
			return fmt.Errorf("cannot limit %s of cgroup %s: %w", part.controller, g.path, &MissingControllerError{part.controller})
		}
		set := part.v1
		if h.unified {
			set = part.v2
		}
		if err := set(g.dir(h), lim); err != nil {
			return fmt.Errorf("cannot limit %s of cgroup %s: %w", part.controller, g.path, err)
		}
	}
	return nil
}

// holder returns the hierarchy that bounds what controller stands for; nil if
// there is none. Devices are bounded by a program on v2, without a controller.
func (t *Tree) holder(controller string) *hierarchy {
	var unified *hierarchy
	for i := range t.hiers {
		h := &t.hiers[i]
		if h.has(controller) {
			return h
		}
		if h.unified {
			unified = h
		}
	}
	if controller == "devices" {
		return unified
	}
	return nil
}

func setCPUv1(dir string, lim Limits) error {
	if lim.CPUShares != 0 {
		if err := writeFile(dir, "cpu.shares", strconv.FormatUint(min(max(lim.CPUShares, 2), 262144), 10)); err != nil {
			return err
		}
	}
	if lim.CPUQuotaMicros == 0 {
		return nil
	}
	quota, period := quotaAndPeriod(lim)
	if quota < 0 {
		return writeFile(dir, "cpu.cfs_quota_us", "-1")
	}
	q, p := strconv.FormatInt(quota, 10), strconv.FormatUint(period, 10)
	if err := writeFile(dir, "cpu.cfs_period_us", p); err != nil {
		// With the old quota the new period may ask for more than the parent
		// has; then the quota goes first.
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		if err := writeFile(dir, "cpu.cfs_quota_us", q); err != nil {
			return err
		}
		return writeFile(dir, "cpu.cfs_period_us", p)
	}
	err := writeFile(dir, "cpu.cfs_quota_us", q)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w; a group cannot have more CPU than the one it lives in", err)
	}
	return err
}

func setCPUv2(dir string, lim Limits) error {
	if lim.CPUShares != 0 {
		if err := writeFile(dir, "cpu.weight", strconv.FormatUint(weight(lim.CPUShares), 10)); err != nil {
			return err
		}
	}
	if lim.CPUQuotaMicros == 0 {
		return nil
	}
	quota, period := quotaAndPeriod(lim)
	value := "max"
	if quota >= 0 {
		value = strconv.FormatInt(quota, 10)
	}
	return writeFile(dir, "cpu.max", value+" "+strconv.FormatUint(period, 10))
}

// quotaAndPeriod returns what the kernel accepts; a negative quota is none.
func quotaAndPeriod(lim Limits) (quota int64, period uint64) {
	quota, period = lim.CPUQuotaMicros, lim.CPUPeriodMicros
	if period == 0 {
		period = defaultPeriodMicros
	}
	if quota > 0 {
		quota = max(quota, minQuotaMicros)
	}
	return quota, period
}

func setMemoryV1(dir string, lim Limits) error {
	const memory, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	if lim.MemoryBytes == 0 {
		return nil // swap alone cannot be bounded on v1, nor can a group be killed as one
	}
	limit := strconv.FormatInt(lim.MemoryBytes, 10)
	if lim.MemoryBytes < 0 {
		limit = "-1"
	}
	// v1 counts memory and swap together.
	sum := "-1"
	if lim.MemoryBytes > 0 && lim.SwapBytes >= 0 {
		sum = strconv.FormatInt(lim.MemoryBytes+lim.SwapBytes, 10)
	}
	writeSum := func() error {
		err := writeFile(dir, both, sum)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil // this kernel does not account swap
		}
		return err
	}
	// The sum must never be below the memory alone: when lowering, memory goes
	// first; the kernel's EINVAL shows that this is raising.
	err := writeFile(dir, memory, limit)
	if errors.Is(err, unix.EINVAL) {
		if err = writeSum(); err == nil {
			return memoryError(writeFile(dir, memory, limit))
		}
		return memoryError(err)
	}
	if err != nil {
		return memoryError(err)
	}
	return memoryError(writeSum())
}

func memoryError(err error) error {
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %w", ErrMemoryInUse, err)
	}
	return err
}

func setMemoryV2(dir string, lim Limits) error {
	value := func(n int64) string {
		if n < 0 {
			return "max"
		}
		return strconv.FormatInt(n, 10)
	}
	if lim.OOMGroup {
		if err := writeFile(dir, "memory.oom.group", "1"); err != nil {
			return err
		}
	}
	if lim.MemoryBytes != 0 || lim.SwapBytes != 0 {
		// Swap first: bounding memory may push pages there.
		err := writeFile(dir, "memory.swap.max", value(lim.SwapBytes))
		if err != nil && !(errors.Is(err, unix.ENOENT) && lim.SwapBytes <= 0) {
			return err
		}
	}
	if lim.MemoryBytes != 0 {
		return writeFile(dir, "memory.max", value(lim.MemoryBytes))
	}
	return nil
}

func setPids(dir string, lim Limits) error {
	if lim.PidsMax < 0 {
		return writeFile(dir, "pids.max", "max")
	}
	return writeFile(dir, "pids.max", strconv.FormatInt(lim.PidsMax, 10))
}
