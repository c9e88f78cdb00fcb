package layout

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed names, for each package, which other packages of this module it may
// import, with the reason. A path ending in /... stands for a whole tree.
// internal/ may be imported by everybody and imports internal/ only.
var allowed = []struct {
	pkg    string
	may    []string
	reason string
}{
	{"pod", nil, "the heart decides and knows nobody who acts"},
	{"pod/claims", nil, "pure: claims and volumes in, bindings out"},
	{"pod/store", []string{"pod", "pod/claims"}, "keeps what the heart wants remembered"},
	{"pod/manifest", []string{"pod", "pod/claims"}, "turns files into Desired"},
	{"pod/runtimetest", []string{"pod"}, "one suite for the fake and the real runtime"},
	{"pod/native", []string{"pod", "pod/claims", "pod/runtimetest", "sandbox", "sandbox/network", "sandbox/cgroup", "container", "container/seccomp", "images", "volumes", "probes", "logs"},
		"the one place that knows the leaves and their order"},
	{"sandbox", []string{"sandbox/wire"}, "translates the OCI spec for the pause process"},
	{"sandbox/pause", []string{"sandbox/wire", "sandbox/stage"}, "the pause process; small on purpose"},
	{"sandbox/stage", []string{"sandbox/wire"}, "a container's steps before execve"},
	{"sandbox/wire", nil, "the protocol between the two"},
	{"sandbox/network", nil, "leaf"},
	{"sandbox/cgroup", nil, "leaf"},
	{"container", []string{"container/seccomp"}, "pure: pod and image in, OCI spec out"},
	{"container/seccomp", nil, "leaf"},
	{"images", nil, "leaf"},
	{"volumes", nil, "leaf"},
	{"probes", nil, "leaf"},
	{"logs", nil, "leaf"},
	{"doctor", nil, "leaf"},
	{"dist", nil, "what is installed beside the programs"},
	{"metrics", []string{"pod"}, "reads snapshots"},
	{"api", []string{"pod", "logs", "api/podlogs", "api/kubelet"}, "reads snapshots; exec passes through the manager"},
	{"api/export", []string{"api/discovery"}, "objects as their author wrote them, for a cluster"},
	{"api/podlogs", []string{"pod", "logs"}, "finds and reads the log of a pod's container"},
	{"api/declared", []string{"pod", "pod/manifest", "pod/claims", "api/objects", "api/rest", "api/stream", "api/podlogs"},
		"joins the API's objects with the pods that run"},
	{"api/conns", nil, "leaf: bounds connections and requests"},
	{"api/stream", []string{"pod"}, "protocols; of pods it knows the size of a terminal"},
	{"api/kubelet", []string{"pod", "api/podlogs", "api/stream"}, "the endpoints of a kubelet; reaches pods through the manager"},
	{"api/objects", nil, "the store; knows neither HTTP nor kinds"},
	{"api/rest", []string{"api/objects", "api/discovery", "api/patch", "api/table"}, "HTTP over the store"},
	{"api/discovery", nil, "what is served, as data"},
	{"api/patch", nil, "objects and patches in, objects out"},
	{"api/patch/generate", []string{"api/discovery", "api/patch"}, "makes the schema for server-side apply"},
	{"api/table", []string{"pod"}, "the pods' columns are those of podd get"},
	{"api/discovery/generate", []string{"api/discovery"}, "cuts the OpenAPI documents to what is served"},
	{"api/auth", []string{"api/objects", "api/rest"}, "who asks and what they may do; serves the reviews of both"},
	{"api/node", []string{"api/objects", "api/rest"}, "shows this machine as a Node, and what is used"},
	{"demo", []string{}, "recipes"},
	{"cmd/podd-pause", []string{"sandbox/pause", "sandbox/stage"}, "main of the pause process"},
	{"cmd/podd", []string{"..."}, "wires everybody"},
	{"bench", []string{"..."}, "measures everybody"},
	{"e2e", []string{"..."}, "tests everybody"},
	{"docs", []string{"pod/manifest"}, "tables generated from the code"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestImportsFollowTheRule(t *testing.T) {
	const module = "podd/"
	for _, p := range modulePackages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module)
			if !ours || strings.HasPrefix(to, "internal/") {
				continue
			}
			if !mayImport(from, to) {
				t.Errorf("%s imports %s, which the rule in this file does not allow", from, to)
			}
		}
	}
}

// The pause process lives as long as its pod, once per pod: what it imports
// is memory that every pod pays.
func TestPauseProcessImportsOnlyStandardLibraryAndSys(t *testing.T) {
	for _, p := range modulePackages(t) {
		switch strings.TrimPrefix(p.ImportPath, "podd/") {
		case "sandbox/wire", "sandbox/stage", "sandbox/pause", "cmd/podd-pause":
		default:
			continue
		}
		for _, imported := range p.Imports {
			first, _, _ := strings.Cut(imported, "/")
			if strings.Contains(first, ".") && !strings.HasPrefix(imported, "golang.org/x/sys/") {
				t.Errorf("%s imports %s; allowed are the standard library and golang.org/x/sys", p.ImportPath, imported)
			}
		}
	}
}

func mayImport(from, to string) bool {
	for _, rule := range allowed {
		if rule.pkg != from && !strings.HasPrefix(from, rule.pkg+"/internal/") && !(rule.pkg == "demo" && strings.HasPrefix(from, "demo/")) {
			continue
		}
		if slices.Contains(rule.may, "...") || slices.Contains(rule.may, to) {
			return true
		}
	}
	return false
}

func modulePackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "podd/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages", len(all))
	}
	return all
}
