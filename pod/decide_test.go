package pod

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// names prints a plan's actions.
func names(p Plan) string {
	var all []string
	for _, a := range p.Actions {
		name := strings.TrimPrefix(fmt.Sprintf("%T", a), "pod.")
		switch a := a.(type) {
		case StartContainer:
			name += " " + a.Container
		case StopContainer:
			name += fmt.Sprintf(" %s %v", a.Container, a.Grace)
		case StartProbe:
			name += fmt.Sprintf(" %s %s %s", a.Container, a.Kind, a.Initial)
		case EnsureImage:
			name += " " + a.Container
		}
		all = append(all, name)
	}
	return strings.Join(all, ", ")
}

func TestDecide(t *testing.T) {
	web := webPod()
	_, up := runningPod()
	change := func(o Observed, f func(*Observed)) Observed {
		f(&o)
		return o
	}
	probed := webPod()
	probed.Spec.Containers[0].LivenessProbe = &v1.Probe{TerminationGracePeriodSeconds: new(int64(5))}
	probed.Spec.Containers[0].ReadinessProbe = &v1.Probe{}
	exited := func(e Exit) Observed {
		return up.with("app", Container{Tried: true, Sandbox: "s", Exit: &e, Backoff: Backoff{10 * time.Second, at(0)}})
	}
	for _, test := range []struct {
		name string
		pod  *v1.Pod
		o    Observed
		want string
		wake time.Time
		done bool
	}{
		{name: "nothing is decided before the kernel was looked at", pod: web, o: Observed{}},
		{name: "a new pod", pod: web, o: Observed{Inspected: true}, want: "EnsureVolumes, EnsureImage app"},
		{name: "volumes first, then the sandbox", pod: web, o: Observed{Inspected: true, Volumes: Volumes{Ready: true}},
			want: "EnsureImage app, EnsureSandbox"},
		{name: "what is under way is not asked for again", pod: web,
			o: Observed{Inspected: true, Volumes: Volumes{Busy: true}, Containers: map[string]Container{"app": {Image: Image{Busy: true}}}}},
		{name: "what failed waits", pod: web,
			o:    Observed{Inspected: true, Volumes: Volumes{Retry: Retry{Failures: 1, At: at(105)}}, Containers: map[string]Container{"app": {Image: Image{Busy: true}}}},
			wake: at(105)},
		{name: "all is well", pod: web, o: change(up, func(o *Observed) { o.Volumes.Ready = true })},
		{name: "a running container of an adopted pod is probed from its old verdicts", pod: probed,
			o: change(up.with("app", Container{Tried: true, Sandbox: "s", Running: &Running{ID: "c", Readiness: VerdictSuccess}}),
				func(o *Observed) { o.Volumes.Ready = true }),
			want: "StartProbe app Liveness success, StartProbe app Readiness success"},
		{name: "a failed liveness probe", pod: probed,
			o: change(up.with("app", Container{Tried: true, Sandbox: "s", Running: &Running{ID: "c", Liveness: VerdictFailure}}),
				func(o *Observed) { o.Volumes.Ready = true }),
			want: "StopContainer app 5s"},
		{name: "a crash loop waits for its delay", pod: web, o: change(exited(Exit{FinishedAt: at(95)}), func(o *Observed) { o.Volumes.Ready = true }), wake: at(105)},
		{name: "and goes on after it", pod: web, o: change(exited(Exit{FinishedAt: at(90)}), func(o *Observed) { o.Volumes.Ready = true }), want: "EnsureImage app"},
		{name: "an end within the grace period", pod: web, o: change(up, func(o *Observed) { o.Ending = &EndingState{Deadline: at(107), Then: ThenRemove} }),
			want: "StopContainer app 7s", wake: at(107)},
		{name: "an end whose grace period is over", pod: web, o: change(up, func(o *Observed) { o.Ending = &EndingState{Deadline: at(99), Then: ThenRemove} }),
			want: "StopContainer app 2s", wake: at(109)},
		{name: "an end in which nothing runs any more", pod: web,
			o: change(exited(Exit{}), func(o *Observed) { o.Ending = &EndingState{Deadline: at(107), Then: ThenRemove} }), want: "DestroySandbox"},
		{name: "an end without a sandbox", pod: web,
			o: change(exited(Exit{}), func(o *Observed) {
				o.Ending, o.Sandbox.Phase = &EndingState{Deadline: at(107), Then: ThenRemove, Destroyed: true}, SandboxNone
			}), want: "RemovePod"},
		{name: "the end", pod: web, o: Observed{Inspected: true, Ending: &EndingState{Then: ThenRemove, Destroyed: true, Removed: true}}, done: true},
		{name: "a stop keeps what there is", pod: web, o: Observed{Inspected: true, Ending: &EndingState{Then: ThenStop, Destroyed: true}}, done: true},
	} {
		before := fmt.Sprintf("%+v", test.o)
		got := Decide(Desired{Pod: test.pod}, test.o, at(100))
		if names(got) != test.want || !got.WakeAt.Equal(test.wake) || got.Done != test.done {
			t.Errorf("%s:\n got %s, wake %v, done %v\nwant %s, wake %v, done %v", test.name, names(got), got.WakeAt, got.Done, test.want, test.wake, test.done)
		}
		if fmt.Sprintf("%+v", test.o) != before {
			t.Errorf("%s: what was observed was changed", test.name)
		}
	}
}

