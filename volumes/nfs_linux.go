package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// nfsPlugin is the kubelet's directory for nfs volumes.
const nfsPlugin = "kubernetes.io~nfs"

// nfsTimeout is how long one attempt to mount may take, as long as a kubelet
// waits for a pod's volumes.
const nfsTimeout = 2*time.Minute + 3*time.Second

// nfsPath is where the volume is mounted. Only root can write to what leads there.
func nfsPath(p Pod, volume string) string {
	return filepath.Join(p.Dir, "volumes", nfsPlugin, volume)
}

// ensureNFS mounts the server's directory with mount.nfs, as kubelets do. A
// server that does not answer holds up this volume only. Where it is mounted
// already nothing is asked of the server. options are those of mount.nfs's -o.
// Source: mount(8), nfs(5).
func ensureNFS(ctx context.Context, p Pod, volume string, source *v1.NFSVolumeSource, options []string) error {
	target := nfsPath(p, volume)
	if mounted, err := isMounted(target); mounted || err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	helper := ""
	for _, dir := range []string{"/sbin", "/usr/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, "mount.nfs")); err == nil {
			helper = filepath.Join(dir, "mount.nfs")
		}
	}
	if helper == "" {
		return errors.New("nfs: /sbin/mount.nfs is missing; install the package nfs-common")
	}
	server := source.Server
	if strings.Contains(server, ":") && !strings.HasPrefix(server, "[") {
		server = "[" + server + "]" // an IPv6 address
	}
	args := []string{server + ":" + source.Path, target}
	if source.ReadOnly {
		options = append([]string{"ro"}, options...)
	}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	ctx, cancel := context.WithTimeout(ctx, nfsTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, helper, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("nfs: server %s does not answer within %v", source.Server, nfsTimeout)
	}
	if err != nil {
		return fmt.Errorf("nfs: cannot mount %s: %w: %s", args[0], err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// isMounted asks the mount table, which waits for no server.
func isMounted(path string) (bool, error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	at := filepath.Join(dir, filepath.Base(path))
	found, err := mountTable(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != at, m.Mountpoint == at })
	return len(found) > 0, err
}

// openNFS opens the root of a volume that is mounted.
func openNFS(p Pod, volume string) (*os.File, error) {
	target := nfsPath(p, volume)
	mounted, err := isMounted(target)
	if err == nil && !mounted {
		err = fmt.Errorf("nothing is mounted at %s", target)
	}
	if err != nil {
		return nil, err
	}
	return openIn(p.Dir, filepath.Join("volumes", nfsPlugin, volume), unix.O_PATH|unix.O_DIRECTORY)
}

// detachNFS unmounts the pod's nfs volumes without asking their servers, which
// may be gone.
func detachNFS(dir string) error {
	parent := filepath.Join(dir, "volumes", nfsPlugin)
	entries, err := os.ReadDir(parent)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(parent, e.Name())
		for mounted := true; mounted; {
			if mounted, err = isMounted(path); err != nil {
				return err
			}
			if mounted {
				err = detachUnasked(path)
			}
			if err != nil {
				return &os.PathError{Op: "unmount", Path: path, Err: err}
			}
		}
	}
	return nil
}

// detachUnasked unmounts what is mounted at path. The path is looked up as a
// mount point, so its file system is not asked, and the mount is off the tree at
// once. But the call takes leave of the server before it returns, which lasts
// minutes with one that is gone: that nobody waits for.
func detachUnasked(path string) error {
	const patience = 2 * time.Second
	done := make(chan error, 1)
	go func() { done <- unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) }() // ends when the kernel gives up
	select {
	case err := <-done:
		if err == unix.EINVAL || err == unix.ENOENT {
			err = nil // somebody was faster
		}
		return err
	case <-time.After(patience):
		return nil
	}
}
