package network

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var dual = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:1:2::/64")}

func openTestLeases(t testing.TB, dir string, prefixes ...netip.Prefix) *leases {
	t.Helper()
	l, problems, err := openLeases(dir, prefixes)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	t.Cleanup(func() { l.close() })
	return l
}

func mustAllocate(t testing.TB, l *leases, uid string) []netip.Addr {
	t.Helper()
	a, err := l.allocate(uid)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAPodKeepsItsAddressesOfBothFamilies(t *testing.T) {
	dir := t.TempDir()
	l := openTestLeases(t, dir, dual...)
	want := []netip.Addr{netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("fd00:1:2::2")}
	for range 2 {
		if got := mustAllocate(t, l, "a"); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	if got := mustAllocate(t, openTestLeases(t, dir, dual...), "a"); !slices.Equal(got, want) {
		t.Errorf("after a restart: got %v, want %v", got, want)
	}
}

func TestTheAddressReleasedLongestAgoIsUsedNext(t *testing.T) {
	dir := t.TempDir()
	l := openTestLeases(t, dir, netip.MustParsePrefix("10.0.0.0/29")) // 5 pods: .2 to .6
	first := map[string]netip.Addr{}
	for _, uid := range []string{"a", "b", "c"} {
		first[uid] = mustAllocate(t, l, uid)[0]
	}
	for _, uid := range []string{"b", "a"} {
		if err := l.release(uid); err != nil {
			t.Fatal(err)
		}
	}
	l = openTestLeases(t, dir, netip.MustParsePrefix("10.0.0.0/29")) // the order outlives the agent
	var got []string
	for _, uid := range []string{"d", "e", "f", "g"} {
		got = append(got, mustAllocate(t, l, uid)[0].String())
	}
	want := []string{"10.0.0.5", "10.0.0.6", first["b"].String(), first["a"].String()}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v: never used, then b's, then a's", got, want)
	}
	if _, err := l.allocate("h"); err == nil || !strings.Contains(err.Error(), "no pod address is left: all 5 of 10.0.0.0/29 are in use") {
		t.Errorf("a sixth pod of five: %v", err)
	}
}

// An agent that dies between any two steps, even in the middle of writing a
// record, must not make the next one hand out an address twice.
func TestNoAddressIsHeldTwice(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	prefix := netip.MustParsePrefix("10.1.0.0/26") // 61 pods
	l := openTestLeases(t, dir, prefix)
	held := map[string]netip.Addr{}
	byAddr := map[netip.Addr]string{}
	crashes, full := 0, 0
	for i := range 10_000 {
		uid := "pod-" + strconv.Itoa(rng.IntN(80))
		addr, holds := held[uid]
		switch {
		case rng.IntN(50) == 0: // the agent dies, sometimes while it writes
			crashes++
			if rng.IntN(2) == 0 {
				record := leaseRecord("pod-torn", []netip.Addr{nthAddr(prefix, 2+rng.IntN(61))})
				l.file.WriteAt([]byte(record[:rng.IntN(len(record))]), l.size)
			}
			l.close()
			l = openTestLeases(t, dir, prefix)
		case holds && rng.IntN(2) == 0:
			if err := l.release(uid); err != nil {
				t.Fatal(err)
			}
			delete(held, uid)
			delete(byAddr, addr)
		default:
			got, err := l.allocate(uid)
			if err != nil {
				if len(held) != 61 {
					t.Fatalf("step %d: refused with %d of 61 held: %v", i, len(held), err)
				}
				full++
				continue
			}
			if holds && got[0] != addr {
				t.Fatalf("step %d: %s had %s, got %s", i, uid, addr, got[0])
			}
			if other, taken := byAddr[got[0]]; taken && other != uid {
				t.Fatalf("step %d: %s was given %s, which %s holds", i, uid, got[0], other)
			}
			held[uid], byAddr[got[0]] = got[0], uid
		}
	}
	if crashes < 100 || full == 0 || !slices.Equal(l.uids(), sortedKeys(held)) {
		t.Errorf("%d crashes, %d times full, %d held of %d", crashes, full, len(l.uids()), len(held))
	}
	if st, err := os.Stat(filepath.Join(dir, leaseFile)); err != nil || st.Size() > 1<<20 {
		t.Errorf("the file of addresses has %d bytes, %v", st.Size(), err)
	}
}

func sortedKeys(m map[string]netip.Addr) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func TestTheLogOfAddressesStaysShort(t *testing.T) {
	l := openTestLeases(t, t.TempDir(), dual...)
	for i := range 3 * shortenAfter {
		uid := "pod-" + strconv.Itoa(i)
		mustAllocate(t, l, uid)
		if err := l.release(uid); err != nil {
			t.Fatal(err)
		}
	}
	if l.records > shortenAfter+300 {
		t.Errorf("%d records", l.records)
	}
}

func TestADamagedFileOfAddressesIsReportedAndKept(t *testing.T) {
	dir := t.TempDir()
	content := "lease a 10.244.0.7 fd00:1:2::7\nlease b 10.244.0.x\nlease c 10.244.0.7\nlease d 192.0.2.9\nfree nobody\nlease e 10.244.0.8 fd00:1:2::8\nlease f 10.2"
	if err := os.WriteFile(filepath.Join(dir, leaseFile), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	l, problems, err := openLeases(dir, dual)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if !slices.Equal(l.uids(), []string{"a", "e"}) {
		t.Errorf("pods with addresses: %v; want a and e", l.uids())
	}
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.Error())
	}
	want := []string{
		`addresses:2: expected an address, found "10.244.0.x"`,
		"addresses:3: address 10.244.0.7 of pod c is held by pod a",
		"addresses:4: addresses [192.0.2.9] of pod d are outside [10.244.0.0/24 fd00:1:2::/64] and were dropped",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("problems:\n%s", strings.Join(lines, "\n"))
	}
	if kept, err := os.ReadFile(filepath.Join(dir, leaseFile+".damaged")); err != nil || string(kept) != content {
		t.Errorf("the damaged file was not kept: %v", err)
	}
}

