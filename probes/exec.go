package probes

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// execGrace is how long after a command's timeout its end may be reported. The
// timeout is kept by what runs the command; this only notices that nobody
// answers any more.
const execGrace = 5 * time.Second

// ExecRun runs argv in the container, without a shell, and kills it with all its
// children when timeout is over. output is what it wrote to standard output and
// error, in order; more than 10 KiB of it is not needed. err means that the
// command was not run or its end is not known; it is not the command's failure.
type ExecRun func(ctx context.Context, argv []string, timeout time.Duration) (exitCode int, output []byte, timedOut bool, err error)

// Exec returns a check that succeeds when argv ends with exit code 0 within
// timeout. ctx's own deadline is not handed to run: the command is ended by
// timeout, with a result, and not by a broken connection.
// Source: kubelet, pkg/probe/exec.
func Exec(argv []string, timeout time.Duration, run ExecRun) Check {
	return func(ctx context.Context) Attempt {
		runCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout+execGrace)
		defer cancel()
		defer context.AfterFunc(ctx, func() {
			if ctx.Err() == context.Canceled {
				cancel()
			}
		})()
		exitCode, output, late, err := run(runCtx, argv, timeout)
		switch {
		case err != nil:
			return errored(err)
		case late:
			return timedOut(fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(argv, " "), timeout))
		}
		if len(output) > maxOutput {
			output = output[:maxOutput]
		}
		if exitCode != 0 {
			return failed(string(output))
		}
		return succeeded(string(output))
	}
}
