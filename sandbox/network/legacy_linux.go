package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iptables-legacy keeps its tables beside nftables, which does not see them;
// both drop. They are read as its programs do, by socket options, and changed by
// its programs only: they replace a table as a whole, under a lock of theirs.
// Source: linux/netfilter/x_tables.h, linux/netfilter_ipv{4,6}/ip{,6}_tables.h.

// legacy is what differs between the two families.
type legacy struct {
	program           string
	names             string // the file that lists the tables in use
	domain, level     int
	ifaces            int // offset in an entry of: in name, out name, in mask, out mask
	flags             int // offset of the byte that inverts matches
	targetAt, matchAt int // offset of target_offset, and what it is without matches
}

var legacyFamilies = map[Family]legacy{
	IPv4: {"iptables-legacy", "ip_tables_names", unix.AF_INET, unix.SOL_IP, 16, 83, 88, 112},
	IPv6: {"ip6tables-legacy", "ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 64, 132, 140, 168},
}

const (
	getInfo    = 64 // IPT_SO_GET_INFO, the same for IPv6
	getEntries = 65 // IPT_SO_GET_ENTRIES
	hookCount  = 5
	infoSize   = 32 + 4 + 2*4*hookCount + 4 + 4 // struct ipt_getinfo
	tableSize  = 40                             // struct ipt_get_entries without its entries
	targetSize = 32                             // struct xt_entry_target without its data
	anyIfaces  = 64                             // two names, two masks
)

// legacyDrops returns the chains FORWARD of iptables-legacy that drop in the
// calling thread's network namespace.
func legacyDrops(bridge string, families []Family) ([]ForeignDrop, error) {
	var out []ForeignDrop
	for _, f := range families {
		l := legacyFamilies[f]
		// Asking for a table makes it: only one that is there is asked for.
		names, err := os.ReadFile("/proc/thread-self/net/" + l.names)
		if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") {
			continue
		}
		t, err := l.read()
		if err != nil {
			return out, fmt.Errorf("cannot read the rules of %s: %w", l.program, err)
		}
		r, err := l.forward(t, bridge)
		if err != nil {
			return out, fmt.Errorf("cannot understand the rules of %s: %w", l.program, err)
		}
		if !r.drops || r.lets.in && r.lets.out {
			continue
		}
		d := ForeignDrop{Chain: l.program + " filter/FORWARD"}
		into := d.ownedBy(l.program, bridge, func(chain string) bool { return slices.Contains(r.chains, chain) })
		if path, err := l.find(); err == nil {
			d.accept = func() error { return acceptBy(path, into, bridge, r.lets) }
		}
		out = append(out, d)
	}
	return out, nil
}

// legacyTable is a table as the kernel gives it.
type legacyTable struct {
	forward int // where the chain begins in entries
	policy  int // where the entry of its policy is
	entries []byte
}

func (l legacy) read() (legacyTable, error) {
	fd, err := unix.Socket(l.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return legacyTable{}, err
	}
	defer unix.Close(fd)
	for range 10 { // a table that grew meanwhile is asked for again
		info := make([]byte, infoSize)
		copy(info, "filter")
		if err := getsockopt(fd, l.level, getInfo, info); err != nil {
			return legacyTable{}, err
		}
		word := func(i int) int { return int(binary.NativeEndian.Uint32(info[32+4*i:])) }
		t := legacyTable{forward: word(1 + unix.NF_INET_FORWARD), policy: word(1 + hookCount + unix.NF_INET_FORWARD)}
		size := word(2 + 2*hookCount)
		b := make([]byte, tableSize+size)
		copy(b, "filter")
		binary.NativeEndian.PutUint32(b[32:], uint32(size))
		err := getsockopt(fd, l.level, getEntries, b)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		t.entries = b[tableSize:]
		return t, err
	}
	return legacyTable{}, unix.EAGAIN
}

