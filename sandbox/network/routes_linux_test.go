package network

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// advertise sends a router advertisement from the world's outside: a default
// route for this many seconds, and a range to take an address from.
func advertise(t *testing.T, w *world, lifetime uint16) {
	t.Helper()
	message := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // RFC 4861, section 4.2
	binary.BigEndian.PutUint16(message[6:], lifetime)
	prefix := []byte{3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0} // section 4.6.2
	message = append(append(message, prefix...), netip.MustParseAddr("2001:db8:2::").AsSlice()...)
	in(t, w.outside, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName("up0")
		if err != nil {
			return err
		}
		router := netip.MustParsePrefix("fe80::1/64")
		if err := nl.AddrReplace(link, linkAddr(router)); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		index := uint32(link.Attrs().Index)
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
			unix.Bind(fd, &unix.SockaddrInet6{Addr: router.Addr().As16(), ZoneId: index}),
			unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: index}))
	})
}

// routers lists where the host learned its IPv6 default routes from.
func routers(t *testing.T, w *world) (out []string) {
	t.Helper()
	in(t, w.host, func(nl *netlink.Handle) error {
		routes, err := nl.RouteList(nil, netlink.FAMILY_V6)
		for _, r := range routes {
			if p, ok := prefixOf(r.Dst); (!ok || p.Bits() == 0) && r.Protocol == unix.RTPROT_RA {
				out = append(out, r.Gw.String())
			}
		}
		return err
	})
	return out
}

// A host that has its default route from router advertisements keeps it when the
// agent turns forwarding on, and goes on listening to the router.
func TestTheDefaultRouteByRouterAdvertisementStays(t *testing.T) {
	w := newWorld(t)
	in(t, w.host, func(nl *netlink.Handle) error {
		return nl.RouteDel(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("::/0")), Gw: outsideAddr6.Addr().AsSlice()})
	})
	if got := sysctlIn(t, w.host, "ipv6/conf/up0/accept_ra"); got != "1" {
		t.Fatalf("accept_ra is %s at first: this shows nothing", got)
	}
	learned := func() bool { r := routers(t, w); return len(r) == 1 && r[0] == "fe80::1" }
	advertise(t, w, 1800)
	eventually(t, "the host learns its router", learned)
	w.open(t)
	if got := sysctlIn(t, w.host, "ipv6/conf/all/forwarding"); got != "1" {
		t.Errorf("forwarding is %s", got)
	}
	if !learned() {
		t.Error("the default route is gone")
	}
	advertise(t, w, 0)
	eventually(t, "the router that ends is forgotten", func() bool { return len(routers(t, w)) == 0 })
	advertise(t, w, 1800)
	eventually(t, "the host learns its router again", learned)
}

// With reverse path filtering strict everywhere, all of a pod's ways work.
func TestStrictReversePathFilter(t *testing.T) {
	w := newWorld(t)
	for _, c := range []string{"all", "default", "up0"} {
		writeSysctlIn(t, w.host, "ipv4/conf/"+c+"/rp_filter", "1")
	}
	n := w.open(t)
	serve(t, w.outside, ":81", "outside")
	a, b := startPod(t, n, "a"), startPod(t, n, "b")
	if err := n.MapPorts(t.Context(), "a", []PortMapping{{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}}, a.addrs); err != nil {
		t.Fatal(err)
	}
	if got := sysctlIn(t, w.host, "ipv4/conf/podd0/rp_filter"); got != "1" {
		t.Errorf("rp_filter of the bridge is %s: this shows nothing", got)
	}
	wantAnswer(t, a.ns, "tcp", hostPort(outsideAddr4.Addr(), 81), "outside from")
	wantAnswer(t, b.ns, "tcp", hostPort(a.addr4(), 80), "a from")
	wantAnswer(t, b.ns, "tcp", hostPort(hostAddr4.Addr(), 8080), "a from")
	wantAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8080), "a from")
	wantAnswer(t, w.host, "tcp", "127.0.0.1:8080", "a from")
}

// A VPN puts two halves in place of the default route. Pods use it, as large as
// its packets may be, and so do pods that were there before.
func TestPodsUseAVPN(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	serve(t, w.outside, ":81", "outside")
	before := startPod(t, n, "before")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "vpn0", 1300
	tunnel := netlink.NewVeth(attrs)
	tunnel.PeerName, tunnel.PeerNamespace = "vpn0", netlink.NsFd(w.outside.Fd())
	here, there := netip.MustParsePrefix("198.51.100.1/30"), netip.MustParsePrefix("198.51.100.2/30")
	in(t, w.host, func(nl *netlink.Handle) error { return nl.LinkAdd(tunnel) })
	in(t, w.outside, func(nl *netlink.Handle) error {
		lo, err := nl.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(setUp(nl, "vpn0", there), nl.AddrAdd(lo, linkAddr(netip.MustParsePrefix("203.0.113.5/32"))))
	})
	in(t, w.host, func(nl *netlink.Handle) error {
		if err := setUp(nl, "vpn0", here); err != nil {
			return err
		}
		for _, half := range []string{"0.0.0.0/1", "128.0.0.0/1"} {
			if err := nl.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(half)), Gw: there.Addr().AsSlice()}); err != nil {
				return err
			}
		}
		return nil
	})
	wantAnswer(t, before.ns, "tcp", "203.0.113.5:81", "outside from "+here.Addr().String())
	again := w.open(t)
	if again.mtu != 1300 {
		t.Errorf("MTU of pods is %d, want the VPN's 1300", again.mtu)
	}
	wantAnswer(t, startPod(t, again, "after").ns, "tcp", "203.0.113.5:81", "outside from "+here.Addr().String())
}

// An overlap that comes later, as by a VPN's route, does not keep the agent from
// its pods: it says so and goes on, and pods and their ports are reached.
func TestAnOverlapThatComesLaterIsTold(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a := startPod(t, n, "a")
	in(t, w.host, func(nl *netlink.Handle) error {
		return nl.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.0.0.0/8")), Gw: outsideAddr4.Addr().AsSlice()})
	})
	log := &logLines{}
	again := w.open(t, func(c *Config) { c.Logger = logr.New(log) })
	const want = "default pod CIDR 10.244.0.0/24 overlaps this host's route 10.0.0.0/8 dev up0"
	if told := strings.Join(log.lines, "\n"); !strings.Contains(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	wantAnswer(t, startPod(t, again, "b").ns, "tcp", hostPort(a.addr4(), 80), "a from")
	in(t, w.host, func(*netlink.Handle) error {
		got, err := Overlaps("podd0", nil)
		if len(got) != 1 || !strings.Contains(got[0].Error(), want) {
			t.Errorf("overlaps: %v", got)
		}
		return err
	})
}
