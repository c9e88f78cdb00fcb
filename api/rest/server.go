package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/discovery"
	"podd/api/objects"
	"podd/api/patch"
)

// Config is what a [Server] is made of.
type Config struct {
	Store *objects.Store
	Kinds []Kind
	Log   logr.Logger

	// Allowed returns an API error if the user in ctx may not do what is asked.
	// nil: everybody may do everything.
	Allowed func(ctx context.Context, q Request) error

	// Admit may refuse a write, or change o, after the checks of its kind. old is
	// nil for a new object, o for one that is to be deleted.
	Admit func(ctx context.Context, q Request, o, old objects.Object) error

	// Persist keeps a change before it is made in the store. old is nil for a new
	// object, o for one that goes. An error refuses the change.
	Persist func(old, o objects.Object) error

	// DeclaredIn says which file declares an object, and "" of one that no file
	// does: the end of its namespace waits for the file. nil: no files.
	DeclaredIn func(o objects.Object) string

	// Hidden returns the object of the API's in whose place the store shows one that
	// a file declares; nil: there is none. nil: no files.
	Hidden func(key objects.Key) (objects.Object, error)

	// Settled waits until what there was when the agent ended is in the store: only
	// then is an owner that is not found gone. nil: it is there at once.
	Settled func(ctx context.Context) error

	// Event records what the collector tells about objects with owners. nil: nobody
	// is told.
	Event func(e *v1.Event)

	// Client names who is at the other end, for MaxWatchesPerClient. nil: by
	// address.
	Client func(r *http.Request) string

	MaxWatches          int // at the same time; 0: 1000
	MaxWatchesPerClient int // 0: 250
	MaxWrites           int // requests that change something at the same time; 0: 32
	MaxWritesPerClient  int // 0: 24; from when their bodies are read, however slowly

	// Other serves paths that name no resource. nil: 404.
	Other http.Handler
}

// Server is the generic part of the API: an http.Handler over a store.
type Server struct {
	Config
	kinds  map[schema.GroupVersionResource]*Kind
	writes chan struct{} // one place for each request whose body was read
	bodies bodies
	fields patch.Fields
	texts  texts

	apiPort atomic.Pointer[int32] // of the service kubernetes; nil: there is none

	watchMu sync.Mutex
	watches map[string]int // by client; the sum under ""
}

// New returns a server of the given kinds.
func New(config Config) *Server {
	s := &Server{
		Config:  config,
		kinds:   map[schema.GroupVersionResource]*Kind{},
		watches: map[string]int{},
	}
	setDefault(&s.MaxWatches, 1000)
	setDefault(&s.MaxWatchesPerClient, 250)
	setDefault(&s.MaxWrites, 32)
	setDefault(&s.MaxWritesPerClient, 24)
	s.bodies.perClient, s.bodies.clients = s.MaxWritesPerClient, map[string]sent{}
	s.writes = make(chan struct{}, s.MaxWrites)
	if s.DeclaredIn == nil {
		s.DeclaredIn = func(objects.Object) string { return "" }
	}
	if s.Client == nil {
		s.Client = func(r *http.Request) string {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			return "address " + host
		}
	}
	for i := range s.Kinds {
		k := &s.Kinds[i]
		k.deprecated = k.deprecation()
		s.kinds[schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Plural}] = k
	}
	return s
}

func setDefault[T comparable](to *T, value T) {
	if *to == *new(T) {
		*to = value
	}
}

// stored returns the kind in whose shape the objects of a resource are stored.
func (s *Server) stored(res schema.GroupResource) *Kind {
	for i := range s.Kinds {
		if k := &s.Kinds[i]; k.GroupResource() == res && k.View == nil {
			return k
		}
	}
	return nil
}

// call is one request on its way.
type call struct {
	Request
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	ctx  context.Context
	kind *Kind
	sub  *Subresource // nil: the object itself
	form form
	args url.Values
	body []byte // of a request that changes something

	subKind discovery.Subresource

	warned map[string]bool
	begun  bool // the answer is on its way
}

// ServeHTTP serves one request for a resource, and passes on what is none. With
// HTTP/2, short answers have no other deadline than [http.Server.WriteTimeout].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, isResource := parsePath(r.URL.EscapedPath())
	if r.ProtoMajor == 1 || isResource && !short(r, q) {
		// The server's deadline, or that of the connection's last answer; what takes
		// long sets its own. A test's writer has none.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	}
	c := &call{Request: q, s: s, w: w, r: r, form: form{media: mediaJSON}, args: r.URL.Query()}
	c.ctx = context.WithValue(r.Context(), requestKey{}, c)
	if !isResource {
		if s.Other != nil {
			s.Other.ServeHTTP(w, r)
			return
		}
		c.fail(errNoResource())
		return
	}
	limitBody(w, r)
	if err := c.serve(); err != nil {
		c.fail(err)
	}
}

