package rest

import (
	"strings"
	"testing"
)

func TestPatches(t *testing.T) {
	s := newServer(t, nil)
	path := configMapsPath + "/web"
	const jsonPatch, mergePatch, strategic = "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"
	patch := func(path, media, body string) reply {
		t.Helper()
		return do(t, s, "PATCH", path, body, "Content-Type", media)
	}
	patch(path, mergePatch, `{}`).wantStatus(t, 404, "NotFound", `configmaps "web" not found`)
	do(t, s, "POST", configMapsPath, configMapNamed("web", "a", "1", "b", "2")).want(t, 201)
	patch(path, mergePatch, `{"data":{"a":null,"c":"3"}}`).want(t, 200, "kind", "ConfigMap", "data.a", "-", "data.b", "2", "data.c", "3")
	patch(path, jsonPatch, `[{"op":"replace","path":"/data/b","value":"4"}]`).want(t, 200, "data.b", "4")
	last := patch(path, strategic, `{"metadata":{"labels":{"app":"web"}}}`).want(t, 200, "metadata.labels.app", "web")
	version := last.at("metadata.resourceVersion")
	patch(path, strategic, `{"metadata":{"labels":{"app":"web"}}}`).want(t, 200, "metadata.resourceVersion", version)
	patch(path+"?dryRun=All", strategic, `{"metadata":{"labels":{"app":"dry"}}}`).want(t, 200, "metadata.labels.app", "dry")
	do(t, s, "GET", path, nil).want(t, 200, "metadata.labels.app", "web", "metadata.resourceVersion", version)

	patch(path, mergePatch, `{"metadata":{"resourceVersion":"1"}}`).wantStatus(t, 409, "Conflict", "the object has been modified")
	patch(path, mergePatch, `{"metadata":{"resourceVersion":"`+version+`"},"data":{"d":"5"}}`).want(t, 200, "data.d", "5")
	patch(path, mergePatch, `{"metadata":{"name":"other"}}`).wantStatus(t, 400, "BadRequest", "does not match the name on the URL")
	patch(path, mergePatch, `{"metadata":{"uid":"other"}}`).wantStatus(t, 409, "Conflict", "Precondition failed")
	patch(path, mergePatch, `{"data":{"a/b":"x"}}`).wantStatus(t, 422, "Invalid", "data[a/b]: Invalid value")
	patch(path, mergePatch, `{`).wantStatus(t, 400, "BadRequest", "error decoding patch")
	patch(path, mergePatch, `{"data":{"x":"`+strings.Repeat("x", maxBody)+`"}}`).wantStatus(t, 413, "RequestEntityTooLarge", "limit is 3145728")
	patch(path, "application/json", `{}`).wantStatus(t, 415, "UnsupportedMediaType", "accepted media types include: application/json-patch+json, application/merge-patch+json")
	patch(path+"?force=true", mergePatch, `{}`).wantStatus(t, 422, "Invalid", "force: Forbidden: may not be specified for non-apply patch")
	patch(path+"?fieldValidation=Strict", mergePatch, `{"dta":{}}`).wantStatus(t, 422, "Invalid", `strict decoding error: unknown field "dta"`)
	if got := patch(path, mergePatch, `{"dta":{}}`).want(t, 200).header.Get("Warning"); got != `299 - "unknown field \"dta\""` {
		t.Errorf("warning %q", got)
	}
	patch("/api/v1/namespaces/default/status", mergePatch, `{"metadata":{"annotations":{"a":"b"}},"spec":{"finalizers":[]},"status":{"conditions":[{"type":"x","status":"True"}]}}`).
		want(t, 200, "metadata.annotations.a", "b", "spec.finalizers", `["kubernetes"]`, "status.conditions.0.type", "x", "status.phase", "Active")
	patch("/api/v1/namespaces/default", mergePatch, `{"status":{"phase":"Terminating"}}`).want(t, 200, "status.phase", "Active")
}
