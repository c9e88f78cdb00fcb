// Package discovery tells clients what the API serves: /api, /apis and the
// lists below them, aggregated discovery, /openapi and /version.
//
// It serves no objects; who has a new kind adds it to [Served], generates the
// OpenAPI documents again (go generate, see openapi/README.md) and serves it.
// Every document is kept compressed and goes out as it is; nothing changes
// after [New].
//
// Read first: [Resource], [Served] and [New].
package discovery
