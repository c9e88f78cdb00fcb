// Package kubelet serves the endpoints that a kubelet has on port 10250, for
// monitoring and for whoever debugs a node: what runs, logs, exec, attach and
// port-forward, resource use and metrics, and the agent's own state.
//
// The handler knows no users. Who may do what is asked of a hook, with the
// attributes that a kubelet gives each endpoint: subresources of nodes. TLS, users
// and the port are the caller's. The package owns no state.
//
// Read first: [Config] and [New].
package kubelet
