package manifest

import (
	"bytes"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const repository = "../.."

// shownBy reads from the tests which fields they show, and returns the tests of
// each field. A test that shows a field fails where the field has no effect. It
// says so itself: a script by lines "# shows: FIELD…" before its first command,
// a Go test by lines "//shows:FIELD…" at the end of its comment.
func shownBy(t *testing.T) map[string][]string {
	t.Helper()
	shown := map[string][]string{}
	shows := func(test, line, prefix string) {
		list, found := strings.CutPrefix(line, prefix)
		for _, field := range strings.Fields(list) {
			if found && !slices.Contains(shown[field], test) {
				shown[field] = append(shown[field], test)
			}
		}
	}
	scripts, err := filepath.Glob(filepath.Join(repository, "e2e/testdata/*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range scripts {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if line != "\n" && !strings.HasPrefix(line, "#") {
				break
			}
			shows("TestScripts/"+strings.TrimSuffix(filepath.Base(file), ".txtar"), line, "# shows: ")
		}
	}
	err = filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != repository {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := goparser.ParseFile(token.NewFileSet(), path, nil, goparser.ParseComments|goparser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			f, isFunc := decl.(*ast.FuncDecl)
			if !isFunc || f.Doc == nil || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			for _, c := range f.Doc.List {
				shows(f.Name.Name, c.Text, "//shows:")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tests := range shown {
		slices.Sort(tests)
	}
	return shown
}

// A field that the loader accepts and no test shows is a promise that nobody
// keeps.
func TestEveryHonouredFieldIsShownByATest(t *testing.T) {
	shown := shownBy(t)
	known := map[string]bool{}
	for _, f := range Fields {
		known[f.Path] = true
		if f.Support == Honoured && len(shown[f.Path]) == 0 {
			t.Errorf("no test shows what %s does", f.Path)
		}
		if f.Support != Honoured && len(shown[f.Path]) > 0 {
			t.Errorf("%s is %s, and %s says to show its effect", f.Path, f.Support, shown[f.Path])
		}
	}
	for field, tests := range shown {
		if !known[field] {
			t.Errorf("%s says to show %s, which is no field", tests, field)
		}
	}
}

// docs/pod-fields.md is what [WriteTable] writes. After a change of [Fields] or of
// what tests show: PODD_UPDATE_DOCS=1 go test -run TestFieldTable ./pod/manifest
func TestFieldTableInTheDocumentationIsTheLoaders(t *testing.T) {
	file := filepath.Join(repository, "docs/pod-fields.md")
	var want bytes.Buffer
	if err := WriteTable(&want, shownBy(t)); err != nil {
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
		t.Errorf("%s is not what the loader and the tests say; write it anew with PODD_UPDATE_DOCS=1", file)
	}
}
