package manifest

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"podd/pod"
	"podd/pod/claims"
)

// loadedSource is a good version of an object beside the pods.
type loadedSource struct {
	source pod.Source
	at     time.Time // zero: before the agent's start
	// kept says that the file no longer holds this version.
	kept bool
}

// combineSources is [combine] for the objects beside the pods.
func combineSources(all []loadedSource) (set map[pod.SourceID]loadedSource, clashes []clash) {
	slices.SortStableFunc(all, func(a, b loadedSource) int {
		return compareOrigins(a.source.Origin, b.source.Origin, a.kept, b.kept)
	})
	set = map[pod.SourceID]loadedSource{}
	for _, l := range all {
		id := l.source.ID()
		if first, given := set[id]; !given {
			set[id] = l
		} else if !l.kept {
			clashes = append(clashes, clash{id, l.source.Origin, first.source.Origin})
		}
	}
	return set, clashes
}

// attachSources gives each pod the ConfigMaps, Secrets and claims that it names.
func attachSources(pods []pod.Desired, sources map[pod.SourceID]loadedSource, bound claims.Bound) {
	for i := range pods {
		pods[i].Sources = pod.SourcesOf(pods[i].Pod, func(id pod.SourceID) (pod.Source, bool) {
			l, found := sources[id]
			return l.source, found
		}, func(key pod.Key) (pod.Claim, bool) {
			c, found := bound.Claim(key)
			return pod.Claim{Claim: c.Claim, Volume: c.Volume, Message: c.Message}, found
		})
	}
}

// toBind lists the claims and volumes among sources, and says which claims a pod
// names.
func toBind(pods []pod.Desired, sources map[pod.SourceID]loadedSource) claims.Input {
	used := map[claims.Key]bool{}
	for _, d := range pods {
		for key := range pod.ClaimsOf(d.Pod) {
			used[key] = true
		}
	}
	in := claims.Input{Used: func(key claims.Key) bool { return used[key] }}
	for _, l := range sourceList(sources) {
		switch {
		case l.Claim != nil:
			in.Claims = append(in.Claims, l.Claim)
		case l.Volume != nil:
			in.Volumes = append(in.Volumes, l.Volume)
		}
	}
	return in
}

// takeSources is the part of [file.take] that is about the objects beside the pods.
// It returns problems of its own.
func (f *file) takeSources(r Result, now time.Time) []Problem {
	var problems []Problem
	next := map[pod.SourceID]loadedSource{}
	for _, s := range r.Sources {
		id := s.ID()
		last, known := f.sources[id]
		l := loadedSource{source: s, at: now}
		switch {
		case known && sameSource(last.source, s):
			l.at = last.at
			if last.source.Origin == s.Origin {
				l.source = last.source // the same version, also by its address
			}
		case known && isImmutable(last.source) && !sameContent(last.source, s):
			problems = append(problems, Problem{File: s.Origin.File, Line: s.Origin.Line, Column: 1, Field: "immutable",
				Message: fmt.Sprintf("%s is immutable and is not changed; remove it first, or give it another name", id)})
			last.kept = true
			l = last
		}
		next[id] = l
	}
	for id, last := range f.sources {
		broken := r.Unknown > 0
		for i := range r.Objects {
			o := &r.Objects[i]
			broken = broken || o.Key == id.Key && o.broken(id.Kind)
		}
		if _, fresh := next[id]; !fresh && broken {
			last.kept = true
			next[id] = last
		}
	}
	f.sources = next
	return problems
}

func sameSource(a, b pod.Source) bool {
	_, x := a.Object()
	_, y := b.Object()
	return equality.Semantic.DeepEqual(x, y)
}

// sameContent compares what an immutable object may not change.
func sameContent(a, b pod.Source) bool {
	if a.ConfigMap != nil {
		return isImmutable(b) && equality.Semantic.DeepEqual(a.ConfigMap.Data, b.ConfigMap.Data) &&
			equality.Semantic.DeepEqual(a.ConfigMap.BinaryData, b.ConfigMap.BinaryData)
	}
	return isImmutable(b) && a.Secret.Type == b.Secret.Type && equality.Semantic.DeepEqual(a.Secret.Data, b.Secret.Data)
}

func isImmutable(s pod.Source) bool {
	immutable := s.ConfigMap != nil && s.ConfigMap.Immutable != nil && *s.ConfigMap.Immutable
	return immutable || s.Secret != nil && s.Secret.Immutable != nil && *s.Secret.Immutable
}

// readableSecret warns of a file that shows a Secret to others than its owner.
func readableSecret(r Result, mode fs.FileMode) []Problem {
	const others = 0o044
	var problems []Problem
	for _, s := range r.Sources {
		if mode&others != 0 && s.Secret != nil && len(s.Secret.Data) > 0 && !IsSealed(s.Secret) {
			problems = append(problems, Problem{File: s.Origin.File, Line: s.Origin.Line, Column: 1, Warning: true,
				Message: fmt.Sprintf("others than root can read %s here: the file's mode is %04o; chmod it to 0600", s, mode.Perm())})
		}
	}
	return problems
}

// sourceList is a set of sources in the order of their names.
func sourceList(set map[pod.SourceID]loadedSource) []pod.Source {
	list := make([]pod.Source, 0, len(set))
	for _, id := range slices.SortedFunc(maps.Keys(set), compareSourceIDs) {
		list = append(list, set[id].source)
	}
	return list
}

func compareSourceIDs(a, b pod.SourceID) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
}

func sameSourceList(a, b []pod.Source) bool {
	return slices.EqualFunc(a, b, func(a, b pod.Source) bool {
		return a == b
	})
}
