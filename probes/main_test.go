package probes

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// attempt makes one attempt with a timeout.
func attempt(tb testing.TB, check Check, timeout time.Duration) Attempt {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return check(ctx)
}

func wantAttempt(tb testing.TB, got Attempt, outcome Outcome, output string) {
	tb.Helper()
	if got.Outcome != outcome || got.Output != output {
		tb.Errorf("got %s %q (error %v)\nwant %s %q", got.Outcome, got.Output, got.Err, outcome, output)
	}
	if (got.Outcome == Unknown) != (got.Err != nil) {
		tb.Errorf("outcome %s with error %v", got.Outcome, got.Err)
	}
}

// long is a timeout that no test is meant to reach.
const long = 30 * time.Second
