package container

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// safeSysctls need no permission: they are namespaced and do no harm to others.
// Source: Kubernetes docs, "Using sysctls in a Kubernetes Cluster".
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.tcp_wmem",
}

// SysctlForbidden is the reason of a pod that [CheckSysctls] refuses.
const SysctlForbidden = "SysctlForbidden"

// CheckSysctls returns why a pod may not run with the sysctls it asks for, in
// the kubelet's words. allowed are the node's: names, or prefixes that end in *.
func CheckSysctls(pod *v1.Pod, allowed []string) error {
	for _, s := range podSysctls(pod) {
		name := sysctlName(s.Name)
		of := namespaceOf(name)
		switch {
		case of == "" || !slices.Contains(safeSysctls, name) && !slices.ContainsFunc(allowed, func(a string) bool {
			prefix, isPrefix := strings.CutSuffix(sysctlName(a), "*")
			return name == prefix || isPrefix && strings.HasPrefix(name, prefix)
		}):
			return fmt.Errorf("forbidden sysctl: %q not allowlisted", name)
		case of == networkSysctl && pod.Spec.HostNetwork:
			return fmt.Errorf("forbidden sysctl: %q not allowed with host net enabled", name)
		case of == ipcSysctl && pod.Spec.HostIPC:
			return fmt.Errorf("forbidden sysctl: %q not allowed with host ipc enabled", name)
		}
	}
	return nil
}

// SandboxSysctls returns what to write below /proc/sys in a pod's sandbox, with
// containerd's defaults where the pod says nothing else. Names have dots; to
// become a path, dots are exchanged for slashes and slashes for dots.
func SandboxSysctls(pod *v1.Pod) map[string]string {
	set := map[string]string{}
	if !pod.Spec.HostNetwork {
		set["net.ipv4.ip_unprivileged_port_start"] = "0"
		if !userNamespace(pod) {
			set["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	for _, s := range podSysctls(pod) {
		set[sysctlName(s.Name)] = s.Value
	}
	return set
}

func podSysctls(pod *v1.Pod) []v1.Sysctl {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.Sysctls
}

// sysctlName turns slashes into dots. As in sysctl(8), the separator that comes
// first tells which form a name has; in the form with slashes a dot is part of
// an interface's name and becomes a slash.
func sysctlName(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(name)
}

const (
	networkSysctl = "network"
	ipcSysctl     = "ipc"
)

// namespaceOf returns which namespace a sysctl belongs to; "" for none.
func namespaceOf(name string) string {
	switch {
	case strings.Contains(name, ".."), strings.Contains(name, "//"):
		return "" // as a path below /proc/sys it would lead elsewhere
	case strings.HasPrefix(name, "net."):
		return networkSysctl
	case strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"),
		name == "kernel.sem", strings.HasPrefix(name, "fs.mqueue."):
		return ipcSysctl
	}
	return ""
}
