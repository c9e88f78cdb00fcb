package podlogs

import (
	"bytes"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/logs"
	"podd/pod"
)

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

func TestLogsOfTheAttemptThatIsMeant(t *testing.T) {
	c := Config{Board: pod.NewBoard(), Dir: t.TempDir()}
	p := runningPod()
	c.Board.Set(p)
	dir := logs.Dir(c.Dir, p.Namespace, p.Name, string(p.UID), "app")
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
		{url.Values{"previous": {"1"}, "timestamps": {"False"}}, "app", "before\n", ""},
		{url.Values{"stream": {"All"}}, "app", "now\n", ""},
		{url.Values{"stream": {"Stdout"}}, "app", "now\n", ""},
		{url.Values{"stream": {"Stderr"}}, "app", "", ""},
		{url.Values{"stream": {"stdout"}}, "app", "", "stream: expected All, Stdout or Stderr"},
		{url.Values{"tailLines": {"-2"}}, "app", "", "tailLines: expected a whole number, at least 0"},
		{url.Values{"sinceTime": {"yesterday"}}, "app", "", "sinceTime: expected a time"},
	} {
		var out bytes.Buffer
		read, err := c.Open(p, tc.container, tc.query)
		if err == nil {
			err = read(t.Context(), &out)
		}
		if out.String() != tc.want || (err == nil) != (tc.fail == "") || err != nil && !strings.Contains(err.Error(), tc.fail) {
			t.Errorf("%s %v: %q, %v", tc.container, tc.query, out.String(), err)
		}
	}
}

// A log that is followed ends with the container.
func TestFollowEndsWithTheContainer(t *testing.T) {
	c := Config{Board: pod.NewBoard(), Dir: t.TempDir()}
	p := runningPod()
	c.Board.Set(p)
	dir := logs.Dir(c.Dir, p.Namespace, p.Name, string(p.UID), "app")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logs.File(dir, 2), []byte("2026-01-02T03:04:05Z stdout F last words\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	ended := make(chan error, 1)
	read, err := c.Open(p, "app", url.Values{"follow": {"true"}})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		ended <- read(t.Context(), writerFunc(func(b []byte) {
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
