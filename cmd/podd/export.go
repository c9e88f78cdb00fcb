package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"podd/api/export"
)

type exportOptions struct {
	*globals
	namespace string
	all       bool
}

func exportCommand(g *globals) *cobra.Command {
	o := &exportOptions{globals: g}
	c := &cobra.Command{
		Use:   "export [KIND[/NAME]…]",
		Short: "Write objects as YAML for a cluster",
		Long: `Write objects as their author would have written them: without status, UIDs and
whatever else a server fills in. What is written applies to any cluster:

  podd export -A | kubectl --context my-cluster apply -f -

Without arguments it is everything of a namespace that a cluster does not make by
itself, in the order in which it is needed. Secrets are among it, readable.`,
		Example: `  podd export                     everything of the namespace default
  podd export -A                  everything, namespaces too
  podd export pod/web cm/settings -n shop`,
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args, c.OutOrStdout()) },
	}
	c.Flags().StringVarP(&o.namespace, "namespace", "n", "default", "namespace of the objects")
	c.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "objects of all namespaces, and of none")
	return c
}

func (o *exportOptions) run(ctx context.Context, args []string, out io.Writer) error {
	wanted, err := export.Select(args, o.all)
	if err != nil {
		return err
	}
	namespace := o.namespace
	if o.all {
		namespace = ""
	}
	var text bytes.Buffer // all or nothing: half a set is worse than none
	for _, w := range wanted {
		if o.all && w.Name != "" && w.Resource.Namespaced {
			return fmt.Errorf("%s/%s: a name and --all-namespaces exclude each other", w.Resource.Singular, w.Name)
		}
		var found export.Object
		if err := o.client().Get(ctx, w.Path(namespace), &found); err != nil {
			return err
		}
		objects := []any{found}
		if w.Name == "" {
			objects, _ = found["items"].([]any)
		}
		for _, object := range objects {
			object, is := object.(export.Object)
			if !is {
				continue
			}
			// Items of a list leave out what they are.
			object["apiVersion"], object["kind"] = w.Resource.GroupVersion().String(), w.Resource.Kind
			if len(args) == 0 && export.Own(object) {
				continue
			}
			if err := writeDocument(&text, export.Clean(object)); err != nil {
				return err
			}
		}
	}
	_, err = text.WriteTo(out)
	return err
}

// writeDocument adds a document to a stream of YAML.
func writeDocument(to *bytes.Buffer, o export.Object) error {
	data, err := json.Marshal(o)
	if err == nil {
		data, err = yaml.JSONToYAML(data)
	}
	if err != nil {
		return err
	}
	if to.Len() > 0 {
		to.WriteString("---\n")
	}
	to.Write(data)
	return nil
}
