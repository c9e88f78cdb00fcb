package manifest

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"podd/internal/seal"
	"podd/pod"
)

// onConfigMap is the type that a ConfigMap is decoded into.
type onConfigMap struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metav1.ObjectMeta `json:"metadata"`
	Data       map[string]string `json:"data"`
	BinaryData map[string]string `json:"binaryData"` // base64
	Immutable  *bool             `json:"immutable"`
}

// onSecret is the type that a Secret is decoded into.
type onSecret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metav1.ObjectMeta `json:"metadata"`
	Data       map[string]string `json:"data"` // base64
	StringData map[string]string `json:"stringData"`
	Type       string            `json:"type"`
	Immutable  *bool             `json:"immutable"`
}

// sourceKinds are the kinds of [pod.Source].
var sourceKinds = []string{pod.KindConfigMap, pod.KindSecret, pod.KindClaim, pod.KindVolume}

// isSourceKind says whether an object of this kind is a [pod.Source].
func isSourceKind(kind string) bool { return slices.Contains(sourceKinds, kind) }

// sourceFieldAt is [fieldAt] for ConfigMaps and Secrets, all of whose own fields
// are honoured.
func sourceFieldAt(path string) *Field {
	if path == "metadata" || strings.HasPrefix(path, "metadata.") {
		return fieldAt(path)
	}
	return &Field{Path: path, Support: Honoured}
}

// source decodes and checks an object of a source's kind. It returns nil when the
// object has mistakes.
func (o *object) source(root *yaml.Node, kind string) *pod.Source {
	o.fieldAt, o.isSource, o.secret = sourceFieldAt, true, kind == pod.KindSecret
	s := &pod.Source{Origin: pod.Origin{File: o.file, Line: o.before + root.Line}}
	switch kind {
	case pod.KindConfigMap:
		s.ConfigMap = o.configMap(root)
	case pod.KindSecret:
		s.Secret = o.secretObject(root)
	case pod.KindClaim:
		s.Claim = o.claim(root)
	case pod.KindVolume:
		s.Volume = o.volume(root)
	}
	if errorsIn(o.problems) > 0 {
		return nil
	}
	return s
}

func (o *object) configMap(root *yaml.Node) *v1.ConfigMap {
	var given onConfigMap
	o.decodeStruct(root, reflect.ValueOf(&given).Elem(), "", Honoured)
	m := &v1.ConfigMap{ObjectMeta: o.sourceMeta(given.Metadata), Data: given.Data, Immutable: given.Immutable}
	m.APIVersion, m.Kind = "v1", "ConfigMap"
	m.BinaryData = o.decoded("binaryData", given.BinaryData)
	for _, key := range sortedKeys(given.BinaryData) {
		if _, twice := given.Data[key]; twice {
			o.say(keyed("binaryData", key), "is given in data too")
		}
	}
	size := 0
	for _, key := range sortedKeys(m.Data) {
		o.sourceKey("data", key)
		size += len(m.Data[key])
	}
	for _, key := range sortedKeys(m.BinaryData) {
		o.sourceKey("binaryData", key)
		size += len(m.BinaryData[key])
	}
	o.sourceSize(size)
	return m
}

func (o *object) secretObject(root *yaml.Node) *v1.Secret {
	var given onSecret
	o.decodeStruct(root, reflect.ValueOf(&given).Elem(), "", Honoured)
	s := &v1.Secret{ObjectMeta: o.sourceMeta(given.Metadata), Type: v1.SecretType(given.Type), Immutable: given.Immutable}
	s.APIVersion, s.Kind = "v1", "Secret"
	setDefault(&s.Type, v1.SecretTypeOpaque)
	s.Data = o.decoded("data", given.Data)
	for _, key := range sortedKeys(given.Data) {
		o.sourceKey("data", key)
	}
	if IsSealed(s) {
		if o.open(s, given.StringData); o.unopened || errorsIn(o.problems) > 0 {
			return s
		}
	}
	// What is written in the clear wins, as on a server.
	for _, key := range sortedKeys(given.StringData) {
		o.sourceKey("stringData", key)
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[key] = []byte(given.StringData[key])
	}
	size := 0
	for _, value := range s.Data {
		size += len(value)
	}
	o.sourceSize(size)
	o.secretType(s)
	return s
}

// SealedAnnotation says how the values of a Secret are sealed: "age", the one way
// there is. Its data are age files, and its keys are what they are.
const SealedAnnotation = "podd/sealed"

