// Package pause is what a pod's pause process runs. It holds the pod's
// namespaces, is the parent of its containers, writes their logs, records their
// exits and runs commands beside them.
//
// It obeys and records, and decides nothing: no restart, no probe, no back-off.
// It opens no host path; what it needs comes as descriptors with requests, which
// are described in package wire. It must stay small and quiet: it runs once per
// pod, imports little, and an idle one never wakes up.
//
// The leader thread belongs to the main goroutine, which does nothing after the
// start: a goroutine that ran an exec on the leader thread would leave the whole
// process in a container's mount namespace.
//
// Read first: [Main], process.serve (server_linux.go) and process.launch
// (container_linux.go).
package pause
