// Package dist holds what is installed beside the programs.
package dist

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"
)

// unit reads a systemd unit: section and key, as Service.KillMode, to its values
// in order.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	f, err := os.Open("systemd/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	settings := map[string][]string{}
	section := ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		key, value, found := strings.Cut(line, "=")
		switch {
		case line == "", line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		case !found || section == "":
			t.Errorf("%s: cannot read line %q", name, line)
		default:
			settings[section+"."+key] = append(settings[section+"."+key], value)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return settings
}

func expect(t *testing.T, name string, want map[string]string) {
	t.Helper()
	settings := unit(t, name)
	for key, value := range want {
		if got := settings[key]; !slices.Equal(got, []string{value}) {
			t.Errorf("%s: %s is %q; want %q once", name, key, got, value)
		}
	}
}

// With systemd's defaults a restart of the agent would kill every pod.
func TestStoppingTheAgentStopsNoPod(t *testing.T) {
	expect(t, "podd.service", map[string]string{
		"Service.KillMode":           "process",
		"Service.OOMPolicy":          "continue",
		"Service.Restart":            "always",
		"Service.Type":               "notify",
		"Service.TasksMax":           "infinity",
		"Unit.StartLimitIntervalSec": "0",
	})
	settings := unit(t, "podd.service")
	if seconds := settings["Service.WatchdogSec"]; len(seconds) != 1 || seconds[0] == "0" || seconds[0] == "infinity" {
		t.Errorf("WatchdogSec is %q; want a time", seconds)
	}
	// Pods would end with their agent, or with each other.
	for _, key := range []string{"Unit.BindsTo", "Unit.Requires", "Unit.PartOf", "Service.ExecStop", "Service.ExecStopPost"} {
		if got := settings[key]; got != nil {
			t.Errorf("%s is %q; want none", key, got)
		}
	}
}

// Sources: systemd.exec(5), the options that say that they imply a mount
// namespace or that file system name spacing is used; systemd.exec(5) for
// RuntimeDirectory, which is removed when the service stops.
func TestTheAgentSharesTheHostsMounts(t *testing.T) {
	forbidden := []string{
		"RootDirectory", "RootImage", "RootEphemeral", "MountAPIVFS", "BindPaths", "BindReadOnlyPaths", "MountImages", "ExtensionImages",
		"ExtensionDirectories", "DynamicUser", "ProtectSystem", "ProtectHome", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths",
		"ExecPaths", "NoExecPaths", "TemporaryFileSystem", "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC", "PrivateUsers",
		"PrivateNetwork", "NetworkNamespacePath", "IPCNamespacePath", "ProtectHostname", "ProtectKernelTunables", "ProtectKernelModules",
		"ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProcSubset", "LogNamespace", "MountFlags", "RuntimeDirectory",
		"LoadCredential", "SetCredential", "NoNewPrivileges", "RestrictNamespaces", "SystemCallFilter", "CapabilityBoundingSet", "User",
	}
	for key, values := range unit(t, "podd.service") {
		section, option, _ := strings.Cut(key, ".")
		if section != "Service" {
			continue
		}
		for _, f := range forbidden {
			if strings.HasPrefix(option, f) {
				t.Errorf("podd.service: %s=%s takes from the agent what pods need", option, values)
			}
		}
	}
}

// systemd must not move, limit or remove the control groups of pods, whatever
// becomes of the agent.
func TestPodsHaveAControlGroupOfTheirOwn(t *testing.T) {
	expect(t, "podd-pods.service", map[string]string{
		"Service.Type":            "oneshot",
		"Service.RemainAfterExit": "yes",
		"Service.Delegate":        "yes",
		"Service.Slice":           "podd.slice",
		"Service.KillMode":        "process",
		"Service.OOMPolicy":       "continue",
		"Service.TasksMax":        "infinity",
		"Unit.RefuseManualStop":   "yes",
	})
	agent := unit(t, "podd.service")
	start := strings.Join(agent["Service.ExecStart"], " ")
	if !strings.Contains(start, " --cgroup-root podd.slice/podd-pods.service ") {
		t.Errorf("the agent is started as %q, without the control group of podd-pods.service", start)
	}
	for _, key := range []string{"Unit.Wants", "Unit.After"} {
		if !strings.Contains(strings.Join(agent[key], " "), "podd-pods.service") {
			t.Errorf("podd.service: %s does not name podd-pods.service", key)
		}
	}
}
