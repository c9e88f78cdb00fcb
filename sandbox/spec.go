package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

func timeOf(nanos int64) time.Time { return time.Unix(0, nanos) }

// stageRequest translates the OCI spec into what the stage does. It is pure.
func stageRequest(r *Start) (*wire.Stage, error) {
	spec := r.Spec
	if spec == nil || spec.Process == nil {
		return nil, errors.New("cannot start a container without a process")
	}
	p, err := process(spec.Process)
	if err != nil {
		return nil, err
	}
	p.Seccomp, p.SeccompFlags = r.Seccomp, uint32(r.SeccompFlags)
	p.TTY = p.TTY || r.TTY
	if len(p.Seccomp)%8 != 0 || len(p.Seccomp)/8 > 4096 {
		return nil, fmt.Errorf("cannot use a seccomp program of %d bytes: expected 1 to 4096 instructions of 8 bytes", len(p.Seccomp))
	}
	s := &wire.Stage{Process: *p, PrivateCgroupNS: r.PrivateCgroupNS, Hostname: spec.Hostname}
	s.ReadonlyRoot = spec.Root != nil && spec.Root.Readonly
	tree := 0
	for i, m := range spec.Mounts {
		w, err := mount(&m)
		if err != nil {
			return nil, err
		}
		if r.Trees[i] != nil {
			*w = wire.Mount{Kind: wire.MountTree, Target: m.Destination, Tree: tree}
			tree++
		} else if w.Kind == wire.MountTree {
			return nil, fmt.Errorf("cannot mount %s: its volume is not given", m.Destination)
		}
		if w.Kind == wire.MountFS && path.Clean(m.Destination) == "/dev" {
			s.MakeDev = true
		}
		s.Mounts = append(s.Mounts, *w)
	}
	l := spec.Linux
	if l == nil {
		return s, nil
	}
	s.Masked, s.ReadonlyPaths = l.MaskedPaths, l.ReadonlyPaths
	for k, v := range l.Sysctl {
		s.Sysctls = append(s.Sysctls, wire.KV{Key: k, Value: v})
	}
	for _, d := range l.Devices {
		w, err := device(&d)
		if err != nil {
			return nil, err
		}
		s.Devices = append(s.Devices, *w)
	}
	if l.RootfsPropagation != "" {
		flag, ok := propagations[l.RootfsPropagation]
		if !ok {
			return nil, fmt.Errorf("unknown propagation %q of the root file system", l.RootfsPropagation)
		}
		s.RootPropagation = flag
	}
	return s, nil
}

func process(p *specs.Process) (*wire.Process, error) {
	w := &wire.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, UID: p.User.UID, GID: p.User.GID,
		Groups: p.User.AdditionalGids, Umask: 0o022, NoNewPrivs: p.NoNewPrivileges, TTY: p.Terminal,
	}
	if p.User.Umask != nil {
		w.Umask = *p.User.Umask
	}
	if c := p.ConsoleSize; c != nil {
		w.Height, w.Width = uint32(c.Height), uint32(c.Width)
	}
	if p.OOMScoreAdj != nil {
		w.SetOOM, w.OOMScoreAdj = true, *p.OOMScoreAdj
	}
	if c := p.Capabilities; c != nil {
		w.Bounding, w.Effective, w.Permitted = capabilityMask(c.Bounding), capabilityMask(c.Effective), capabilityMask(c.Permitted)
		w.Inheritable, w.Ambient = capabilityMask(c.Inheritable), capabilityMask(c.Ambient)
	}
	for _, r := range p.Rlimits {
		n, ok := rlimits[r.Type]
		if !ok {
			return nil, fmt.Errorf("unknown resource limit %q", r.Type)
		}
		w.Rlimits = append(w.Rlimits, wire.Rlimit{Resource: n, Soft: r.Soft, Max: r.Hard})
	}
	return w, nil
}

// mount translates one mount. Options of bind mounts are the caller's business:
// their trees come with attributes set.
func mount(m *specs.Mount) (*wire.Mount, error) {
	w := &wire.Mount{Kind: wire.MountFS, Target: m.Destination, FSType: m.Type, Source: m.Source}
	switch m.Type {
	case "cgroup", "cgroup2":
		w.Kind = wire.MountCgroup
	case "bind", "":
		w.Kind = wire.MountTree
	}
	if !path.IsAbs(m.Destination) {
		return nil, fmt.Errorf("cannot mount at %q: expected an absolute path", m.Destination)
	}
	for _, o := range m.Options {
		if a, ok := mountAttrs[o]; ok {
			w.Attrs = w.Attrs&^a.clear | a.set
			continue
		}
		if f, ok := propagations[o]; ok {
			w.Propagation = f
			continue
		}
		switch o {
		case "bind", "rbind":
			w.Kind = wire.MountTree
		case "defaults", "remount", "":
		case "tmpcopyup":
			w.CopyUp = true
		default:
			k, v, _ := strings.Cut(o, "=")
			w.Options = append(w.Options, wire.KV{Key: k, Value: v})
		}
	}
	// A mount here begins private: nothing to set.
	if w.Propagation == unix.MS_PRIVATE || w.Propagation == unix.MS_PRIVATE|unix.MS_REC {
		w.Propagation = 0
	}
	return w, nil
}

func device(d *specs.LinuxDevice) (*wire.Device, error) {
	types := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	t, ok := types[d.Type]
	if !ok || !path.IsAbs(d.Path) {
		return nil, fmt.Errorf("cannot make device %q of type %q", d.Path, d.Type)
	}
	w := &wire.Device{Path: path.Clean(d.Path), Mode: t | 0o666, Major: uint32(d.Major), Minor: uint32(d.Minor)}
	if d.FileMode != nil {
		w.Mode = t | uint32(d.FileMode.Perm())
	}
	if d.UID != nil {
		w.UID = *d.UID
	}
	if d.GID != nil {
		w.GID = *d.GID
	}
	return w, nil
}

// propagations are the names of mount propagation in the OCI runtime spec.
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// mountAttrs are mount options that belong to the mount, not to the file system
// (mount_setattr(2)). The access time modes exclude each other.
var mountAttrs = map[string]struct{ set, clear uint64 }{
	"ro":            {set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {set: unix.MOUNT_ATTR_NODEV},
	"dev":           {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {clear: unix.MOUNT_ATTR_NOEXEC},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":         {clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {clear: unix.MOUNT_ATTR__ATIME},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {clear: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
}

var rlimits = map[string]uint32{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
	"RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
	"RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

// capabilities in the order of their numbers (linux/capability.h).
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// capabilityMask turns names into a mask, without those that this process does
// not have to give. Unknown names are ignored, as a kubelet's runtime does.
func capabilityMask(names []string) uint64 {
	mask := uint64(0)
	for _, n := range names {
		n = strings.TrimPrefix(strings.ToUpper(n), "CAP_")
		for i, c := range capabilities {
			if c == n {
				mask |= 1 << i
			}
		}
	}
	return mask & permittedCapabilities()
}

// permittedCapabilities are those that can be given to containers: the bounding
// set of this process, which nothing changes. Some machines lack one or the other.
var permittedCapabilities = sync.OnceValue(func() uint64 {
	mask := uint64(0)
	for c := range capabilities {
		if r, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && r == 1 {
			mask |= 1 << c
		}
	}
	return mask
})
