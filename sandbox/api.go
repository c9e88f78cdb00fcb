package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"podd/internal/timerslack"
)

// Config says where sandboxes live and what their pause processes execute.
type Config struct {
	// RunDir holds one directory per sandbox, pods/<pod uid>. It must lie on a
	// file system that lasts exactly as long as this boot.
	RunDir string
	// PauseBinary is the path of podd-pause. It is read once, by [Open].
	PauseBinary string
	// TimerSlack is what pause processes, and so their containers, have; 0: the
	// agent's own.
	TimerSlack timerslack.Inherited
	Logger     logr.Logger
}

// Errors that callers act on.
var (
	// ErrNoSandbox is returned when a pod has no live pause process.
	ErrNoSandbox = errors.New("the pod has no live sandbox")
	// ErrLost is returned when the pause process died during a call.
	ErrLost = errors.New("the pod's pause process is gone")
	// ErrNoContainer is returned for a container id the sandbox does not know,
	// or that no longer runs where only a running one will do.
	ErrNoContainer = errors.New("no such container in the sandbox")
	// ErrOldSandbox is returned where the pod's pause process is of an older podd
	// that could not do it yet.
	ErrOldSandbox = errors.New("the pod's sandbox was made by an older podd that cannot do this; it can once the pod is restarted (podd restart)")
)

// SkippedError says that an attached client did not keep up with the container's
// output.
type SkippedError struct{ Bytes int64 }

func (e *SkippedError) Error() string {
	return fmt.Sprintf("%d bytes of the container's output came faster than they were taken and were skipped; its log has them", e.Bytes)
}

