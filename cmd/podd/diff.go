package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"podd/pod"
	"podd/pod/manifest"
)

// diffFailed is the exit code where no answer could be given, as kubectl diff has it.
const diffFailed = exitCode(2)

func diffCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "diff FILES…",
		Short: "Say what manifests would do to the pods that run",
		Long: `Compare manifests with what the agent runs and say for each pod what would happen
if the file took its place in the manifest directory: unchanged, labels only,
resized in place, a container restarts, or the pod is recreated, each with the
field and its line. Nothing is changed. A directory stands for the manifests in it.

The exit code is 0 if nothing would happen, 1 if something would, and 2 if a
manifest cannot be read or the agent not be asked.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			differs, err := diff(c, g, args)
			switch {
			case err != nil:
				fmt.Fprintln(c.ErrOrStderr(), "Error:", err)
				return diffFailed
			case differs:
				return exitCode(1)
			}
			return nil
		},
	}
}

// diff prints what the manifests would do and says whether that is anything.
// Objects with mistakes are told as check tells them.
func diff(c *cobra.Command, g *globals, files []string) (differs bool, err error) {
	objects, err := manifest.Objects(files)
	refused := 0
	var good []manifest.Object
	var wanted []pod.Desired
	for _, o := range objects {
		for _, p := range o.Problems {
			if !p.Warning {
				fmt.Fprintln(c.ErrOrStderr(), p)
				refused++
			}
		}
		if o.Desired != nil {
			good, wanted = append(good, o), append(wanted, *o.Desired)
		}
	}
	if refused > 0 {
		err = cmp.Or(err, fmt.Errorf("%d problems; these objects would stay as they were last loaded", refused))
	}
	outcomes, askErr := g.client().Diff(c.Context(), wanted)
	if askErr != nil {
		return false, cmp.Or(err, askErr)
	}
	for i, o := range outcomes {
		differs = differs || o.New || !o.None()
		printOutcome(c.OutOrStdout(), good[i], o)
	}
	return differs, err
}

// printOutcome prints a line for each field that differs, under what happens for
// the sake of it: where the pod is recreated, only what asks for that.
func printOutcome(out io.Writer, object manifest.Object, o pod.Outcome) {
	d := object.Desired
	line := func(n int, what string) {
		fmt.Fprintf(out, "%s:%d: pod %s: %s\n", d.Origin.File, n, d.Key, what)
	}
	field := func(what string, f pod.FieldChange) {
		text := fmt.Sprintf("%s: %s: %s → %s", what, f.Path, orNone(f.Before), orNone(f.After))
		if f.Why != "" {
			text += " (" + f.Why + ")"
		}
		line(object.LineOf(f.Path), text)
	}
	switch {
	case o.New:
		line(object.Line, "started")
		return
	case o.None():
		line(object.Line, "unchanged")
		return
	case len(o.Recreate) > 0:
		for _, f := range o.Recreate {
			field("recreated", f)
		}
		return
	}
	for _, f := range o.Images {
		if f.Restarts(d.Pod) {
			field("container "+f.Container+" restarts", f)
		} else {
			field("when init container "+f.Container+" runs again", f)
		}
	}
	for _, f := range o.Resources {
		if f.Restarts(d.Pod) {
			field("container "+f.Container+" restarts", f)
		} else {
			field("container "+f.Container+" resized in place", f)
		}
	}
	onlyLabels := len(o.Images)+len(o.Resources) == 0 && !slices.ContainsFunc(o.Shown, func(f pod.FieldChange) bool {
		return !strings.HasPrefix(f.Path, "metadata.")
	})
	for _, f := range o.Shown {
		switch {
		case onlyLabels:
			field("labels only", f)
		case f.Container != "":
			field("from the next start of container "+f.Container, f)
		default:
			field("shown", f)
		}
	}
}