func getsockopt(fd, level, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// legacyRules is what a table does to what the bridge forwards.
type legacyRules struct {
	drops  bool // at the end of FORWARD, by policy or last rule
	lets   lets
	chains []string // of users
}

// forward reads a table's entries. As in nftables, rules count that FORWARD
// leads to.
func (l legacy) forward(t legacyTable, bridge string) (legacyRules, error) {
	var r legacyRules
	type entry struct {
		next    int // offset of the entry behind
		names   lets
		all     bool // without matches
		target  string
		verdict int32 // of a standard target
	}
	entries := map[int]entry{}
	for at := 0; at < len(t.entries); {
		b := t.entries[at:]
		if len(b) < l.matchAt+targetSize {
			return r, errors.New("an entry is cut off")
		}
		target := int(binary.NativeEndian.Uint16(b[l.targetAt:]))
		size := int(binary.NativeEndian.Uint16(b[l.targetAt+2:]))
		if target < l.matchAt || size < target+targetSize+4 || size > len(b) {
			return r, fmt.Errorf("an entry of %d bytes has its target at %d", size, target)
		}
		name := func(b []byte) string { s, _, _ := bytes.Cut(b, []byte{0}); return string(s) }
		e := entry{next: at + size, target: name(b[target+2 : target+31])}
		e.verdict = int32(binary.NativeEndian.Uint32(b[target+targetSize:]))
		// Names and masks have 16 bytes; a mask ends behind the name, or with it
		// for "podd+".
		ifaces, inverted := b[l.ifaces:l.ifaces+anyIfaces], b[l.flags]
		matches := func(n, mask []byte) bool {
			k := bytes.IndexByte(append(bytes.Clone(mask), 0), 0)
			return k > 0 && namesLink(n[:k], bridge)
		}
		e.names.in = inverted&1 == 0 && matches(ifaces[:16], ifaces[32:48])
		e.names.out = inverted&2 == 0 && matches(ifaces[16:32], ifaces[48:])
		e.all = target == l.matchAt && len(bytes.Trim(b[:l.flags+1], "\x00")) == 0
		if e.target == "ERROR" { // begins a chain, and bears its name
			r.chains = append(r.chains, name(b[target+targetSize:size]))
		}
		entries[at] = e
		at = e.next
	}
	const drop, accept = -1, -2 // -NF_DROP-1, -NF_ACCEPT-1
	seen := map[int]bool{}
	var walk func(at int)
	walk = func(at int) {
		for {
			e, found := entries[at]
			if !found || seen[at] || e.target == "ERROR" {
				return
			}
			seen[at] = true
			jumps := e.target == "" && e.verdict >= 0 && int(e.verdict) != e.next
			if jumps || e.target == "" && e.verdict == accept {
				r.lets.in, r.lets.out = r.lets.in || e.names.in, r.lets.out || e.names.out
			}
			if jumps {
				walk(int(e.verdict))
			}
			if at == t.policy {
				r.drops = r.drops || e.target == "" && e.verdict == drop
				return
			}
			if e.next == t.policy && e.all {
				r.drops = e.target == "REJECT" || e.target == "" && e.verdict == drop
			}
			at = e.next
		}
	}
	walk(t.forward)
	return r, nil
}

// acceptBy has the program put rules at the top of a chain for the directions
// that are not let through. It runs in the calling thread's network namespace; an
// error tells what it said.
func acceptBy(path, chain, bridge string, had lets) error {
	for _, rule := range []struct {
		flag string
		had  bool
	}{{"-o", had.out}, {"-i", had.in}} {
		if rule.had {
			continue
		}
		cmd := exec.Command(path, "-w", "5", "-I", chain, rule.flag, bridge, "-m", "comment", "--comment", accepted(bridge), "-j", "ACCEPT")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", path, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// find returns the program that changes these tables: by its own name, or the
// plain one where that is not nftables'.
func (l legacy) find() (string, error) {
	plain := strings.TrimSuffix(l.program, "-legacy")
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + l.program); err == nil {
			return path, nil
		}
		if path, err := exec.LookPath(dir + plain); err == nil {
			if out, err := exec.Command(path, "--version").Output(); err == nil && !bytes.Contains(out, []byte("nf_tables")) {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s is not installed", l.program)
}
