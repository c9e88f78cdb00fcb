package rest

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/objects"
	"podd/api/table"
)

// table returns objects as rows. Each row has as much of its object as the
// argument includeObject asks for. columns is false from the second event of a
// watch on: the client has them.
func (c *call) table(list []objects.Object, meta listMeta, columns bool) (*metav1.Table, error) {
	definitions, cells := table.For(c.kind.GroupVersionKind().GroupKind())
	t := &metav1.Table{
		TypeMeta: metav1.TypeMeta{APIVersion: metav1.GroupName + "/" + c.form.version, Kind: "Table"},
		ListMeta: meta.meta(),
		Rows:     make([]metav1.TableRow, 0, len(list)),
	}
	if columns {
		t.ColumnDefinitions = definitions
	}
	include := metav1.IncludeObjectPolicy(c.args.Get("includeObject"))
	now := time.Now()
	for _, o := range list {
		row := metav1.TableRow{Cells: cells(o, now)}
		switch include {
		case metav1.IncludeNone:
		case metav1.IncludeObject:
			row.Object.Object = withKind(o, c.kind.GroupVersionKind())
		case "", metav1.IncludeMetadata:
			row.Object.Object = partial(o, c.form.version)
		default:
			return nil, apierrors.NewBadRequest("unrecognized includeObject value: \"" + string(include) + "\"")
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}
