// Bench measures podd on this machine and prints each figure beside a floor of
// the same run: what the kernel alone takes for the same work, asked for by bare
// system calls from one loop, without any forked tool.
//
//	make bench                      # as root; about five minutes
//	go run ./bench -quick           # fewer runs, less exact
//	go run ./bench -only start,logs # some figures; -list names them
//
// It runs bin/podd with directories, a cgroup root and a network namespace of
// its own, prints a table, writes bench/results.json, and removes what it made,
// also when it is interrupted. Other work on the machine shows in the figures:
// the load average is printed with them.
//
// Read first: [measure] for the order of things, [world] for the agent under
// test, [floor] for what it is compared with.
package main
