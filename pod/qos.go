package pod

import (
	v1 "k8s.io/api/core/v1"
)

// QOSClass is the pod's quality of service class. Only cpu and memory count.
// Source: Kubernetes docs, "Pod Quality of Service Classes".
func QOSClass(pod *v1.Pod) v1.PodQOSClass {
	if r := pod.Spec.Resources; r != nil {
		return qosOf([]v1.ResourceRequirements{*r})
	}
	var all []v1.ResourceRequirements
	for _, c := range allContainers(pod) {
		all = append(all, c.Resources)
	}
	return qosOf(all)
}

// qosOf judges resource requirements: none anywhere is best effort, the same
// limits and requests everywhere are guaranteed.
func qosOf(all []v1.ResourceRequirements) v1.PodQOSClass {
	requests, limits := v1.ResourceList{}, v1.ResourceList{}
	guaranteed := true
	for _, r := range all {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			addPositive(requests, r.Requests, name)
			if !addPositive(limits, r.Limits, name) {
				guaranteed = false
			}
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return v1.PodQOSBestEffort
	}
	if guaranteed && len(requests) == len(limits) {
		for name, request := range requests {
			if limit := limits[name]; limit.Cmp(request) != 0 {
				return v1.PodQOSBurstable
			}
		}
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

// addPositive adds one resource to a sum and says whether there was any of it.
func addPositive(sum, list v1.ResourceList, name v1.ResourceName) bool {
	quantity, given := list[name]
	if !given || quantity.Sign() <= 0 {
		return false
	}
	total := sum[name]
	total.Add(quantity)
	sum[name] = total
	return true
}
