package store

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/pod"
)

var _ pod.Store = (*Store)(nil)

// opened opens a store; log collects what it reports.
func opened(t testing.TB, root, run, boot string, log *[]string) *Store {
	t.Helper()
	s, err := Open(Config{RootDir: root, RunDir: run, BootID: boot, Logger: funcr.New(func(_, args string) {
		if log != nil {
			*log = append(*log, args)
		}
	}, funcr.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(uid types.UID, restarts int) pod.Record {
	return pod.Record{
		UID: uid, Key: pod.Key{Namespace: "default", Name: "web"},
		Pod:    &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: uid}},
		Origin: pod.Origin{File: "web.yaml", Line: 1},
		Observed: pod.Observed{
			Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
			Containers: map[string]pod.Container{"app": {
				Tried: true, Attempt: restarts,
				Backoff: pod.Backoff{Delay: 40 * time.Second},
				Running: &pod.Running{ID: "abc", Readiness: pod.VerdictSuccess},
			}},
		},
	}
}

// listed expects exactly one record.
func listed(t *testing.T, s *Store) pod.Record {
	t.Helper()
	records, err := s.List()
	if err != nil || len(records) != 1 {
		t.Fatalf("List: %d records, %v; want one", len(records), err)
	}
	return records[0]
}

func TestWithinOneBootTheNoteIsNewerThanTheRecord(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	s := opened(t, root, run, "boot-1", nil)
	if err := s.Save(record("u1", 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Note(record("u1", 2)); err != nil {
		t.Fatal(err)
	}
	got := listed(t, opened(t, root, run, "boot-1", nil))
	if c := got.Observed.Containers["app"]; c.Attempt != 2 || got.Rebooted {
		t.Fatalf("attempt %d, rebooted %v; want 2 of the note, same boot", c.Attempt, got.Rebooted)
	}
	if c := got.Observed.Containers["app"]; c.Backoff.Delay != 40*time.Second || c.Running.Readiness != pod.VerdictSuccess {
		t.Fatalf("back-off or verdict lost: %+v", c)
	}
}

// The end of a sandbox takes the directory in which the pod's state is noted, while
// nothing is in it.
func TestANoteOutlivesTheEndOfTheSandbox(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	s := opened(t, root, run, "boot-1", nil)
	for range 2000 {
		if err := s.Delete("u1"); err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- removedOnce(filepath.Join(run, "pods", "u1")) }()
		if err := s.Note(record("u1", 1)); err != nil {
			t.Fatal(err)
		}
		if err := <-over; err != nil {
			t.Fatal(err)
		}
	}
}

// removedOnce removes an empty directory as soon as it is there, unless something is in
// it by then.
func removedOnce(dir string) error {
	for {
		err := os.Remove(dir)
		switch {
		case err == nil, errors.Is(err, syscall.ENOTEMPTY):
			return nil
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
}

func TestANoteWithoutARecordIsEnough(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	if err := opened(t, root, run, "boot-1", nil).Note(record("u1", 0)); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, opened(t, root, run, "boot-1", nil)); got.UID != "u1" || got.Origin.Line != 1 {
		t.Fatalf("got %+v", got)
	}
}

func TestAfterARebootTheRecordCountsAndSaysSo(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	s := opened(t, root, run, "boot-1", nil)
	if err := s.Save(record("u1", 3)); err != nil {
		t.Fatal(err)
	}
	if err := s.Note(record("u1", 2)); err != nil { // a run directory that outlives the boot
		t.Fatal(err)
	}
	got := listed(t, opened(t, root, run, "boot-2", nil))
	if got.Observed.Containers["app"].Attempt != 3 || !got.Rebooted {
		t.Fatalf("attempt %d, rebooted %v; want 3 of the record, rebooted", got.Observed.Containers["app"].Attempt, got.Rebooted)
	}
}

func TestWhatCannotBeReadIsSetAsideAndReported(t *testing.T) {
	good, err := json.Marshal(file{Version: version, Boot: "b", Record: record("u2", 0)})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"cut off":         string(good[:len(good)/2]),
		"empty":           "",
		"another version": strings.Replace(string(good), `"version":1`, `"version":7`, 1),
		"another pod":     string(good),
		"no pod":          `{"version":1,"record":{"uid":"u1"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			root, run := t.TempDir(), t.TempDir()
			var log []string
			s := opened(t, root, run, "b", &log)
			if err := s.Save(record("u1", 0)); err != nil {
				t.Fatal(err)
			}
			if err := s.Save(record("u3", 0)); err != nil {
				t.Fatal(err)
			}
			bad := path(root, "u1", recordFile)
			if err := os.WriteFile(bad, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := listed(t, s); got.UID != "u3" {
				t.Fatalf("got %s; want the other pod's record alone", got.UID)
			}
			aside, _ := filepath.Glob(bad + ".bad-*")
			if len(aside) != 1 {
				t.Fatalf("set aside: %v; want one file", aside)
			}
			if kept, _ := os.ReadFile(aside[0]); string(kept) != content {
				t.Fatal("what was set aside is not what was there")
			}
			if len(log) != 1 || !strings.Contains(log[0], "u1") {
				t.Fatalf("reported: %q; want one report naming the pod", log)
			}
		})
	}
}

func TestABadNoteLeavesTheRecord(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	s := opened(t, root, run, "b", nil)
	if err := s.Save(record("u1", 5)); err != nil {
		t.Fatal(err)
	}
	if err := s.Note(record("u1", 6)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path(run, "u1", noteFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, s); got.Observed.Containers["app"].Attempt != 5 {
		t.Fatalf("got %+v", got.Observed)
	}
}

// A start of the agent shows each pod as it was: the disk is not asked to keep that once more.
func TestWhatIsThereAlreadyIsNotWrittenAgain(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	files := map[string]string{"record": path(root, "u1", recordFile), "note": path(run, "u1", noteFile)}
	// written expects that exactly the files of these names were replaced by f.
	written := func(names string, f func()) {
		t.Helper()
		before := map[string]os.FileInfo{}
		for name, path := range files {
			before[name], _ = os.Stat(path) // nil: not there
		}
		f()
		for name, path := range files {
			now, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if replaced := before[name] == nil || !os.SameFile(before[name], now); replaced != strings.Contains(names, name) {
				t.Errorf("%s replaced: %v; want %q replaced", name, replaced, names)
			}
		}
	}
	both := func(s *Store, restarts int) func() {
		return func() {
			if err := errors.Join(s.Note(record("u1", restarts)), s.Save(record("u1", restarts))); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := opened(t, root, run, "b", nil)
	written("record, note", both(s, 1))
	written("", both(s, 1))
	for _, path := range files { // somebody else tidied up
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	written("record, note", both(s, 1))
	if err := s.Note(record("u1", 2)); err != nil {
		t.Fatal(err)
	}
	next := opened(t, root, run, "b", nil)
	listed(t, next)
	written("record", both(next, 2)) // the note has it
	written("record, note", both(next, 3))
	next = opened(t, root, run, "b", nil)
	listed(t, next)
	written("", both(next, 3))
	next = opened(t, root, run, "another", nil)
	listed(t, next)
	written("record, note", both(next, 3)) // the files name the boot
	if err := next.Delete("u1"); err != nil {
		t.Fatal(err)
	}
	written("record, note", both(next, 3))
}

func TestDeleteLeavesNothing(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	s := opened(t, root, run, "b", nil)
	for _, err := range []error{s.Save(record("u1", 0)), s.Note(record("u1", 0)), s.Delete("u1"), s.Delete("u1")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{root, run} {
		if left, _ := os.ReadDir(filepath.Join(dir, "pods")); len(left) != 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}

func TestDeleteRemovesWhatAKilledSaveLeft(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	s := opened(t, root, run, "b", nil)
	if err := s.Save(record("u1", 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "pods", "u1", ".record.json.123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("u1"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(root, "pods")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDeleteKeepsWhatOthersPutThere(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	s := opened(t, root, run, "b", nil)
	if err := s.Save(record("u1", 0)); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(root, "pods", "u1", "volumes")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("u1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(volume); err != nil {
		t.Fatal(err)
	}
}

func TestAUIDThatLeavesItsDirectoryIsRefused(t *testing.T) {
	s := opened(t, t.TempDir(), t.TempDir(), "b", nil)
	for _, uid := range []types.UID{"", "..", ".", "../x", "a/b", "a\x00b"} {
		if s.Save(record(uid, 0)) == nil || s.Note(record(uid, 0)) == nil || s.Delete(uid) == nil {
			t.Errorf("UID %q was accepted", uid)
		}
	}
}

// FuzzParse: parse never panics, and what it accepts it writes back unchanged.
func FuzzParse(f *testing.F) {
	good, err := json.Marshal(file{Version: version, Boot: "b", Record: record("u1", 2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"record":{"uid":"u","pod":{"spec":{"containers":[{"resources":{"limits":{"cpu":"1500m"}}}]}}}}`))
	f.Add([]byte(`{"version":1,"record":{"uid":"u","pod":{"metadata":{"creationTimestamp":"0000-01-01T00:00:00+01:00"}}}}`))
	f.Add([]byte(`{"version":1,"record":{"uid":"u","pod":{},"observed":{"since":"2026-01-01T00:00:00Z","ending":{"then":"remove"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := parse(data)
		if err != nil {
			return
		}
		written, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("accepted, but cannot be written: %v", err)
		}
		second, err := parse(written)
		if err != nil {
			t.Fatalf("written, but cannot be read: %v\n%s", err, written)
		}
		again, err := json.Marshal(second)
		if err != nil || string(again) != string(written) {
			t.Fatalf("not the same after reading again: %v\n%s\n%s", err, written, again)
		}
	})
}

// BenchmarkNote is on the way of every action of a pod.
func BenchmarkNote(b *testing.B) {
	s := opened(b, b.TempDir(), b.TempDir(), "b", nil)
	r := record("u1", 2)
	for range 3 {
		r.Pod.Spec.Containers = append(r.Pod.Spec.Containers, v1.Container{
			Name: "app", Image: "example.com/app:1", Command: []string{"httpd", "-D", "FOREGROUND"},
			Env:           []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
			VolumeMounts:  []v1.VolumeMount{{Name: "data", MountPath: "/data"}},
			LivenessProbe: &v1.Probe{PeriodSeconds: 10},
		})
	}
	for b.Loop() {
		if err := s.Note(r); err != nil {
			b.Fatal(err)
		}
	}
}
