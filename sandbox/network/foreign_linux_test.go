package network

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"podd/internal/kerneltest"
)

// Rules that the programs of the names left on Debian 12, recorded with
// iptables-save and nft list: testdata/firewalls.
const (
	ownRules = `table inet site {
	chain through { type filter hook forward priority filter; policy drop; ct state established,related accept; }
}`
	// A rule for the bridge that has nothing to do with what is forwarded.
	ownRulesElsewhere = `table inet site {
	chain entry { type filter hook input priority filter; iifname "podd0" accept; oifname "podd0" accept; }
	chain through { type filter hook forward priority filter; policy drop; }
}`
	ownRulesRejectAtTheEnd = `table inet site {
	chain through { type filter hook forward priority filter; ct state established accept; counter reject; }
}`
	ownRulesLetThrough = `table inet site {
	set inside { type ifname; elements = { "lo", "podd0" } }
	chain through { type filter hook forward priority filter; policy drop; iifname @inside accept; oifname vmap { "podd0" : jump pods }; }
	chain pods { accept; }
}`
	ownRulesByPattern = `table inet site {
	chain through { type filter hook forward priority filter; policy drop; iifname "pod*" accept; oifname "podd*" accept; }
}`
	plainDrop  = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
	rejectLast = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n"
	byPattern  = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i podd+ -j ACCEPT\n-A FORWARD -o podd+ -j ACCEPT\nCOMMIT\n"
	elsewhere  = "*filter\n:FORWARD DROP [0:0]\n-A INPUT -i podd0 -j ACCEPT\n-A FORWARD ! -i podd0 -j ACCEPT\n-A FORWARD ! -o podd0 -j ACCEPT\nCOMMIT\n"
)

