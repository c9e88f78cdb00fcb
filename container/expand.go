package container

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// expand replaces $(NAME) by value(NAME). A name that value does not know, an
// unclosed $( and a $ before anything else stay as they are; $$ becomes $, so
// that $$(NAME) yields $(NAME). What was put in is not expanded again.
// Source: Kubernetes docs, "Define Dependent Environment Variables".
func expand(text string, value func(name string) (string, bool)) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		text = after
		switch {
		case strings.HasPrefix(after, "$"):
			b.WriteByte('$')
			text = after[1:]
		case strings.HasPrefix(after, "("):
			name, rest, closed := strings.Cut(after[1:], ")")
			if !closed {
				b.WriteString("$(")
				text = after[1:]
				continue
			}
			if v, ok := value(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			text = rest
		default:
			b.WriteByte('$')
		}
	}
}

func expandAll(texts []string, value func(name string) (string, bool)) []string {
	expanded := make([]string, 0, len(texts))
	for _, t := range texts {
		expanded = append(expanded, expand(t, value))
	}
	return expanded
}

// ExpandProbeCommand expands $(NAME) in an exec probe's command. Unlike a
// container's own command it sees the values of the container's env as they
// are written: not expanded themselves, nothing for valueFrom, no envFrom.
// (The commands of lifecycle hooks are not expanded at all.)
func ExpandProbeCommand(c *v1.Container, command []string) []string {
	written := map[string]string{}
	for _, e := range c.Env {
		written[e.Name] = e.Value
	}
	return expandAll(command, func(name string) (string, bool) {
		v, ok := written[name]
		return v, ok
	})
}

// ExpandSubPath expands a volume mount's subPathExpr from a container's
// environment, which is [Env]'s. A variable that is not set or empty is an
// error. The result is as trustworthy as the pod: it may still be absolute or
// contain "..".
func ExpandSubPath(expr string, env []string) (string, error) {
	set := map[string]string{}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		set[name] = value
	}
	missing := map[string]bool{}
	path := expand(expr, func(name string) (string, bool) {
		v := set[name]
		if v == "" {
			missing[name] = true
		}
		return v, true
	})
	if len(missing) > 0 {
		return "", &ConfigError{ReasonConfig, fmt.Errorf("missing value for %s",
			strings.Join(slices.Sorted(maps.Keys(missing)), ", "))}
	}
	return path, nil
}
