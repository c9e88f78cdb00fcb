package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// collectSeldom has garbage collected seldom until usual is called: a start fills the
// heap with what stays, and would search that through again and again. It makes the
// heap no larger than it is at rest with 100 pods.
func collectSeldom() (usual func()) {
	percent := debug.SetGCPercent(300)
	return func() { debug.SetGCPercent(percent) }
}

// unmapProgram takes the pages of the program's code and constants out of the
// process: of some 25 MB that starts touch, or that the kernel maps around what they
// touch, an agent at rest needs a third. What is needed again the kernel maps again,
// from its cache, by 16 pages at a time. A mapping with pages of its own is left
// alone: a program made position independent, or one under a debugger.
func unmapProgram() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer smaps.Close()
	var from, to uintptr // of the mapping that the lines are about; 0: not ours
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		switch f := strings.Fields(line); {
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			from, to = 0, 0
			if strings.HasSuffix(line, " "+self) && (f[1] == "r-xp" || f[1] == "r--p") {
				if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil {
					return err
				}
			}
		case from != 0 && f[0] == "Anonymous:" && f[1] == "0":
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
				return errno
			}
		}
	}
	return lines.Err()
}
