package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"podd/doctor"
	"podd/internal/kerneltest"
)

// brokenHost is a machine made of namespaces, with something broken in it. The
// script must change nothing that has no namespace: of sysctls, only those of the
// network, of PID and user namespaces. The others are lied about.
type brokenHost struct {
	name    string
	unshare string // flags of unshare(1)
	broken  string // a shell script; $DIR is an empty directory
	as      string // what podd is started by, or empty
	args    string // of podd doctor; without any, --root-dir is in $DIR

	area    string
	verdict doctor.Verdict
	says    string
	mend    string
}

const (
	netns = "--net"
	mntns = "--mount"
	// lie puts a file in place of one of the kernel's.
	lie = `lie() { printf "$2" >$DIR/lie.$$.${1##*/}; mount --bind $DIR/lie.$$.${1##*/} $1; }; `
)

var brokenHosts = []brokenHost{
	{"no root", "", "", "setpriv --reuid 65534 --clear-groups", "", "privileges", doctor.Fail, "not root", "sudo podd run"},
	{"a container's capabilities", "", "", "setpriv --bounding-set -sys_admin,-net_admin", "", "privileges", doctor.Fail, "root without CAP_NET_ADMIN, CAP_SYS_ADMIN", "outside of the container"},
	{"no ptrace", "", "", "setpriv --bounding-set -sys_ptrace", "", "privileges", doctor.Warn, "CAP_SYS_PTRACE", "outside of the container"},
	{"root of a user namespace", "--user --map-root-user", "", "", "", "privileges", doctor.Warn, "root of a user namespace", "outside of the container"},
	{"Debian 11", mntns, lie + `lie /proc/sys/kernel/osrelease '5.10.0-32-amd64\n'`, "", "", "kernel", doctor.Fail, "5.12 or later", "apt install"},
	{"Ubuntu 22.04", mntns, lie + `lie /proc/sys/kernel/osrelease '5.15.0-119-generic\n'`, "", "", "kernel", doctor.Warn, "older than 6.1", "apt install"},
	{"no control groups", mntns, `grep -E ' - cgroup2? ' /proc/self/mountinfo | cut -d' ' -f5 | sort -r | xargs -n1 umount -l`, "", "", "cgroups", doctor.Fail, "no cgroup hierarchy is mounted", "mount -t cgroup2"},
	{"no network namespaces", "--user --map-root-user", `echo 0 >/proc/sys/user/max_net_namespaces`, "", "", "namespaces", doctor.Fail, "user.max_net_namespaces is 0", "sysctl -w user.max_net_namespaces"},
	{"no user namespaces", "--user --map-root-user", `echo 0 >/proc/sys/user/max_user_namespaces`, "", "", "namespaces", doctor.Warn, "hostUsers: false", "sysctl -w user.max_user_namespaces"},
	{"a root directory on overlay", mntns, `mount -t tmpfs t $DIR; mkdir $DIR/l $DIR/u $DIR/w $DIR/o; mount -t overlay o -o lowerdir=$DIR/l,upperdir=$DIR/u,workdir=$DIR/w $DIR/o`, "", "--root-dir $DIR/o", "overlay", doctor.Fail, "which is on overlay", "--root-dir DIR, on ext4"},
	{"a root directory that is read-only", mntns, `mount -t tmpfs -o ro t $DIR`, "", "--root-dir $DIR/podd", "overlay", doctor.Fail, "read-only file system", "--root-dir DIR, on ext4"},
	{"a firewall of its own", netns, `nft 'table inet site { chain f { type filter hook forward priority 0; policy drop; }; }'`, "", "", "forwarding", doctor.Warn, "dropped by chain inet site/f", "nft 'insert rule inet site f iifname podd0 accept"},
	{"Docker that the agent could not pass", netns, `ip link add podd0 type bridge; iptables-legacy -N DOCKER-USER; iptables-legacy -P FORWARD DROP`, "", "", "forwarding", doctor.Warn, "dropped by Docker, chain iptables-legacy filter/FORWARD", "iptables-legacy -I DOCKER-USER -i podd0 -j ACCEPT"},
	{"forwarding turned off", netns, `ip link add podd0 type bridge; echo 0 >/proc/sys/net/ipv4/ip_forward`, "", "", "forwarding", doctor.Warn, "was turned off", "sysctl -w net.ipv4.ip_forward=1"},
	{"a VPN over the range of pods", netns, `ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up1 up; ip link set up0 up; ip route add 10.0.0.0/8 via 192.0.2.2`, "", "", "pod range", doctor.Fail, "10.0.0.0/8 dev up0", "--pod-cidr"},
	{"an uplink in the range that is asked for", netns, `ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up1 up; ip link set up0 up`, "", "--pod-cidr 192.0.2.0/25", "pod range", doctor.Fail, "pod CIDR 192.0.2.0/25 overlaps this host's route 192.0.2.0/24 dev up0", "--pod-cidr"},
	{"systemd-networkd owns the bridge", netns + " " + mntns, `ip link add podd0 type bridge; mount -t sysfs s /sys; mount -t tmpfs t /run; mkdir -p /run/systemd/netif/links; echo ADMIN_STATE=configured >/run/systemd/netif/links/$(cat /sys/class/net/podd0/ifindex)`, "", "", "bridge", doctor.Warn, "systemd-networkd configures podd0", "Unmanaged=yes"},
	{"dnsmasq", mntns, lie + `lie /etc/resolv.conf 'nameserver 127.0.0.1\n'`, "", "", "resolv.conf", doctor.Warn, "only 127.0.0.1", "resolvConf: FILE"},
	{"systemd-resolved", mntns, lie + `lie /etc/resolv.conf 'nameserver 127.0.0.53\n'; mount -t tmpfs t /run; mkdir -p /run/systemd/resolve; echo nameserver 192.0.2.53 >/run/systemd/resolve/resolv.conf`, "", "", "resolv.conf", doctor.OK, "pods get what systemd-resolved asks: 192.0.2.53", ""},
	{"no name servers", mntns, lie + `lie /etc/resolv.conf '# none\n'`, "", "", "resolv.conf", doctor.Warn, "no name servers", "echo nameserver"},
	{"few open files", "", "ulimit -n 512", "", "", "limits", doctor.Warn, "at most 512 open files", "LimitNOFILE"},
	{"few inotify instances", mntns, lie + `lie /proc/sys/fs/inotify/max_user_instances '7\n'`, "", "", "limits", doctor.Warn, "fs.inotify.max_user_instances is 7", "sysctl -w fs.inotify.max_user_instances=128"},
	{"SELinux", mntns, `mount -t tmpfs t /sys/fs; mkdir /sys/fs/selinux; echo 1 >/sys/fs/selinux/enforce`, "", "", "lsm", doctor.Warn, "SELinux enforces", "setenforce 0"},
	{"memory files are not executed", "--pid --fork --mount-proc", `echo 2 >/proc/sys/vm/memfd_noexec`, "", "", "memfd", doctor.OK, "executed from a read-only mount", ""},
	{"PrivateTmp", mntns, "", "", "", "mounts", doctor.Warn, "not in PID 1's mount namespace", "PrivateTmp=no"},
	{"hidepid", "--pid --fork --mount-proc", `mount -o remount,hidepid=2 /proc`, "", "", "mounts", doctor.Warn, "hides processes", "hidepid=0"},
	{"noexec", "--pid --fork --mount-proc", `mount -t tmpfs -o noexec t $DIR`, "", "--root-dir $DIR/podd", "mounts", doctor.Warn, "is mounted noexec", "remount,exec"},
	{"no /proc", mntns, lie + `lie /proc/sys/kernel/random/boot_id ''`, "", "", "time", doctor.Warn, "boot id", "mount -t proc"},
}

