package manifest

import (
	"bytes"
	"os"
	"testing"
)

// docs/pod-fields.md is what [WriteTable] writes. After a change of [Fields]:
// PODD_UPDATE_DOCS=1 go test -run TestFieldTable ./pod/manifest
func TestFieldTableInTheDocumentationIsTheLoaders(t *testing.T) {
	const file = "../../docs/pod-fields.md"
	var want bytes.Buffer
	if err := WriteTable(&want); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("PODD_UPDATE_DOCS") != "" {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what the loader says; write it anew with PODD_UPDATE_DOCS=1", file)
	}
}
