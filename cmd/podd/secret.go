package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"podd/internal/atomicfile"
	"podd/internal/seal"
	"podd/pod/manifest"
)

// defaultIdentity is where the agent's identity is, unless systemd brings one or a
// flag names another.
const defaultIdentity = "/etc/podd/identity.txt"

// identityCredential is the name of the identity among systemd's credentials.
const identityCredential = "podd-identity"

// agentIdentity is the file of the identity that opens sealed Secrets. flag wins
// over what systemd brings, and that over the default.
// Source: systemd.exec(5), LoadCredential.
func agentIdentity(flag string) string {
	if flag != "" {
		return flag
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		path := filepath.Join(dir, identityCredential)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return defaultIdentity
}

func secretCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "secret",
		Short: "Seal Secrets, so that their manifests can be shown",
	}
	c.AddCommand(secretSeal())
	return c
}

func secretSeal() *cobra.Command {
	var file, out, identity string
	var recipients []string
	c := &cobra.Command{
		Use:   "seal -f FILE",
		Short: "Seal the values of Secrets for the agent",
		Long: `Write the Secrets of a file with sealed values: each is encrypted with age and
only the holder of the identity, the agent, can open it, in memory. Names and keys
stay readable. The result is a manifest like any other and can be kept in git; the
file with the clear values is not needed any more.

Without --recipient the values are sealed for the identity of this machine, which
is made if there is none. Keep a copy of it: without it nothing sealed for it can
be opened. On another machine seal for its recipient, which is in its identity
file as the public key.`,
		Example: `  podd secret seal -f secret.yaml -o /etc/podd/manifests/secret.yaml
  podd secret seal -f - --recipient age1… < secret.yaml > sealed.yaml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			secrets, err := readSecrets(c, file)
			if err != nil {
				return err
			}
			to, err := recipientsFor(c.ErrOrStderr(), recipients, identity)
			if err != nil {
				return err
			}
			text, err := sealSecrets(secrets, to)
			if err != nil {
				return err
			}
			if out != "" {
				return atomicfile.Write(out, text, 0o644)
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "manifest of Secrets; - reads the input")
	c.Flags().StringVarP(&out, "output", "o", "", "file to write, which may be the one that was read; by default the output")
	c.Flags().StringVar(&identity, "identity", defaultIdentity, "identity of the agent that will open them")
	c.Flags().StringArrayVar(&recipients, "recipient", nil, "seal for this recipient of age (age1…) instead; may be repeated")
	c.MarkFlagRequired("filename")
	c.MarkFlagsMutuallyExclusive("identity", "recipient")
	return c
}

// readSecrets reads a manifest that holds Secrets and nothing else. What is wrong
// with it is printed as check prints it.
func readSecrets(c *cobra.Command, file string) ([]*v1.Secret, error) {
	name, data, err := file, []byte(nil), error(nil)
	if file == "-" {
		name = "input"
		data, err = io.ReadAll(c.InOrStdin())
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, err
	}
	r := manifest.Parse(name, data)
	refused := 0
	for _, p := range r.Problems {
		fmt.Fprintln(c.ErrOrStderr(), p)
		if !p.Warning {
			refused++
		}
	}
	if refused > 0 {
		return nil, exitCode(1)
	}
	var secrets []*v1.Secret
	for _, o := range r.Objects {
		switch {
		case o.Source == nil || o.Source.Secret == nil:
			return nil, fmt.Errorf("%s:%d: expected Secrets only; found a %s", name, o.Line, o.Kind)
		case manifest.IsSealed(o.Source.Secret):
			return nil, fmt.Errorf("%s:%d: %s is sealed already", name, o.Line, o.Source)
		}
		secrets = append(secrets, o.Source.Secret)
	}
	return secrets, nil
}

// recipientsFor are those of the flags, or the identity's, which is made if it is
// not there.
func recipientsFor(tell io.Writer, recipients []string, identity string) (seal.Recipients, error) {
	if len(recipients) > 0 {
		return seal.ParseRecipients(recipients)
	}
	_, err := os.Stat(identity)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		if err := seal.NewIdentity(identity); err != nil {
			return nil, err
		}
	}
	to, names, err := (&seal.Opener{Path: identity}).Recipients()
	if made && err == nil {
		fmt.Fprintf(tell, "made the identity %s; keep a copy, without it nothing sealed for it can be opened\nits recipient is %s\n", identity, strings.Join(names, ", "))
	}
	return to, err
}

// sealSecrets writes Secrets with sealed values, as YAML documents.
func sealSecrets(secrets []*v1.Secret, to seal.Recipients) ([]byte, error) {
	var documents [][]byte
	for _, s := range secrets {
		s = s.DeepCopy()
		for key, value := range s.Data {
			sealed, err := seal.Value(value, to)
			if err != nil {
				return nil, err
			}
			s.Data[key] = sealed
		}
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[manifest.SealedAnnotation] = "age"
		text, err := yaml.Marshal(s)
		if err != nil {
			return nil, err
		}
		documents = append(documents, text)
	}
	return bytes.Join(documents, []byte("---\n")), nil
}
