package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRangesThatCannotServePodsAreRefused(t *testing.T) {
	for cidrs, want := range map[string]string{
		"10.0.0.0/31":             "pod CIDR 10.0.0.0/31: expected room for at least one pod",
		"fd00::/127":              "pod CIDR fd00::/127: expected room for at least one pod",
		"224.0.0.0/24":            "pod CIDR 224.0.0.0/24: expected a range of ordinary unicast addresses",
		"127.0.0.0/24":            "pod CIDR 127.0.0.0/24: expected a range of ordinary unicast addresses",
		"fe80::/64":               "pod CIDR fe80::/64: expected a range of ordinary unicast addresses",
		"0.0.0.0/1":               "pod CIDR 0.0.0.0/1: expected a range of ordinary unicast addresses",
		"10.0.0.0/7":              "pod CIDR 10.0.0.0/7: expected at most a /8 for IPv4",
		"::ffff:10.0.0.0/120":     "expected an IPv4 or IPv6 range",
		"10.0.0.0/24 10.1.0.0/24": "pod CIDR 10.1.0.0/24: expected one range of each family",
	} {
		var in []netip.Prefix
		for _, c := range strings.Fields(cidrs) {
			if p, err := netip.ParsePrefix(c); err == nil {
				in = append(in, p)
			}
		}
		if _, err := checkPrefixes(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", cidrs, err, want)
		}
	}
	got, err := checkPrefixes([]netip.Prefix{netip.MustParsePrefix("fd00::5/64"), netip.MustParsePrefix("10.9.8.7/24")})
	if err != nil || got[0].String() != "10.9.8.0/24" || got[1].String() != "fd00::/64" {
		t.Errorf("got %v, %v; want IPv4 first, both masked", got, err)
	}
}

func TestTheGeneratedIPv6RangeIsKept(t *testing.T) {
	dir := t.TempDir()
	first, _, err := uniqueLocalPrefix(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !netip.MustParsePrefix("fd00::/8").Contains(first.Addr()) || first.Bits() != 64 || first.Addr().As16()[6] != 0 || first.Addr().As16()[7] != 0 {
		t.Errorf("%s is no unique local /64 with subnet 0", first)
	}
	if again, replaced, err := uniqueLocalPrefix(dir); again != first || replaced || err != nil {
		t.Errorf("then %s, %v, %v", again, replaced, err)
	}
	if other, _, _ := uniqueLocalPrefix(t.TempDir()); other == first {
		t.Errorf("two machines got %s", other)
	}
	if err := os.WriteFile(filepath.Join(dir, ulaFile), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, replaced, err := uniqueLocalPrefix(dir); err != nil || !replaced || !p.IsValid() {
		t.Errorf("a damaged file: %s, %v, %v; want a new range and a word about it", p, replaced, err)
	}
}

func TestSlotsAndAddressesCorrespond(t *testing.T) {
	for _, p := range []string{"10.0.0.0/30", "10.244.0.0/24", "10.0.0.0/8", "fd00::/64", "fd00::/126", "fd00:0:0:ff00::/56"} {
		prefix := netip.MustParsePrefix(p)
		slots := slotCount([]netip.Prefix{prefix})
		for _, slot := range []int{2, 3, 255, 256, 257, slots + 1} {
			a := nthAddr(prefix, slot)
			got, ok := slotIn(prefix, a, slots)
			if want := slot < slots+2; ok != want || ok && got != slot {
				t.Errorf("%s: slot %d is %s, which is slot %d, %v", p, slot, a, got, ok)
			}
		}
		for _, n := range []int{0, 1, slots + 2} {
			if _, ok := slotIn(prefix, nthAddr(prefix, n), slots); ok {
				t.Errorf("%s: address %d is handed out", p, n)
			}
		}
	}
	if n := slotCount([]netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00::/64")}); n != 253 {
		t.Errorf("%d pods in a /24; want 253, without network, bridge and broadcast", n)
	}
}

func TestSocketTableIsRead(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 1
   2: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 06 00000000:00000000 00:00000000 00000000     0        0 0 1
   3: garbage
`
	got := parseSockets(table)
	want := []hostSocket{
		{netip.MustParseAddrPort("127.0.0.1:8080"), stateListen, 4711},
		{netip.MustParseAddrPort("[::1]:80"), stateClose, 4712},
		{netip.MustParseAddrPort("127.0.0.1:80"), 6, 0},
	}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d: got %v, want %v", i, got[i], want[i])
		}
	}
}

func FuzzSocketTable(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0     0        0 4711 1")
	f.Add("   0: 0100007F1F90 00000000:0000 FFFF 0:0 00:0 0     0        0 -1 1")
	f.Fuzz(func(t *testing.T, table string) {
		for _, s := range parseSockets(table) {
			if !s.local.IsValid() {
				t.Errorf("socket without address: %v", s)
			}
		}
	})
}

func TestHostPortsThatCannotBeAreRefused(t *testing.T) {
	v4 := []netip.Addr{netip.MustParseAddr("10.244.0.2")}
	for _, c := range []struct {
		m    PortMapping
		want string
	}{
		{PortMapping{Protocol: "SCTP", HostPort: 1, ContainerPort: 1}, "host port 1/SCTP: protocol not supported for host ports; supported: TCP, UDP"},
		{PortMapping{Protocol: "TCP", HostPort: 0, ContainerPort: 1}, "expected ports from 1 to 65535"},
		{PortMapping{Protocol: "TCP", HostIP: netip.MustParseAddr("2001:db8::1"), HostPort: 80, ContainerPort: 1}, "host port [2001:db8::1]:80/TCP: the pod has no IPv6 address"},
		{PortMapping{Protocol: "TCP", HostIP: netip.IPv6Loopback(), HostPort: 80, ContainerPort: 1}, "host port [::1]:80/TCP: host IP ::1 not supported"},
	} {
		if _, err := portsOf("a", []PortMapping{c.m}, v4); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v; want %q", c.m, err, c.want)
		}
	}
	twice := []PortMapping{{Protocol: "TCP", HostPort: 80, ContainerPort: 1}, {Protocol: "TCP", HostPort: 80, ContainerPort: 2}}
	if _, err := portsOf("a", twice, v4); err == nil || !strings.Contains(err.Error(), "mapped twice in pod a, to ports 1 and 2") {
		t.Errorf("one port to two: %v", err)
	}
}

func TestASolicitedNodeGroupIsLookedUp(t *testing.T) {
	const table = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n" +
		"2    eth0            ff0200000000000000000001ff000102     1 00000004 0\n"
	for addr, want := range map[string]bool{"fd00:1::102": true, "fd00::2": false} {
		if got := joined(table, "eth0", solicitedNode(netip.MustParseAddr(addr))); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if joined(table, "lo", solicitedNode(netip.MustParseAddr("fd00:1::102"))) {
		t.Error("another link's group counts")
	}
}
