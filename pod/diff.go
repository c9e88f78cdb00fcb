package pod

import (
	"context"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Outcome is what a manifest would do, if it took its place in the watched
// directory.
type Outcome struct {
	// New says that there is no such pod; it would be started.
	New bool `json:"new,omitempty"`
	// Difference is empty when nothing would happen.
	Difference `json:"difference"`
}

// Diff says what each of the manifests would do. Nothing is changed.
func (m *Manager) Diff(ctx context.Context, all []Desired) ([]Outcome, error) {
	outcomes := make([]Outcome, len(all))
	err := m.call(ctx, func() {
		for i, d := range all {
			s := m.slots[d.Key]
			if s == nil {
				outcomes[i].New = true
				continue
			}
			was := s.want
			if s.ending {
				// The pod that ends makes room for another one anyway.
				if s.next == nil {
					outcomes[i].New = true
					continue
				}
				was = *s.next
			}
			outcomes[i].Difference = m.compare(was, d)
		}
	})
	return outcomes, err
}

// compare is [Compare] for a pod that there is: one that has run to its end has
// nothing that could follow a change.
func (m *Manager) compare(was, d Desired) Difference {
	c := Compare(was, d)
	if p, shown := m.config.Board.Get(d.Key); c.InPlace() && shown && (p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed) {
		for _, f := range append(c.Images, c.Resources...) {
			f.Why = "the pod has run to its end"
			c.Recreate = append(c.Recreate, f)
		}
		c.Images, c.Resources = nil, nil
	}
	return c
}

// Restarts says of a changed image or of changed resources whether the container
// restarts for them if it runs: for resources as its resizePolicy in the new
// manifest asks. An init container that is no sidecar never does.
func (f FieldChange) Restarts(pod *v1.Pod) bool {
	c := containerNamed(pod, f.Container)
	if c == nil || strings.HasPrefix(f.Path, "spec.initContainers") && !isSidecar(c) {
		return false
	}
	if strings.HasSuffix(f.Path, ".image") {
		return true
	}
	for _, policy := range c.ResizePolicy {
		name := string(policy.ResourceName)
		// All limits or requests at once are shown as JSON.
		if policy.RestartPolicy == v1.RestartContainer &&
			(strings.HasSuffix(f.Path, "."+name) || strings.Contains(f.Before+f.After, `"`+name+`"`)) {
			return true
		}
	}
	return false
}
