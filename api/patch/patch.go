package patch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
)

const (
	// maxOperations is the number of operations in a JSON patch; Kubernetes has
	// the same.
	maxOperations = 10_000

	// maxCopied is how many bytes the copy operations of a JSON patch may add up
	// to; Kubernetes has the same.
	maxCopied = 3 << 20

	// maxNesting is how deep a patch may be nested. Objects are not a third as
	// deep.
	maxNesting = 100

	// maxMerge is how often a strategic merge may compare elements of lists: each
	// of the patch with each of the object and of the patch.
	maxMerge = 10_000_000
)

// Apply returns original with a JSON, merge or strategic merge patch applied.
// original is not changed and must be a pointer to a struct, as all typed
// objects are. Fields that its type does not have are dropped. Errors are API
// errors with the status and the words of Kubernetes: 400 for what is not a
// patch, 413 for one that is too large, 422 for one that does not fit the
// object, 415 for another type of patch.
func Apply(t types.PatchType, original runtime.Object, data []byte) (runtime.Object, error) {
	patched, _, err := Validated(t, original, data, metav1.FieldValidationIgnore)
	return patched, err
}

// Validated is Apply with the fieldValidation of the request: fields that are
// unknown or given twice make it fail with 422 (Strict), are named in warnings
// (Warn), or are dropped (Ignore).
func Validated(t types.PatchType, original runtime.Object, data []byte, validation string) (patched runtime.Object, warnings []string, err error) {
	if depth(data) > maxNesting {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the patch is nested deeper than %d levels", maxNesting))
	}
	var strict []error // of the patch itself
	var found string   // what did not fit, for the message
	patched = reflect.New(reflect.TypeOf(original).Elem()).Interface().(runtime.Object)
	switch t {
	case types.JSONPatchType, types.MergePatchType:
		var text []byte
		if t == types.JSONPatchType {
			text, strict, err = jsonPatch(original, data)
		} else {
			text, strict, err = mergePatch(original, data)
		}
		if err != nil {
			return nil, nil, err
		}
		found = string(text)
		unknown, err := kjson.UnmarshalStrict(text, patched)
		if err != nil {
			return nil, nil, unfit(found, err)
		}
		if err := sameKind(original, patched); err != nil {
			return nil, nil, unfit(found, err)
		}
		strict = append(strict, unknown...)
	case types.StrategicMergePatchType:
		var merged map[string]any
		var patch map[string]any
		merged, patch, strict, err = strategicMerge(original, data)
		if err != nil {
			return nil, nil, err
		}
		found = fmt.Sprintf("%+v", patch)
		err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(merged, patched, true)
		if unknown, ok := runtime.AsStrictDecodingError(err); ok {
			strict = append(strict, unknown.Errors()...)
		} else if err != nil {
			return nil, nil, unfit(found, err)
		}
	default:
		return nil, nil, apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "patch", schema.GroupResource{}, "",
			fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s, %s, %s, %s",
				types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType), 0, false)
	}
	// A patch cannot make an object of another kind.
	patched.GetObjectKind().SetGroupVersionKind(original.GetObjectKind().GroupVersionKind())
	switch {
	case len(strict) == 0 || validation == metav1.FieldValidationIgnore:
	case validation == metav1.FieldValidationStrict:
		return nil, nil, unfit(found, runtime.NewStrictDecodingError(strict))
	default:
		for _, problem := range strict {
			warnings = append(warnings, problem.Error())
		}
	}
	return patched, warnings, nil
}

// unfit is the error for a patch whose result is not an object of the kind.
func unfit(found string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), found, err.Error())})
}

// unprocessable is the error for a patch that does not apply. Kubernetes has the
// same message and no cause, which leaves users guessing.
func unprocessable(err error) error {
	answer := apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "", 0, false)
	answer.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeFieldValueInvalid, Field: "patch", Message: err.Error()}}
	return answer
}

// sameKind refuses a change of apiVersion or kind. An original that does not
// name its own is not asked.
func sameKind(original, patched runtime.Object) error {
	was, is := original.GetObjectKind().GroupVersionKind(), patched.GetObjectKind().GroupVersionKind()
	if was.Empty() || was == is {
		return nil
	}
	return fmt.Errorf("the object is %s, not %s", was, is)
}

// boundCopies sets a bound of the library, which keeps it for all its users.
var boundCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxCopied })

// jsonPatchOp is one operation; errors show its name to users.
type jsonPatchOp struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  string          `json:"from"`
	Value json.RawMessage `json:"value"`
}

// jsonPatch applies a patch as of RFC 6902.
func jsonPatch(original runtime.Object, data []byte) (patched []byte, strict []error, err error) {
	boundCopies()
	var operations []jsonPatchOp
	strict, err = kjson.UnmarshalStrict(data, &operations)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	for i, problem := range strict {
		strict[i] = fmt.Errorf("json patch %w", problem)
	}
	if len(operations) > maxOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxOperations, len(operations)))
	}
	for _, o := range operations {
		if max(strings.Count(o.Path, "/"), strings.Count(o.From, "/")) > maxNesting {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the path of an operation has more than %d parts", maxNesting))
		}
	}
	patch, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	text, err := json.Marshal(original)
	if err != nil {
		return nil, nil, err
	}
	if patched, err = patch.Apply(text); err != nil {
		return nil, nil, unprocessable(err)
	}
	return patched, strict, nil
}

// mergePatch applies a patch as of RFC 7386.
func mergePatch(original runtime.Object, data []byte) (patched []byte, strict []error, err error) {
	patch := map[string]any{}
	if strict, err = kjson.UnmarshalStrict(data, &patch); err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	text, err := json.Marshal(original)
	if err != nil {
		return nil, nil, err
	}
	if patched, err = jsonpatch.MergePatch(text, data); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return patched, strict, nil
}

// strategicMerge applies a patch by the merge keys of the object's Go type.
func strategicMerge(original runtime.Object, data []byte) (merged, patch map[string]any, strict []error, err error) {
	patch = map[string]any{}
	if strict, err = kjson.UnmarshalStrict(data, &patch); err != nil {
		return nil, nil, nil, apierrors.NewBadRequest(err.Error())
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(original)
	if err != nil {
		return nil, nil, nil, err
	}
	if n := elements(patch); n*(n+elements(object)) > maxMerge {
		return nil, nil, nil, apierrors.NewRequestEntityTooLargeError("the lists of the patch have too many elements to be merged")
	}
	merged, err = strategicpatch.StrategicMergeMapPatch(object, patch, original)
	switch err {
	case nil:
		return merged, patch, strict, nil
	case mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
		mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat:
		return nil, nil, nil, apierrors.NewBadRequest(err.Error())
	default:
		return nil, nil, nil, unprocessable(err)
	}
}

// depth returns how deep a JSON text is nested; it need not be valid.
func depth(text []byte) int {
	deepest, depth := 0, 0
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[', c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == ']', c == '}':
			depth--
		}
	}
	return deepest
}

// elements counts the elements of all lists.
func elements(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for _, value := range v {
			n += elements(value)
		}
	case []any:
		n = len(v)
		for _, value := range v {
			n += elements(value)
		}
	}
	return n
}
