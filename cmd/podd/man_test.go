package main

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// TestManPages writes a manual page for every command, into the directory that
// PODD_MAN_DIR names if `make install` wants them. They are made here because
// what makes them has no place in the program.
func TestManPages(t *testing.T) {
	dir := cmp.Or(os.Getenv("PODD_MAN_DIR"), t.TempDir())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root := newRootCommand()
	root.DisableAutoGenTag = true
	if err := doc.GenManTree(root, &doc.GenManHeader{Title: "PODD", Section: "1", Source: "podd", Manual: "podd"}, dir); err != nil {
		t.Fatal(err)
	}
	pages := 0
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		page := filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".1")
		text, err := os.ReadFile(page)
		if err != nil {
			t.Error(err)
		}
		// Roff escapes the dashes that we look for.
		if short := strings.ReplaceAll(c.Short, "-", `\-`); short == "" || !strings.Contains(string(text), short) && !strings.Contains(string(text), c.Short) {
			t.Errorf("%s does not say %q", page, c.Short)
		}
		pages++
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				visit(sub)
			}
		}
	}
	visit(root)
	if pages < 10 {
		t.Errorf("%d pages", pages)
	}
}
