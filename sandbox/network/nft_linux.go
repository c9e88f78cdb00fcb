package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// firewall is the nftables table of one bridge. Its rules are of constant size
// and change only with the agent; pods are elements of its maps, each with the
// pod's UID as comment. Its methods run in the host's namespace.
type firewall struct {
	table *nftables.Table
	any   map[Family]*nftables.Set // proto . port → pod address . port
	one   map[Family]*nftables.Set // host address . proto . port → pod address . port
}

func newFirewall(bridge string, prefixes []netip.Prefix) *firewall {
	f := &firewall{
		table: &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName(bridge)},
		any:   map[Family]*nftables.Set{},
		one:   map[Family]*nftables.Set{},
	}
	for _, p := range prefixes {
		fam, addrType := familyOf(p.Addr()), nftables.TypeIPAddr
		if fam == IPv6 {
			addrType = nftables.TypeIP6Addr
		}
		value := nftables.MustConcatSetType(addrType, nftables.TypeInetService)
		f.any[fam] = &nftables.Set{Table: f.table, Name: fmt.Sprintf("host-ports%d", fam), IsMap: true,
			KeyType:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
			DataType: value}
		f.one[fam] = &nftables.Set{Table: f.table, Name: fmt.Sprintf("host-ip-ports%d", fam), IsMap: true,
			KeyType:  nftables.MustConcatSetType(addrType, nftables.TypeInetProto, nftables.TypeInetService),
			DataType: value}
	}
	return f
}

// ensure makes table and maps if they are missing and puts the rules of today
// in place of whatever rules the table has, in one transaction: no packet sees
// a state between. Map elements stay.
func (f *firewall) ensure(bridge string, prefixes []netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	c.AddTable(f.table)
	c.FlushTable(f.table)
	for _, p := range prefixes {
		fam := familyOf(p.Addr())
		for _, set := range []*nftables.Set{f.any[fam], f.one[fam]} {
			if err := c.AddSet(set, nil); err != nil {
				return fmt.Errorf("cannot set up nftables map %s: %w", set.Name, err)
			}
		}
	}
	f.ruleset(c, bridge, prefixes)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot set up nftables table %s: %w", f.table.Name, err)
	}
	return nil
}

