package rest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
	"podd/api/patch"
)

// optimisticLock is what Kubernetes says when an object was changed meanwhile.
const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

// writeOptions are the arguments that all writes share.
type writeOptions struct {
	dryRun     bool
	manager    string // fieldManager, or what the client calls itself
	validation string // Strict, Warn or Ignore
	applied    bool   // by server-side apply: who manages what is known already
}

// writeOptions reads and checks the arguments; kind is how errors call them.
func (c *call) writeOptions(kind string) (writeOptions, error) {
	dryRun, manager, strictness := c.args["dryRun"], c.args.Get("fieldManager"), c.args.Get("fieldValidation")
	errs := slices.Concat(
		metav1validation.ValidateDryRun(field.NewPath("dryRun"), dryRun),
		metav1validation.ValidateFieldManager(manager, field.NewPath("fieldManager")),
		metav1validation.ValidateFieldValidation(field.NewPath("fieldValidation"), strictness),
	)
	if len(errs) > 0 {
		return writeOptions{}, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
	}
	if manager == "" {
		manager, _, _ = strings.Cut(c.r.UserAgent(), "/")
		manager = strings.ToValidUTF8(manager[:min(len(manager), metav1validation.FieldManagerMaxLength)], "")
	}
	setDefault(&strictness, metav1.FieldValidationWarn)
	return writeOptions{dryRun: len(dryRun) > 0, manager: manager, validation: strictness}, nil
}

