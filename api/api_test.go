package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"podd/logs"
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
	fmt.Fprintf(r.Stderr, "attached to %s of %s", r.Container, key)
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

// Debug accepts everything but an image that is called bad.
func (c *commands) Debug(_ context.Context, _ pod.Key, add v1.EphemeralContainer) error {
	if add.Image == "bad" {
		return errors.New("a bad image")
	}
	c.debugged = append(c.debugged, add)
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
		Board: pod.NewBoard(), Events: &pod.EventStore{}, Commands: manager, PodLogsDir: t.TempDir(),
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

func TestPodsAreAListWithStatus(t *testing.T) {
	client, c, _ := agent(t)
	c.Board.Set(runningPod())
	list, err := client.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if list.Kind != "PodList" || list.ResourceVersion == "" || len(list.Items) != 1 || list.Items[0].Status.Phase != v1.PodRunning {
		t.Fatalf("got %+v", list)
	}
}

func TestWatchTellsWhatComesAfterTheList(t *testing.T) {
	client, c, _ := agent(t)
	list, err := client.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c.Board.Set(runningPod())
	c.Board.Remove(runningPod())
	var got []watch.EventType
	client.Watch(ctx, list.ResourceVersion, func(kind watch.EventType, p *v1.Pod) {
		if got = append(got, kind); len(got) == 2 {
			cancel()
		}
	})
	if len(got) != 2 || got[0] != watch.Added || got[1] != watch.Deleted {
		t.Fatalf("watched %v, want added and deleted", got)
	}
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
		{"a command that is not there", pod.ExecRequest{Command: []string{"nope"}}, 128, "", "", "executable file not found"},
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
	if err == nil || err.Error() != "the container is gone" || out.String() != "132" {
		t.Errorf("%q, %v", out.String(), err)
	}
	for container, want := range map[string]string{"late": "it does not run", "other": "container other is not valid for pod web"} {
		err := client.Attach(t.Context(), key, pod.AttachRequest{Container: container})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("container %s: %v, want %q", container, err, want)
		}
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

func TestExecRefusesWhatCannotRun(t *testing.T) {
	client, c, _ := agent(t)
	c.Board.Set(runningPod())
	for _, tc := range []struct{ pod, container, want string }{
		{"web", "late", "it does not run"},
		{"web", "other", "container other is not valid for pod web"},
		{"nobody", "app", `pods "nobody" not found`},
	} {
		_, err := client.Exec(t.Context(), pod.Key{Namespace: "default", Name: tc.pod},
			pod.ExecRequest{Container: tc.container, Command: []string{"cat"}})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s/%s: %v, want %q", tc.pod, tc.container, err, tc.want)
		}
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

func TestLogsOfTheAttemptThatIsMeant(t *testing.T) {
	client, c, _ := agent(t)
	p := runningPod()
	c.Board.Set(p)
	dir := logs.Dir(c.PodLogsDir, p.Namespace, p.Name, string(p.UID), "app")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for attempt, text := range map[int]string{1: "before", 2: "now"} {
		line := "2026-01-02T03:04:05.678901234Z stdout F " + text + "\n"
		if err := os.WriteFile(logs.File(dir, attempt), []byte(line), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		query     url.Values
		container string
		want      string
		fail      string
	}{
		{nil, "app", "now\n", ""},
		{url.Values{"previous": {"true"}}, "app", "before\n", ""},
		{url.Values{"timestamps": {"true"}}, "app", "2026-01-02T03:04:05.678901234Z now\n", ""},
		{nil, "late", "", `container "late" in pod "web" is waiting to start: trying and failing to pull image`},
		{url.Values{"previous": {"true"}}, "late", "", `previous terminated container "late" in pod "web" not found`},
		{nil, "other", "", "container other is not valid for pod web"},
		{url.Values{"tailLines": {"-2"}}, "app", "", "tailLines: expected a whole number, at least 0"},
		{url.Values{"sinceTime": {"yesterday"}}, "app", "", "sinceTime: expected a time"},
	} {
		var out bytes.Buffer
		err := client.Logs(t.Context(), pod.Key{Namespace: "default", Name: "web"}, tc.container, tc.query, &out)
		if out.String() != tc.want || (err == nil) != (tc.fail == "") || err != nil && !strings.Contains(err.Error(), tc.fail) {
			t.Errorf("%s %v: %q, %v", tc.container, tc.query, out.String(), err)
		}
	}
}

// A log that is followed ends with the container.
func TestFollowEndsWithTheContainer(t *testing.T) {
	client, c, _ := agent(t)
	p := runningPod()
	c.Board.Set(p)
	dir := logs.Dir(c.PodLogsDir, p.Namespace, p.Name, string(p.UID), "app")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logs.File(dir, 2), []byte("2026-01-02T03:04:05Z stdout F last words\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- client.Logs(t.Context(), pod.Key{Namespace: "default", Name: "web"}, "app", url.Values{"follow": {"true"}}, writerFunc(func(b []byte) {
			select {
			case seen <- string(b):
			default:
			}
		}))
	}()
	if got := <-seen; got != "last words\n" {
		t.Fatalf("followed %q", got)
	}
	gone := runningPod()
	gone.Status.ContainerStatuses[0].State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}
	c.Board.Set(gone)
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("still following a container that has ended")
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
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

func FuzzFrames(f *testing.F) {
	f.Add([]byte{channelStdin, 0, 0, 0, 1, 'x'})
	f.Add([]byte{channelResize, 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{channelStdin, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			channel, p, err := readFrame(r)
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := (&frameWriter{w: &again}).frame(channel, p); err != nil {
				t.Fatal(err)
			}
			c, q, err := readFrame(&again)
			if err != nil || c != channel || !bytes.Equal(p, q) {
				t.Fatalf("frame %d %q came back as %d %q, %v", channel, p, c, q, err)
			}
		}
	})
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

func TestDebugAddsAContainer(t *testing.T) {
	client, c, manager := agent(t)
	c.Board.Set(runningPod())
	var add v1.EphemeralContainer
	add.Name, add.Image, add.TargetContainerName = "debugger-x", "busybox", "app"
	if err := client.Debug(t.Context(), keyOf(runningPod()), add); err != nil || len(manager.debugged) != 1 || manager.debugged[0].TargetContainerName != "app" {
		t.Errorf("%v, added %+v", err, manager.debugged)
	}
	add.Image = "bad"
	if err := client.Debug(t.Context(), keyOf(runningPod()), add); err == nil || err.Error() != "a bad image" {
		t.Errorf("a refusal: %v", err)
	}
	if err := client.Debug(t.Context(), pod.Key{Namespace: "default", Name: "other"}, add); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("no such pod: %v", err)
	}
}
