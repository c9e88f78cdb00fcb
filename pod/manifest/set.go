package manifest

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"podd/pod"
)

// IsManifest says whether a file of this name in a watched directory counts:
// it ends in .yaml, .yml or .json and does not begin with a dot.
func IsManifest(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// loaded is a good version of an object.
type loaded struct {
	desired pod.Desired
	at      time.Time // zero: before the agent's start
	// kept says that the file no longer holds this version.
	kept bool
}

// clash is an object that another file, or an earlier line, gives too.
type clash struct {
	id    pod.SourceID // of kind Pod too
	loser pod.Origin
	first pod.Origin
}

// combine makes one set of what several files hold. What is given twice is taken from
// the first by [compareOrigins]. The set is sorted by namespace and name.
func combine(all []loaded) (set []pod.Desired, clashes []clash) {
	slices.SortStableFunc(all, func(a, b loaded) int {
		return compareOrigins(a.desired.Origin, b.desired.Origin, a.kept, b.kept)
	})
	first := map[pod.Key]pod.Origin{}
	for _, l := range all {
		if origin, given := first[l.desired.Key]; given {
			if !l.kept {
				clashes = append(clashes, clash{pod.SourceID{Kind: "Pod", Key: l.desired.Key}, l.desired.Origin, origin})
			}
			continue
		}
		first[l.desired.Key] = l.desired.Origin
		set = append(set, l.desired)
	}
	slices.SortFunc(set, func(a, b pod.Desired) int {
		return cmp.Or(cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	return set, clashes
}

// compareOrigins says which of two versions of an object counts: the first by path and
// line, but what files still hold before what is only kept, and all files of the user's
// before what the API keeps.
func compareOrigins(a, b pod.Origin, aKept, bKept bool) int {
	return cmp.Or(compareBools(a.API, b.API), compareBools(aKept, bKept), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
}

// compareBools puts false first.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// problem tells the author of the second of two equal names.
func (c clash) problem() Problem {
	return Problem{File: c.loser.File, Line: c.loser.Line, Column: 1, Message: givenTwice(c.id, c.first)}
}