func TestContainerThatExitsBeforeItsStartIsReported(t *testing.T) {
	_, o := runningPod()
	o = o.with("app", Container{Starting: &Attempt{ID: "c2", Attempt: 4}})
	exit := ContainerExited{At: At{at(20)}, Container: "app", ID: "c2", Attempt: 4, ExitCode: 1, StartedAt: at(19)}
	d := Desired{Pod: webPod()}
	early := Apply(o, exit)
	if got := eventReasons(Events(d, o, early, exit)); got != "Created Started" {
		t.Errorf("events of the early exit: %s", got)
	}
	late := ContainerStarted{At: At{at(21)}, Container: "app", ID: "c2", Attempt: 4}
	after := Apply(early, late)
	if !reflect.DeepEqual(after, early) || Events(d, early, after, late) != nil {
		t.Error("the late start changed something")
	}
	if again := Apply(early, exit); !reflect.DeepEqual(again, early) {
		t.Error("the same exit counted twice")
	}
	c := early.Containers["app"]
	if c.Exit == nil || c.Exit.Code != 1 || c.Attempt != 4 || !c.Exit.StartedAt.Equal(at(19)) || c.Running != nil || c.Starting != nil {
		t.Errorf("after the exit: %+v", c)
	}
}

func eventReasons(events []Event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.Reason)
	}
	return strings.Join(all, " ")
}

// FuzzLife throws facts in any order at a pod: whatever is reported, deciding
// comes to rest, nothing panics, and nothing is asked for that makes no sense.
func FuzzLife(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17})
	f.Add([]byte{0, 2, 4, 6, 6, 12, 8, 0, 16, 3, 14, 14, 15})
	f.Add([]byte{0, 2, 4, 6, 18, 6, 13, 9, 9, 19, 14, 15, 2, 4})
	f.Fuzz(func(t *testing.T, script []byte) {
		p := webPod()
		p.Spec.InitContainers = []v1.Container{{Name: "proxy", RestartPolicy: new(v1.ContainerRestartPolicyAlways), StartupProbe: &v1.Probe{}}, {Name: "fetch"}}
		p.Spec.Containers[0].LivenessProbe = &v1.Probe{}
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "job", RestartPolicy: new(v1.ContainerRestartPolicyNever)})
		d, o, ids := Desired{Pod: p}, Observed{Since: at(0)}, 0
		now := at(0)
		for i, b := range script {
			now = now.Add(time.Duration(b) * time.Second / 4)
			name := allContainers(p)[i%4].Name
			fact := fuzzFact(o, int(b), name, At{now})
			after := Apply(o, fact)
			Events(d, o, after, fact)
			o = after
			for round := 0; ; round++ {
				plan := Decide(d, o, now)
				if len(plan.Actions) == 0 {
					break
				}
				if round > 5 {
					t.Fatalf("no rest: %s", names(plan))
				}
				for _, a := range plan.Actions {
					ids++
					o = Apply(o, Begun{At: At{now}, Action: fuzzID(t, o, a, fmt.Sprint(ids))})
				}
			}
			Columns(Status(d, o, testNode, nil, now), now)
		}
	})
}

// fuzzID numbers an action and checks that it makes sense now.
func fuzzID(t *testing.T, o Observed, a Action, id string) Action {
	switch a := a.(type) {
	case EnsureSandbox:
		if o.Sandbox.Phase != SandboxNone {
			t.Fatalf("a second sandbox beside one that is %s", o.Sandbox.Phase)
		}
		a.ID = id
		return a
	case StartContainer:
		c := o.Containers[a.Container]
		if c.Running != nil || c.Starting != nil || o.Sandbox.Phase != SandboxRunning || o.Ending != nil {
			t.Fatalf("start of %s: %+v", a.Container, c)
		}
		if c.Tried && a.Attempt != c.Attempt+1 {
			t.Fatalf("attempt %d of %s follows %d", a.Attempt, a.Container, c.Attempt)
		}
		a.ID = id
		return a
	case StopContainer:
		if c := o.Containers[a.Container]; c.Running == nil || c.Running.ID != a.ID || a.Grace < stopGrace {
			t.Fatalf("stop of %s within %v: %+v", a.Container, a.Grace, c)
		}
	case RemovePod:
		if o.Ending == nil || o.Ending.Then != ThenRemove || o.Sandbox.Phase != SandboxNone {
			t.Fatalf("removal while %+v", o)
		}
	}
	return a
}

