package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hidden is what must not be found. It is told in parts so that it is in no
// program.
func hidden() string { return strings.Join([]string{"xyzzy", "plugh", "7f3a9c"}, "-") }

func secretManifest(value string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {password: " + value + "}\n"
}

const secretPod = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, secret: {secretName: login}}]
  containers:
  - name: app
    image: busybox:1.36
    command: [sleep, "1000"]
    env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}]
    volumeMounts: [{name: v, mountPath: /v}]
`

// holds says whether data has text, as it is or as JSON and YAML write a Secret's data.
func holds(data []byte, text string) bool {
	encoded := base64.StdEncoding.EncodeToString([]byte(text)[:len(text)/3*3])
	return bytes.Contains(data, []byte(text)) || bytes.Contains(data, []byte(encoded))
}

// filesWith lists the files below dir that hold text. With oneDevice what is
// mounted there is left out: it is not on the disk.
func filesWith(t *testing.T, dir, text string, oneDevice bool) []string {
	t.Helper()
	var top unix.Stat_t
	if err := unix.Stat(dir, &top); err != nil {
		t.Fatal(err)
	}
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil // it has just gone
		}
		if d.IsDir() && oneDevice && st.Dev != top.Dev {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		if data, err := os.ReadFile(path); err == nil && holds(data, text) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// inMemoryOf counts how often text is in the writable memory of a process.
func inMemoryOf(t *testing.T, pid int, text string) int {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	n, read := 0, 0
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		buf := make([]byte, 1<<20)
		for at := from; at < to; at += uint64(len(buf)) {
			got, _ := mem.ReadAt(buf[:min(uint64(len(buf)), to-at)], int64(at))
			n += bytes.Count(buf[:got], []byte(text))
			read += got
		}
	}
	if read == 0 {
		t.Fatal("no memory of the agent could be read")
	}
	return n
}

// What a Secret holds is in its manifest, in the container and in memory, and in
// no other file, log or answer; when manifest and pod are gone, in no file at all.
func TestSecretsAreInNoFileButTheirManifest(t *testing.T) {
	t.Parallel()
	s := tell(t, []string{busyboxImage(t)}, "-v", "1")
	text := hidden()
	s.drop("login", secretManifest(text))
	s.drop("web", secretPod)
	s.until("web +1/1 +Running", "get")
	if got := s.sh("web", "app", "cat /v/password; echo; echo $PASSWORD"); strings.Count(got, text) != 2 {
		t.Fatalf("the container has %q", got)
	}
	time.Sleep(500 * time.Millisecond) // records are written a little later
	for dir, want := range map[string]string{"root": "", "logs": "", "manifests": "manifests/login.yaml", "run": "run/sources/default_login.json"} {
		var found []string
		for _, path := range filesWith(t, filepath.Join(s.dir, dir), text, true) {
			found = append(found, strings.TrimPrefix(path, s.dir+"/"))
		}
		if got := strings.Join(found, " "); got != want {
			t.Errorf("%s: in the files %q, want %q", dir, got, want)
		}
	}
	// A mistake in the Secret, and what is told of it.
	s.drop("login", strings.Replace(secretManifest(text), "password: ", "password: [", 1)+"]\n")
	s.eventually("the mistake is told", func() bool { return strings.Contains(s.agentLog(), "manifest refused") })
	s.drop("login", secretManifest(text+"-2"))
	s.eventually("the edit arrives", func() bool { return strings.Contains(s.sh("web", "app", "cat /v/password"), text+"-2") })
	for _, args := range [][]string{{"describe", "web"}, {"get", "web", "-o", "json"}, {"get", "web", "-o", "yaml"}, {"check", "manifests"}} {
		if out, err := s.podd(args...); holds([]byte(out), text) || err != nil && holds([]byte(err.Error()), text) {
			t.Errorf("podd %s tells the secret: %s", strings.Join(args, " "), out)
		}
	}
	if holds([]byte(s.agentLog()), text) {
		t.Error("the agent's log tells the secret")
	}
	held := inMemoryOf(t, s.agent.Process.Pid, text)
	s.remove("web")
	s.remove("login")
	s.eventually("the pod is gone", func() bool { return s.things() == "" })
	s.eventually("the kept Secret is gone", func() bool { return len(filesWith(t, filepath.Join(s.dir, "run"), text, false)) == 0 })
	for _, dir := range []string{"root", "logs", "run", "manifests"} {
		if found := filesWith(t, filepath.Join(s.dir, dir), text, false); len(found) > 0 {
			t.Errorf("after the pod and its Secret are gone: %v", found)
		}
	}
	// Go frees memory without clearing it: that it is gone from there at once is no
	// promise, only told. The agent gives memory back after three quiet seconds.
	time.Sleep(5 * time.Second)
	t.Logf("in the agent's memory: %d times with the pod, %d times 5 s after its end", held, inMemoryOf(t, s.agent.Process.Pid, text))
}

// From the rename of a manifest to the file that a container sees.
func TestEditsReachVolumesWithinASecond(t *testing.T) {
	s := tell(t, []string{busyboxImage(t)})
	s.drop("login", secretManifest("v0"))
	s.drop("web", secretPod)
	s.until("web +1/1 +Running", "get")
	found, err := filepath.Glob(filepath.Join(s.dir, "root/pods/*/volumes/kubernetes.io~secret/v/password"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the volume's file: %v, %v", found, err)
	}
	var took []time.Duration
	for i := range 50 {
		want := fmt.Sprintf("v%d", i+1)
		began := time.Now()
		s.drop("login", secretManifest(want))
		for {
			if data, err := os.ReadFile(found[0]); err == nil && string(data) == want {
				break
			}
			if time.Since(began) > patience {
				t.Fatalf("edit %d does not arrive", i)
			}
			time.Sleep(200 * time.Microsecond)
		}
		took = append(took, time.Since(began))
	}
	if got := s.sh("web", "app", "cat /v/password"); got != "v50" {
		t.Errorf("the container sees %q", got)
	}
	slices.Sort(took)
	t.Logf("manifest renamed → file in the volume: median %v, worst %v of %d", took[len(took)/2], took[len(took)-1], len(took))
	if worst := took[len(took)-1]; worst > time.Second {
		t.Errorf("an edit took %v, want at most a second", worst)
	}
	if restarts := s.pod("web").Status.ContainerStatuses[0].RestartCount; restarts != 0 {
		t.Errorf("%d restarts", restarts)
	}
}
