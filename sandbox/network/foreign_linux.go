package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// ForeignDrop is a chain of somebody else that drops what pods send or get.
type ForeignDrop struct {
	Chain string // as "ip filter/FORWARD", or "iptables-legacy filter/FORWARD"
	Who   string // Docker, ufw, firewalld, or empty
	Mend  string // the command that mends it

	// accept adds what is missing where an own accept wins; nil if nowhere.
	accept func() error
}

func (d ForeignDrop) String() string {
	if d.Who == "" {
		return "chain " + d.Chain
	}
	return d.Who + ", chain " + d.Chain
}

// Message says to the owner of a pod what it means and what mends it.
func (d ForeignDrop) Message() string {
	return fmt.Sprintf("%s drops forwarded packets: pods may reach neither the outside nor, with br_netfilter, each other, and their host ports may not answer; mend it with: %s", d, d.Mend)
}

// Passable tells whether an agent can add an accept that wins.
func (d ForeignDrop) Passable() bool { return d.accept != nil }

// CheckNFTables tells why nftables cannot be used, in the calling thread's network
// namespace.
func CheckNFTables() error {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTables()
	}
	return err
}

// lets says which packets a firewall lets through on purpose, by the bridge they
// come from or go to.
type lets struct{ in, out bool }

// accepted is a rule's comment, by which a user sees whose it is.
func accepted(bridge string) string { return "podd: pods of " + bridge }

// ForeignDrops returns the chains at the forward hook of the calling thread's
// network namespace that stand in the bridge's way: those whose policy is drop
// or whose last rule drops or rejects everything, nftables' and
// iptables-legacy's. A chain that leads to accepting rules for the bridge in
// both directions does not count. families are those of pods; none: the host's.
func ForeignDrops(bridge string, families ...Family) ([]ForeignDrop, error) {
	if len(families) == 0 {
		if families = []Family{IPv4}; hasIPv6() {
			families = append(families, IPv6)
		}
	}
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot reach nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables chains: %w", err)
	}
	var uplinks []string
	if bridged, err := readSysctl("bridge/bridge-nf-call-iptables"); err != nil || bridged == "0" {
		if uplinks, err = uplinksHere(); err != nil {
			return nil, err
		}
	}
	var out []ForeignDrop
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || !routes(ch.Table.Family, families) ||
			ch.Table.Name == tableName(bridge) {
			continue
		}
		w := chainWalk{c: c, chains: chains, table: ch.Table, bridge: bridge, uplinks: uplinks}
		dropsAtEnd, err := w.walk(ch.Name)
		if errors.Is(err, unix.ENOENT) {
			continue // changed meanwhile: whoever did is told of anew
		}
		if err != nil {
			return nil, err
		}
		if dropsAtEnd || ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			if d, stands := w.describe(ch); stands {
				out = append(out, d)
			}
		}
	}
	legacy, err := legacyDrops(bridge, families)
	return append(out, legacy...), err
}

func tableName(bridge string) string { return "podd-" + bridge }

func routes(f nftables.TableFamily, families []Family) bool {
	return f == nftables.TableFamilyINet ||
		f == nftables.TableFamilyIPv4 && slices.Contains(families, IPv4) ||
		f == nftables.TableFamilyIPv6 && slices.Contains(families, IPv6)
}

// chainWalk reads a base chain and those it leads to.
type chainWalk struct {
	c      *nftables.Conn
	chains []*nftables.Chain
	table  *nftables.Table
	bridge string
	// uplinks are the links with a default route; none where what pods send each
	// other passes the same rules.
	uplinks []string
	seen    []string
	lets    lets
}

func (w *chainWalk) find(name string) *nftables.Chain {
	i := slices.IndexFunc(w.chains, func(o *nftables.Chain) bool {
		return o.Name == name && o.Table.Name == w.table.Name && o.Table.Family == w.table.Family
	})
	if i < 0 {
		return nil
	}
	return w.chains[i]
}