// fuzzFact is the fact number b about a container, mostly one that fits.
func fuzzFact(o Observed, b int, name string, now At) Fact {
	c := o.Containers[name]
	id := "none"
	switch {
	case c.Starting != nil:
		id = c.Starting.ID
	case c.Running != nil:
		id = c.Running.ID
	}
	kinds := []ProbeKind{StartupProbe, LivenessProbe, ReadinessProbe}
	facts := []Fact{
		Inspected{At: now}, VolumesFailed{now, "v", "m"}, VolumesReady{now}, SandboxFailed{now, o.Sandbox.ID, "NodePorts", "m"},
		SandboxUp{At: now, ID: o.Sandbox.ID, Attempt: o.Sandbox.Attempt}, ImageFailed{now, name, "i", b%2 == 0, "ErrImagePull", "m"},
		ImageReady{At: now, Container: name}, ContainerStartFailed{now, name, id, 0, "RunContainerError", "m", 128},
		ContainerStarted{At: now, Container: name, ID: id, Attempt: c.Attempt, Pid: 1}, ContainerExited{At: now, Container: name, ID: id, ExitCode: b % 2},
		ProbeResult{At: now, Container: name, ID: id, Kind: kinds[b%3], Verdict: VerdictSuccess, Outcome: ProbeSucceeded},
		ProbeResult{At: now, Container: name, ID: id, Kind: kinds[b%3], Verdict: VerdictFailure, Outcome: ProbeFailed},
		SandboxLost{now, o.Sandbox.ID}, Ending{now, time.Duration(b) * time.Second, ThenRestart}, SandboxGone{now}, PodRemoved{now},
		ActionFailed{At: now, Action: DestroySandbox{}}, ActionFailed{At: now, Action: StopContainer{Container: name, ID: id}},
		ContainerStartFailed{now, name, id, 0, "CreateContainerConfigError", "m", 0}, Ending{now, time.Second, ThenRemove},
		PodFailed{now, "DeadlineExceeded", ""}, ActionFailed{At: now, Action: RemovePod{}},
		Inspected{At: now, Sandbox: &FoundSandbox{ID: "found"}, Volumes: true, Containers: slices.Repeat([]FoundContainer{{Container: name, ID: id, Attempt: c.Attempt + 1, StartedAt: now.Time}}, b%3)},
	}
	if _, look := facts[b%len(facts)].(Inspected); look && o.Inspected {
		return Noted{At: now} // the kernel is looked at once
	}
	return facts[b%len(facts)]
}

func TestHalfMadeSandboxIsCompletedUnderItsID(t *testing.T) {
	o := Observed{Volumes: Volumes{Ready: true}, Sandbox: Sandbox{Phase: SandboxStarting, ID: "s1", Attempt: 2}}
	o = Apply(o, Inspected{At: At{at(5)}, Volumes: true, Sandbox: &FoundSandbox{ID: "s1", Attempt: 2}})
	plan := Decide(Desired{Pod: webPod()}, o, at(5))
	if !slices.Contains(plan.Actions, Action(EnsureSandbox{ID: "s1", Attempt: 2})) {
		t.Fatalf("got %s; want the sandbox ensured again", names(plan))
	}
	o = Apply(o, Begun{At: At{at(5)}, Action: EnsureSandbox{ID: "s1", Attempt: 2}})
	o = Apply(o, SandboxUp{At: At{at(6)}, ID: "s1", Attempt: 2})
	if o.Sandbox.Phase != SandboxRunning || o.Sandbox.HalfMade {
		t.Fatalf("after it is up: %+v", o.Sandbox)
	}
}

func TestWhatOldAttemptsLeftIsForgottenAlsoAfterTheirSandbox(t *testing.T) {
	_, o := runningPod()
	o = o.with("app", Container{
		Tried: true, Attempt: 2, Sandbox: "s", Exit: &Exit{ID: "c2", Attempt: 2}, Last: &Exit{ID: "c1", Attempt: 1},
		Old: []Attempt{{"c0", 0}, {"c1", 1}, {"c2", 2}},
	})
	o = Apply(o, Inspected{At: At{at(5)}})
	if plan := Decide(Desired{Pod: webPod()}, o, at(5)); !slices.Contains(plan.Actions, Action(ForgetContainer{"app", "c0", 0})) {
		t.Errorf("got %s; want c0 forgotten", names(plan))
	}
}

// The image of a volume has another name than the container's own, for which the
// answer is awaited.
func TestImageOfAVolumeThatFailsIsAnAnswer(t *testing.T) {
	now := At{time.Unix(1e9, 0)}
	o := Apply(Observed{}, Begun{At: now, Action: EnsureImage{Container: "app", Image: "app:1"}})
	for _, f := range []ImageFailed{
		{At: now, Container: "app", Image: "data:1", Volume: true, Reason: "ErrImageNeverPull"},
		{At: now, Container: "app", Image: "app:1", Reason: "ErrImageNeverPull"},
	} {
		if i := Apply(o, f).Containers["app"].Image; i.Busy || i.Retry.Reason != "ErrImageNeverPull" {
			t.Errorf("after %+v: %+v", f, i)
		}
	}
	if i := Apply(o, ImageFailed{At: now, Container: "app", Image: "app:0"}).Containers["app"].Image; !i.Busy {
		t.Errorf("an answer about a former image is taken: %+v", i)
	}
}