// IsSealed says whether a Secret's file has its values sealed; an agent has opened
// them.
func IsSealed(s *v1.Secret) bool {
	_, sealed := s.Annotations[SealedAnnotation]
	return sealed
}

// open opens the values of a sealed Secret, all or none. Where nobody can open
// them here it looks at their form only.
func (o *object) open(s *v1.Secret, clear map[string]string) {
	o.oneOf(keyed("metadata.annotations", SealedAnnotation), s.Annotations[SealedAnnotation], "age")
	if len(clear) > 0 {
		o.say("stringData", "expected none in a sealed Secret, where it would not be sealed")
	}
	o.unopened = o.opener == nil
	for _, key := range sortedKeys(s.Data) {
		at := keyed("data", key)
		switch {
		case o.isFailed(at):
		case !seal.IsValue(s.Data[key]):
			o.say(at, "expected a sealed value, as podd secret seal writes it; this one is not sealed")
		case o.opener != nil:
			value, err := o.opener(s.Data[key])
			if err != nil {
				o.unopened = true
				o.say(at, "cannot be opened: %s", err)
			}
			s.Data[key] = value
		}
	}
}

// sourceMeta checks the object's metadata and gives it its namespace.
func (o *object) sourceMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	setDefault(&m.Namespace, metav1.NamespaceDefault)
	o.checkMeta(&m)
	m.Finalizers = nil
	return m
}

const aSourceKey = "letters, digits, '-', '_' and '.', at most 253, other than . and not beginning with .."

func (o *object) sourceKey(field, key string) {
	if len(validation.IsConfigMapKey(key)) > 0 {
		o.say(keyed(field, key), "expected as key %s; found %s", aSourceKey, quoted(key))
	}
}

// maxSourceBytes is how much a ConfigMap or Secret may hold.
// Source: Kubernetes API, MaxSecretSize.
const maxSourceBytes = 1 << 20

func (o *object) sourceSize(size int) {
	if size > maxSourceBytes {
		at := "data"
		if _, given := o.places[at]; !given {
			at = ""
		}
		o.say(at, "expected at most %d bytes in all; found %d", maxSourceBytes, size)
	}
}

// decoded reads values in base64; line ends in them count for nothing.
func (o *object) decoded(field string, texts map[string]string) map[string][]byte {
	if len(texts) == 0 {
		return nil
	}
	all := make(map[string][]byte, len(texts))
	for _, key := range sortedKeys(texts) {
		value, err := base64.StdEncoding.DecodeString(texts[key])
		if err != nil {
			o.say(keyed(field, key), "expected base64; it is none %s", strings.TrimPrefix(err.Error(), "illegal base64 data "))
		}
		all[key] = value
	}
	return all
}

// secretKeys are the keys that a Secret of some types must have, one of them at
// least. Source: Kubernetes API, SecretType.
var secretKeys = map[v1.SecretType][]string{
	v1.SecretTypeDockercfg:        {v1.DockerConfigKey},
	v1.SecretTypeDockerConfigJson: {v1.DockerConfigJsonKey},
	v1.SecretTypeBasicAuth:        {v1.BasicAuthUsernameKey, v1.BasicAuthPasswordKey},
	v1.SecretTypeSSHAuth:          {v1.SSHAuthPrivateKey},
}

func (o *object) secretType(s *v1.Secret) {
	has := func(key string) bool { _, given := s.Data[key]; return given }
	if keys := secretKeys[s.Type]; len(keys) > 0 && !slices.ContainsFunc(keys, has) {
		o.say("data", "expected the key %s in a Secret of type %s", strings.Join(keys, " or "), s.Type)
	}
	if s.Type == v1.SecretTypeTLS {
		for _, key := range []string{v1.TLSCertKey, v1.TLSPrivateKeyKey} {
			if !has(key) {
				o.say("data", "expected the keys tls.crt and tls.key in a Secret of type %s", s.Type)
			}
		}
	}
	for kind, key := range map[v1.SecretType]string{
		v1.SecretTypeDockercfg: v1.DockerConfigKey, v1.SecretTypeDockerConfigJson: v1.DockerConfigJsonKey,
	} {
		if s.Type == kind && has(key) && !json.Valid(s.Data[key]) {
			o.say(keyed("data", key), "expected docker's configuration in JSON")
		}
	}
}
