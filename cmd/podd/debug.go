package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"

	"podd/pod"
)

// debugOptions are what an ephemeral container is made of.
type debugOptions struct {
	podFlags
	image, target string
	policy        string
	env           map[string]string
	stdin, tty    bool
	quiet         bool
}

func debugCommand(g *globals) *cobra.Command {
	o := &debugOptions{podFlags: podFlags{globals: g}}
	c := &cobra.Command{
		Use:   "debug POD --image IMAGE [--target CONTAINER] [-it] [-- COMMAND [ARG…]]",
		Short: "Add a container to a running pod, to look at it from inside",
		Long: `Add an ephemeral container to a running pod. It shares the pod's network, and
with --target the processes of that container. It is never restarted, shows in
describe and logs like any other, and ends with the pod.

With -i or -it a shell, or the command, is run in the new container and connected to
this terminal; the container itself runs what its image says, and stays.`,
		Example: `  podd debug web --image busybox:1.36 --target httpd -it
  podd debug web --image busybox:1.36 -- nc -vz 127.0.0.1 80`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			code, err := o.debug(c.Context(), c.ErrOrStderr(), args[0], args[1:])
			if err != nil {
				return err
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
	o.register(c, true)
	f := c.Flags()
	f.Lookup("container").Usage = "name of the new container; by default debugger-xxxxx"
	f.StringVar(&o.image, "image", "", "image of the new container")
	f.StringVar(&o.target, "target", "", "container whose processes are shared")
	f.StringVar(&o.policy, "image-pull-policy", "", "Always, IfNotPresent or Never; by default IfNotPresent")
	f.StringToStringVar(&o.env, "env", nil, "variables of the container, NAME=VALUE")
	f.BoolVarP(&o.stdin, "stdin", "i", false, "run the command, or a shell, with this program's input")
	f.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not tell the container's name")
	return c
}

// debug adds the container and, with stdin, runs a command in it.
func (o *debugOptions) debug(ctx context.Context, told io.Writer, arg string, command []string) (int, error) {
	if o.image == "" {
		return 0, fmt.Errorf("you must specify --image")
	}
	if !slices.Contains([]string{"", "Always", "IfNotPresent", "Never"}, o.policy) {
		return 0, fmt.Errorf("--image-pull-policy: expected Always, IfNotPresent or Never; found %q", o.policy)
	}
	p, err := o.find(ctx, arg)
	if err != nil {
		return 0, err
	}
	interactive := o.stdin || o.tty
	add := v1.EphemeralContainer{TargetContainerName: o.target}
	add.Name, add.Image, add.ImagePullPolicy = o.container, o.image, v1.PullPolicy(o.policy)
	if add.Name == "" {
		add.Name = "debugger-" + rand.String(5)
	}
	for name, value := range o.env {
		add.Env = append(add.Env, v1.EnvVar{Name: name, Value: value})
	}
	slices.SortFunc(add.Env, func(a, b v1.EnvVar) int {
		return cmp.Compare(a.Name, b.Name)
	})
	add.Stdin, add.TTY = interactive, o.tty
	if !interactive {
		add.Command = command
	}
	if err := o.client().Debug(ctx, keyOf(p), add); err != nil {
		return 0, err
	}
	if o.target != "" && !o.quiet {
		fmt.Fprintf(told, "Targeting container %q.\n", o.target)
	}
	if o.container == "" && !o.quiet {
		fmt.Fprintf(told, "Defaulting debug container name to %s.\n", add.Name)
	}
	if !interactive {
		return 0, nil
	}
	if err := o.awaitRunning(ctx, keyOf(p), add.Name); err != nil {
		return 0, err
	}
	if len(command) == 0 {
		command = []string{"sh"}
	}
	o.container = add.Name
	return o.exec(ctx, arg, command, true, o.tty)
}

// awaitRunning waits until an ephemeral container runs, and says why it never will
// where that is clear.
func (o *debugOptions) awaitRunning(ctx context.Context, key pod.Key, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list, err := o.client().Pods(ctx)
	if err != nil {
		return err
	}
	var outcome error
	done := false
	look := func(p *v1.Pod) {
		if keyOf(p) != key {
			return
		}
		for _, s := range p.Status.EphemeralContainerStatuses {
			switch {
			case s.Name != name:
			case s.State.Running != nil:
				done = true
			case s.State.Terminated != nil:
				done, outcome = true, fmt.Errorf("container %s has ended: %s, exit code %d", name, s.State.Terminated.Reason, s.State.Terminated.ExitCode)
			case s.State.Waiting != nil && s.State.Waiting.Reason != "ContainerCreating" && s.State.Waiting.Reason != "PodInitializing":
				done, outcome = true, fmt.Errorf("container %s waits: %s: %s", name, s.State.Waiting.Reason, s.State.Waiting.Message)
			}
		}
		if done {
			cancel()
		}
	}
	for i := range list.Items {
		look(&list.Items[i])
	}
	if done {
		return outcome
	}
	err = o.client().Watch(ctx, list.ResourceVersion, func(kind watch.EventType, p *v1.Pod) {
		if kind == watch.Deleted && keyOf(p) == key {
			done, outcome = true, fmt.Errorf("pod %s is gone", key)
			cancel()
			return
		}
		look(p)
	})
	if done {
		return outcome
	}
	return err
}
