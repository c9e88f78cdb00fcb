package pod

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Kept is what is remembered of a pod for nothing but [Why]. It is bounded: a few
// kilobytes, whatever happens and how often.
type Kept struct {
	// Happened is what befell the pod, oldest first. What happens again and again
	// is one entry with a count.
	Happened []Happening `json:"happened,omitempty"`
	// Probes are the probes whose newest attempt did not succeed, by container and
	// kind: "app/Liveness".
	Probes map[string]Probed `json:"probes,omitempty"`
}

const (
	maxHappened = 16
	maxKeptText = 512 // bytes
)

// Happening is one thing that befell a pod, or one of its containers.
type Happening struct {
	What      What      `json:"what"`
	Container string    `json:"container,omitempty"`
	At        time.Time `json:"at"`
	// Times is how often it happened alike, Since when first.
	Times int       `json:"times"`
	Since time.Time `json:"since"`
	// Text is what there is to say beside What.
	Text string `json:"text,omitempty"`
	// Exit, Pid, Probe, Deaf and OOM are of a container that exited: its end, its
	// main process, the probe that had it stopped, whether it did not heed the stop
	// signal, and its memory if that is what it died of.
	Exit  *Exit   `json:"exit,omitempty"`
	Pid   int     `json:"pid,omitempty"`
	Probe *Probed `json:"probe,omitempty"`
	Deaf  bool    `json:"deaf,omitempty"`
	OOM   *OOM    `json:"oom,omitempty"`
}

// What is the kind of a [Happening].
type What string

const (
	WhatExited      What = "exited"      // a container did
	WhatSandboxLost What = "sandboxLost" // its pause process ended
	WhatRebooted    What = "rebooted"    // the machine was started anew
	WhatRestarted   What = "restarted"   // a user asked for it
	WhatChanged     What = "changed"     // its file did, and the pod followed
	WhatReplaced    What = "replaced"    // it takes the place of a pod of another manifest
)

// Probed is a row of attempts of one probe without a success.
type Probed struct {
	ID   string    `json:"id"` // of the container's attempt
	Kind ProbeKind `json:"kind"`
	// Failures and Uncounted are how many attempts of the row failed, and how many
	// counted neither way.
	Failures  int       `json:"failures,omitempty"`
	Uncounted int       `json:"uncounted,omitempty"`
	Since     time.Time `json:"since"`
	At        time.Time `json:"at"` // the newest
	Output    string    `json:"output,omitempty"`
	Excuse    string    `json:"excuse,omitempty"` // of an attempt that was inconclusive
}

// OOM is the memory of a container of which the kernel killed a process.
type OOM struct {
	PeakBytes  uint64 `json:"peakBytes,omitempty"`  // the most it ever had; zero: not known
	LimitBytes uint64 `json:"limitBytes,omitempty"` // zero: it has none, the machine ran out
}

// remember returns after with what f is to be remembered by. before is what was
// known before f.
func remember(before, after Observed, f Fact) Observed {
	k := after.Kept
	switch f := f.(type) {
	case Inspected:
		if f.Rebooted && before.Sandbox.ID != "" {
			k = k.happened(Happening{What: WhatRebooted, At: f.Time})
		}
	case SandboxLost:
		if before.Sandbox.Phase == SandboxRunning && after.Sandbox.Phase == SandboxNone {
			k = k.happened(Happening{What: WhatSandboxLost, At: f.Time})
		}
	case Ending:
		if f.Then == ThenRestart && before.Ending == nil {
			k = k.happened(Happening{What: WhatRestarted, At: f.Time})
		}
	case Changed:
		var fields []string
		for _, c := range f.Fields {
			fields = append(fields, fmt.Sprintf("%s: %s → %s", c.Path, cmp.Or(c.Before, "nothing"), cmp.Or(c.After, "nothing")))
		}
		k = k.happened(Happening{What: WhatChanged, At: f.Time, Text: strings.Join(fields, ", ")})
	case ProbeResult:
		if r := before.Containers[f.Container].Running; r != nil && r.ID == f.ID {
			k = k.probed(f)
		}
	}
	for _, name := range sortedNames(after.Containers) {
		c, was := after.Containers[name], before.Containers[name]
		if c.Exit != nil && !c.Exit.notItsOwn() && (was.Exit == nil || was.Exit.ID != c.Exit.ID) && (was.Last == nil || was.Last.ID != c.Exit.ID) {
			k = k.exited(name, was, *c.Exit, f)
		}
	}
	after.Kept = k
	return after
}

