package rest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
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

const applyPatch = "application/apply-patch+yaml"

func TestServerSideApply(t *testing.T) {
	s := newServer(t, nil)
	path := configMapsPath + "/web"
	apply := func(manager, body string, more ...string) reply {
		t.Helper()
		return do(t, s, "PATCH", path+"?fieldManager="+manager+strings.Join(more, ""), "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: web\n"+body, "Content-Type", applyPatch)
	}
	do(t, s, "PATCH", path, "metadata: {name: web}", "Content-Type", applyPatch).wantStatus(t, 422, "Invalid", "fieldManager: Required value: is required for apply patch")
	apply("a", "data: {x: '1'}\n", "&dryRun=All").want(t, 201)
	do(t, s, "GET", path, nil).wantStatus(t, 404, "NotFound", "")
	made := apply("a", "data: {x: '1'}\n").want(t, 201, "data.x", "1", "metadata.managedFields.0.manager", "a", "metadata.managedFields.0.operation", "Apply",
		"metadata.managedFields.0.fieldsV1.f:data.f:x", "{}")
	apply("a", "data: {x: '1'}\n").want(t, 200, "metadata.resourceVersion", made.at("metadata.resourceVersion"))
	conflict := apply("b", "data: {x: '2', z: '1'}\n")
	conflict.wantStatus(t, 409, "Conflict", `Apply failed with 1 conflict: conflict with "a": .data.x`)
	conflict.want(t, 409, "details.causes.0.reason", "FieldManagerConflict", "details.causes.0.field", ".data.x")
	apply("b", "data: {x: '2', z: '1'}\n", "&force=true").want(t, 200, "data.x", "2", "data.z", "1")
	apply("b", "data: {z: '1'}\n").want(t, 200, "data.x", "-", "data.z", "1")
	apply("b", "  resourceVersion: '1'\n").wantStatus(t, 409, "Conflict", "")
	apply("b", "data: {a/b: '1'}\n").wantStatus(t, 422, "Invalid", "data[a/b]: Invalid value")
	do(t, s, "PATCH", configMapsPath+"/other?fieldManager=a", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n", "Content-Type", applyPatch).
		wantStatus(t, 400, "BadRequest", "does not match the name on the URL")
}

func TestWritesNoteTheirManager(t *testing.T) {
	s := newServer(t, nil)
	path := configMapsPath + "/web"
	do(t, s, "POST", configMapsPath, configMapNamed("web", "a", "1"), "User-Agent", "kubectl/v1.37.2 (linux)").want(t, 201,
		"metadata.managedFields.0.manager", "kubectl", "metadata.managedFields.0.operation", "Update", "metadata.managedFields.0.fieldsV1.f:data.f:a", "{}")
	do(t, s, "PUT", path+"?fieldManager=editor", configMapNamed("web", "a", "2")).want(t, 200,
		"metadata.managedFields.0.manager", "editor", "metadata.managedFields.0.fieldsV1.f:data.f:a", "{}")
	changed := do(t, s, "PATCH", path+"?fieldManager=patcher", `{"data":{"b":"1"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
	if !strings.Contains(changed.at("metadata.managedFields"), `"manager":"patcher"`) || !strings.Contains(changed.at("metadata.managedFields"), `"manager":"editor"`) {
		t.Errorf("managed by %s", changed.at("metadata.managedFields"))
	}
	do(t, s, "PUT", path+"?fieldManager=patcher", string(changed.body)).want(t, 200, "metadata.resourceVersion", changed.at("metadata.resourceVersion"))
	do(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"name":"new"}}`).want(t, 201)
	status := do(t, s, "PATCH", "/api/v1/namespaces/new/status?fieldManager=s", `{"status":{"conditions":[{"type":"x","status":"True"}]}}`, "Content-Type", "application/strategic-merge-patch+json").want(t, 200)
	if !strings.Contains(status.at("metadata.managedFields"), `"subresource":"status"`) {
		t.Errorf("managed by %s", status.at("metadata.managedFields"))
	}
}

func TestApplyCreatesOnlyForWhoMayCreate(t *testing.T) {
	const applyPatch, web = "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: web%s}}"
	path := configMapsPath + "/web?fieldManager=one"
	s := newServer(t, func(c *Config) {
		c.Allowed = func(_ context.Context, q Request) error {
			if q.Verb == "create" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: q.Resource}, q.Name, errors.New("no"))
			}
			return nil
		}
	})
	do(t, s, "PATCH", path, fmt.Sprintf(web, ""), "Content-Type", applyPatch).wantStatus(t, 403, "Forbidden", `configmaps "web" is forbidden: no`)
	s = newServer(t, nil)
	do(t, s, "PATCH", path, fmt.Sprintf(web, ", uid: x"), "Content-Type", applyPatch).wantStatus(t, 409, "Conflict", "uid mismatch")
	do(t, s, "PATCH", path, fmt.Sprintf(web, ""), "Content-Type", applyPatch).want(t, 201, "metadata.managedFields", "-")
}
