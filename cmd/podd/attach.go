package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"

	"podd/pod"
)

func attachCommand(g *globals) *cobra.Command {
	f := &podFlags{globals: g}
	var stdin, tty, quiet bool
	c := &cobra.Command{
		Use:   "attach POD [-c CONTAINER] [-i] [-t]",
		Short: "Connect to a container's main process",
		Long: `Show what a container's main process writes from now on and, with -i, pass this
program's input to it. The container needs "stdin: true" for that, and "tty: true" for
a terminal.

The container goes on when this program ends. Its input ends then only if the
container has "stdinOnce: true" and no terminal.`,
		Example: `  podd attach web                 what it writes
  podd attach web -c shell -it    its terminal`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := f.find(c.Context(), args[0])
			if err != nil {
				return err
			}
			told := c.ErrOrStderr()
			if quiet {
				told = io.Discard
			}
			return f.attach(c.Context(), told, p, f.containerName(p), stdin, tty)
		},
	}
	f.register(c, true)
	c.Flags().BoolVarP(&stdin, "stdin", "i", false, "pass this program's input to the container")
	c.Flags().BoolVarP(&tty, "tty", "t", false, "use this terminal as the container's")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only what comes from the container")
	return c
}

// attach connects to a container until it ends or this program's input does.
func (f *podFlags) attach(ctx context.Context, told io.Writer, p *v1.Pod, name string, stdin, tty bool) error {
	c := containerSpec(p, name)
	if c == nil {
		return fmt.Errorf("container %s is not valid for pod %s; choose one of: %v", name, p.Name, pod.ContainerNames(p))
	}
	req := pod.AttachRequest{Container: name, Stdout: os.Stdout, Stderr: os.Stderr}
	if stdin && !c.Stdin {
		fmt.Fprintf(told, "Unable to pass input - container %s has no stdin: true\n", name)
	} else if stdin {
		req.Stdin = os.Stdin
	}
	switch {
	case tty && !c.TTY:
		fmt.Fprintf(told, "Unable to use a TTY - container %s did not allocate one\n", name)
	case tty && (!stdin || !inputIsTerminal()):
		fmt.Fprintln(told, noTerminal)
	case c.TTY && req.Stdin != nil && inputIsTerminal(): // as kubectl, without -t too
		fmt.Fprintln(told, "What is typed and shown here is in the container's log too, passwords included.")
		fmt.Fprintln(told, "If you don't see a command prompt, try pressing enter.")
		sizes, restore, err := rawTerminal(true)
		if err != nil {
			return err
		}
		defer restore()
		req.Resize = sizes
	}
	return f.client().Attach(ctx, keyOf(p), req)
}

// containerSpec returns a container of a pod by its name, nil if there is none.
func containerSpec(p *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		if i := slices.IndexFunc(list, func(c v1.Container) bool { return c.Name == name }); i >= 0 {
			return &list[i]
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if c := &p.Spec.EphemeralContainers[i]; c.Name == name {
			return (*v1.Container)(&c.EphemeralContainerCommon)
		}
	}
	return nil
}
