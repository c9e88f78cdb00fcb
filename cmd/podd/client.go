package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"

	"podd/api"
	"podd/pod"
)

func (g *globals) client() *api.Client { return api.NewClient(g.runDir) }

// podFlags are the flags of commands about one pod.
type podFlags struct {
	*globals
	namespace string
	container string
}

func (f *podFlags) register(c *cobra.Command, container bool) {
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "default", "namespace of the pod")
	if container {
		c.Flags().StringVarP(&f.container, "container", "c", "", "container; by default the one that the pod's annotation "+defaultContainer+" names, or the first")
	}
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f.podNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
	}
}

const defaultContainer = "kubectl.kubernetes.io/default-container"

func (g *globals) podNames(ctx context.Context) []string {
	list, err := g.client().Pods(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	return names
}

// find returns the pod that an argument names, as NAME, pod/NAME or pods/NAME.
func (f *podFlags) find(ctx context.Context, arg string) (*v1.Pod, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(arg, "pods/"), "pod/")
	list, err := f.client().Pods(ctx)
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.Name == name && p.Namespace == f.namespace {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pods %q not found in namespace %q", name, f.namespace)
}

// containerName picks the container that a command without -c means.
func (f *podFlags) containerName(p *v1.Pod) string {
	if f.container != "" {
		return f.container
	}
	if name := p.Annotations[defaultContainer]; name != "" && slices.Contains(pod.ContainerNames(p), name) {
		return name
	}
	return p.Spec.Containers[0].Name
}

func keyOf(p *v1.Pod) pod.Key { return pod.Key{Namespace: p.Namespace, Name: p.Name} }

func restartCommand(g *globals) *cobra.Command {
	f := &podFlags{globals: g}
	c := &cobra.Command{
		Use:   "restart POD",
		Short: "Stop a pod within its grace period and start it again",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := f.find(c.Context(), args[0])
			if err != nil {
				return err
			}
			if err := f.client().Restart(c.Context(), keyOf(p)); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "pod/%s restarted\n", p.Name)
			return nil
		},
	}
	f.register(c, false)
	return c
}

func downCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop all pods, each within its grace period",
		Long:  "Stop all pods, each within its grace period, and wait until they are stopped.\nThe agent goes on without them; its next start runs them again.",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return g.client().Down(c.Context()) },
	}
}

func versionCommand(g *globals) *cobra.Command {
	var agent bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program, or of the running agent",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text := versionText()
			if agent {
				var err error
				if text, err = g.client().Version(c.Context()); err != nil {
					return err
				}
			}
			fmt.Fprintln(c.OutOrStdout(), text)
			return nil
		},
	}
	c.Flags().BoolVar(&agent, "agent", false, "ask the running agent")
	return c
}
