package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"podd/internal/atomicfile"
)

// defaultIPv4 is the range of pod addresses when none is asked for.
var defaultIPv4 = netip.MustParsePrefix("10.244.0.0/24")

// ulaFile is the name of the file that keeps the generated IPv6 range.
const ulaFile = "ipv6-prefix"

// route is a route of the host, as far as a range of addresses could overlap it.
type route struct {
	dst    netip.Prefix
	device string
}

func (r route) String() string {
	if r.device == "" {
		return r.dst.String()
	}
	return r.dst.String() + " dev " + r.device
}

// checkPrefixes returns the ranges masked and IPv4 first, or says what is wrong
// with them.
func checkPrefixes(cidrs []netip.Prefix) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, p := range cidrs {
		switch a := p.Addr(); {
		case !p.IsValid() || a.Is4In6():
			return nil, fmt.Errorf("pod CIDR %s: expected an IPv4 or IPv6 range such as 10.244.0.0/24", p)
		case a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified():
			return nil, fmt.Errorf("pod CIDR %s: expected a range of ordinary unicast addresses", p)
		case a.BitLen()-p.Bits() < 2:
			return nil, fmt.Errorf("pod CIDR %s: expected room for at least one pod beside the bridge: /30 or larger for IPv4, /126 or larger for IPv6", p)
		case a.Is4() && p.Bits() < 8 || a.Is6() && p.Bits() < 32:
			return nil, fmt.Errorf("pod CIDR %s: expected at most a /8 for IPv4, a /32 for IPv6", p)
		case slices.ContainsFunc(out, func(q netip.Prefix) bool { return q.Addr().Is4() == a.Is4() }):
			return nil, fmt.Errorf("pod CIDR %s: expected one range of each family, found two of the same", p)
		}
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return out, nil
}

// checkOverlap refuses a range that overlaps a route of the host. byDefault says
// that nobody asked for the range.
func checkOverlap(p netip.Prefix, byDefault bool, routes []route) error {
	for _, r := range routes {
		if r.dst.Bits() == 0 || !r.dst.Overlaps(p) {
			continue
		}
		if byDefault {
			return fmt.Errorf("default pod CIDR %s overlaps this host's route %s: choose another range with --pod-cidr", p, r)
		}
		return fmt.Errorf("pod CIDR %s overlaps this host's route %s", p, r)
	}
	return nil
}

// uniqueLocalPrefix returns the IPv6 range kept in dir, a new one the first time:
// fd, 40 random bits, subnet 0 (RFC 4193, section 3.2). It is kept durably,
// because pods and whatever was configured by hand know it. replaced tells that
// the file could not be understood.
func uniqueLocalPrefix(dir string) (p netip.Prefix, replaced bool, err error) {
	path := filepath.Join(dir, ulaFile)
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		if p, ok := parseULA(data); ok {
			return p, false, nil
		}
		replaced = true
	case !errors.Is(err, fs.ErrNotExist):
		return netip.Prefix{}, false, fmt.Errorf("cannot read the IPv6 range of pods: %w", err)
	}
	var b [16]byte
	b[0] = 0xfd
	rand.Read(b[1:6])
	p = netip.PrefixFrom(netip.AddrFrom16(b), 64)
	if err := atomicfile.Write(path, []byte(p.String()+"\n"), 0o600); err != nil {
		return netip.Prefix{}, false, fmt.Errorf("cannot keep the IPv6 range of pods: %w", err)
	}
	return p, replaced, nil
}

func parseULA(data []byte) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(strings.TrimSpace(string(data)))
	if err != nil || p.Bits() != 64 || p != p.Masked() || !p.Addr().Is6() || p.Addr().As16()[0] != 0xfd {
		return netip.Prefix{}, false
	}
	return p, true
}
