package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A connection is translated as its first packet was. A UDP client that keeps
// sending from one port is one connection for ever: it would go on talking to a
// pod that is gone, or to the host although the port is mapped by now. So the
// kernel is told to forget such flows. TCP connections end by themselves.

// flowFilter picks flows. It is told the flow's first destination, and who
// answers.
type flowFilter func(changed ports, local map[netip.Addr]bool, dst, answering netip.AddrPort) bool

// flowsTo picks what a removed host port had sent to its pod.
func flowsTo(removed ports, _ map[netip.Addr]bool, dst, answering netip.AddrPort) bool {
	if dst == answering {
		return false // straight to the pod
	}
	for key, e := range removed {
		if key.proto == protoUDP && key.port == dst.Port() && e.to == answering {
			return true
		}
	}
	return false
}

// flowsPast picks what was sent to this host under an added host port and went
// elsewhere.
func flowsPast(added ports, local map[netip.Addr]bool, dst, answering netip.AddrPort) bool {
	if !local[dst.Addr()] {
		return false
	}
	for key, e := range added {
		if key.proto == protoUDP && key.port == dst.Port() && key.family == familyOf(dst.Addr()) &&
			(!key.hostIP.IsValid() || key.hostIP == dst.Addr()) && e.to != answering {
			return true
		}
	}
	return false
}

func (n *Network) forgetFlows(changed ports, pick flowFilter) error {
	families := map[netlink.InetFamily]bool{}
	for key := range changed {
		if key.proto == protoUDP {
			families[map[Family]netlink.InetFamily{IPv4: unix.AF_INET, IPv6: unix.AF_INET6}[key.family]] = true
		}
	}
	if len(families) == 0 {
		return nil
	}
	addrs, err := n.nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list the host's addresses: %w", err)
	}
	local := map[netip.Addr]bool{}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			local[p.Addr()] = true
		}
	}
	for family := range families {
		_, err := n.nl.ConntrackDeleteFilters(netlink.ConntrackTable, family, matchFlow(func(f *netlink.ConntrackFlow) bool {
			dst, ok1 := netip.AddrFromSlice(f.Forward.DstIP)
			answering, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
			return ok1 && ok2 && f.Forward.Protocol == protoUDP &&
				pick(changed, local, netip.AddrPortFrom(dst.Unmap(), f.Forward.DstPort), netip.AddrPortFrom(answering.Unmap(), f.Reverse.SrcPort))
		}))
		if err != nil {
			return fmt.Errorf("cannot make the kernel forget UDP flows of a host port: %w", err)
		}
	}
	return nil
}

type matchFlow func(*netlink.ConntrackFlow) bool

func (m matchFlow) MatchConntrackFlow(f *netlink.ConntrackFlow) bool { return m(f) }
