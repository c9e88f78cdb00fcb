//go:build linux && vm

package doctor

import "testing"

// The machine of vm/init is sound in every way that files tell.
func TestASoundMachineWithAppArmor(t *testing.T) {
	says := map[string]string{
		"privileges": "root with all capabilities that pods need",
		"cgroups":    "v2 with cpu, memory, pids; nobody manages its root",
		"overlay":    "/tmp/podd is on ext4",
		"lsm":        "AppArmor",
		"mounts":     "/ is shared",
	}
	for _, f := range (Host{Root: "/", RootDir: "/tmp/podd", Bridge: "podd0", Kernel: fakeKernel{}}).Look() {
		want, known := says[f.Area]
		if f.Verdict != OK || known && f.Says != want {
			t.Errorf("%+v, want ok and %q", f, want)
		}
		delete(says, f.Area)
	}
	if len(says) > 0 {
		t.Errorf("not looked at: %v", says)
	}
}
