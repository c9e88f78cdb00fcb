package manifest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/pod"
)

// MaxSize is the largest manifest that is read, in bytes.
const MaxSize = 10 << 20

// Result is what one file holds.
type Result struct {
	// Objects are the file's objects in file order, good and bad.
	Objects []Object
	// Desired are the good pods, at most one for each namespace and name.
	Desired []pod.Desired
	// Sources are the other good objects, at most one of each kind and name.
	Sources []pod.Source
	// Problems are all problems and warnings in file order.
	Problems []Problem
	// Unknown counts the parts of the file of which not even namespace and
	// name can be told: broken YAML, a missing name, no object at all.
	Unknown int
	// Unopened says that a sealed Secret could not be opened; another time it may.
	Unopened bool
}

// Object is one object of a file.
type Object struct {
	Kind string
	// Key is empty when the name could not be read.
	Key pod.Key
	// Other says that the object is of a kind that is not served, rather than
	// a Pod with a mistake in its kind.
	Other bool
	// Line is where the object begins, from 1.
	Line int
	// Desired is nil when the object has mistakes or is no Pod; Source when it
	// has mistakes or is a Pod.
	Desired *pod.Desired
	Source  *pod.Source
	// Problems are the object's problems and warnings in file order.
	Problems []Problem

	places map[string]place
	before int // lines of the file before the part that places count in
}

// LineOf is the line of a field, such as spec.containers[0].image, from 1; where
// the field is not given, that of the nearest part that it belongs to.
func (o Object) LineOf(field string) int {
	for {
		if p, given := o.places[field]; given {
			if p.key != nil {
				return o.before + p.key.Line
			}
			return o.before + p.at.Line
		}
		cut := strings.LastIndexAny(field, ".[")
		if cut < 0 {
			return o.Line
		}
		field = field[:cut]
	}
}

// good says that the object has no mistakes.
func (o *Object) good() bool { return o.Desired != nil || o.Source != nil }

// broken says that the object has mistakes and may be meant to be of a kind.
func (o *Object) broken(kind string) bool {
	return !o.good() && !o.Other && (o.Kind == kind || o.Kind != "Pod" && !isSourceKind(o.Kind))
}

// Parse reads one file's bytes. file is the name that problems and origins show.
// Sealed Secrets stay sealed.
func Parse(file string, data []byte) Result { return Opener(nil).parse(file, data) }

// parse is [Parse], but opens sealed Secrets.
func (open Opener) parse(file string, data []byte) Result {
	p := parser{file: file, opener: open}
	return p.parse(data)
}

func (p *parser) parse(data []byte) Result {
	p.bytes(data)
	r, file := p.result, p.file
	first := map[pod.SourceID]int{}
	for i := range r.Objects {
		o := &r.Objects[i]
		id := pod.SourceID{Kind: o.Kind, Key: o.Key}
		if line, given := first[id]; given && o.good() {
			o.Problems = append(o.Problems, Problem{File: file, Line: o.Line, Column: 1,
				Message: givenTwice(id, pod.Origin{File: file, Line: line})})
			o.Desired, o.Source = nil, nil
		}
		if o.Desired != nil {
			r.Desired = append(r.Desired, *o.Desired)
		}
		if o.Source != nil {
			r.Sources = append(r.Sources, *o.Source)
		}
		if o.good() {
			first[id] = o.Line
		}
		r.Problems = append(r.Problems, o.Problems...)
		if o.Key.Name == "" && !o.good() && !o.Other {
			r.Unknown++
		}
	}
	if len(r.Objects) == 0 && len(r.Problems) == 0 {
		r.Problems = []Problem{{File: file, Message: "expected at least one object; found none"}}
		r.Unknown++
	}
	inFileOrder(r.Problems)
	r.Problems = slices.Compact(r.Problems)
	if more := len(r.Problems) - maxProblems; more > 0 {
		r.Problems = append(r.Problems[:maxProblems], Problem{File: file, Message: fmt.Sprintf("%d more problems are not shown", more)})
	}
	return r
}

// maxProblems is how many problems of a file are told: the rest would flood
// logs and terminals.
const maxProblems = 500

// givenTwice is about objects of one kind, a Pod included, that have one name.
func givenTwice(id pod.SourceID, first pod.Origin) string {
	return fmt.Sprintf("%s is given twice; the one at %s holds", idText(id), printable(first.String()))
}

