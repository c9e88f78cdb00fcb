// Package probes makes single probe attempts and turns them into verdicts.
//
// A [Check] is one attempt: [HTTP], [TCP], [GRPC] and [Exec] make one each. A
// [Gate] is pure and applies the thresholds. [Run] puts the two together: it
// makes attempts at exact times and reports each one.
//
// The package knows no pods and no containers. Ports and hosts arrive resolved,
// connections and commands through functions that are handed in, and what
// follows from a verdict is decided elsewhere. It keeps no state between calls;
// a loop's goroutine belongs to whoever calls [Run].
//
// Read first: [Check], [Gate], [Run].
package probes

import (
	"context"
	"time"
)

// Outcome is what a single attempt came to.
type Outcome string

const (
	Success Outcome = "success"
	// Warning counts as a success that deserves an event (ProbeWarning).
	Warning Outcome = "warning"
	Failure Outcome = "failure"
	// Unknown means that the attempt itself could not be made, for example
	// because the container could not be entered. It counts neither way.
	Unknown Outcome = "unknown"
	// Inconclusive means that the attempt ran into its timeout while the machine
	// let nobody answer, see [Excuse]. It counts neither way. No [Check] returns
	// it; [Run] does.
	Inconclusive Outcome = "inconclusive"
)

// Attempt is the result of one attempt.
type Attempt struct {
	Outcome Outcome
	// Output is what an event shows: the text of a failure or a warning, the
	// output of a command. At most 10 KiB and the text around it.
	Output string
	// Err says why the outcome is Unknown; nil otherwise.
	Err error
	// TimedOut says of a Failure that there was no answer within the timeout.
	TimedOut bool
}

// Check makes one attempt. The context's deadline is the probe's timeout; a
// check that runs into it returns a Failure, one whose context is cancelled
// returns Unknown. A check may be called again and again, also concurrently.
type Check func(ctx context.Context) Attempt

// UserAgent is what network probes call themselves, as a kubelet does.
const UserAgent = "kube-probe/1.36"

// maxOutput is how much of a body or of a command's output is kept.
// Source: kubelet, pkg/probe/http and pkg/probe/exec.
const maxOutput = 10 << 10

// Kind is one of the three probes that a container may have. Its text is the
// value of Kubernetes' probe_type label.
type Kind string

const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Verdict is what the thresholds make of the attempts so far.
type Verdict string

const (
	VerdictUnknown Verdict = ""
	VerdictSuccess Verdict = "success"
	VerdictFailure Verdict = "failure"
)

// Spec is a probe's settings, defaulted: every field but InitialDelay is positive.
type Spec struct {
	Kind             Kind
	InitialDelay     time.Duration
	Period           time.Duration
	Timeout          time.Duration // of a single attempt
	SuccessThreshold int
	FailureThreshold int
}

func failed(text string) Attempt    { return Attempt{Outcome: Failure, Output: text} }
func timedOut(text string) Attempt  { return Attempt{Outcome: Failure, Output: text, TimedOut: true} }
func errored(err error) Attempt     { return Attempt{Outcome: Unknown, Err: err} }
func succeeded(text string) Attempt { return Attempt{Outcome: Success, Output: text} }
