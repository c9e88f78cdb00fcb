package rest

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/objects"
	"podd/api/patch"
)

var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}

// patch serves PATCH.
func (c *call) patch() error {
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(patchTypes, media) {
		return unsupportedMedia(strings.Join(patchTypes, ", "))
	}
	kind := types.PatchType(media)
	given := &metav1.PatchOptions{DryRun: c.args["dryRun"], FieldManager: c.args.Get("fieldManager"), FieldValidation: c.args.Get("fieldValidation")}
	if _, forced := c.args["force"]; forced {
		force := boolArg(c.args, "force")
		given.Force = &force
	}
	if errs := metav1validation.ValidatePatchOptions(given, kind); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "", errs)
	}
	options, err := c.writeOptions("PatchOptions")
	if err != nil {
		return err
	}
	data := c.body
	options.applied = kind == types.ApplyYAMLPatchType
	language := mediaJSON
	if options.applied {
		language = mediaYAML
	}
	if err := boundParts(data, language); err != nil {
		return err
	}
	force := given.Force != nil && *given.Force
	code := http.StatusOK
	stored, err := c.put(options, func(old objects.Object) (objects.Object, error) {
		if old == nil && (!options.applied || c.sub != nil) {
			return nil, apierrors.NewNotFound(c.resource(), c.Name)
		}
		o, err := c.patched(kind, old, data, force, options)
		if err != nil {
			return nil, err
		}
		if err := c.fitPath(o); err != nil {
			return nil, err
		}
		if old == nil {
			code = http.StatusCreated
			return c.createApplied(o, options)
		}
		return c.changed(o, old, options)
	})
	if err != nil {
		return err
	}
	return c.respond(code, stored)
}

// createApplied makes the object that an apply creates, if the user may create
// one and does not mean one that is gone.
func (c *call) createApplied(o objects.Object, options writeOptions) (objects.Object, error) {
	if err := c.mayCreate(); err != nil {
		return nil, err
	}
	if o.GetUID() != "" {
		return nil, apierrors.NewConflict(c.resource(), c.Name,
			fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", o.GetUID()))
	}
	return c.newObject(o, options)
}

// patched returns what a patch makes of an object; of none, if old is nil, which
// only an apply can.
func (c *call) patched(kind types.PatchType, old objects.Object, data []byte, force bool, options writeOptions) (objects.Object, error) {
	live := old
	if live == nil {
		live = c.kind.New()
	}
	original := withKind(live, c.kind.GroupVersionKind())
	patched, warnings, err := original, []string(nil), error(nil)
	if options.applied {
		patched, warnings, err = c.s.fields.Apply(c.writer(options), original, data, force, options.validation)
	} else {
		patched, warnings, err = patch.Validated(kind, original, data, options.validation)
	}
	if err != nil {
		return nil, err
	}
	for _, text := range warnings {
		c.warn(text)
	}
	patched.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // as in the store
	return patched.(objects.Object), nil
}
