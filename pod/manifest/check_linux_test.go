package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestCheckReadsFilesAndDirectoriesTogether(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"a.yaml":     manifest("one", "a"),
		"b.yaml":     manifest("one", "b") + "---\n" + manifest("two", "b"),
		"c.yaml":     manifest("three", "c") + "    nonsense: 1\n",
		"d.yaml.bak": manifest("four", "d"),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(dir, "e.yaml"), 0o755))
	extra := filepath.Join(t.TempDir(), "named.txt") // a file that is named counts
	must(t, os.WriteFile(extra, []byte(manifest("five", "e")), 0o644))

	problems, pods, err := Check([]string{dir, extra, filepath.Join(dir, "a.yaml"), filepath.Join(dir, "missing.yaml")})
	var got strings.Builder
	for _, p := range problems {
		fmt.Fprintln(&got, strings.ReplaceAll(p.String(), dir+"/", ""))
	}
	const want = `b.yaml:1:1: pod default/one is given twice; the one at a.yaml:1 holds
c.yaml:8:5: spec.containers[0].nonsense: unknown field
`
	if got.String() != want {
		t.Errorf("problems:\n%s\nwant:\n%s", &got, want)
	}
	if pods != 3 {
		t.Errorf("%d pods, want 3: one, two, five", pods)
	}
	for _, part := range []string{"e.yaml: cannot be read: it is a directory, not a file", "missing.yaml: cannot be read: no such file or directory"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want in it %q", err, part)
		}
	}
}

func TestCheckNeverWaitsForAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "web.yaml")
	must(t, mkfifo(pipe))
	if _, _, err := Check([]string{pipe}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("error %v, want: not a regular file", err)
	}
}

