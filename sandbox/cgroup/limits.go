package cgroup

import "math"

// Unlimited takes a limit away where [Limits] has it.
const Unlimited = -1

// Limits are the bounds of one group. The zero value of each field leaves that
// bound as it is; a new group has none.
type Limits struct {
	// CPUShares is the weight against siblings in the scale of cgroup v1, 2 to
	// 262144; 1024 is one CPU's worth. Values outside are clamped.
	CPUShares uint64

	// CPUQuotaMicros is the CPU time in each period, in microseconds; less than
	// the kernel's minimum of 1000 counts as 1000. Unlimited removes it.
	CPUQuotaMicros int64

	// CPUPeriodMicros is that period; 0 means 100000, the kubelet's.
	CPUPeriodMicros uint64

	// MemoryBytes bounds memory, page cache included. Unlimited removes it.
	// Lowering it below what is in use fails with [ErrMemoryInUse] on v1; on v2
	// the kernel kills until the group fits.
	MemoryBytes int64

	// SwapBytes bounds swap beside MemoryBytes. It is applied whenever one of
	// the two is not zero, so a memory limit alone means no swap, as with the
	// kubelet's default. Without a memory limit v1 cannot bound swap.
	SwapBytes int64

	// PidsMax bounds processes and threads together. Unlimited removes it.
	PidsMax int64

	// Devices are the rules of the device filter in the order they are applied:
	// the last one that matches an access decides it. Nil leaves the filter.
	Devices []Device

	// OOMGroup makes an out-of-memory kill take the whole group instead of one
	// process. v1 cannot do that and ignores it.
	OOMGroup bool
}

// Device is one rule of the device filter.
type Device struct {
	Allow  bool
	Type   rune   // 'c' character, 'b' block, 'a' all devices (the rest is then ignored)
	Major  int64  // -1 is any
	Minor  int64  // -1 is any
	Access string // some of "rwm": read, write, mknod
}

// weight converts CPU shares (2 to 262144) to a v2 weight (1 to 10000), so that
// 1024, one CPU, becomes 100, the weight of a group nobody set. The curve is the
// one OCI runtimes use since 2025; we use it at every level.
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}