// ruleset adds the chains and their rules. In the notation of nft(8), for the
// bridge podd0 with 10.244.0.0/24, the same for IPv6:
//
//	chain guard { type filter hook prerouting priority raw
//	    iifname podd0 ip daddr 127.0.0.0/8 drop
//	    iifname podd0 ip saddr 127.0.0.0/8 drop
//	}
//	chain from-outside { type nat hook prerouting priority dstnat
//	    fib daddr type local jump host-ports
//	}
//	chain from-host { type nat hook output priority dstnat
//	    fib daddr type local jump host-ports
//	}
//	chain host-ports {
//	    dnat ip to ip daddr . meta l4proto . th dport map @host-ip-ports4
//	    dnat ip to meta l4proto . th dport map @host-ports4
//	    ip6 daddr ::1 return
//	}
//	chain leaving { type nat hook postrouting priority srcnat
//	    ip saddr 10.244.0.0/24 oifname != podd0 masquerade
//	    ip saddr 10.244.0.0/24 oifname podd0 ct status dnat masquerade
//	    ip saddr 127.0.0.0/8 oifname podd0 ct status dnat masquerade
//	}
//	chain forward { type filter hook forward priority filter
//	    iifname podd0 accept
//	    oifname podd0 ct state established,related accept
//	    oifname podd0 ct status dnat accept
//	    oifname podd0 drop
//	}
func (f *firewall) ruleset(c *nftables.Conn, bridge string, prefixes []netip.Prefix) {
	accept := nftables.ChainPolicyAccept
	base := func(name string, t nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: f.table, Name: name, Type: t, Hooknum: hook, Priority: prio, Policy: &accept})
	}
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: f.table, Chain: chain, Exprs: all})
	}
	var (
		loopback = netip.MustParsePrefix("127.0.0.0/8")
		fromPods = iface(expr.MetaKeyIIFNAME, bridge, expr.CmpOpEq)
		toPods   = iface(expr.MetaKeyOIFNAME, bridge, expr.CmpOpEq)
		dnatted  = ct(expr.CtKeySTATUS, ipsDstNAT)
	)

	// route_localnet, which host ports by 127.0.0.1 need, would let a pod that
	// builds its own packets reach what listens on the host's loopback.
	guard := base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	rule(guard, fromPods, address(destination, loopback), verdict(expr.VerdictDrop))
	rule(guard, fromPods, address(source, loopback), verdict(expr.VerdictDrop))

	hostPorts := c.AddChain(&nftables.Chain{Table: f.table, Name: "host-ports"})
	for _, p := range prefixes {
		fam := familyOf(p.Addr())
		if fam == IPv6 {
			// Nothing is ever routed from ::1. Left alone, such a connection is
			// refused at once, and programs that try "localhost" go on to 127.0.0.1.
			rule(hostPorts, address(destination, netip.MustParsePrefix("::1/128")), verdict(expr.VerdictReturn))
		}
		rule(hostPorts, destinationNAT(fam, f.one[fam], true))
		rule(hostPorts, destinationNAT(fam, f.any[fam], false))
	}
	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: hostPorts.Name}}
	rule(base("from-outside", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), toHost(), jump)
	rule(base("from-host", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest), toHost(), jump)

	leaving := base("leaving", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, p := range prefixes {
		rule(leaving, address(source, p), iface(expr.MetaKeyOIFNAME, bridge, expr.CmpOpNeq), masquerade())
		// A pod that answers another pod, or itself, would do so directly, past
		// the translation: the asker must look like the bridge.
		rule(leaving, address(source, p), toPods, dnatted, masquerade())
	}
	if hasFamily(prefixes, IPv4) {
		rule(leaving, address(source, loopback), toPods, dnatted, masquerade())
	}

	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	rule(forward, fromPods, verdict(expr.VerdictAccept))
	rule(forward, toPods, ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	rule(forward, toPods, dnatted, verdict(expr.VerdictAccept))
	rule(forward, toPods, verdict(expr.VerdictDrop))
}

// ipsDstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ipsDstNAT = 1 << 5

// Registers of 4 bytes; a key or value of several fields lies in consecutive
// ones, each field beginning a new one. NFT_REG_1 is the same place as reg32.
const reg32 = unix.NFT_REG32_00

const (
	source      = true
	destination = false
)

func iface(key expr.MetaKey, name string, op expr.CmpOp) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func family(f Family) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if f == IPv6 {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

// addressField loads a packet's source or destination address.
func addressField(f Family, src bool, register uint32) *expr.Payload {
	p := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	switch {
	case f == IPv4 && src:
		p.Offset = 12
	case f == IPv6 && src:
		p.Offset, p.Len = 8, 16
	case f == IPv6:
		p.Offset, p.Len = 24, 16
	}
	return p
}

func address(src bool, p netip.Prefix) []expr.Any {
	f := familyOf(p.Addr())
	n := ipNet(p)
	load := addressField(f, src, 1)
	return append(family(f), load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: load.Len, Mask: n.Mask, Xor: make([]byte, load.Len)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: n.IP})
}

// ct matches when one of the bits is set in a conntrack value.
func ct(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// toHost matches what is addressed to the host itself, whatever its addresses
// are by now.
func toHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// destinationNAT looks the packet up in a map and sends it where the map says.
// Without an element the rule does nothing.
func destinationNAT(f Family, set *nftables.Set, byHostIP bool) []expr.Any {
	exprs, next, addrRegs := family(f), uint32(reg32), uint32(1)
	nfproto := uint32(unix.NFPROTO_IPV4)
	if f == IPv6 {
		addrRegs, nfproto = 4, unix.NFPROTO_IPV6
	}
	if byHostIP {
		exprs = append(exprs, addressField(f, destination, next))
		next += addrRegs
	}
	return append(exprs,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg32, DestRegister: reg32, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: nfproto, RegAddrMin: reg32, RegProtoMin: reg32 + addrRegs})
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// read returns every host port in the kernel.
func (f *firewall) read() (ports, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot reach nftables: %w", err)
	}
	out := ports{}
	for _, sets := range []map[Family]*nftables.Set{f.any, f.one} {
		for fam, set := range sets {
			elements, err := c.GetSetElements(set)
			if err != nil {
				return nil, fmt.Errorf("cannot read host ports from nftables map %s: %w", set.Name, err)
			}
			for _, e := range elements {
				key, to, ok := decodeElement(fam, e.Key, e.Val)
				if !ok {
					return nil, fmt.Errorf("cannot understand an element of nftables map %s: key %x, value %x", set.Name, e.Key, e.Val)
				}
				out[key] = portEntry{to, e.Comment}
			}
		}
	}
	return out, nil
}

// change removes and adds elements in one transaction. Removing one that is
// missing, or adding one that is there with another value, fails as a whole.
func (f *firewall) change(remove, add ports) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	for key, e := range remove {
		if err := c.SetDeleteElements(f.set(key), []nftables.SetElement{{Key: encodeKey(key), Val: encodeAddrPort(e.to)}}); err != nil {
			return fmt.Errorf("cannot remove host port: %w", err)
		}
	}
	for key, e := range add {
		element := nftables.SetElement{Key: encodeKey(key), Val: encodeAddrPort(e.to), Comment: e.uid}
		if err := c.SetAddElements(f.set(key), []nftables.SetElement{element}); err != nil {
			return fmt.Errorf("cannot add host port: %w", err)
		}
	}
	if len(remove)+len(add) == 0 {
		return nil
	}
	return c.Flush()
}

func (f *firewall) set(k portKey) *nftables.Set {
	if k.hostIP.IsValid() {
		return f.one[k.family]
	}
	return f.any[k.family]
}

// encodeKey lays a key out as the kernel's registers hold it: each field padded
// to 4 bytes.
func encodeKey(k portKey) []byte {
	var b []byte
	if k.hostIP.IsValid() {
		b = k.hostIP.AsSlice()
	}
	b = append(b, k.proto, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(b, k.port), 0, 0)
}

func encodeAddrPort(a netip.AddrPort) []byte {
	return append(binary.BigEndian.AppendUint16(a.Addr().AsSlice(), a.Port()), 0, 0)
}

// decodeElement is the inverse of encodeKey and encodeAddrPort.
func decodeElement(fam Family, key, val []byte) (portKey, netip.AddrPort, bool) {
	addrLen := 4
	if fam == IPv6 {
		addrLen = 16
	}
	k := portKey{family: fam}
	if len(key) == addrLen+8 {
		k.hostIP, _ = netip.AddrFromSlice(key[:addrLen])
		key = key[addrLen:]
	}
	if len(key) != 8 || len(val) != addrLen+4 {
		return portKey{}, netip.AddrPort{}, false
	}
	k.proto, k.port = key[0], binary.BigEndian.Uint16(key[4:])
	to, _ := netip.AddrFromSlice(val[:addrLen])
	return k, netip.AddrPortFrom(to, binary.BigEndian.Uint16(val[addrLen:])), true
}

// missingOrOther tells whether change failed because the kernel's elements are
// not what the caller believed.
func missingOrOther(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY)
}
