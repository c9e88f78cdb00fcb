package declared

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/pod/manifest"
)

// fieldErrors are the mistakes that the loader finds in an object as an API server
// tells them: of the kinds that Kubernetes has, with the value at fault. Those about
// metadata are left to whoever serves the object.
func fieldErrors(o runtime.Object, problems []manifest.Problem) field.ErrorList {
	var errs field.ErrorList
	var tree any
	for _, p := range problems {
		if p.Warning || strings.HasPrefix(p.Field, "metadata.") {
			continue
		}
		if tree == nil {
			tree = treeOf(o)
		}
		errs = append(errs, fieldError(p, valueAt(tree, p.Field)))
	}
	return errs
}

// fieldError is one mistake. Which kind it is of is told by how its message begins.
func fieldError(p manifest.Problem, value any) *field.Error {
	path := field.NewPath(p.Field)
	if p.Field == "" {
		path = nil
	}
	detail, _, _ := strings.Cut(p.Message, "; found ")
	switch {
	case strings.HasSuffix(p.Message, "; found none"):
		return field.Required(path, detail)
	case strings.HasPrefix(p.Message, "required, not given"):
		return field.Required(path, "")
	case strings.Contains(p.Message, "is given twice"), strings.HasPrefix(p.Message, "given twice"):
		return field.Duplicate(path, value)
	case strings.Contains(p.Message, "not supported here"), strings.HasPrefix(p.Message, "not together with"), strings.HasPrefix(p.Message, "not for "):
		return field.Forbidden(path, p.Message)
	case value == "": // also of a field that is not given, where Kubernetes' types always write it
		return field.Required(path, detail)
	case value == nil:
		value = ""
	}
	return field.Invalid(path, value, detail)
}

// warnings are what is accepted without effect.
func warnings(problems []manifest.Problem) []string {
	var texts []string
	for _, p := range problems {
		if p.Warning {
			texts = append(texts, fmt.Sprintf("%s: %s", p.Field, p.Message))
		}
	}
	return texts
}

// treeOf is an object as maps, lists and scalars.
func treeOf(o runtime.Object) any {
	data, err := json.Marshal(o)
	if err != nil {
		return nil
	}
	var tree any
	if json.Unmarshal(data, &tree) != nil {
		return nil
	}
	return tree
}

// valueAt finds a value by a path such as spec.containers[0].image; nil: there is
// none, or it is no scalar, which nobody wants to read in a message.
func valueAt(tree any, path string) any {
	for path != "" {
		var name string
		switch {
		case path[0] == '[':
			inside, rest, _ := strings.Cut(path[1:], "]")
			name, path = strings.Trim(inside, `"'`), rest
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			name, path = path[:end], path[end:]
		}
		path = strings.TrimPrefix(path, ".")
		switch t := tree.(type) {
		case map[string]any:
			tree = t[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(t) {
				return nil
			}
			tree = t[i]
		default:
			return nil
		}
	}
	switch tree.(type) {
	case map[string]any, []any:
		return nil
	}
	return tree
}
