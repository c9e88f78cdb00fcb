package rest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
)

// list answers with a collection, or a page of it.
func (c *call) list() error {
	sel, err := c.selector()
	if err != nil {
		return err
	}
	limit, err := c.number("limit")
	if err != nil {
		return err
	}
	if c.kind.Source != nil {
		limit = 0 // there is no second page of what is measured anew each time
	}
	if boolArg(c.args, "sendInitialEvents") {
		return c.invalidListOptions(field.Forbidden(field.NewPath("sendInitialEvents"), "sendInitialEvents is forbidden for list"))
	}
	all, from, err := c.state(limit)
	if err != nil {
		return err
	}
	meta := listMeta{version: from.Version}
	var page []objects.Object
	for i, o := range all {
		if from.after(o) {
			continue
		}
		o = c.kind.shape(o)
		if !sel.matches(o) {
			continue
		}
		if limit > 0 && int64(len(page)) == limit {
			last := page[len(page)-1]
			meta.next = continueToken{Version: from.Version, Namespace: last.GetNamespace(), Name: last.GetName()}.String()
			if sel.empty() {
				remaining := int64(len(all) - i)
				meta.remaining = &remaining
			}
			break
		}
		page = append(page, o)
	}
	return c.respondList(page, meta)
}

// respondList answers with objects in the form that was asked for.
func (c *call) respondList(list []objects.Object, meta listMeta) error {
	kind := c.kind.GroupVersionKind()
	kind.Kind += "List"
	each := func(o objects.Object) runtime.Object { return o }
	switch c.form.as {
	case "Table":
		table, err := c.table(list, meta, true)
		if err != nil {
			return err
		}
		return c.write(http.StatusOK, table)
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		kind = schema.GroupVersionKind{Group: metav1.GroupName, Version: c.form.version, Kind: "PartialObjectMetadataList"}
		each = func(o objects.Object) runtime.Object { return partial(o, c.form.version) }
	}
	return c.send(http.StatusOK, func(a *answer) error {
		return encodeList(a, c.form.media, kind, meta.meta(), func(yield func(runtime.Object) bool) {
			for _, o := range list {
				if !yield(each(o)) {
					return
				}
			}
		})
	})
}

// state returns the objects of the collection, in the store's shape, as they
// were or are at the version that was asked for, and where a page begins.
func (c *call) state(limit int64) ([]objects.Object, continueToken, error) {
	if c.kind.Source != nil {
		all, err := c.kind.Source.List(c.ctx, c.Namespace)
		return all, continueToken{Version: c.s.Store.Version()}, err
	}
	match := metav1.ResourceVersionMatch(c.args.Get("resourceVersionMatch"))
	asked := c.args.Get("resourceVersion")
	if text := c.args.Get("continue"); text != "" {
		if asked != "" && asked != "0" || match != "" {
			return nil, continueToken{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		return c.continued(text)
	}
	switch match {
	case "", metav1.ResourceVersionMatchNotOlderThan, metav1.ResourceVersionMatchExact:
	default:
		return nil, continueToken{}, c.invalidListOptions(field.NotSupported(field.NewPath("resourceVersionMatch"), match,
			[]metav1.ResourceVersionMatch{metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan, ""}))
	}
	if match != "" && asked == "" {
		return nil, continueToken{}, c.invalidListOptions(field.Forbidden(field.NewPath("resourceVersionMatch"), "resourceVersionMatch is forbidden unless resourceVersion is provided"))
	}
	version, err := c.version(asked)
	if err != nil {
		return nil, continueToken{}, err
	}
	if match == metav1.ResourceVersionMatchExact && version == 0 {
		return nil, continueToken{}, c.invalidListOptions(field.Forbidden(field.NewPath("resourceVersionMatch"), `resourceVersionMatch "Exact" is forbidden for resourceVersion "0"`))
	}
	if match == metav1.ResourceVersionMatchExact || match == "" && version != 0 && limit > 0 {
		all, err := c.s.Store.ListAt(c.kind.stored(), c.Namespace, version)
		if errors.Is(err, objects.ErrTooOld) {
			err = apierrors.NewResourceExpired(fmt.Sprintf("The resourceVersion for the provided list is too old: %d", version))
		}
		return all, continueToken{Version: version}, err
	}
	all, now := c.s.Store.List(c.kind.stored(), c.Namespace)
	if version > now {
		return nil, continueToken{}, tooLarge(version, now)
	}
	return all, continueToken{Version: now}, nil
}

// continued returns the state of which a page was read before.
func (c *call) continued(text string) ([]objects.Object, continueToken, error) {
	from, err := parseContinue(text)
	if err != nil {
		return nil, from, apierrors.NewBadRequest("continue key is not valid: " + err.Error())
	}
	if from.Version == 0 { // this client was told so
		all, now := c.s.Store.List(c.kind.stored(), c.Namespace)
		from.Version = now
		return all, from, nil
	}
	all, err := c.s.Store.ListAt(c.kind.stored(), c.Namespace, from.Version)
	if errors.Is(err, objects.ErrTooOld) {
		expired := apierrors.NewResourceExpired("The provided continue parameter is too old " +
			"to display a consistent list result. You can start a new list without the continue parameter, " +
			"or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided " +
			"token results in an inconsistent list - objects that were created, modified, or deleted between the time the first " +
			"chunk was returned and now may show up in the list.")
		from.Version = 0
		expired.ErrStatus.ListMeta.Continue = from.String()
		return nil, from, expired
	}
	return all, from, err
}

// version reads a resource version; "" is 0.
func (c *call) version(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, c.invalidListOptions(field.Invalid(field.NewPath("resourceVersion"), text, "expected a decimal number"))
	}
	return v, nil
}

func (c *call) invalidListOptions(err *field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", field.ErrorList{err})
}

// tooLarge says that a version is still to come.
func tooLarge(version, now uint64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", version, now), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

// continueToken is where the next page of a list begins: after an object, in
// the state of a version; 0: in the present state.
type continueToken struct {
	Version   uint64 `json:"rv,omitempty"`
	Namespace string `json:"ns,omitempty"`
	Name      string `json:"name"`
}

func (t continueToken) String() string {
	text, err := json.Marshal(t)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseContinue(text string) (t continueToken, err error) {
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err == nil && t.Name == "" {
		err = errors.New("it names no object")
	}
	return t, err
}

// after tells whether an object was on an earlier page.
func (t continueToken) after(o objects.Object) bool {
	if t.Name == "" {
		return false
	}
	if n := strings.Compare(o.GetNamespace(), t.Namespace); n != 0 {
		return n < 0
	}
	return o.GetName() <= t.Name
}
