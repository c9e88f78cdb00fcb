// Package declared joins the objects of the API with the pods that run.
//
// What the API makes is kept as files of the form that users write, one object a
// file, below the root directory ([Files]); what pods are made of comes in through
// pod/manifest's loader from there. What runs and what users' files declare is shown
// in the store of package objects ([Keeper.Run]): pods as the board has them, ConfigMaps,
// Secrets and claims, and events. [Keeper.Kind] is what is special about the kind Pod.
//
// A file is written before anybody acts on it, so an agent that is killed at any
// moment finds what it was about to do. What a file of the user's declares belongs to
// that file: the API does not change it.
//
// The package serves no HTTP and owns no pod: package rest does the one, the manager's
// workers the other.
//
// An agent tells a [Keeper] what happens: pod.Config.Ended is [Keeper.Ended],
// pod.EventStore.Tell is [Keeper.Event], and manifest.Config has [Keeper.Sources] as
// Keep and [Keeper.Bound] around Bind. It calls [Keeper.Load] once the manager's pods
// are on the board, then [Keeper.Run], and serves package rest with
// [Keeper.AdmitRequest] and [Keeper.Persist].
//
// Read first: [Files], [Keeper.Persist], [Keeper.Run] and [Keeper.Kind].
package declared
