package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"podd/pod"
)

type getOptions struct {
	*globals
	namespace string
	all       bool
	output    string
	watch     bool
	column    bool // the namespace is shown
}

func getCommand(g *globals) *cobra.Command {
	o := &getOptions{globals: g}
	c := &cobra.Command{
		Use:   "get [pods | pvc | pv] [NAME…]",
		Short: "List pods, claims and volumes as kubectl does",
		Example: `  podd get               all pods
  podd get -o wide       with addresses and images
  podd get web -o yaml   one pod with its full status
  podd get -w            go on and print changes
  podd get pvc,pv        PersistentVolumeClaims and PersistentVolumes, and what they hold`,
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args, c.OutOrStdout()) },
		ValidArgsFunction: func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return g.podNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().StringVarP(&o.namespace, "namespace", "n", "", "only pods of this namespace; by default pods of all")
	c.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "show the namespace, also where all pods are in the default one")
	c.Flags().StringVarP(&o.output, "output", "o", "", "wide, json, yaml or name")
	c.Flags().BoolVarP(&o.watch, "watch", "w", false, "print changes as they happen")
	return c
}

func (o *getOptions) run(ctx context.Context, args []string, out io.Writer) error {
	switch o.output {
	case "", "wide", "json", "yaml", "name":
	default:
		return fmt.Errorf("unknown output %q; expected wide, json, yaml or name", o.output)
	}
	if len(args) > 0 {
		if kinds := kindsNamed(args[0]); kinds != nil {
			return o.others(ctx, kinds, args[1:], out)
		}
	}
	if len(args) > 0 && (args[0] == "pods" || args[0] == "pod" || args[0] == "po") {
		args = args[1:]
	}
	names := map[string]bool{}
	for _, a := range args {
		names[strings.TrimPrefix(strings.TrimPrefix(a, "pods/"), "pod/")] = false
	}
	client := o.client()
	list, err := client.Pods(ctx)
	if err != nil {
		return err
	}
	wanted := func(p *v1.Pod) bool {
		if o.namespace != "" && !o.all && p.Namespace != o.namespace {
			return false
		}
		_, named := names[p.Name]
		return len(names) == 0 || named
	}
	kept := list.Items[:0]
	for _, p := range list.Items {
		if wanted(&p) {
			kept = append(kept, p)
			if len(names) > 0 {
				names[p.Name] = true
			}
		}
	}
	list.Items = kept
	for name, found := range names {
		if !found && !o.watch {
			return fmt.Errorf("pods %q not found", name)
		}
	}
	o.column = o.all || o.namespace == "" && slices.ContainsFunc(list.Items, func(p v1.Pod) bool { return p.Namespace != "default" })
	problems, err := client.Problems(ctx)
	if err != nil {
		return err
	}
	if err := o.print(out, list, len(names) == 1); err != nil {
		return err
	}
	if o.output == "" || o.output == "wide" {
		for _, line := range problems {
			fmt.Fprintln(out, line)
		}
	}
	if !o.watch {
		return nil
	}
	err = client.Watch(ctx, list.ResourceVersion, func(kind watch.EventType, p *v1.Pod) {
		if wanted(p) {
			o.printChange(out, kind, p)
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (o *getOptions) print(out io.Writer, list *v1.PodList, one bool) error {
	switch o.output {
	case "json", "yaml":
		var v any = list
		if one && len(list.Items) == 1 {
			p := list.Items[0]
			p.APIVersion, p.Kind = "v1", "Pod"
			v = p
		}
		return printObject(out, v, o.output)
	case "name":
		for _, p := range list.Items {
			fmt.Fprintf(out, "pod/%s\n", p.Name)
		}
		return nil
	}
	if len(list.Items) == 0 && !o.watch {
		fmt.Fprintln(out, "No resources found")
		return nil
	}
	t := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(o.header(), "\t"))
	for i := range list.Items {
		fmt.Fprintln(t, strings.Join(o.row(&list.Items[i]), "\t"))
	}
	return t.Flush()
}

func (o *getOptions) header() []string {
	h := []string{"NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"}
	if o.output == "wide" {
		h = append(h, "IP", "NODE", "IMAGES")
	}
	if !o.column {
		return h[1:]
	}
	return h
}

func (o *getOptions) row(p *v1.Pod) []string {
	c := pod.Columns(p, time.Now())
	row := []string{p.Namespace, p.Name, c.Ready, c.Status, c.Restarts, c.Age}
	if o.output == "wide" {
		ip := p.Status.PodIP
		if ip == "" {
			ip = "<none>"
		}
		var images []string
		for _, c := range p.Spec.Containers {
			images = append(images, c.Image)
		}
		row = append(row, ip, p.Spec.NodeName, strings.Join(images, ","))
	}
	if !o.column {
		return row[1:]
	}
	return row
}

// printChange prints one line of a watch. Columns are padded to what rows
// usually need, because the rows to come are not known.
func (o *getOptions) printChange(out io.Writer, kind watch.EventType, p *v1.Pod) {
	switch o.output {
	case "json", "yaml":
		printObject(out, p, o.output)
		return
	case "name":
		fmt.Fprintf(out, "pod/%s\n", p.Name)
		return
	}
	row := o.row(p)
	if kind == watch.Deleted {
		row = append(row, "(removed)")
	}
	t := tabwriter.NewWriter(out, 12, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(row, "\t"))
	t.Flush()
}

func printObject(out io.Writer, v any, format string) error {
	var data []byte
	var err error
	if format == "json" {
		data, err = json.MarshalIndent(v, "", "    ")
		data = append(data, '\n')
	} else {
		data, err = yaml.Marshal(v)
	}
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	return err
}
