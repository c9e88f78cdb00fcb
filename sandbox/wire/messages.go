package wire

// Version of the protocol; see the package comment for what changes it.
const Version = 1

// Kind says what a message is.
type Kind uint16

// What the agent sends.
const (
	KindState    Kind = 1
	KindHold     Kind = 2
	KindStart    Kind = 3
	KindGo       Kind = 4
	KindExec     Kind = 5
	KindWatch    Kind = 6
	KindSignal   Kind = 7
	KindKill     Kind = 8
	KindForget   Kind = 9
	KindRotate   Kind = 10
	KindReopen   Kind = 11
	KindShutdown Kind = 12
	KindAttach   Kind = 13
	KindNoInput  Kind = 14
)

// What the pause process answers.
const (
	KindDone     Kind = 64
	KindFailed   Kind = 65
	KindStateIs  Kind = 66
	KindReady    Kind = 67
	KindStarted  Kind = 68
	KindTerminal Kind = 69
	KindExecDone Kind = 70
	KindExited   Kind = 71
	KindAttached Kind = 72
	KindDetached Kind = 73
)

// Descriptors of the pause process when it is executed.
const (
	PauseListener = 3 // the listening control socket
	PauseRequest  = 4 // sealed memory file with an encoded [Up]
)

// Descriptors of a stage when it is executed.
const (
	StageSync    = 3 // socket to the pause process
	StageRequest = 4 // sealed memory file with an encoded [Stage]
	StageFiles   = 5 // the root file system, then the trees in the order of [Mount.Tree]
)

// How podd-pause is told what to be, in its argv[1].
const (
	RolePause  = "pause"
	RoleStage  = "stage"
	RoleExec   = "exec"
	RoleReaper = "reaper"
)

// KV is a key with its value.
type KV struct{ Key, Value string }

// Up is what a pause process is started with.
type Up struct {
	UID, ID              string
	Attempt              int
	Hostname, Domainname string
	HostPID, SharePID    bool
	Sysctls              []KV
	OOMScoreAdj          int
}

func (m *Up) fields(c *codec) {
	c.str(&m.UID)
	c.str(&m.ID)
	c.int(&m.Attempt)
	c.str(&m.Hostname)
	c.str(&m.Domainname)
	c.bool(&m.HostPID)
	c.bool(&m.SharePID)
	c.kvs(&m.Sysctls)
	c.int(&m.OOMScoreAdj)
}

// Code sorts failures by what the agent makes of them.
type Code uint32

const (
	CodeRuntime     Code = 0 // everything else
	CodeNoContainer Code = 1
	CodeCommand     Code = 2 // the command cannot be executed
	CodeVersion     Code = 3 // the peer does not understand the message
)

// Failed says why a request could not be served. It is an error.
type Failed struct {
	Code Code
	Step string // what was being done, such as "mount /proc"
	Text string // why, such as "permission denied"
}

func (m *Failed) fields(c *codec) {
	c.u32((*uint32)(&m.Code))
	c.str(&m.Step)
	c.str(&m.Text)
}

// Error words the failure for people.
func (m *Failed) Error() string {
	if m.Step == "" {
		return m.Text
	}
	return "cannot " + m.Step + ": " + m.Text
}

// Process is what is executed and as whom. Capability sets are masks, bit n for
// capability n.
type Process struct {
	Args, Env     []string
	Cwd           string
	UID, GID      uint32
	Groups        []uint32
	Umask         uint32
	Bounding      uint64
	Effective     uint64
	Permitted     uint64
	Inheritable   uint64
	Ambient       uint64
	NoNewPrivs    bool
	Seccomp       []byte // array of struct sock_filter; empty: none
	SeccompFlags  uint32
	Rlimits       []Rlimit
	SetOOM        bool
	OOMScoreAdj   int
	TTY           bool
	Height, Width uint32 // of the terminal at first; 0: unset
}

// Rlimit is one resource limit.
type Rlimit struct {
	Resource  uint32
	Soft, Max uint64
}

func (m *Process) fields(c *codec) {
	c.strs(&m.Args)
	c.strs(&m.Env)
	c.str(&m.Cwd)
	c.u32(&m.UID)
	c.u32(&m.GID)
	c.u32s(&m.Groups)
	c.u32(&m.Umask)
	c.u64(&m.Bounding)
	c.u64(&m.Effective)
	c.u64(&m.Permitted)
	c.u64(&m.Inheritable)
	c.u64(&m.Ambient)
	c.bool(&m.NoNewPrivs)
	c.bytes(&m.Seccomp)
	c.u32(&m.SeccompFlags)
	list(c, &m.Rlimits, func(r *Rlimit) { c.u32(&r.Resource); c.u64(&r.Soft); c.u64(&r.Max) })
	c.bool(&m.SetOOM)
	c.int(&m.OOMScoreAdj)
	c.bool(&m.TTY)
	c.u32(&m.Height)
	c.u32(&m.Width)
}

