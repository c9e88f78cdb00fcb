// Package wire is the protocol between the agent, a pod's pause process and a
// container's stage. It knows how messages look and travel, not what they do.
//
// # Agent and pause process
//
// Each conversation has a connection of its own (SOCK_SEQPACKET, pause.sock in
// the sandbox's directory); the agent speaks first. A hang-up ends it. Several
// agents may be connected at once; every request may be repeated.
//
//	agent                                  pause process
//	State                          →
//	                               ←       StateIs   [pidfd of itself, its netns]
//	Hold [descriptors]             →
//	                               ←       Done
//	Start [see StartFiles]         →
//	                               ←       Ready     (container complete, command not yet run)
//	Go                             →                 (a hang-up instead aborts the start)
//	                               ←       Started | Failed
//	Start of a known container     →
//	                               ←       Started | Failed
//	Exec [see ExecFiles]           →
//	                               ←       Terminal  [pty]   (with a tty only)
//	                               ←       ExecDone | Failed
//	Attach [stdout, stderr]        →
//	                               ←       Attached  [stdin or pty] | Failed
//	NoInput                        →                 (stdin is over; a hang-up says it too)
//	                               ←       Detached  (the container has ended)
//	Watch                          →
//	                               ←       Exited, Exited, … (unacknowledged ones first)
//	Signal, Kill, Forget,
//	Rotate, Reopen, Shutdown       →
//	                               ←       Done | Failed
//
// # Pause process and stage
//
// The stage is started with its stdio on 0 to 2, a socket to the pause process
// on [StageSync] and the agent's sealed request on [StageRequest], which the
// pause process passes on unread: request and stage program always come from
// the same agent. The mounts follow from [StageFiles].
//
//	stage                                  pause process
//	(mounts)                               (puts it into its cgroup)
//	                               ←       'j'  joined
//	(cgroup namespace, pivot, masks)
//	'r' ready [console]            →
//	                               ←       'g'  go
//	(identity, filter, execve)
//	hang-up by execve              →            the command runs
//	'f' and a [Failed] body        →            it cannot
//
// The stage of an exec answers 'm' and 'p', each with a pid in four bytes: the
// process between it and the command, for the pause process to reap, and the
// command, with its terminal's master if it has one. Or it answers 'f'.
//
// # Versions
//
// Fields are only ever appended to a message. A reader that meets the end of a
// body early takes zero for what is missing, and ignores what follows the fields
// it knows, so agents and pause processes of different age understand each other.
// [Version] changes only when that is not enough.
package wire
