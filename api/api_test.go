package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/stream"
	"podd/internal/refusal"
	"podd/pod"
)

// commands is a manager that runs "cat", "exit" and "size" by itself.
type commands struct {
	restarted []pod.Key
	down      bool
	debugged  []v1.EphemeralContainer
}

func (c *commands) Exec(ctx context.Context, key pod.Key, r pod.ExecRequest) (int, error) {
	switch r.Command[0] {
	case "cat":
		_, err := io.Copy(r.Stdout, r.Stdin)
		return 0, err
	case "exit":
		io.WriteString(r.Stderr, "said on stderr")
		return 7, nil
	case "size":
		size := <-r.Resize
		_, err := io.WriteString(r.Stdout, strings.Repeat("x", int(size.Width)))
		return 0, err
	case "wait":
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return 128, errors.New(`exec: "` + r.Command[0] + `": executable file not found in $PATH`)
}

// Attach greets, tells a terminal's width, and repeats what is typed.
func (c *commands) Attach(_ context.Context, key pod.Key, r pod.AttachRequest) error {
	if r.Stderr != nil {
		fmt.Fprintf(r.Stderr, "attached to %s of %s", r.Container, key)
	}
	if r.Stdin == nil {
		fmt.Fprint(r.Stdout, (<-r.Resize).Width)
		return errors.New("the container is gone")
	}
	_, err := io.Copy(r.Stdout, r.Stdin)
	return err
}

func (c *commands) Restart(_ context.Context, key pod.Key) error {
	c.restarted = append(c.restarted, key)
	return nil
}

// Diff tells back what arrived.
func (c *commands) Diff(_ context.Context, all []pod.Desired) ([]pod.Outcome, error) {
	outcomes := make([]pod.Outcome, len(all))
	for i, d := range all {
		outcomes[i].New = d.SpecHash == ""
		outcomes[i].Images = []pod.FieldChange{{Path: "spec.containers[0].image", Container: "app", After: d.Pod.Spec.Containers[0].Image}}
	}
	return outcomes, nil
}

func (c *commands) Why(_ context.Context, key pod.Key, mistakes []string) ([]pod.Chain, error) {
	return []pod.Chain{
		{Effect: key.String(), Causes: mistakes}, {Container: "app", Effect: "restarted"}, {Container: "late", Effect: "waits"},
	}, nil
}

func (c *commands) Down(context.Context) error {
	c.down = true
	return nil
}

// kubernetes is as much of the API as the client is tested with here: pods that run
// commands by themselves, one of which is refused.
func (c *commands) kubernetes() http.Handler {
	mux := http.NewServeMux()
	key := func(r *http.Request) pod.Key {
		return pod.Key{Namespace: r.PathValue("namespace"), Name: r.PathValue("pod")}
	}
	const of = "/api/v1/namespaces/{namespace}/pods/{pod}/"
	mux.HandleFunc("POST "+of+"exec", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("container") != "app" {
			refusal.Write(w, apierrors.NewBadRequest("container "+q.Get("container")+" is not valid for pod web"))
			return
		}
		stream.Exec(w, r, stream.Command(c.Exec, key(r), pod.ExecRequest{Container: "app", Command: q["command"]}))
	})
	mux.HandleFunc("POST "+of+"attach", func(w http.ResponseWriter, r *http.Request) {
		stream.Exec(w, r, stream.Process(c.Attach, key(r), r.URL.Query().Get("container")))
	})
	mux.HandleFunc("PATCH "+of+"ephemeralcontainers", func(w http.ResponseWriter, r *http.Request) {
		var p v1.Pod
		err := json.NewDecoder(r.Body).Decode(&p)
		if err != nil || r.Header.Get("Content-Type") != "application/strategic-merge-patch+json" {
			refusal.Write(w, apierrors.NewBadRequest("expected a strategic merge patch"))
			return
		}
		c.debugged = append(c.debugged, p.Spec.EphemeralContainers...)
	})
	return mux
}

func runningPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "app"}, {Name: "late"}}},
		Status: v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{
			{Name: "app", RestartCount: 2, State: v1.ContainerState{Running: &v1.ContainerStateRunning{}},
				LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}},
			{Name: "late", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}},
		}},
	}
}

