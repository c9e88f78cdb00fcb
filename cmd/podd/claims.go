package main

import (
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"

	"podd/api"
	"podd/pod"
)

// claimObjects are the claims with their status and, where their volume can be
// measured, what it holds.
func (a *agent) claimObjects() []*v1.PersistentVolumeClaim {
	list := a.claims.Bound().Claims()
	for _, c := range list {
		if bound, ok := a.claims.Bound().Claim(pod.Key{Namespace: c.Namespace, Name: c.Name}); ok && bound.Volume != nil {
			a.annotateUse(bound.Volume, &c.Annotations)
		}
	}
	return list
}

// volumeObjects are the volumes, those that were made too, in the same way.
func (a *agent) volumeObjects() []*v1.PersistentVolume {
	list := a.claims.Bound().Volumes()
	for _, v := range list {
		a.annotateUse(v, &v.Annotations)
	}
	return list
}

func (a *agent) annotateUse(v *v1.PersistentVolume, annotations *map[string]string) {
	u, measured := a.meter.PersistentVolume(v)
	if !measured {
		return
	}
	if *annotations == nil {
		*annotations = map[string]string{}
	}
	(*annotations)[api.AnnotationUsed] = strconv.FormatUint(u.UsedBytes, 10)
}

// usesClaim says whether a pod that is still there names a claim.
func (a *agent) usesClaim(claim pod.Key) bool {
	pods, _ := a.board.Snapshot()
	return slices.ContainsFunc(pods, func(p *v1.Pod) bool { return slices.Contains(slices.Collect(pod.ClaimsOf(p)), claim) })
}
