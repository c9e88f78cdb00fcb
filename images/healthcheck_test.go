package images

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestHealthcheckIsReportedAsAProbe(t *testing.T) {
	image := func(check *v1.HealthConfig, shell ...string) *Image {
		return &Image{Names: []string{"web:1"}, Config: &v1.ConfigFile{Config: v1.Config{Healthcheck: check, Shell: shell}}}
	}
	for _, test := range []struct {
		name    string
		image   *Image
		command []string
		numbers []int32 // period, timeout, failures, initial delay
	}{
		{"none", image(nil), nil, nil},
		{"disabled", image(&v1.HealthConfig{Test: []string{"NONE"}}), nil, nil},
		{"defaults", image(&v1.HealthConfig{Test: []string{"CMD", "curl", "-f", "http://localhost/?a=1&b=<2>"}}), []string{"curl", "-f", "http://localhost/?a=1&b=<2>"}, []int32{30, 30, 3, 0}},
		{"all given", image(&v1.HealthConfig{Test: []string{"CMD-SHELL", `test "$X" = 'y: z' # no`}, Interval: 5 * time.Second, Timeout: 1500 * time.Millisecond, StartPeriod: time.Minute, Retries: 7}), []string{"/bin/sh", "-c", `test "$X" = 'y: z' # no`}, []int32{5, 2, 7, 60}},
		{"another shell", image(&v1.HealthConfig{Test: []string{"CMD-SHELL", "x"}}, "/bin/bash", "-ec"), []string{"/bin/bash", "-ec", "x"}, []int32{30, 30, 3, 0}},
	} {
		text := Healthcheck(test.image)
		if test.command == nil {
			if text != "" {
				t.Errorf("%s: %q", test.name, text)
			}
			continue
		}
		first, probe, _ := strings.Cut(text, "\n")
		if !strings.Contains(first, "image web:1 has a HEALTHCHECK") {
			t.Errorf("%s: first line is %q", test.name, first)
		}
		var c corev1.Container
		if err := yaml.UnmarshalStrict([]byte(probe), &c); err != nil || c.LivenessProbe == nil || c.LivenessProbe.Exec == nil {
			t.Errorf("%s: %v in\n%s", test.name, err, probe)
			continue
		}
		p := c.LivenessProbe
		got, _ := json.Marshal([]any{p.Exec.Command, []int32{p.PeriodSeconds, p.TimeoutSeconds, p.FailureThreshold, p.InitialDelaySeconds}})
		want, _ := json.Marshal([]any{test.command, test.numbers})
		if string(got) != string(want) {
			t.Errorf("%s: probe is %s, want %s", test.name, got, want)
		}
	}
}
