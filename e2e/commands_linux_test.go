package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/sandbox"
)

func worldOf(ts *testscript.TestScript) *world { return ts.Value("world").(*world) }

// cmdAgent is "agent start [FLAG…]", "agent stop" or "agent kill".
func cmdAgent(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	if len(args) == 0 {
		ts.Fatalf("usage: agent start [FLAG…] | stop | kill")
	}
	var err error
	switch args[0] {
	case "start":
		err = w.startAgent(args[1:])
	case "stop":
		err = w.endAgent(unix.SIGTERM)
	case "kill":
		err = w.endAgent(unix.SIGKILL)
	default:
		ts.Fatalf("unknown: agent %s", args[0])
	}
	if neg != (err != nil) {
		ts.Fatalf("agent %s: %v", args[0], err)
	}
}

// cmdPodd runs podd; its output can be asked for with stdout and stderr.
func cmdPodd(ts *testscript.TestScript, neg bool, args []string) {
	err := runPodd(ts, args)
	if neg != (err != nil) {
		ts.Fatalf("podd %s: %v", strings.Join(args, " "), err)
	}
}

// cmdLast is "last POD [-c NAME] -- COMMAND…": podd exec, once the container runs, with
// a command that ends its container, which may end it as well before it has returned.
func cmdLast(ts *testscript.TestScript, _ bool, args []string) {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = runPodd(ts, append([]string{"exec"}, args...)); err == nil || err.Error() == "exit status 137" {
			return
		}
	}
	ts.Fatalf("podd exec %s: %v, want success or exit status 137", strings.Join(args, " "), err)
}

func runPodd(ts *testscript.TestScript, args []string) error {
	cmd := worldOf(ts).command(args...)
	return ts.Exec(cmd.Path, cmd.Args[1:]...)
}

// run runs podd or kubectl.
func run(ts *testscript.TestScript, args []string) error {
	if args[0] == "podd" {
		return runPodd(ts, args[1:])
	}
	return ts.Exec(args[0], args[1:]...)
}

// cmdUntil is "until REGEXP podd ARG…": the command is repeated until its
// output matches. With "!" it is repeated until it does not. Instead of podd it
// may be kubectl, "get URL" asks for a page, and "file NAME" reads a file.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || !slices.Contains([]string{"podd", "kubectl", "get", "file"}, args[1]) {
		ts.Fatalf("usage: until REGEXP podd ARG… | kubectl ARG… | get URL | file NAME")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var out string
	took := time.Duration(0)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(max(20*time.Millisecond, took)) {
		began := time.Now()
		switch args[1] {
		case "get":
			out, err = page(ts, args[2])
		case "file":
			var data []byte
			data, err = os.ReadFile(ts.MkAbs(args[2]))
			out = string(data)
		default:
			cmd := worldOf(ts).command(args[2:]...)
			if args[1] == "kubectl" {
				cmd = worldOf(ts).kubectlCommand(args[2:]...)
			}
			var data []byte
			data, err = cmd.CombinedOutput()
			out = string(data)
		}
		if err == nil && want.MatchString(out) != neg {
			return
		}
		// On a slow machine the questions would leave no time for what is asked for.
		took = time.Since(began)
	}
	ts.Fatalf("waited in vain for %q; last output:\n%s%v\nagent:\n%s", args[0], out, err, worldOf(ts).agentLog())
}

// cmdGet is "get URL": a page, as a program on the host sees it. Its body can
// be asked for with stdout.
func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: get URL")
	}
	body, err := page(ts, args[0])
	if neg != (err != nil) {
		ts.Fatalf("get %s: %v", args[0], err)
	}
	ts.Stdout().Write([]byte(body))
}

func page(ts *testscript.TestScript, url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	resp, err := worldOf(ts).fetch(ctx, url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

// printed is what a command prints. A container that runs may not have written yet
// what is asked for: the command is repeated until it succeeds and prints something.
func printed(ts *testscript.TestScript, args []string) string {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := run(ts, args)
		if text := strings.TrimSpace(ts.ReadFile("stdout")); err == nil && text != "" {
			return text
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: waited in vain for output: %v", strings.Join(args, " "), err)
		}
	}
}

// cmdNote is "note NAME podd ARG…", or kubectl: it remembers what the command printed, for
// $NAME and same.
func cmdNote(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || args[1] != "podd" && args[1] != "kubectl" {
		ts.Fatalf("usage: note NAME podd|kubectl ARG…")
	}
	value := printed(ts, args[1:])
	worldOf(ts).notes[args[0]] = value
	ts.Setenv(args[0], value)
}

// cmdSame is "same NAME podd ARG…", or kubectl: the command prints what it printed when it
// was noted; with "!" something else.
func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || args[1] != "podd" && args[1] != "kubectl" {
		ts.Fatalf("usage: same NAME podd|kubectl ARG…")
	}
	was, is := worldOf(ts).notes[args[0]], printed(ts, args[1:])
	if (was == is) == neg {
		ts.Fatalf("%s was noted as %q and is now %q", args[0], was, is)
	}
}

