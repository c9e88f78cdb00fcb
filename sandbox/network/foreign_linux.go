package network

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// ForeignDrop is a chain of somebody else that drops what pods send.
type ForeignDrop struct {
	Chain string // as "ip filter/FORWARD"
	Who   string // Docker, ufw, firewalld, or empty
	Mend  string // the command that mends it

	into *nftables.Chain // where an own accept wins; nil if nowhere
}

func (d ForeignDrop) String() string {
	if d.Who == "" {
		return "chain " + d.Chain
	}
	return d.Who + ", chain " + d.Chain
}

// ForeignDrops returns the chains at the forward hook of the calling thread's
// network namespace that stand in the bridge's way: those whose policy is drop,
// and firewalld's, which rejects at its end. A chain whose table has a rule for
// the bridge does not count. Tables of iptables-legacy are not seen by nftables.
func ForeignDrops(bridge string) ([]ForeignDrop, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot reach nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables chains: %w", err)
	}
	var out []ForeignDrop
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || !routed(ch.Table.Family) {
			continue
		}
		drops := ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		if !drops && ch.Table.Name != "firewalld" {
			continue
		}
		lets, err := letsThrough(c, chains, ch.Table, bridge)
		if err != nil {
			return nil, err
		}
		if !lets {
			out = append(out, describeDrop(chains, ch, bridge))
		}
	}
	return out, nil
}

func routed(f nftables.TableFamily) bool {
	return f == nftables.TableFamilyINet || f == nftables.TableFamilyIPv4 || f == nftables.TableFamilyIPv6
}

func describeDrop(chains []*nftables.Chain, ch *nftables.Chain, bridge string) ForeignDrop {
	find := func(name string) *nftables.Chain {
		i := slices.IndexFunc(chains, func(o *nftables.Chain) bool {
			return o.Name == name && o.Table.Name == ch.Table.Name && o.Table.Family == ch.Table.Family
		})
		if i < 0 {
			return nil
		}
		return chains[i]
	}
	fam := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[ch.Table.Family]
	d := ForeignDrop{Chain: fmt.Sprintf("%s %s/%s", fam, ch.Table.Name, ch.Name)}
	// iptables-nft keeps its rules in these; an accept at the top of the chain,
	// or of the one that Docker keeps for others, ends the whole chain.
	byIptables := fam != "inet" && ch.Table.Name == "filter" && ch.Name == "FORWARD"
	ufwChain := map[string]string{"ip": "ufw-before-forward", "ip6": "ufw6-before-forward"}[fam]
	user := find("DOCKER-USER")
	switch {
	case ch.Table.Name == "firewalld":
		d.Who = "firewalld"
		d.Mend = fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", bridge)
	case byIptables && user != nil:
		d.Who, d.into = "Docker", user
		d.Mend = fmt.Sprintf("iptables -I DOCKER-USER -i %[1]s -j ACCEPT && iptables -I DOCKER-USER -o %[1]s -j ACCEPT", bridge)
	case byIptables && find(ufwChain) != nil:
		d.Who, d.into = "ufw", ch
		d.Mend = fmt.Sprintf("ufw route allow in on %[1]s && ufw route allow out on %[1]s", bridge)
	case byIptables:
		d.into = ch
		program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[fam]
		d.Mend = fmt.Sprintf("%[1]s -I FORWARD -i %[2]s -j ACCEPT && %[1]s -I FORWARD -o %[2]s -j ACCEPT", program, bridge)
	default:
		d.Mend = fmt.Sprintf("nft 'insert rule %[1]s %[2]s %[3]s iifname %[4]s accept; insert rule %[1]s %[2]s %[3]s oifname %[4]s accept'",
			fam, ch.Table.Name, ch.Name, bridge)
	}
	return d
}

// letsThrough tells whether a rule of the table names the bridge and does not
// itself drop.
func letsThrough(c *nftables.Conn, chains []*nftables.Chain, table *nftables.Table, bridge string) (bool, error) {
	name := append([]byte(bridge), 0)
	for _, ch := range chains {
		if ch.Table.Name != table.Name || ch.Table.Family != table.Family {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return false, fmt.Errorf("cannot read the rules of nftables chain %s: %w", ch.Name, err)
		}
		for _, r := range rules {
			names, lets := false, false
			for _, e := range r.Exprs {
				switch e := e.(type) {
				case *expr.Cmp:
					names = names || bytes.HasPrefix(append(bytes.Clone(e.Data), 0), name)
				case *expr.Verdict:
					lets = e.Kind == expr.VerdictAccept || e.Kind == expr.VerdictGoto || e.Kind == expr.VerdictJump
				}
			}
			if names && lets {
				return true, nil
			}
		}
	}
	return false, nil
}

// passForeign adds an accept for the bridge where that wins over a foreign drop,
// and logs what remains. An accept here lets nothing in that the own table
// drops: every base chain has its say. It runs in the host's namespace.
func (n *Network) passForeign() {
	drops, err := ForeignDrops(n.bridge)
	if err != nil {
		n.log.Error(err, "cannot tell whether another firewall drops what pods send")
		return
	}
	for _, d := range drops {
		if d.into != nil {
			if err = acceptIn(d.into, n.bridge); err == nil {
				n.log.Info("another firewall drops forwarded packets; added an accept for pods", "firewall", d.String(), "chain", d.into.Name)
				continue
			}
		}
		n.log.Info("another firewall drops forwarded packets: pods may not reach the outside; mend it with: "+d.Mend, "firewall", d.String())
	}
}

// acceptIn puts two rules at the top of a chain, in the form that iptables-nft
// understands and lists.
func acceptIn(ch *nftables.Chain, bridge string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, key := range []expr.MetaKey{expr.MetaKeyOIFNAME, expr.MetaKeyIIFNAME} {
		c.InsertRule(&nftables.Rule{Table: ch.Table, Chain: ch,
			Exprs:    append(iface(key, bridge, expr.CmpOpEq), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}),
			UserData: userdata.AppendString(nil, userdata.TypeComment, "podd: pods of "+bridge)})
	}
	return c.Flush()
}
