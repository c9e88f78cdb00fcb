// Package cgroup keeps the control groups of pods: it creates, limits, kills,
// measures and removes them, on cgroup v1, on the hybrid layout (v1 controllers
// beside a v2 hierarchy without any) and on v2.
//
// It does not decide limits: numbers arrive computed. It starts no process
// either; [Group.Files] hands out the descriptors with which others do.
//
// The tree has the kubelet's names below a root of the agent's own:
//
//	<root>/pod<uid>/<container id>               Guaranteed pods
//	<root>/burstable/pod<uid>/<container id>
//	<root>/besteffort/pod<uid>/<container id>
//	<root>/podd-pause/<sandbox id>               pause processes, outside every pod's limits
//
// All state is in the kernel; a Tree or Group is only a name for it, so any
// number of them may exist for the same group and all methods may be called
// from several goroutines.
//
// Read [Tree], [Group] and [Limits] first.
package cgroup
