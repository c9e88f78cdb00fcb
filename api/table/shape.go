package table

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// shape is what the objects of a kind look like in a table.
type shape struct {
	columns []metav1.TableColumnDefinition
	cells   func(obj runtime.Object, now time.Time) []any
}

// field is one column and how its cell is computed, from the object, or from a
// row that was made of it for all cells.
type field struct {
	metav1.TableColumnDefinition
	cell func(row any, o metav1.Object, now time.Time) any
}

var (
	name = field{
		metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: "name of the object"},
		func(_ any, o metav1.Object, _ time.Time) any { return o.GetName() },
	}
	age = field{
		metav1.TableColumnDefinition{Name: "Age", Type: "string", Description: "time since the object was created"},
		func(_ any, o metav1.Object, now time.Time) any { return since(o.GetCreationTimestamp().Time, now) },
	}
)

// column is a column whose cell depends on the row only.
func column[T any](title, description string, cell func(row T) any) field {
	return field{
		metav1.TableColumnDefinition{Name: title, Type: "string", Description: description},
		func(row any, _ metav1.Object, _ time.Time) any { return cell(row.(T)) },
	}
}

// wide makes a column one for `kubectl get -o wide`.
func wide(f field) field {
	f.Priority = 1
	return f
}

// shaped is the shape of objects of type O. row makes of one what the cells are
// computed from.
func shaped[O, T any](row func(o O, now time.Time) T, fields ...field) shape {
	var s shape
	for _, f := range fields {
		s.columns = append(s.columns, f.TableColumnDefinition)
	}
	s.cells = func(obj runtime.Object, now time.Time) []any {
		cells := make([]any, len(fields))
		accessor, err := meta.Accessor(obj)
		o, ok := any(obj).(O)
		var r T
		if ok {
			r = row(o, now)
		}
		for i, f := range fields {
			switch {
			case err == nil && ok:
				cells[i] = f.cell(r, accessor, now)
			case err == nil && f.Format == "name":
				cells[i] = accessor.GetName()
			default:
				cells[i] = ""
			}
		}
		return cells
	}
	return s
}

// same is the row of objects whose cells are computed from themselves.
func same[O any](o O, _ time.Time) O { return o }

// since is how long ago something was, in kubectl's short form: 5m, 3d4h.
func since(t, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t))
}

// or is s, or what stands for nothing.
func or(s, nothing string) string {
	if s == "" {
		return nothing
	}
	return s
}
