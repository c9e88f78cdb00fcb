package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// leaseFile is the name of the file of addresses in the state directory.
//
// It is a log, one record a line, appended with a single write before the answer
// is given. It is not synced: a power cut ends all pods as well. The records:
//
//	lease UID ADDR [ADDR]   the pod has these addresses
//	free UID                it gave them back
//	used ADDR               an address that is free and was handed out before;
//	                        only in a shortened log, longest free first
const leaseFile = "addresses"

// shortenAfter is the number of records after which the log is written anew.
const shortenAfter = 8192

// maxSlots bounds how many pods one network serves, so that the memory of
// which addresses were used stays small whatever the range.
const maxSlots = 65534

// leases knows who has which address. An address belongs to a slot: slot i is
// address i of every range, so a pod's addresses end alike in each family.
// It is not safe for concurrent use.
type leases struct {
	dir      string
	prefixes []netip.Prefix
	slots    int // slots 2 … slots+1 are handed out

	byUID  map[string]lease
	bySlot map[int]string
	fresh  int   // slots from here on were never used
	idle   []int // free slots that were used, longest free first
	isIdle map[int]bool

	file    *os.File
	size    int64 // of the file, up to the last whole record
	records int
}

type lease struct {
	slot  int
	addrs []netip.Addr
}

func newLeases(prefixes []netip.Prefix) *leases {
	return &leases{
		prefixes: prefixes,
		slots:    slotCount(prefixes),
		byUID:    map[string]lease{},
		bySlot:   map[int]string{},
		fresh:    2,
		isIdle:   map[int]bool{},
	}
}

// openLeases loads the log in dir, or begins one. Every line that cannot be
// understood, and every pod whose addresses are outside the ranges, is reported
// in problems; the damaged file is kept beside the new one, named *.damaged.
func openLeases(dir string, prefixes []netip.Prefix) (l *leases, problems []error, err error) {
	l = newLeases(prefixes)
	l.dir = dir
	path := filepath.Join(dir, leaseFile)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("cannot read the addresses in use: %w", err)
	}
	problems, damaged := l.replay(data)
	if damaged {
		if err := os.WriteFile(path+".damaged", data, 0o600); err != nil {
			return nil, nil, fmt.Errorf("cannot set aside the damaged file of addresses: %w", err)
		}
	}
	if err := l.shorten(); err != nil {
		return nil, nil, err
	}
	return l, problems, nil
}

// replay applies a log. A last line without its newline was being written when
// the agent died, so nobody got its addresses: it is left out without a word.
func (l *leases) replay(data []byte) (problems []error, damaged bool) {
	end := bytes.LastIndexByte(data, '\n') + 1
	for i, line := range strings.Split(string(data[:end]), "\n") {
		if line == "" {
			continue
		}
		bad, err := l.apply(line)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s:%d: %w", leaseFile, i+1, err))
		}
		damaged = damaged || bad
	}
	return problems, damaged
}

// reach makes slot one of those that were used. Slots below it that nothing is
// known of, as after a lost line, count as free longest of all.
func (l *leases) reach(slot int) {
	var skipped []int
	for ; l.fresh <= slot; l.fresh++ {
		if l.fresh < slot {
			skipped = append(skipped, l.fresh)
			l.isIdle[l.fresh] = true
		}
	}
	if skipped != nil {
		l.idle = append(skipped, l.idle...)
	}
}

// apply takes one record. bad says that it is no record at all, in contrast to
// one of a range that is not ours any more.
func (l *leases) apply(line string) (bad bool, err error) {
	words := strings.Split(line, " ")
	switch {
	case words[0] == "lease" && len(words) >= 3 && len(words) <= 4 && checkUID(words[1]) == nil:
		var addrs []netip.Addr
		for _, w := range words[2:] {
			a, err := netip.ParseAddr(w)
			if err != nil || a.Zone() != "" {
				return true, fmt.Errorf("expected an address, found %q", w)
			}
			addrs = append(addrs, a)
		}
		return false, l.take(words[1], addrs)
	case words[0] == "free" && len(words) == 2:
		l.drop(words[1])
		return false, nil
	case words[0] == "used" && len(words) == 2:
		a, err := netip.ParseAddr(words[1])
		if err != nil {
			return true, fmt.Errorf("expected an address, found %q", words[1])
		}
		if slot, ok := l.slotOf(a); ok {
			l.used(slot)
		}
		return false, nil
	}
	return true, fmt.Errorf("expected a record of an address, found %q", line)
}

// take gives uid these addresses, as far as they are in the present ranges.
func (l *leases) take(uid string, addrs []netip.Addr) error {
	slot, kept := 0, []netip.Addr(nil)
	for _, p := range l.prefixes {
		for _, a := range addrs {
			s, ok := slotIn(p, a, l.slots)
			if !ok || slot != 0 && s != slot {
				continue
			}
			slot, kept = s, append(kept, a)
			break
		}
	}
	switch holder := l.bySlot[slot]; {
	case slot == 0:
		return fmt.Errorf("addresses %v of pod %s are outside %v and were dropped", addrs, uid, l.prefixes)
	case holder != "" && holder != uid:
		return fmt.Errorf("address %s of pod %s is held by pod %s", kept[0], uid, holder)
	}
	if old, had := l.byUID[uid]; had && old.slot != slot {
		l.drop(uid)
	}
	l.reach(slot)
	l.unidle(slot)
	l.byUID[uid] = lease{slot, kept}
	l.bySlot[slot] = uid
	return nil
}

// drop takes uid's addresses back. They are the last to be handed out again.
func (l *leases) drop(uid string) {
	if old, had := l.byUID[uid]; had {
		delete(l.byUID, uid)
		delete(l.bySlot, old.slot)
		l.used(old.slot)
	}
}

