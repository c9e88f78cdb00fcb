package container

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"podd/container/seccomp"
)

// defaultCapabilities are containerd's.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// knownCapabilities returns all that Linux has, in the order of their numbers.
func knownCapabilities() []string {
	var names []string
	for _, c := range capability.ListKnown() {
		names = append(names, "CAP_"+strings.ToUpper(c.String()))
	}
	return names
}

// privileged reports whether a container gives up its confinement.
func privileged(c *v1.Container) bool {
	s := c.SecurityContext
	return s != nil && s.Privileged != nil && *s.Privileged
}

// capabilities returns what a container's process may do, in the order of the
// capabilities' numbers. A capability that it gets by default or through ALL
// but that the agent lacks is left out; one asked for by name is an error.
// Names that no kernel knows are passed over, as under a kubelet. ALL counts
// first, then single adds, then single drops.
func capabilities(in Input) ([]string, error) {
	if privileged(in.Container) {
		return available(knownCapabilities(), in.Capabilities), nil
	}
	known := knownCapabilities()
	set := slices.Clone(defaultCapabilities)
	var asked []string
	if s := in.Container.SecurityContext; s != nil && s.Capabilities != nil {
		add, drop := names(s.Capabilities.Add), names(s.Capabilities.Drop)
		if slices.Contains(add, "CAP_ALL") {
			set = slices.Clone(known)
		}
		if slices.Contains(drop, "CAP_ALL") {
			set = nil
		}
		for _, c := range add {
			if slices.Contains(known, c) {
				set, asked = append(set, c), append(asked, c)
			}
		}
		dropped := func(c string) bool { return slices.Contains(drop, c) }
		set, asked = slices.DeleteFunc(set, dropped), slices.DeleteFunc(asked, dropped)
	}
	for _, c := range asked {
		if !slices.Contains(in.Capabilities, c) {
			return nil, createError("cannot add capability %s: this node does not have it to give", c)
		}
	}
	return slices.DeleteFunc(known, func(c string) bool {
		return !slices.Contains(set, c) || !slices.Contains(in.Capabilities, c)
	}), nil
}

func available(wanted, have []string) []string {
	return slices.DeleteFunc(wanted, func(c string) bool { return !slices.Contains(have, c) })
}

// names returns capabilities the way the kernel's header spells them.
func names(list []v1.Capability) []string {
	var full []string
	for _, c := range list {
		name := strings.ToUpper(string(c))
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		full = append(full, name)
	}
	return full
}

// noNewPrivileges: only an explicit false forbids gaining privileges.
func noNewPrivileges(c *v1.Container) bool {
	s := c.SecurityContext
	return s != nil && s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation
}

// SeccompProfile returns the profile that applies to a container: its own, the
// pod's, or RuntimeDefault. A privileged container is Unconfined.
func SeccompProfile(pod *v1.Pod, c *v1.Container) v1.SeccompProfile {
	if privileged(c) {
		return v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}
	}
	if s := c.SecurityContext; s != nil && s.SeccompProfile != nil {
		return *s.SeccompProfile
	}
	if s := pod.Spec.SecurityContext; s != nil && s.SeccompProfile != nil {
		return *s.SeccompProfile
	}
	return v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}
}

// seccompProfile returns nil for an unconfined container.
func seccompProfile(in Input, caps []string) (*specs.LinuxSeccomp, error) {
	profile := SeccompProfile(in.Pod, in.Container)
	switch profile.Type {
	case v1.SeccompProfileTypeUnconfined:
		return nil, nil
	case v1.SeccompProfileTypeRuntimeDefault:
		return seccomp.Default(caps, in.Kernel, in.Arch), nil
	case v1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
			return nil, configError("localhostProfile must be set if seccompProfile type is Localhost.")
		}
		name := *profile.LocalhostProfile
		read := in.LocalhostProfile
		if read == nil {
			read = func(string) ([]byte, error) { return nil, fs.ErrNotExist }
		}
		text, err := read(name)
		if err != nil {
			return nil, createError("cannot load seccomp profile %q: %w", name, err)
		}
		parsed, err := seccomp.Parse(text, caps, in.Kernel, in.Arch)
		if err != nil {
			return nil, createError("seccomp profile %q: %w", name, err)
		}
		return parsed, nil
	}
	return nil, configError("unknown seccomp profile type %q", profile.Type)
}

// maskedPaths and readonlyPaths are containerd's; the thermal_throttle
// directories of all CPUs come on top.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// hiddenPaths returns what of /proc and /sys a container does not see or does
// not write. A path that does not exist needs nothing.
func hiddenPaths(in Input) (masked, readonly []string) {
	s := in.Container.SecurityContext
	if privileged(in.Container) || s != nil && s.ProcMount != nil && *s.ProcMount == v1.UnmaskedProcMount {
		return nil, nil
	}
	masked = slices.Clone(maskedPaths)
	for cpu := range in.CPUs {
		masked = append(masked, fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", cpu))
	}
	return masked, slices.Clone(readonlyPaths)
}
