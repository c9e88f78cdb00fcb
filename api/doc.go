// Package api serves what is on the board over HTTP, and passes commands on.
//
// Three handlers: [ReadOnly] has the kubelet's read-only endpoints, for the
// loopback address; [MetricsOnly] has health and metrics, for any other
// address; [Control] adds what changes things, for a socket that only root can
// reach. [Client] is the other end of Control, used by the command line.
//
// The package owns no state. Pods come from the board, logs from their files,
// exec and restart pass through the manager.
//
// Read first: [Config], [Control] and [Client].
package api
