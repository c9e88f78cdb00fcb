// Package stage is a container's way from a fresh process to its command: the
// steps between clone and execve, written as a recipe, and the same for a
// command that joins a running container.
//
// A stage runs as PID 1 of the new container, in program podd-pause, executed
// from a sealed memory file, undumpable. It opens no host path: everything from
// outside comes as a descriptor. It must be small and must not touch the network
// poller (no timers, no pollable files), because near its end it closes every
// descriptor, the runtime's too.
//
// Read first: [Main], [Join] and [Call].
package stage
