// Package volumes turns a pod's volumes into mounts and directories on the host,
// and into detached trees that a container's mounts are made of.
//
// A volume is attached once, in the host's mount namespace, below the pod's
// directory (memory-backed ones as a tmpfs), where it outlives containers,
// sandbox and agent. Every container start gets a fresh clone of it from [Tree],
// with subPath, read-only and propagation already applied, so that whoever
// attaches it resolves no host path.
//
// The package fetches no objects, knows no container and keeps no state in
// memory: the file system and the kernel's mount table are the state, and calls
// for different pods may run side by side. Calls for one pod may not, but for [Tree]
// beside an [Ensure] of volumes that are set up; the pod's owner makes them one
// after the other. There is one file per kind.
//
// What is below a volume's root belongs to the workload, which may be hostile:
// nothing there is ever reached by a path that could lead through a symbolic link
// out of the volume.
//
// Read [Ensure], [Tree] and [Remove] first.
package volumes
