package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// execProfiles is a pod whose probes start processes that leave the probe's
// session and parent, and then hang. There is one attempt of each.
const execProfiles = `
apiVersion: v1
kind: Pod
metadata: {name: profiles}
spec:
  terminationGracePeriodSeconds: 0
  containers:
`

const execProfile = `
  - name: %s
    image: busybox:1.36
    command: [sh, -c, "while :; do sleep 1; done"]
    securityContext: %s
    readinessProbe:
      timeoutSeconds: 5
      periodSeconds: 3600
      exec: {command: [sh, -c, "(setsid sh -c 'sleep 91371 & exec sleep 91372' &); exec sleep 91373"]}
`

// Exec probes that run into their timeout die in a cgroup of their own, whatever
// they started and whatever the container's profile is: through a thread of the
// pause process, and through a stage.
func TestTimedOutProbesLeaveNothingInAnyProfile(t *testing.T) {
	t.Parallel()
	s := tell(t, []string{busyboxImage(t)}, "--strict-probes")
	must(t, os.MkdirAll(filepath.Join(s.dir, "root/seccomp"), 0o755))
	must(t, os.WriteFile(filepath.Join(s.dir, "root/seccomp/own.json"), []byte(
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone3", "close_range", "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}`), 0o644))
	profiles := map[string]string{
		"default":    `{runAsUser: 1000}`,
		"nonewprivs": `{runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}`,
		"unconfined": `{runAsUser: 1000, seccompProfile: {type: Unconfined}}`,
		"localhost":  `{runAsUser: 1000, seccompProfile: {type: Localhost, localhostProfile: own.json}}`,
		"privileged": `{runAsUser: 1000, privileged: true}`,
		"ptrace":     `{runAsUser: 1000, capabilities: {add: [SYS_PTRACE]}}`,
		"root":       `{}`,
	}
	manifest := execProfiles
	for name, sc := range profiles {
		manifest += fmt.Sprintf(execProfile, name, sc)
	}
	s.drop("profiles", manifest)
	// Not all at once: where the machine is slow, the first are killed before the last start.
	most := map[string]int{}
	s.within(2*time.Minute, "each probe's strays run in a cgroup of their own", func() bool {
		time.Sleep(200 * time.Millisecond) // they last for seconds, and to look through all processes takes long
		groups := map[string]int{}
		for _, p := range s.strays() {
			if !regexp.MustCompile(`/podd-exec-\d+$`).MatchString(p) {
				t.Fatalf("a probe's process is in the cgroup %q", p)
			}
			groups[p]++
		}
		complete := 0
		for group, n := range groups {
			most[group] = max(most[group], n)
		}
		for _, n := range most {
			if n == 3 {
				complete++
			}
		}
		return len(most) == len(profiles) && complete == len(profiles)
	})
	s.eventually("no process of the probes is left", func() bool { return len(s.strays()) == 0 })
	s.eventually("no cgroup of the probes is left", func() bool { return s.execGroups() == "" })
	// The reason is the timeout, and not an end of the containers.
	for name := range profiles {
		s.until(`Readiness probe failed: .*timed out`, "describe", "profiles")
		if c := containers(s.pod("profiles"))[name]; c.RestartCount != 0 || c.State.Running == nil {
			t.Errorf("container %s: %+v", name, c)
		}
	}
}

// strays are the cgroups, in the v2 hierarchy, of the processes that the probes
// of this world have started, by pid.
func (s *story) strays() map[string]string {
	all := map[string]string{}
	procs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, p := range procs {
		args, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup")) // both empty of a process that is gone
		if !strings.HasPrefix(string(args), "sleep\x009137") || !strings.Contains(string(groups), "/"+s.name+"/") {
			continue
		}
		all[p] = "none"
		for line := range strings.Lines(string(groups)) {
			if group, unified := strings.CutPrefix(strings.TrimSpace(line), "0::"); unified {
				all[p] = group
			}
		}
	}
	return all
}

// execGroups lists the cgroups of execs.
func (s *story) execGroups() string {
	var all []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, s.name+"/") && strings.HasPrefix(d.Name(), "podd-exec-") {
			all = append(all, path)
		}
		return nil
	})
	return strings.Join(all, "\n")
}
