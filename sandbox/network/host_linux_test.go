package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// picture is everything about a host's network that Open could change.
func (w *world) picture(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	in(t, w.host, func(nl *netlink.Handle) error {
		links, err := nl.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			fmt.Fprintln(&b, a.Index, a.Name, l.Type(), a.HardwareAddr, a.MTU, a.Flags, a.MasterIndex)
		}
		addrs, err := nl.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			fmt.Fprintln(&b, a.LinkIndex, a.IPNet)
		}
		routes, err := nl.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range routes {
			fmt.Fprintln(&b, r.LinkIndex, r.Dst, r.Gw)
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := c.ListChains()
		if err != nil {
			return err
		}
		for _, ch := range chains {
			rules, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return err
			}
			fmt.Fprintln(&b, ch.Table.Name, ch.Name, len(rules))
			for _, r := range rules {
				for _, e := range r.Exprs {
					fmt.Fprintf(&b, "  %+v\n", e)
				}
			}
			sets, err := c.GetSets(ch.Table)
			if err != nil {
				return err
			}
			for _, s := range sets {
				elements, err := c.GetSetElements(s)
				if err != nil {
					return err
				}
				slices.SortFunc(elements, func(x, y nftables.SetElement) int { return bytes.Compare(x.Key, y.Key) })
				fmt.Fprintln(&b, s.Name, elements)
			}
		}
		return nil
	})
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/up0/accept_ra"} {
		fmt.Fprintln(&b, key, sysctlIn(t, w.host, key))
	}
	return b.String()
}

func TestOpeningAgainChangesNothing(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	pod := startPod(t, n, "pod-a")
	ports := []PortMapping{{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}}
	if err := n.MapPorts(t.Context(), "pod-a", ports, pod.addrs); err != nil {
		t.Fatal(err)
	}
	before := w.picture(t)
	if !strings.Contains(before, "podd-podd0 forward 4") {
		t.Fatalf("no rules in the picture:\n%s", before)
	}
	for range 2 { // once beside the first, as after a crash; once more after a proper end
		again := w.open(t)
		if err := again.Reconcile(t.Context(), map[string]Held{"pod-a": {pod.addrs, ports}}); err != nil {
			t.Fatal(err)
		}
		if err := again.Attach(t.Context(), "pod-a", pod.ns, pod.addrs); err != nil {
			t.Fatal(err)
		}
		if err := again.MapPorts(t.Context(), "pod-a", ports, pod.addrs); err != nil {
			t.Fatal(err)
		}
		if after := w.picture(t); after != before {
			t.Fatalf("before:\n%s\nafter:\n%s", before, after)
		}
		if got, err := again.Allocate("pod-a"); err != nil || !slices.Equal(got, pod.addrs) {
			t.Fatalf("addresses %v, %v; want %v", got, err, pod.addrs)
		}
		again.Close()
	}
}