// decode reads the body of a request into an object of the kind, and speaks up
// about unknown fields as strictness wants it.
func (c *call) decode(kind schema.GroupVersionKind, into runtime.Object, strictness string) error {
	media, err := bodyMedia(c.r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	if err := boundParts(c.body, media); err != nil {
		return err
	}
	strict, err := decode(c.body, media, kind, into)
	if err != nil {
		return err
	}
	return c.strict(kind, strict, strictness)
}

// strict refuses, warns of or ignores what a strict reader does not like.
func (c *call) strict(kind schema.GroupVersionKind, found []error, strictness string) error {
	if len(found) == 0 {
		return nil
	}
	switch strictness {
	case metav1.FieldValidationStrict:
		return cannotHandle(kind, kind, runtime.NewStrictDecodingError(found))
	case metav1.FieldValidationWarn:
		for _, err := range found {
			c.warn(err.Error())
		}
	}
	return nil
}

// create serves POST.
func (c *call) create() error {
	options, err := c.writeOptions("CreateOptions")
	if err != nil {
		return err
	}
	if c.sub != nil {
		return c.createSub(options)
	}
	o := c.kind.New()
	if err := c.decode(c.kind.GroupVersionKind(), o, options.validation); err != nil {
		return err
	}
	if source := c.kind.Source; source != nil {
		if o, err = source.Create(c.ctx, o); err != nil {
			return err
		}
		return c.respond(http.StatusCreated, o)
	}
	if err := c.fitPath(o); err != nil {
		return err
	}
	generated := o.GetName() == "" && o.GetGenerateName() != ""
	const attempts = 8 // of finding a name that is free
	for attempt := 1; ; attempt++ {
		try := o.DeepCopyObject().(objects.Object)
		if generated {
			try.SetName(generateName(o.GetGenerateName()))
		}
		c.Name = try.GetName()
		stored, err := c.put(options, func(old objects.Object) (objects.Object, error) {
			if old != nil {
				return nil, apierrors.NewAlreadyExists(c.resource(), c.Name)
			}
			return c.newObject(try, options)
		})
		if generated && apierrors.IsAlreadyExists(err) && attempt < attempts {
			continue
		}
		if err != nil {
			return err
		}
		return c.respond(http.StatusCreated, stored)
	}
}

// createSub serves POST to a subresource with a body of its own.
func (c *call) createSub(options writeOptions) error {
	o, err := c.find()
	if err != nil {
		return err
	}
	body := c.sub.New()
	kind := schema.GroupVersionKind{Group: c.subKind.Group, Version: c.subKind.Version, Kind: c.subKind.Kind}
	if kind.Version == "" {
		kind.Group, kind.Version = c.Group, c.Version
	}
	if err := c.decode(kind, body, options.validation); err != nil {
		return err
	}
	answer, err := c.sub.Call(c.ctx, o, body, options.dryRun)
	if err != nil {
		return err
	}
	if answer.GetObjectKind().GroupVersionKind().Kind == "" {
		answer = withKind(answer, kind)
	}
	return c.respond(http.StatusCreated, answer)
}

// generateName returns a name that begins with a prefix; what is random in it
// has 5 characters, and the whole at most 63, as in Kubernetes.
func generateName(prefix string) string {
	const random, most = 5, 63
	return prefix[:min(len(prefix), most-random)] + rand.String(random)
}

// fitPath makes a body agree with the path it was sent to.
func (c *call) fitPath(o objects.Object) error {
	switch o.GetNamespace() {
	case c.Namespace:
	case "":
		o.SetNamespace(c.Namespace)
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if c.kind.Namespaced && c.Namespace == "" {
		return apierrors.NewBadRequest("an empty namespace may not be set during creation")
	}
	if c.Name != "" && c.Name != o.GetName() {
		if o.GetName() == "" {
			return apierrors.NewBadRequest("the name of the object (\"\" based on URL) was undeterminable: name must be provided")
		}
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", o.GetName(), c.Name))
	}
	return nil
}

// mayCreate asks whether the user may create what another verb would create.
func (c *call) mayCreate() error {
	if c.s.Allowed == nil {
		return nil
	}
	q := c.Request
	q.Verb = "create"
	return c.s.Allowed(c.ctx, q)
}

// newObject makes of what a client sent the object to store, or refuses it.
func (c *call) newObject(o objects.Object, options writeOptions) (objects.Object, error) {
	if err := c.s.mayCreateIn(c.kind, c.Namespace, c.Name); err != nil {
		return nil, err
	}
	if version := o.GetResourceVersion(); version != "" && version != "0" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	m := metaOf(o)
	m.UID, m.CreationTimestamp = uuid.NewUUID(), metav1.Now().Rfc3339Copy()
	m.ResourceVersion, m.SelfLink, m.Generation = "", "", 0
	m.DeletionTimestamp, m.DeletionGracePeriodSeconds = nil, nil
	if !options.applied {
		m.ManagedFields = nil
	}
	if c.kind.Generations {
		m.Generation = 1
	}
	c.kind.defaults(o)
	if c.kind.PrepareCreate != nil {
		c.kind.PrepareCreate(o)
	}
	c.attribute(o, nil, options)
	errs := validation.ValidateObjectMetaAccessor(o, c.kind.Namespaced, c.kind.nameErrors, field.NewPath("metadata"))
	if c.kind.Validate != nil {
		errs = append(errs, c.kind.Validate(o)...)
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(c.kind.GroupVersionKind().GroupKind(), o.GetName(), errs)
	}
	return o, c.admit(o, nil)
}

func (k *Kind) nameErrors(name string, prefix bool) []string {
	if k.Name != nil {
		return k.Name(name, prefix)
	}
	return validation.NameIsDNSSubdomain(name, prefix)
}

// admit asks whoever else has a say, and passes on warnings.
func (c *call) admit(o, old objects.Object) error {
	if c.kind.Admit != nil {
		if err := c.kind.Admit(c.ctx, o, old); err != nil {
			return err
		}
	}
	if c.s.Admit != nil {
		if err := c.s.Admit(c.ctx, c.Request, o, old); err != nil {
			return err
		}
	}
	if c.kind.Warnings != nil && o != nil {
		for _, text := range c.kind.Warnings(o, old) {
			c.warn(text)
		}
	}
	return nil
}

// put runs make on the present object, in the shape of the kind, and stores
// what it returns; an object whose deletion waited only for what it has lost now
// goes. For a dry run nothing is stored. The result is in the shape of the kind.
func (c *call) put(options writeOptions, make func(old objects.Object) (objects.Object, error)) (objects.Object, error) {
	if c.kind.Serial != nil {
		c.kind.Serial.Lock()
		defer c.kind.Serial.Unlock()
	}
	if options.dryRun {
		var old objects.Object
		if stored, found := c.s.Store.Get(c.key()); found {
			old = c.kind.shape(stored)
		}
		return make(old)
	}
	var created bool
	var last objects.Object // that is not stored, because the object goes
	stored, err := c.s.put(c.key(), func(stored objects.Object) (objects.Object, error) {
		old := c.kind.shape(stored)
		o, err := make(old)
		if err != nil {
			return nil, err
		}
		if o == old {
			return stored, nil
		}
		created = stored == nil
		if c.kind.View != nil {
			o = c.kind.View.To(o, stored)
		}
		if last = nil; c.kind.unfinalized(o) {
			last = o
			return nil, nil
		}
		return o, nil
	})
	if err != nil {
		return nil, err
	}
	if created {
		if err := c.s.stillExists(c.kind, stored); err != nil {
			return nil, err
		}
	}
	if last != nil {
		last.SetResourceVersion(stored.GetResourceVersion())
		stored = last
	}
	return c.kind.shape(stored), nil
}

// put stores a change after it was persisted. What changes nothing is not
// persisted.
func (s *Server) put(k objects.Key, f func(objects.Object) (objects.Object, error)) (objects.Object, error) {
	return s.Store.Update(k, func(old objects.Object) (objects.Object, error) {
		o, err := f(old)
		if err != nil || o == old {
			return o, err
		}
		if o != nil {
			o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
		if old != nil && o != nil {
			o.SetResourceVersion(old.GetResourceVersion())
			if sameButTimes(old, o) {
				return old, nil
			}
		}
		if s.Persist != nil {
			if err := s.Persist(old, o); err != nil {
				return nil, err
			}
		}
		return o, nil
	})
}

// sameButTimes tells whether o is old, but for the times in managedFields: who
// writes what is there already changes nothing.
func sameButTimes(old, o objects.Object) bool {
	m := metaOf(o)
	fields := m.ManagedFields
	defer func() { m.ManagedFields = fields }()
	before := old.GetManagedFields()
	if len(before) != len(fields) {
		return false
	}
	m.ManagedFields = slices.Clone(fields)
	for i := range m.ManagedFields {
		m.ManagedFields[i].Time = before[i].Time
	}
	return equality.Semantic.DeepEqual(old, o)
}

// update serves PUT.
func (c *call) update() error {
	options, err := c.writeOptions("UpdateOptions")
	if err != nil {
		return err
	}
	sent := c.kind.New()
	if err := c.decode(c.kind.GroupVersionKind(), sent, options.validation); err != nil {
		return err
	}
	if err := c.fitPath(sent); err != nil {
		return err
	}
	code := http.StatusOK
	stored, err := c.put(options, func(old objects.Object) (objects.Object, error) {
		o := sent.DeepCopyObject().(objects.Object)
		if old == nil {
			if !c.kind.CreateOnUpdate || c.sub != nil || o.GetUID() != "" {
				return nil, apierrors.NewNotFound(c.resource(), c.Name)
			}
			if err := c.mayCreate(); err != nil {
				return nil, err
			}
			code = http.StatusCreated
			o.SetResourceVersion("")
			return c.newObject(o, options)
		}
		if o.GetResourceVersion() == "" && !c.kind.UnconditionalUpdate && c.sub == nil {
			return nil, apierrors.NewInvalid(c.kind.GroupVersionKind().GroupKind(), c.Name, field.ErrorList{
				field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")})
		}
		return c.changed(o, old, options)
	})
	if err != nil {
		return err
	}
	return c.respond(code, stored)
}

// changed makes of what a client sent the object that takes the place of old,
// or refuses it.
func (c *call) changed(o, old objects.Object, options writeOptions) (objects.Object, error) {
	m, before := metaOf(o), metaOf(old).DeepCopy()
	if m.ResourceVersion != "" && m.ResourceVersion != before.ResourceVersion {
		return nil, apierrors.NewConflict(c.resource(), c.Name, errors.New(optimisticLock))
	}
	if m.UID != "" && m.UID != before.UID {
		return nil, apierrors.NewConflict(c.resource(), c.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", m.UID, before.UID)) //nolint:staticcheck // Kubernetes' words
	}
	m.ResourceVersion, m.UID, m.SelfLink, m.Generation = before.ResourceVersion, before.UID, "", before.Generation
	if m.CreationTimestamp.IsZero() {
		m.CreationTimestamp = before.CreationTimestamp
	}
	m.DeletionTimestamp, m.DeletionGracePeriodSeconds = before.DeletionTimestamp, before.DeletionGracePeriodSeconds

	k := c.kind
	k.defaults(o)
	var errs field.ErrorList
	if c.sub != nil {
		merged, err := c.sub.Merge(o, old)
		if err != nil {
			return nil, err
		}
		o, m = merged, metaOf(merged)
		c.attribute(o, old, options)
		errs = validation.ValidateObjectMetaAccessorUpdate(o, old, field.NewPath("metadata"))
		if c.sub.Validate != nil {
			errs = append(errs, c.sub.Validate(o, old)...)
		}
	} else {
		if k.SetStatus != nil {
			k.SetStatus(o, old.DeepCopyObject().(objects.Object))
		}
		if k.PrepareUpdate != nil {
			k.PrepareUpdate(o, old)
		}
		c.attribute(o, old, options)
		errs = validation.ValidateObjectMetaAccessorUpdate(o, old, field.NewPath("metadata"))
		if k.Validate != nil {
			errs = append(errs, k.Validate(o)...)
		}
		if k.ValidateUpdate != nil {
			errs = append(errs, k.ValidateUpdate(o, old)...)
		}
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(k.GroupVersionKind().GroupKind(), c.Name, errs)
	}
	if k.Generations && k.specChanged(o, old) {
		m.Generation = before.Generation + 1
	}
	if err := c.admit(o, old); err != nil {
		return nil, err
	}
	return o, nil
}

// attribute notes in managedFields who wrote what of o. A client that could not
// have written them so itself has them put right, and is not refused.
func (c *call) attribute(o, old objects.Object, options writeOptions) {
	if options.applied {
		return
	}
	var live runtime.Object // a nil interface, where there was none
	if old != nil {
		live = old
	}
	if err := c.s.fields.Updated(c.writer(options), live, o); err != nil {
		c.s.Log.V(1).Info("Cannot tell who manages which fields", "path", c.r.URL.Path, "reason", err.Error())
	}
}

func (c *call) writer(options writeOptions) patch.Writer {
	return patch.Writer{Kind: c.kind.GroupVersionKind(), Subresource: c.Subresource, Manager: options.manager}
}

// specChanged tells whether something changed that is neither metadata nor
// status.
func (k *Kind) specChanged(o, old objects.Object) bool {
	o = objects.Shallow(o)
	*metaOf(o) = *metaOf(old)
	if k.SetStatus != nil {
		k.SetStatus(o, old)
	}
	return !equality.Semantic.DeepEqual(o, old)
}

// unfinalized tells whether nothing holds an object that is being deleted.
func (k *Kind) unfinalized(o objects.Object) bool {
	m := metaOf(o)
	return m.DeletionTimestamp != nil && len(m.Finalizers) == 0 &&
		(m.DeletionGracePeriodSeconds == nil || *m.DeletionGracePeriodSeconds == 0) &&
		(k.Remains == nil || !k.Remains(o))
}

// preconditions refuses a change of another object than the client means.
func (c *call) preconditions(o objects.Object, p *metav1.Preconditions) error {
	switch {
	case p == nil:
		return nil
	case p.UID != nil && *p.UID != o.GetUID():
		return apierrors.NewConflict(c.resource(), c.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, o.GetUID())) //nolint:staticcheck // Kubernetes' words
	case p.ResourceVersion != nil && *p.ResourceVersion != o.GetResourceVersion():
		return apierrors.NewConflict(c.resource(), c.Name, fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, o.GetResourceVersion())) //nolint:staticcheck // Kubernetes' words
	}
	return nil
}
