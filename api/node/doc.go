// Package node shows this machine as a Node, says every ten seconds with a Lease
// that it lives, and measures what metrics.k8s.io tells of pods and of the node.
//
// It reads nothing of the machine by itself: what it shows comes in as [Facts]
// and [Load]. What users change of the Node, such as labels, taints and whether it
// takes new pods, stays; labels and status of our own are put right.
//
// Read first: [Describe], [Keeper] and [Meter].
package node
