package images

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Healthcheck returns, for an image with a HEALTHCHECK, a text that says that
// Kubernetes does not run it, with the probe that would replace it as YAML; for
// other images the empty string.
func Healthcheck(img *Image) string {
	check := img.Config.Config.Healthcheck
	if check == nil || len(check.Test) == 0 || check.Test[0] == "NONE" {
		return ""
	}
	var command []string
	switch check.Test[0] {
	case "CMD":
		command = check.Test[1:]
	case "CMD-SHELL":
		shell := img.Config.Config.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		command = append(shell[:len(shell):len(shell)], strings.Join(check.Test[1:], " "))
	default:
		command = check.Test
	}
	if len(command) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "image %s has a HEALTHCHECK, which a pod does not use; this probe in the container's spec does the same:\n", img.displayName())
	fmt.Fprintf(&b, "livenessProbe:\n  exec:\n    command: %s\n", flowSequence(command))
	fmt.Fprintf(&b, "  periodSeconds: %d\n", wholeSeconds(check.Interval, 30))
	fmt.Fprintf(&b, "  timeoutSeconds: %d\n", wholeSeconds(check.Timeout, 30))
	retries := check.Retries
	if retries <= 0 {
		retries = 3
	}
	fmt.Fprintf(&b, "  failureThreshold: %d\n", retries)
	if check.StartPeriod > 0 {
		fmt.Fprintf(&b, "  initialDelaySeconds: %d\n", wholeSeconds(check.StartPeriod, 0))
	}
	return b.String()
}

// flowSequence writes strings as a YAML flow sequence, of which JSON is a subset.
func flowSequence(list []string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(list); err != nil {
		panic("strings cannot be encoded: " + err.Error())
	}
	return strings.TrimSpace(b.String())
}

// wholeSeconds rounds up, and takes docker's default for zero.
func wholeSeconds(d time.Duration, otherwise int64) int64 {
	if d <= 0 {
		return otherwise
	}
	return int64((d + time.Second - 1) / time.Second)
}
