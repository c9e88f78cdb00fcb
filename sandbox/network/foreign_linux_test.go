package network

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"

	"podd/internal/kerneltest"
)

// Rules as the programs of the name leave them, as nft(8) reads them.
const (
	dockerRules = `table ip filter {
	chain DOCKER-USER { counter return; }
	chain FORWARD { type filter hook forward priority filter; policy drop; counter jump DOCKER-USER; }
}`
	ufwRules = `table ip filter {
	chain ufw-before-forward { ct state related,established accept; }
	chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw-before-forward; }
}`
	firewalldRules = `table inet firewalld {
	chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
		ct state established,related accept
		reject with icmpx admin-prohibited
	}
}`
	ownRules = `table inet site {
	chain through { type filter hook forward priority filter; policy drop; }
}`
)

func nft(t *testing.T, w *world, rules string) (listed string) {
	t.Helper()
	path, err := exec.LookPath("nft")
	kerneltest.Need(t, err == nil, "nft (Debian package nftables)")
	in(t, w.host, func(*netlink.Handle) error {
		cmd := exec.Command(path, "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		out, err := cmd.CombinedOutput()
		listed = string(out)
		if err != nil {
			t.Error(listed)
		}
		return err
	})
	return listed
}

func TestForeignFirewalls(t *testing.T) {
	for _, test := range []struct {
		name, rules string
		passes      bool   // by the agent's own accept
		mend        string // what is told
		mendRules   string // nft's form of that
	}{
		{"docker", dockerRules, true, "", ""},
		{"ufw", ufwRules, true, "", ""},
		{"firewalld", firewalldRules, false, "firewall-cmd --permanent --zone=trusted --add-interface=podd0",
			"insert rule inet firewalld filter_FORWARD iifname podd0 accept"},
		{"own", ownRules, false, "insert rule inet site through iifname podd0 accept",
			"insert rule inet site through iifname podd0 accept; insert rule inet site through oifname podd0 accept"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			nft(t, w, test.rules)
			serve(t, w.outside, ":81", "outside")
			log := &logLines{}
			n := w.open(t, func(c *Config) { c.Logger = logr.New(log) })
			p := startPod(t, n, "a")
			outside := hostPort(outsideAddr4.Addr(), 81)
			if test.passes {
				wantAnswer(t, p.ns, "tcp", outside, "outside from")
				w.open(t) // an agent that starts again adds nothing
				listed := nft(t, w, "list ruleset")
				if got := strings.Count(listed, "podd: pods of podd0"); got != 2 {
					t.Errorf("%d own rules, want 2:\n%s", got, listed)
				}
				return
			}
			wantNoAnswer(t, p.ns, "tcp", outside)
			if told := strings.Join(log.lines, "\n"); !strings.Contains(told, test.mend) {
				t.Errorf("told %q, want the command %q", told, test.mend)
			}
			nft(t, w, test.mendRules)
			wantAnswer(t, p.ns, "tcp", outside, "outside from")
			in(t, w.host, func(*netlink.Handle) error {
				drops, err := ForeignDrops("podd0")
				if len(drops) > 0 {
					t.Errorf("mended, and still told: %v", drops)
				}
				return err
			})
		})
	}
}
