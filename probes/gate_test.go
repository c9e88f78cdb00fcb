package probes

import (
	"strings"
	"testing"
)

func TestGate(t *testing.T) {
	// Outcomes: s success, w warning, f failure, u unknown. Verdicts after each:
	// S success, F failure, ? unknown; "." follows a final one.
	for _, test := range []struct {
		name             string
		kind             Kind
		success, failure int
		initial          Verdict
		outcomes, want   string
	}{
		{"readiness begins with failure and needs one success", Readiness, 1, 3, "", "s", "S"},
		{"readiness stays ready below the failure threshold", Readiness, 1, 3, "", "sffsff", "SSSSSS"},
		{"readiness fails at the threshold and comes back", Readiness, 1, 3, "", "sfffs", "SSSFS"},
		{"readiness goes on failing", Readiness, 1, 1, "", "ffff", "FFFF"},
		{"successes in a row, as many as the threshold says", Readiness, 3, 1, "", "ssfsss", "FFFFFS"},
		{"a warning is a success", Readiness, 2, 1, "", "sw", "FS"},
		{"unknown neither counts nor breaks a row", Readiness, 2, 2, "", "susufuf", "FFSSSSF"},
		{"an adopted container keeps its readiness", Readiness, 1, 2, VerdictSuccess, "ffs", "SFS"},
		{"liveness begins with success", Liveness, 1, 3, "", "ffsff", "SSSSS"},
		{"liveness ends at its first failure", Liveness, 1, 3, "", "fff", "SSF."},
		{"liveness errors never kill", Liveness, 1, 1, "", "uuuuuu", "SSSSSS"},
		{"startup is unknown until the first verdict", Startup, 1, 3, "", "ffu", "???"},
		{"startup ends with success", Startup, 1, 3, "", "ffs", "??S."},
		{"startup ends with failure", Startup, 1, 3, "", "ffuf", "???F."},
		{"a startup row broken by nothing but time", Startup, 1, 30, "", strings.Repeat("f", 30), strings.Repeat("?", 29) + "F."},
		{"startup that had its verdict before", Startup, 1, 3, VerdictSuccess, "f", "S."},
		{"liveness that had failed before", Liveness, 1, 3, VerdictFailure, "s", "F."},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewGate(Spec{Kind: test.kind, SuccessThreshold: test.success, FailureThreshold: test.failure}, test.initial)
			got := ""
			for _, o := range test.outcomes {
				before := g.Verdict()
				changed := g.Observe(map[rune]Outcome{'s': Success, 'w': Warning, 'f': Failure, 'u': Unknown}[o])
				if changed != (before != g.Verdict()) {
					t.Errorf("changed is %t from %q to %q", changed, before, g.Verdict())
				}
				got += map[Verdict]string{VerdictSuccess: "S", VerdictFailure: "F", VerdictUnknown: "?"}[g.Verdict()]
			}
			if g.Done() {
				got += "."
			}
			if got != test.want {
				t.Errorf("%s gave %s, want %s", test.outcomes, got, test.want)
			}
		})
	}
}
