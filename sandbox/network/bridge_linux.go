package network

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridgeMAC is the bridge's hardware address. It is fixed, because a bridge
// without one takes over that of a port, changes it as pods come and go, and
// every pod's neighbour entry for its router goes stale. It also marks the
// bridge as ours.
func bridgeMAC(bridge string) net.HardwareAddr {
	h := sha256.Sum256([]byte("podd bridge " + bridge))
	return net.HardwareAddr{0x02, 0x70, h[0], h[1], h[2], h[3]}
}

// checkBridgeName follows dev_valid_name in the kernel's net/core/dev.c.
func checkBridgeName(name string) error {
	bad := name == "" || name == "." || name == ".." || len(name) >= unix.IFNAMSIZ
	for _, c := range []byte(name) {
		bad = bad || c <= ' ' || c > '~' || c == '/' || c == ':'
	}
	if bad || name == "all" || name == "default" {
		return fmt.Errorf("bridge %q: expected an interface name of 1 to 15 characters, without slash, colon or space", name)
	}
	return nil
}

// ensureBridge makes the bridge with these addresses, or completes it. It runs
// in the host's namespace.
func ensureBridge(nl *netlink.Handle, name string, mtu int, prefixes []netip.Prefix) (netlink.Link, error) {
	link, err := nl.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if link, err = makeBridge(nl, name, mtu); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("%s is a %s, not a bridge: choose another name with --bridge", name, link.Type())
	}
	if !bytes.Equal(link.Attrs().HardwareAddr, bridgeMAC(name)) {
		return nil, fmt.Errorf("bridge %s was not made by podd (hardware address %s): choose another name with --bridge", name, link.Attrs().HardwareAddr)
	}
	if link.Attrs().MTU != mtu {
		if err := nl.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("cannot set MTU of bridge %s to %d: %w", name, mtu, err)
		}
	}
	// Before the bridge comes up, or its link-local address would wait a second
	// for duplicates, and pods could configure the host by router advertisements.
	if hasFamily(prefixes, IPv6) {
		for _, s := range [][2]string{{"disable_ipv6", "0"}, {"accept_dad", "0"}, {"accept_ra", "0"}} {
			if err := setSysctl("ipv6/conf/"+name+"/"+s[0], s[1]); err != nil {
				return nil, err
			}
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := nl.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("cannot bring bridge %s up: %w", name, err)
		}
	}
	if err := ensureBridgeAddrs(nl, link, prefixes); err != nil {
		return nil, err
	}
	return link, nil
}

func makeBridge(nl *netlink.Handle, name string, mtu int) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, bridgeMAC(name), mtu
	// Without snooping, neighbour discovery reaches a port that has just joined.
	err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: new(bool)})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("cannot make bridge %s: %w", name, err)
	}
	return nl.LinkByName(name)
}

func ensureBridgeAddrs(nl *netlink.Handle, link netlink.Link, prefixes []netip.Prefix) error {
	name := link.Attrs().Name
	had, err := nl.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list addresses of bridge %s: %w", name, err)
	}
	missing := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		missing[gatewayPrefix(p)] = true
	}
	for _, a := range had {
		p, ok := prefixOf(a.IPNet)
		if !ok || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if missing[p] {
			delete(missing, p)
			continue
		}
		if err := nl.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("cannot remove address %s of bridge %s: %w", p, name, err)
		}
	}
	for p := range missing {
		if err := nl.AddrReplace(link, linkAddr(p)); err != nil {
			return fmt.Errorf("cannot give address %s to bridge %s: %w", p, name, err)
		}
	}
	return nil
}

// hasAddr tells whether a link is there with an address.
func hasAddr(nl *netlink.Handle, name string, p netip.Prefix) bool {
	link, err := nl.LinkByName(name)
	if err != nil {
		return false
	}
	addrs, err := nl.AddrList(link, netlink.FAMILY_ALL)
	return err == nil && slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		had, ok := prefixOf(a.IPNet)
		return ok && had == p
	})
}

// gatewayPrefix returns the bridge's address in a range, with the range's length.
func gatewayPrefix(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(nthAddr(p, 1), p.Bits()) }

// linkAddr is p as an address to set, without duplicate address detection: for a
// second after it was set, such an address could not be used.
func linkAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// uplinks returns the links with a default route, those of a VPN included that
// puts two halves in its place.
func uplinks(nl *netlink.Handle) ([]netlink.Link, error) {
	routes, err := nl.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	var out []netlink.Link
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 1 || r.LinkIndex == 0 {
			continue
		}
		if link, err := nl.LinkByIndex(r.LinkIndex); err == nil {
			out = append(out, link)
		}
	}
	return out, nil
}

// uplinksHere returns their names in the calling thread's network namespace.
func uplinksHere() ([]string, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the kernel's network configuration: %w", err)
	}
	defer nl.Close()
	links, err := uplinks(nl)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, err
}

// defaultMTU returns the smallest MTU of the links with a default route, so
// that what a pod sends needs no fragmenting on this host.
func defaultMTU(nl *netlink.Handle) (int, error) {
	links, err := uplinks(nl)
	if err != nil {
		return 0, err
	}
	mtu := 0
	for _, l := range links {
		if m := l.Attrs().MTU; m >= 1280 && (mtu == 0 || m < mtu) {
			mtu = m
		}
	}
	if mtu == 0 {
		mtu = 1500
	}
	return mtu, nil
}

// hostRoutes lists those of the host's routes and own addresses that overlap any of
// some ranges, except those of the bridge.
func hostRoutes(nl *netlink.Handle, bridge string, ranges []netip.Prefix) ([]route, error) {
	var out []route
	for _, table := range []int{unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL} {
		routes, err := nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("cannot list routes: %w", err)
		}
		for _, r := range routes {
			p, ok := prefixOf(r.Dst)
			if !ok || !slices.ContainsFunc(ranges, p.Overlaps) {
				continue
			}
			link := "" // of a route that leads nowhere, or of a link that has just gone
			if l, err := nl.LinkByIndex(r.LinkIndex); err == nil {
				link = l.Attrs().Name
			}
			if link != bridge {
				out = append(out, route{p, link})
			}
		}
	}
	return out, nil
}

// Overlaps returns, for the calling thread's network namespace, the sentences that
// [Open] would refuse these ranges with; none given means the default one.
func Overlaps(bridge string, cidrs []netip.Prefix) ([]error, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the kernel's network configuration: %w", err)
	}
	defer nl.Close()
	byDefault := len(cidrs) == 0
	if byDefault {
		cidrs = []netip.Prefix{defaultIPv4} // the generated one is nobody's
	}
	routes, err := hostRoutes(nl, bridge, cidrs)
	if err != nil {
		return nil, err
	}
	var out []error
	for _, p := range cidrs {
		if err := checkOverlap(p.Masked(), byDefault, routes); err != nil {
			out = append(out, err)
		}
	}
	return out, nil
}

func hasFamily(prefixes []netip.Prefix, f Family) bool {
	for _, p := range prefixes {
		if familyOf(p.Addr()) == f {
			return true
		}
	}
	return false
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