// idText is an object's name in the middle of a sentence.
func idText(id pod.SourceID) string {
	if id.Kind == "Pod" {
		id.Kind = "pod"
	}
	return id.String()
}

type parser struct {
	file   string
	api    bool // see [ParseObject]
	opener Opener
	result Result
}

// broken reports a part of the file that cannot be told apart.
func (p *parser) broken(line, column int, message string) {
	p.result.Problems = append(p.result.Problems, Problem{File: p.file, Line: line, Column: column, Message: printable(message)})
	p.result.Unknown++
}

func (p *parser) bytes(data []byte) {
	if len(data) > MaxSize {
		p.broken(0, 0, fmt.Sprintf("expected at most %d MiB; found %d bytes", MaxSize>>20, len(data)))
		return
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at := notText(data); at >= 0 {
		line := 1 + bytes.Count(data[:at], []byte("\n"))
		column := at - bytes.LastIndexByte(data[:at], '\n')
		p.broken(line, column, fmt.Sprintf("expected text in UTF-8; found the byte 0x%02x", data[at]))
		return
	}
	if first := bytes.TrimLeft(data, " \t\r\n"); len(first) > 0 && first[0] == '{' && json.Valid(data) {
		data = asYAML(data)
	}
	for _, c := range documents(data) {
		p.documents(c)
	}
}

// asYAML changes what is valid JSON and no YAML: tabs between tokens, slashes
// that are escaped, characters escaped as surrogate pairs. Lines stay as they are.
func asYAML(data []byte) []byte {
	// No string holds a literal tab, so every one is white space.
	data = bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	out := make([]byte, 0, len(data))
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			out = append(out, data[i])
			continue
		}
		if i+12 <= len(data) && data[i+1] == 'u' {
			high, _ := strconv.ParseUint(string(data[i+2:i+6]), 16, 16)
			if data[i+6] == '\\' && data[i+7] == 'u' && utf16.IsSurrogate(rune(high)) {
				low, _ := strconv.ParseUint(string(data[i+8:i+12]), 16, 16)
				if r := utf16.DecodeRune(rune(high), rune(low)); r != utf8.RuneError {
					out = utf8.AppendRune(out, r)
					i += 11
					continue
				}
			}
		}
		if data[i+1] != '/' { // "/" needs no escape, and YAML knows none
			out = append(out, data[i])
		}
		out = append(out, data[i+1])
		i++
	}
	return out
}

// notText returns the offset of the first byte that YAML does not allow, or -1.
func notText(data []byte) int {
	for i := 0; i < len(data); {
		c := data[i]
		if c >= ' ' && c < 0x7f || c == '\n' || c == '\t' || c == '\r' {
			i++
			continue
		}
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 || r < ' ' || r == 0x7f || r > 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff {
			return i
		}
		i += size
	}
	return -1
}

// chunk is a part of a file that can be read by itself.
type chunk struct {
	before int // lines before it
	data   []byte
}

// documents cuts a file at the lines that begin a YAML document, so that one
// that cannot be read leaves the others alone.
func documents(data []byte) []chunk {
	var chunks []chunk
	start, before, line := 0, 0, 0
	for at := 0; at < len(data); line++ {
		end := len(data)
		if n := bytes.IndexByte(data[at:], '\n'); n >= 0 {
			end = at + n + 1
		}
		if rest, ok := bytes.CutPrefix(data[at:end], []byte("---")); ok && at > start &&
			(len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0) && !onlyDirectives(data[start:at]) {
			chunks = append(chunks, chunk{before, data[start:at]})
			start, before = at, line
		}
		at = end
	}
	return append(chunks, chunk{before, data[start:]})
}

// onlyDirectives says that these lines belong to the document after them.
func onlyDirectives(lines []byte) bool {
	for line := range bytes.Lines(lines) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// documents reads a chunk, which holds more than one document only where some
// of them end with "...".
func (p *parser) documents(c chunk) {
	decoder := newDecoder(c)
	for {
		root, err := nextDocument(decoder)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			line, column, message := syntaxError(err, c.data)
			if bytes.Contains(c.data, []byte("Secret")) {
				message = unknownAnchor.ReplaceAllString(message, "unknown anchor") // it may be half a password
			}
			if line > 0 {
				line += c.before
			} else {
				line = c.before + 1
			}
			p.broken(line, column, message)
			return
		}
		if kindOf(root) == nothing {
			continue
		}
		p.document(root, c)
	}
}

