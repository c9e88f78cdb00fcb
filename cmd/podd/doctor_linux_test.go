package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"podd/doctor"
	"podd/internal/kerneltest"
)

// A root directory that can hold no images makes pods impossible: the doctor
// says so, in both forms and with exit code 1, and the agent does not start.
func TestDoctorAndRunRefuse(t *testing.T) {
	kerneltest.Root(t)
	const dir = "/proc/podd"
	podd := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := newRootCommand()
		c.SetArgs(append(args, "--root-dir", dir))
		c.SetOut(&out)
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	const want = "images cannot be mounted in /proc/podd"
	var code exitCode
	out, err := podd("doctor")
	if !errors.As(err, &code) || code != 1 || !strings.Contains(out, "fail  "+want) {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	out, err = podd("doctor", "-o", "json")
	var findings []doctor.Finding
	if json.Unmarshal([]byte(out), &findings) != nil || !errors.As(err, &code) || len(findings) < 10 {
		t.Errorf("doctor -o json: %v\n%s", err, out)
	}
	if _, err := podd("run", "--run-dir", t.TempDir(), "--pause-binary", "/proc/self/exe"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("run: %v, want %q", err, want)
	}
}
