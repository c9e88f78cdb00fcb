package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"time"

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

It runs the command, or what its image says. With -i this program's input is passed to
it, with -it this terminal is its own; "podd attach" finds it again.`,
		Example: `  podd debug web --image busybox:1.36 --target httpd -it
  podd debug web --image busybox:1.36 -- nc -vz 127.0.0.1 80
  podd debug web --image busybox:1.36 -it -- sh`,
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
	f.BoolVarP(&o.stdin, "stdin", "i", false, "pass this program's input to it")
	f.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not tell the container's name")
	return c
}

// debug adds the container and, with stdin, attaches to it.
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
	switch names := pod.ContainerNames(p); {
	case slices.Contains(names, o.container): // as a patch it would change that one
		return 0, fmt.Errorf("pod %s has a container %s already", keyOf(p), o.container)
	case o.target != "" && !slices.Contains(names, o.target):
		return 0, fmt.Errorf("pod %s has no container %s to target; choose one of: %v", keyOf(p), o.target, names)
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
	if o.tty && !inputIsTerminal() {
		fmt.Fprintln(told, noTerminal)
		o.tty = false
	}
	// Without a terminal, the end of our input is the command's.
	add.Stdin, add.TTY, add.StdinOnce = interactive, o.tty, interactive && !o.tty
	add.Command = command
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
	return o.join(ctx, told, keyOf(p), add.Name)
}

// join attaches to the new container once it runs and returns its exit code. Of one
// that has ended by then, it shows the log.
func (o *debugOptions) join(ctx context.Context, told io.Writer, key pod.Key, name string) (int, error) {
	p, s, err := o.await(ctx, key, name, func(s v1.ContainerState) bool {
		return s.Running != nil || s.Terminated != nil ||
			s.Waiting != nil && s.Waiting.Reason != "ContainerCreating" && s.Waiting.Reason != "PodInitializing"
	})
	switch {
	case err != nil:
		return 0, err
	case s.Waiting != nil:
		return 0, fmt.Errorf("container %s waits: %s: %s", name, s.Waiting.Reason, s.Waiting.Message)
	case s.Terminated != nil:
		return int(s.Terminated.ExitCode), o.client().Logs(ctx, key, name, url.Values{}, os.Stdout)
	}
	if o.quiet {
		told = io.Discard
	}
	if err := o.attach(ctx, told, p, name, true, o.tty); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, s, err = o.await(ctx, key, name, func(s v1.ContainerState) bool { return s.Terminated != nil })
	if err != nil || s.Terminated == nil {
		return 0, nil // it goes on, or the pod is gone
	}
	return int(s.Terminated.ExitCode), nil
}

// await waits until an ephemeral container's state is as wanted.
func (o *debugOptions) await(ctx context.Context, key pod.Key, name string, wanted func(v1.ContainerState) bool) (*v1.Pod, v1.ContainerState, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list, err := o.client().Pods(ctx)
	if err != nil {
		return nil, v1.ContainerState{}, err
	}
	var found *v1.Pod
	var state v1.ContainerState
	look := func(p *v1.Pod) {
		if keyOf(p) != key {
			return
		}
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.Name == name && wanted(s.State) {
				found, state = p, s.State
				cancel()
			}
		}
	}
	for i := range list.Items {
		look(&list.Items[i])
	}
	if found != nil {
		return found, state, nil
	}
	gone := false
	err = o.client().Watch(ctx, list.ResourceVersion, func(kind watch.EventType, p *v1.Pod) {
		if kind == watch.Deleted && keyOf(p) == key {
			gone = true
			cancel()
			return
		}
		if found == nil {
			look(p)
		}
	})
	switch {
	case found != nil:
		return found, state, nil
	case gone:
		return nil, state, fmt.Errorf("pod %s is gone", key)
	}
	return nil, state, err
}