func TestSummaryNamesWhatKeepsRunning(t *testing.T) {
	at := time.Date(2026, 1, 2, 14, 2, 11, 0, time.UTC)
	problem, warning := Problem{Message: "x"}, Problem{Message: "y", Warning: true}
	for want, r := range map[string]Report{
		"m/web.yaml: 4 problems; pod default/web keeps running as loaded at 14:02:11": {
			File: "m/web.yaml", Problems: []Problem{problem, problem, warning, problem, problem}, Kept: []Kept{{"Pod", podKey("web"), at}}},
		"m/web.yaml: 1 problem":  {File: "m/web.yaml", Problems: []Problem{problem}},
		"m/web.yaml: 2 warnings": {File: "m/web.yaml", Problems: []Problem{warning, warning}},
		"m/web.yaml: 1 problem; pod default/a keeps running as loaded before this start; Secret default/b stays as loaded at 14:02:11": {
			File: "m/web.yaml", Problems: []Problem{problem}, Kept: []Kept{{"Pod", podKey("a"), time.Time{}}, {"Secret", podKey("b"), at}}},
	} {
		if got := r.Summary(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// Every plain scalar must be to us what it is to Kubernetes' tools.
func TestScalarsMeanWhatTheyMeanToKubernetes(t *testing.T) {
	for _, s := range []string{"yes", "No", "on", "OFF", "y", "N", "true", "False", "yEs", "~", "null", "Null", "nULL", "5", "-5", "+5",
		"0x1f", "0o17", "017", "089", "0b11", "-0b1", "1_000", "_1", "1e3", "1E-3", ".5", "5.", "-.5", "+.5", ".inf", "-.inf", ".nan", "1.2.3", "1:30",
		"190:20:30", "2026-01-02", "2026-01-02T03:04:05Z", "0x", "1e", "--5", "1-2", "0.0.0.0", "9223372036854775807", "9223372036854775808",
		"18446744073709551616", "<<", "=", "0_", "00", "-0", "1__0", "0x_1", ".5_0", "._5", ".e5", "+", "-.", "1.5e300", "1e400", "12e03", "Infinity", "nan", "0x1p4", ".0x1"} {
		var theirs struct{ V any }
		data := []byte("V: " + s + "\n")
		if err := yaml.Unmarshal(data, &theirs); err != nil {
			continue // no JSON, such as .inf
		}
		root, err := nextDocument(newDecoder(chunk{data: data}))
		must(t, err)
		node := root.Content[1]
		k := kindOf(node)
		var want string
		switch v := theirs.V.(type) {
		case nil:
			want = "null"
		case bool, float64:
			want = fmt.Sprint(v)
		case string:
			want = "text " + v
		}
		var got string
		switch k {
		case nothing:
			got = "null"
		case truth:
			got = fmt.Sprint(truthOf(node.Value))
		case whole, fraction:
			q, ok := quantityOf(node.Value, k)
			if !ok {
				got = want // beyond what any field takes
				break
			}
			got = fmt.Sprint(q.AsApproximateFloat64())
		case text:
			got = "text " + node.Value
		}
		if got != want {
			t.Errorf("%s is %s, to Kubernetes it is %s", s, got, want)
		}
	}
}

func TestAnnotationsHaveALimitInAll(t *testing.T) {
	pod := func(size int) string {
		return strings.Replace(manifest("web", "a"), "{name: web}", "{name: web, annotations: {a: "+strings.Repeat("x", size)+"}}", 1)
	}
	if r := Parse("x.yaml", []byte(pod(maxAnnotations-1))); len(r.Desired) != 1 {
		t.Errorf("refused: %v", r.Problems)
	}
	r := Parse("x.yaml", []byte(pod(maxAnnotations)))
	const want = "x.yaml:3:36: metadata.annotations: expected at most 262144 bytes in all; found 262145"
	if len(r.Problems) != 1 || r.Problems[0].String() != want {
		t.Errorf("got %v, want %s", r.Problems, want)
	}
}

func TestPullPolicyFollowsTheTag(t *testing.T) {
	for image, want := range map[string]v1.PullPolicy{
		"busybox": v1.PullAlways, "busybox:latest": v1.PullAlways, "localhost:5000/busybox": v1.PullAlways,
		"busybox:1.37": v1.PullIfNotPresent, "localhost:5000/busybox:1": v1.PullIfNotPresent,
		"busybox@sha256:abc": v1.PullIfNotPresent, "busybox:latest@sha256:abc": v1.PullAlways,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func TestHostileFilesAreAnsweredInTime(t *testing.T) {
	for name, data := range map[string]string{
		"nested lists":      strings.Repeat("[", 1<<20),
		"nested maps":       strings.Repeat("{a: ", 1<<18),
		"deep indentation":  deep(3000),
		"many documents":    strings.Repeat("---\na: b\n", 100_000),
		"many keys":         "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n" + lines(200_000, "    k%d: v\n"),
		"many items":        "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n" + strings.Repeat("  - {}\n", 100_000),
		"long name":         manifest(strings.Repeat("a", 1<<20), "a"),
		"long unknown name": manifest("web", "a\n    "+strings.Repeat("i", 100_000)+": x"),
		"exponent":          manifest("web", "a\n    resources: {limits: {cpu: 1e2000000000, memory: 1e-2000000000}}"),
		"comments":          strings.Repeat("# x\n", 200_000) + manifest("web", "a"),
		"billion laughs":    laughs(),
		"merges":            merges(),
	} {
		t.Run(name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			start := cpuTime(t)
			r := Parse("hostile.yaml", []byte(data))
			if took := cpuTime(t) - start; took > long {
				t.Errorf("took %v", took)
			}
			if len(r.Problems) > maxProblems+1 {
				t.Errorf("%d problems told, want at most %d", len(r.Problems), maxProblems+1)
			}
			if name != "comments" && errorsIn(r.Problems) == 0 {
				t.Error("accepted")
			}
		})
	}
}

func deep(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func lines(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// laughs nests aliases in a field that takes any depth of lists and maps.
func laughs() string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nx0: &x0 [a, a, a, a, a, a, a, a, a]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "x%d: &x%d [%s*x%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*x%d, ", i), 8), i)
	}
	return b.String() + "spec: {containers: *x9, tolerations: *x9, nodeSelector: *x9}\n"
}

// merges makes each map the merge of ten of the one before.
func merges() string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nx0: &x0 {a: b}\n")
	for i := range 9 {
		fmt.Fprintf(&b, "x%d: &x%d {<<: [%s*x%d]}\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*x%d, ", i), 9), i)
	}
	return b.String() + "spec: {nodeSelector: *x9}\n"
}

func TestExamplesOfTheRepositoryAreAccepted(t *testing.T) {
	const examples = "../../manifests"
	problems, pods, err := Check([]string{examples})
	must(t, err)
	for _, p := range problems {
		if !strings.HasSuffix(p.Message, "chmod it to 0600") { // which git does not keep
			t.Error(p)
		}
	}
	files, err := expand(examples)
	must(t, err)
	if pods == 0 || pods < len(files) {
		t.Errorf("%d pods in %d files, want at least one in each", pods, len(files))
	}
}

func BenchmarkParse(b *testing.B) {
	data, err := os.ReadFile("testdata/good/everything.yaml")
	must(b, err)
	for b.Loop() {
		if r := Parse("x.yaml", data); len(r.Desired) != 1 {
			b.Fatal(r.Problems)
		}
	}
}
