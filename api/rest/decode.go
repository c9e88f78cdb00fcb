package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// decode reads an object of one kind into what into points to. strict lists
// what a strict reader would refuse: unknown and repeated fields.
func decode(data []byte, media string, kind schema.GroupVersionKind, into runtime.Object) (strict []error, err error) {
	found := kind
	if media == mediaProtobuf {
		err = decodeProtobuf(data, &found, into)
	} else {
		strict, err = decodeText(data, media, &found, into)
	}
	switch {
	case found.GroupVersion() != kind.GroupVersion():
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", found.GroupVersion(), kind.GroupVersion()))
	case found.Kind != kind.Kind:
		err = errors.New("it is of another kind")
	}
	if err != nil {
		return nil, cannotHandle(found, kind, err)
	}
	into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // as in the store
	return strict, nil
}

func cannotHandle(found, kind schema.GroupVersionKind, err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", found.Kind, found.Version, kind.Kind, err))
}

func decodeText(data []byte, media string, found *schema.GroupVersionKind, into runtime.Object) (strict []error, err error) {
	if media == mediaYAML {
		_, twice := yaml.YAMLToJSONStrict(data)
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil, err
		}
		if twice != nil {
			strict = append(strict, errors.New(strings.TrimPrefix(twice.Error(), "yaml: unmarshal errors:\n  ")))
		}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("the body is empty")
	}
	var is metav1.TypeMeta
	if err := json.Unmarshal(data, &is); err != nil {
		return nil, err
	}
	if err := overrideKind(found, is.APIVersion, is.Kind); err != nil {
		return nil, err
	}
	more, err := kjson.UnmarshalStrict(data, into)
	return append(strict, more...), err
}

func decodeProtobuf(data []byte, found *schema.GroupVersionKind, into runtime.Object) error {
	data, isProtobuf := bytes.CutPrefix(data, protobufPrefix)
	if !isProtobuf {
		return fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix %v", protobufPrefix)
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(data); err != nil {
		return err
	}
	if err := overrideKind(found, unknown.APIVersion, unknown.Kind); err != nil {
		return err
	}
	m, ok := into.(interface{ Unmarshal([]byte) error })
	if !ok {
		return fmt.Errorf("%T has no protobuf form", into)
	}
	return m.Unmarshal(unknown.Raw)
}

// overrideKind puts what the data say of themselves in place of what is expected.
func overrideKind(found *schema.GroupVersionKind, apiVersion, kind string) error {
	if apiVersion != "" {
		version, err := schema.ParseGroupVersion(apiVersion)
		if err != nil {
			return err
		}
		found.Group, found.Version = version.Group, version.Version
	}
	if kind != "" {
		found.Kind = kind
	}
	return nil
}
