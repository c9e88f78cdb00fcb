package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Sysctls below /proc/sys/net are those of the calling thread's network
// namespace, see net/sysctl_net.c. Keys are written as paths, because an
// interface name may contain dots.

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile("/proc/sys/net/" + key)
	return strings.TrimSpace(string(b)), err
}

// setSysctl writes only where the value differs: where /proc/sys is read-only,
// as in many containers, values that are right already are enough.
func setSysctl(key, value string) error {
	if had, err := readSysctl(key); err == nil && had == value {
		return nil
	}
	if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
		return fmt.Errorf("cannot set sysctl net/%s to %s: %w", key, value, withoutPath(err))
	}
	return nil
}

func withoutPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// hasIPv6 tells whether new interfaces get IPv6 here.
func hasIPv6() bool {
	all, err := readSysctl("ipv6/conf/all/disable_ipv6")
	return err == nil && all == "0"
}

// forwardIPv4 lets packets pass from and to the bridge.
func forwardIPv4(bridge string) error {
	if err := setSysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	// The bridge inherits conf/default, which an administrator may have turned off.
	return setSysctl("ipv4/conf/"+bridge+"/forwarding", "1")
}

// forwardIPv6 lets packets pass; for IPv6 there is one switch for all
// interfaces. A host that forwards ignores router advertisements unless
// accept_ra is 2, and would lose its default route minutes later: interfaces
// that listen to routers today go on doing so. Source: kernel
// Documentation/networking/ip-sysctl.rst, accept_ra and forwarding.
func forwardIPv6(bridge string) error {
	if on, err := readSysctl("ipv6/conf/all/forwarding"); err == nil && on == "1" {
		return nil
	}
	interfaces, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil {
		return fmt.Errorf("cannot list interfaces with IPv6: %w", err)
	}
	for _, i := range interfaces {
		switch i.Name() {
		case "all", "default", "lo", bridge:
			continue
		}
		key := "ipv6/conf/" + i.Name() + "/accept_ra"
		if had, err := readSysctl(key); err != nil || had != "1" {
			continue // gone meanwhile, or not listening
		}
		if err := setSysctl(key, "2"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return setSysctl("ipv6/conf/all/forwarding", "1")
}
