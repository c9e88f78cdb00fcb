package pod

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// eventRow is one kind of event that a kubelet tells, and how podd's is shown to be
// the same: by what a fact is worth, by a text in a test's file, or why there is none.
type eventRow struct {
	reason, kind string
	container    string // empty: about the pod
	message      string

	before []Fact // since the sandbox is up
	fact   Fact

	file string // of the test that shows the message, from the module's root
	none string // why it cannot happen here
}

// Each reason of a kubelet's events about pods, with its type and wording.
// Source: kubelet, pkg/kubelet/events/event.go and who uses it.
func TestEventsAsTheKubeletTellsThem(t *testing.T) {
	const (
		normal, warning = v1.EventTypeNormal, v1.EventTypeWarning

		noCluster = "there is no API server to ask"
		noVolumes = "volumes of such drivers are refused by name"
		ofTheNode = "it is about the node, not about a pod"
	)
	now := At{at(5)}
	begun := Begun{At: At{at(1)}, Action: StartContainer{Container: "app", ID: "a"}}
	runs := []Fact{begun, ContainerStarted{At: At{at(1)}, Container: "app", ID: "a"}}
	stop := Begun{At: now, Action: StopContainer{Container: "app", ID: "a"}}
	verdict := func(kind ProbeKind) Fact {
		return ProbeResult{At: now, Container: "app", ID: "a", Kind: kind, Outcome: ProbeFailed, Verdict: VerdictFailure}
	}
	imageFails := func(reason string) Fact {
		return ImageFailed{At: now, Container: "app", Image: "app:1", Reason: reason, Message: "why"}
	}
	startFails := func(reason string) Fact {
		return ContainerStartFailed{At: now, Container: "app", ID: "a", Reason: reason, Message: "why"}
	}
	probed := func(outcome ProbeOutcome) Fact {
		return ProbeResult{At: now, Container: "app", ID: "a", Kind: LivenessProbe, Outcome: outcome, Output: "why"}
	}
	unable := func(a Action) Fact { return ActionFailed{At: now, Action: a, Err: "why"} }
	hook := func(kind HookKind) Fact {
		return HookDone{At: now, Container: "app", ID: "a", Kind: kind, Failure: "why"}
	}
	hookBegun := func(kind HookKind) Fact {
		return Begun{At: At{at(2)}, Action: RunHook{Container: "app", ID: "a", Kind: kind, Since: at(2)}}
	}
	crashes := append(attempt("x", 0, 2, ContainerExited{ExitCode: 1}),
		Begun{At: At{at(4)}, Action: StartContainer{Container: "app", ID: "a", Attempt: 1}}, ContainerStarted{At: At{at(4)}, Container: "app", ID: "a", Attempt: 1})

	for _, row := range []eventRow{
		{reason: "Pulling", kind: normal, message: `Pulling image "`, file: "e2e/testdata/image-pull-secrets.txtar"},
		{reason: "Pulled", kind: normal, message: "Successfully pulled image", file: "e2e/testdata/image-pull-secrets.txtar"},
		{reason: "Pulled", kind: normal, container: "app", message: `Container image "app:1" already present on machine and can be accessed by the pod`,
			fact: ImageReady{At: now, Container: "app", Image: "app:1"}},
		{reason: "Failed", kind: warning, container: "app", message: `Failed to pull image "app:1": why`, fact: imageFails("ErrImagePull")},
		{reason: "Failed", kind: warning, container: "app", message: "Error: ErrImagePull", fact: imageFails("ErrImagePull")},
		{reason: "Failed", kind: warning, container: "app", message: "Error: ImagePullBackOff", fact: imageFails("ErrImagePull")},
		{reason: "BackOff", kind: normal, container: "app", message: `Back-off pulling image "app:1"`, fact: imageFails("ErrImagePull")},
		{reason: "InspectFailed", kind: warning, container: "app", message: "why", fact: imageFails("InvalidImageName")},
		{reason: "ErrImageNeverPull", kind: warning, container: "app", message: `Container image "app:1" is not present with pull policy of Never`,
			fact: imageFails("ErrImageNeverPull")},
		{reason: "Failed", kind: warning, container: "app", message: "Error: why", before: []Fact{begun}, fact: startFails("CreateContainerConfigError")},
		{reason: "Failed", kind: warning, container: "app", message: "Error: why", before: []Fact{begun}, fact: startFails("RunContainerError")},
		{reason: "Created", kind: normal, container: "app", message: "Container created", before: []Fact{begun}, fact: runs[1]},
		{reason: "Started", kind: normal, container: "app", message: "Container started", before: []Fact{begun}, fact: runs[1]},
		{reason: "BackOff", kind: warning, container: "app", message: "Back-off restarting failed container app in pod web_default(u)",
			before: crashes, fact: ContainerExited{At: now, Container: "app", ID: "a", Attempt: 1, ExitCode: 1}},
		{reason: "Killing", kind: normal, container: "app", message: "Stopping container app",
			before: append(slices.Clone(runs), Ending{At: At{at(2)}}), fact: stop},
		{reason: "Killing", kind: normal, container: "app", message: "Container app failed liveness probe, will be restarted",
			before: append(slices.Clone(runs), verdict(LivenessProbe)), fact: stop},
		{reason: "Killing", kind: normal, container: "app", message: "Container app failed startup probe, will be restarted",
			before: append(slices.Clone(runs), verdict(StartupProbe)), fact: stop},
		{reason: "Killing", kind: normal, container: "app", message: "FailedPostStartHook",
			before: append(slices.Clone(runs), hookBegun(PostStart), hook(PostStart)), fact: stop},
		{reason: "Killing", kind: normal, message: "Container app definition changed, will be restarted", file: "pod/testdata/image_changed.txtar"},
		{reason: "FailedPostStartHook", kind: warning, container: "app", message: "PostStartHook failed",
			before: append(slices.Clone(runs), hookBegun(PostStart)), fact: hook(PostStart)},
		{reason: "FailedPreStopHook", kind: warning, container: "app", message: "PreStopHook failed",
			before: append(slices.Clone(runs), hookBegun(PreStop)), fact: hook(PreStop)},
		{reason: "LifecycleHTTPFallback", kind: warning, message: "request to HTTPS lifecycle hook", file: "e2e/testdata/hooks.txtar"},
		{reason: "Unhealthy", kind: warning, container: "app", message: "Liveness probe failed: why", before: runs, fact: probed(ProbeFailed)},
		{reason: "Unhealthy", kind: warning, container: "app", message: "Liveness probe errored and resulted in unknown state: why", before: runs, fact: probed(ProbeErrored)},
		{reason: "ProbeWarning", kind: warning, container: "app", message: "Liveness probe warning: why", before: runs, fact: probed(ProbeWarned)},
		{reason: "SandboxChanged", kind: normal, message: "Pod sandbox changed, it will be killed and re-created.",
			fact: Begun{At: now, Action: EnsureSandbox{ID: "t", Attempt: 1}}},
		{reason: "FailedCreatePodSandBox", kind: warning, message: "Failed to create pod sandbox: why",
			fact: SandboxFailed{At: now, Reason: reasonFailedCreatePodSandBox, Message: "why"}},
		{reason: "FailedPodSandBoxStatus", kind: warning, message: "Unable to get pod sandbox status: ", file: "pod/testdata/inspect_fails.txtar"},
		{reason: "FailedMount", kind: warning, message: `MountVolume.SetUp failed for volume "v" : why`, fact: VolumesFailed{At: now, Volume: "v", Message: "why"}},
		{reason: "FailedMount", kind: warning, message: "Unable to attach or mount volumes: why", fact: unable(EnsureVolumes{})},
		{reason: "FailedKillPod", kind: warning, message: "error killing pod: why", fact: unable(DestroySandbox{})},
		{reason: "ExceededGracePeriod", kind: warning, message: "Container runtime did not kill the pod within specified grace period.",
			before: runs, fact: Begun{At: now, Action: DestroySandbox{}}},
		{reason: "DeadlineExceeded", kind: normal, message: "Pod was active on the node longer than the specified deadline",
			fact: PodFailed{At: now, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}},
		{reason: "Evicted", kind: warning, message: "why", fact: PodFailed{At: now, Reason: "Evicted", Message: "why"}},
		{reason: "NodePorts", kind: warning, message: "why", fact: SandboxFailed{At: now, Reason: "NodePorts", Message: "why"}},
		{reason: "SysctlForbidden", kind: warning, message: "SysctlForbidden", file: "e2e/testdata/security.txtar"},
		{reason: "DNSConfigForming", kind: warning, message: "Nameserver limits were exceeded", file: "container/files_test.go"},
		{reason: "FailedToRetrieveImagePullSecret", kind: warning, message: "Unable to retrieve some image pull secrets", file: "e2e/testdata/image-pull-secrets.txtar"},
		{reason: "ResizeStarted", kind: normal, message: "Pod resize started: ", file: "pod/testdata/resized.txtar"},
		{reason: "ResizeCompleted", kind: normal, message: "Pod resize completed: ", file: "pod/testdata/resized.txtar"},
		{reason: "ResizeInfeasible", kind: warning, message: "Pod resize infeasible: ", file: "pod/testdata/resize_memory_in_use.txtar"},
		{reason: "ResizeError", kind: warning, message: "Pod resize error: ", file: "pod/testdata/resize_memory_in_use.txtar"},

		{reason: "ResizeDeferred", none: "nothing is reserved for pods, so a resize waits for nobody"},
		{reason: "OutOfcpu, OutOfmemory, OutOfpods", none: "nothing is reserved for pods"},
		{reason: "Preempting", none: "pods are not weighed against each other"},
		{reason: "AppArmor", none: "appArmorProfile is refused when the file is loaded"},
		{reason: "NetworkNotReady", none: "the network is made before pods are"},
		{reason: "FailedCreatePodContainer", none: "the pod's control group is made with its sandbox, and its failure told as FailedCreatePodSandBox"},
		{reason: "FailedSync", none: "a status is computed from what is known, which cannot fail"},
		{reason: "FailedValidation", none: "two objects of one name are a mistake in their files, with both places"},
		{reason: "MissingClusterDNS", none: "there is no cluster: dnsPolicy's default means the host's name servers"},
		{reason: "CheckLimitsForResolvConf", none: "what exceeds the limits is told by DNSConfigForming of each pod"},
		{reason: "HostIPsIPFamilyMismatch", none: noCluster},
		{reason: "FailedAttachVolume, FailedMapVolume, SuccessfulMountVolume, AlreadyMountedVolume", none: noVolumes},
		{reason: "VolumeResizeFailed, FileSystemResizeFailed, VolumeConditionAbnormal", none: noVolumes},
		{reason: "VolumePermissionChangeInProgress", none: "volumes that get the pod's group are new and empty here"},
		{reason: "Starting, NodeReady, NodeNotReady, Rebooted, Shutdown, SystemOOM, EvictionThresholdMet", none: ofTheNode},
	} {
		t.Run(row.reason+" "+row.message, func(t *testing.T) {
			switch {
			case row.none != "":
			case row.file != "":
				text, err := os.ReadFile(filepath.Join("..", row.file))
				if err != nil || !strings.Contains(string(text), row.message) {
					t.Errorf("%s does not show %q: %v", row.file, row.message, err)
				}
			default:
				d := auditPod(v1.RestartPolicyAlways)
				o := after(Observed{}, append(sandboxFacts(), row.before...)...)
				var told []string
				for _, e := range Events(d, o, Apply(o, row.fact), row.fact) {
					told = append(told, e.Type+" "+e.Reason+" "+e.FieldPath+" "+e.Message)
				}
				want := row.kind + " " + row.reason + " " + fieldPath(d.Pod, row.container) + " " + row.message
				if !slices.Contains(told, want) {
					t.Errorf("told\n%s\nwithout\n%s", strings.Join(told, "\n"), want)
				}
			}
		})
	}

	// Nothing is told of these by a kubelet.
	d := auditPod(v1.RestartPolicyOnFailure)
	for name, fact := range map[string]Fact{
		"an exit":                 ContainerExited{At: now, Container: "app", ID: "a"},
		"an exit for memory":      ContainerExited{At: now, Container: "app", ID: "a", OOMKilled: true, ExitCode: 137},
		"readiness that is there": ProbeResult{At: now, Container: "app", ID: "a", Kind: ReadinessProbe, Outcome: ProbeSucceeded, Verdict: VerdictSuccess},
	} {
		o := after(Observed{}, append(sandboxFacts(), runs...)...)
		if told := Events(d, o, Apply(o, fact), fact); len(told) > 0 {
			t.Errorf("%s: told %+v", name, told)
		}
	}
}