func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/firewalls/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// run runs a program in the world's host, with what it reads.
func run(t *testing.T, w *world, stdin string, args ...string) (out string) {
	t.Helper()
	path, err := exec.LookPath(args[0])
	kerneltest.Need(t, err == nil, args[0]+" (Debian packages nftables and iptables)")
	in(t, w.host, func(*netlink.Handle) error {
		cmd := exec.Command(path, args[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		b, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%v: %w\n%s", args, err, b)
		}
		out = string(b)
		return err
	})
	return out
}

func nft(t *testing.T, w *world, rules string) string { return run(t, w, rules, "nft", "-f", "-") }

func foreignDrops(t *testing.T, w *world) (out []ForeignDrop) {
	t.Helper()
	in(t, w.host, func(*netlink.Handle) (err error) { out, err = ForeignDrops("podd0"); return err })
	return out
}

// Firewalls as they are on users' machines, put there by the real programs. In
// each, a pod reaches the outside and another pod and is reached by its host
// port: at once where an own accept wins, otherwise after the command that is
// told was followed.
func TestForeignFirewalls(t *testing.T) {
	const (
		iptables  = "iptables-nft-restore"
		iptables6 = "ip6tables-nft-restore"
		legacy    = "iptables-legacy-restore"
		legacy6   = "ip6tables-legacy-restore"
		nftables  = "nft -f -"
	)
	docker, ufw, ufw6 := recorded(t, "docker.rules"), recorded(t, "ufw.rules"), recorded(t, "ufw.rules6")
	for _, test := range []struct {
		name     string
		programs []string // which load the rules
		rules    []string
		who      string // who drops, before the agent is there; empty: nobody
		mend     string // what is told, where no own accept wins
		mended   string // nft's form of it
	}{
		{"Docker", []string{iptables}, []string{docker}, "Docker, chain ip filter/FORWARD", "", ""},
		{"Docker, also IPv6", []string{iptables, iptables6}, []string{docker, docker}, "Docker, chain ip6 filter/FORWARD", "", ""},
		{"Docker, legacy", []string{legacy}, []string{docker}, "Docker, chain iptables-legacy filter/FORWARD", "", ""},
		{"ufw", []string{iptables, iptables6}, []string{ufw, ufw6}, "ufw, chain ip6 filter/FORWARD", "", ""},
		{"ufw, legacy", []string{legacy, legacy6}, []string{ufw, ufw6}, "ufw, chain ip6tables-legacy filter/FORWARD", "", ""},
		{"Docker legacy, ufw nftables", []string{legacy, iptables}, []string{docker, ufw}, "ufw, chain ip filter/FORWARD", "", ""},
		{"policy drop", []string{iptables}, []string{plainDrop}, "chain ip filter/FORWARD", "", ""},
		{"policy drop, legacy", []string{legacy, legacy6}, []string{plainDrop, plainDrop}, "chain iptables-legacy filter/FORWARD", "", ""},
		{"reject as the last rule", []string{iptables}, []string{rejectLast}, "chain ip filter/FORWARD", "", ""},
		{"reject as the last rule, legacy", []string{legacy}, []string{rejectLast}, "chain iptables-legacy filter/FORWARD", "", ""},
		{"rules for the bridge elsewhere", []string{iptables}, []string{elsewhere}, "chain ip filter/FORWARD", "", ""},
		{"rules for the bridge elsewhere, legacy", []string{legacy}, []string{elsewhere}, "chain iptables-legacy filter/FORWARD", "", ""},
		{"let through by a pattern", []string{iptables}, []string{byPattern}, "", "", ""},
		{"let through by a pattern, legacy", []string{legacy}, []string{byPattern}, "", "", ""},
		{"firewalld", []string{nftables}, []string{recorded(t, "firewalld.nft")}, "firewalld, chain inet firewalld/filter_FORWARD",
			"firewall-cmd --permanent --zone=trusted --add-interface=podd0",
			"insert rule inet firewalld filter_FORWARD_ZONES iifname podd0 accept"},
		{"own", []string{nftables}, []string{ownRules}, "chain inet site/through", "insert rule inet site through iifname podd0 accept",
			"insert rule inet site through iifname podd0 accept; insert rule inet site through oifname podd0 accept"},
		{"own, with rules elsewhere", []string{nftables}, []string{ownRulesElsewhere}, "chain inet site/through", "insert rule inet site through iifname podd0 accept",
			"insert rule inet site through iifname podd0 accept; insert rule inet site through oifname podd0 accept"},
		{"own, reject as the last rule", []string{nftables}, []string{ownRulesRejectAtTheEnd}, "chain inet site/through", "insert rule inet site through iifname podd0 accept",
			"insert rule inet site through iifname podd0 accept; insert rule inet site through oifname podd0 accept"},
		{"own, let through", []string{nftables}, []string{ownRulesLetThrough}, "", "", ""},
		{"own, let through by a pattern", []string{nftables}, []string{ownRulesByPattern}, "", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			for i, p := range test.programs {
				run(t, w, test.rules[i], strings.Fields(p)...)
			}
			var found []string
			for _, d := range foreignDrops(t, w) {
				found = append(found, d.String())
			}
			if test.who == "" && found != nil || !strings.Contains(strings.Join(found, "; "), test.who) {
				t.Errorf("found %q, want %q", found, test.who)
			}
			serve(t, w.outside, ":81", "outside")
			n := w.open(t)
			a, b := startPod(t, n, "a"), startPod(t, n, "b")
			if err := n.MapPorts(t.Context(), "a", []PortMapping{{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}}, a.addrs); err != nil {
				t.Fatal(err)
			}
			if test.mend != "" {
				wantNoAnswer(t, a.ns, "tcp", hostPort(outsideAddr4.Addr(), 81))
				if bridged(t, w) {
					wantNoAnswer(t, a.ns, "tcp", hostPort(b.addr4(), 80))
				}
				if d := n.Drops(); len(d) != 1 || !strings.Contains(d[0].Message(), test.mend) {
					t.Errorf("told %q, want the command %q", d, test.mend)
				}
				nft(t, w, test.mended)
			} else if d := n.Drops(); len(d) > 0 {
				t.Errorf("not passed: %v", d)
			}
			for _, to := range []string{hostPort(outsideAddr4.Addr(), 81), hostPort(outsideAddr6.Addr(), 81)} {
				wantAnswer(t, a.ns, "tcp", to, "outside from")
			}
			wantAnswer(t, b.ns, "tcp", hostPort(a.addr4(), 80), "a from "+b.addr4().String())
			wantAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8080), "a from")
			if d := foreignDrops(t, w); len(d) > 0 {
				t.Errorf("passed or mended, and still told: %v", d)
			}
			before := rules(t, w)
			w.open(t) // an agent that starts again adds nothing
			if after := rules(t, w); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// firewalld lets the interfaces of a zone reach each other, and the bridge is in
// the uplink's zone as long as nobody says otherwise. It is in the way only where
// what pods send each other passes there too.
func TestFirewalldThatKnowsTheUplink(t *testing.T) {
	eachBridgeFilter(t, func(t *testing.T, w *world) {
		nft(t, w, recorded(t, "firewalld-uplink.nft"))
		serve(t, w.outside, ":81", "outside")
		n := w.open(t)
		a, b := startPod(t, n, "a"), startPod(t, n, "b")
		wantAnswer(t, a.ns, "tcp", hostPort(outsideAddr4.Addr(), 81), "outside from")
		switch d := n.Drops(); {
		case !bridged(t, w):
			wantAnswer(t, a.ns, "tcp", hostPort(b.addr4(), 80), "b from "+a.addr4().String())
			if len(d) > 0 {
				t.Errorf("told %v", d)
			}
		case len(d) != 1:
			t.Errorf("told %v, want firewalld", d)
		default:
			wantNoAnswer(t, a.ns, "tcp", hostPort(b.addr4(), 80))
		}
	})
}

// bridged tells whether the host's rules see what pods send each other.
func bridged(t *testing.T, w *world) bool {
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		return false
	}
	return sysctlIn(t, w.host, "bridge/bridge-nf-call-iptables") == "1"
}

// rules are all there are, without what counts packets and tells the time.
func rules(t *testing.T, w *world) string {
	var out []string
	legacy := run(t, w, "", "iptables-legacy-save") + run(t, w, "", "ip6tables-legacy-save")
	for line := range strings.Lines(legacy + run(t, w, "", "nft", "--stateless", "list", "ruleset")) {
		if !strings.HasPrefix(line, "#") {
			line, _, _ = strings.Cut(line, " [")
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// Where the program that changes iptables-legacy is not installed, the drop
// remains and is told. What iptables-legacy does not have is not made by looking.
func TestLegacyWithoutItsProgramIsTold(t *testing.T) {
	w := newWorld(t)
	foreignDrops(t, w)
	if names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err == nil {
		in(t, w.host, func(*netlink.Handle) error {
			names, err = os.ReadFile("/proc/thread-self/net/ip_tables_names")
			return err
		})
		if len(names) > 0 {
			t.Errorf("looking made the tables %q", names)
		}
	}
	run(t, w, plainDrop, "iptables-legacy-restore")
	defer func(l legacy) { legacyFamilies[IPv4] = l }(legacyFamilies[IPv4])
	l := legacyFamilies[IPv4]
	l.program = "no-such-iptables-legacy"
	legacyFamilies[IPv4] = l
	d := foreignDrops(t, w)
	if len(d) != 1 || !strings.Contains(d[0].Message(), "no-such-iptables-legacy -I FORWARD -i podd0 -j ACCEPT") || d[0].Passable() {
		t.Errorf("told %v", d)
	}
	if n := w.open(t); len(n.Drops()) != 1 {
		t.Errorf("the agent was told %v", n.Drops())
	}
}

// watching is a Network that is watched, and what it told.
type watching struct {
	*Network
	told chan []ForeignDrop
}

func watch(t *testing.T, w *world, change ...func(*Network)) *watching {
	t.Helper()
	n := &watching{w.open(t), make(chan []ForeignDrop, 100)}
	for _, f := range change {
		f(n.Network)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Watch(ctx, func(d []ForeignDrop) { n.told <- d }); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return n
}

func (n *watching) next(t *testing.T) []ForeignDrop {
	t.Helper()
	select {
	case d := <-n.told:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is told")
		return nil
	}
}

// eventually waits for what a watching Network does by itself.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// A firewall that starts, or is reloaded and so forgets the accept, after the
// agent: passed again without a restart of the agent.
func TestAFirewallThatIsReloadedIsPassedAgain(t *testing.T) {
	w := newWorld(t)
	n := watch(t, w)
	serve(t, w.outside, ":81", "outside")
	p := startPod(t, n.Network, "a")
	passed := func() bool { return strings.Count(run(t, w, "", "nft", "list", "ruleset"), accepted("podd0")) == 2 }
	run(t, w, recorded(t, "docker.rules"), "iptables-nft-restore")
	eventually(t, "Docker started, an accept is added", passed)
	wantAnswer(t, p.ns, "tcp", hostPort(outsideAddr4.Addr(), 81), "outside from")
	run(t, w, "", "iptables-nft", "-F", "DOCKER-USER")
	eventually(t, "DOCKER-USER was flushed, an accept is added", passed)
	run(t, w, recorded(t, "docker.rules"), "iptables-nft-restore")
	eventually(t, "Docker restarted, an accept is added", passed)
	wantAnswer(t, p.ns, "tcp", hostPort(outsideAddr4.Addr(), 81), "outside from")
	if len(n.told) > 0 {
		t.Errorf("told %v, although all was passed", <-n.told)
	}
}

// Who cannot be passed is told when it starts, and that it is gone.
func TestAFirewallThatStartsLaterIsTold(t *testing.T) {
	w := newWorld(t)
	n := watch(t, w)
	nft(t, w, recorded(t, "firewalld.nft"))
	if d := n.next(t); len(d) != 1 || d[0].Who != "firewalld" {
		t.Errorf("told %v", d)
	}
	nft(t, w, "delete table inet firewalld")
	if d := n.next(t); len(d) != 0 {
		t.Errorf("told %v, although firewalld is gone", d)
	}
}

// Of iptables-legacy and sysctls the kernel tells nothing: they are looked at now
// and then.
func TestWhatTheKernelTellsNobodyIsLookedAt(t *testing.T) {
	w := newWorld(t)
	n := watch(t, w, func(n *Network) { n.lookEvery = 50 * time.Millisecond })
	serve(t, w.outside, ":81", "outside")
	p := startPod(t, n.Network, "a")
	run(t, w, recorded(t, "docker.rules"), "iptables-legacy-restore")
	eventually(t, "Docker started, an accept is added", func() bool {
		return strings.Count(run(t, w, "", "iptables-legacy-save"), accepted("podd0")) == 2
	})
	writeSysctlIn(t, w.host, "ipv4/ip_forward", "0")
	eventually(t, "forwarding is turned on", func() bool { return sysctlIn(t, w.host, "ipv4/ip_forward") == "1" })
	wantAnswer(t, p.ns, "tcp", hostPort(outsideAddr4.Addr(), 81), "outside from")
}

// "flush ruleset", with which Debian's /etc/nftables.conf begins, takes the table
// of pods with it: it is made anew, with its host ports.
func TestAFlushedRulesetIsRestored(t *testing.T) {
	w := newWorld(t)
	n := watch(t, w)
	serve(t, w.outside, ":81", "outside")
	a, b := startPod(t, n.Network, "a"), startPod(t, n.Network, "b")
	for i, p := range []*testPod{a, b} {
		m := []PortMapping{{Protocol: "TCP", HostPort: uint16(8080 + i), ContainerPort: 80}, {Protocol: "UDP", HostPort: uint16(8080 + i), ContainerPort: 80}}
		if err := n.MapPorts(t.Context(), p.uid, m, p.addrs); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.UnmapPorts(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	before := w.picture(t)
	nft(t, w, "flush ruleset")
	eventually(t, "everything is as it was", func() bool { return w.picture(t) == before })
	wantAnswer(t, a.ns, "tcp", hostPort(outsideAddr4.Addr(), 81), "outside from")
	wantAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8080), "a from")
	wantAnswer(t, w.outside, "udp", hostPort(hostAddr4.Addr(), 8080), "a from")
	wantNoAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8081))
}

// The agent's own work at a pod's start is nothing new to it.
func TestOwnChangesAreNoNews(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	p := startPod(t, n, "a")
	if err := n.MapPorts(t.Context(), "a", []PortMapping{{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}}, p.addrs); err != nil {
		t.Fatal(err)
	}
	nft(t, w, "add table inet other; add chain inet other c; add rule inet other c accept")
	b := make([]byte, 32<<10)
	for datagrams := 0; ; datagrams++ {
		size, err := n.changes.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if news := newsIn(b[:size], n.fw.table.Name); news == rulesChange {
			if datagrams == 0 {
				t.Error("the own elements were not heard of: this shows nothing")
			}
			break
		} else if news != nothingNew {
			t.Fatalf("news %d", news)
		}
	}
}

// What a look costs, once a minute and after each change: here with ufw, by both
// kinds of iptables.
func BenchmarkForeignDrops(b *testing.B) {
	w := newWorld(b)
	for _, p := range []string{"iptables-nft-restore", "iptables-legacy-restore"} {
		in(b, w.host, func(*netlink.Handle) error {
			cmd := exec.Command(p, "testdata/firewalls/ufw.rules")
			return cmd.Run()
		})
	}
	in(b, w.host, func(*netlink.Handle) error {
		for b.Loop() {
			if d, err := ForeignDrops("podd0"); err != nil || len(d) != 2 {
				b.Fatal(d, err)
			}
		}
		return nil
	})
}

func FuzzNews(f *testing.F) {
	f.Add([]byte{36, 0, 0, 0, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 14, 0, 1, 0, 'p', 'o', 'd', 'd', '-', 'p', 'o', 'd', 'd', '0', 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) { newsIn(b, "podd-podd0") })
}

func FuzzLegacyRules(f *testing.F) {
	f.Add(make([]byte, 300), 0, 152)
	f.Fuzz(func(t *testing.T, b []byte, forward, policy int) {
		for _, l := range legacyFamilies {
			l.forward(legacyTable{forward, policy, b}, "podd0")
		}
	})
}