func newDecoder(c chunk) *yaml.Decoder { return yaml.NewDecoder(bytes.NewReader(c.data)) }

// nextDocument returns the root of the next document. A panic of the YAML
// library is an error of the file: nothing of ours runs inside it.
func nextDocument(d *yaml.Decoder) (root *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be read: %v", r)
		}
	}()
	var n yaml.Node
	if err := d.Decode(&n); err != nil {
		return nil, err
	}
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		return resolved(n.Content[0]), nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}, nil
}

var (
	yamlLine      = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	unknownAnchor = regexp.MustCompile(`unknown anchor '([^']*)'`)
)

// syntaxError turns an error of the YAML library into place and message.
func syntaxError(err error, data []byte) (line, column int, message string) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = m[2]
		// The library counts from 0 when its parser complains, from 1 when
		// its scanner does.
		if strings.Contains(message, "did not find expected") {
			line++
		}
	} else if m := unknownAnchor.FindStringSubmatch(message); m != nil {
		if at := bytes.Index(data, []byte("*"+m[1])); at >= 0 {
			line = 1 + bytes.Count(data[:at], []byte("\n"))
		}
	}
	lines := bytes.Split(data, []byte("\n"))
	if line > len(lines) {
		line = len(lines)
	}
	if line > 0 {
		text := lines[line-1]
		column = 1 + len(text) - len(bytes.TrimLeft(text, " \t"))
		if bytes.HasPrefix(bytes.TrimLeft(text, " "), []byte("\t")) {
			return line, column, "not valid YAML: a line is indented with a tab; use spaces"
		}
	}
	return line, column, "not valid YAML: " + message
}

// document reads one document: an object or a List of them.
func (p *parser) document(root *yaml.Node, c chunk) {
	v := &visits{left: len(c.data) + freeVisits}
	before := len(p.result.Objects)
	defer func() {
		switch r := recover(); r.(type) {
		case nil:
		case tooManyVisits:
			p.result.Objects = p.result.Objects[:before]
			p.broken(c.before+root.Line, root.Column, "aliases make this document many times larger than it is written")
		default:
			panic(r)
		}
	}()
	p.object(root, c, v, "", "", "")
}

// newObject begins an object that stands at n.
func (p *parser) newObject(n *yaml.Node, c chunk, v *visits, prefix string) *object {
	o := &object{file: p.file, before: c.before, prefix: prefix, visits: v, fieldAt: fieldAt,
		opener: p.opener, places: map[string]place{}, failed: map[string]bool{}}
	if p.api {
		o.fieldAt = apiFieldAt
	}
	o.places[""] = place{nil, n, resolved(n)}
	return o
}

// object reads one object. The items of a PodList may leave out apiVersion and
// kind; then those handed in hold.
func (p *parser) object(at *yaml.Node, c chunk, v *visits, prefix, apiVersion, kind string) {
	o := p.newObject(at, c, v, prefix)
	root := resolved(at)
	if kindOf(root) != mapping {
		o.tell(at, "", "expected an object with apiVersion, kind, metadata and spec; found "+found(root))
		p.add(o, Object{})
		return
	}
	entries := map[string]entry{}
	for _, e := range o.entries(root, "", 0) {
		entries[e.name] = e
	}
	for name, into := range map[string]*string{"apiVersion": &apiVersion, "kind": &kind} {
		if e, given := entries[name]; given {
			*into = ""
			if value := resolved(e.value); kindOf(value) == text {
				*into = value.Value
			}
		}
	}
	if isList(apiVersion, kind) && prefix == "" {
		p.list(o, entries, c, v, kind)
		return
	}
	result := Object{Kind: kind, Key: keyOf(entries)}
	if kind == pod.KindVolume {
		result.Key.Namespace = ""
	}
	if apiVersion == "v1" && kind == "Pod" {
		// Reading the fields again reports again what is wrong with them.
		o = p.newObject(at, c, v, prefix)
		if d := o.pod(root); d != nil {
			result.Desired, result.Key = d, d.Key
		}
	} else if apiVersion == "v1" && isSourceKind(kind) {
		o = p.newObject(at, c, v, prefix)
		if s := o.source(root, kind); s != nil {
			result.Source, result.Key = s, s.ID().Key
		}
		p.result.Unopened = p.result.Unopened || o.unopened
	} else {
		result.Other = o.unserved(entries, apiVersion, kind, prefix != "")
	}
	p.add(o, result)
}

