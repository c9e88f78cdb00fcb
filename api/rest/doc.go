// Package rest serves the objects of package objects over HTTP as the
// Kubernetes API does: paths, verbs, bodies and answers in JSON, YAML and
// protobuf, Tables, selectors, paging, watches, dry runs, and the errors that
// clients of Kubernetes know.
//
// What is special about a kind is in its [Kind]: a table of functions and
// facts. [Kinds] has those of the kinds that are only stored. Who may do what,
// what is kept on disk and what happens to a pod are hooks of [Config] and
// [Kind]; the package itself owns nothing but the watches it counts.
//
// Everything a client can choose is bounded: the size and the time of a body,
// how many are read at once, the number of watches, and how long an answer may
// wait for its reader.
//
// Source of the behaviour: the Kubernetes API concepts page
// (https://kubernetes.io/docs/reference/using-api/api-concepts/) and the API
// reference of each kind.
//
// Read first: [Config], [Kind] and [Server.ServeHTTP].
package rest