// short says that a request is answered at once, with one object: within the deadline
// that [http.Server.WriteTimeout] gives it.
func short(r *http.Request, q Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && q.Name != "" && q.Subresource == ""
}

// serve finds out what is asked for, whether it exists and is allowed, and does
// it.
func (c *call) serve() error {
	c.kind = c.s.kinds[schema.GroupVersionResource{Group: c.Group, Version: c.Version, Resource: c.Resource}]
	if c.kind == nil && c.absent() != "" {
		return c.listNone()
	}
	switch {
	case c.kind == nil,
		!c.kind.Namespaced && c.Namespace != "",
		c.kind.Namespaced && c.Namespace == "" && c.Name != "":
		return errNoResource()
	}
	verbs := c.kind.Verbs
	if c.Subresource != "" {
		c.sub, c.subKind = c.kind.subresource(c.Subresource)
		if c.sub == nil || c.Tail != "" && c.Subresource != "proxy" {
			return c.kind.errNoSubresource(c.Subresource)
		}
		verbs = c.subKind.Verbs
	} else if c.kind.Namespaced && c.Namespace == "" {
		verbs = acrossNamespaces
	}
	if c.Verb = c.verb(); !slices.Contains(verbs, c.Verb) {
		return apierrors.NewMethodNotSupported(c.resourceAndSub(), strings.ToLower(c.r.Method))
	}
	var err error
	if c.sub == nil || c.sub.Handler == nil {
		if c.form, err = negotiate(c.r.Header.Get("Accept"), c.kind.hasProtobuf); err != nil {
			return err
		}
	}
	if c.s.Allowed != nil {
		if err := c.s.Allowed(c.ctx, c.Request); err != nil {
			return err
		}
	}
	if c.kind.deprecated != "" {
		c.warn(c.kind.deprecated)
	}
	switch {
	case c.sub != nil && c.sub.Handler != nil:
		return c.handOver()
	case c.Verb == "get":
		return c.get()
	case c.Verb == "list":
		return c.list()
	case c.Verb == "watch":
		return c.watch()
	}
	done, err := c.receive()
	if err != nil {
		return err
	}
	defer done()
	select { // what a body unfolds to is many times its size
	case c.s.writes <- struct{}{}:
		defer func() { <-c.s.writes }()
	default:
		return apierrors.NewTooManyRequests("too many requests that change something at the same time", 1)
	}
	switch c.Verb {
	case "create":
		return c.create()
	case "update":
		return c.update()
	case "patch":
		return c.patch()
	case "delete":
		return c.delete()
	}
	return c.deleteCollection()
}

// acrossNamespaces are the verbs of paths that name no namespace where there are
// namespaces.
var acrossNamespaces = []string{"list", "watch"}

// verb returns the verb of a request by its method and path; "" if there is
// none.
func (c *call) verb() string {
	switch c.r.Method {
	case http.MethodGet, http.MethodHead:
		switch {
		case c.Name != "":
			return "get"
		case boolArg(c.args, "watch"):
			return "watch"
		}
		return "list"
	case http.MethodPost:
		if c.Name == "" || c.Subresource != "" {
			return "create"
		}
	case http.MethodPut:
		if c.Name != "" {
			return "update"
		}
	case http.MethodPatch:
		if c.Name != "" {
			return "patch"
		}
	case http.MethodDelete:
		if c.Name != "" {
			return "delete"
		}
		return "deletecollection"
	}
	return ""
}

// boolArg reads a query argument as Kubernetes does: whatever is not 0 or false
// is true.
func boolArg(args url.Values, name string) (is bool) {
	values := args[name]
	_ = runtime.Convert_Slice_string_To_bool(&values, &is, nil) // it never fails
	return is
}

func errNoResource() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
	}}
}

// resource is what errors name.
func (c *call) resource() schema.GroupResource { return c.kind.GroupResource() }

func (c *call) resourceAndSub() schema.GroupResource {
	r := c.resource()
	if c.Subresource != "" {
		r.Resource += "/" + c.Subresource
	}
	return r
}

func (c *call) key() objects.Key { return c.kind.key(c.Namespace, c.Name) }

// find returns the object of the path as its kind shows it.
func (c *call) find() (objects.Object, error) {
	if c.kind.Source != nil {
		return c.kind.Source.Get(c.ctx, c.Namespace, c.Name)
	}
	key := c.key()
	if c.Subresource == "proxy" {
		key.Name = proxied(key.Name)
	}
	o, found := c.s.Store.Get(key)
	if !found {
		return nil, apierrors.NewNotFound(c.resource(), c.Name)
	}
	return c.kind.shape(o), nil
}

// proxied is the object's name in [SCHEME:]NAME[:PORT].
func proxied(name string) string {
	parts := strings.Split(name, ":")
	if len(parts) == 3 {
		return parts[1]
	}
	return parts[0]
}

