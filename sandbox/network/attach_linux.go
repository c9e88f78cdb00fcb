package network

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	podLink = "eth0"
	// settleTimeout bounds each wait for a new link to carry packets. It takes
	// well below a millisecond; on a kernel that batches link events up to 1 s.
	settleTimeout = 5 * time.Second
	// leftoverAfter is how long a pod's link may outlive Detach.
	leftoverAfter = time.Second
)

// hostLink is the name of the host's end of a pod's link. Network managers
// leave names that begin with veth alone.
func hostLink(bridge, uid string) string {
	h := sha256.Sum256([]byte(bridge + " " + uid))
	return "veth" + strings.ToLower(base32.StdEncoding.EncodeToString(h[:])[:11])
}

// podMAC is the hardware address of a pod's eth0. It follows from the address:
// where an address is handed out again, neighbour entries that others still
// have for it stay right.
func podMAC(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, b[len(b)-4:]...)
}

// Attach gives the pod's network namespace a loopback device that is up and an
// eth0 with addrs and default routes, and returns when packets can flow. It may
// be repeated, and completes what an earlier attempt left half made.
func (n *Network) Attach(ctx context.Context, uid string, netns *os.File, addrs []netip.Addr) error {
	if err := n.attach(ctx, uid, netns, addrs); err != nil {
		return fmt.Errorf("cannot attach pod %s to bridge %s: %w", uid, n.bridge, err)
	}
	return nil
}

func (n *Network) attach(ctx context.Context, uid string, ns *os.File, addrs []netip.Addr) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	for _, a := range addrs {
		if _, ok := n.prefixFor(a); !ok {
			return fmt.Errorf("address %s is outside %v", a, n.prefixes)
		}
	}
	if len(addrs) == 0 {
		return errors.New("no address given")
	}
	host, err := n.ensureVeth(uid, ns, addrs)
	if err != nil {
		return err
	}
	return inNetNS(ns, func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		if err := n.configurePod(nl, addrs); err != nil {
			return err
		}
		if err := n.waitUntilUp(ctx, host, nl); err != nil {
			return err
		}
		return waitUntilFound(ctx, podLink, addrs)
	})
}

// ensureVeth makes the link between namespace and bridge, or finds it, and
// returns the index of the host's end.
func (n *Network) ensureVeth(uid string, ns *os.File, addrs []netip.Addr) (int, error) {
	name := hostLink(n.bridge, uid)
	link, err := n.nl.LinkByName(name)
	switch {
	case err == nil:
		ours, err := isPeerIn(ns, link)
		if err != nil {
			return 0, err
		}
		if ours {
			return link.Attrs().Index, n.joinBridge(link)
		}
		// The pod's former namespace is not quite gone. Two links with the same
		// address on one bridge would steal each other's packets.
		if err := n.deleteLink(link); err != nil {
			return 0, err
		}
	case !errors.As(err, &netlink.LinkNotFoundError{}):
		return 0, fmt.Errorf("cannot look for link %s: %w", name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, n.mtu
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = podLink, podMAC(addrs[0]), netlink.NsFd(ns.Fd())
	if err := n.nl.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("cannot make link %s with %s in the pod: %w", name, podLink, err)
	}
	return veth.Index, n.joinBridge(veth)
}

// isPeerIn tells whether the other end of link is the eth0 of a namespace.
func isPeerIn(ns *os.File, link netlink.Link) (ours bool, err error) {
	err = inNetNS(ns, func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		eth0, err := nl.LinkByName(podLink)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot look for %s in the pod: %w", podLink, err)
		}
		ours = link.Attrs().ParentIndex == eth0.Attrs().Index && eth0.Attrs().ParentIndex == link.Attrs().Index
		return nil
	})
	return ours, err
}

func (n *Network) joinBridge(link netlink.Link) error {
	name := link.Attrs().Name
	// The port itself speaks no IP; with IPv6 it would announce itself to the pod.
	err := inNetNS(n.hostNS, func() error { return setSysctl("ipv6/conf/"+name+"/disable_ipv6", "1") })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if link.Attrs().MasterIndex != n.bridgeIndex {
		if err := n.nl.LinkSetMasterByIndex(link, n.bridgeIndex); err != nil {
			return fmt.Errorf("cannot put link %s on bridge %s: %w", name, n.bridge, err)
		}
	}
	// With br_netfilter, a pod's packet to its own host port is turned round on
	// the bridge and must leave by the port it came from.
	if err := n.nl.LinkSetHairpin(link, true); err != nil {
		return fmt.Errorf("cannot set hairpin mode of link %s: %w", name, err)
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot bring link %s up: %w", name, err)
	}
	return nil
}

