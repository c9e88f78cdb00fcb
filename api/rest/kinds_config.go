package rest

import (
	"encoding/json"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
)

func configMapKind() Kind {
	return Kind{
		Resource:            Served("", "configmaps"),
		New:                 func() objects.Object { return &v1.ConfigMap{} },
		UnconditionalUpdate: true,
		Validate:            typedResult(validateConfigMap),
		ValidateUpdate: typed2(func(c, old *v1.ConfigMap) field.ErrorList {
			if old.Immutable == nil || !*old.Immutable {
				return nil
			}
			errs := stillImmutable(c.Immutable)
			if !equality.Semantic.DeepEqual(c.Data, old.Data) {
				errs = append(errs, field.Forbidden(field.NewPath("data"), immutableSet))
			}
			if !equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
				errs = append(errs, field.Forbidden(field.NewPath("binaryData"), immutableSet))
			}
			return errs
		}),
	}
}

const immutableSet = "field is immutable when `immutable` is set"

func stillImmutable(immutable *bool) field.ErrorList {
	if immutable == nil || !*immutable {
		return field.ErrorList{field.Forbidden(field.NewPath("immutable"), immutableSet)}
	}
	return nil
}

func validateConfigMap(c *v1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	total := 0
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		errs = append(errs, validateKey(key, field.NewPath("data"))...)
		if _, twice := c.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		total += len(c.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(c.BinaryData)) {
		errs = append(errs, validateKey(key, field.NewPath("binaryData"))...)
		total += len(c.BinaryData[key])
	}
	if total > v1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", v1.MaxSecretSize))
	}
	return errs
}

// validateKey checks a key of a ConfigMap or Secret: a file's name.
func validateKey(key string, at *field.Path) (errs field.ErrorList) {
	for _, problem := range utilvalidation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(at.Key(key), key, problem))
	}
	return errs
}

func secretKind() Kind {
	return Kind{
		Resource:            Served("", "secrets"),
		New:                 func() objects.Object { return &v1.Secret{} },
		UnconditionalUpdate: true,
		Fields: map[string]func(objects.Object) string{
			"type": typedResult(func(s *v1.Secret) string { return string(s.Type) }),
		},
		Default: typed(func(s *v1.Secret) {
			setDefault(&s.Type, v1.SecretTypeOpaque)
			if len(s.StringData) > 0 && s.Data == nil {
				s.Data = map[string][]byte{}
			}
			for key, text := range s.StringData { // only for writing; see the API reference
				s.Data[key] = []byte(text)
			}
			s.StringData = nil
		}),
		Validate: typedResult(validateSecret),
		ValidateUpdate: typed2(func(s, old *v1.Secret) field.ErrorList {
			errs := validation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))
			if old.Immutable == nil || !*old.Immutable {
				return errs
			}
			errs = append(errs, stillImmutable(s.Immutable)...)
			if !equality.Semantic.DeepEqual(s.Data, old.Data) {
				errs = append(errs, field.Forbidden(field.NewPath("data"), immutableSet))
			}
			return errs
		}),
	}
}

func validateSecret(s *v1.Secret) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("data")
	total := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		errs = append(errs, validateKey(key, at)...)
		total += len(s.Data[key])
	}
	if total > v1.MaxSecretSize {
		errs = append(errs, field.TooLong(at, "", v1.MaxSecretSize))
	}
	require := func(keys ...string) {
		for _, key := range keys {
			if _, given := s.Data[key]; !given {
				errs = append(errs, field.Required(at.Key(key), ""))
			}
		}
	}
	isJSON := func(key string) {
		data, given := s.Data[key]
		if !given {
			errs = append(errs, field.Required(at.Key(key), ""))
		} else if err := json.Unmarshal(data, &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(at.Key(key), "<secret contents redacted>", err.Error()))
		}
	}
	switch s.Type {
	case v1.SecretTypeServiceAccountToken:
		if s.Annotations[v1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(v1.ServiceAccountNameKey), ""))
		}
	case v1.SecretTypeDockercfg:
		isJSON(v1.DockerConfigKey)
	case v1.SecretTypeDockerConfigJson:
		isJSON(v1.DockerConfigJsonKey)
	case v1.SecretTypeBasicAuth:
		_, user := s.Data[v1.BasicAuthUsernameKey]
		_, password := s.Data[v1.BasicAuthPasswordKey]
		if !user && !password {
			require(v1.BasicAuthUsernameKey, v1.BasicAuthPasswordKey)
		}
	case v1.SecretTypeSSHAuth:
		if len(s.Data[v1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(at.Key(v1.SSHAuthPrivateKey), ""))
		}
	case v1.SecretTypeTLS:
		require(v1.TLSCertKey, v1.TLSPrivateKeyKey)
	}
	return errs
}

// The checks below are shared by kinds with ports.

func validatePort(port int32, at *field.Path) (errs field.ErrorList) {
	for _, problem := range utilvalidation.IsValidPortNum(int(port)) {
		errs = append(errs, field.Invalid(at, port, problem))
	}
	return errs
}

func validatePortName(name string, required bool, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		if required {
			errs = append(errs, field.Required(at, ""))
		}
		return errs
	}
	for _, problem := range utilvalidation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(at, name, problem))
	}
	return errs
}

func validateProtocol(protocol v1.Protocol, at *field.Path) field.ErrorList {
	known := []v1.Protocol{v1.ProtocolSCTP, v1.ProtocolTCP, v1.ProtocolUDP}
	switch {
	case protocol == "":
		return field.ErrorList{field.Required(at, "")}
	case !slices.Contains(known, protocol):
		return field.ErrorList{field.NotSupported(at, protocol, known)}
	}
	return nil
}
