package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"podd/api/node"
	"podd/pod/native"
)

// nodeIdentity returns the node's name and its addresses, at most one of each
// family: those of the link with the default route, or of any link but ours.
func nodeIdentity(override, bridge string) (name string, ips []netip.Addr, err error) {
	if name = override; name == "" {
		if name, err = os.Hostname(); err != nil {
			return "", nil, fmt.Errorf("cannot tell the host's name: %w", err)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if ip, ok := hostIP(family, bridge); ok {
			ips = append(ips, ip)
		}
	}
	return strings.ToLower(name), ips, nil
}

func hostIP(family int, bridge string) (netip.Addr, bool) {
	preferred := map[int]bool{}
	routes, err := netlink.RouteList(nil, family)
	addrs, addrErr := netlink.AddrList(nil, family)
	if errors.Is(addrErr, netlink.ErrDumpInterrupted) {
		addrErr = nil // others come and go meanwhile
	}
	if err != nil || addrErr != nil {
		return netip.Addr{}, false // a host without the family
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			preferred[r.LinkIndex] = true
		}
	}
	own := 0 // the bridge's index; 0: there is none yet
	if l, err := netlink.LinkByName(bridge); err == nil {
		own = l.Attrs().Index
	}
	slices.SortStableFunc(addrs, func(a, b netlink.Addr) int { return a.LinkIndex - b.LinkIndex })
	var found netip.Addr
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if !ok || !ip.IsGlobalUnicast() || a.LinkIndex == own {
			continue
		}
		if preferred[a.LinkIndex] {
			return ip, true
		}
		if !found.IsValid() {
			found = ip
		}
	}
	return found, found.IsValid()
}

// kubernetesVersion is the version whose kubelet's behaviour podd has, as the API
// and the Node show it.
const kubernetesVersion = "v1.37.2"

// nodeFacts reads what does not change about the machine; what cannot be read
// stays empty.
func nodeFacts(name string, ips []netip.Addr, podCIDRs []netip.Prefix, kubeletPort int) node.Facts {
	text := func(paths ...string) string {
		for _, path := range paths {
			if data, err := os.ReadFile(path); err == nil {
				return strings.TrimSpace(string(data))
			}
		}
		return ""
	}
	f := node.Facts{
		Name: name, IPs: ips, Version: kubernetesVersion, RuntimeVersion: versionText(), KubeletPort: kubeletPort,
		MachineID:  text("/etc/machine-id", "/var/lib/dbus/machine-id"),
		SystemUUID: text("/sys/class/dmi/id/product_uuid"),
		BootID:     text("/proc/sys/kernel/random/boot_id"),
	}
	for _, c := range podCIDRs {
		f.PodCIDRs = append(f.PodCIDRs, c.String())
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		f.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	}
	for line := range strings.Lines(text("/etc/os-release", "/usr/lib/os-release")) { // os-release(5)
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			f.OSImage = strings.Trim(value, `"'`)
		}
	}
	return f
}

// nodeLoad measures how much of the machine is left.
func nodeLoad(m *native.Meter, rootDir string) (node.Load, error) {
	u, err := m.Machine()
	if err != nil {
		return node.Load{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(rootDir, &fs); err != nil {
		return node.Load{}, fmt.Errorf("cannot read the size of the file system of %s: %w", rootDir, err)
	}
	l := node.Load{
		Cores: u.Cores, MemoryBytes: u.MemoryBytes, AvailableBytes: u.MemoryBytes - min(u.MemoryBytes, u.WorkingSetBytes),
		DiskBytes: u.DiskBytes, AvailableDiskBytes: u.AvailableDiskBytes, Inodes: fs.Files, FreeInodes: fs.Ffree,
	}
	// The fourth field is RUNNING/ALL of the kernel's threads, which have PIDs.
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return l, nil // without a limit there is no pressure
	}
	if fields := strings.Fields(string(load)); len(fields) > 3 {
		_, all, _ := strings.Cut(fields[3], "/")
		l.UsedPIDs, _ = strconv.ParseUint(all, 10, 64)
	}
	most, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err == nil {
		l.PIDs, _ = strconv.ParseUint(strings.TrimSpace(string(most)), 10, 64)
	}
	return l, nil
}
