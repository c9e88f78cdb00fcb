package probes

// Gate turns outcomes into a verdict. It is pure: the same outcomes in the same
// order always give the same verdicts. Make one with [NewGate].
//
// A verdict changes when as many outcomes in a row as the threshold says agree
// on another one. Unknown outcomes neither add to a row nor break it.
// Source: kubelet, pkg/kubelet/prober/worker.go.
type Gate struct {
	spec    Spec
	verdict Verdict
	last    Verdict // what the current row of outcomes says
	row     int     // how many in a row
	done    bool
}

// NewGate returns a gate that has seen nothing. initial is the verdict published
// so far, for a container that was adopted; VerdictUnknown gives the initial
// verdict of a new container: Failure for readiness, Success for liveness,
// unknown for startup.
func NewGate(spec Spec, initial Verdict) Gate {
	g := Gate{spec: spec, verdict: initial}
	if initial == VerdictUnknown {
		g.verdict = initialVerdict(spec.Kind)
	}
	g.done = g.over(g.verdict)
	return g
}

func initialVerdict(kind Kind) Verdict {
	switch kind {
	case Readiness:
		return VerdictFailure
	case Liveness:
		return VerdictSuccess
	}
	return VerdictUnknown
}

// Observe takes the outcome of an attempt. changed says that the verdict is
// another one than before. After [Gate.Done] it changes nothing.
func (g *Gate) Observe(o Outcome) (changed bool) {
	if g.done {
		return false
	}
	var says Verdict
	threshold := g.spec.SuccessThreshold
	switch o {
	case Success, Warning:
		says = VerdictSuccess
	case Failure:
		says, threshold = VerdictFailure, g.spec.FailureThreshold
	default:
		return false
	}
	if says != g.last {
		g.last, g.row = says, 0
	}
	g.row++
	if g.row < threshold {
		return false
	}
	g.row = threshold // a row may be endless, a counter must not be
	changed = g.verdict != says
	g.verdict = says
	g.done = g.over(says)
	return changed
}

// Verdict returns the published verdict.
func (g *Gate) Verdict() Verdict { return g.verdict }

// Done says that the verdict is final for this start of the container: liveness
// failed, or startup ended either way. No further attempt is made.
func (g *Gate) Done() bool { return g.done }

func (g *Gate) over(v Verdict) bool {
	switch g.spec.Kind {
	case Liveness:
		return v == VerdictFailure
	case Startup:
		return v != VerdictUnknown
	}
	return false
}
