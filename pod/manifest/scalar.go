package manifest

import (
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
)

// kind is what a YAML value is, in the words of a manifest's author.
type kind int

const (
	nothing kind = iota
	text
	truth
	whole    // a whole number
	fraction // any other number
	list
	mapping
	foreign // a tag that JSON has no counterpart for
)

// plainWords are the unquoted scalars that are not text. Kubernetes' tools
// read YAML 1.1, where yes and on are booleans; what runs here must mean the
// same there. Source: the resolver of go.yaml.in/yaml/v2, behind sigs.k8s.io/yaml.
var plainWords = map[string]kind{
	"": nothing, "~": nothing, "null": nothing, "Null": nothing, "NULL": nothing,
	"true": truth, "True": truth, "TRUE": truth, "false": truth, "False": truth, "FALSE": truth,
	"yes": truth, "Yes": truth, "YES": truth, "no": truth, "No": truth, "NO": truth,
	"y": truth, "Y": truth, "n": truth, "N": truth,
	"on": truth, "On": truth, "ON": truth, "off": truth, "Off": truth, "OFF": truth,
}

var (
	plainNumber = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
	infinite    = regexp.MustCompile(`^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
)

// kindOf tells what n is. n is not an alias.
func kindOf(n *yaml.Node) kind {
	switch n.Kind {
	case yaml.SequenceNode:
		return list
	case yaml.MappingNode:
		return mapping
	case yaml.ScalarNode:
	default:
		return foreign
	}
	tagged := n.Style&yaml.TaggedStyle != 0
	if tagged {
		switch n.ShortTag() {
		case "!!str", "!":
			return text
		case "!!int", "!!float", "!!bool", "!!null":
			// The value must look like its tag; kindOfPlain decides.
		default:
			return foreign
		}
	} else if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return text
	}
	k := kindOfPlain(n.Value)
	if tagged && k == text {
		return foreign
	}
	return k
}

func kindOfPlain(s string) kind {
	if k, ok := plainWords[s]; ok {
		return k
	}
	switch c := s[0]; {
	case c == '.':
		if plainNumber.MatchString(s) || infinite.MatchString(s) {
			return fraction
		}
		// What strconv reads as a number is one, such as .5_0.
		if _, err := strconv.ParseFloat(s, 64); err == nil {
			return fraction
		}
	case c == '+' || c == '-' || c >= '0' && c <= '9':
		if infinite.MatchString(s) {
			return fraction
		}
		plain := strings.ReplaceAll(s, "_", "")
		if _, err := strconv.ParseInt(plain, 0, 64); err == nil {
			return whole
		}
		if _, err := strconv.ParseUint(plain, 0, 64); err == nil {
			return whole
		}
		if plainNumber.MatchString(plain) {
			if _, err := strconv.ParseFloat(plain, 64); err == nil {
				return fraction
			}
		}
	}
	return text
}

// truthOf reads a scalar of kind truth.
func truthOf(s string) bool {
	switch strings.ToLower(s) {
	case "true", "yes", "y", "on":
		return true
	}
	return false
}

// wholeOf reads a scalar of kind whole or fraction as a whole number.
func wholeOf(s string) (int64, bool) {
	plain := strings.ReplaceAll(s, "_", "")
	if i, err := strconv.ParseInt(plain, 0, 64); err == nil {
		return i, true
	}
	f, err := strconv.ParseFloat(plain, 64)
	if err != nil || f != float64(int64(f)) || f > 1<<53 || f < -(1<<53) {
		return 0, false
	}
	return int64(f), true
}

// quantityForm keeps exponents small: the arithmetic of quantities takes time
// and memory in proportion to 10^exponent.
var quantityForm = regexp.MustCompile(`^[-+]?[0-9.]{1,48}([eE][-+]?[0-9]{1,2}|[A-Za-z]{0,2})$`)

// quantityOf reads a scalar of kind text, whole or fraction.
func quantityOf(s string, k kind) (resource.Quantity, bool) {
	switch k {
	case whole:
		i, ok := wholeOf(s)
		if !ok {
			return resource.Quantity{}, false
		}
		s = strconv.FormatInt(i, 10)
	case fraction:
		f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
		if err != nil {
			return resource.Quantity{}, false
		}
		s = strconv.FormatFloat(f, 'g', -1, 64)
	}
	if !quantityForm.MatchString(s) {
		return resource.Quantity{}, false
	}
	q, err := resource.ParseQuantity(s)
	return q, err == nil
}

// found says what a value is, for the end of a message. n is not an alias.
func found(n *yaml.Node) string {
	switch kindOf(n) {
	case nothing:
		return "nothing"
	case text:
		return quoted(n.Value)
	case list:
		return "a list"
	case mapping:
		return "a set of fields"
	case foreign:
		if n.Kind == yaml.ScalarNode && n.Tag != "" {
			return "a value with the tag " + printable(shortened(n.Tag))
		}
		return "a value that JSON does not know"
	default:
		return printable(shortened(n.Value))
	}
}

// quoted is s in quotes, short enough for one line.
func quoted(s string) string { return strconv.Quote(shortened(s)) }

func shortened(s string) string {
	const longest = 60
	r := []rune(s[:min(len(s), 4*longest+4)])
	if len(r) <= longest {
		return string(r)
	}
	return string(r[:longest]) + "…"
}

// nearest returns the name that was probably meant, or "".
func nearest(given string, names []string) string {
	best, least := "", 1+max(1, len(given)/3)
	if len(given) > 64 {
		return ""
	}
	for _, name := range names {
		if strings.EqualFold(given, name) {
			return name
		}
		if d := distance(strings.ToLower(given), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the letters to insert, remove, change or swap with their
// neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
