package claims

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// misplaced says why a volume cannot be used on the node, "" if it can.
func misplaced(v *v1.PersistentVolume, n Node) string {
	a := v.Spec.NodeAffinity
	if a == nil || a.Required == nil {
		return ""
	}
	var missed []string
	for _, term := range a.Required.NodeSelectorTerms {
		why, matches := n.matches(term)
		if matches {
			return ""
		}
		missed = append(missed, why)
	}
	return "its nodeAffinity is for other nodes: " + strings.Join(missed, " or ")
}

// matches says whether a term holds for the node, and what of it does not.
// An empty term matches no node.
// Source: API reference of NodeSelectorTerm v1.
func (n Node) matches(term v1.NodeSelectorTerm) (missed string, ok bool) {
	if len(term.MatchExpressions)+len(term.MatchFields) == 0 {
		return "an empty term", false
	}
	for _, r := range term.MatchExpressions {
		value, has := n.Labels[r.Key]
		if !meets(r, value, has) {
			return text(r, value, has), false
		}
	}
	for _, r := range term.MatchFields {
		if value := n.Name; r.Key != "metadata.name" || !meets(r, value, true) {
			return text(r, value, r.Key == "metadata.name"), false
		}
	}
	return "", true
}

// meets says whether a value, if the node has it, meets a requirement.
func meets(r v1.NodeSelectorRequirement, value string, has bool) bool {
	switch r.Operator {
	case v1.NodeSelectorOpIn:
		return has && slices.Contains(r.Values, value)
	case v1.NodeSelectorOpNotIn:
		return !has || !slices.Contains(r.Values, value)
	case v1.NodeSelectorOpExists:
		return has
	case v1.NodeSelectorOpDoesNotExist:
		return !has
	case v1.NodeSelectorOpGt, v1.NodeSelectorOpLt:
		if !has || len(r.Values) != 1 {
			return false
		}
		x, err := strconv.ParseInt(value, 10, 64)
		y, err2 := strconv.ParseInt(r.Values[0], 10, 64)
		return err == nil && err2 == nil && (r.Operator == v1.NodeSelectorOpGt && x > y || r.Operator == v1.NodeSelectorOpLt && x < y)
	}
	return false
}

func text(r v1.NodeSelectorRequirement, value string, has bool) string {
	found := "this node has none"
	if has {
		found = "this node has " + strconv.Quote(value)
	}
	if len(r.Values) == 0 {
		return fmt.Sprintf("%s %s (%s)", r.Key, r.Operator, found)
	}
	return fmt.Sprintf("%s %s %s (%s)", r.Key, r.Operator, strings.Join(r.Values, ", "), found)
}
