package doctor

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"podd/internal/kerneltest"
)

// good is what Debian 13 with systemd says, as far as it is looked at.
var good = map[string]string{
	"/proc/sys/kernel/osrelease":        "6.12.48+deb13-cloud-amd64\n",
	"/proc/self/status":                 "Name:\tpodd\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n",
	"/proc/self/limits":                 "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            524288               524288               files     \n",
	"/proc/1/comm":                      "systemd\n",
	"/proc/sys/kernel/random/boot_id":   "5e7e8a3e-0000-4000-8000-000000000000\n",
	"/proc/sys/kernel/pid_max":          "4194304\n",
	"/proc/sys/net/ipv4/ip_forward":     "1\n",
	"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
	"/etc/resolv.conf":                  "# by dhcp\nnameserver 192.0.2.53\n",
	"/proc/self/ns/user":                "", "/proc/self/ns/cgroup": "", "/proc/self/ns/ipc": "",
	"/proc/self/ns/net": "", "/proc/self/ns/pid": "", "/proc/self/ns/uts": "",
	"/proc/self/mountinfo": rootMount + "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
}

const rootMount = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n" +
	"24 22 0:22 / /proc rw,nosuid,nodev,noexec shared:13 - proc proc rw\n"

const bridgeConf = "/proc/sys/net/ipv4/conf/podd0/forwarding" // there is a bridge

type fakeKernel struct {
	overlay, nft, drop error
	unsynced           bool
	drops              []Drop
	overlaps           []error
}

func (k fakeKernel) TryOverlay(string) error          { return k.overlay }
func (k fakeKernel) ClockSynchronised() (bool, error) { return !k.unsynced, nil }
func (k fakeKernel) NFTables() error                  { return k.nft }
func (k fakeKernel) ForwardDrops() ([]Drop, error)    { return k.drops, k.drop }
func (k fakeKernel) Overlaps() ([]error, error)       { return k.overlaps, nil }

// tree is a host with these files; in place of a file, "gone" leaves it out.
func tree(t *testing.T, k Kernel, changes map[string]string) Host {
	t.Helper()
	files, root := maps.Clone(good), t.TempDir()
	maps.Copy(files, changes)
	links := map[string]string{"/proc/self/ns/mnt": "mnt:[1]", "/proc/1/ns/mnt": "mnt:[1]"}
	for path, text := range files {
		if _, isLink := links[path]; isLink {
			links[path] = text
			continue
		}
		if text == "gone" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, to := range links {
		if to == "gone" {
			continue
		}
		os.MkdirAll(filepath.Dir(root+path), 0o755)
		if err := os.Symlink(to, root+path); err != nil {
			t.Fatal(err)
		}
	}
	return Host{Root: root, RootDir: "/var/lib/podd", Bridge: "podd0", Kernel: k}
}

func TestGoodHostIsOk(t *testing.T) {
	for _, f := range tree(t, fakeKernel{}, nil).Look() {
		if f.Verdict != OK {
			t.Errorf("%+v", f)
		}
	}
}

// What looks odd and is none of podd's business is ok.
func TestOddHostsAreOk(t *testing.T) {
	for _, test := range []struct {
		name   string
		kernel fakeKernel
		files  map[string]string
		area   string
		says   string
	}{
		{"legacy", fakeKernel{}, map[string]string{"/proc/net/ip_tables_names": "filter\nnat\n"}, "nftables", "beside iptables-legacy tables filter, nat"},
		{"passed", fakeKernel{drops: []Drop{{"Docker", "iptables", true}}}, nil, "forwarding", "Docker drops, and podd run adds an accept"},
		{"off", fakeKernel{}, map[string]string{"/proc/sys/net/ipv4/ip_forward": "0"}, "forwarding", "IPv4 off (podd run turns it on)"},
		{"resolved", fakeKernel{}, map[string]string{"/etc/resolv.conf": "nameserver 127.0.0.53\n", "/run/systemd/resolve/resolv.conf": "nameserver 192.0.2.1\n"}, "resolv.conf", "pods get what systemd-resolved asks: 192.0.2.1"},
		{"networkd", fakeKernel{}, map[string]string{bridgeConf: "", "/sys/class/net/podd0/ifindex": "7\n", "/run/systemd/netif/links/7": "ADMIN_STATE=unmanaged\n"}, "bridge", "left to podd"},
		{"memfd", fakeKernel{}, map[string]string{"/proc/sys/vm/memfd_noexec": "2\n"}, "memfd", "read-only mount"},
		{"container-with-an-init", fakeKernel{}, map[string]string{"/proc/self/mountinfo": strings.ReplaceAll(good["/proc/self/mountinfo"], "shared:1 ", "shared:200 master:1 ")}, "mounts", "is shared"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, f := range tree(t, test.kernel, test.files).Look() {
				if f.Verdict != OK || f.Area == test.area && !strings.Contains(f.Says, test.says) {
					t.Errorf("%+v, want %q", f, test.says)
				}
			}
		})
	}
}

