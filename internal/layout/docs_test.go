package layout

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest = regexp.MustCompile("`(Test[A-Za-z0-9]+)(/[a-z-]+)?`")
	testFunc  = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`)
)

// A page that says which test shows a promise must not outlive the test.
func TestPagesNameTestsThatExist(t *testing.T) {
	const repository = "../.."
	tests := map[string]bool{}
	pages := map[string]string{}
	err := filepath.WalkDir(repository, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != repository {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") && filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Ext(path) == ".md" {
			pages[path] = string(text)
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(text), -1) {
			tests[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for path, text := range pages {
		for _, m := range namedTest.FindAllStringSubmatch(text, -1) {
			named++
			script := filepath.Join(repository, "e2e/testdata"+m[2]+".txtar")
			if !tests[m[1]] {
				t.Errorf("%s names %s, which does not exist", path, m[1])
			} else if _, err := os.Stat(script); m[1] == "TestScripts" && m[2] != "" && err != nil {
				t.Errorf("%s names script %s: %v", path, m[2], err)
			}
		}
	}
	if named == 0 {
		t.Error("no page names a test: this looks in the wrong place")
	}
}
