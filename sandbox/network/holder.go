package network

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Socket states of /proc/net/tcp and /proc/net/udp, see enum in the kernel's
// include/net/tcp_states.h. An unconnected UDP socket is in state "close".
const (
	stateClose  = 7
	stateListen = 10
)

// hostSocket is one line of /proc/net/{tcp,tcp6,udp,udp6}.
type hostSocket struct {
	local netip.AddrPort
	state byte
	inode uint64 // 0 for a connection nobody holds any more
}

// parseSockets reads a table of sockets as proc_net_tcp.rst in the kernel's
// documentation describes it. Lines that do not look so are left out.
func parseSockets(table string) []hostSocket {
	var out []hostSocket
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		local, ok := parseSocketAddr(f[1])
		state, err1 := strconv.ParseUint(f[3], 16, 8)
		inode, err2 := strconv.ParseUint(f[9], 10, 64)
		if ok && err1 == nil && err2 == nil {
			out = append(out, hostSocket{local, byte(state), inode})
		}
	}
	return out
}

// parseSocketAddr reads "0100007F:1F90". The address is printed as 32-bit words
// of the machine's byte order, the port as a number.
func parseSocketAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	words, err1 := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err1 != nil || err2 != nil || len(words) != 4 && len(words) != 16 {
		return netip.AddrPort{}, false
	}
	for w := range slices.Chunk(words, 4) {
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	a, _ := netip.AddrFromSlice(words)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}

// inTheWay tells whether a socket on the host stands against reserving a port
// on this address, the zero address meaning all.
func (s hostSocket) inTheWay(m PortMapping) bool {
	a := s.local.Addr()
	return s.local.Port() == m.HostPort && (m.everyAddress() || a.IsUnspecified() || a == m.HostIP)
}

// serves tells whether the socket takes what anyone sends to its port. Others
// are ends of connections: the remains of a former server, or a client that got
// this port by chance. They keep working beside a host port.
func (s hostSocket) serves() bool { return s.state == stateListen || s.state == stateClose }
