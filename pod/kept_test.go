package pod

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// startedOnce is what is known of a pod with one running container.
func startedOnce(t testing.TB, attempt int) Observed {
	t.Helper()
	now := At{time.Unix(1000, 0)}
	o := Observed{Inspected: true, Sandbox: Sandbox{Phase: SandboxRunning, ID: "s"}}
	return startedAgain(o, now, attempt)
}

func startedAgain(o Observed, now At, attempt int) Observed {
	id := fmt.Sprint("id", attempt)
	o = Apply(o, Begun{At: now, Action: StartContainer{Container: "app", ID: id, Attempt: attempt}})
	return Apply(o, ContainerStarted{At: now, Container: "app", ID: id, Attempt: attempt, Pid: 100 + attempt})
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	long := strings.Repeat("ä", 5000)
	o := startedOnce(t, 0)
	for i := range 200 {
		now := At{time.Unix(int64(2000+i), 0)}
		id := fmt.Sprint("id", i)
		for _, kind := range []ProbeKind{StartupProbe, LivenessProbe, ReadinessProbe} {
			o = Apply(o, ProbeResult{At: now, Container: "app", ID: id, Kind: kind, Verdict: VerdictSuccess, Outcome: ProbeFailed, Output: long, Failures: i})
		}
		o = Apply(o, ContainerExited{At: now, Container: "app", ID: id, Attempt: i, ExitCode: i, Message: long})
		o = startedAgain(o, now, i+1)
	}
	if n := len(o.Kept.Happened); n != maxHappened {
		t.Errorf("%d things are kept", n)
	}
	if h := o.Kept.Happened[maxHappened-1]; h.Exit.Code != 199 || h.Pid != 299 || h.Times != 1 {
		t.Errorf("the newest is %+v", h)
	}
	data, err := json.Marshal(o.Kept)
	if most := (maxHappened + 3) * (maxKeptText + 500); err != nil || len(data) > most {
		t.Errorf("%d bytes are kept, at most %d are to be; %v", len(data), most, err)
	}
}

func TestWhatHappensAgainIsCounted(t *testing.T) {
	o := startedOnce(t, 0)
	for i, code := range []int{1, 1, 1, 2, 1} {
		now := At{time.Unix(int64(2000+i), 0)}
		o = Apply(o, ContainerExited{At: now, Container: "app", ID: fmt.Sprint("id", i), Attempt: i, ExitCode: code})
		o = Apply(o, ContainerExited{At: now, Container: "app", ID: fmt.Sprint("id", i), Attempt: i, ExitCode: code}) // told again
		o = startedAgain(o, now, i+1)
	}
	got := ""
	for _, h := range o.Kept.Happened {
		got += fmt.Sprintf("code %d %d times since %d; ", h.Exit.Code, h.Times, h.Since.Unix())
	}
	if want := "code 1 3 times since 2000; code 2 1 times since 2003; code 1 1 times since 2004; "; got != want {
		t.Errorf("kept: %s\nwant: %s", got, want)
	}
}

// What a failing probe sees changes with each attempt, and does not wear out a disk.
func TestAFailingProbeAloneIsNotSavedToDisk(t *testing.T) {
	o := startedOnce(t, 0)
	probe := ProbeResult{At: At{time.Unix(2000, 0)}, Container: "app", ID: "id0", Kind: ReadinessProbe, Verdict: VerdictFailure, Outcome: ProbeFailed, Output: "no", Failures: 1}
	first := Apply(o, probe)
	probe.Failures, probe.Time = 2, time.Unix(2001, 0)
	second := Apply(first, probe)
	exited := Apply(second, ContainerExited{At: At{time.Unix(2002, 0)}, Container: "app", ID: "id0"})
	record := func(o Observed) Record { return Record{Pod: &v1.Pod{}, Observed: o} }
	for _, test := range []struct {
		name     string
		from, to Observed
		want     bool
	}{{"a second failure", first, second, true}, {"a new verdict", o, first, false}, {"an exit", second, exited, false}} {
		if got := record(test.to).onlyProbes(record(test.from)); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	if second.Kept.Probes["app/Readiness"].Failures != 2 || len(exited.Kept.Probes) != 0 {
		t.Errorf("kept: %+v, then %+v", second.Kept.Probes, exited.Kept.Probes)
	}
}

func TestWhyNamesTheMemoryThatWasUsed(t *testing.T) {
	limits := v1.ResourceRequirements{Limits: v1.ResourceList{}}
	d := Desired{Pod: &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app", Command: []string{"server"}, Resources: limits}}}}}
	for _, test := range []struct {
		name string
		exit ContainerExited
		want string
	}{
		{"the main process", ContainerExited{ExitCode: 137, Signal: 9, OOM: OOM{64 << 20, 64 << 20}}, "the kernel killed it for want of memory: it had used up to 64Mi of its limit of 64Mi (resources.limits.memory)"},
		{"a child of it", ContainerExited{ExitCode: 1, OOM: OOM{60 << 20, 64 << 20}}, "the kernel killed a process of it for want of memory: it had used up to 60Mi of its limit of 64Mi (resources.limits.memory)"},
		{"a kernel that does not tell the peak", ContainerExited{ExitCode: 137, Signal: 9, OOM: OOM{0, 64 << 20}}, "the kernel killed it for want of memory: its limit is 64Mi (resources.limits.memory)"},
		{"no limit", ContainerExited{ExitCode: 137, Signal: 9}, "the kernel killed it for want of memory: it has no limit, the machine or its pod ran out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.exit.At, test.exit.Container, test.exit.ID, test.exit.OOMKilled = At{time.Unix(2000, 0)}, "app", "id0", true
			chains := Why(d, Apply(startedOnce(t, 0), test.exit), nil, time.Unix(2001, 0))
			newest := chains[len(chains)-1]
			if len(newest.Causes) == 0 || newest.Causes[0] != test.want {
				t.Errorf("%+v\nwant %s", chains, test.want)
			}
		})
	}
}
