package pod

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// GatesAnnotation lists, separated by commas, the conditions of a pod's readiness
// gates that hold. It is changed in the pod's file, while the pod runs.
const GatesAnnotation = "podd/readiness-gates"

// reasonAnnotation is the reason of a condition that [GatesAnnotation] names.
const reasonAnnotation = "NamedByAnnotation"

// OpenGates returns what [GatesAnnotation] names, in its order.
func OpenGates(pod *v1.Pod) []string {
	var open []string
	for name := range strings.SplitSeq(pod.Annotations[GatesAnnotation], ",") {
		if name = strings.TrimSpace(name); name != "" {
			open = append(open, name)
		}
	}
	return open
}

// withGates returns the foreign conditions of shown with those of the readiness
// gates as the annotation has them now.
func (s reporter) withGates(shown []v1.PodCondition) []v1.PodCondition {
	if len(s.pod.Spec.ReadinessGates) == 0 {
		return shown
	}
	open := OpenGates(s.pod)
	now := slices.DeleteFunc(slices.Clone(shown), func(c v1.PodCondition) bool {
		return c.Reason == reasonAnnotation && !slices.Contains(open, string(c.Type))
	})
	for _, gate := range s.pod.Spec.ReadinessGates {
		if slices.Contains(open, string(gate.ConditionType)) && condition(now, gate.ConditionType) == nil {
			now = append(now, v1.PodCondition{
				Type: gate.ConditionType, Status: v1.ConditionTrue, Reason: reasonAnnotation,
				LastTransitionTime: seconds(s.now), ObservedGeneration: s.generation,
			})
		}
	}
	return now
}
