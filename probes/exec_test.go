package probes

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestExec(t *testing.T) {
	argv := []string{"/bin/sh", "-c", "exit 1"}
	for name, test := range map[string]struct {
		exitCode int
		output   string
		timedOut bool
		err      error
		outcome  Outcome
		want     string
	}{
		"exit code 0":                      {0, "fine", false, nil, Success, "fine"},
		"any other exit code":              {3, "not fine", false, nil, Failure, "not fine"},
		"killed":                           {137, "", false, nil, Failure, ""},
		"more output than is kept":         {1, strings.Repeat("x", 20<<10), false, nil, Failure, strings.Repeat("x", 10<<10)},
		"timeout":                          {137, "ignored", true, nil, Failure, `command timed out: "/bin/sh -c exit 1" timed out after 1s`},
		"the container could not be asked": {0, "", false, errors.New("no such container"), Unknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			check := Exec(argv, time.Second, func(ctx context.Context, got []string, timeout time.Duration) (int, []byte, bool, error) {
				if strings.Join(got, " ") != strings.Join(argv, " ") || timeout != time.Second {
					t.Errorf("asked to run %q for %v", got, timeout)
				}
				return test.exitCode, []byte(test.output), test.timedOut, test.err
			})
			wantAttempt(t, attempt(t, check, time.Second), test.outcome, test.want)
		})
	}
}

func TestExecLeavesTheTimeoutToWhatRunsTheCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := Exec([]string{"sleep", "9"}, time.Second, func(ctx context.Context, argv []string, timeout time.Duration) (int, []byte, bool, error) {
			select {
			case <-ctx.Done():
				t.Error("the call ended before the command was killed")
			case <-time.After(timeout + 50*time.Millisecond): // killed and reaped
			}
			return 137, nil, true, nil
		})
		wantAttempt(t, attempt(t, check, time.Second), Failure, `command timed out: "sleep 9" timed out after 1s`)
	})
}

func TestExecDoesNotWaitForEverForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := Exec([]string{"true"}, time.Second, func(ctx context.Context, argv []string, timeout time.Duration) (int, []byte, bool, error) {
			<-ctx.Done()
			return 0, nil, false, ctx.Err()
		})
		begin := time.Now()
		wantAttempt(t, attempt(t, check, time.Second), Unknown, "")
		if waited := time.Since(begin); waited != 6*time.Second {
			t.Errorf("waited %v", waited)
		}
		// A loop that is ended does not wait at all.
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		begin = time.Now()
		wantAttempt(t, check(ctx), Unknown, "")
		if waited := time.Since(begin); waited != 10*time.Millisecond {
			t.Errorf("waited %v after the end", waited)
		}
	})
}
