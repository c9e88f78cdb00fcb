package pod

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// after is what is known of a pod after facts, each a second later than the one
// before, from at(0) on.
func after(o Observed, facts ...Fact) Observed {
	for _, f := range facts {
		o = Apply(o, f)
	}
	return o
}

// started are the facts of a pod's sandbox.
func sandboxFacts() []Fact {
	return []Fact{
		Inspected{At: At{at(0)}}, VolumesReady{At: At{at(0)}},
		Begun{At: At{at(0)}, Action: EnsureSandbox{ID: "s"}}, SandboxUp{At: At{at(0)}, ID: "s"},
	}
}

// attempt are the facts of one attempt of app that exits.
func attempt(id string, n int, second float64, exit ContainerExited) []Fact {
	exit.At, exit.Container, exit.ID, exit.Attempt = At{at(second)}, "app", id, n
	return []Fact{
		Begun{At: At{at(second - 1)}, Action: StartContainer{Container: "app", ID: id, Attempt: n}},
		ContainerStarted{At: At{at(second - 1)}, Container: "app", ID: id, Attempt: n},
		exit,
	}
}

func auditPod(policy v1.RestartPolicy, inits ...v1.Container) Desired {
	p := &v1.Pod{Spec: v1.PodSpec{
		RestartPolicy: policy, InitContainers: inits,
		Containers: []v1.Container{{Name: "app", Image: "app:1", Lifecycle: &v1.Lifecycle{}}},
	}}
	p.Name, p.Namespace, p.UID = "web", "default", "u"
	return Desired{Key: Key{Namespace: "default", Name: "web"}, Pod: p}
}