// StartError says that a container's or an exec's command could not be
// executed: the kubelet's StartError. Every other error of [Sandbox.Start] is
// the runtime's own.
type StartError struct {
	// Stage is the step that failed, such as "find the command".
	Stage string
	// Err is worded as users of other runtimes know it, such as
	// `exec: "foo": executable file not found in $PATH`.
	Err error
	// ExitCode is 128, what a kubelet shows for a command that never ran.
	ExitCode int
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Want is a sandbox as the pod asks for it.
type Want struct {
	UID     string // pod uid, the name of the sandbox's directory
	ID      string // sandbox id, 64 hex digits
	Attempt int    // 0 for the first sandbox of the pod

	Hostname, Domainname string // empty: keep the host's

	HostNetwork, HostIPC, HostPID, ShareProcessNamespace bool

	// Sysctls are written in the sandbox's namespaces; keys with dots or slashes.
	Sysctls map[string]string
	// Cgroup is where the pause process is put; nil: the agent's own. It is
	// used during the call only.
	Cgroup *Cgroup
	// Network prepares the pod's network. It runs while the pause process
	// starts, and again when Ensure completes a half-made sandbox, so it must be
	// repeatable. Not called with HostNetwork.
	Network func(ctx context.Context, netns *os.File) error
	// OOMScoreAdj is what the pause process should have; where the system does
	// not permit a score that low, it gets the lowest permitted one.
	OOMScoreAdj int
}

// Cgroup names one cgroup by descriptors. All of them stay the caller's.
type Cgroup struct {
	// Unified is the directory in the cgroup v2 hierarchy, or nil. With it a
	// process is cloned straight into the cgroup, and cgroup.kill ends it. It must
	// be a fresh one: kernels up to 6.18 at least kill what is cloned into a cgroup
	// on which cgroup.kill was ever used.
	Unified *os.File
	// Procs are the cgroup.procs files of the cgroup v1 hierarchies, opened to
	// write; opened O_RDWR they also serve to kill where Unified is nil.
	Procs []*os.File
	// Tasks are the `tasks` files of the cgroup v1 hierarchies, opened to write.
	// Exec joins by them.
	Tasks []*os.File
	// Kill ends every process in the cgroup. The pause process kills by Unified
	// or Procs itself; Kill serves this package where the pause process is gone.
	// It may be nil.
	Kill func() error
}

// State is what a pause process says of its sandbox.
type State struct {
	UID, ID    string
	Attempt    int
	Pid        int // of the pause process
	UpAt       time.Time
	Hostname   string
	Containers []Container // by start, the oldest first
}

// Container is one attempt that the sandbox knows. Exit is nil while it runs.
type Container struct {
	ID, Name  string
	Attempt   int
	Pid       int
	StartedAt time.Time
	Exit      *Exit
}

// Exit is how a container's main process ended.
type Exit struct {
	Code   int // 128+Signal after a signal
	Signal int
	At     time.Time
}

// Event is one thing that [Sandbox.Watch] reports: a container exited.
type Event struct {
	ContainerExited Container
}

// Start is one attempt of a container.
type Start struct {
	ID, Name string // 64 hex digits; the container's name in the pod
	Attempt  int

	// Spec says what to run and in what surroundings: Process (Args, Env, Cwd,
	// User, Capabilities, NoNewPrivileges, Terminal, OOMScoreAdj, Rlimits),
	// Mounts in order, Root.Readonly, and of Linux MaskedPaths, ReadonlyPaths,
	// Devices, Sysctl and RootfsPropagation. Namespaces, hooks and resources in it
	// are not looked at: the sandbox, the fields below and Ready decide.
	Spec *specs.Spec
	// Seccomp is a classic BPF program, an array of struct sock_filter in the
	// machine's byte order; nil: none.
	Seccomp      []byte
	SeccompFlags uint
	// Rootfs is a detached mount (open_tree, fsmount), writable, private. Like the
	// Trees it is used up by the start, also by one that fails.
	Rootfs *os.File
	// Trees are the bind mounts: index in Spec.Mounts → detached mount tree,
	// with its attributes and propagation already set.
	Trees map[int]*os.File

	Cgroup *Cgroup
	// PrivateCgroupNS gives the container its own view of the cgroup tree.
	PrivateCgroupNS bool

	// LogPath is the container's log in CRI format; empty: output is thrown
	// away. Its directory must exist.
	LogPath string
	// LogMaxBytes is the size at which the log is rotated; 0: never.
	LogMaxBytes int64
	// LogMaxFiles counts the live file and the rotated ones; 0: no limit.
	LogMaxFiles int

	Stdin, StdinOnce, TTY bool

	// PIDOf is the ID of a running container whose processes this one shares; empty:
	// it has its own, or the pod's. A sandbox of an older agent cannot do it.
	PIDOf string

	// ExitFile gets pid and start time when the container starts and the exit
	// record when it exits, see [ReadExitFile]; empty: the usual place below
	// the sandbox's directory.
	ExitFile string

	// Ready is called when the container is complete but its command does not
	// run yet: resource limits are applied here. An error aborts the start. It
	// may be nil.
	Ready func(pid int) error

	// UseStageForExec runs execs from a process of their own instead of a
	// thread of the pause process. Needed where the container holds SYS_PTRACE.
	UseStageForExec bool
}

// Started says that a container's command runs.
type Started struct {
	Pid int
	At  time.Time
}

// Exec is a command to run beside a container's main process, with the same
// namespaces, identity, capabilities and filter.
type Exec struct {
	ID string // container
	// RequestID makes the request repeatable: asking again with the same id
	// waits for, or fetches, the result of the first. Empty: a new one.
	RequestID string
	Args      []string
	Env       []string // nil: the container's
	Cwd       string   // empty: the container's
	TTY       bool
	// Stdin, Stdout and Stderr become the command's own descriptors; nil:
	// /dev/null. With TTY they are copied to and from the terminal; Stderr is unused.
	Stdin, Stdout, Stderr *os.File
	Resize                <-chan Size
	// Timeout is enforced by the pause process; zero: none.
	Timeout time.Duration
	// Cgroup is where the command runs; nil: the container's, in a leaf of its
	// own where cgroup v2 is present.
	Cgroup *Cgroup
	// OutputLimit, when above zero, makes the pause process collect stdout and
	// stderr, together at most so many bytes, and keep them with the result until
	// it is fetched. Stdout and Stderr must be nil.
	OutputLimit int
	// KeepOnHangup lets the command finish when the caller goes away.
	// Otherwise it is killed.
	KeepOnHangup bool
}

// Attach connects a client to a container's main process.
type Attach struct {
	ID string // container
	// Stdin is written to the container's input. It is not read where the container
	// has none. Nil: nothing is written.
	Stdin io.Reader
	// Stdout and Stderr get what the container writes from now on; nil: not wanted.
	// All output of a terminal is Stdout's.
	Stdout, Stderr io.Writer
	// Resize tells the size of the client's terminal. It is not read where the
	// container has none.
	Resize <-chan Size
}

// Size is a terminal's size in character cells.
type Size struct{ Width, Height uint16 }

// ExecResult is how an exec ended.
type ExecResult struct {
	ExitCode int // 128+n after signal n
	Output   []byte
	TimedOut bool
}

func cannot(what string, err error) error { return fmt.Errorf("cannot %s: %w", what, err) }

// signalNumber keeps the signature of [Sandbox.Signal] free of x/sys.
type signalNumber = syscall.Signal