func TestSysctlsAreChangedOnlyAsFarAsNeeded(t *testing.T) {
	w := newWorld(t)
	writeSysctlIn(t, w.host, "ipv4/conf/default/forwarding", "0")
	writeSysctlIn(t, w.host, "ipv6/conf/up0/accept_ra", "1")
	w.open(t)
	for key, want := range map[string]string{
		"ipv4/ip_forward":                "1",
		"ipv4/conf/podd0/forwarding":     "1",
		"ipv4/conf/podd0/route_localnet": "1",
		"ipv4/conf/up0/route_localnet":   "0",
		"ipv4/conf/all/route_localnet":   "0",
		"ipv6/conf/all/forwarding":       "1",
		"ipv6/conf/up0/accept_ra":        "2", // or the host would lose its router
		"ipv6/conf/podd0/accept_ra":      "0",
		"ipv6/conf/default/accept_ra":    "1",
	} {
		if got := sysctlIn(t, w.host, key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
}

func TestAHostThatForwardsAlreadyKeepsItsRouterSettings(t *testing.T) {
	w := newWorld(t)
	writeSysctlIn(t, w.host, "ipv6/conf/all/forwarding", "1")
	writeSysctlIn(t, w.host, "ipv6/conf/up0/accept_ra", "1")
	w.open(t)
	if got := sysctlIn(t, w.host, "ipv6/conf/up0/accept_ra"); got != "1" {
		t.Errorf("accept_ra of up0 became %s although this host did not listen to routers", got)
	}
}

func TestAHostWithoutIPv6GetsIPv4AndOneLine(t *testing.T) {
	w := newWorld(t)
	writeSysctlIn(t, w.host, "ipv6/conf/all/disable_ipv6", "1")
	var log logLines
	n := w.open(t, func(c *Config) { c.Logger = logr.New(&log) })
	if got := n.Families(); !slices.Equal(got, []Family{IPv4}) {
		t.Errorf("families %v", got)
	}
	if want := []string{"this host has no IPv6: pods get IPv4 addresses only"}; !slices.Equal(log.lines, want) {
		t.Errorf("logged %q, want %q", log.lines, want)
	}
	a, b := startPod(t, n, "pod-a"), startPod(t, n, "pod-b")
	if len(a.addrs) != 1 {
		t.Fatalf("addresses %v", a.addrs)
	}
	wantAnswer(t, a.ns, "tcp", hostPort(b.addr4(), 80), "pod-b from "+a.addr4().String())
	ports := []PortMapping{{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}}
	files, err := n.ReservePorts("pod-a", ports, a.addrs)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	defer files[0].Close()
	if err := n.MapPorts(t.Context(), "pod-a", ports, a.addrs); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, w.host, "tcp", "127.0.0.1:8080", "pod-a from")

	_, err = Open(t.Context(), Config{Bridge: "podd9", StateDir: t.TempDir(), HostNetNS: w.host, CIDRs: []netip.Prefix{netip.MustParsePrefix("fd00:5::/64")}})
	if err == nil || !strings.Contains(err.Error(), "this host has no IPv6: add an IPv4 range to --pod-cidr") {
		t.Errorf("only IPv6 asked for: %v", err)
	}
}

func TestARangeThatTheHostUsesIsRefused(t *testing.T) {
	w := newWorld(t)
	in(t, w.host, func(nl *netlink.Handle) error {
		return nl.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.0.0.0/8")), Gw: outsideAddr4.Addr().AsSlice()})
	})
	for _, c := range []struct{ cidr, want string }{
		{"", "default pod CIDR 10.244.0.0/24 overlaps this host's route 10.0.0.0/8 dev up0: choose another range with --pod-cidr"},
		{"192.0.2.128/25", "pod CIDR 192.0.2.128/25 overlaps this host's route 192.0.2.0/24 dev up0"},
		{"2001:db8::/32", "pod CIDR 2001:db8::/32 overlaps this host's route 2001:db8:1::/64 dev up0"},
	} {
		cfg := Config{StateDir: t.TempDir(), HostNetNS: w.host}
		if c.cidr != "" {
			cfg.CIDRs = []netip.Prefix{netip.MustParsePrefix(c.cidr)}
		}
		if _, err := Open(t.Context(), cfg); err == nil || err.Error() != c.want {
			t.Errorf("%q: got %v\nwant %s", c.cidr, err, c.want)
		}
	}
	if strings.Contains(w.picture(t), "podd0") {
		t.Error("a refused range left a bridge or a table behind")
	}
}

func TestABridgeOfSomebodyElseIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	in(t, w.host, func(nl *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		return nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	for name, want := range map[string]string{
		"br0":               "bridge br0 was not made by podd",
		"up0":               "up0 is a veth, not a bridge",
		"a-name-too-long-0": "expected an interface name of 1 to 15 characters",
		"../x":              "expected an interface name",
	} {
		_, err := Open(t.Context(), Config{Bridge: name, StateDir: t.TempDir(), HostNetNS: w.host})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
}

func TestTwoAgentsSideBySide(t *testing.T) {
	w := newWorld(t)
	one := w.open(t)
	two := w.open(t, func(c *Config) {
		c.Bridge, c.StateDir = "podd1", t.TempDir()
		c.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.245.0.0/24"), netip.MustParsePrefix("fd00:2::/64")}
	})
	a, b := startPod(t, one, "pod-a"), startPod(t, two, "pod-b")
	for i, c := range []struct {
		n *Network
		p *testPod
	}{{one, a}, {two, b}} {
		ports := []PortMapping{{Protocol: "TCP", HostPort: uint16(8080 + i), ContainerPort: 80}}
		if err := c.n.MapPorts(t.Context(), c.p.uid, ports, c.p.addrs); err != nil {
			t.Fatal(err)
		}
	}
	both := func(t *testing.T) {
		t.Helper()
		for _, from := range []*os.File{w.host, w.outside, a.ns, b.ns} {
			wantAnswer(t, from, "tcp", hostPort(hostAddr4.Addr(), 8080), "pod-a from")
			wantAnswer(t, from, "tcp", hostPort(hostAddr4.Addr(), 8081), "pod-b from")
			wantAnswer(t, from, "tcp", hostPort(hostAddr6.Addr(), 8081), "pod-b from")
		}
		wantAnswer(t, w.host, "tcp", "127.0.0.1:8080", "pod-a from")
		wantAnswer(t, w.host, "tcp", "127.0.0.1:8081", "pod-b from")
	}
	both(t)
	// Pods of one agent are strangers to the other: host ports only.
	wantNoAnswer(t, b.ns, "tcp", hostPort(a.addr4(), 80))
	// An agent that finds none of its pods present clears its own things only.
	three := w.open(t, func(c *Config) {
		c.Bridge, c.StateDir, c.CIDRs = "podd2", t.TempDir(), []netip.Prefix{netip.MustParsePrefix("10.246.0.0/24")}
	})
	if err := three.Reconcile(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	both(t)
}

func TestPodsAreReachedFromOutsideOnlyByHostPorts(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a := startPod(t, n, "pod-a")
	in(t, w.outside, func(nl *netlink.Handle) error {
		for i, p := range n.Prefixes() {
			gw := []netip.Addr{hostAddr4.Addr(), hostAddr6.Addr()}[i]
			if err := nl.RouteAdd(&netlink.Route{Dst: ipNet(p), Gw: gw.AsSlice()}); err != nil {
				return err
			}
		}
		return nil
	})
	wantNoAnswer(t, w.outside, "tcp", hostPort(a.addr4(), 80))
	wantNoAnswer(t, w.outside, "tcp", hostPort(a.addr6(), 80))
}

// route_localnet must not open what listens on the host's loopback to pods.
func TestAPodDoesNotReachTheHostsLoopback(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a := startPod(t, n, "pod-a")
	serve(t, w.host, "127.0.0.1:7000", "host loopback")
	// A pod with NET_RAW can send such packets; here its routes do.
	in(t, a.ns, func(nl *netlink.Handle) error {
		if err := setSysctl("ipv4/conf/all/route_localnet", "1"); err != nil {
			return err
		}
		eth0, err := nl.LinkByName("eth0")
		if err != nil {
			return err
		}
		// A table of routes before the local one, which otherwise always wins.
		first, then := netlink.NewRule(), netlink.NewRule()
		first.Priority, first.Table = 100, 100
		then.Priority, then.Table = 200, 255
		local := netlink.NewRule()
		local.Priority, local.Table = 0, 255
		return errors.Join(
			nl.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Table: 100, Dst: ipNet(netip.MustParsePrefix("127.0.0.0/8")),
				Gw: n.Gateways()[0].AsSlice(), Src: a.addr4().AsSlice()}),
			nl.RuleAdd(first), nl.RuleAdd(then), nl.RuleDel(local))
	})
	wantNoAnswer(t, a.ns, "udp", "127.0.0.1:7000")
	wantNoAnswer(t, a.ns, "tcp", "127.0.0.1:7000")
}

func TestReconcileKeepsWhatExistsAndDropsTheRest(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	stay, gone := startPod(t, n, "stay"), startPod(t, n, "gone")
	ports := func(p uint16) []PortMapping {
		return []PortMapping{{Protocol: "TCP", HostPort: p, ContainerPort: 80}}
	}
	for p, pod := range map[uint16]*testPod{8080: stay, 8081: gone} {
		if err := n.MapPorts(t.Context(), pod.uid, ports(p), pod.addrs); err != nil {
			t.Fatal(err)
		}
	}
	n.Close()

	// While no agent ran, somebody cleared the rules, and the file of addresses was lost.
	in(t, w.host, func(*netlink.Handle) error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
	if err := os.Remove(w.state + "/" + leaseFile); err != nil {
		t.Fatal(err)
	}
	n = w.open(t)
	if err := n.Reconcile(t.Context(), map[string]Held{"stay": {stay.addrs, ports(8080)}}); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8080), "stay from "+outsideAddr4.Addr().String())
	wantNoAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8081))
	if _, err := n.Stats(t.Context(), "gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link of the pod that is gone: %v", err)
	}
	if got, _ := n.Allocate("new"); slices.Equal(got, stay.addrs) {
		t.Errorf("%v was handed out although stay has it", got)
	}
	if got, _ := n.Allocate("stay"); !slices.Equal(got, stay.addrs) {
		t.Errorf("stay has %v now, had %v", got, stay.addrs)
	}
}