// agent serves the control handler on a socket in a directory whose path is
// longer than a socket's path may be.
func agent(t *testing.T) (*Client, Config, *commands) {
	t.Helper()
	runDir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		t.Fatal(err)
	}
	manager := &commands{}
	c := Config{
		Board: pod.NewBoard(), Commands: manager, Kube: manager.kubernetes(),
		Problems: func() []string { return []string{"web.yaml:1:1: image: required, not given"} },
		Mistakes: func(key pod.Key) []string { return []string{"a mistake in " + key.String()} }, Version: "v1",
		Metrics: map[string]http.Handler{"/metrics": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "up 1\n") })},
	}
	dir, err := os.Open(runDir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	t.Chdir(runDir)
	l, err := net.Listen("unix", SocketName)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: Control(c)}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return NewClient(runDir), c, manager
}

func TestWhyTellsOfOneContainerAndThePod(t *testing.T) {
	client, c, _ := agent(t)
	key := pod.Key{Namespace: "default", Name: "web"}
	if chains, err := client.Why(t.Context(), key, ""); err != nil || len(chains) != 1 || !slices.Contains(chains[0].Causes, "web.yaml:1:1: image: required, not given") {
		t.Errorf("a pod that was never loaded: %+v, %v", chains, err)
	}
	c.Board.Set(runningPod())
	for _, test := range []struct {
		container string
		want      int
	}{{"", 3}, {"app", 2}} {
		chains, err := client.Why(t.Context(), key, test.container)
		if err != nil || len(chains) != test.want || chains[0].Effect != "default/web" || !slices.Equal(chains[0].Causes, []string{"a mistake in default/web"}) {
			t.Errorf("container %q: %+v, %v", test.container, chains, err)
		}
	}
	if _, err := client.Why(t.Context(), key, "other"); !apierrors.IsBadRequest(err) {
		t.Errorf("a container that the pod has not: %v", err)
	}
}

func TestExecPassesStreamsAndTheExitCode(t *testing.T) {
	client, c, _ := agent(t)
	c.Board.Set(runningPod())
	key := pod.Key{Namespace: "default", Name: "web"}
	input := strings.Repeat("0123456789", 20_000) // several frames
	for _, tc := range []struct {
		name           string
		r              pod.ExecRequest
		code           int
		out, err, fail string
	}{
		{"input comes back as output", pod.ExecRequest{Command: []string{"cat"}, Stdin: strings.NewReader(input)}, 0, input, "", ""},
		{"an exit code and stderr", pod.ExecRequest{Command: []string{"exit"}}, 7, "", "said on stderr", ""},
		{"a command that is not there", pod.ExecRequest{Command: []string{"nope"}}, 0, "", "", "executable file not found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			tc.r.Container, tc.r.Stdout, tc.r.Stderr = "app", &out, &stderr
			code, err := client.Exec(t.Context(), key, tc.r)
			if code != tc.code || out.String() != tc.out || stderr.String() != tc.err {
				t.Errorf("code %d, %d bytes of output, stderr %q", code, out.Len(), stderr.String())
			}
			if (err == nil) != (tc.fail == "") || err != nil && !strings.Contains(err.Error(), tc.fail) {
				t.Errorf("error %v, want %q", err, tc.fail)
			}
		})
	}
}

