package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"podd/api/discovery"
	"podd/api/objects"
)

const (
	// An answer of more than this is compressed for a client that accepts it.
	gzipFrom = 128 << 10
	// How long one write may wait for a client that does not read.
	writeWait = 10 * time.Second
)

var protobufPrefix = []byte{'k', '8', 's', 0}

// answer writes the body of a response. It keeps up to gzipFrom bytes, so that
// small answers have a length and big ones can be compressed, and lets no write
// wait longer than writeWait.
type answer struct {
	w       http.ResponseWriter
	gzip    bool // the client accepts it
	code    int
	kept    bytes.Buffer
	started bool
	zipped  *gzip.Writer
}

func newAnswer(w http.ResponseWriter, r *http.Request, contentType string, code int) *answer {
	w.Header().Set("Content-Type", contentType)
	return &answer{w: w, code: code, gzip: discovery.AcceptsGzip(r.Header.Get("Accept-Encoding"))}
}

func (a *answer) Write(p []byte) (int, error) {
	if !a.started && a.kept.Len()+len(p) <= gzipFrom {
		return a.kept.Write(p)
	}
	if !a.started {
		a.started = true
		a.w.Header().Add("Vary", "Accept-Encoding")
		if a.gzip {
			a.w.Header().Set("Content-Encoding", "gzip")
			a.zipped, _ = gzip.NewWriterLevel(deadlineWriter{a.w}, gzip.BestSpeed)
		}
		a.w.WriteHeader(a.code)
		if _, err := a.through(a.kept.Bytes()); err != nil {
			return 0, err
		}
		a.kept = bytes.Buffer{}
	}
	return a.through(p)
}

func (a *answer) through(p []byte) (int, error) {
	if a.zipped != nil {
		return a.zipped.Write(p)
	}
	return deadlineWriter{a.w}.Write(p)
}

// Close writes what was kept.
func (a *answer) Close() error {
	switch {
	case !a.started:
		a.w.Header().Set("Content-Length", strconv.Itoa(a.kept.Len()))
		a.w.WriteHeader(a.code)
		_, err := deadlineWriter{a.w}.Write(a.kept.Bytes())
		return err
	case a.zipped != nil:
		return a.zipped.Close()
	}
	return nil
}

// deadlineWriter gives each write its own time.
type deadlineWriter struct{ w http.ResponseWriter }

func (d deadlineWriter) Write(p []byte) (int, error) {
	// A writer without deadlines is a test's, and waits for nobody.
	_ = http.NewResponseController(d.w).SetWriteDeadline(time.Now().Add(writeWait))
	return d.w.Write(p)
}

// withKind returns o with its kind said, as a single object must have it. What
// is in the store stays as it is.
func withKind(o runtime.Object, kind schema.GroupVersionKind) runtime.Object {
	if o.GetObjectKind().GroupVersionKind() == kind {
		return o
	}
	o = objects.Shallow(o)
	o.GetObjectKind().SetGroupVersionKind(kind)
	return o
}

// encode writes one object, which has its kind, in a media type.
func encode(w io.Writer, media string, o any) error {
	switch media {
	case mediaProtobuf:
		data, err := protobufOf(o)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	case mediaYAML:
		data, err := yaml.Marshal(o)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
	return json.NewEncoder(w).Encode(o)
}

// protobufOf returns an object in Kubernetes' envelope.
func protobufOf(o any) ([]byte, error) {
	m, ok := o.(runtime.ProtobufMarshaller)
	k, isObject := o.(runtime.Object)
	if !ok || !isObject {
		return nil, fmt.Errorf("%T has no protobuf form", o)
	}
	kind := k.GetObjectKind().GroupVersionKind()
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind}}
	size := m.Size()
	// 64 bytes are enough for the fields around the object beside its type.
	data := make([]byte, len(protobufPrefix)+size+len(unknown.APIVersion)+len(unknown.Kind)+64)
	copy(data, protobufPrefix)
	n, err := unknown.NestedMarshalTo(data[len(protobufPrefix):], m, uint64(size))
	return data[:len(protobufPrefix)+n], err
}

// partial returns an object's metadata alone.
func partial(o objects.Object, version string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: metav1.GroupName + "/" + version, Kind: "PartialObjectMetadata"},
		ObjectMeta: *metaOf(o),
	}
}

// listMeta says of which state a list is, and how it goes on.
type listMeta struct {
	version   uint64
	next      string // continue token; "": this is the end
	remaining *int64 // objects after this page, if that is known
}

func (m listMeta) meta() metav1.ListMeta {
	return metav1.ListMeta{ResourceVersion: strconv.FormatUint(m.version, 10), Continue: m.next, RemainingItemCount: m.remaining}
}

// encodeList writes objects as a list, one after the other, so that a long list
// is never in memory as a whole; but for protobuf and YAML.
func encodeList(w io.Writer, media string, kind schema.GroupVersionKind, meta metav1.ListMeta, items func(yield func(runtime.Object) bool)) error {
	switch media {
	case mediaProtobuf:
		return encodeProtobufList(w, kind, meta, items)
	case mediaYAML:
		var text bytes.Buffer
		if err := encodeList(&text, mediaJSON, kind, meta, items); err != nil {
			return err
		}
		data, err := yaml.JSONToYAML(text.Bytes())
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
	head, err := json.Marshal(struct {
		metav1.TypeMeta `json:",inline"`
		ListMeta        metav1.ListMeta `json:"metadata"`
	}{metav1.TypeMeta{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind}, meta})
	if err != nil {
		return err
	}
	if _, err := w.Write(append(head[:len(head)-1], `,"items":[`...)); err != nil {
		return err
	}
	comma := false
	for o := range items {
		if comma {
			if _, err := io.WriteString(w, ","); err != nil {
				return err
			}
		}
		comma = true
		data, err := json.Marshal(o)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, "]}\n")
	return err
}

// encodeProtobufList relies on all lists of Kubernetes having their metadata as
// field 1 and their items as field 2.
func encodeProtobufList(w io.Writer, kind schema.GroupVersionKind, meta metav1.ListMeta, items func(yield func(runtime.Object) bool)) error {
	data, err := meta.Marshal()
	if err != nil {
		return err
	}
	raw := appendField(nil, 1, data)
	for o := range items {
		m, ok := o.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return fmt.Errorf("%T has no protobuf form", o)
		}
		if data, err = m.Marshal(); err != nil {
			return err
		}
		raw = appendField(raw, 2, data)
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind}, Raw: raw}
	if data, err = unknown.Marshal(); err != nil {
		return err
	}
	if _, err := w.Write(protobufPrefix); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// appendField appends one length-delimited field of a protobuf message.
func appendField(to []byte, number byte, data []byte) []byte {
	to = append(to, number<<3|2)
	n := uint64(len(data))
	for n >= 0x80 {
		to = append(to, byte(n)|0x80)
		n >>= 7
	}
	return append(append(to, byte(n)), data...)
}