func TestBrokenHosts(t *testing.T) {
	v2Mount := good["/proc/self/mountinfo"]
	for _, test := range []struct {
		name    string
		kernel  fakeKernel
		files   map[string]string
		area    string
		verdict Verdict
		says    string
	}{
		{"user", fakeKernel{}, map[string]string{"/proc/self/status": "Uid:\t1000\t1000\t1000\t1000\n"}, "privileges", Fail, "not root"},
		{"docker-container", fakeKernel{}, map[string]string{"/proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\n"}, "privileges", Fail, "CAP_NET_ADMIN, CAP_SYS_ADMIN"},
		{"no-sys-resource", fakeKernel{}, map[string]string{"/proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\n"}, "privileges", Warn, "CAP_SYS_RESOURCE"},
		{"bullseye", fakeKernel{}, map[string]string{"/proc/sys/kernel/osrelease": "5.10.0-32-amd64\n"}, "kernel", Fail, "5.12"},
		{"jammy", fakeKernel{}, map[string]string{"/proc/sys/kernel/osrelease": "5.15.0-119-generic\n"}, "kernel", Warn, "older than 6.1"},
		{"no-cgroups", fakeKernel{}, map[string]string{"/proc/self/mountinfo": rootMount}, "cgroups", Fail, "no cgroup hierarchy"},
		{"raspberry-pi", fakeKernel{}, map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"}, "cgroups", Warn, "without memory"},
		{"v1", fakeKernel{}, map[string]string{"/proc/self/mountinfo": rootMount + "31 22 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"}, "cgroups", Warn, "v1 without memory, pids"},
		{"no-net-namespaces", fakeKernel{}, map[string]string{"/proc/self/ns/net": "gone"}, "namespaces", Fail, "of kind net"},
		{"hardened", fakeKernel{}, map[string]string{"/proc/sys/user/max_net_namespaces": "0\n"}, "namespaces", Fail, "user.max_net_namespaces is 0"},
		{"no-user-namespaces", fakeKernel{}, map[string]string{"/proc/sys/user/max_user_namespaces": "0\n"}, "namespaces", Warn, "hostUsers: false"},
		{"overlay-root", fakeKernel{overlay: errors.New("invalid argument")}, map[string]string{"/proc/self/mountinfo": strings.ReplaceAll(v2Mount, "ext4", "overlay")}, "overlay", Fail, "on overlay: invalid argument"},
		{"no-nftables", fakeKernel{nft: errors.New("protocol not supported")}, nil, "nftables", Fail, "no network"},
		{"firewalld", fakeKernel{drops: []Drop{{"firewalld, chain inet firewalld/filter_FORWARD", "firewall-cmd", false}}}, nil, "forwarding", Warn, "dropped by firewalld"},
		{"br-netfilter", fakeKernel{drops: []Drop{{"chain inet site/f", "nft", false}}}, map[string]string{"/proc/sys/net/bridge/bridge-nf-call-iptables": "1"}, "forwarding", Warn, "reach each other"},
		{"not-passed", fakeKernel{drops: []Drop{{"Docker", "iptables", true}}}, map[string]string{bridgeConf: ""}, "forwarding", Warn, "dropped by Docker"},
		{"not-told", fakeKernel{drop: errors.New("operation not permitted")}, nil, "forwarding", Warn, "operation not permitted"},
		{"forwarding-off", fakeKernel{}, map[string]string{bridgeConf: "", "/proc/sys/net/ipv4/ip_forward": "0"}, "forwarding", Warn, "was turned off"},
		{"overlap", fakeKernel{overlaps: []error{errors.New("10.0.0.0/8 overlaps")}}, nil, "pod range", Fail, "10.0.0.0/8 overlaps"},
		{"overlap-later", fakeKernel{overlaps: []error{errors.New("10.0.0.0/8 overlaps")}}, map[string]string{bridgeConf: ""}, "pod range", Warn, "may not be answered"},
		{"networkd", fakeKernel{}, map[string]string{bridgeConf: "", "/sys/class/net/podd0/ifindex": "7\n", "/run/systemd/netif/links/7": "ADMIN_STATE=configured\nOPER_STATE=routable\n"}, "bridge", Warn, "systemd-networkd configures podd0"},
		{"user-namespace", fakeKernel{}, map[string]string{"/proc/self/uid_map": "         0     100000      65536\n"}, "privileges", Warn, "root of a user namespace"},
		{"dnsmasq", fakeKernel{}, map[string]string{"/etc/resolv.conf": "nameserver 127.0.0.1\nnameserver ::1\n"}, "resolv.conf", Warn, "only 127.0.0.1, ::1"},
		{"no-resolv-conf", fakeKernel{}, map[string]string{"/etc/resolv.conf": "gone"}, "resolv.conf", Warn, "no name servers"},
		{"few-files", fakeKernel{}, map[string]string{"/proc/self/limits": "Max open files            1024                 1024                 files\n"}, "limits", Warn, "1024 open files"},
		{"hardly-any-files", fakeKernel{}, map[string]string{"/proc/self/limits": "Max open files            64                   64                   files\n"}, "limits", Fail, "64 open files"},
		{"few-pids", fakeKernel{}, map[string]string{"/proc/sys/kernel/pid_max": "4096\n"}, "limits", Warn, "kernel.pid_max is 4096"},
		{"selinux", fakeKernel{}, map[string]string{"/sys/fs/selinux/enforce": "1"}, "lsm", Warn, "SELinux enforces"},
		{"other-namespace", fakeKernel{}, map[string]string{"/proc/self/ns/mnt": "mnt:[2]"}, "mounts", Warn, "PID 1's mount namespace"},
		{"private-tmp", fakeKernel{}, map[string]string{"/proc/self/ns/mnt": "mnt:[2]", "/proc/self/mountinfo": strings.ReplaceAll(v2Mount, "shared:1 ", "shared:200 master:1 ")}, "mounts", Fail, "PrivateTmp"},
		{"private-tmp-and-a-hidden-init", fakeKernel{}, map[string]string{"/proc/1/ns/mnt": "gone", "/proc/1/mountinfo": "2" + v2Mount, "/proc/self/mountinfo": strings.ReplaceAll(v2Mount, "shared:1 ", "master:1 ")}, "mounts", Fail, "PrivateTmp"},
		{"hidepid", fakeKernel{}, map[string]string{"/proc/self/mountinfo": strings.ReplaceAll(v2Mount, "proc proc rw", "proc proc rw,hidepid=invisible")}, "mounts", Warn, "hidepid"},
		{"noexec", fakeKernel{}, map[string]string{"/proc/self/mountinfo": v2Mount + "40 22 254:2 / /var rw,noexec shared:20 - ext4 /dev/vda2 rw\n"}, "mounts", Warn, "/var, which holds"},
		{"clock", fakeKernel{unsynced: true}, nil, "time", Warn, "not synchronised"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := tree(t, test.kernel, test.files)
			for _, f := range h.Look() {
				want := OK
				if f.Area == test.area {
					want = test.verdict
					if !strings.Contains(f.Says, test.says) || f.Mend == "" {
						t.Errorf("says %q, mend %q; want %q and a command", f.Says, f.Mend, test.says)
					}
				}
				if f.Verdict != want {
					t.Errorf("want %s: %+v", want, f)
				}
			}
			if got := len(h.Obstacles()) > 0; got != (test.verdict == Fail) {
				t.Errorf("obstacles: %v", h.Obstacles())
			}
		})
	}
}

// An overlay is mounted for real on the directory's file system, leaves
// nothing, and is refused where it cannot be: /proc takes no directories.
func TestTryOverlay(t *testing.T) {
	kerneltest.Root(t)
	dir := t.TempDir()
	if err := TryOverlay(filepath.Join(dir, "not", "yet")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := TryOverlay("/proc"); err == nil {
		t.Error("an overlay on /proc")
	}
}

type realKernel struct{ fakeKernel }

func (realKernel) TryOverlay(dir string) error { return TryOverlay(dir) }

// Tests run where pods run: the doctor must agree.
func TestThisMachineCanRunPods(t *testing.T) {
	kerneltest.Root(t)
	h := Host{Root: "/", RootDir: t.TempDir(), Kernel: realKernel{}}
	if got := h.Obstacles(); got != nil {
		t.Errorf("%+v", got)
	}
}

func BenchmarkObstacles(b *testing.B) {
	h := Host{Root: "/", RootDir: b.TempDir(), Kernel: realKernel{}}
	for b.Loop() {
		h.Obstacles()
	}
}
