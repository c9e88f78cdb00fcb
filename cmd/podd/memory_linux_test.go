package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// mappedCode is how much of the program's code is mapped, in kB.
func mappedCode(t *testing.T) int {
	t.Helper()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, ours, found := strings.Cut(string(smaps), " r-xp ")
	for found && !strings.HasSuffix(strings.SplitN(ours, "\n", 2)[0], self) {
		_, ours, found = strings.Cut(ours, " r-xp ")
	}
	for line := range strings.Lines(ours) {
		if f := strings.Fields(line); f[0] == "Rss:" {
			kB, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kB
		}
	}
	t.Fatal("cannot find the program's code")
	return 0
}

func TestCodeAtRestIsUnmapped(t *testing.T) {
	before := mappedCode(t)
	if err := unmapProgram(); err != nil {
		t.Fatal(err)
	}
	if after := mappedCode(t); after >= before*3/4 {
		t.Errorf("%d kB of code are mapped, then %d", before, after)
	}
}

func TestGarbageIsCollectedAsUsualAfterTheStart(t *testing.T) {
	before := debug.SetGCPercent(70)
	defer debug.SetGCPercent(before)
	usual := collectSeldom()
	seldom := debug.SetGCPercent(300)
	usual()
	if after := debug.SetGCPercent(before); seldom <= 70 || after != 70 {
		t.Errorf("GC percent %d during the start, %d after it; want more than 70, then 70", seldom, after)
	}
}