func TestStatsCountFromThePodsSide(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a := startPod(t, n, "pod-a")
	before, err := n.Stats(t.Context(), "pod-a")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // questions are longer than answers
		inNetNS(w.host, func() error { return sendUDP(hostPort(a.addr4(), 9), 1000) })
	}
	after, err := n.Stats(t.Context(), "pod-a")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.RxBytes - before.RxBytes; after.Interface != "eth0" || got < 20*1000 || after.RxPackets-before.RxPackets < 20 {
		t.Errorf("%s received %d bytes in %d packets; want at least 20 times 1000", after.Interface, got, after.RxPackets-before.RxPackets)
	}
	if sent := after.TxBytes - before.TxBytes; sent > 20*1000 {
		t.Errorf("sent %d bytes", sent)
	}
	if _, err := n.Stats(t.Context(), "nobody"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pod that is not attached: %v", err)
	}
}

func TestAPodIsAttachedAgainInANewNamespace(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	old := startPod(t, n, "pod-a")
	b := startPod(t, n, "pod-b")
	wantAnswer(t, b.ns, "tcp", hostPort(old.addr4(), 80), "pod-a from "+b.addr4().String())
	// The sandbox is rebuilt while something still holds the former namespace.
	if err := n.Detach(t.Context(), "pod-a"); err != nil {
		t.Fatal(err)
	}
	rebuilt := &testPod{uid: "pod-a", ns: newNetNS(t), addrs: old.addrs}
	if err := n.Attach(t.Context(), "pod-a", rebuilt.ns, rebuilt.addrs); err != nil {
		t.Fatal(err)
	}
	serve(t, rebuilt.ns, ":80", "rebuilt")
	begin := time.Now()
	wantAnswer(t, b.ns, "tcp", hostPort(old.addr4(), 80), "rebuilt from "+b.addr4().String())
	wantAnswer(t, b.ns, "tcp", hostPort(old.addr6(), 80), "rebuilt from "+b.addr6().String())
	if d := time.Since(begin); d > 900*time.Millisecond {
		t.Errorf("neighbours needed %v to find the pod again", d)
	}
	time.Sleep(leftoverAfter + 200*time.Millisecond) // the late half of Detach must spare the new link
	wantAnswer(t, b.ns, "tcp", hostPort(old.addr4(), 80), "rebuilt from "+b.addr4().String())
}

func TestALinkWhoseNamespaceIsHeldIsRemovedLater(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	startPod(t, n, "pod-a")
	for range 2 {
		if err := n.Detach(t.Context(), "pod-a"); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := n.Stats(t.Context(), "pod-a")
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the link is still there: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := n.Detach(t.Context(), "nobody"); err != nil {
		t.Errorf("detaching a pod that is not attached: %v", err)
	}
}