// walk notes what the rules let through, and tells whether the last one of the
// chain drops everything.
func (w *chainWalk) walk(name string) (dropsAtEnd bool, err error) {
	ch := w.find(name)
	if ch == nil || slices.Contains(w.seen, name) {
		return false, nil
	}
	w.seen = append(w.seen, name)
	rules, err := w.c.GetRules(ch.Table, ch)
	if err != nil {
		return false, fmt.Errorf("cannot read the rules of nftables chain %s: %w", name, err)
	}
	for i, r := range rules {
		names, next, lets, err := w.read(r.Exprs)
		if err != nil {
			return false, err
		}
		if lets {
			w.lets.in, w.lets.out = w.lets.in || names.in, w.lets.out || names.out
		}
		for _, n := range next {
			if _, err := w.walk(n); err != nil {
				return false, err
			}
		}
		dropsAtEnd = i == len(rules)-1 && dropsAll(r.Exprs)
	}
	return dropsAtEnd, nil
}

// read tells where a rule names the bridge, to which chains it leads, and
// whether it accepts or leads anywhere. What comes from another interface leads
// nowhere. What goes to an uplink, whoever sends it, pods may send too: so does
// firewalld between the interfaces of a zone.
func (w *chainWalk) read(exprs []expr.Any) (names lets, next []string, accepts bool, err error) {
	var key expr.MetaKey // what was loaded last
	uplink := false
	note := func() {
		names.in, names.out = names.in || key == expr.MetaKeyIIFNAME, names.out || key == expr.MetaKeyOIFNAME
	}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			key = e.Key
		case *expr.Cmp:
			switch named := namesLink(e.Data, w.bridge); {
			case e.Op != expr.CmpOpEq:
			case named:
				note()
			case key == expr.MetaKeyIIFNAME:
				return lets{}, nil, false, nil
			case key == expr.MetaKeyOIFNAME:
				uplink = slices.Contains(w.uplinks, unix.ByteSliceToString(e.Data))
			}
		case *expr.Lookup:
			if e.Invert || key != expr.MetaKeyIIFNAME && key != expr.MetaKeyOIFNAME {
				continue
			}
			elements, err := w.c.GetSetElements(&nftables.Set{Table: w.table, Name: e.SetName})
			if err != nil {
				return names, nil, false, fmt.Errorf("cannot read the nftables set %s: %w", e.SetName, err)
			}
			for _, el := range elements {
				if !namesLink(el.Key, w.bridge) {
					continue
				}
				note()
				if e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT {
					v := verdictIn(el.Val)
					accepts = accepts || letting(v.Kind)
					next = append(next, v.Chain)
				}
			}
		case *expr.Verdict:
			accepts = accepts || letting(e.Kind)
			next = append(next, e.Chain)
			names.in = names.in || uplink && e.Kind == expr.VerdictAccept
		}
	}
	return names, next, accepts, nil
}

// namesLink tells whether what is compared with an interface's name is that of
// the bridge, or its beginning: the form of "podd*".
func namesLink(data []byte, link string) bool {
	if len(data) == 0 {
		return false
	}
	name, _, whole := bytes.Cut(data, []byte{0})
	if whole {
		return string(name) == link
	}
	return strings.HasPrefix(link, string(name))
}

// verdictIn reads the verdict of a map's element, which the library leaves as
// the kernel's attributes.
func verdictIn(attributes []byte) (v expr.Verdict) {
	for kind, value := range attributesIn(attributes) {
		switch {
		case kind == unix.NFTA_VERDICT_CODE && len(value) == 4:
			v.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(value)))
		case kind == unix.NFTA_VERDICT_CHAIN:
			v.Chain = unix.ByteSliceToString(value)
		}
	}
	return v
}

func letting(k expr.VerdictKind) bool {
	return k == expr.VerdictAccept || k == expr.VerdictGoto || k == expr.VerdictJump
}

// dropsAll tells whether a rule drops or rejects whatever it sees.
func dropsAll(exprs []expr.Any) bool {
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		case *expr.Reject:
			return true
		case *expr.Target: // iptables-nft's
			return e.Name == "REJECT"
		default:
			return false
		}
	}
	return false
}

