package main

import (
	_ "embed"
	"encoding/json"
	"maps"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// metrics is the OpenAPI v2 document of metrics.k8s.io, which is not part of a
// Kubernetes release. It lacks what is defined for all groups.
//
//go:embed metrics.json
var metrics []byte

// swagger is an OpenAPI v2 document, as far as it is looked at.
type swagger struct {
	Swagger             string                     `json:"swagger"`
	Info                json.RawMessage            `json:"info"`
	Paths               map[string]item            `json:"paths"`
	Definitions         map[string]json.RawMessage `json:"definitions"`
	Parameters          map[string]json.RawMessage `json:"parameters,omitempty"`
	SecurityDefinitions json.RawMessage            `json:"securityDefinitions,omitempty"`
	Security            json.RawMessage            `json:"security,omitempty"`
}

// readSwagger reads the document of a Kubernetes release, and adds metrics.
func readSwagger(path string) (*swagger, error) {
	var all, more swagger
	if err := read(path, &all); err != nil {
		return nil, err
	}
	decode(metrics, &more)
	maps.Copy(all.Paths, more.Paths)
	maps.Copy(all.Definitions, more.Definitions)
	return &all, nil
}

// metricsV3 is the document of metrics.k8s.io in version 3, with what is defined
// for all groups.
func (s *swagger) metricsV3() []byte {
	d := swagger{SecurityDefinitions: s.SecurityDefinitions}
	decode(metrics, &d)
	for name, definition := range s.Definitions {
		if strings.HasPrefix(name, "io.k8s.apimachinery.") {
			d.Definitions[name] = definition
		}
	}
	var v2 spec.Swagger
	decode(encode(d), &v2)
	return encode(openapiconv.ConvertV2ToV3(&v2))
}

// protobuf is the document in the encoding that clients ask for.
func (s *swagger) protobuf() ([]byte, error) {
	d, err := openapi_v2.ParseDocument(encode(s))
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(d)
}
