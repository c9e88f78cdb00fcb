package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"podd/pod/manifest"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILES…",
		Short: "Say everything that is wrong with manifests",
		Long: `Read manifests as the agent would and print every problem of every file, with
line, column, field, what was expected and what was found. A directory stands
for the manifests in it. The exit code is 1 if a pod would be refused; warnings
alone are no failure.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			problems, pods, err := manifest.Check(args)
			if err != nil {
				return err
			}
			refused := 0
			for _, p := range problems {
				fmt.Fprintln(c.OutOrStdout(), p)
				if !p.Warning {
					refused++
				}
			}
			if refused > 0 {
				return exitCode(1)
			}
			fmt.Fprintf(c.OutOrStdout(), "%d pods, no problems\n", pods)
			return nil
		},
	}
}
