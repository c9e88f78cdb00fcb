package manifest

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// object decodes one object and remembers where each of its values stood.
type object struct {
	file string
	// before is the number of lines before the YAML document.
	before int
	// prefix comes before every field name in messages: items[3].
	prefix   string
	problems []Problem
	places   map[string]place
	// failed are the paths about which a problem was already told.
	failed map[string]bool
	// leftOut are the names of volumes that a cluster added.
	leftOut map[string]bool
	visits  *visits
	// fieldAt finds what is honoured; see [fieldAt].
	fieldAt func(path string) *Field
	// isSource says that it is a ConfigMap or a Secret, secret that it is a Secret:
	// what was found there is not told.
	isSource, secret bool
	// opener opens the values of sealed Secrets, if not nil; unopened says that a
	// Secret's were not opened.
	opener   Opener
	unopened bool
}

// Opener returns a value that was sealed. Its errors tell nothing of the value.
type Opener func(sealed []byte) ([]byte, error)

// visits bounds the work that aliases can cause: the values of one document,
// each counted as often as it is reached.
type visits struct{ left int }

// place is where a value stood. key is nil in a list; value is no alias.
type place struct {
	key, at, value *yaml.Node
}

const (
	maxMergeDepth = 32
	// freeVisits is what a document may visit beyond one value per byte.
	freeVisits = 10_000
)

// tooManyVisits is raised as a panic and caught by [parser.document].
type tooManyVisits struct{}

func (v *visits) count() {
	if v.left--; v.left < 0 {
		panic(tooManyVisits{})
	}
}

// resolved follows an alias. Aliases of aliases do not exist.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// entry is one field of a mapping; value may be an alias.
type entry struct {
	name       string
	key, value *yaml.Node
}

// entries lists a mapping's fields, those of merge keys last, and reports
// fields given twice. The n of a merge key stands where the mapping does.
func (o *object) entries(n *yaml.Node, path string, depth int) []entry {
	var out []entry
	var merges []int
	first := make(map[string]*yaml.Node, len(n.Content)/2)
	given := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		o.visits.count()
		name := resolved(key)
		if name.ShortTag() == "!!merge" {
			merges = append(merges, i)
			continue
		}
		if kindOf(name) != text {
			o.tell(key, path, "expected a name before the colon; found "+unquoted(name))
			continue
		}
		if before := first[name.Value]; before != nil {
			o.tell(key, join(path, name.Value), fmt.Sprintf("given twice; first in line %d", o.before+before.Line))
			continue
		}
		first[name.Value], given[name.Value] = key, i
		out = append(out, entry{name.Value, key, value})
	}
	for _, at := range merges {
		m := n.Content[at+1]
		sources := []*yaml.Node{m}
		if r := resolved(m); r.Kind == yaml.SequenceNode {
			sources = r.Content
		}
		for _, s := range sources {
			from := resolved(s)
			if from.Kind != yaml.MappingNode {
				o.tell(s, path, "expected fields to merge; found "+found(from))
				continue
			}
			if depth >= maxMergeDepth {
				o.tell(s, path, "merge keys are nested too deeply")
				continue
			}
			for _, e := range o.entries(from, path, depth+1) {
				if i, explicit := given[e.name]; explicit && i < at {
					// YAML lets the field win; Kubernetes' tools let "<<" win.
					o.tell(n.Content[at], path, `expected "<<" before the fields that it must not replace; found it after `+quoted(e.name))
				}
				if first[e.name] == nil {
					first[e.name] = e.key
					out = append(out, e)
				}
			}
		}
	}
	return out
}

