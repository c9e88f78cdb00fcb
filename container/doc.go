// Package container turns one container of a pod, together with its image's
// configuration, into an OCI runtime spec.
//
// It is pure: it opens no file, asks no kernel and keeps no state. What it
// needs to know of the image's root file system, of the host and of the pod's
// sandbox is handed in through [Input]; what it finds wrong comes back as a
// [ConfigError] with the reason and the words a kubelet would show.
//
// It does not start anything: the spec says what a container's start has to
// establish, the sandbox establishes it.
//
// Read first: [Input], [Spec] and [ConfigError]. Beside them stand the parts of
// a pod's surroundings that are computed the same way: cgroup values
// ([Resources], [PodResources], [OOMScoreAdj]), generated files ([HostsFile],
// [ResolvConf], [Hostname]), sysctls ([CheckSysctls], [SandboxSysctls]) and the
// expansion of probe commands and subPathExpr.
package container
