package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"podd/pod"
)

func whyCommand(g *globals) *cobra.Command {
	f := &podFlags{globals: g}
	var output string
	c := &cobra.Command{
		Use:   "why POD",
		Short: "Tell what a pod waits for, and why it was last restarted",
		Long: `Tell what a pod waits for now, and then what befell it, the newest first. Each
line that begins with "because" is the cause of the line above it. What is told
was kept when it happened, and survives restarts of the agent.`,
		Example: `  podd why web
  podd why web -c app -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			name := strings.TrimPrefix(strings.TrimPrefix(args[0], "pods/"), "pod/")
			chains, err := f.client().Why(c.Context(), pod.Key{Namespace: f.namespace, Name: name}, f.container)
			if err != nil {
				return err
			}
			switch output {
			case "":
				printChains(c.OutOrStdout(), chains, time.Now())
				return nil
			case "json", "yaml":
				return printObject(c.OutOrStdout(), chains, output)
			}
			return fmt.Errorf("unknown output %q; expected json or yaml", output)
		},
	}
	f.register(c, false)
	c.Flags().StringVarP(&f.container, "container", "c", "", "only this container and what concerns the pod as a whole")
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return c
}

// printChains prints each chain as an effect with its causes below it.
func printChains(out io.Writer, chains []pod.Chain, now time.Time) {
	for _, c := range chains {
		when := "now"
		switch {
		case c.At.IsZero():
		case now.Sub(c.At) < 24*time.Hour:
			when = c.At.Local().Format(time.TimeOnly)
		default:
			when = c.At.Local().Format(time.DateTime)
		}
		about := ""
		if c.Container != "" {
			about = c.Container + " "
		}
		fmt.Fprintf(out, "%-8s  %s%s\n", when, about, oneLine(c.Effect))
		for _, cause := range c.Causes {
			fmt.Fprintf(out, "            because %s\n", oneLine(cause))
		}
		if c.Remedy != "" {
			fmt.Fprintf(out, "            remedy: %s\n", oneLine(c.Remedy))
		}
	}
}

// oneLine keeps what containers and registries wrote from breaking lines or
// terminals.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
}
