package container

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"podd/container/seccomp"
)

const defaultCaps = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP"

func TestCapabilities(t *testing.T) {
	all := strings.Join(knownCapabilities(), " ")
	all = strings.ReplaceAll(all, "CAP_", "")
	without := func(list string, names ...string) string {
		return strings.Join(slices.DeleteFunc(strings.Fields(list), func(c string) bool { return slices.Contains(names, c) }), " ")
	}
	for _, tt := range []struct {
		name       string
		add, drop  []v1.Capability
		privileged bool
		lacks      []string // of the agent
		want       string
		problem    string
	}{
		{name: "default", want: defaultCaps},
		{name: "add one", add: []v1.Capability{"SYS_TIME"}, want: strings.Replace(defaultCaps, "MKNOD", "SYS_TIME MKNOD", 1)},
		{name: "add by the kernel's name", add: []v1.Capability{"cap_sys_time"}, want: strings.Replace(defaultCaps, "MKNOD", "SYS_TIME MKNOD", 1)},
		{name: "drop one", drop: []v1.Capability{"NET_RAW"}, want: without(defaultCaps, "NET_RAW")},
		{name: "drop all", drop: []v1.Capability{"ALL"}},
		{name: "drop all but one", add: []v1.Capability{"NET_ADMIN"}, drop: []v1.Capability{"ALL"}, want: "NET_ADMIN"},
		{name: "add all", add: []v1.Capability{"ALL"}, want: all},
		{name: "add all but one", add: []v1.Capability{"ALL"}, drop: []v1.Capability{"SYS_ADMIN"}, want: without(all, "SYS_ADMIN")},
		{name: "added and dropped is dropped", add: []v1.Capability{"SYS_TIME"}, drop: []v1.Capability{"SYS_TIME"}, want: defaultCaps},
		{name: "unknown names are passed over", add: []v1.Capability{"FLY"}, drop: []v1.Capability{"SWIM"}, want: defaultCaps},
		{name: "privileged has all, drops or not", privileged: true, drop: []v1.Capability{"ALL"}, want: all},
		{name: "privileged has what the agent has", privileged: true, lacks: []string{"SYS_RESOURCE"}, want: without(all, "SYS_RESOURCE")},
		{name: "all is what the agent has", add: []v1.Capability{"ALL"}, lacks: []string{"SYS_RESOURCE"}, want: without(all, "SYS_RESOURCE")},
		{name: "a default that the agent lacks is left out", lacks: []string{"MKNOD"}, want: without(defaultCaps, "MKNOD")},
		{name: "one asked for by name is not", add: []v1.Capability{"SYS_RESOURCE"}, lacks: []string{"SYS_RESOURCE"},
			problem: "cannot add capability CAP_SYS_RESOURCE: this node does not have it to give"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			in.Container.SecurityContext = &v1.SecurityContext{
				Capabilities: &v1.Capabilities{Add: tt.add, Drop: tt.drop}, Privileged: &tt.privileged,
			}
			in.Capabilities = slices.DeleteFunc(in.Capabilities, func(c string) bool {
				return slices.Contains(tt.lacks, strings.TrimPrefix(c, "CAP_"))
			})
			spec, err := Spec(in)
			wantError(t, err, ReasonCreate, tt.problem)
			if err != nil {
				return
			}
			c := spec.Process.Capabilities
			got := strings.ReplaceAll(strings.Join(c.Bounding, " "), "CAP_", "")
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if !slices.Equal(c.Effective, c.Bounding) || !slices.Equal(c.Permitted, c.Bounding) {
				t.Errorf("effective %v, permitted %v, bounding %v", c.Effective, c.Permitted, c.Bounding)
			}
			if len(c.Inheritable) != 0 || len(c.Ambient) != 0 {
				t.Errorf("inheritable %v, ambient %v: must be empty", c.Inheritable, c.Ambient)
			}
		})
	}
}

