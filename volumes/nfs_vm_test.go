//go:build linux && vm && nfs

package volumes

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// serveNFS exports a new directory from this machine by NFS 4.
func serveNFS(t *testing.T) (dir string, stop func()) {
	t.Helper()
	dir = t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	must(t, os.MkdirAll("/var/lib/nfs/v4recovery", 0o755))
	for _, file := range []string{"/var/lib/nfs/etab", "/var/lib/nfs/rmtab", "/etc/exports"} {
		must(t, os.WriteFile(file, nil, 0o644))
	}
	must(t, os.MkdirAll("/proc/fs/nfsd", 0o755))
	must(t, unix.Mount("nfsd", "/proc/fs/nfsd", "nfsd", 0, ""))
	t.Cleanup(func() { unix.Unmount("/proc/fs/nfsd", unix.MNT_DETACH) })
	run("exportfs", "-i", "-o", "rw,no_root_squash,insecure,no_subtree_check,fsid=0", "127.0.0.1:"+dir)
	mountd := exec.Command("rpc.mountd", "-F", "-N", "3")
	must(t, mountd.Start())
	t.Cleanup(func() { mountd.Process.Kill(); mountd.Wait() })
	run("rpc.nfsd", "-N", "3", "-V", "4", "-G", "10", "-p", "2049", "2")
	stop = func() { exec.Command("rpc.nfsd", "0").Run() }
	t.Cleanup(stop)
	return dir, stop
}

func nfs(name, server, path string, readOnly bool) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{Server: server, Path: path, ReadOnly: readOnly}}}
}

// One server, mounted for writing and for reading only; then it is gone.
//
//shows:spec.volumes[].nfs spec.volumes[].nfs.server spec.volumes[].nfs.path spec.volumes[].nfs.readOnly
func TestNFSIsMountedOnceAndGoesAlthoughItsServerIsGone(t *testing.T) {
	dir, stop := serveNFS(t)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("served"), 0o644))
	p := newPod(t, false)
	outside := newElsewhere(t) // before anything is mounted: it is a copy of all mounts
	rw, ro := nfs("rw", "127.0.0.1", "/", false), nfs("ro", "127.0.0.1", "/", true)
	bound := ofClaim(false) // to a PersistentVolume with mountOptions
	p = p.bound(Claimed{NFS: rw.NFS, Options: []string{"nfsvers=4.2", "noatime"}})
	for _, v := range []v1.Volume{rw, ro, bound} {
		if Present(p, v) {
			t.Errorf("%s: present before it was mounted", v.Name)
		}
		must(t, Ensure(t.Context(), p, v))
		before := len(mountLines(t))
		must(t, Ensure(t.Context(), p, v))
		if len(mountLines(t)) != before || !Present(p, v) {
			t.Errorf("%s: mounted again, or not present", v.Name)
		}
	}
	if !slices.ContainsFunc(mountLines(t), func(l string) bool {
		return strings.HasPrefix(l, nfsPath(p, bound.Name)) && strings.Contains(l, "noatime")
	}) {
		t.Errorf("mountOptions have no effect: %q", mountLines(t))
	}
	if _, err := Measure(t.Context(), p, bound); err != ErrNotMeasured {
		t.Errorf("a server was asked: %v", err)
	}
	one := outside.attach(openTree(t, p, rw, at("/rw"), ""))
	two := outside.attach(openTree(t, p, ro, at("/ro"), ""))
	outside.do(func() {
		if got, err := os.ReadFile(filepath.Join(one, "file")); string(got) != "served" {
			t.Errorf("read %q, %v", got, err)
		}
		if err := os.WriteFile(filepath.Join(one, "new"), []byte("x"), 0o644); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(two, "other"), nil, 0o644); err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("writing to the read-only one: %v", err)
		}
	})
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Error(err)
	}

	// No container has it any more: removing the pod is the last to let go of it.
	outside.do(func() { unix.Unmount(one, unix.MNT_DETACH); unix.Unmount(two, unix.MNT_DETACH) })
	stop()
	begin := time.Now()
	if !Present(p, rw) {
		t.Error("not present any more, although it is mounted")
	}
	must(t, Remove(t.Context(), p))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("with its server gone the removal took %v", took)
	}
}

func TestNFSServerThatDoesNotAnswerEndsWithTheContext(t *testing.T) {
	// A listener whose connections nobody accepts takes requests and gives no answer.
	silent, err := net.Listen("tcp", "127.0.0.2:2049")
	must(t, err)
	defer silent.Close()
	p := newPod(t, false)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	begin := time.Now()
	err = Ensure(ctx, p, nfs("dead", "127.0.0.2", "/", false))
	if err == nil {
		t.Fatal("mounted from a server that does not answer")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("given up after %v", took)
	}
	left, err := exec.Command("pgrep", "mount.nfs").Output()
	if err == nil {
		t.Errorf("left running: %s", left)
	}
}