func unquoted(n *yaml.Node) string {
	switch kindOf(n) {
	case whole, fraction, truth:
		return found(n) + " without quotes"
	}
	return found(n)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// keyed is the path of a value in a map whose keys are the user's.
func keyed(path, key string) string {
	if strings.ContainsFunc(key, func(r rune) bool {
		return r == '-' || !(r < 0x80 && (r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z'))
	}) {
		return path + "[" + quoted(key) + "]"
	}
	return path + "." + key
}

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// bare is a path without indices.
func bare(path string) string {
	if !strings.ContainsRune(path, '[') {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		b.WriteByte(path[i])
		if path[i] == '[' {
			for i+1 < len(path) && path[i+1] != ']' {
				i++
			}
		}
	}
	return b.String()
}

// tell adds a problem that stands at n.
func (o *object) tell(n *yaml.Node, path, message string) {
	o.add(Problem{Line: o.before + n.Line, Column: n.Column, Field: path, Message: message})
}

func (o *object) add(p Problem) {
	p.File = o.file
	if o.secret {
		p.Message, _, _ = strings.Cut(p.Message, "; found ")
	}
	if o.failed == nil {
		o.failed = map[string]bool{}
	}
	if !p.Warning {
		o.failed[p.Field] = true
	}
	// A path may hold keys that others wrote.
	p.Field = strings.TrimSuffix(printable(o.prefix+p.Field), ".")
	p.Message = printable(p.Message)
	o.problems = append(o.problems, p)
}

// structField is one JSON field of a struct type.
type structField struct {
	index []int
	typ   reflect.Type
}

var structFields sync.Map // reflect.Type → map[string]structField

// fieldsOf returns a struct's fields by JSON name, embedded ones included.
func fieldsOf(t reflect.Type) map[string]structField {
	if known, ok := structFields.Load(t); ok {
		return known.(map[string]structField)
	}
	fields := map[string]structField{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			for inner, sf := range fieldsOf(f.Type) {
				fields[inner] = structField{append([]int{i}, sf.index...), sf.typ}
			}
		case name != "" && name != "-":
			fields[name] = structField{[]int{i}, f.Type}
		}
	}
	structFields.Store(t, fields)
	return fields
}

var (
	quantityType    = reflect.TypeFor[resource.Quantity]()
	intOrStringType = reflect.TypeFor[intstr.IntOrString]()
)

// decode sets v from n. support is what holds for path itself; below a
// [Warned] field everything is decoded and nothing more is said.
func (o *object) decode(n *yaml.Node, v reflect.Value, path string, support Support) {
	o.visits.count()
	value := resolved(n)
	k := kindOf(value)
	if k == nothing {
		return // as if it were not given
	}
	t := v.Type()
	switch {
	case t == quantityType:
		q, ok := quantityOf(value.Value, k)
		if k != text && k != whole && k != fraction || !ok {
			o.mismatch(path, `a quantity such as 500m, 2, 64Mi or 1.5Gi`, value)
			return
		}
		v.Set(reflect.ValueOf(q))
		return
	case t == intOrStringType:
		i, ok := wholeOf(value.Value)
		switch {
		case k == whole && ok && i >= math.MinInt32 && i <= math.MaxInt32:
			v.Set(reflect.ValueOf(intstr.FromInt32(int32(i))))
		case k == text:
			v.Set(reflect.ValueOf(intstr.FromString(value.Value)))
		default:
			o.mismatch(path, "a port number or the name of a port", value)
		}
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		p := reflect.New(t.Elem())
		o.decode(n, p.Elem(), path, support)
		v.Set(p)
	case reflect.Struct:
		if k != mapping {
			o.mismatch(path, "a set of fields", value)
			return
		}
		o.decodeStruct(value, v, path, support)
	case reflect.Slice:
		if k != list {
			o.mismatch(path, `a list ("- " before each entry)`, value)
			return
		}
		s := reflect.MakeSlice(t, len(value.Content), len(value.Content))
		for i, c := range value.Content {
			at := item(path, i)
			o.places[at] = place{nil, c, resolved(c)}
			if kindOf(resolved(c)) == nothing {
				o.tell(c, at, "expected a value after the dash; found nothing")
				continue
			}
			o.decode(c, s.Index(i), at, support)
		}
		if len(value.Content) > 0 { // an empty list is one that is not given
			v.Set(s)
		}
	case reflect.Map:
		if k != mapping {
			o.mismatch(path, "a set of names and values", value)
			return
		}
		m := reflect.MakeMap(t)
		for _, e := range o.entries(value, path, 0) {
			at := keyed(path, e.name)
			o.places[at] = place{e.key, e.value, resolved(e.value)}
			if kindOf(resolved(e.value)) == nothing {
				o.tell(e.key, at, "expected a value; found nothing")
				continue
			}
			elem := reflect.New(t.Elem()).Elem()
			o.decode(e.value, elem, at, support)
			m.SetMapIndex(reflect.ValueOf(e.name).Convert(t.Key()), elem)
		}
		if m.Len() > 0 {
			v.Set(m)
		}
	case reflect.String:
		if k != text {
			o.mismatch(path, "text", value)
			return
		}
		if strings.ContainsRune(value.Value, 0) {
			o.problemAt(path, "expected text without the character NUL")
			return
		}
		v.SetString(value.Value)
	case reflect.Bool:
		if k != truth {
			o.mismatch(path, "true or false", value)
			return
		}
		v.SetBool(truthOf(value.Value))
	case reflect.Int32, reflect.Int64:
		i, ok := wholeOf(value.Value)
		if k != whole && k != fraction || !ok || v.OverflowInt(i) {
			o.mismatch(path, wholeNumber(path), value)
			return
		}
		v.SetInt(i)
	default:
		panic(fmt.Sprintf("field %s has type %s, which no pod field had before", path, t))
	}
}

func (o *object) decodeStruct(value *yaml.Node, v reflect.Value, path string, support Support) {
	fields := fieldsOf(v.Type())
	for _, e := range o.entries(value, path, 0) {
		at := join(path, e.name)
		f, known := fields[e.name]
		if !known {
			message := "unknown field"
			if meant := nearest(e.name, slices.Sorted(maps.Keys(fields))); meant != "" {
				message += "; did you mean " + strconv.Quote(meant) + "?"
			} else if home := homeOf(path, e.name); home != "" && !o.isSource {
				message += " here; it belongs to " + home
			}
			o.tell(e.key, at, message)
			continue
		}
		at2 := place{e.key, e.value, resolved(e.value)}
		inner := support
		if support == Honoured {
			line := o.fieldAt(bare(at))
			switch {
			case o.isAddedByCluster(at, e.name):
				continue
			case line == nil || line.Support == Refused:
				if !o.isEmpty(at2.value, f.typ) {
					o.tell(e.key, at, refusal(bare(at), line))
				}
				continue
			case line.Support == Ignored:
				continue
			}
			inner = line.Support
			if inner == Warned && !o.isEmpty(at2.value, f.typ) && !isServerDefault(at, at2.value) {
				o.places[at] = at2
				o.warnAt(at, "accepted without effect: "+line.Note)
			}
		}
		o.places[at] = at2
		o.decode(e.value, v.FieldByIndex(f.index), at, inner)
	}
}

// isEmpty says that a value gives a field no more than its absence does.
func (o *object) isEmpty(value *yaml.Node, t reflect.Type) bool {
	switch kindOf(value) {
	case nothing:
		return true
	case list, mapping:
		return len(value.Content) == 0 && (t.Kind() == reflect.Slice || t.Kind() == reflect.Map)
	}
	return false
}

// isAddedByCluster says that the field belongs to a volume that is left out.
func (o *object) isAddedByCluster(path, name string) bool {
	if name != "projected" {
		return false
	}
	volume, ok := o.places[strings.TrimSuffix(path, ".projected")]
	return ok && o.leftOut[addedVolume(volume.value)]
}

// mismatch reports a value that is not what the field takes.
func (o *object) mismatch(path, want string, value *yaml.Node) {
	o.problemAt(path, "expected "+want+"; found "+withoutQuotes(want, value))
}

func withoutQuotes(want string, n *yaml.Node) string {
	if want == "text" {
		return unquoted(n)
	}
	return found(n)
}

// wholeNumber describes the numbers that a field takes.
func wholeNumber(path string) string {
	name := path[strings.LastIndexByte(path, '.')+1:]
	switch {
	case name == "periodSeconds" || name == "timeoutSeconds":
		return "whole seconds, at least 1"
	case strings.HasSuffix(name, "Seconds"):
		return "whole seconds"
	case name == "containerPort" || name == "hostPort" || name == "port":
		return "a port from 1 to 65535"
	}
	return "a whole number"
}

// where returns the place to show for a problem with the value at path: the
// value, or its key when the value is on later lines. A missing value is shown
// at its parent.
func (o *object) where(path string) (line, column int) {
	for {
		p, ok := o.places[path]
		if ok {
			n := p.at
			if p.key != nil && p.at.Line > p.key.Line {
				n = p.key
			}
			return o.before + n.Line, n.Column
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			p := o.places[""]
			return o.before + p.at.Line, p.at.Column
		}
		path = path[:cut]
	}
}

// problemAt reports a problem with the value at path.
func (o *object) problemAt(path, message string) {
	line, column := o.where(path)
	o.add(Problem{Line: line, Column: column, Field: path, Message: message})
}

// warnAt reports a warning at the key of path.
func (o *object) warnAt(path, message string) {
	line, column := o.where(path)
	if p, ok := o.places[path]; ok && p.key != nil {
		line, column = o.before+p.key.Line, p.key.Column
	}
	o.add(Problem{Line: line, Column: column, Field: path, Message: message, Warning: true})
}

// isFailed says that a problem was already told about path or what holds it.
func (o *object) isFailed(path string) bool {
	for {
		if o.failed[path] {
			return true
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return false
		}
		path = path[:cut]
	}
}
