package discovery

import (
	"embed"
	"io"
	"io/fs"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:generate go run ./generate openapi

// documents are read from the executable when they are asked for; none stays
// in memory.
//
//go:embed openapi/*
var documents embed.FS

// mediaOpenAPIv2 is the protobuf of OpenAPI v2: its name, and the one that
// clients ask for, which is no valid media type.
var mediaOpenAPIv2 = []string{
	"application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
	"application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
}

// openAPI finds the OpenAPI v3 document of a group and version.
func openAPI(gv schema.GroupVersion) (open func() document, ok bool) {
	name := strings.ReplaceAll(pathOf(gv), "/", "__") + ".json.gz"
	if _, err := fs.Stat(documents, "openapi/"+name); err != nil {
		return nil, false
	}
	return embedded("application/json", name), true
}

// openAPIv2 is the OpenAPI v2 document of everything served, in the encodings
// that Kubernetes has. Which version it is of, a document says itself.
func openAPIv2() page {
	return page{
		plain:    embedded("application/json", "swagger.json.gz"),
		protobuf: embedded(mediaOpenAPIv2[0], "swagger.pb.gz"),
	}
}

// embedded makes a document of a file when it is first asked for.
func embedded(contentType, name string) func() document {
	gz := func() io.Reader {
		f, err := documents.Open("openapi/" + name)
		if err != nil {
			panic(err) // it is ours
		}
		return f
	}
	return sync.OnceValue(func() document {
		return document{contentType: contentType, etag: etagOf(gz()), gz: gz}
	})
}
