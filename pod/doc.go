// Package pod is the heart of podd: it decides what happens to a pod and when.
//
// It is pure. It imports none of its siblings and touches no kernel, no disk
// and no network; what it wants done it asks of a [Runtime], what it wants
// remembered it gives to a [Store]. One worker per pod owns that pod's
// [Desired] and [Observed]; everything that happens reaches it as a [Fact].
//
//	file → Desired → Decide → Action → kernel → Fact → Observed → Status → readers
//
// Read first: [Desired] and [Observed] (pod.go), [Decide] (decide.go) and
// [Apply] (fact.go).
package pod
