package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/yaml"
)

func readConfig(t *testing.T, text string, given ...string) (*runOptions, []string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := &runOptions{globals: &globals{}, gcHigh: 85, gcLow: 80, readOnlyPort: 10255, address: "127.0.0.1"}
	warnings, err := readConfigFile(path, o, func(flag string) bool {
		for _, g := range given {
			if g == flag {
				return true
			}
		}
		return false
	})
	return o, warnings, err
}

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func TestConfigFileSetsWhatFlagsDoNot(t *testing.T) {
	o, warnings, err := readConfig(t, head+`
staticPodPath: /etc/kubernetes/manifests
address: 0.0.0.0
readOnlyPort: 0
fileCheckFrequency: 30s
podPidsLimit: 100
podCIDR: 10.1.0.0/24
clusterDNS: [10.96.0.10]
clusterDomain: example.local
containerLogMaxSize: 20Mi
containerLogMaxFiles: 3
serializeImagePulls: true
imageGCHighThresholdPercent: 90
imageGCLowThresholdPercent: 70
cgroupRoot: /pods
logging: {format: json, verbosity: 2}
`, "address")
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if o.address != "127.0.0.1" {
		t.Errorf("the file won over a flag: address %s", o.address)
	}
	if o.manifests != "/etc/kubernetes/manifests" || o.readOnlyPort != 0 || o.rescan != 30*time.Second || o.podPidsLimit != 100 ||
		o.podCIDR != "10.1.0.0/24" || len(o.clusterDNS) != 1 || o.clusterDomain != "example.local" || o.logMaxBytes != 20<<20 ||
		o.logMaxFiles != 3 || o.parallelPulls != 1 || o.gcHigh != 90 || o.gcLow != 70 || o.cgroupRoot != "pods" ||
		o.logFormat != "json" || o.verbosity != 2 {
		t.Errorf("got %+v", o)
	}
}

// What /configz shows is a configuration that gives the same options.
func TestConfigurationReadAgainGivesTheSameOptions(t *testing.T) {
	o := &runOptions{
		globals: &globals{}, manifests: "/m", podLogsDir: "/logs", address: "192.0.2.1", readOnlyPort: 1, cgroupRoot: "pods",
		podCIDR: "10.1.0.0/24", verbosity: 2, logFormat: "json", rescan: time.Second, podPidsLimit: 100,
		clusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, clusterDomain: "example.local", resolvConf: "/r",
		pullQPS: 7, pullBurst: 8, parallelPulls: 3, gcHigh: 90, gcLow: 70, gcMinAge: time.Minute, gcMaxAge: time.Hour,
		logMaxBytes: 20 << 20, logMaxFiles: 3, allowedSysctls: []string{"net.*"},
	}
	text, err := yaml.Marshal(o.configuration())
	if err != nil {
		t.Fatal(err)
	}
	var shown map[string]any
	if err := yaml.Unmarshal(text, &shown); err != nil {
		t.Fatal(err)
	}
	for _, key := range honouredKeys {
		if _, ok := shown[key]; !ok {
			t.Errorf("%s is not shown", key)
		}
	}
	again, warnings, err := readConfig(t, string(text))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if diff := cmp.Diff(o, again, cmp.AllowUnexported(runOptions{}, globals{}), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	if serial := (&runOptions{parallelPulls: 1}).configuration(); !*serial.SerializeImagePulls {
		t.Error("pulls one after the other are not shown")
	}
}

func TestConfigFileNamesEachKeyThatIsNotHonoured(t *testing.T) {
	_, warnings, err := readConfig(t, head+"maxPods: 10\nevictionHard: {memory.available: 100Mi}\n")
	if err != nil || len(warnings) != 2 || !strings.HasSuffix(warnings[0], "evictionHard: not honoured by podd") ||
		!strings.HasSuffix(warnings[1], "maxPods: not honoured by podd") {
		t.Fatalf("warnings %q, %v", warnings, err)
	}
}

func TestConfigFileErrorsNameTheKeyAndWhatWasExpected(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"another kind":       {"apiVersion: v1\nkind: Pod\n", `expected kind KubeletConfiguration of kubelet.config.k8s.io/v1beta1; found kind "Pod" of "v1"`},
		"not YAML":           {head + "a: [\n", "line"},
		"a duplicate key":    {head + "address: a\naddress: b\n", `"address" already set`},
		"a wrong type":       {head + "readOnlyPort: many\n", "readOnlyPort"},
		"no address":         {head + "clusterDNS: [dns]\n", `clusterDNS: expected IP addresses; found "dns"`},
		"no quantity":        {head + "containerLogMaxSize: big\n", `containerLogMaxSize: expected a quantity such as 10Mi; found "big"`},
		"too few log files":  {head + "containerLogMaxFiles: 1\n", "containerLogMaxFiles: expected at least 2; found 1"},
		"thresholds crossed": {head + "imageGCLowThresholdPercent: 90\n", "imageGCLowThresholdPercent: expected less than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := readConfig(t, tc.text)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// Every key that is read is in the list of honoured keys, and the reverse.
func TestHonouredKeysAreTheOnesThatAreRead(t *testing.T) {
	var text strings.Builder
	text.WriteString(head)
	for _, key := range honouredKeys {
		if key != "apiVersion" && key != "kind" {
			text.WriteString(key + ": null\n")
		}
	}
	if _, warnings, err := readConfig(t, text.String()); err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
}

func TestPodCIDRFlag(t *testing.T) {
	if got, err := parseCIDRs("10.1.0.0/24, fd00::/64"); err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseCIDRs("10.1.0.0"); err == nil || !strings.Contains(err.Error(), `found "10.1.0.0"`) {
		t.Errorf("got %v", err)
	}
}

func TestOptionsThatCannotWorkAreRefusedBeforeAnythingIsMade(t *testing.T) {
	for _, tc := range []struct {
		o    runOptions
		want string
	}{
		{runOptions{address: "0.0.0.0", readOnlyPort: 1}, "--web-config"},
		{runOptions{address: "127.0.0.1", readOnlyPort: 70000}, "--read-only-port: expected 0 to 65535"},
		{runOptions{address: "127.0.0.1", podCIDR: "10.1.0.0"}, `--pod-cidr: expected ranges`},
		{runOptions{address: "127.0.0.1", webConfig: "/nowhere"}, "--web-config"},
		{runOptions{address: "127.0.0.1", pauseBinary: "/nowhere/podd-pause"}, "--pause-binary"},
	} {
		if err := tc.o.validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.o, err, tc.want)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ok := runOptions{address: "0.0.0.0", readOnlyPort: 1, insecureMetrics: true, pauseBinary: self}
	if err := ok.validate(); err != nil {
		t.Error(err)
	}
}

func TestOneAgentPerDirectory(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDirectories(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDirectories(t.TempDir(), dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a second agent took %s: %v", dir, err)
	}
	unlock()
	again, err := lockDirectories(dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestPrefixedLogLines(t *testing.T) {
	var out strings.Builder
	w := &prefixWriter{w: &out, prefix: "[a] "}
	for _, part := range []string{"one\ntw", "o\n", "three"} {
		if _, err := w.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	w.end()
	if got := out.String(); got != "[a] one\n[a] two\n[a] three" {
		t.Fatalf("got %q", got)
	}
}
