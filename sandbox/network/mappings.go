package network

import (
	"fmt"
	"net/netip"
)

// IANA protocol numbers.
const (
	protoTCP = 6
	protoUDP = 17
)

// portKey is the host side of a host port: one key of a map in the kernel.
type portKey struct {
	family Family
	hostIP netip.Addr // zero: every address of the family
	proto  byte
	port   uint16
}

// portEntry is where a host port leads, and whose it is.
type portEntry struct {
	to  netip.AddrPort
	uid string
}

// ports is the content of the host port maps.
type ports map[portKey]portEntry

// protocol returns the mapping's IANA protocol number.
func (m PortMapping) protocol() (byte, error) {
	switch m.Protocol {
	case "TCP":
		return protoTCP, nil
	case "UDP":
		return protoUDP, nil
	}
	return 0, &UnsupportedProtocolError{m}
}

// targets says what is wrong with a mapping for a pod with these addresses, and
// otherwise which of them it leads to.
func (m PortMapping) targets(addrs []netip.Addr) ([]netip.Addr, error) {
	if _, err := m.protocol(); err != nil {
		return nil, err
	}
	if m.HostPort == 0 || m.ContainerPort == 0 {
		return nil, fmt.Errorf("host port %s to %d: expected ports from 1 to 65535", m, m.ContainerPort)
	}
	if m.HostIP == netip.IPv6Loopback() {
		return nil, fmt.Errorf("host port %s: host IP ::1 not supported, because Linux routes nothing from ::1; use 127.0.0.1", m)
	}
	var out []netip.Addr
	for _, a := range addrs {
		if !m.HostIP.IsValid() || familyOf(m.HostIP) == familyOf(a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 && m.HostIP.IsValid() {
		return nil, fmt.Errorf("host port %s: the pod has no %s address", m, familyOf(m.HostIP))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("host port %s: the pod has no address", m)
	}
	return out, nil
}

// key returns the mapping's host side for one family.
func (m PortMapping) key(f Family) portKey {
	proto, _ := m.protocol()
	k := portKey{family: f, proto: proto, port: m.HostPort}
	if !m.everyAddress() {
		k.hostIP = m.HostIP
	}
	return k
}

// overlaps tells whether two mappings, for different pods, want the same port.
func (k portKey) overlaps(o portKey) bool {
	return k.family == o.family && k.proto == o.proto && k.port == o.port &&
		(!k.hostIP.IsValid() || !o.hostIP.IsValid() || k.hostIP == o.hostIP)
}

// portsOf returns the elements of the host port maps for one pod.
func portsOf(uid string, mappings []PortMapping, addrs []netip.Addr) (ports, error) {
	out := ports{}
	for _, m := range mappings {
		targets, err := m.targets(addrs)
		if err != nil {
			return nil, err
		}
		for _, a := range targets {
			key, to := m.key(familyOf(a)), netip.AddrPortFrom(a, m.ContainerPort)
			if had, ok := out[key]; ok && had.to != to {
				return nil, fmt.Errorf("host port %s: mapped twice in pod %s, to ports %d and %d", m, uid, had.to.Port(), m.ContainerPort)
			}
			out[key] = portEntry{to, uid}
		}
	}
	return out, nil
}
