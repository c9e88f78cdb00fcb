// Package stream speaks the protocols in which Kubernetes' clients carry exec,
// attach, port-forward and logs: several channels of bytes over one HTTP request.
//
// [Exec] serves exec and attach over WebSocket (v5, v4 and v1 of channel.k8s.io,
// the base64 forms too) and over SPDY/3.1 (v4 to v1), [PortForward] over SPDY, SPDY
// tunnelled through WebSocket, and the WebSocket channels that clients in browsers
// use, [Log] as chunked text or WebSocket messages. What is at the other end, a
// process, a socket in a pod, a log, is the caller's: it comes in as a function.
// Permission and everything else that can be answered with a plain HTTP status is
// to be settled before.
//
// Nothing here outlives its request by more than the time that a client is given
// to take the last bytes. A connection holds a bounded amount of memory whatever
// the client sends, and a client that stops reading stops nobody but itself.
//
// Read first: [Streams], [Exec] and limits.
package stream
