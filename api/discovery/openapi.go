package discovery

import (
	"embed"
	"io"
	"io/fs"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:generate go run ./generate openapi

// documents are read from the executable when they are asked for; none stays
// in memory.
//
//go:embed openapi/*
var documents embed.FS

// openAPI finds the OpenAPI v3 document of a group and version.
func openAPI(gv schema.GroupVersion) (open func() document, ok bool) {
	name := "openapi/" + strings.ReplaceAll(pathOf(gv), "/", "__") + ".json.gz"
	if _, err := fs.Stat(documents, name); err != nil {
		return nil, false
	}
	gz := func() io.Reader {
		f, err := documents.Open(name)
		if err != nil {
			panic(err) // it was there
		}
		return f
	}
	return func() document {
		return document{contentType: "application/json", etag: etagOf(gz()), gz: gz}
	}, true
}