// add finishes an object.
func (p *parser) add(o *object, result Object) {
	inFileOrder(o.problems)
	result.Line = o.before + o.places[""].at.Line
	result.Problems = slices.Compact(o.problems)
	result.places, result.before = o.places, o.before
	p.result.Objects = append(p.result.Objects, result)
}

func isList(apiVersion, kind string) bool {
	return apiVersion == "v1" && (kind == "List" || kind == "PodList")
}

// list reads the items of a List; o stands for the List itself.
func (p *parser) list(o *object, entries map[string]entry, c chunk, v *visits, kind string) {
	items := 0
	for name, e := range entries {
		switch name {
		case "apiVersion", "kind", "metadata":
		case "items":
			value := resolved(e.value)
			if kindOf(value) != list {
				o.tell(e.value, "items", `expected a list ("- " before each object); found `+found(value))
				continue
			}
			for i, n := range value.Content {
				items++
				if kind == "PodList" {
					p.object(n, c, v, item("items", i)+".", "v1", "Pod")
				} else {
					p.object(n, c, v, item("items", i)+".", "", "")
				}
			}
		default:
			o.tell(e.key, name, "unknown field")
		}
	}
	if items == 0 && len(o.problems) == 0 {
		o.problemAt("items", "expected at least one object; found none")
	}
	if len(o.problems) > 0 {
		p.result.Problems = append(p.result.Problems, o.problems...)
		p.result.Unknown++
	}
}

// keyOf reads namespace and name of an object that may have mistakes.
func keyOf(entries map[string]entry) pod.Key {
	var key pod.Key
	metadata := resolved(entries["metadata"].nodeOrNull())
	if metadata.Kind != yaml.MappingNode {
		return key
	}
	for i := 0; i+1 < len(metadata.Content); i += 2 {
		value := resolved(metadata.Content[i+1])
		if kindOf(value) != text {
			continue
		}
		switch metadata.Content[i].Value {
		case "name":
			key.Name = value.Value
		case "namespace":
			key.Namespace = value.Value
		}
	}
	if key.Name == "" {
		return pod.Key{}
	}
	key.Namespace = cmp.Or(key.Namespace, metav1.NamespaceDefault)
	return key
}

func (e entry) nodeOrNull() *yaml.Node {
	if e.value == nil {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	return e.value
}

const servedKinds = "v1 Pod, ConfigMap, Secret, PersistentVolumeClaim and PersistentVolume, and v1 List of them"

// unserved reports an object that is no Pod. It says whether the author can have
// meant another kind.
func (o *object) unserved(entries map[string]entry, apiVersion, kind string, inList bool) (other bool) {
	for _, f := range []struct{ name, value, want string }{{"apiVersion", apiVersion, "v1"}, {"kind", kind, "Pod"}} {
		e, given := entries[f.name]
		switch {
		case f.value != "":
			o.places[f.name] = place{e.key, e.nodeOrNull(), resolved(e.nodeOrNull())}
		case given:
			o.tell(e.value, f.name, "expected "+f.want+"; found "+found(resolved(e.value)))
		default:
			o.problemAt(f.name, "required, not given")
		}
	}
	if apiVersion == "" || kind == "" {
		return false
	}
	at := o.places["kind"].at
	switch {
	case inList && isList(apiVersion, kind):
		o.tell(at, "kind", "a List inside a List is not served here")
		return true
	case kind == "Pod" || isSourceKind(kind):
		o.tell(o.places["apiVersion"].at, "apiVersion", "expected v1 for a "+kind+"; found "+quoted(apiVersion))
		return false
	}
	message := fmt.Sprintf("%s of %s is not served here; served: %s", quoted(kind), quoted(apiVersion), servedKinds)
	if meant := nearest(kind, append([]string{"Pod", "PodList", "List"}, sourceKinds...)); meant != "" && apiVersion == "v1" {
		o.tell(at, "kind", message+fmt.Sprintf("; did you mean %q?", meant))
		return false
	}
	o.tell(at, "kind", message)
	return true
}

// onPod is the type that a Pod is decoded into.
type onPod struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metav1.ObjectMeta `json:"metadata"`
	Spec       v1.PodSpec        `json:"spec"`
	Status     v1.PodStatus      `json:"status"`
}

