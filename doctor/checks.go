package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// needed are the capabilities without which no pod starts, by their bit in
// linux/capability.h.
var needed = []struct {
	name string
	bit  uint
}{{"CHOWN", 0}, {"DAC_OVERRIDE", 1}, {"SETGID", 6}, {"SETUID", 7}, {"SETPCAP", 8}, {"NET_ADMIN", 12}, {"SYS_ADMIN", 21}}

// wanted are those without which a pod gets less than it asks for.
var wanted = []struct {
	name string
	bit  uint
}{{"SYS_PTRACE", 19}, {"SYS_RESOURCE", 24}, {"MKNOD", 27}}

func privileges(h Host) Finding {
	ids := strings.Fields(h.status("Uid"))
	if len(ids) < 2 || ids[1] != "0" {
		return fail("sudo podd run", "not root: namespaces, mounts and cgroups cannot be made")
	}
	effective, err := strconv.ParseUint(h.status("CapEff"), 16, 64)
	if err != nil {
		return warn("", "cannot read own capabilities from /proc/self/status")
	}
	// Only the machine's own user namespace maps every id to itself.
	if m := strings.Fields(h.read("/proc/self/uid_map")); len(m) >= 3 && (m[0] != "0" || m[1] != "0" || m[2] != "4294967295") {
		return warn("run podd outside of the container or user namespace", "root of a user namespace: devices, some mounts and control groups are refused to pods")
	}
	var missing, less []string
	for _, c := range needed {
		if effective&(1<<c.bit) == 0 {
			missing = append(missing, "CAP_"+c.name)
		}
	}
	for _, c := range wanted {
		if effective&(1<<c.bit) == 0 {
			less = append(less, "CAP_"+c.name)
		}
	}
	const mend = "run podd outside of the container, or give it all capabilities"
	switch {
	case len(missing) > 0:
		return fail(mend, "root without %s: no pod can start", strings.Join(missing, ", "))
	case len(less) > 0:
		return warn(mend, "root without %s: pods that need more cannot have it", strings.Join(less, ", "))
	}
	return ok("root with all capabilities that pods need")
}

func kernelVersion(h Host) Finding {
	release := h.read("/proc/sys/kernel/osrelease")
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return warn("", "cannot understand the kernel's version %q", release)
	}
	const mend = "apt install linux-image-amd64 && reboot"
	switch v := major*1000 + minor; {
	case v < 5012: // mount_setattr, for read-only trees of volumes
		return fail(mend, "Linux %s: pods need 5.12 or later", release)
	case v < 6001:
		return warn(mend, "Linux %s: older than 6.1, the oldest that is tested", release)
	}
	return ok("Linux %s", release)
}

