package rest

import (
	"mime"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
	"podd/api/patch"
)

var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType)}

// patch serves PATCH.
func (c *call) patch() error {
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(patchTypes, media) {
		return unsupportedMedia(strings.Join(patchTypes, ", "))
	}
	options, err := c.writeOptions("PatchOptions")
	if err != nil {
		return err
	}
	if _, given := c.args["force"]; given {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "",
			field.ErrorList{field.Forbidden(field.NewPath("force"), "may not be specified for non-apply patch")})
	}
	data, err := readBody(c.w, c.r)
	if err != nil {
		return err
	}
	kind := c.kind.GroupVersionKind()
	stored, err := c.put(options, func(old objects.Object) (objects.Object, error) {
		if old == nil {
			return nil, apierrors.NewNotFound(c.resource(), c.Name)
		}
		patched, warnings, err := patch.Validated(types.PatchType(media), withKind(old, kind), data, options.validation)
		if err != nil {
			return nil, err
		}
		for _, text := range warnings {
			c.warn(text)
		}
		o := patched.(objects.Object)
		o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // as in the store
		if err := c.fitPath(o); err != nil {
			return nil, err
		}
		return c.changed(o, old, options)
	})
	if err != nil {
		return err
	}
	return c.respond(http.StatusOK, stored)
}