// used puts a free slot behind all other free ones.
func (l *leases) used(slot int) {
	if _, taken := l.bySlot[slot]; taken {
		return
	}
	l.reach(slot)
	l.unidle(slot)
	l.idle = append(l.idle, slot)
	l.isIdle[slot] = true
}

func (l *leases) unidle(slot int) {
	if l.isIdle[slot] {
		i := slices.Index(l.idle, slot)
		l.idle = slices.Delete(l.idle, i, i+1)
		delete(l.isIdle, slot)
	}
}

// allocate returns uid's addresses, new ones if it has none. They are on file
// when it returns.
func (l *leases) allocate(uid string) ([]netip.Addr, error) {
	if err := checkUID(uid); err != nil {
		return nil, err
	}
	if had, ok := l.byUID[uid]; ok {
		return slices.Clone(had.addrs), nil
	}
	var slot int
	switch {
	case l.fresh < l.slots+2:
		slot = l.fresh
	case len(l.idle) > 0:
		slot = l.idle[0]
	default:
		return nil, fmt.Errorf("no pod address is left: all %d of %s are in use", l.slots, l.prefixes[0])
	}
	addrs := make([]netip.Addr, len(l.prefixes))
	for i, p := range l.prefixes {
		addrs[i] = nthAddr(p, slot)
	}
	if err := l.append(leaseRecord(uid, addrs)); err != nil {
		return nil, err
	}
	if err := l.take(uid, addrs); err != nil {
		panic(err) // the slot was free a moment ago
	}
	l.shortenIfLong()
	return slices.Clone(addrs), nil
}

// adopt notes addresses that a pod has although the log does not say so.
func (l *leases) adopt(uid string, addrs []netip.Addr) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	if had, ok := l.byUID[uid]; ok && slices.Equal(had.addrs, addrs) {
		return nil
	}
	if err := l.take(uid, addrs); err != nil {
		return err
	}
	return l.append(leaseRecord(uid, l.byUID[uid].addrs))
}

// release takes uid's addresses back, on file first.
func (l *leases) release(uid string) error {
	if _, had := l.byUID[uid]; !had {
		return nil
	}
	if err := l.append("free " + uid + "\n"); err != nil {
		return err
	}
	l.drop(uid)
	l.shortenIfLong()
	return nil
}

// uids lists who has addresses, sorted.
func (l *leases) uids() []string {
	var uids []string
	for uid := range l.byUID {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids
}

func (l *leases) slotOf(a netip.Addr) (int, bool) {
	for _, p := range l.prefixes {
		if slot, ok := slotIn(p, a, l.slots); ok {
			return slot, true
		}
	}
	return 0, false
}

func leaseRecord(uid string, addrs []netip.Addr) string {
	var b strings.Builder
	b.WriteString("lease " + uid)
	for _, a := range addrs {
		b.WriteString(" " + a.String())
	}
	b.WriteString("\n")
	return b.String()
}

// append adds one record with one write. A part of a record, as on a full
// disk, is cut off again.
func (l *leases) append(record string) error {
	if _, err := l.file.WriteAt([]byte(record), l.size); err != nil {
		l.file.Truncate(l.size)
		return fmt.Errorf("cannot note pod addresses: %w", err)
	}
	l.size += int64(len(record))
	l.records++
	return nil
}

// shortenIfLong keeps the log from growing for ever. Where it fails, as on a full
// disk, the long log stays good and the next record tries again.
func (l *leases) shortenIfLong() {
	if l.records >= shortenAfter+len(l.byUID)+len(l.idle) {
		_ = l.shorten()
	}
}

// text returns the shortest log that replays to the same.
func (l *leases) text() string {
	var b strings.Builder
	for _, slot := range l.idle {
		fmt.Fprintf(&b, "used %s\n", nthAddr(l.prefixes[0], slot))
	}
	for _, uid := range l.uids() {
		b.WriteString(leaseRecord(uid, l.byUID[uid].addrs))
	}
	return b.String()
}

// shorten writes the log anew with what still matters.
func (l *leases) shorten() error {
	text := l.text()
	path := filepath.Join(l.dir, leaseFile)
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		if _, err = f.WriteString(text); err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot rewrite the addresses in use: %w", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size, l.records = f, int64(len(text)), len(l.idle)+len(l.byUID)
	return nil
}

func (l *leases) close() error { return l.file.Close() }

// checkUID refuses what would not be one word of the log or of an nftables comment.
func checkUID(uid string) error {
	if uid == "" || len(uid) > 120 || strings.ContainsFunc(uid, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("pod UID %q: expected 1 to 120 printable ASCII characters", uid)
	}
	return nil
}

// slotCount returns how many pods fit into every one of the ranges: all but
// network, bridge and, for IPv4, broadcast address.
func slotCount(prefixes []netip.Prefix) int {
	n := maxSlots
	for _, p := range prefixes {
		host := p.Addr().BitLen() - p.Bits()
		if host < 17 {
			size := 1<<host - 2
			if p.Addr().Is4() {
				size--
			}
			n = min(n, size)
		}
	}
	return n
}

// nthAddr returns address n of a range; 0 is the network's own.
func nthAddr(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := len(b) - 1; n > 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// slotIn is the inverse of nthAddr for the slots that are handed out.
func slotIn(p netip.Prefix, a netip.Addr, slots int) (int, bool) {
	if !p.Contains(a) {
		return 0, false
	}
	base, b := p.Masked().Addr().AsSlice(), a.AsSlice()
	n := 0
	for i := range b {
		n = n<<8 + int(b[i]) - int(base[i])
		if n > maxSlots+2 {
			return 0, false
		}
	}
	return n, n >= 2 && n < slots+2
}
