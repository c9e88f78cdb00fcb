// Package patch changes objects as Kubernetes' PATCH does: JSON patches, merge
// patches, strategic merge patches and server-side apply, with the managed
// fields that go with it.
//
// It knows neither HTTP nor the store. What a client can choose is bounded: a
// patch is nested no deeper than an object can be, and merging lists costs no
// more than maxMerge comparisons.
//
// Read first: [Apply], [Validated] and [Fields].
package patch