// Start asks for a container. Its descriptors are, in this order: the stage
// program, the encoded [Stage], the exit file, the log's directory (if LogName),
// the cgroup v2 directory (if Unified), the cgroup.procs files, the tasks files,
// the root file system, the trees.
type Start struct {
	ID, Name        string
	Attempt         int
	LogName         string
	LogMaxBytes     int64
	LogMaxFiles     int
	Stdin           bool
	StdinOnce       bool
	TTY             bool
	Unified         bool
	Procs, Tasks    int
	UseStageForExec bool
	// Process is what an exec in the container starts from.
	Process Process
	// PIDOf is the ID of a running container whose PID namespace is shared; empty:
	// as the pod has it. A pause process of before ignores it.
	PIDOf string
}

func (m *Start) fields(c *codec) {
	c.str(&m.ID)
	c.str(&m.Name)
	c.int(&m.Attempt)
	c.str(&m.LogName)
	c.i64(&m.LogMaxBytes)
	c.int(&m.LogMaxFiles)
	c.bool(&m.Stdin)
	c.bool(&m.StdinOnce)
	c.bool(&m.TTY)
	c.bool(&m.Unified)
	c.int(&m.Procs)
	c.int(&m.Tasks)
	c.bool(&m.UseStageForExec)
	nested(c, &m.Process)
	c.str(&m.PIDOf)
}

// Started answers [Start]; Ready, with no time yet, comes before it.
type Started struct {
	Pid int
	At  int64 // nanoseconds since 1970
}

func (m *Started) fields(c *codec) { c.int(&m.Pid); c.i64(&m.At) }

// MountKind says where a mount comes from.
type MountKind uint32

const (
	MountTree   MountKind = 0 // a detached mount among the descriptors
	MountFS     MountKind = 1 // a new file system of type FSType
	MountCgroup MountKind = 2 // the cgroup tree, in whatever form the host has it
)

// Mount is one mount of a container.
type Mount struct {
	Kind    MountKind
	Target  string
	Tree    int // descriptor StageFiles+1+Tree
	FSType  string
	Source  string
	Options []KV   // for the file system itself; a flag has no value
	Attrs   uint64 // MOUNT_ATTR_* of the mount
	// Propagation is a MS_* constant to set once it is attached; 0: leave it.
	Propagation uint64
	CopyUp      bool // fill a new tmpfs with what its target held
}

// Device is a device node to make.
type Device struct {
	Path         string
	Mode         uint32 // with the file type
	UID, GID     uint32
	Major, Minor uint32
}

// Stage is a container's surroundings and its command.
type Stage struct {
	Process         Process
	Mounts          []Mount
	Devices         []Device
	Masked          []string
	ReadonlyPaths   []string
	ReadonlyRoot    bool
	RootPropagation uint64 // MS_* of the root mount at the end; 0: private
	Sysctls         []KV
	PrivateCgroupNS bool
	MakeDev         bool // populate /dev: nodes, links
	Hostname        string
}

func (m *Stage) fields(c *codec) {
	nested(c, &m.Process)
	list(c, &m.Mounts, func(m *Mount) {
		c.u32((*uint32)(&m.Kind))
		c.str(&m.Target)
		c.int(&m.Tree)
		c.str(&m.FSType)
		c.str(&m.Source)
		c.kvs(&m.Options)
		c.u64(&m.Attrs)
		c.u64(&m.Propagation)
		c.bool(&m.CopyUp)
	})
	list(c, &m.Devices, func(d *Device) {
		c.str(&d.Path)
		c.u32(&d.Mode)
		c.u32(&d.UID)
		c.u32(&d.GID)
		c.u32(&d.Major)
		c.u32(&d.Minor)
	})
	c.strs(&m.Masked)
	c.strs(&m.ReadonlyPaths)
	c.bool(&m.ReadonlyRoot)
	c.u64(&m.RootPropagation)
	c.kvs(&m.Sysctls)
	c.bool(&m.PrivateCgroupNS)
	c.bool(&m.MakeDev)
	c.str(&m.Hostname)
}

