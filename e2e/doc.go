// Package e2e runs the real programs as root, the way users run them: scripts
// in testdata drop manifests, ask podd, kill what may be killed, and say what
// must follow.
//
// Each script has an agent with directories, cgroup root and network namespace
// of its own, so scripts run side by side and leave the host's network alone.
package e2e
