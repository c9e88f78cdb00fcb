package network

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/go-logr/logr"
)

// Family is an IP version.
type Family int

const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Config says which bridge and which addresses a [Network] uses.
type Config struct {
	// Bridge is the name of the bridge, at most 15 bytes; empty means "podd0".
	Bridge string
	// CIDRs are the ranges of pod addresses, at most one of each family. The
	// first address of each is the bridge's. Empty means 10.244.0.0/24 and a
	// unique local IPv6 /64, generated once and kept in StateDir.
	CIDRs []netip.Prefix
	// StateDir keeps the addresses that are handed out, and the generated IPv6
	// range. It is created if missing. One agent at a time uses it.
	StateDir string
	// MTU of bridge and pods, in bytes. Zero means that of the link with the
	// default route, or 1500 without one.
	MTU int
	// Logger gets what an operator should know once, such as a host without IPv6.
	Logger logr.Logger
	// HostNetNS is the network namespace that serves as the host's. Nil means
	// the one the process runs in. It is duplicated, so the caller may close it.
	HostNetNS *os.File
}

// PortMapping is one host port of a pod.
type PortMapping struct {
	// Protocol is "TCP" or "UDP". Others are refused with [UnsupportedProtocolError].
	Protocol string
	// HostIP limits the mapping to one address of the host. The zero value means
	// every address; 0.0.0.0 and :: mean every address of their family.
	HostIP        netip.Addr
	HostPort      uint16
	ContainerPort uint16
}

// String returns the mapping's host side, such as "8080/TCP" or
// "192.0.2.1:8080/TCP".
func (m PortMapping) String() string {
	if m.everyAddress() && !m.HostIP.IsValid() {
		return fmt.Sprintf("%d/%s", m.HostPort, m.Protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(m.HostIP, m.HostPort), m.Protocol)
}

// everyAddress tells whether the mapping is for all addresses of a family.
func (m PortMapping) everyAddress() bool {
	return !m.HostIP.IsValid() || m.HostIP.IsUnspecified()
}

// UnsupportedProtocolError is returned for a protocol other than TCP and UDP.
type UnsupportedProtocolError struct{ Mapping PortMapping }

func (e *UnsupportedProtocolError) Error() string {
	return fmt.Sprintf("host port %s: protocol not supported for host ports; supported: TCP, UDP", e.Mapping)
}

// PortConflictError is returned by [Network.ReservePorts] when somebody else has
// a host port. Trying again makes sense once the holder is gone.
type PortConflictError struct {
	Mapping PortMapping
	// PodUID is the pod that holds the port; empty when no pod of this Network does.
	PodUID string
	// PID and Command name the process that holds it; 0 and empty when it was
	// not found, as for a process of another PID namespace.
	PID     int
	Command string
}

func (e *PortConflictError) Error() string {
	switch {
	case e.PodUID != "":
		return fmt.Sprintf("host port %s is taken by pod %s", e.Mapping, e.PodUID)
	case e.PID != 0:
		return fmt.Sprintf("host port %s is taken by process %d (%s)", e.Mapping, e.PID, e.Command)
	}
	return fmt.Sprintf("host port %s is taken by a process that cannot be identified", e.Mapping)
}

// Held is what a pod that exists has of a Network.
type Held struct {
	Addrs []netip.Addr
	// Ports are the pod's host ports; empty removes what is mapped to it.
	Ports []PortMapping
}

// Stats are the counters of a pod's eth0 since it was attached, seen from the pod.
type Stats struct {
	Interface                               string // "eth0"
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}
