package kerneltest

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Silence mounts on dir a file system whose server never answers, until the test ends:
// who looks at it stays in the kernel until answer is called, and is told of an error
// then.
func Silence(t testing.TB, dir string) (answer func()) {
	t.Helper()
	Root(t)
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	Need(t, err == nil, "/dev/fuse")
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())
	if err := unix.Mount("podd-test", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	answer = sync.OnceFunc(func() { server.Close() })
	t.Cleanup(func() {
		answer()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return answer
}
