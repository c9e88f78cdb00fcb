package stream

import (
	"context"
	"fmt"

	"podd/pod"
)

// Command runs a command with the streams of a client, for [Exec]; exec is
// [pod.Manager.Exec]. r names the container and the command.
func Command(exec func(context.Context, pod.Key, pod.ExecRequest) (int, error), key pod.Key, r pod.ExecRequest) func(context.Context, Streams) error {
	return func(ctx context.Context, s Streams) error {
		r.TTY, r.Stdin, r.Stdout, r.Stderr = s.TTY, s.Stdin, s.Stdout, s.Stderr
		if s.TTY {
			r.Resize = s.Resize
		}
		switch code, err := exec(ctx, key, r); {
		case err != nil:
			return fmt.Errorf("error executing command in container: %w", err)
		case code != 0:
			return ExitCode(code)
		}
		return nil
	}
}

// Process connects a client to a container's main process, for [Exec]; attach is
// [pod.Manager.Attach].
func Process(attach func(context.Context, pod.Key, pod.AttachRequest) error, key pod.Key, container string) func(context.Context, Streams) error {
	return func(ctx context.Context, s Streams) error {
		err := attach(ctx, key, pod.AttachRequest{Container: container, Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Resize: s.Resize})
		if err != nil {
			return fmt.Errorf("error attaching to container: %w", err)
		}
		return nil
	}
}