// replaced is what a new pod remembers of the one whose place it takes. Values are
// left out: those of variables may be secret.
func replaced(was, is Desired, now time.Time) Kept {
	var fields []string
	for _, c := range Compare(was, is).Recreate {
		fields = append(fields, c.Path)
	}
	return Kept{}.happened(Happening{What: WhatReplaced, At: now, Text: strings.Join(fields, ", ")})
}

// probed returns k after an attempt of a probe.
func (k Kept) probed(f ProbeResult) Kept {
	key := f.Container + "/" + string(f.Kind)
	probes := maps.Clone(k.Probes)
	if f.Outcome == ProbeSucceeded || f.Outcome == ProbeWarned {
		delete(probes, key)
	} else {
		if probes == nil {
			probes = map[string]Probed{}
		}
		p := Probed{
			ID: f.ID, Kind: f.Kind, Failures: f.Failures, Uncounted: f.Uncounted, Since: f.Since, At: f.Time,
			Output: cut(f.Output), Excuse: f.Excuse,
		}
		if old, found := probes[key]; found && old.ID == f.ID && f.Outcome != ProbeFailed && old.Failures > 0 {
			p.Output = old.Output // what counts is what there is to say
		}
		probes[key] = p
	}
	if len(probes) == 0 {
		probes = nil
	}
	k.Probes = probes
	return k
}

// exited returns k after a container exited. was is what was known of it while it
// ran.
func (k Kept) exited(name string, was Container, e Exit, f Fact) Kept {
	e.Message = cut(e.Message)
	h := Happening{What: WhatExited, Container: name, At: e.FinishedAt, Exit: &e}
	if r := was.Running; r != nil && r.ID == e.ID {
		h.Pid, h.Text = r.Pid, r.postStartFailed()
		if p := r.PreStop; p != nil && p.Failure != "" {
			h.Text = "its preStop hook failed: " + p.Failure
		}
		h.Deaf = r.Stop != nil && e.Signal == sigkill && !e.FinishedAt.Before(r.Stop.Deadline)
	}
	if kind, probed := stoppedBy[e.Stopped]; probed {
		if p, found := k.Probes[name+"/"+string(kind)]; found && p.ID == e.ID {
			h.Probe = &p
		}
	}
	if e.Reason == reasonOOMKilled {
		oom := oomOf(f, e.ID)
		h.OOM = &oom
	}
	// What its probes saw is over with it.
	probes := maps.Clone(k.Probes)
	maps.DeleteFunc(probes, func(_ string, p Probed) bool { return p.ID == e.ID })
	if len(probes) == 0 {
		probes = nil
	}
	k.Probes = probes
	return k.happened(h)
}

// oomOf is what a fact tells of the memory of a container that exited.
func oomOf(f Fact, id string) OOM {
	switch f := f.(type) {
	case ContainerExited:
		return f.OOM
	case Inspected:
		for _, c := range f.Containers {
			if c.ID == id && c.Exit != nil {
				return c.Exit.OOM
			}
		}
	}
	return OOM{}
}

const sigkill = 9

// stoppedBy is the probe that had a container stopped.
var stoppedBy = map[StopReason]ProbeKind{StopLiveness: LivenessProbe, StopStartup: StartupProbe}

// happened returns k with h as the newest thing that happened. If the last thing
// that befell the same container was of the same kind, it is counted.
func (k Kept) happened(h Happening) Kept {
	h.Times, h.Since, h.Text = 1, h.At, cut(h.Text)
	all := slices.Clone(k.Happened)
	for i, old := range slices.Backward(all) {
		if old.Container != h.Container {
			continue
		}
		if old.like(h) {
			h.Times, h.Since = old.Times+1, old.Since
			all = slices.Delete(all, i, i+1)
		}
		break
	}
	all = append(all, h)
	k.Happened = all[max(0, len(all)-maxHappened):]
	return k
}

// like says whether two things are the same one that happened twice.
func (h Happening) like(other Happening) bool {
	if h.What != other.What || h.Text != other.Text || (h.Exit == nil) != (other.Exit == nil) || (h.Probe == nil) != (other.Probe == nil) {
		return false
	}
	if h.Exit == nil {
		return true
	}
	a, b := h.Exit, other.Exit
	return a.Code == b.Code && a.Signal == b.Signal && a.Reason == b.Reason && a.Stopped == b.Stopped
}

// cut shortens a text of others to what is kept of it.
func cut(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxKeptText {
		s = strings.ToValidUTF8(s[:maxKeptText], "") + "…"
	}
	return s
}