// cmdKill is "kill UID CONTAINER": SIGKILL to the container's main process, from
// the host.
func cmdKill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: kill UID CONTAINER")
	}
	// The newest attempt's exit file begins with the pid.
	files, err := filepath.Glob(filepath.Join(worldOf(ts).dir, "run/pods", args[0], "c", args[1], "*", "exit"))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("container %s never started", args[1])
	}
	newest, attempt := "", -1
	for _, f := range files {
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil && n > attempt {
			newest, attempt = f, n
		}
	}
	c, err := sandbox.ReadExitFile(newest)
	ts.Check(err)
	if c.Exit != nil {
		ts.Fatalf("attempt %d of container %s has exited already", attempt, args[1])
	}
	ts.Check(unix.Kill(c.Pid, unix.SIGKILL))
}

// cmdLose is "lose POD": SIGKILL to the pod's pause process, from the host.
func cmdLose(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: lose POD")
	}
	ts.Check(runPodd(ts, []string{"get", args[0], "-o", "json"}))
	var p v1.Pod
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &p))
	data, err := os.ReadFile(filepath.Join(worldOf(ts).dir, "run/pods", string(p.UID), "pause.pid"))
	ts.Check(err)
	pid, _, _ := strings.Cut(string(data), " ")
	n, err := strconv.Atoi(pid)
	ts.Check(err)
	ts.Check(unix.Kill(n, unix.SIGKILL))
}

// cmdClean waits until nothing of the world's pods is left.
func cmdClean(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	var left string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = w.things(); left == "" {
			return
		}
	}
	ts.Fatalf("left behind:\n%s\nagent:\n%s", left, w.agentLog())
}

// cmdApply is "apply FILE…": the files become manifests at one stroke each.
// $WORK in them is the script's directory.
func cmdApply(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: apply FILE…")
	}
	for _, name := range args {
		text := strings.ReplaceAll(ts.ReadFile(name), "$WORK", worldOf(ts).dir)
		dir := filepath.Join(worldOf(ts).dir, "manifests")
		hidden := filepath.Join(dir, "."+filepath.Base(name))
		ts.Check(os.WriteFile(hidden, []byte(text), 0o644))
		ts.Check(os.Rename(hidden, filepath.Join(dir, filepath.Base(name))))
	}
}

// cmdHost is "host PROGRAM ARG…": a program in the network of the agent's host.
func cmdHost(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: host PROGRAM ARG…")
	}
	w := worldOf(ts)
	cmd := exec.Command(args[0], args[1:]...)
	if args[0] == "podd" {
		cmd = w.command(args[1:]...)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = w.dir, ts.Stdout(), ts.Stderr()
	err := w.inHost(cmd.Run)
	if neg != (err != nil) {
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

// cmdFollow is "follow FILE podd ARG…": podd runs until the script ends and
// writes to FILE.
func cmdFollow(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || args[1] != "podd" {
		ts.Fatalf("usage: follow FILE podd ARG…")
	}
	w := worldOf(ts)
	out, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer out.Close()
	cmd := w.command(args[2:]...)
	cmd.Stdout, cmd.Stderr = out, out
	ts.Check(cmd.Start())
	w.ends = append(w.ends, func() {
		cmd.Process.Kill()
		cmd.Wait() // its end was forced
	})
}

// cmdAPI is "api METHOD PATH [FILE]": a request to the Kubernetes API, as root over
// the agent's socket; FILE is YAML. The answer can be asked for with stdout, its
// warnings with stderr. With "!" it is refused.
func cmdAPI(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: api METHOD PATH [FILE]")
	}
	var body io.Reader
	if len(args) == 3 {
		body = strings.NewReader(ts.ReadFile(args[2]))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, args[0], "http://podd"+args[1], body)
	ts.Check(err)
	r.Header.Set("Content-Type", "application/yaml")
	socket := filepath.Join(worldOf(ts).dir, "run", "podd.sock")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	answer, err := client.Do(r)
	ts.Check(err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	ts.Check(err)
	ts.Stdout().Write(text)
	fmt.Fprintln(ts.Stderr(), strings.Join(answer.Header["Warning"], "\n"))
	if neg != (answer.StatusCode >= 400) {
		ts.Fatalf("api %s: %s: %s", strings.Join(args, " "), answer.Status, text)
	}
}