// Exec asks for a command in a running container. Its descriptors are, in this
// order: the stage program, stdin, stdout, stderr (each if so marked), the cgroup
// v2 directory (if Unified), the tasks files.
type Exec struct {
	ID, RequestID  string
	Args, Env      []string // no Env: the container's
	SetEnv         bool
	Cwd            string // empty: the container's
	TTY            bool
	Height, Width  uint32
	Stdin          bool
	Stdout, Stderr bool
	TimeoutNano    int64
	OutputLimit    int
	KeepOnHangup   bool
	Unified        bool
	Tasks          int
}

func (m *Exec) fields(c *codec) {
	c.str(&m.ID)
	c.str(&m.RequestID)
	c.strs(&m.Args)
	c.strs(&m.Env)
	c.bool(&m.SetEnv)
	c.str(&m.Cwd)
	c.bool(&m.TTY)
	c.u32(&m.Height)
	c.u32(&m.Width)
	c.bool(&m.Stdin)
	c.bool(&m.Stdout)
	c.bool(&m.Stderr)
	c.i64(&m.TimeoutNano)
	c.int(&m.OutputLimit)
	c.bool(&m.KeepOnHangup)
	c.bool(&m.Unified)
	c.int(&m.Tasks)
}

// ExecStage is what the pause process asks of a stage that runs an exec. The
// stage's descriptors from StageFiles on are: pidfd of the container's main
// process, the three standard streams follow from 0 to 2 as usual.
type ExecStage struct {
	Process    Process
	JoinPID    bool
	JoinCgroup bool
}

func (m *ExecStage) fields(c *codec) {
	nested(c, &m.Process)
	c.bool(&m.JoinPID)
	c.bool(&m.JoinCgroup)
}

// ExecDone is the result of an exec.
type ExecDone struct {
	ExitCode int
	TimedOut bool
	Output   []byte
}

func (m *ExecDone) fields(c *codec) {
	c.int(&m.ExitCode)
	c.bool(&m.TimedOut)
	c.bytes(&m.Output)
}

// Attach asks for the streams of a container's main process. Its descriptors are
// the writing ends of pipes: stdout, stderr (each if so marked).
//
// A pause process of before takes it for a [Name] and answers [CodeVersion]: the
// two begin with fields of the same size.
type Attach struct {
	ID      string
	Streams int // bit n is set where the container's descriptor n is wanted
}

func (m *Attach) fields(c *codec) { c.str(&m.ID); c.int(&m.Streams) }

// Attached answers [Attach]. Its descriptor is the terminal's master, or the
// writing end of the container's stdin, if there is one.
type Attached struct {
	Stdin bool // the container reads what is written to the descriptor
	TTY   bool
	// Once says that stdin is closed when this conversation ends, or by NoInput, and
	// that nobody else may write to it.
	Once bool
}

func (m *Attached) fields(c *codec) { c.bool(&m.Stdin); c.bool(&m.TTY); c.bool(&m.Once) }

// Detached says that the container has ended and all of its output was passed on,
// but for so many bytes that the agent was too slow to take.
type Detached struct{ Skipped int64 }

func (m *Detached) fields(c *codec) { c.i64(&m.Skipped) }

// Name asks something of one container; Number is a signal where one is needed.
type Name struct {
	ID     string
	Number int
}

func (m *Name) fields(c *codec) { c.str(&m.ID); c.int(&m.Number) }

// Container is what a pause process knows of one attempt.
type Container struct {
	ID, Name     string
	Attempt      int
	Pid          int
	StartedAt    int64
	Exited       bool
	Code, Signal int
	ExitedAt     int64
}

func (m *Container) fields(c *codec) {
	c.str(&m.ID)
	c.str(&m.Name)
	c.int(&m.Attempt)
	c.int(&m.Pid)
	c.i64(&m.StartedAt)
	c.bool(&m.Exited)
	c.int(&m.Code)
	c.int(&m.Signal)
	c.i64(&m.ExitedAt)
}

// State answers a request for it. Trouble is what went wrong when the sandbox
// was set up; the sandbox is of no use then.
type State struct {
	Up         Up
	Pid        int
	UpAt       int64
	Trouble    string
	Containers []Container
}

func (m *State) fields(c *codec) {
	nested(c, &m.Up)
	c.int(&m.Pid)
	c.i64(&m.UpAt)
	c.str(&m.Trouble)
	list(c, &m.Containers, func(m *Container) { nested(c, m) })
}

// nested writes m with its length, so that fields can be appended to it later.
func nested(c *codec, m fielder) {
	var b []byte
	if !c.decoding {
		b = Marshal(m)
	}
	c.bytes(&b)
	if c.decoding && c.err == nil {
		c.err = Unmarshal(b, m)
	}
}