func cgroups(h Host) Finding {
	var v2 string
	v1 := map[string]bool{}
	for _, m := range h.mounts {
		switch m.fsType {
		case "cgroup2":
			v2 = m.at
		case "cgroup":
			for o := range strings.SplitSeq(m.superOptions, ",") {
				v1[o] = true
			}
		}
	}
	if v2 == "" && len(v1) == 0 {
		return fail("mount -t cgroup2 none /sys/fs/cgroup", "no cgroup hierarchy is mounted: containers can be neither counted nor limited")
	}
	version := "v2"
	has := func(c string) bool { return v1[c] }
	switch {
	case len(v1) == 0:
		controllers := strings.Fields(h.read(filepath.Join(v2, "cgroup.controllers")))
		has = func(c string) bool { return slices.Contains(controllers, c) }
	case v2 != "":
		version = "v1, hybrid"
	default:
		version = "v1"
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !has(c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return warn("reboot with cgroup_enable=memory and without cgroup_disable= on the kernel's command line",
			"%s without %s: pods that set such limits are refused", version, strings.Join(missing, ", "))
	}
	owner := "nobody manages its root"
	if h.read("/proc/1/comm") == "systemd" {
		owner = "systemd manages its root"
		if h.exists(filepath.Join(v2, "podd.slice/podd-pods.service")) {
			owner += " and leaves podd.slice/podd-pods.service to podd"
		}
	}
	return ok("%s with cpu, memory, pids; %s", version, owner)
}

func namespaces(h Host) Finding {
	var missing, zero []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		if !h.exists("/proc/self/ns/" + ns) {
			missing = append(missing, ns)
		}
		if n, known := h.number("/proc/sys/user/max_" + ns + "_namespaces"); known && n == 0 {
			zero = append(zero, "user.max_"+ns+"_namespaces")
		}
	}
	switch {
	case len(missing) > 0:
		return fail("boot a kernel with CONFIG_NAMESPACES and all of its kinds", "the kernel has no namespaces of kind %s", strings.Join(missing, ", "))
	case len(zero) > 0:
		return fail("sysctl -w "+strings.Join(zero, "=10000 ")+"=10000", "%s is 0: no pod can have its own", strings.Join(zero, ", "))
	}
	if n, known := h.number("/proc/sys/user/max_user_namespaces"); !h.exists("/proc/self/ns/user") || known && n == 0 {
		return warn("sysctl -w user.max_user_namespaces=10000", "no user namespaces: pods with hostUsers: false cannot start")
	}
	return ok("cgroup, ipc, mnt, net, pid, user, uts")
}

func overlay(h Host) Finding {
	m := h.mountOf(h.RootDir)
	if err := h.Kernel.TryOverlay(h.RootDir); err != nil {
		return fail("podd run --root-dir DIR, on ext4, xfs, btrfs or tmpfs",
			"images cannot be mounted in %s, which is on %s: %v", h.RootDir, m.fsType, err)
	}
	return ok("%s is on %s", h.RootDir, m.fsType)
}

func nftables(h Host) Finding {
	if err := h.Kernel.NFTables(); err != nil {
		return fail("modprobe nf_tables", "nftables cannot be used, pods have no network: %v", err)
	}
	if tables := strings.Fields(h.read("/proc/net/ip_tables_names")); len(tables) > 0 {
		return ok("usable, beside iptables-legacy tables %s", strings.Join(tables, ", "))
	}
	return ok("usable")
}

func (h Host) bridgeExists() bool { return h.exists("/proc/sys/net/ipv4/conf/" + h.Bridge) }

