package main

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
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
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			preferred[r.LinkIndex] = true
		}
	}
	links, linkErr := netlink.LinkList()
	if err != nil || linkErr != nil {
		return netip.Addr{}, false // a host without the family
	}
	var found netip.Addr
	for _, l := range links {
		if l.Attrs().Name == bridge {
			continue
		}
		addrs, err := netlink.AddrList(l, family)
		if err != nil {
			continue
		}
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			ip = ip.Unmap()
			if !ok || !ip.IsGlobalUnicast() {
				continue
			}
			if preferred[l.Attrs().Index] {
				return ip, true
			}
			if !found.IsValid() {
				found = ip
			}
		}
	}
	return found, found.IsValid()
}

// nodeLabels are the labels that a node has of itself.
func nodeLabels(name string) map[string]string {
	return map[string]string{
		v1.LabelHostname: name, v1.LabelOSStable: "linux", v1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": runtime.GOARCH,
	}
}