// pod decodes, defaults and checks a Pod. It returns nil when the object has mistakes.
func (o *object) pod(root *yaml.Node) *pod.Desired {
	o.leftOut = addedVolumes(root)
	var given onPod
	o.decodeStruct(root, reflect.ValueOf(&given).Elem(), "", Honoured)
	p := &v1.Pod{ObjectMeta: given.Metadata, Spec: given.Spec}
	p.APIVersion, p.Kind = "v1", "Pod"
	written, err := json.Marshal(given.Spec)
	if err != nil {
		panic(fmt.Sprintf("manifest: a decoded spec cannot be written: %v", err)) // it has types of its own only
	}
	if grace := p.Spec.TerminationGracePeriodSeconds; grace != nil && *grace < 0 {
		o.warnAt("spec.terminationGracePeriodSeconds", "must be >= 0; negative values are invalid and will be treated as 1")
	}
	applyDefaults(p)
	o.check(p)
	if errorsIn(o.problems) > 0 {
		return nil
	}
	o.leaveOut(p)
	p.Spec.NodeName = "" // the agent's own name holds
	p.Finalizers = nil
	d := &pod.Desired{
		Key:    pod.Key{Namespace: p.Namespace, Name: p.Name},
		Pod:    p,
		Origin: pod.Origin{File: o.file, Line: o.before + root.Line},
		// Of the spec without defaults: a version with other defaults
		// restarts nothing.
		SpecHash: fmt.Sprintf("%x", sha256.Sum256(written)),
	}
	inFileOrder(o.problems)
	for _, w := range o.problems {
		d.Warnings = append(d.Warnings, w.String())
	}
	return d
}

// addedVolumePrefix begins the name of the volume that a cluster adds to every
// pod for its service account's token.
// Source: Kubernetes docs, "Managing Service Accounts", bound token volume.
const addedVolumePrefix = "kube-api-access-"

// addedVolume returns the name of a volume that a cluster added, or "".
func addedVolume(volume *yaml.Node) string {
	if volume.Kind != yaml.MappingNode {
		return ""
	}
	name, projected := "", false
	for i := 0; i+1 < len(volume.Content); i += 2 {
		switch volume.Content[i].Value {
		case "name":
			name = resolved(volume.Content[i+1]).Value
		case "projected":
			projected = true
		}
	}
	if projected && strings.HasPrefix(name, addedVolumePrefix) {
		return name
	}
	return ""
}

// addedVolumes finds the names of the volumes that a cluster added to a pod.
func addedVolumes(root *yaml.Node) map[string]bool {
	added := map[string]bool{}
	for _, v := range sequence(member(member(root, "spec"), "volumes")) {
		if name := addedVolume(resolved(v)); name != "" {
			added[name] = true
		}
	}
	return added
}

func member(n *yaml.Node, name string) *yaml.Node {
	if n != nil && n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == name {
				return resolved(n.Content[i+1])
			}
		}
	}
	return nil
}

func sequence(n *yaml.Node) []*yaml.Node {
	if n != nil && n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return nil
}

// leaveOut takes the volumes that a cluster added out of a checked pod.
func (o *object) leaveOut(p *v1.Pod) {
	if len(o.leftOut) == 0 {
		return
	}
	p.Spec.Volumes = without(p.Spec.Volumes, func(v v1.Volume) bool { return o.leftOut[v.Name] })
	for _, containers := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			c.VolumeMounts = without(c.VolumeMounts, func(m v1.VolumeMount) bool { return o.leftOut[m.Name] })
		}
	}
}

// without returns nil rather than an empty list, as if the list were not given.
func without[T any](s []T, drop func(T) bool) []T {
	if s = slices.DeleteFunc(s, drop); len(s) == 0 {
		return nil
	}
	return s
}
