package pod

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Target names the pod that an action is for, as the worker knows it at that
// moment. It is a value; the runtime never changes what it points to.
type Target struct {
	UID types.UID
	// Pod is defaulted and validated; its ObjectMeta.UID is UID.
	Pod *v1.Pod
	// SandboxID is empty until a sandbox was asked for.
	SandboxID string
	IPs       []netip.Addr
	// Sources are the ConfigMaps, Secrets and claims that the pod names.
	Sources *Sources
}

// Runtime does to the kernel what a worker decided. The real one is
// pod/native; a scripted one serves the stories.
type Runtime interface {
	// Inspect finds what exists of a pod in the kernel and on disk.
	Inspect(ctx context.Context, t Target) (Inspected, error)

	// Perform carries out one action and reports what came of it. It returns
	// when the action is over; a probe loop goes on and keeps reporting until
	// it is stopped or ctx ends. report never blocks for long and may be
	// called from any goroutine until ctx ends.
	Perform(ctx context.Context, t Target, a Action, report func(Fact))

	// Watch reports [ContainerExited] and finally [SandboxLost] for a sandbox
	// that is up. It returns after SandboxLost or when ctx ends. Exits that
	// happened while nobody watched are reported first.
	Watch(ctx context.Context, t Target, report func(Fact))

	// Await looks out for what a pod waits for, without trying what failed for want
	// of it. It reports [CauseGone] for the first that seems to be there and returns,
	// or returns when ctx ends.
	Await(ctx context.Context, t Target, waits []Wait, report func(Fact))

	// Exec runs a command in a running container.
	Exec(ctx context.Context, t Target, r ExecRequest) (exitCode int, err error)

	// Attach connects a client to a container's main process, until that ends (nil),
	// ctx ends, or the client's input does, see [AttachRequest].
	Attach(ctx context.Context, t Target, r AttachRequest) error

	// Dial connects to a TCP port inside the pod: to 127.0.0.1, and where nothing
	// listens there to ::1, as a kubelet forwards ports.
	Dial(ctx context.Context, t Target, port uint16) (net.Conn, error)

	// Present lists the UIDs of all pods of which anything exists.
	Present(ctx context.Context) ([]types.UID, error)
}

// ExecRequest is a command to run beside a container's main process, with the
// same identity, environment and namespaces.
type ExecRequest struct {
	Container string
	ID        string
	Command   []string
	TTY       bool
	Stdin     io.Reader // nil: /dev/null
	Stdout    io.Writer // nil: discarded
	Stderr    io.Writer // nil: discarded; unused with TTY
	Resize    <-chan TerminalSize
	Timeout   time.Duration // zero: none
}

// AttachRequest connects a client to the main process of a container that runs. The
// end of Stdin ends it, as with a kubelet, unless the container has stdinOnce and no
// terminal: then the container's input ends, and its output goes on until it exits.
// The container waits for no client; one that falls far behind misses output.
type AttachRequest struct {
	Container string
	ID        string    // of the attempt; found by [Manager.Attach]
	Stdin     io.Reader // nil: nothing is written; not read where the container has no stdin
	Stdout    io.Writer // nil: not wanted; a terminal's only output
	Stderr    io.Writer // nil: not wanted
	// TTY says whether the container has a terminal, by its spec; set by
	// [Manager.Attach].
	TTY    bool
	Resize <-chan TerminalSize // nil: it keeps its size
}

// TerminalSize is a terminal's size in character cells.
type TerminalSize struct{ Width, Height uint16 }

// Store keeps one record per pod on disk. It is used by the pod's worker only.
type Store interface {
	// Save replaces the pod's record durably.
	Save(Record) error
	// Note remembers the record for as long as the machine runs, without
	// waiting for the disk. It comes before each action begins, so an agent that
	// is killed at any moment finds what it was about to do.
	Note(Record) error
	// List returns the newest of all records that can be read; others are set
	// aside.
	List() ([]Record, error)
	// Delete forgets a pod.
	Delete(uid types.UID) error
}
