package seccomp

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Kernel is a Linux version: {6, 1} is 6.1.
type Kernel [2]int

// ParseKernel reads what uname(2) calls the release: "6.18.44-amd64" is 6.18.
func ParseKernel(release string) (Kernel, error) {
	var k Kernel
	if n, _ := fmt.Sscanf(release, "%d.%d", &k[0], &k[1]); n != 2 || k[0] < 0 || k[1] < 0 {
		return Kernel{}, fmt.Errorf("cannot tell the kernel's version from %q", release)
	}
	return k, nil
}

func (k Kernel) atLeast(v *moby.KernelVersion) bool {
	return slices.Compare([]uint64{uint64(k[0]), uint64(k[1])}, []uint64{v.Kernel, v.Major}) >= 0
}

// Default returns the RuntimeDefault profile for a container with the given
// bounding set (names as "CAP_SYS_ADMIN") on the given kernel and GOARCH
// (amd64 or arm64). It is the caller's to change.
func Default(caps []string, kernel Kernel, arch string) *specs.LinuxSeccomp {
	p, err := resolve(moby.DefaultProfile(), caps, kernel, arch)
	if err != nil {
		panic(fmt.Sprintf("the built-in seccomp profile: %v", err))
	}
	return p
}

// Parse reads a profile that a user wrote: OCI JSON, or the form that Docker
// and CRI-O accept as well, whose rules may depend on capabilities, kernel and
// architecture ("archMap", "includes", "excludes"). The profile it returns can
// be compiled for arch.
func Parse(data []byte, caps []string, kernel Kernel, arch string) (*specs.LinuxSeccomp, error) {
	var conditional moby.Seccomp
	if err := json.Unmarshal(data, &conditional); err != nil {
		return nil, err
	}
	p, err := resolve(&conditional, caps, kernel, arch)
	if err != nil {
		return nil, err
	}
	if _, err := Compile(p, arch); err != nil {
		return nil, err
	}
	return p, nil
}

// resolve keeps those rules of a profile that apply to a container.
func resolve(conditional *moby.Seccomp, caps []string, kernel Kernel, arch string) (*specs.LinuxSeccomp, error) {
	m, ok := machines[arch]
	if !ok {
		return nil, fmt.Errorf("no seccomp filters for architecture %q", arch)
	}
	p := conditional.LinuxSeccomp
	if len(p.Architectures) != 0 && len(conditional.ArchMap) != 0 {
		return nil, errors.New("architectures and archMap exclude each other")
	}
	for _, a := range conditional.ArchMap {
		if a.Arch == m.native {
			p.Architectures = append([]specs.Arch{a.Arch}, a.SubArches...)
			break
		}
	}

	p.Syscalls = nil
	for i, rule := range conditional.Syscalls {
		if rule == nil {
			return nil, fmt.Errorf("syscalls[%d]: expected a rule; found null", i)
		}
		if !applies(rule, caps, kernel, arch) {
			continue
		}
		call := rule.LinuxSyscall
		if rule.Name != "" {
			if len(call.Names) != 0 {
				return nil, fmt.Errorf("syscalls[%d]: name and names exclude each other", i)
			}
			call.Names = []string{rule.Name}
		}
		p.Syscalls = append(p.Syscalls, call)
	}
	return &p, nil
}

// applies reports whether a rule's conditions hold: all that it includes, none
// that it excludes.
func applies(rule *moby.Syscall, caps []string, kernel Kernel, arch string) bool {
	if not := rule.Excludes; not != nil {
		if slices.Contains(not.Arches, arch) ||
			slices.ContainsFunc(not.Caps, func(c string) bool { return slices.Contains(caps, c) }) ||
			not.MinKernel != nil && kernel.atLeast(not.MinKernel) {
			return false
		}
	}
	if only := rule.Includes; only != nil {
		if len(only.Arches) > 0 && !slices.Contains(only.Arches, arch) ||
			slices.ContainsFunc(only.Caps, func(c string) bool { return !slices.Contains(caps, c) }) ||
			only.MinKernel != nil && !kernel.atLeast(only.MinKernel) {
			return false
		}
	}
	return true
}
