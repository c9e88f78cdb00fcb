package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api"
	"podd/api/table"
)

// listed is an object of a kind that podd get lists beside pods.
type listed interface {
	runtime.Object
	metav1.Object
}

// otherKind is such a kind.
type otherKind struct {
	kind, plural string
	short        []string // other words for it
	namespaced   bool
	// columns are those of kubectl that are shown, and extra those of ours after them.
	columns []string
	extra   []string
	list    func(context.Context, *api.Client) ([]listed, error)
	more    func(o listed) []string
}

var otherKinds = []otherKind{{
	kind: "PersistentVolumeClaim", plural: "persistentvolumeclaims", short: []string{"persistentvolumeclaim", "pvc"}, namespaced: true,
	columns: []string{"Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass"},
	extra:   []string{"REQUESTED", "USED", "MESSAGE"},
	list: func(ctx context.Context, c *api.Client) ([]listed, error) {
		list, err := c.Claims(ctx)
		return asListed(list), err
	},
	more: func(o listed) []string {
		c := o.(*v1.PersistentVolumeClaim)
		message := ""
		for _, cond := range c.Status.Conditions {
			message = cond.Message
		}
		requested := c.Spec.Resources.Requests[v1.ResourceStorage]
		return []string{requested.String(), used(o), message}
	},
}, {
	kind: "PersistentVolume", plural: "persistentvolumes", short: []string{"persistentvolume", "pv"},
	columns: []string{"Name", "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass"},
	extra:   []string{"USED", "SOURCE"},
	list: func(ctx context.Context, c *api.Client) ([]listed, error) {
		list, err := c.Volumes(ctx)
		return asListed(list), err
	},
	more: func(o listed) []string { return []string{used(o), persistentSource(o.(*v1.PersistentVolume).Spec)} },
}}

func asListed[T listed](list []T) []listed {
	all := make([]listed, len(list))
	for i, o := range list {
		all[i] = o
	}
	return all
}

// used is what a volume holds, as users write sizes.
func used(o listed) string {
	n, err := strconv.ParseInt(o.GetAnnotations()[api.AnnotationUsed], 10, 64)
	if err != nil {
		return "<unknown>"
	}
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}} {
		if n >= unit.bytes {
			return fmt.Sprintf("%.1f%s", float64(n)/float64(unit.bytes), unit.name)
		}
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}

func persistentSource(s v1.PersistentVolumeSpec) string {
	switch {
	case s.Local != nil:
		return s.Local.Path
	case s.HostPath != nil:
		return s.HostPath.Path
	case s.NFS != nil:
		return s.NFS.Server + ":" + s.NFS.Path
	}
	return ""
}

// kindsNamed are the kinds of an argument such as pvc,pv; none if it is something
// else.
func kindsNamed(arg string) []otherKind {
	var kinds []otherKind
	for word := range strings.SplitSeq(arg, ",") {
		i := slices.IndexFunc(otherKinds, func(k otherKind) bool { return k.plural == word || slices.Contains(k.short, word) })
		if i < 0 {
			return nil
		}
		kinds = append(kinds, otherKinds[i])
	}
	return kinds
}

// others lists objects of other kinds, those of the names if there are any.
func (o *getOptions) others(ctx context.Context, kinds []otherKind, names []string, out io.Writer) error {
	if o.watch {
		return fmt.Errorf("--watch is for pods")
	}
	var all []listed
	var tables []string
	for _, k := range kinds {
		found, err := k.list(ctx, o.client())
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(found, func(l listed) bool {
			other := k.namespaced && o.namespace != "" && !o.all && l.GetNamespace() != o.namespace
			return other || len(names) > 0 && !slices.Contains(names, l.GetName())
		})
		for _, name := range names {
			if !slices.ContainsFunc(found, func(l listed) bool { return l.GetName() == name }) {
				return fmt.Errorf("%s %q not found", k.plural, name)
			}
		}
		all = append(all, found...)
		if len(found) > 0 {
			tables = append(tables, k.table(found, o.all || o.namespace == ""))
		}
	}
	switch {
	case o.output == "name":
		for _, l := range all {
			fmt.Fprintf(out, "%s/%s\n", strings.ToLower(l.GetObjectKind().GroupVersionKind().Kind), l.GetName())
		}
		return nil
	case o.output == "json" || o.output == "yaml":
		if len(names) == 1 && len(all) == 1 {
			return printObject(out, all[0], o.output)
		}
		return printObject(out, map[string]any{"apiVersion": "v1", "kind": "List", "items": all}, o.output)
	case len(all) == 0:
		_, err := fmt.Fprintln(out, "No resources found")
		return err
	}
	_, err := io.WriteString(out, strings.Join(tables, "\n"))
	return err
}

// table is the table of some objects of a kind. The namespace is a column unless all
// are in the default one.
func (k otherKind) table(list []listed, spaces bool) string {
	spaces = spaces && k.namespaced && slices.ContainsFunc(list, func(l listed) bool { return l.GetNamespace() != "default" })
	columns, cells := table.For(schema.GroupKind{Kind: k.kind})
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 3, ' ', 0)
	line := func(namespace string, all []string) {
		if spaces {
			all = append([]string{namespace}, all...)
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(all, "\t"), "\t"))
	}
	line("NAMESPACE", append(upper(k.columns), k.extra...))
	for _, l := range list {
		values := map[string]string{}
		for i, cell := range cells(l, time.Now()) {
			values[columns[i].Name] = fmt.Sprint(cell)
		}
		var row []string
		for _, c := range k.columns {
			row = append(row, values[c])
		}
		line(l.GetNamespace(), append(row, k.more(l)...))
	}
	t.Flush()
	return b.String()
}

func upper(all []string) []string {
	up := make([]string, len(all))
	for i, s := range all {
		up[i] = strings.ToUpper(s)
	}
	return up
}
