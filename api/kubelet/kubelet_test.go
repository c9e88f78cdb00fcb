package kubelet

import (
	"context"
	"encoding/json"
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
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/pod"
)

// pods is a manager that runs "cat", "exit" and "yes" by itself, and whose processes
// answer with what they read.
type pods struct{ port int }

func (pods) Exec(ctx context.Context, key pod.Key, r pod.ExecRequest) (int, error) {
	switch r.Command[0] {
	case "cat":
		_, err := io.Copy(r.Stdout, r.Stdin)
		return 0, err
	case "echo":
		io.WriteString(r.Stderr, "err ")
		fmt.Fprintf(r.Stdout, "%s/%s: %s", key, r.Container, strings.Join(r.Command[1:], "|"))
		return 0, nil
	case "exit":
		io.WriteString(r.Stderr, "it failed")
		return 7, nil
	case "yes":
		for ctx.Err() == nil {
			io.WriteString(r.Stdout, strings.Repeat("y\n", 10_000))
		}
		return 0, ctx.Err()
	}
	return 128, errors.New("executable file not found in $PATH")
}

func (pods) Attach(_ context.Context, key pod.Key, r pod.AttachRequest) error {
	fmt.Fprintf(r.Stdout, "%s/%s\n", key, r.Container)
	if r.Stdin == nil {
		return errors.New("no input")
	}
	_, err := io.Copy(r.Stdout, r.Stdin)
	return err
}

func (p pods) Dial(_ context.Context, key pod.Key, port uint16) (net.Conn, error) {
	if port != 80 {
		return nil, fmt.Errorf("cannot connect to port %d of pod %s", port, key)
	}
	return net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", p.port))
}

func web() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"},
		Spec:       v1.PodSpec{InitContainers: []v1.Container{{Name: "fetch"}}, Containers: []v1.Container{{Name: "app"}, {Name: "late"}}},
		Status: v1.PodStatus{Phase: v1.PodRunning,
			InitContainerStatuses: []v1.ContainerStatus{{Name: "fetch", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}}},
			ContainerStatuses: []v1.ContainerStatus{
				{Name: "app", Image: "busybox:1.36", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}},
				{Name: "late", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}},
			}},
	}
}

// known is a configuration in which everything is known.
func known(t *testing.T) Config {
	board := pod.NewBoard()
	board.Set(web())
	idle := web()
	idle.Name, idle.UID, idle.Status = "idle", "u2", v1.PodStatus{}
	board.Set(idle)
	says := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
	}
	return Config{
		Board: board, Pods: pods{}, Version: "v1.2.3", LogDir: t.TempDir(),
		Logs: func(p *v1.Pod, container string, q url.Values) (func(context.Context, io.Writer) error, error) {
			if container == "late" {
				return nil, errors.New("is waiting to start")
			}
			return func(_ context.Context, w io.Writer) error {
				fmt.Fprintf(w, "log of %s, tail %q\n", container, q.Get("tailLines"))
				return nil
			}, nil
		},
		Metrics: map[string]http.Handler{"/metrics": says("up 1"), "/metrics/cadvisor": says("cadvisor"), "/stats/summary": says("summary")},
		Configz: func() any { return map[string]string{"staticPodPath": "/etc/podd/manifests"} },
		Flags:   func() [][2]string { return [][2]string{{"bridge", "podd0"}} },
	}
}

func ask(t *testing.T, h http.Handler, method, target string) (code int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w.Code, w.Body.String()
}