func forwarding(h Host) Finding {
	drops, err := h.Kernel.ForwardDrops()
	if err != nil {
		return warn("podd doctor, as root", "cannot tell whether a firewall drops forwarded packets: %v", err)
	}
	// Before the agent runs, it has passed nobody.
	there := h.bridgeExists()
	var who, mend, passed []string
	for _, d := range drops {
		if d.Passed && !there {
			passed = append(passed, d.Who)
			continue
		}
		who, mend = append(who, d.Who), append(mend, d.Mend)
	}
	if who != nil {
		what := "pods may not reach the outside, nor be reached"
		if h.read("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1" {
			what += ", nor (br_netfilter) reach each other"
		}
		return warn(strings.Join(slices.Compact(mend), " && "), "%s: forwarded packets are dropped by %s", what, strings.Join(who, "; "))
	}
	var off []string
	state := func(key string) string {
		if h.read("/proc/sys/"+strings.ReplaceAll(key, ".", "/")) == "1" {
			return "on"
		}
		off = append(off, key)
		return "off (podd run turns it on)"
	}
	v4, v6 := state("net.ipv4.ip_forward"), "not there"
	if h.exists("/proc/sys/net/ipv6") {
		v6 = state("net.ipv6.conf.all.forwarding")
	}
	if there && slices.Contains(off, "net.ipv4.ip_forward") {
		return warn("sysctl -w net.ipv4.ip_forward=1", "IPv4 forwarding was turned off: pods reach nothing outside (an agent that runs turns it on within a minute)")
	}
	if passed != nil {
		return ok("IPv4 %s, IPv6 %s; %s drops, and podd run adds an accept", v4, v6, strings.Join(passed, "; "))
	}
	return ok("IPv4 %s, IPv6 %s; nothing drops", v4, v6)
}

func podRange(h Host) Finding {
	overlaps, err := h.Kernel.Overlaps()
	const mend = "podd run --pod-cidr RANGE, one that nothing in `ip route` overlaps"
	switch {
	case err != nil:
		return warn("podd doctor, as root", "cannot read the host's routes: %v", err)
	case len(overlaps) > 0 && h.bridgeExists():
		return warn(mend, "%v: pods cannot reach others in it, and may not be answered", errors.Join(overlaps...))
	case len(overlaps) > 0:
		return fail(mend, "%v", errors.Join(overlaps...))
	}
	return ok("no route of the host overlaps it")
}

// bridge tells whether systemd-networkd configures what is podd's: a .network
// file for every interface would. NetworkManager leaves alone what it did not make.
func bridge(h Host) Finding {
	if !h.bridgeExists() {
		return ok("%s is not there yet", h.Bridge)
	}
	state := h.read("/run/systemd/netif/links/" + h.read("/sys/class/net/"+h.Bridge+"/ifindex"))
	for line := range strings.Lines(state) {
		if s, found := strings.CutPrefix(strings.TrimSpace(line), "ADMIN_STATE="); found && !slices.Contains([]string{"unmanaged", "initialized", "pending"}, s) {
			return warn(`printf '[Match]\nName=`+h.Bridge+`\n[Link]\nUnmanaged=yes\n' >/etc/systemd/network/10-podd.network && networkctl reload`,
				"systemd-networkd configures %s (%s) and may take its addresses away", h.Bridge, s)
		}
	}
	return ok("%s is left to podd", h.Bridge)
}

func memfd(h Host) Finding {
	if h.read("/proc/sys/vm/memfd_noexec") == "2" {
		return ok("vm.memfd_noexec=2: podd-pause is executed from a read-only mount")
	}
	return ok("executable memory files are permitted")
}

func resolvConf(h Host) Finding {
	servers := nameServers(h.read("/etc/resolv.conf"))
	upstream := nameServers(h.read("/run/systemd/resolve/resolv.conf"))
	loopback := func(s string) bool {
		a, err := netip.ParseAddr(s)
		return err == nil && a.IsLoopback()
	}
	reachable := func(servers []string) bool {
		return slices.ContainsFunc(servers, func(s string) bool { return !loopback(s) })
	}
	switch {
	case len(servers) == 0:
		return warn("echo nameserver 9.9.9.9 >>/etc/resolv.conf", "no name servers: pods resolve no names")
	case !reachable(servers) && reachable(upstream):
		return ok("%s; pods get what systemd-resolved asks: %s", strings.Join(servers, ", "), strings.Join(upstream, ", "))
	case !reachable(servers):
		return warn("resolvConf: FILE in the agent's --config, with servers that pods reach", "only %s, which pods cannot reach: they resolve no names", strings.Join(servers, ", "))
	}
	return ok("%s", strings.Join(servers, ", "))
}

func nameServers(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			out = append(out, f[1])
		}
	}
	return out
}

func limits(h Host) Finding {
	for _, l := range []struct {
		path  string
		least int
		why   string
	}{
		{"/proc/sys/kernel/pid_max", 32768, "few processes fit"},
		{"/proc/sys/fs/inotify/max_user_instances", 128, "few programs can watch files"},
		{"/proc/sys/fs/inotify/max_user_watches", 8192, "few files can be watched"},
	} {
		if n, known := h.number(l.path); known && n < l.least {
			key := strings.ReplaceAll(strings.TrimPrefix(l.path, "/proc/sys/"), "/", ".")
			return warn(fmt.Sprintf("sysctl -w %s=%d", key, l.least), "%s is %d: %s", key, n, l.why)
		}
	}
	// The hard limit: the Go runtime raises the soft one to it.
	for line := range strings.Lines(h.read("/proc/self/limits")) {
		if rest, found := strings.CutPrefix(line, "Max open files"); found {
			if f := strings.Fields(rest); len(f) >= 2 {
				if n, err := strconv.Atoi(f[1]); err == nil && n < 4096 {
					const mend = "LimitNOFILE=1048576 in the unit, or ulimit -n 1048576"
					if n < 256 {
						return fail(mend, "at most %d open files: fewer than the agent needs", n)
					}
					return warn(mend, "at most %d open files: some hundred containers at most", n)
				}
			}
		}
	}
	return ok("processes, open files, inotify")
}

