package container

import (
	"fmt"
	"net/netip"

	image "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"podd/container/seccomp"
)

// Reasons of a [ConfigError]: the values of a container's waiting reason that
// the kubelet uses for failures before a container's first instruction.
const (
	// ReasonConfig is for what the pod asks and what its image offers not
	// going together; trying again helps only once one of them changed.
	ReasonConfig = "CreateContainerConfigError"
	// ReasonCreate is for what a runtime finds while creating a container.
	ReasonCreate = "CreateContainerError"
)

// ConfigError says that a container cannot be made from its pod and its image.
type ConfigError struct {
	Reason string // ReasonConfig or ReasonCreate
	Err    error
}

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

func configError(format string, args ...any) error {
	return &ConfigError{ReasonConfig, fmt.Errorf(format, args...)}
}

func createError(format string, args ...any) error {
	return &ConfigError{ReasonCreate, fmt.Errorf(format, args...)}
}

// Input is everything a container's spec is made of. Nothing in it is changed.
type Input struct {
	// Pod is defaulted and validated. Container is one of its containers or
	// init containers.
	Pod       *v1.Pod
	Container *v1.Container

	Image image.Config

	// ReadFile reads a file of the image's root file system, confined to it by
	// the caller. It is asked for /etc/passwd and /etc/group only. A missing
	// file is an error that matches fs.ErrNotExist. Nil: the image has neither.
	ReadFile func(path string) ([]byte, error)

	PodIPs   []netip.Addr // empty while unknown
	HostIPs  []netip.Addr
	NodeName string
	// Hostname becomes $HOSTNAME: the pod's (see [Hostname]), or the node's
	// with hostNetwork.
	Hostname string

	// What a container without a limit may use, for resourceFieldRef, and the
	// base of oom_score_adj.
	NodeCPUMilli       int64
	NodeMemoryBytes    int64
	NodeEphemeralBytes int64

	// Capabilities are those the agent can give, as "CAP_CHOWN": its own
	// bounding set.
	Capabilities []string
	// HostDevices are the host's device nodes, for privileged containers.
	HostDevices []specs.LinuxDevice
	// CPUs is the number of possible CPUs; it bounds the masked
	// thermal_throttle directories of /sys. Zero: none are masked.
	CPUs int

	// Objects finds ConfigMaps and Secrets. Nil: there are none.
	Objects Objects
	// Services returns those of a namespace by which containers find each other. Nil:
	// there are none.
	Services func(namespace string) []*v1.Service
	// EnvFile reads a file below the root of one of the pod's emptyDir volumes
	// for fileKeyRef, confined by the caller. Nil: every file is missing.
	EnvFile func(volume, path string) ([]byte, error)

	// Mounts are bind mounts resolved by the caller: the container's volume
	// mounts in their order, then those with Default set.
	Mounts []Mount

	CgroupV2 bool

	// Kernel and Arch choose the built-in seccomp profile. Arch is a GOARCH.
	Kernel seccomp.Kernel
	Arch   string
	// LocalhostProfile reads a seccomp profile by its localhostProfile name.
	// Nil: every profile is missing.
	LocalhostProfile func(name string) ([]byte, error)
}

// Objects looks up what a pod refers to by name, in the pod's own namespace.
// ok is false when there is no such object.
type Objects interface {
	ConfigMap(namespace, name string) (object *v1.ConfigMap, ok bool)
	Secret(namespace, name string) (object *v1.Secret, ok bool)
}

// Mount is a bind mount into a container, whose source the caller resolved.
type Mount struct {
	// Destination is the path in the container; a relative one is meant from /.
	Destination string
	// Source is a label, unique among the mounts, that comes back unchanged as
	// the source of the spec's mount. It is no path: the caller maps it to a
	// descriptor.
	Source string

	ReadOnly          bool
	RecursiveReadOnly bool // only with ReadOnly
	Propagation       v1.MountPropagationMode

	// Default marks what the runtime adds (/etc/hosts, /etc/hostname,
	// /etc/resolv.conf, /dev/shm, the termination log). It is left out when a
	// mount without Default has the same destination.
	Default bool
}

// SandboxNamespace is the path of those namespaces in a spec that the pod's
// sandbox holds. A namespace with an empty path is new for the container; one
// that a spec does not list is the host's.
const SandboxNamespace = "sandbox"