func TestOnlyAnExplicitFalseSetsNoNewPrivileges(t *testing.T) {
	for _, tt := range []struct {
		context *v1.SecurityContext
		want    bool
	}{
		{nil, false},
		{&v1.SecurityContext{}, false},
		{&v1.SecurityContext{AllowPrivilegeEscalation: ptr(true)}, false},
		{&v1.SecurityContext{AllowPrivilegeEscalation: ptr(false)}, true},
	} {
		in := input()
		in.Container.SecurityContext = tt.context
		spec, err := Spec(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := spec.Process.NoNewPrivileges; got != tt.want {
			t.Errorf("%v: got %v", tt.context, got)
		}
	}
}

func TestSeccompProfiles(t *testing.T) {
	profile := func(kind v1.SeccompProfileType, name string) *v1.SeccompProfile {
		p := &v1.SeccompProfile{Type: kind}
		if name != "" {
			p.LocalhostProfile = &name
		}
		return p
	}
	unconfined := profile(v1.SeccompProfileTypeUnconfined, "")
	runtimeDefault := profile(v1.SeccompProfileTypeRuntimeDefault, "")
	for _, tt := range []struct {
		name       string
		pod, own   *v1.SeccompProfile
		privileged bool
		caps       []v1.Capability
		want       string // "", "default" or the profile's default action
		reason     string
		problem    string
	}{
		{name: "nothing said is RuntimeDefault", want: "default"},
		{name: "Unconfined", own: unconfined},
		{name: "the container goes before the pod", pod: unconfined, own: runtimeDefault, want: "default"},
		{name: "the pod's holds for its containers", pod: unconfined},
		{name: "privileged has none", privileged: true, own: runtimeDefault},
		{name: "Localhost", own: profile(v1.SeccompProfileTypeLocalhost, "audit.json"), want: "SCMP_ACT_LOG"},
		{name: "Localhost in the pod", pod: profile(v1.SeccompProfileTypeLocalhost, "audit.json"), want: "SCMP_ACT_LOG"},
		{name: "Localhost without a name", own: profile(v1.SeccompProfileTypeLocalhost, ""), reason: ReasonConfig,
			problem: "localhostProfile must be set if seccompProfile type is Localhost."},
		{name: "Localhost that is missing", own: profile(v1.SeccompProfileTypeLocalhost, "none.json"), reason: ReasonCreate,
			problem: `cannot load seccomp profile "none.json": open none.json: no such file`},
		{name: "Localhost that is malformed", own: profile(v1.SeccompProfileTypeLocalhost, "bad.json"), reason: ReasonCreate,
			problem: `seccomp profile "bad.json": defaultAction: unknown action "NO"`},
		{name: "an unknown type", own: profile("Strict", ""), reason: ReasonConfig, problem: `unknown seccomp profile type "Strict"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			in.Pod.Spec.SecurityContext.SeccompProfile = tt.pod
			in.Container.SecurityContext = &v1.SecurityContext{SeccompProfile: tt.own, Privileged: &tt.privileged}
			in.LocalhostProfile = func(name string) ([]byte, error) {
				switch name {
				case "audit.json":
					return []byte(`{"defaultAction": "SCMP_ACT_LOG"}`), nil
				case "bad.json":
					return []byte(`{"defaultAction": "NO"}`), nil
				}
				return nil, fmt.Errorf("open %s: no such file", name)
			}
			spec, err := Spec(in)
			wantError(t, err, tt.reason, tt.problem)
			if err != nil {
				return
			}
			got := spec.Linux.Seccomp
			switch tt.want {
			case "":
				if got != nil {
					t.Errorf("got a profile, want none")
				}
			case "default":
				want := seccomp.Default(spec.Process.Capabilities.Bounding, in.Kernel, in.Arch)
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %v, want the default profile", got)
				}
			default:
				if got == nil || got.DefaultAction != specs.LinuxSeccompAction(tt.want) {
					t.Errorf("got %v, want %s", got, tt.want)
				}
			}
		})
	}
}

func TestHiddenPaths(t *testing.T) {
	in := input()
	in.CPUs = 2
	spec, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	wantMasked := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/system/cpu/cpu0/thermal_throttle", "/sys/devices/system/cpu/cpu1/thermal_throttle",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	if got := slices.Sorted(slices.Values(spec.Linux.MaskedPaths)); !slices.Equal(got, wantMasked) {
		t.Errorf("masked: got %q\nwant %q", got, wantMasked)
	}
	wantReadonly := []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	if got := spec.Linux.ReadonlyPaths; !slices.Equal(got, wantReadonly) {
		t.Errorf("read-only: got %q", got)
	}
	for name, context := range map[string]v1.SecurityContext{
		"privileged":         {Privileged: ptr(true)},
		"procMount Unmasked": {ProcMount: ptr(v1.UnmaskedProcMount)},
	} {
		in.Container.SecurityContext = &context
		spec, err := Spec(in)
		if err != nil {
			t.Fatal(err)
		}
		if len(spec.Linux.MaskedPaths)+len(spec.Linux.ReadonlyPaths) != 0 {
			t.Errorf("%s: masked %q, read-only %q", name, spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths)
		}
	}
}
