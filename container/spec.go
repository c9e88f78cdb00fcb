package container

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Spec returns a container's runtime spec: everything that its start has to
// establish, but for its cgroup's name and its root file system, which the
// caller knows. Every error is a [ConfigError].
//
//   - Bind mounts carry the Source labels of the input.
//   - A namespace that is listed without a path is new, one with the path
//     [SandboxNamespace] the sandbox's; one that is missing is the host's.
//   - Linux.Devices lists every node of /dev; where it is empty, /dev is the
//     pod's own. Links (fd, stdin, stdout, stderr, core, ptmx) and, with a
//     terminal, the console are the start's business.
//   - Linux.Seccomp is nil for an unconfined container.
//   - Sysctls belong to the sandbox: [SandboxSysctls].
func Spec(in Input) (*specs.Spec, error) {
	// In the kubelet's order: what the pod asks, then what a runtime finds.
	vars, err := podVariables(in)
	if err != nil {
		return nil, err
	}
	who, err := processIdentity(in)
	if err != nil {
		return nil, err
	}
	args, err := arguments(in, vars)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(in)
	if err != nil {
		return nil, err
	}
	filter, err := seccompProfile(in, caps)
	if err != nil {
		return nil, err
	}
	masked, readonly := hiddenPaths(in)
	oomScore := OOMScoreAdj(in.Pod, in.Container, in.NodeMemoryBytes)
	resources := Resources(in.Pod, in.Container).OCI(in.CgroupV2)
	resources.Devices = deviceRules(in)

	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: readOnlyRoot(in.Container)},
		Process: &specs.Process{
			Terminal: in.Container.TTY,
			User:     who.User,
			Args:     args,
			Env:      environment(in, vars, who.home),
			Cwd:      workingDir(in),
			Capabilities: &specs.LinuxCapabilities{
				Bounding: caps, Effective: caps, Permitted: caps,
			},
			NoNewPrivileges: noNewPrivileges(in.Container),
			OOMScoreAdj:     &oomScore,
		},
		Mounts: mounts(in),
		Linux: &specs.Linux{
			Resources:     resources,
			Namespaces:    namespaces(in),
			Devices:       devices(in),
			Seccomp:       filter,
			MaskedPaths:   masked,
			ReadonlyPaths: readonly,
		},
	}, nil
}

// environment is the image's, overridden by the pod's, with what every
// container has where both are silent.
func environment(in Input, fromPod *variables, home string) []string {
	all := &variables{}
	for _, e := range in.Image.Env {
		name, value, _ := strings.Cut(e, "=")
		all.set(name, value)
	}
	for _, name := range fromPod.names {
		all.set(name, fromPod.values[name])
	}
	all.setDefault("HOSTNAME", in.Hostname)
	all.setDefault("PATH", defaultPath)
	if in.Container.TTY {
		all.setDefault("TERM", "xterm")
	}
	if h, _ := all.get("HOME"); h == "" { // as runc does
		all.set("HOME", home)
	}
	return all.list()
}

// arguments: the pod's command replaces the image's entry point and
// arguments, the pod's args only the arguments.
func arguments(in Input, vars *variables) ([]string, error) {
	command, args := in.Image.Entrypoint, in.Image.Cmd
	if len(in.Container.Command) > 0 {
		command, args = expandAll(in.Container.Command, vars.get), nil
	}
	if len(in.Container.Args) > 0 {
		args = expandAll(in.Container.Args, vars.get)
	}
	all := append(append([]string{}, command...), args...)
	if len(all) == 0 {
		return nil, createError("no command specified")
	}
	return all, nil
}

func workingDir(in Input) string {
	dir := in.Container.WorkingDir
	if dir == "" {
		dir = in.Image.WorkingDir
	}
	if !strings.HasPrefix(dir, "/") {
		dir = "/" + dir
	}
	return dir
}

func namespaces(in Input) []specs.LinuxNamespace {
	spec := &in.Pod.Spec
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	sandbox := func(kind specs.LinuxNamespaceType) {
		list = append(list, specs.LinuxNamespace{Type: kind, Path: SandboxNamespace})
	}
	switch {
	case spec.HostPID:
	case spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace:
		sandbox(specs.PIDNamespace)
	default:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if !spec.HostIPC {
		sandbox(specs.IPCNamespace)
	}
	if !spec.HostNetwork {
		sandbox(specs.NetworkNamespace)
		sandbox(specs.UTSNamespace)
	}
	if userNamespace(in.Pod) {
		sandbox(specs.UserNamespace)
	}
	if !privileged(in.Container) {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

// userNamespace reports whether a pod has one of its own.
func userNamespace(pod *v1.Pod) bool {
	return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers
}