// The reasons of a waiting container: what holds it up, or what its last start
// failed with. Source: Kubernetes docs, and kubelet, kubelet_pods.go.
func TestWaitingReasonsAsTheKubeletShowsThem(t *testing.T) {
	begun := Begun{At: At{at(1)}, Action: StartContainer{Container: "app", ID: "a"}}
	failed := func(reason string) []Fact {
		return []Fact{begun, ContainerStartFailed{At: At{at(1)}, Container: "app", ID: "a", Reason: reason, Message: "why", ExitCode: 128}}
	}
	image := func(reason string) []Fact {
		return []Fact{ImageFailed{At: At{at(1)}, Container: "app", Image: "app:1", Reason: reason, Message: "why"}}
	}
	hook := Begun{At: At{at(1)}, Action: RunHook{Container: "app", ID: "a", Kind: PostStart, Since: at(1)}}
	crashes := append(attempt("a", 0, 2, ContainerExited{ExitCode: 1}), attempt("b", 1, 4, ContainerExited{ExitCode: 1})...)
	for _, c := range []struct {
		name  string
		inits []v1.Container
		hook  bool
		facts []Fact
		want  string // reason: message
	}{
		{name: "nothing happened yet", want: "ContainerCreating: "},
		{name: "init containers come first", inits: []v1.Container{{Name: "fetch"}}, want: "PodInitializing: "},
		{name: "a pull that failed waits", facts: image("ErrImagePull"), want: `ImagePullBackOff: Back-off pulling image "app:1": ErrImagePull: why`},
		{name: "a pull that failed is tried again", want: "ErrImagePull: why",
			facts: append(image("ErrImagePull"), Begun{At: At{at(11)}, Action: EnsureImage{Container: "app"}})},
		{name: "an image that may not be pulled", facts: image("ErrImageNeverPull"), want: "ErrImageNeverPull: why"},
		{name: "an image name that is none", facts: image("InvalidImageName"), want: "InvalidImageName: why"},
		{name: "an image that cannot be looked at", facts: image("ImageInspectError"), want: "ImageInspectError: why"},
		{name: "a registry that does not answer", facts: image("RegistryUnavailable"), want: "RegistryUnavailable: why"},
		{name: "configuration", facts: failed("CreateContainerConfigError"), want: "CreateContainerConfigError: why"},
		{name: "creation", facts: failed("CreateContainerError"), want: "CreateContainerError: why"},
		{name: "a command that cannot be executed", facts: failed("RunContainerError"), want: "RunContainerError: why"},
		{name: "a crash loop", facts: crashes, want: "CrashLoopBackOff: back-off 10s restarting failed container=app pod=web_default(u)"},
		{name: "a postStart hook", hook: true, want: "ContainerCreating: waiting for its postStart hook",
			facts: []Fact{begun, ContainerStarted{At: At{at(1)}, Container: "app", ID: "a"}, hook}},
		{name: "a postStart hook that failed", hook: true, want: "PostStartHookError: why",
			facts: []Fact{begun, ContainerStarted{At: At{at(1)}, Container: "app", ID: "a"}, hook,
				HookDone{At: At{at(2)}, Container: "app", ID: "a", Kind: PostStart, Failure: "why"}}},
		{name: "all containers are restarted", want: "RestartingAllContainers: ",
			facts: append(attempt("a", 0, 2, ContainerExited{ExitCode: 1}), RestartingAll{At: At{at(2)}, Container: "app"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := auditPod(v1.RestartPolicyAlways, c.inits...)
			if c.hook {
				d.Pod.Spec.Containers[0].Lifecycle.PostStart = &v1.LifecycleHandler{}
			}
			o := after(after(Observed{}, sandboxFacts()...), c.facts...)
			status := Status(d, o, testNode, nil, at(4)).Status.ContainerStatuses[0]
			if w := status.State.Waiting; w == nil || w.Reason+": "+w.Message != c.want {
				t.Errorf("%+v; want %s", status.State, c.want)
			}
			if *status.Started || status.Ready {
				t.Error("it is shown as started or ready")
			}
		})
	}
}

// The reasons of a terminated container.
func TestTerminatedReasonsAsTheKubeletShowsThem(t *testing.T) {
	start := Begun{At: At{at(1)}, Action: StartContainer{Container: "app", ID: "a"}}
	runs := []Fact{start, ContainerStarted{At: At{at(1)}, Container: "app", ID: "a"}}
	for _, c := range []struct {
		name  string
		facts []Fact
		want  string
		code  int32
	}{
		{"exit code 0", attempt("a", 0, 2, ContainerExited{}), "Completed", 0},
		{"another exit code", attempt("a", 0, 2, ContainerExited{ExitCode: 3}), "Error", 3},
		{"a signal", attempt("a", 0, 2, ContainerExited{ExitCode: 143, Signal: 15}), "Error", 143},
		{"out of memory", attempt("a", 0, 2, ContainerExited{ExitCode: 137, OOMKilled: true}), "OOMKilled", 137},
		{"a command that cannot be executed", []Fact{start, ContainerStartFailed{At: At{at(1)}, Container: "app", ID: "a", Reason: "RunContainerError", ExitCode: 128}}, "StartError", 128},
		{"lost with its sandbox", append(runs, SandboxLost{At: At{at(60)}, ID: "s"}), "ContainerStatusUnknown", 137},
		{"lost with the machine", append(runs, Inspected{At: At{at(60)}, Rebooted: true}), "Unknown", 255},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := after(after(Observed{}, sandboxFacts()...), c.facts...)
			status := Status(auditPod(v1.RestartPolicyNever), o, testNode, nil, at(61)).Status.ContainerStatuses[0]
			if s := status.State.Terminated; s == nil || s.Reason != c.want || s.ExitCode != c.code {
				t.Errorf("%+v; want %s %d", status.State, c.want, c.code)
			}
		})
	}
}