func TestEndpoints(t *testing.T) {
	h := New(known(t))
	for _, tc := range []struct {
		method, target string
		code           int
		want           string
	}{
		{"GET", "/containerLogs/default/web/app", 200, "log of app, tail \"\"\n"},
		{"GET", "/containerLogs/default/web/app?tail=3", 200, "log of app, tail \"3\"\n"},
		{"GET", "/containerLogs/default/web/app?tail=all&tailLines=5", 200, "log of app, tail \"\"\n"},
		{"GET", "/containerLogs/default/web/late", 400, "is waiting to start"},
		{"GET", "/containerLogs/default/web/other", 404, `container "other" not found in pod "web"`},
		{"GET", "/containerLogs/default/other/app", 404, `pod "other" does not exist`},
		{"POST", "/run/default/web/app?cmd=echo+a+b", 200, "err default/web/app: a|b"},
		{"POST", "/run/default/web/u1/app?cmd=echo+a", 200, "err default/web/app: a"},
		{"POST", "/run/default/web/u2/app?cmd=echo+a", 404, "does not exist"},
		{"POST", "/run/default/web/app?cmd=exit", 500, "command 'exit' exited with 7: it failed"},
		{"POST", "/run/default/web/app?cmd=nope", 500, "executable file not found"},
		{"POST", "/run/default/web/app?cmd=yes", 500, "stopped after 1048576 bytes of output"},
		{"POST", "/run/default/web/app", 400, "cmd is required"},
		{"POST", "/run/default/web/late?cmd=echo", 404, `container not found ("late")`},
		{"GET", "/run/default/web/app?cmd=echo", 404, ""},
		{"POST", "/exec/default/web/app?output=1", 400, "you must specify at least one command"},
		{"POST", "/exec/default/web/app?command=echo", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"POST", "/exec/default/web/app?command=echo&output=1", 400, "Upgrade request required"},
		{"GET", "/exec/default/web/fetch?command=echo&output=1", 404, `container not found ("fetch")`},
		{"GET", "/attach/default/web/late", 404, `container not found ("late")`},
		{"POST", "/portForward/default/web", 400, "Upgrade request required"},
		{"POST", "/portForward/default/web/u2", 404, "does not exist"},
		{"GET", "/metrics", 200, "up 1"},
		{"GET", "/metrics/cadvisor", 200, "cadvisor"},
		{"GET", "/stats/summary", 200, "summary"},
		{"GET", "/stats/container", 404, ""},
		{"GET", "/healthz", 200, "ok"},
		{"GET", "/healthz/ping", 200, "ok"},
		{"GET", "/healthz/nothing", 404, ""},
		{"GET", "/configz", 200, `{"kubeletconfig":{"staticPodPath":"/etc/podd/manifests"}}`},
		{"GET", "/statusz", 200, "Binary version: v1.2.3"},
		{"GET", "/flagz", 200, "bridge=podd0\n"},
		{"POST", "/checkpoint/default/web/app", 501, "no checkpoints"},
		{"GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{"GET", "/nothing", 404, ""},
	} {
		if code, body := ask(t, h, tc.method, tc.target); code != tc.code || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s: %d %q, want %d with %q", tc.method, tc.target, code, body, tc.code, tc.want)
		}
	}
	sick := known(t)
	sick.Healthy = func() error { return errors.New("stuck") }
	for path, want := range map[string]int{"/healthz": 500, "/healthz/syncloop": 500, "/healthz/ping": 200} {
		if code, _ := ask(t, New(sick), "GET", path); code != want {
			t.Errorf("%s of an agent that is stuck: %d, want %d", path, code, want)
		}
	}
}

func TestListsOfPods(t *testing.T) {
	h := New(known(t))
	for path, want := range map[string]string{"/pods": "idle:2 web:2", "/pods/": "idle:2 web:2", "/runningpods/": "web:1"} {
		_, body := ask(t, h, "GET", path)
		var list v1.PodList
		if err := json.Unmarshal([]byte(body), &list); err != nil || list.Kind != "PodList" || list.APIVersion != "v1" {
			t.Fatalf("%s: %v, %q", path, err, body)
		}
		var got []string
		for _, p := range list.Items {
			got = append(got, fmt.Sprintf("%s:%d", p.Name, len(p.Spec.Containers)))
			if path == "/runningpods/" && (p.UID != "u1" || p.Spec.Containers[0].Image != "busybox:1.36") {
				t.Errorf("%s: %+v", path, p)
			}
		}
		if slices.Sort(got); strings.Join(got, " ") != want {
			t.Errorf("%s has %v, want %s", path, got, want)
		}
	}
}

// The attributes are the kubelet's: whoever has a role for a kubelet has the same here.
func TestRequestsNeedTheKubeletsPermissions(t *testing.T) {
	for _, tc := range []struct{ method, target, want string }{
		{"GET", "/pods", "get pods, get proxy"},
		{"GET", "/runningpods/", "get pods, get proxy"},
		{"GET", "/healthz", "get healthz, get proxy"},
		{"GET", "/healthz/ping", "get healthz, get proxy"},
		{"GET", "/configz", "get configz, get proxy"},
		{"GET", "/statusz", "get statusz, get proxy"},
		{"GET", "/flagz", "get proxy"},
		{"GET", "/stats/summary", "get stats"},
		{"GET", "/metrics", "get metrics"},
		{"HEAD", "/metrics/cadvisor", "get metrics"},
		{"GET", "/logs/syslog", "get log"},
		{"POST", "/checkpoint/default/web/app", "create checkpoint"},
		{"GET", "/containerLogs/default/web/app", "get proxy"},
		{"GET", "/exec/default/web/app?command=echo&output=1", "get proxy"},
		{"POST", "/exec/default/web/u1/app?command=echo&output=1", "create proxy"},
		{"POST", "/attach/default/web/app", "create proxy"},
		{"POST", "/portForward/default/web", "create proxy"},
		{"POST", "/run/default/web/app?cmd=echo", "create proxy"},
		{"GET", "/debug/pprof/heap", "get proxy"},
		{"GET", "/nothing", "get proxy"},
		{"PUT", "/pods", "update proxy"},
		{"DELETE", "/metrics", "delete proxy"},
		{"GET", "/metrics/..%2Fexec", "get proxy"},
	} {
		c := known(t)
		var asked []string
		c.Authorize = func(_ *http.Request, verb, subresource string) error {
			asked = append(asked, verb+" "+subresource)
			return apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "box", errors.New("not you"))
		}
		code, body := ask(t, New(c), tc.method, tc.target)
		if code != 403 || !strings.Contains(body, `"reason":"Forbidden"`) || strings.Join(asked, ", ") != tc.want {
			t.Errorf("%s %s: %d %s, asked for %v; want %s", tc.method, tc.target, code, body, asked, tc.want)
		}
	}
	c := known(t)
	c.Authorize = func(_ *http.Request, _, subresource string) error {
		if subresource == "proxy" {
			return nil
		}
		return errors.New("not you")
	}
	for path, want := range map[string]int{"/pods": 200, "/metrics": 403} {
		if code, _ := ask(t, New(c), "GET", path); code != want {
			t.Errorf("%s with proxy only: %d, want %d", path, code, want)
		}
	}
}