// configurePod runs in the pod's namespace.
func (n *Network) configurePod(nl *netlink.Handle, addrs []netip.Addr) error {
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot find loopback of the pod: %w", err)
	}
	if err := nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("cannot bring loopback of the pod up: %w", err)
	}
	eth0, err := nl.LinkByName(podLink)
	if err != nil {
		return fmt.Errorf("cannot find %s of the pod: %w", podLink, err)
	}
	// Before the link comes up: its link-local address is used at once, and
	// what another pod advertises as a router is not believed.
	for _, key := range []string{"accept_dad", "accept_ra"} {
		err := setSysctl("ipv6/conf/"+podLink+"/"+key, "0")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := nl.LinkSetUp(eth0); err != nil {
		return fmt.Errorf("cannot bring %s of the pod up: %w", podLink, err)
	}
	for _, a := range addrs {
		p, _ := n.prefixFor(a)
		if err := nl.AddrReplace(eth0, linkAddr(netip.PrefixFrom(a, p.Bits()))); err != nil {
			return fmt.Errorf("cannot give address %s to the pod: %w", a, err)
		}
		route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: nthAddr(p, 1).AsSlice(), Dst: ipNet(netip.PrefixFrom(unspecified(a), 0))}
		if err := nl.RouteReplace(route); err != nil {
			return fmt.Errorf("cannot set the pod's default route by %s: %w", nthAddr(p, 1), err)
		}
	}
	return nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// waitUntilUp asks for eth0, the host's end and the bridge until each is
// operationally up. The kernel settles a link's state when it is asked for it
// (linkwatch_sync_dev, from Linux 6.8) or soon after. Until then the first
// packets vanish, and a connection waits a second to try again.
func (n *Network) waitUntilUp(ctx context.Context, host int, pod *netlink.Handle) error {
	ask := []struct {
		what string
		get  func() (netlink.Link, error)
	}{
		{podLink + " of the pod", func() (netlink.Link, error) { return pod.LinkByName(podLink) }},
		{"the host's end", func() (netlink.Link, error) { return n.nl.LinkByIndex(host) }},
		{"the bridge", func() (netlink.Link, error) { return n.nl.LinkByIndex(n.bridgeIndex) }},
	}
	for _, a := range ask {
		err := poll(ctx, func() error {
			link, err := a.get()
			if err != nil {
				return fmt.Errorf("cannot read the state of %s: %w", a.what, err)
			}
			if link.Attrs().OperState != netlink.OperUp {
				return notYetError(fmt.Sprintf("%s is %s, not up", a.what, link.Attrs().OperState))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// waitUntilFound waits until neighbours can find these IPv6 addresses of a link
// of the calling thread's namespace. The kernel joins an address's
// solicited-node group (RFC 4291, section 2.7.1) on a work queue, some time
// after the address was set, on a loaded machine milliseconds later; until then
// it does not hear who asks for the address, and they ask again after a second.
func waitUntilFound(ctx context.Context, link string, addrs []netip.Addr) error {
	for _, a := range addrs {
		if a.Is4() {
			continue
		}
		err := poll(ctx, func() error {
			table, err := os.ReadFile("/proc/thread-self/net/igmp6")
			if err != nil {
				return fmt.Errorf("cannot read multicast groups: %w", err)
			}
			if !joined(string(table), link, solicitedNode(a)) {
				return notYetError(fmt.Sprintf("%s does not listen for questions about %s", link, a))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// notYetError is what a poll goes on after.
type notYetError string

func (e notYetError) Error() string { return string(e) }

// poll repeats f, which costs microseconds, until it returns something other
// than a notYetError, at most for settleTimeout.
func poll(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 2*time.Millisecond) {
		err := f()
		if _, notYet := err.(notYetError); !notYet {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(pause):
		}
	}
}

func (n *Network) deleteLink(link netlink.Link) error {
	err := n.nl.LinkDel(link)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cannot remove link %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// Detach forgets the pod's link. The link goes with its namespace; one that is
// still there after a second, because something else holds the namespace, is
// removed in the background. A pod that is not attached is no error.
//
// Removing a link takes the kernel 20 to 50 ms; with its namespace it costs
// nobody's time.
func (n *Network) Detach(ctx context.Context, uid string) error {
	name := hostLink(n.bridge, uid)
	link, err := n.nl.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look for link %s of pod %s: %w", name, uid, err)
	}
	// Started here, ended by its work or by Close. It owns nothing: the link is
	// known by its index, which a later link of the same pod does not have.
	n.background.Add(1)
	go func() {
		defer n.background.Done()
		select {
		case <-time.After(leftoverAfter):
		case <-n.closed:
			return
		}
		if left, err := n.nl.LinkByIndex(link.Attrs().Index); err == nil && left.Attrs().Name == name {
			if err := n.deleteLink(left); err != nil {
				n.log.Error(err, "link outlives its pod", "pod", uid, "link", name)
			}
		}
	}()
	return nil
}

// Stats reads the counters of the pod's eth0. The error is [os.ErrNotExist] for
// a pod that is not attached.
func (n *Network) Stats(ctx context.Context, uid string) (Stats, error) {
	link, err := n.nl.LinkByName(hostLink(n.bridge, uid))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return Stats{}, fmt.Errorf("network counters of pod %s: %w", uid, os.ErrNotExist)
	}
	if err != nil {
		return Stats{}, fmt.Errorf("cannot read network counters of pod %s: %w", uid, err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return Stats{}, fmt.Errorf("network counters of pod %s: the kernel gave none", uid)
	}
	// What the host's end sends is what eth0 receives.
	return Stats{
		Interface: podLink,
		RxBytes:   s.TxBytes, RxPackets: s.TxPackets, RxErrors: s.TxErrors, RxDropped: s.TxDropped,
		TxBytes: s.RxBytes, TxPackets: s.RxPackets, TxErrors: s.RxErrors, TxDropped: s.RxDropped,
	}, nil
}
