package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"podd/api/auth"
)

// pkiDir is where the node's certificate authority is kept.
func pkiDir(rootDir string) string { return filepath.Join(rootDir, "pki") }

func kubeconfigCommand(g *globals) *cobra.Command {
	var user, role, server string
	var readOnly bool
	var valid time.Duration
	c := &cobra.Command{
		Use:   "kubeconfig --user NAME",
		Short: "Let somebody in with kubectl: print a kubeconfig with a certificate",
		Long: `Print a kubeconfig by which kubectl reaches this node as the given user. The
file is as good as a password until its certificate ends: to shut out one user
before that, remove ` + "ca.crt and ca.key" + ` from the directory pki of --root-dir, restart
the agent, and issue new files to the others. It can be called while no agent
runs, as root.

The roles are view (reads everything but Secrets), edit (changes what lives in a
namespace and runs commands in containers) and admin. Who may make pods can
reach all of the machine.`,
		Example: `  podd kubeconfig --user ada > ada.kubeconfig
  podd kubeconfig --user screen --read-only --valid 720h`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case user == "":
				return errors.New("--user: required, not given")
			case readOnly && c.Flags().Changed("role"):
				return errors.New("--read-only and --role exclude each other: --read-only is --role view")
			case readOnly:
				role = string(auth.View)
			case !slices.Contains([]auth.Role{auth.View, auth.Edit, auth.Admin}, auth.Role(role)):
				return fmt.Errorf("--role: expected view, edit or admin; found %q", role)
			}
			if valid <= 0 {
				return fmt.Errorf("--valid: expected a duration above zero; found %s", valid)
			}
			pki, err := auth.Open(pkiDir(g.rootDir), nil)
			if err != nil {
				return err
			}
			data, err := pki.Kubeconfig(server, user, auth.Role(role), valid)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(data)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&user, "user", "", "name by which the node knows the user")
	f.StringVar(&role, "role", string(auth.Edit), "view, edit or admin")
	f.BoolVar(&readOnly, "read-only", false, "the same as --role view")
	f.StringVar(&server, "server", "https://127.0.0.1:6443", "where the user reaches the node")
	f.DurationVar(&valid, "valid", auth.UserLifetime, "how long the certificate is good")
	return c
}
