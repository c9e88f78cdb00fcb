package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"podd/doctor"
	"podd/sandbox/network"
)

func doctorCommand(g *globals) *cobra.Command {
	var output, bridge, podCIDR string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether pods can live on this machine, and what mends it",
		Long: `Look at the machine, area by area: ok, or what is wrong, what that means for
pods and which command mends it. The exit code is 1 if pods are impossible.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("unknown output %q: expected json", output)
			}
			cidrs, err := parseCIDRs(podCIDR)
			if err != nil {
				return err
			}
			findings := hostToLookAt(g.rootDir, bridge, cidrs).Look()
			if output == "json" {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				if err := e.Encode(findings); err != nil {
					return err
				}
			}
			failed := false
			for _, f := range findings {
				failed = failed || f.Verdict == doctor.Fail
				if output == "json" {
					continue
				}
				fmt.Fprintf(c.OutOrStdout(), "%-12s %-5s %s\n", f.Area, f.Verdict, f.Says)
				if f.Mend != "" {
					fmt.Fprintf(c.OutOrStdout(), "%-18s mend: %s\n", "", f.Mend)
				}
			}
			if failed {
				return exitCode(1)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json")
	c.Flags().StringVar(&bridge, "bridge", "podd0", "name of the bridge that connects the pods")
	c.Flags().StringVar(&podCIDR, "pod-cidr", "", "range of pod addresses that the agent is given")
	return c
}

func hostToLookAt(rootDir, bridge string, cidrs []netip.Prefix) doctor.Host {
	return doctor.Host{Root: "/", RootDir: rootDir, Bridge: bridge, Kernel: thisKernel{bridge, cidrs}}
}

// obstacles returns an error that says what makes pods impossible here.
func obstacles(rootDir, bridge string, cidrs []netip.Prefix) error {
	var all []string
	for _, f := range hostToLookAt(rootDir, bridge, cidrs).Obstacles() {
		all = append(all, fmt.Sprintf("%s: %s (mend: %s)", f.Area, f.Says, f.Mend))
	}
	if all == nil {
		return nil
	}
	return errors.New("pods are impossible on this machine: " + strings.Join(all, "; "))
}

// thisKernel answers the doctor's questions.
type thisKernel struct {
	bridge string
	cidrs  []netip.Prefix
}

func (thisKernel) TryOverlay(dir string) error      { return doctor.TryOverlay(dir) }
func (thisKernel) ClockSynchronised() (bool, error) { return doctor.ClockSynchronised() }

func (thisKernel) NFTables() error              { return network.CheckNFTables() }
func (k thisKernel) Overlaps() ([]error, error) { return network.Overlaps(k.bridge, k.cidrs) }

func (k thisKernel) ForwardDrops() ([]doctor.Drop, error) {
	drops, err := network.ForeignDrops(k.bridge)
	var out []doctor.Drop
	for _, d := range drops {
		out = append(out, doctor.Drop{Who: d.String(), Mend: d.Mend, Passed: d.Passable()})
	}
	return out, err
}
