// Package sandbox is the agent's side of pod sandboxes: it makes and adopts
// them, starts containers in them, runs commands beside those, and destroys
// them.
//
// A sandbox is one pause process (program podd-pause, package sandbox/pause)
// with the pod's network, IPC and UTS namespaces. It is the parent of the pod's
// containers, writes their logs and records their exits, and it outlives the
// agent. What it knows is the truth; this package owns nothing but connections.
// The conversation between the two is drawn in package sandbox/wire.
//
// The package decides nothing: no restart, no back-off, no probe. It opens
// every host path; the pause process and a container's stage get descriptors.
//
// Read first: [Host.Ensure], [Sandbox.Start] and [Sandbox.Watch].
package sandbox