func TestAttachPassesStreamsAndTheSize(t *testing.T) {
	client, c, _ := agent(t)
	c.Board.Set(runningPod())
	key := pod.Key{Namespace: "default", Name: "web"}
	var out, stderr bytes.Buffer
	err := client.Attach(t.Context(), key, pod.AttachRequest{Container: "app", Stdin: strings.NewReader("typed"), Stdout: &out, Stderr: &stderr})
	if err != nil || out.String() != "typed" || stderr.String() != "attached to app of default/web" {
		t.Errorf("%q, %q, %v", out.String(), stderr.String(), err)
	}
	sizes := make(chan pod.TerminalSize, 1)
	sizes <- pod.TerminalSize{Width: 132, Height: 43}
	close(sizes)
	out.Reset()
	err = client.Attach(t.Context(), key, pod.AttachRequest{Container: "app", Resize: sizes, Stdout: &out, Stderr: io.Discard})
	if err == nil || err.Error() != "Internal error occurred: error attaching to container: the container is gone" || out.String() != "132" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestExecTellsTheTerminalsSize(t *testing.T) {
	client, c, _ := agent(t)
	c.Board.Set(runningPod())
	sizes := make(chan pod.TerminalSize, 1)
	sizes <- pod.TerminalSize{Width: 132, Height: 43}
	close(sizes)
	var out bytes.Buffer
	_, err := client.Exec(t.Context(), pod.Key{Namespace: "default", Name: "web"},
		pod.ExecRequest{Container: "app", Command: []string{"size"}, TTY: true, Resize: sizes, Stdout: &out, Stderr: io.Discard})
	if err != nil || out.Len() != 132 {
		t.Fatalf("width %d, %v", out.Len(), err)
	}
}

func TestExecEndsWhenTheClientGoesAway(t *testing.T) {
	client, c, _ := agent(t)
	c.Board.Set(runningPod())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := client.Exec(ctx, pod.Key{Namespace: "default", Name: "web"},
		pod.ExecRequest{Container: "app", Command: []string{"wait"}, Stdout: io.Discard, Stderr: io.Discard})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestRestartAndDownReachTheManager(t *testing.T) {
	client, c, manager := agent(t)
	c.Board.Set(runningPod())
	key := pod.Key{Namespace: "default", Name: "web"}
	if err := client.Restart(t.Context(), key); err != nil || len(manager.restarted) != 1 || manager.restarted[0] != key {
		t.Errorf("restarted %v, %v", manager.restarted, err)
	}
	if err := client.Restart(t.Context(), pod.Key{Namespace: "default", Name: "nobody"}); !apierrors.IsNotFound(err) {
		t.Errorf("restart of a pod that is not there: %v", err)
	}
	if err := client.Down(t.Context()); err != nil || !manager.down {
		t.Errorf("down: %v", err)
	}
}

func TestWhatOtherAddressesAreNotTold(t *testing.T) {
	_, c, _ := agent(t)
	c.Board.Set(runningPod())
	for path, want := range map[string][2]int{ // on loopback, elsewhere
		"/healthz":                     {200, 200},
		"/metrics":                     {200, 200},
		"/pods":                        {200, 404},
		"/events":                      {404, 404},
		"/containerLogs/default/web/a": {404, 404},
	} {
		for i, h := range []http.Handler{ReadOnly(c), MetricsOnly(c)} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			if w.Code != want[i] {
				t.Errorf("%s on handler %d: %d, want %d", path, i, w.Code, want[i])
			}
		}
	}
}

func TestHealthzSaysWhatIsWrong(t *testing.T) {
	_, c, _ := agent(t)
	c.Healthy = func() error { return errors.New("the manifests are not watched") }
	w := httptest.NewRecorder()
	ReadOnly(c).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), "not watched") {
		t.Fatalf("%d %q", w.Code, w.Body)
	}
}

func TestNoAgentIsSaidInASentence(t *testing.T) {
	_, err := NewClient(t.TempDir()).Pods(t.Context())
	if !errors.Is(err, ErrNoAgent) || !strings.Contains(err.Error(), "podd run") {
		t.Fatalf("got %v", err)
	}
}

func TestDiffCarriesManifestsAndOutcomes(t *testing.T) {
	client, _, _ := agent(t)
	p := runningPod()
	p.Spec.Containers[0].Image = "app:2"
	outcomes, err := client.Diff(t.Context(), []pod.Desired{{Key: keyOf(p), Pod: p}, {Key: keyOf(p), Pod: p, SpecHash: "h"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(outcomes) != 2 || !outcomes[0].New || outcomes[1].New || outcomes[1].Images[0].After != "app:2" {
		t.Errorf("got %+v", outcomes)
	}
	if _, err := client.Diff(t.Context(), []pod.Desired{{}}); err == nil || !strings.Contains(err.Error(), "expected a pod") {
		t.Errorf("a manifest without a pod: %v", err)
	}
}

func TestExecOfWhatIsRefusedSaysWhy(t *testing.T) {
	client, _, _ := agent(t)
	_, err := client.Exec(t.Context(), pod.Key{Namespace: "default", Name: "web"}, pod.ExecRequest{Container: "other", Command: []string{"cat"}})
	if !apierrors.IsBadRequest(err) || err.Error() != "container other is not valid for pod web" {
		t.Errorf("got %v", err)
	}
}

func TestDebugPatchesEphemeralContainers(t *testing.T) {
	client, _, manager := agent(t)
	var add v1.EphemeralContainer
	add.Name, add.Image, add.TargetContainerName = "debugger-x", "busybox", "app"
	if err := client.Debug(t.Context(), keyOf(runningPod()), add); err != nil || len(manager.debugged) != 1 || manager.debugged[0].TargetContainerName != "app" {
		t.Errorf("%v, added %+v", err, manager.debugged)
	}
}
