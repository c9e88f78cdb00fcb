package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Problem is one thing to tell the author of a manifest.
type Problem struct {
	File string
	// Line and Column count from 1. Line is 0 when the problem is about the
	// file as a whole, Column is 0 when it is not known.
	Line, Column int
	// Field is the path inside the object, such as spec.containers[0].image;
	// empty when the problem is about a document or a file.
	Field string
	// Message says what was expected and what was found.
	Message string
	// Warning marks a field that is accepted and has no meaning here. What is
	// not a warning keeps its object from being loaded.
	Warning bool
}

// String prints the problem as compilers do: file:line:column: field: message.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(printable(p.File))
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
	}
	b.WriteString(": ")
	if p.Warning {
		b.WriteString("warning: ")
	}
	if p.Field != "" {
		b.WriteString(p.Field)
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// printable keeps what others wrote from breaking lines or terminals.
func printable(s string) string {
	clean := func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}
	return strings.Map(clean, s)
}

// inFileOrder sorts problems by place; equal places keep their order.
func inFileOrder(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// errorsIn counts the problems that are not warnings.
func errorsIn(problems []Problem) int {
	n := 0
	for _, p := range problems {
		if !p.Warning {
			n++
		}
	}
	return n
}
