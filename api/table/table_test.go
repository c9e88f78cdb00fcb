package table

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// types has an empty object of each kind in the golden files.
var types = map[schema.GroupVersionKind]func() runtime.Object{
	{Version: "v1", Kind: "Pod"}:                                       func() runtime.Object { return &v1.Pod{} },
	{Version: "v1", Kind: "Node"}:                                      func() runtime.Object { return &v1.Node{} },
	{Version: "v1", Kind: "Event"}:                                     func() runtime.Object { return &v1.Event{} },
	{Version: "v1", Kind: "Service"}:                                   func() runtime.Object { return &v1.Service{} },
	{Version: "v1", Kind: "Endpoints"}:                                 func() runtime.Object { return &v1.Endpoints{} },
	{Version: "v1", Kind: "ConfigMap"}:                                 func() runtime.Object { return &v1.ConfigMap{} },
	{Version: "v1", Kind: "Secret"}:                                    func() runtime.Object { return &v1.Secret{} },
	{Version: "v1", Kind: "Namespace"}:                                 func() runtime.Object { return &v1.Namespace{} },
	{Version: "v1", Kind: "PodTemplate"}:                               func() runtime.Object { return &v1.PodTemplate{} },
	{Version: "v1", Kind: "PersistentVolume"}:                          func() runtime.Object { return &v1.PersistentVolume{} },
	{Version: "v1", Kind: "PersistentVolumeClaim"}:                     func() runtime.Object { return &v1.PersistentVolumeClaim{} },
	{Version: "v1", Kind: "ServiceAccount"}:                            func() runtime.Object { return &v1.ServiceAccount{} },
	{Group: "events.k8s.io", Version: "v1", Kind: "Event"}:             func() runtime.Object { return &eventsv1.Event{} },
	{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"}:       func() runtime.Object { return &coordinationv1.Lease{} },
	{Group: "node.k8s.io", Version: "v1", Kind: "RuntimeClass"}:        func() runtime.Object { return &nodev1.RuntimeClass{} },
	{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"}:  func() runtime.Object { return &discoveryv1.EndpointSlice{} },
	{Group: "metrics.k8s.io", Version: "v1beta1", Kind: "NodeMetrics"}: func() runtime.Object { return &measured{} },
	{Group: "metrics.k8s.io", Version: "v1beta1", Kind: "PodMetrics"}:  func() runtime.Object { return &measured{} },
}

// measured is an object of metrics.k8s.io, whose types are another package's.
type measured struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Usage             v1.ResourceList `json:"usage"`
	Window            metav1.Duration `json:"window"`
}

func (m *measured) DeepCopyObject() runtime.Object { return m }
func (m *measured) Used() v1.ResourceList          { return m.Usage }
func (m *measured) Over() time.Duration            { return m.Window.Duration }

// Each file of testdata has objects and, as kind.txt, what kubectl get -o wide
// prints about them; the columns that it prints without -o wide are marked.
func TestTablesLookAsOnACluster(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < len(types) {
		t.Fatalf("%d files for %d kinds: %v", len(files), len(types), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := render(t, string(text))
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("not as in %s:\n%s", golden, diff)
			}
		})
	}
}

// render prints the table of objects in YAML, all of one kind, as kubectl does.
func render(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 8, 3, ' ', 0)
	for i, document := range strings.Split(text, "\n---\n") {
		var about metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &about); err != nil {
			t.Fatal(err)
		}
		empty := types[about.GroupVersionKind()]
		if empty == nil {
			t.Fatalf("no type for %v", about)
		}
		o := empty()
		if err := yaml.UnmarshalStrict([]byte(document), o); err != nil {
			t.Fatal(err)
		}
		columns, cells := For(about.GroupVersionKind().GroupKind())
		if i == 0 {
			for _, c := range columns {
				title := strings.ToUpper(c.Name)
				if c.Priority > 0 {
					title += "*"
				}
				fmt.Fprint(w, title, "\t")
			}
			fmt.Fprintln(w)
		}
		row := cells(o, now)
		if len(row) != len(columns) {
			t.Errorf("%d cells in %d columns", len(row), len(columns))
		}
		for _, cell := range row {
			fmt.Fprint(w, cell, "\t")
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	lines := strings.Split(out.String(), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(lines, "\n")
}

func TestKindsWithoutColumnsHaveNameAndAge(t *testing.T) {
	columns, cells := For(schema.GroupKind{Group: "example.com", Kind: "Thing"})
	if len(columns) != 2 || columns[0].Name != "Name" || columns[0].Format != "name" || columns[1].Name != "Age" {
		t.Errorf("columns: %v", columns)
	}
	o := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "x", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	if diff := cmp.Diff([]any{"x", "60m"}, cells(o, now)); diff != "" {
		t.Error(diff)
	}
}

// A list may hold what is no object of the kind; it must not end the program.
func TestObjectsOfAnotherTypeHaveTheirName(t *testing.T) {
	for gvk := range types {
		columns, cells := For(gvk.GroupKind())
		row := cells(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, now)
		found := false
		for i, cell := range row {
			found = found || cell == "x" && columns[i].Format == "name"
		}
		if len(row) != len(columns) || !found {
			t.Errorf("%v: %v", gvk, row)
		}
		if row := cells(&metav1.Status{}, now); len(row) != len(columns) {
			t.Errorf("%v: %v", gvk, row)
		}
	}
}