// Each thing that can be wrong with a machine is found on one where it is, for
// real as far as namespaces go: in its area, with what mends it, and in the exit
// code if pods are impossible.
func TestDoctorOnBrokenHosts(t *testing.T) {
	kerneltest.Root(t)
	podd, err := kerneltest.Build(t.TempDir(), "podd/cmd/podd")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range brokenHosts {
		t.Run(host.name, func(t *testing.T) {
			f, failed := host.look(t, podd)
			if f.Verdict != host.verdict || !strings.Contains(f.Says, host.says) || !strings.Contains(f.Mend, host.mend) {
				t.Errorf("found %+v; want %s, %q, mended by %q", f, host.verdict, host.says, host.mend)
			}
			if host.verdict == doctor.Fail && !failed {
				t.Error("pods are impossible, and the exit code is 0")
			}
		})
	}
}

// A kernel without nftables, as a filter of system calls plays it.
func TestDoctorWithoutNFTables(t *testing.T) {
	kerneltest.Root(t)
	podd, err := kerneltest.Build(t.TempDir(), "podd/cmd/podd")
	if err != nil {
		t.Fatal(err)
	}
	const errnoNotSupported = 0x00050000 | uint32(unix.EPROTONOSUPPORT) // SECCOMP_RET_ERRNO
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: skip}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	filter := []unix.SockFilter{ // struct seccomp_data: nr, arch, instruction pointer, arguments
		load(0), unless(unix.SYS_SOCKET, 5),
		load(16), unless(unix.AF_NETLINK, 3),
		load(32), unless(unix.NETLINK_NETFILTER, 1),
		answer(errnoNotSupported),
		answer(0x7fff0000), // SECCOMP_RET_ALLOW
	}
	var f doctor.Finding
	failed, done := false, make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its filter
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			t.Error(err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, 1, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
			t.Error(errno)
		}
		f, failed = brokenHost{area: "nftables"}.look(t, podd)
	}()
	<-done
	if f.Verdict != doctor.Fail || !failed || !strings.Contains(f.Says, "protocol not supported") || f.Mend != "modprobe nf_tables" {
		t.Errorf("found %+v, exit code not 0: %v", f, failed)
	}
}

// look runs podd doctor in the host and returns what it says of the area, and
// whether the exit code told of a failure.
func (h brokenHost) look(t *testing.T, podd string) (f doctor.Finding, failed bool) {
	args := h.args
	if !strings.Contains(args, "--root-dir") {
		args += " --root-dir $DIR/podd"
	}
	script := "set -e\n" + h.broken + "\nexec " + h.as + " $PODD doctor -o json " + args
	program := append(append([]string{"unshare"}, strings.Fields(h.unshare)...), "sh", "-c", script)
	if h.unshare == "" {
		program = program[1:]
	}
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Env = append(os.Environ(), "PODD="+podd, "DIR="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var findings []doctor.Finding
	if jsonErr := json.Unmarshal(out, &findings); jsonErr != nil {
		t.Errorf("the host was not made: %v\n%s", err, stderr.Bytes())
	}
	for _, f = range findings {
		if f.Area == h.area {
			return f, err != nil
		}
	}
	t.Errorf("nothing is said of %s", h.area)
	return doctor.Finding{}, false
}