// handOver leaves the request to the handler of its subresource.
func (c *call) handOver() error {
	o, err := c.find()
	if err != nil {
		return err
	}
	c.begun = true
	unlimitBody(c.w)
	c.sub.Handler(c.w, c.r.WithContext(c.ctx), o)
	return nil
}

func (c *call) get() error {
	o, err := c.find()
	if err != nil {
		return err
	}
	if !c.plain() || boolArg(c.args, "pretty") {
		return c.respond(http.StatusOK, o)
	}
	text, err := c.s.texts.of(c.kind, o)
	if err != nil {
		return err
	}
	if c.r.ProtoMajor > 1 && len(text) <= textMost {
		return c.sendShort(text)
	}
	return c.send(http.StatusOK, func(a *answer) error {
		if _, err := a.Write(text); err != nil {
			return err
		}
		_, err = a.Write(endOfLine)
		return err
	})
}

var endOfLine = []byte{'\n'}

// sendShort answers with one object's text as it is.
func (c *call) sendShort(text []byte) error {
	h := c.w.Header()
	h["Content-Type"], h["Cache-Control"], h["Content-Length"] = jsonType, notCached, []string{strconv.Itoa(len(text) + 1)}
	c.begun = true
	_, err := c.w.Write(text)
	if err == nil {
		_, err = c.w.Write(endOfLine)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

var (
	jsonType  = []string{mediaJSON}
	notCached = []string{"no-cache, private"}
)

// plain says that objects are wanted as JSON, whole.
func (c *call) plain() bool { return c.form.media == mediaJSON && c.form.as == "" }

// warn adds a Warning header, once for each text, as long as no answer began.
// Source: RFC 7234, section 5.5, and the limits of Kubernetes.
func (c *call) warn(text string) {
	const mostBytes, mostWarnings = 256, 16
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > mostBytes {
		text = strings.ToValidUTF8(text[:mostBytes], "")
	}
	if c.begun || c.warned[text] || len(c.warned) == mostWarnings {
		return
	}
	if c.warned == nil {
		c.warned = map[string]bool{}
	}
	c.warned[text] = true
	c.w.Header().Add("Warning", `299 - "`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)+`"`)
}

// respond answers with an object in the form that was asked for.
func (c *call) respond(code int, o runtime.Object) error {
	object, isObject := o.(objects.Object)
	if isObject && o.GetObjectKind().GroupVersionKind().Kind == "" {
		o = withKind(o, c.kind.GroupVersionKind())
	}
	switch {
	case !isObject:
	case c.form.as == "Table":
		t, err := c.table([]objects.Object{object}, listMeta{}, true)
		if err != nil {
			return err
		}
		t.ResourceVersion = object.GetResourceVersion()
		o = t
	case c.form.as != "":
		o = partial(object, c.form.version)
	}
	return c.write(code, o)
}

// write answers with what has its kind already.
func (c *call) write(code int, o any) error {
	return c.send(code, func(a *answer) error {
		if c.form.media != mediaJSON || !boolArg(c.args, "pretty") {
			return encode(a, c.form.media, o)
		}
		text, err := json.Marshal(o)
		if err != nil {
			return err
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, text, "", "  "); err != nil {
			return err
		}
		_, err = a.Write(append(indented.Bytes(), '\n'))
		return err
	})
}

// send answers with what encode writes. An error after the first byte cannot
// reach the client any more: the connection ends.
func (c *call) send(code int, encode func(*answer) error) error {
	a := newAnswer(c.w, c.r, c.form.media, code)
	c.w.Header().Set("Cache-Control", "no-cache, private")
	err := encode(a)
	if err != nil && !a.started {
		return err
	}
	c.begun = true
	if err == nil {
		err = a.Close()
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// fail answers with an error as a Status.
func (c *call) fail(err error) {
	if c.begun || errors.Is(err, context.Canceled) {
		return // it is too late to say something else, or nobody listens
	}
	status := c.status(err)
	if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int(d.RetryAfterSeconds)))
	}
	c.form.as = ""
	if err := c.write(int(status.Code), status); err != nil {
		c.s.Log.Error(err, "Cannot answer", "path", c.r.URL.Path)
	}
}

// status returns the Status of an error; what is no API error is an internal
// one, and logged, because it is ours.
func (c *call) status(err error) *metav1.Status {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		c.s.Log.Error(err, "Cannot serve a request", "method", c.r.Method, "path", c.r.URL.Path)
		known = apierrors.NewInternalError(err)
	}
	status := known.Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	return &status
}

// number reads a query argument that must be a number; absent is 0.
func (c *call) number(name string) (int64, error) {
	text := c.args.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("%s: expected a number, found %q", name, text))
	}
	return n, nil
}
