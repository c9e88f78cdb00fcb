package node

import (
	"bytes"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Facts are what does not change while the agent runs.
type Facts struct {
	Name          string
	IPs           []netip.Addr // the main address first
	PodCIDRs      []string
	MachineID     string // /etc/machine-id
	SystemUUID    string // of the firmware; empty: MachineID
	BootID        string
	KernelVersion string
	OSImage       string // PRETTY_NAME of os-release
	// Version is the Kubernetes version whose kubelet's behaviour this node has, and
	// RuntimeVersion our own.
	Version, RuntimeVersion string
	// KubeletPort is where the kubelet's endpoints are; 0: nowhere.
	KubeletPort int
}

// Load is how much of the machine there is and how much is left.
type Load struct {
	Cores                         int
	MemoryBytes, AvailableBytes   uint64
	DiskBytes, AvailableDiskBytes uint64 // where pods have their data
	Inodes, FreeInodes            uint64 // of the same file system; zero: it does not count them
	PIDs, UsedPIDs                uint64
}

// maxPods is how many pods a kubelet takes by default; nothing here counts them.
const maxPods = 110

// What is left when there is pressure: the kubelet's default thresholds of
// eviction. Nothing is evicted here.
// Source: Kubernetes docs, "Node-pressure Eviction".
const (
	leastMemory       = 100 << 20
	leastDiskPercent  = 10
	leastInodePercent = 5
)

// Labels are those that a node has of itself; users' labels stay beside them.
func Labels(name string) map[string]string {
	return map[string]string{
		v1.LabelHostname:          name,
		v1.LabelOSStable:          runtime.GOOS,
		v1.LabelArchStable:        runtime.GOARCH,
		"beta.kubernetes.io/os":   runtime.GOOS,
		"beta.kubernetes.io/arch": runtime.GOARCH,
	}
}

// Describe returns the Node as it is to be shown, made of what is shown already,
// nil at first. present is not changed.
func Describe(present *v1.Node, f Facts, l Load, now time.Time) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: f.Name, CreationTimestamp: metav1.NewTime(now).Rfc3339Copy()}}
	if present != nil {
		n = present.DeepCopy()
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	maps.Copy(n.Labels, Labels(f.Name))
	n.Spec.PodCIDRs = f.PodCIDRs
	if len(f.PodCIDRs) > 0 {
		n.Spec.PodCIDR = f.PodCIDRs[0]
	}
	s := &n.Status
	s.Capacity = v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(l.Cores), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(int64(l.MemoryBytes), resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(l.DiskBytes), resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	s.Allocatable = s.Capacity.DeepCopy()
	s.Addresses = nil
	for _, ip := range f.IPs {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: f.Name})
	s.DaemonEndpoints.KubeletEndpoint.Port = int32(f.KubeletPort)
	s.NodeInfo = v1.NodeSystemInfo{
		MachineID: f.MachineID, SystemUUID: f.SystemUUID, BootID: f.BootID, KernelVersion: f.KernelVersion, OSImage: f.OSImage,
		ContainerRuntimeVersion: "podd://" + f.RuntimeVersion, KubeletVersion: f.Version,
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	if s.NodeInfo.SystemUUID == "" {
		s.NodeInfo.SystemUUID = f.MachineID
	}
	for _, c := range l.conditions() {
		setCondition(s, c, now)
	}
	return n
}

// conditions are the kubelet's, in its words.
func (l Load) conditions() []v1.NodeCondition {
	pressure := func(kind v1.NodeConditionType, under bool, bad, good, badText, goodText string) v1.NodeCondition {
		if under {
			return v1.NodeCondition{Type: kind, Status: v1.ConditionTrue, Reason: bad, Message: badText}
		}
		return v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: good, Message: goodText}
	}
	return []v1.NodeCondition{
		pressure(v1.NodeMemoryPressure, l.AvailableBytes < leastMemory,
			"KubeletHasInsufficientMemory", "KubeletHasSufficientMemory",
			"kubelet has insufficient memory available", "kubelet has sufficient memory available"),
		pressure(v1.NodeDiskPressure, below(l.AvailableDiskBytes, l.DiskBytes, leastDiskPercent) || below(l.FreeInodes, l.Inodes, leastInodePercent),
			"KubeletHasDiskPressure", "KubeletHasNoDiskPressure",
			"kubelet has disk pressure", "kubelet has no disk pressure"),
		pressure(v1.NodePIDPressure, l.PIDs > 0 && l.UsedPIDs >= l.PIDs,
			"KubeletHasInsufficientPID", "KubeletHasSufficientPID",
			"kubelet has insufficient PID available", "kubelet has sufficient PID available"),
		{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
	}
}

// below says whether less than a percentage is left of what there is.
func below(left, all uint64, percent uint64) bool { return all > 0 && left/percent*100 < all }

// setCondition puts a condition in its place; one that says what it said keeps
// its time of transition.
func setCondition(s *v1.NodeStatus, c v1.NodeCondition, now time.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
	i := slices.IndexFunc(s.Conditions, func(old v1.NodeCondition) bool { return old.Type == c.Type })
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if s.Conditions[i].Status == c.Status {
		c.LastTransitionTime = s.Conditions[i].LastTransitionTime
	}
	s.Conditions[i] = c
}

// differs says whether two Nodes differ in more than the time of a heartbeat.
func differs(a, b *v1.Node) bool {
	// As they go over the wire: looking at every type takes pages of the program that
	// nothing else needs on an idle node.
	text := func(n v1.Node) []byte {
		n.Status.Conditions = slices.Clone(n.Status.Conditions)
		for i := range n.Status.Conditions {
			n.Status.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		data, _ := n.Marshal() // never fails
		return data
	}
	return !bytes.Equal(text(*a), text(*b))
}