// describe names the chain's owner and what mends it. stands is false where the
// chain lets the bridge through.
func (w *chainWalk) describe(ch *nftables.Chain) (d ForeignDrop, stands bool) {
	fam := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[ch.Table.Family]
	d.Chain = fmt.Sprintf("%s %s/%s", fam, ch.Table.Name, ch.Name)
	switch {
	case ch.Table.Name == "firewalld":
		// It accepts by the zone that packets come from; answers, and what was
		// sent on to a host port, it accepts before.
		if w.lets.in {
			return d, false
		}
		d.Who = "firewalld"
		d.Mend = fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", w.bridge)
		return d, true
	case w.lets.in && w.lets.out:
		return d, false
	case fam != "inet" && ch.Table.Name == "filter" && ch.Name == "FORWARD": // iptables-nft keeps its rules there
		program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[fam]
		into := d.ownedBy(program, w.bridge, func(name string) bool { return w.find(name) != nil })
		d.accept = func() error { return acceptIn(w.find(into), w.bridge, w.lets) }
	default:
		d.Mend = fmt.Sprintf("nft 'insert rule %[1]s %[2]s %[3]s iifname %[4]s accept; insert rule %[1]s %[2]s %[3]s oifname %[4]s accept'",
			fam, ch.Table.Name, ch.Name, w.bridge)
	}
	return d, true
}

// ownedBy says whose the chain FORWARD of an iptables program is, by the chains
// beside it, and returns the chain into which an accept goes: at the top of
// FORWARD, or of the one that Docker keeps for others, it ends all of them.
func (d *ForeignDrop) ownedBy(program, bridge string, beside func(chain string) bool) (into string) {
	switch into = "FORWARD"; {
	case beside("DOCKER-USER"):
		d.Who, into = "Docker", "DOCKER-USER"
	case beside("ufw-before-forward") || beside("ufw6-before-forward"):
		d.Who = "ufw"
		d.Mend = fmt.Sprintf("ufw route allow in on %[1]s && ufw route allow out on %[1]s", bridge)
		return into
	}
	d.Mend = fmt.Sprintf("%[1]s -I %[2]s -i %[3]s -j ACCEPT && %[1]s -I %[2]s -o %[3]s -j ACCEPT", program, into, bridge)
	return into
}

// acceptIn puts rules at the top of a chain for the directions that are not let
// through, in the form that iptables-nft understands and lists.
func acceptIn(ch *nftables.Chain, bridge string, had lets) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	add := func(key expr.MetaKey) {
		c.InsertRule(&nftables.Rule{Table: ch.Table, Chain: ch,
			Exprs:    append(iface(key, bridge, expr.CmpOpEq), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}),
			UserData: userdata.AppendString(nil, userdata.TypeComment, accepted(bridge))})
	}
	if !had.out {
		add(expr.MetaKeyOIFNAME)
	}
	if !had.in {
		add(expr.MetaKeyIIFNAME)
	}
	return c.Flush()
}

// passForeign adds an accept for the bridge where that wins over a foreign drop,
// and keeps and logs what remains. An accept here lets nothing in that the own
// table drops: every base chain has its say. It runs in the host's namespace.
// changed tells whether what remains is other than it was.
func (n *Network) passForeign() (changed bool) {
	found, err := ForeignDrops(n.bridge, n.Families()...)
	if err != nil {
		n.log.Error(err, "cannot tell whether another firewall drops what pods send")
	}
	var remain []ForeignDrop
	for _, d := range found {
		if d.accept != nil {
			err := d.accept()
			if err == nil {
				n.log.Info("another firewall drops forwarded packets; added an accept for pods", "firewall", d.String())
				continue
			}
			n.log.V(1).Info("cannot add an accept for pods", "firewall", d.String(), "error", err.Error())
		}
		remain = append(remain, d)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	same := slices.EqualFunc(n.drops, remain, func(a, b ForeignDrop) bool { return a.Message() == b.Message() })
	if same {
		return false
	}
	for _, d := range remain {
		n.log.Info("another firewall drops forwarded packets: pods may not reach the outside; mend it with: "+d.Mend, "firewall", d.String())
	}
	if len(remain) == 0 {
		n.log.Info("no other firewall drops forwarded packets any more")
	}
	n.drops = remain
	return true
}

// Drops returns the firewalls that stood in the way of pods when they were last
// looked at, and that could not be passed.
func (n *Network) Drops() []ForeignDrop {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.drops
}
