package native

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/logs"
	"podd/pod"
)

// Source: kubelet, pkg/kubelet/kuberuntime/kuberuntime_container.go,
// getTerminationMessage and readLastStringFromContainerLogs.
func TestTerminationMessages(t *testing.T) {
	const fallback = v1.TerminationMessageFallbackToLogsOnError
	short := func(n int) (all string) {
		for i := range n {
			all += fmt.Sprintf("line %d\n", i)
		}
		return all
	}
	for _, tc := range []struct {
		name   string
		file   string // what the container wrote to its terminationMessagePath
		log    string
		policy v1.TerminationMessagePolicy
		code   int
		want   string
	}{
		{"the file", "out of cheese\n", "log\n", v1.TerminationMessageReadFile, 1, "out of cheese\n"},
		{"the file after a success", "all done", "", v1.TerminationMessageReadFile, 0, "all done"},
		{"its last 4096 bytes", strings.Repeat("a", 100) + strings.Repeat("b", 4096), "", v1.TerminationMessageReadFile, 1, strings.Repeat("b", 4096)},
		{"no character is cut in two", "é" + strings.Repeat("b", 4095), "", v1.TerminationMessageReadFile, 1, strings.Repeat("b", 4095)},
		{"an empty file is no message", "", "log\n", v1.TerminationMessageReadFile, 1, ""},
		{"the log after an error", "", "last words\n", fallback, 1, "last words\n"},
		{"the file before the log", "file", "log\n", fallback, 1, "file"},
		{"no log after a success", "", "log\n", fallback, 0, ""},
		{"the log's last 80 lines", "", short(100), fallback, 1, strings.TrimPrefix(short(100), short(20))},
		{"the log's last 2048 bytes", "", strings.Repeat("y", 3000) + "\n", fallback, 1, strings.Repeat("y", 2047) + "\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			r := &Runtime{Config: Config{RootDir: filepath.Join(dir, "root"), RunDir: filepath.Join(dir, "run"), PodLogsDir: filepath.Join(dir, "logs")}}
			p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u"}}
			p.Spec.Containers = []v1.Container{{Name: "app", TerminationMessagePolicy: tc.policy}}
			target := pod.Target{UID: p.UID, Pod: p}
			if err := r.makeDirs(target, "app", 3); err != nil {
				t.Fatal(err)
			}
			var log strings.Builder
			for line := range strings.Lines(tc.log) {
				log.WriteString("2026-01-01T00:00:00Z stdout F " + line)
			}
			for path, content := range map[string]string{
				filepath.Join(r.attemptDir(p.UID, "app", 3), terminationLogFile): tc.file,
				logs.File(r.logDir(target, "app"), 3):                            log.String(),
			} {
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.terminationMessage(target, "app", 3, tc.code); got != tc.want {
				t.Errorf("%d bytes, %.60q; want %d, %.60q", len(got), got, len(tc.want), tc.want)
			}
		})
	}
}
