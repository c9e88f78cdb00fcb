package network

import (
	"fmt"
	"net/netip"
	"strings"
)

// solicitedNode returns the multicast group in which neighbours ask for a.
func solicitedNode(a netip.Addr) netip.Addr {
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	from := a.As16()
	copy(group[13:], from[13:])
	return netip.AddrFrom16(group)
}

// joined looks a group up in the text of /proc/net/igmp6: index, link, group in
// hexadecimal, and more.
func joined(table, link string, group netip.Addr) bool {
	want := fmt.Sprintf("%x", group.AsSlice())
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) >= 3 && f[1] == link && f[2] == want {
			return true
		}
	}
	return false
}
