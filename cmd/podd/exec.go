package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"podd/pod"
)

func execCommand(g *globals) *cobra.Command {
	f := &podFlags{globals: g}
	var stdin, tty bool
	c := &cobra.Command{
		Use:   "exec [-it] POD [-c CONTAINER] -- COMMAND [ARG…]",
		Short: "Run a command in a container",
		Example: `  podd exec web -- ls /logs
  podd exec -it web -c httpd -- sh`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			code, err := f.exec(c.Context(), args[0], args[1:], stdin, tty)
			if err != nil {
				return err
			}
			if code != 0 {
				fmt.Fprintf(c.ErrOrStderr(), "command terminated with exit code %d\n", code)
				return exitCode(code)
			}
			return nil
		},
	}
	f.register(c, true)
	c.Flags().BoolVarP(&stdin, "stdin", "i", false, "pass this program's input to the command")
	c.Flags().BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	c.Flags().SetInterspersed(true)
	return c
}

func (f *podFlags) exec(ctx context.Context, arg string, command []string, stdin, tty bool) (int, error) {
	p, err := f.find(ctx, arg)
	if err != nil {
		return 0, err
	}
	container := f.containerName(p)
	if !slices.Contains(pod.ContainerNames(p), container) {
		return 0, fmt.Errorf("container %s is not valid for pod %s; choose one of: %v", container, p.Name, pod.ContainerNames(p))
	}
	req := pod.ExecRequest{Container: container, Command: command, Stdout: os.Stdout, Stderr: os.Stderr}
	if stdin {
		req.Stdin = os.Stdin
	}
	if tty && (!stdin || !inputIsTerminal()) {
		fmt.Fprintln(os.Stderr, noTerminal)
	} else if tty {
		sizes, restore, err := rawTerminal(false)
		if err != nil {
			return 0, err
		}
		defer restore()
		req.TTY, req.Resize = true, sizes
	}
	return f.client().Exec(ctx, keyOf(p), req)
}

const noTerminal = "Unable to use a TTY - input is not a terminal or the right kind of file"

func inputIsTerminal() bool { return term.IsTerminal(int(os.Stdin.Fd())) }

// rawTerminal hands every key on as it is, until restore is called, and tells the
// terminal's size; see [watchSize].
func rawTerminal(redraw bool) (sizes <-chan pod.TerminalSize, restore func(), err error) {
	fd := int(os.Stdin.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot use the terminal: %w", err)
	}
	sizes, stop := watchSize(fd, redraw)
	return sizes, func() {
		stop()
		term.Restore(fd, state)
	}, nil
}

// watchSize tells the terminal's size now and whenever it changes. redraw makes it
// change at once, so that a program that runs already draws its screen again.
func watchSize(fd int, redraw bool) (sizes <-chan pod.TerminalSize, stop func()) {
	changed := make(chan os.Signal, 1)
	changed <- unix.SIGWINCH // first: there is room for one, and nobody reads yet
	signal.Notify(changed, unix.SIGWINCH)
	out := make(chan pod.TerminalSize)
	done := make(chan struct{})
	// Ends when stop is called.
	go func() {
		for {
			select {
			case <-done:
				return
			case <-changed:
			}
			width, height, err := term.GetSize(fd)
			if err != nil {
				continue
			}
			size := pod.TerminalSize{Width: uint16(width), Height: uint16(height)}
			for _, s := range []pod.TerminalSize{{Width: size.Width + 1, Height: size.Height + 1}, size} {
				if s != size && !redraw {
					continue
				}
				select {
				case out <- s:
				case <-done:
					return
				}
			}
			redraw = false
		}
	}()
	return out, func() {
		signal.Stop(changed)
		close(done)
	}
}
