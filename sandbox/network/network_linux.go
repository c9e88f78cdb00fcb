package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is a bridge with its pods. Its methods may be called concurrently,
// for one pod one after the other.
type Network struct {
	log         logr.Logger
	hostNS      *os.File // nil: the process's own
	nl          *netlink.Handle
	bridge      string
	bridgeIndex int
	mtu         int
	prefixes    []netip.Prefix
	fw          *firewall

	changes   *os.File // hears of changes to nftables
	lookEvery time.Duration

	closed     chan struct{}
	closing    sync.Once
	background sync.WaitGroup

	mu       sync.Mutex
	leases   *leases
	reserved map[string]ports // by pod, since ReservePorts; the kernel's maps know the rest
	drops    []ForeignDrop

	mapping sync.Mutex // held while the kernel's maps and mapped change; before mu
	mapped  ports      // what the kernel's maps have, for when somebody flushes them
}

// Open makes the bridge, its addresses, the forwarding sysctls and the nftables
// table, as far as they are missing, and loads the addresses that are handed
// out. Opening again changes nothing. A range that overlaps a route of the host
// is refused. On a host without IPv6 it goes on with IPv4 and logs one line.
func Open(ctx context.Context, c Config) (*Network, error) {
	n := &Network{
		log:      c.Logger,
		bridge:   cmp.Or(c.Bridge, "podd0"),
		closed:   make(chan struct{}),
		reserved: map[string]ports{},
		mapped:   ports{},

		lookEvery: lookInterval,
	}
	if n.log.GetSink() == nil {
		n.log = logr.Discard()
	}
	if err := checkBridgeName(n.bridge); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the network's state directory: %w", err)
	}
	if c.HostNetNS != nil {
		fd, err := unix.FcntlInt(c.HostNetNS.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot keep the host's network namespace: %w", err)
		}
		n.hostNS = os.NewFile(uintptr(fd), c.HostNetNS.Name())
	}
	// A recipe; each step completes what an earlier, interrupted Open began.
	err := inNetNS(n.hostNS, func() error {
		var err error
		if n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
			return fmt.Errorf("cannot reach the kernel's network configuration: %w", err)
		}
		if err := n.choosePrefixes(c); err != nil {
			return err
		}
		if n.mtu = c.MTU; n.mtu == 0 {
			if n.mtu, err = defaultMTU(n.nl); err != nil {
				return err
			}
		}
		// The rules come first: at no time do packets pass without them.
		n.fw = newFirewall(n.bridge, n.prefixes)
		if err := n.fw.ensure(n.bridge, n.prefixes); err != nil {
			return err
		}
		if n.changes, err = listenFirewalls(); err != nil {
			return err
		}
		n.passForeign()
		link, err := ensureBridge(n.nl, n.bridge, n.mtu, n.prefixes)
		if err != nil {
			return err
		}
		n.bridgeIndex = link.Attrs().Index
		if err := n.enableForwarding(); err != nil {
			return err
		}
		if err := waitUntilFound(ctx, n.bridge, n.Gateways()); err != nil {
			return fmt.Errorf("bridge %s: %w", n.bridge, err)
		}
		return nil
	})
	if err == nil {
		err = n.loadLeases(c.StateDir)
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// choosePrefixes settles the ranges of pod addresses. It runs in the host's namespace.
func (n *Network) choosePrefixes(c Config) error {
	byDefault := len(c.CIDRs) == 0
	cidrs := c.CIDRs
	if byDefault {
		ula, replaced, err := uniqueLocalPrefix(c.StateDir)
		if err != nil {
			return err
		}
		if replaced {
			n.log.Info("the kept IPv6 range of pods could not be read; a new one was generated", "range", ula.String())
		}
		cidrs = []netip.Prefix{defaultIPv4, ula}
	}
	prefixes, err := checkPrefixes(cidrs)
	if err != nil {
		return err
	}
	if hasFamily(prefixes, IPv6) && !hasIPv6() {
		if !hasFamily(prefixes, IPv4) {
			return fmt.Errorf("pod CIDR %s: this host has no IPv6: add an IPv4 range to --pod-cidr", prefixes[0])
		}
		n.log.Info("this host has no IPv6: pods get IPv4 addresses only")
		prefixes = prefixes[:1]
	}
	routes, err := hostRoutes(n.nl, n.bridge, prefixes)
	if err != nil {
		return err
	}
	for _, p := range prefixes {
		err := checkOverlap(p, byDefault, routes)
		if err != nil && hasAddr(n.nl, n.bridge, gatewayPrefix(p)) {
			// A VPN may have come later. Pods use the range already, and an agent
			// that does not start would not make it better.
			n.log.Error(err, "pods cannot reach others in their own range, and may not be answered")
			continue
		}
		if err != nil {
			return err
		}
	}
	n.prefixes = prefixes
	return nil
}

func (n *Network) enableForwarding() error {
	if hasFamily(n.prefixes, IPv4) {
		if err := forwardIPv4(n.bridge); err != nil {
			return err
		}
		if err := setSysctl("ipv4/conf/"+n.bridge+"/route_localnet", "1"); err != nil {
			return err
		}
	}
	if hasFamily(n.prefixes, IPv6) {
		return forwardIPv6(n.bridge)
	}
	return nil
}

func (n *Network) loadLeases(dir string) error {
	l, problems, err := openLeases(dir, n.prefixes)
	if err != nil {
		return err
	}
	for _, p := range problems {
		n.log.Error(p, "address of a pod could not be taken over")
	}
	n.leases = l
	return nil
}

// Close lets go of descriptors. Bridge, pods and host ports stay as they are.
func (n *Network) Close() error {
	n.closing.Do(func() {
		close(n.closed)
		n.background.Wait()
		if n.changes != nil {
			n.changes.Close()
		}
		if n.nl != nil {
			n.nl.Close()
		}
		if n.leases != nil {
			n.leases.close()
		}
		if n.hostNS != nil {
			n.hostNS.Close()
		}
	})
	return nil
}

// Families returns the address families of pods, IPv4 first.
func (n *Network) Families() []Family {
	var out []Family
	for _, p := range n.prefixes {
		out = append(out, familyOf(p.Addr()))
	}
	return out
}

// Prefixes returns the ranges of pod addresses, IPv4 first.
func (n *Network) Prefixes() []netip.Prefix { return slices.Clone(n.prefixes) }

// Gateways returns the bridge's own addresses, in the order of Prefixes.
func (n *Network) Gateways() []netip.Addr {
	var out []netip.Addr
	for _, p := range n.prefixes {
		out = append(out, nthAddr(p, 1))
	}
	return out
}

func (n *Network) prefixFor(a netip.Addr) (netip.Prefix, bool) {
	for _, p := range n.prefixes {
		if p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Allocate returns the pod's addresses, one per family in the order of Prefixes.
// The same uid gets the same addresses until [Network.Release]. What is returned
// is on file, so an agent that dies right after does not hand it out twice.
// Addresses never used come first, then those released longest ago.
func (n *Network) Allocate(uid string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leases.allocate(uid)
}

// Release gives the pod's addresses back. A uid without addresses is no error.
func (n *Network) Release(uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.reserved, uid)
	return n.leases.release(uid)
}

// MapPorts directs the host ports to the pod: from the host itself (also by
// 127.0.0.1, not by ::1), from outside, and from pods, this one included. What
// an earlier pod left under the same ports is replaced. It stays in the kernel
// until [Network.UnmapPorts].
func (n *Network) MapPorts(ctx context.Context, uid string, mappings []PortMapping, addrs []netip.Addr) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	wanted, err := portsOf(uid, normalized(mappings), addrs)
	if err != nil || len(wanted) == 0 {
		return err
	}
	n.mapping.Lock()
	defer n.mapping.Unlock()
	err = inNetNS(n.hostNS, func() error {
		err := n.fw.change(nil, wanted)
		if missingOrOther(err) {
			err = n.replacePorts(wanted)
		}
		if err == nil {
			err = n.forgetFlows(wanted, flowsPast)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot map host ports of pod %s: %w", uid, err)
	}
	maps.Copy(n.mapped, wanted)
	n.mu.Lock()
	delete(n.reserved, uid)
	n.mu.Unlock()
	return nil
}

// replacePorts puts wanted in place of what the kernel has under the same keys.
func (n *Network) replacePorts(wanted ports) error {
	had, err := n.fw.read()
	if err != nil {
		return err
	}
	maps.DeleteFunc(had, func(k portKey, e portEntry) bool { _, is := wanted[k]; return !is })
	return n.fw.change(had, wanted)
}

// UnmapPorts removes every host port of the pod. A pod without any is no error.
func (n *Network) UnmapPorts(ctx context.Context, uid string) error {
	err := n.unmap(func(e portEntry) bool { return e.uid == uid })
	if err != nil {
		return fmt.Errorf("cannot remove host ports of pod %s: %w", uid, err)
	}
	n.mu.Lock()
	delete(n.reserved, uid)
	n.mu.Unlock()
	return nil
}

func (n *Network) unmap(which func(portEntry) bool) error {
	n.mapping.Lock()
	defer n.mapping.Unlock()
	maps.DeleteFunc(n.mapped, func(_ portKey, e portEntry) bool { return which(e) })
	return inNetNS(n.hostNS, func() error {
		had, err := n.fw.read()
		if err != nil {
			return err
		}
		maps.DeleteFunc(had, func(_ portKey, e portEntry) bool { return !which(e) })
		if err := n.fw.change(had, nil); err != nil {
			return err
		}
		return n.forgetFlows(had, flowsTo)
	})
}

// Reconcile makes the kernel and the file of addresses agree with the pods that
// exist: whatever belongs to others is dropped, missing addresses and host ports
// of those present are taken in. Call it once after [Open], before anything else.
// It goes on after a problem and returns all of them.
func (n *Network) Reconcile(ctx context.Context, present map[string]Held) error {
	var problems []error
	n.mu.Lock()
	for _, uid := range n.leases.uids() {
		if _, is := present[uid]; !is {
			problems = append(problems, n.leases.release(uid))
		}
	}
	wanted := ports{}
	for _, uid := range slices.Sorted(maps.Keys(present)) {
		held := present[uid]
		if len(held.Addrs) > 0 {
			problems = append(problems, n.leases.adopt(uid, held.Addrs))
		}
		entries, err := portsOf(uid, normalized(held.Ports), held.Addrs)
		problems = append(problems, err)
		maps.Copy(wanted, entries)
	}
	n.mu.Unlock()

	problems = append(problems,
		inNetNS(n.hostNS, func() error { return n.reconcilePorts(wanted) }),
		n.removeStrayLinks(present))
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("cannot bring the network in line with the pods that exist: %w", err)
	}
	return nil
}

func (n *Network) reconcilePorts(wanted ports) error {
	n.mapping.Lock()
	defer n.mapping.Unlock()
	n.mapped = maps.Clone(wanted)
	had, err := n.fw.read()
	if err != nil {
		return err
	}
	add := maps.Clone(wanted)
	for key, e := range had {
		if wanted[key] == e {
			delete(add, key)
			delete(had, key)
		}
	}
	if err := n.fw.change(had, add); err != nil {
		return fmt.Errorf("cannot correct host ports: %w", err)
	}
	return errors.Join(n.forgetFlows(had, flowsTo), n.forgetFlows(add, flowsPast))
}

// removeStrayLinks removes ports of the bridge that belong to no pod: something
// still holds their namespace, and their address is free to be handed out.
func (n *Network) removeStrayLinks(present map[string]Held) error {
	known := map[string]bool{}
	for uid := range present {
		known[hostLink(n.bridge, uid)] = true
	}
	links, err := n.nl.LinkList()
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	var problems []error
	for _, l := range links {
		if l.Attrs().MasterIndex == n.bridgeIndex && l.Type() == "veth" && !known[l.Attrs().Name] {
			problems = append(problems, n.deleteLink(l))
		}
	}
	return errors.Join(problems...)
}
