// Package network gives pods their addresses, their link to a bridge and their
// host ports.
//
// One [Network] is one bridge in the host's network namespace with a range of
// IPv4 and usually one of IPv6 addresses. A pod is a network namespace somebody
// else made; this package puts an eth0 into it. It does not know what a pod is
// beyond its UID, starts no process, runs no other program but iptables-legacy,
// where another firewall drops by it, and holds nothing that must outlive it: the kernel keeps bridge, links and nftables entries, a
// file keeps the addresses. An agent that dies therefore takes no connection
// with it, and the next [Open] finds everything as it was.
//
// Everything global is named after the bridge, so that several agents, each
// with its own bridge and range, work side by side: the bridge itself, the
// nftables table "podd-<bridge>", and the host's ends of the pods' links. What
// another agent made is neither read nor changed.
//
// Sysctls that are changed, each only where it differs:
//
//	net.ipv4.ip_forward                       1
//	net.ipv4.conf.<bridge>.route_localnet     1  host ports by 127.0.0.1
//	net.ipv6.conf.all.forwarding              1  with IPv6
//	net.ipv6.conf.<uplink>.accept_ra          2  where it was 1, before forwarding is turned on
//	net.ipv6.conf.<bridge>.{accept_ra,accept_dad}   0
//	net.ipv6.conf.<host's end>.disable_ipv6   1  a bridge port needs no address
//	net.ipv6.conf.eth0.{accept_ra,accept_dad} 0  in the pod's namespace
//
// The order for a new pod is [Network.Allocate], [Network.ReservePorts],
// [Network.Attach], [Network.MapPorts]; for one that ends
// [Network.UnmapPorts], [Network.Detach], [Network.Release].
//
// Read first: [Network], [Network.Attach], ruleset in nft_linux.go.
package network