func TestAUIDThatWouldBreakTheFileIsRefused(t *testing.T) {
	l := openTestLeases(t, t.TempDir(), dual...)
	for _, uid := range []string{"", "a b", "a\nfree b", "ü", strings.Repeat("a", 121)} {
		if _, err := l.allocate(uid); err == nil {
			t.Errorf("UID %q was accepted", uid)
		}
	}
}

// What a damaged file makes of the addresses must be consistent, and what it
// is rewritten to must read back the same.
func FuzzAddressFile(f *testing.F) {
	f.Add([]byte("lease a 10.244.0.7 fd00:1:2::7\nused 10.244.0.9\nfree a\n"))
	f.Add([]byte("lease a 10.244.0.7\nlease b 10.244.0.7\nlease a fd00:1:2::9 10.244.0.7\nused fd00:1:2::ffff\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := newLeases(dual)
		a.replay(data)
		b := newLeases(dual)
		if problems, damaged := b.replay([]byte(a.text())); damaged || len(problems) > 0 {
			t.Fatal(problems)
		}
		if !slices.Equal(a.uids(), b.uids()) || !slices.Equal(a.idle, b.idle) || a.fresh != b.fresh {
			t.Fatalf("read %v %v %d, then %v %v %d", a.uids(), a.idle, a.fresh, b.uids(), b.idle, b.fresh)
		}
		seen := map[netip.Addr]bool{}
		for uid, l := range b.byUID {
			for _, addr := range l.addrs {
				if seen[addr] {
					t.Fatalf("%s is held twice", addr)
				}
				seen[addr] = true
			}
			if slices.Contains(b.idle, l.slot) || b.bySlot[l.slot] != uid {
				t.Fatalf("slot %d of %s is free as well", l.slot, uid)
			}
		}
	})
}