func lsm(h Host) Finding {
	var found []string
	if h.read("/sys/module/apparmor/parameters/enabled") == "Y" {
		found = append(found, "AppArmor")
	}
	switch h.read("/sys/fs/selinux/enforce") {
	case "1":
		return warn("setenforce 0, or a policy for podd", "SELinux enforces: podd labels neither processes nor volumes, and pods may be denied")
	case "0":
		found = append(found, "SELinux, permissive")
	}
	if l := h.read("/sys/kernel/security/lockdown"); strings.Contains(l, "[integrity]") || strings.Contains(l, "[confidentiality]") {
		found = append(found, "lockdown")
	}
	if h.read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
		found = append(found, "user namespaces restricted for others than root")
	}
	if len(found) == 0 {
		return ok("none")
	}
	return ok("%s", strings.Join(found, ", "))
}

func mounts(h Host) Finding {
	root, m := h.mountOf("/"), h.mountOf(h.RootDir)
	own, err := os.Readlink(filepath.Join(h.Root, "/proc/self/ns/mnt"))
	init, err1 := os.Readlink(filepath.Join(h.Root, "/proc/1/ns/mnt"))
	if err1 != nil {
		// Refused to who has less capabilities than PID 1. Its mounts may be read,
		// and each has a number of its own in every namespace.
		first := func(path string) string { id, _, _ := strings.Cut(h.read(path), " "); return id }
		own, init = first("/proc/self/mountinfo"), first("/proc/1/mountinfo")
	}
	if err == nil && init != "" && own != init {
		const mend = "PrivateTmp=no, ProtectSystem=no and PrivateMounts=no in the unit"
		if m.slave {
			return fail(mend, "the agent is in a mount namespace of its own that follows the host's, as systemd makes for PrivateTmp, ProtectSystem and the like: the next agent would not find the volumes of running pods")
		}
		return warn(mend, "not in PID 1's mount namespace: hostPath volumes show other files than the host has")
	}
	if p := h.mountOf("/proc"); strings.Contains(p.options+","+p.superOptions, "hidepid=") && !strings.Contains(p.superOptions, "hidepid=0") {
		return warn("mount -o remount,hidepid=0 /proc", "/proc hides processes (hidepid): programs that are not root see only their own")
	}
	for _, o := range []string{"ro", "noexec", "nosuid", "nodev"} {
		if has(m.options, o) {
			return warn("mount -o remount,"+map[string]string{"ro": "rw", "noexec": "exec", "nosuid": "suid", "nodev": "dev"}[o]+" "+m.at,
				"%s, which holds %s, is mounted %s, and volumes of pods are so too", m.at, h.RootDir, o)
		}
	}
	if !root.shared {
		return ok("/ is private: mounts that the host makes later do not appear in pods")
	}
	return ok("/ is shared")
}

func clock(h Host) Finding {
	if h.read("/proc/sys/kernel/random/boot_id") == "" {
		return warn("mount -t proc proc /proc", "the boot id cannot be read: pods cannot be told from those before a reboot")
	}
	synchronised, err := h.Kernel.ClockSynchronised()
	switch {
	case err != nil:
		return warn("", "cannot ask the clock: %v", err)
	case !synchronised:
		return warn("timedatectl set-ntp true", "the clock is not synchronised: certificates and times in logs may be wrong")
	}
	return ok("synchronised")
}