// The agent's own files and the host's are not shown by links that pods may make.
func TestHostLogsStayInTheirDirectory(t *testing.T) {
	c := known(t)
	outside := filepath.Join(t.TempDir(), "secret")
	for path, text := range map[string]string{outside: "secret", filepath.Join(c.LogDir, "syslog"): "it began\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"out": outside, "up": "../..", "in": "syslog"} {
		if err := os.Symlink(to, filepath.Join(c.LogDir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(c.LogDir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := New(c)
	for target, want := range map[string]struct {
		code int
		text string
	}{
		"/logs/": {200, "syslog"}, "/logs/syslog": {200, "it began\n"}, "/logs/in": {200, "it began\n"},
		"/logs/out": {403, ""}, "/logs/up/": {403, ""}, "/logs/fifo": {403, ""}, "/logs/nothing": {404, ""}, "/logs/?query=kubelet": {501, "journalctl"},
		"/logs/..%2f" + strings.TrimPrefix(outside, "/"): {404, ""},
	} {
		code, body := ask(t, h, "GET", target)
		if code != want.code || !strings.Contains(body, want.text) || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %q, want %d with %q", target, code, body, want.code, want.text)
		}
	}
}

// dial opens a WebSocket to an endpoint.
func dial(t *testing.T, address, target, protocol string) *websocket.Conn {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{protocol}}
	ws, resp, err := dialer.Dial("ws://"+address+target, nil)
	if err != nil {
		t.Fatalf("%s: %v, %+v", target, err, resp)
	}
	ws.SetReadDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { ws.Close() })
	return ws
}

// read returns what came on each channel until the server closed the socket.
func read(t *testing.T, ws *websocket.Conn) (got [5]string) {
	t.Helper()
	for {
		_, p, err := ws.ReadMessage()
		if err != nil {
			if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				t.Error(err)
			}
			return got
		}
		got[p[0]] += string(p[1:])
	}
}

func TestStreamsReachThePod(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello from the pod")
			c.Close()
		}
	}()
	c := known(t)
	c.Pods = pods{l.Addr().(*net.TCPAddr).Port}
	server := httptest.NewServer(New(c))
	defer server.Close()
	address := server.Listener.Addr().String()
	const v5 = "v5.channel.k8s.io"

	got := read(t, dial(t, address, "/exec/default/web/u1/app?command=echo&command=a+b&output=1&error=1", v5))
	if got[1] != "default/web/app: a b" || got[2] != "err " || got[3] != `{"metadata":{},"status":"Success"}` {
		t.Errorf("exec: %q", got)
	}
	got = read(t, dial(t, address, "/exec/default/web/app?command=exit&error=1", v5))
	if got[2] != "it failed" || !strings.Contains(got[3], `"causes":[{"reason":"ExitCode","message":"7"}]`) {
		t.Errorf("exec that exits with 7: %q", got)
	}
	got = read(t, dial(t, address, "/exec/default/web/app?command=nope&error=1", v5))
	if !strings.Contains(got[3], "error executing command in container: executable file not found in $PATH") {
		t.Errorf("exec of what is not there: %q", got)
	}
	for target, want := range map[string]string{
		"/exec/default/web/app?command=cat&input=1&output=1": "typed", "/attach/default/web/app?input=1&output=1": "default/web/app\ntyped",
	} {
		ws := dial(t, address, target, v5)
		for _, p := range [][]byte{append([]byte{0}, "typed"...), {255, 0}} {
			if err := ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(t, ws); got[1] != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	got = read(t, dial(t, address, "/attach/default/web/app?output=1", v5))
	if !strings.Contains(got[3], "error attaching to container: no input") {
		t.Errorf("attach that fails: %q", got)
	}
	ws := dial(t, address, "/portForward/default/web?port=80&port=81", "v4.channel.k8s.io")
	seen := [4]string{}
	for len(seen[0]) < 2+len("hello from the pod") || len(seen[3]) < 3 {
		_, p, err := ws.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		seen[p[0]] += string(p[1:])
	}
	if seen[0][2:] != "hello from the pod" || seen[3][2:] != "error forwarding port 81: cannot connect to port 81 of pod default/web" {
		t.Errorf("port-forward: %q", seen)
	}
}
