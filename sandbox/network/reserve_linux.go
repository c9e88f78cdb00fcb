package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReservePorts binds one socket or two per mapping on the host, so that no
// process and no other pod takes the port. The caller hands the files to
// whoever shall hold the ports, and closes its own. addrs are the pod's
// addresses; a mapping is for their families. On error no file is returned.
//
// A port that only connections of a former server still use, or a client that
// got it by chance, is no conflict: it is left without a socket, and mapped all
// the same.
func (n *Network) ReservePorts(uid string, mappings []PortMapping, addrs []netip.Addr) (files []*os.File, err error) {
	mappings = normalized(mappings)
	wanted, err := portsOf(uid, mappings, addrs)
	if err != nil {
		return nil, err
	}
	files, err = n.bindPorts(uid, mappings, addrs)
	if err == nil && len(wanted) > 0 {
		n.mu.Lock()
		n.reserved[uid] = wanted
		n.mu.Unlock()
	}
	return files, err
}

// PortsFree tells whether [Network.ReservePorts] would succeed now. It leaves
// nothing reserved.
func (n *Network) PortsFree(uid string, mappings []PortMapping, addrs []netip.Addr) bool {
	files, err := n.bindPorts(uid, normalized(mappings), addrs)
	for _, f := range files {
		f.Close()
	}
	return err == nil
}

// bindPorts binds the sockets of [Network.ReservePorts].
func (n *Network) bindPorts(uid string, mappings []PortMapping, addrs []netip.Addr) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	err = inNetNS(n.hostNS, func() error {
		for _, m := range mappings {
			targets, _ := m.targets(addrs)
			f, err := reserve(m, targets)
			if errors.Is(err, unix.EADDRINUSE) {
				if err = n.conflict(uid, m, targets); err == nil {
					n.log.Info("host port is mapped but cannot be reserved while old connections use it", "pod", uid, "hostPort", m.String())
					continue
				}
			}
			if errors.Is(err, unix.EADDRNOTAVAIL) {
				err = fmt.Errorf("host port %s: this host has no address %s", m, m.HostIP)
			}
			if err != nil {
				return err
			}
			files = append(files, f)
		}
		return nil
	})
	return files, err
}

// reserve binds a mapping's port: for both families with one socket, otherwise
// for the one that targets have.
func reserve(m PortMapping, targets []netip.Addr) (*os.File, error) {
	has4 := slices.ContainsFunc(targets, netip.Addr.Is4)
	has6 := slices.ContainsFunc(targets, netip.Addr.Is6)
	domain, kind := unix.AF_INET, unix.SOCK_STREAM
	if has6 {
		domain = unix.AF_INET6
	}
	if m.Protocol == "UDP" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot reserve host port %s: %w", m, err)
	}
	f := os.NewFile(uintptr(fd), "host port "+m.String())
	if has6 {
		only := 1
		if has4 {
			only = 0
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot reserve host port %s: %w", m, err)
		}
	}
	if kind == unix.SOCK_DGRAM {
		err = holdUDP(fd, sockaddr(domain, m))
	} else {
		err = holdTCP(fd, sockaddr(domain, m))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot reserve host port %s: %w", m, err)
	}
	return f, nil
}

// holdTCP binds a port so that nobody else can, and so that connecting to it,
// where no mapping leads away, is refused.
//
// SO_REUSEADDR is there until we listen, because without it connections in
// TIME_WAIT of a former server would be in the way. Listening for an instant
// finds sockets that are bound with SO_REUSEADDR and do not listen. Afterwards
// the socket is bound only (shutdown takes a socket out of LISTEN and keeps a
// port that was bound explicitly, see tcp_disconnect), and without SO_REUSEADDR,
// or any server that sets it could bind beside us.
func holdTCP(fd int, addr unix.Sockaddr) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, addr); err != nil {
		return err
	}
	if err := unix.Listen(fd, 0); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		return err
	}
	return unix.Shutdown(fd, unix.SHUT_RD)
}

// holdUDP binds a port. What is sent to it past the mappings is thrown away by
// a filter that accepts nothing, not kept in the socket's buffer.
func holdUDP(fd int, addr unix.Sockaddr) error {
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	prog := unix.SockFprog{Len: 1, Filter: &nothing}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return err
	}
	return unix.Bind(fd, addr)
}

func sockaddr(domain int, m PortMapping) unix.Sockaddr {
	if domain == unix.AF_INET {
		a := &unix.SockaddrInet4{Port: int(m.HostPort)}
		if !m.everyAddress() {
			a.Addr = m.HostIP.As4()
		}
		return a
	}
	a := &unix.SockaddrInet6{Port: int(m.HostPort)}
	if !m.everyAddress() {
		a.Addr = m.HostIP.As16()
	}
	return a
}

// conflict finds who has a port that could not be bound. It returns nil when
// nobody serves on it. It runs in the host's namespace.
func (n *Network) conflict(uid string, m PortMapping, targets []netip.Addr) error {
	var found []hostSocket
	proto := strings.ToLower(m.Protocol)
	for _, name := range []string{proto, proto + "6"} {
		table, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			continue // no IPv6
		}
		for _, s := range parseSockets(string(table)) {
			if s.inTheWay(m) {
				found = append(found, s)
			}
		}
	}
	var serving []hostSocket
	for _, s := range found {
		if s.serves() {
			serving = append(serving, s)
		}
	}
	// What a pod holds for TCP never listens, so who listens is a process. For
	// UDP the two look alike, and the pod is the better answer.
	if m.Protocol == "TCP" && len(serving) > 0 {
		pid, command := holderOf(serving)
		return &PortConflictError{Mapping: m, PID: pid, Command: command}
	}
	holder, err := n.podHolding(m, targets)
	if err != nil {
		return err
	}
	if holder != "" {
		return &PortConflictError{Mapping: m, PodUID: holder}
	}
	if len(found) > 0 && len(serving) == 0 {
		return nil
	}
	pid, command := holderOf(serving)
	return &PortConflictError{Mapping: m, PID: pid, Command: command}
}

// podHolding returns the UID of the pod that has a port, by the kernel's maps
// and by what was reserved since and is not mapped yet.
func (n *Network) podHolding(m PortMapping, targets []netip.Addr) (string, error) {
	mapped, err := n.fw.read()
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range targets {
		want := m.key(familyOf(a))
		for key, e := range mapped {
			if key.overlaps(want) {
				return e.uid, nil
			}
		}
		for uid, held := range n.reserved {
			for key := range held {
				if key.overlaps(want) {
					return uid, nil
				}
			}
		}
	}
	return "", nil
}

// holderOf looks for a process that has one of these sockets open; 0 when there
// is none that this process may see.
func holderOf(sockets []hostSocket) (pid int, command string) {
	links := map[string]bool{}
	for _, s := range sockets {
		links["socket:["+strconv.FormatUint(s.inode, 10)+"]"] = true
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && links[target] {
			process := filepath.Dir(filepath.Dir(fd))
			pid, _ = strconv.Atoi(filepath.Base(process))
			comm, _ := os.ReadFile(process + "/comm")
			return pid, strings.TrimSpace(string(comm))
		}
	}
	return 0, ""
}

// normalized returns the mappings with IPv4 addresses in their plain form.
func normalized(mappings []PortMapping) []PortMapping {
	out := slices.Clone(mappings)
	for i := range out {
		out[i].HostIP = out[i].HostIP.Unmap().WithZone("")
	}
	return out
}
