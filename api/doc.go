// Package api serves what is on the board over HTTP, and passes commands on.
//
// Three handlers: [ReadOnly] has the kubelet's read-only endpoints, for the
// loopback address; [MetricsOnly] has health and metrics, for any other
// address; [Control] has the whole Kubernetes API and what Kubernetes has no words
// for, for a socket that only root can reach. [Client] is the other end of Control,
// used by the command line.
//
// The package owns no state. Pods come from the board; restart and what else is
// podd's own pass through the manager.
//
// Read first: [Config], [Control] and [Client].
package api
