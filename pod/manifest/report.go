package manifest

import (
	"fmt"
	"strings"
	"time"

	"podd/pod"
)

// Report is what is wrong with one file, or with the directory.
type Report struct {
	File     string
	Problems []Problem
	// Kept are the objects that stay in force in a version that the file no
	// longer holds: pods first, each kind sorted by namespace and name.
	Kept []Kept
}

// Kept is an object whose manifest is no longer in its file.
type Kept struct {
	Kind string // Pod, ConfigMap or Secret
	Key  pod.Key
	// Loaded is when the manifest was read; zero: before the agent's start.
	Loaded time.Time
}

// Refused says that something of the file is not loaded as it is written.
func (r Report) Refused() bool { return errorsIn(r.Problems) > 0 }

// Summary is the last line about a file, such as
//
//	manifests/web.yaml: 4 problems; pod default/web keeps running as loaded at 14:02:11
func (r Report) Summary() string {
	problems := errorsIn(r.Problems)
	n, what := problems, "problem"
	if problems == 0 {
		n, what = len(r.Problems), "warning"
	}
	if n != 1 {
		what += "s"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d %s", printable(r.File), n, what)
	for _, k := range r.Kept {
		what := "stays"
		if k.Kind == "Pod" {
			what = "keeps running"
		}
		fmt.Fprintf(&b, "; %s %s as loaded ", idText(pod.SourceID{Kind: k.Kind, Key: k.Key}), what)
		if k.Loaded.IsZero() {
			b.WriteString("before this start")
		} else {
			b.WriteString("at " + k.Loaded.Format(time.TimeOnly))
		}
	}
	return b.String()
}