// The phase by what the containers do. Source: kubelet, kubelet_pods.go, getPhase.
func TestPhaseAsTheKubeletComputesIt(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	sidecar, fetch := v1.Container{Name: "proxy", RestartPolicy: &always}, v1.Container{Name: "fetch"}
	of := func(name string, f []Fact) []Fact {
		var renamed []Fact
		for _, fact := range f {
			switch fact := fact.(type) {
			case Begun:
				a := fact.Action.(StartContainer)
				a.Container = name
				fact.Action = a
				renamed = append(renamed, fact)
			case ContainerStarted:
				fact.Container = name
				renamed = append(renamed, fact)
			case ContainerExited:
				fact.Container = name
				renamed = append(renamed, fact)
			}
		}
		return renamed
	}
	runs := attempt("a", 0, 2, ContainerExited{})[:2]
	exits := func(code int) []Fact { return attempt("a", 0, 2, ContainerExited{ExitCode: code}) }
	for _, c := range []struct {
		name   string
		policy v1.RestartPolicy
		inits  []v1.Container
		facts  []Fact
		want   v1.PodPhase
	}{
		{"nothing runs yet", v1.RestartPolicyAlways, nil, nil, v1.PodPending},
		{"an init container runs", v1.RestartPolicyAlways, []v1.Container{fetch}, of("fetch", runs), v1.PodPending},
		{"an init container failed and may again", v1.RestartPolicyOnFailure, []v1.Container{fetch}, of("fetch", exits(1)), v1.PodPending},
		{"an init container failed for good", v1.RestartPolicyNever, []v1.Container{fetch}, of("fetch", exits(1)), v1.PodFailed},
		{"only a sidecar runs", v1.RestartPolicyAlways, []v1.Container{sidecar}, of("proxy", runs), v1.PodPending},
		{"a container runs", v1.RestartPolicyNever, nil, runs, v1.PodRunning},
		{"it exited and is restarted", v1.RestartPolicyAlways, nil, exits(0), v1.PodRunning},
		{"it failed and is restarted", v1.RestartPolicyOnFailure, nil, exits(1), v1.PodRunning},
		{"it has done its work", v1.RestartPolicyOnFailure, nil, exits(0), v1.PodSucceeded},
		{"it failed for good", v1.RestartPolicyNever, nil, exits(1), v1.PodFailed},
		{"a sidecar's exit code does not count", v1.RestartPolicyNever, []v1.Container{sidecar}, append(exits(0), of("proxy", exits(143))...), v1.PodSucceeded},
		{"a terminal phase waits for the last sidecar", v1.RestartPolicyNever, []v1.Container{sidecar}, append(of("proxy", runs), exits(0)...), v1.PodRunning},
		{"a deadline fails the pod once nothing runs", v1.RestartPolicyAlways, nil,
			append(exits(143), PodFailed{At: At{at(2)}, Reason: "DeadlineExceeded"}), v1.PodFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := after(after(Observed{}, sandboxFacts()...), c.facts...)
			if p := Status(auditPod(c.policy, c.inits...), o, testNode, nil, at(3)); p.Status.Phase != c.want {
				t.Errorf("%s; want %s", p.Status.Phase, c.want)
			}
		})
	}
}

// Conditions come in the kubelet's order, each with the generation it is about,
// and their messages name the containers.
func TestConditionsInTheKubeletsOrderAndWords(t *testing.T) {
	d := auditPod(v1.RestartPolicyAlways, v1.Container{Name: "fetch"}, v1.Container{Name: "check"})
	d.Pod.Generation = 7
	o := after(Observed{}, sandboxFacts()...)
	o.Since = at(0)
	p := Status(d, o, testNode, nil, at(1).Add(300*time.Millisecond))
	var lines []string
	for _, c := range p.Status.Conditions {
		lines = append(lines, strings.TrimSpace(string(c.Type)+" "+string(c.Status)+" "+c.Reason+" "+c.Message))
		if c.ObservedGeneration != 7 || !c.LastTransitionTime.Time.Equal(at(1)) {
			t.Errorf("%s: generation %d, since %v", c.Type, c.ObservedGeneration, c.LastTransitionTime)
		}
	}
	want := []string{
		"PodReadyToStartContainers True",
		"Initialized False ContainersNotInitialized containers with incomplete status: [fetch check]",
		"Ready False ContainersNotReady containers with unready status: [app]",
		"ContainersReady False ContainersNotReady containers with unready status: [app]",
		"PodScheduled True",
	}
	if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s", got)
	}
	if p.Status.ObservedGeneration != 7 || !p.Status.StartTime.Time.Equal(at(0)) {
		t.Errorf("observed generation %d, start %v", p.Status.ObservedGeneration, p.Status.StartTime)
	}
}
