package container

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	image "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

var update = flag.Bool("update", false, "rewrite testdata/*.json")

// runtimeMounts are what every container gets besides its volumes.
func runtimeMounts() []Mount {
	return []Mount{
		{Destination: "/etc/hosts", Source: "hosts", Default: true},
		{Destination: "/dev/termination-log", Source: "termination-log", Default: true},
		{Destination: "/etc/hostname", Source: "hostname", Default: true},
		{Destination: "/etc/resolv.conf", Source: "resolv.conf", Default: true},
		{Destination: "/dev/shm", Source: "shm", Default: true},
	}
}

// TestWholeSpecs compares with testdata. Read a difference before -update.
func TestWholeSpecs(t *testing.T) {
	for name, setup := range map[string]func(in *Input){
		"default": func(in *Input) {},
		"everything": func(in *Input) {
			in.CgroupV2 = true
			in.Container.TTY = true
			in.Container.WorkingDir = "/srv"
			in.Container.Args = []string{"--ip", "$(IP)"}
			in.Container.Env = []v1.EnvVar{{Name: "IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}}}
			in.Container.Resources = v1.ResourceRequirements{
				Requests: list("cpu", "250m", "memory", "64Mi"), Limits: list("cpu", "500m", "memory", "128Mi"),
			}
			in.Container.SecurityContext = &v1.SecurityContext{
				RunAsUser: ptr(int64(1000)), RunAsNonRoot: ptr(true), AllowPrivilegeEscalation: ptr(false),
				ReadOnlyRootFilesystem: ptr(true), Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}},
			}
			in.Pod.Spec.SecurityContext.FSGroup = ptr(int64(2000))
			in.Pod.Spec.ShareProcessNamespace = ptr(true)
			in.Mounts = append([]Mount{
				{Destination: "/data/cache/deep", Source: "volume-0"},
				{Destination: "/data", Source: "volume-1", ReadOnly: true, RecursiveReadOnly: true},
			}, in.Mounts...)
		},
		"privileged": func(in *Input) {
			in.Container.SecurityContext = &v1.SecurityContext{Privileged: ptr(true)}
			in.Pod.Spec.HostNetwork, in.Pod.Spec.HostPID, in.Pod.Spec.HostIPC = true, true, true
			in.HostDevices = []specs.LinuxDevice{
				{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
				{Path: "/dev/ptmx", Type: "c", Major: 5, Minor: 2},
				{Path: "/dev/console", Type: "c", Major: 5, Minor: 1},
				{Path: "/dev/pts/0", Type: "c", Major: 136, Minor: 0},
				{Path: "/dev/sda", Type: "b", Major: 8, Minor: 0},
			}
			in.Mounts = append([]Mount{
				{Destination: "/host", Source: "volume-0", Propagation: v1.MountPropagationBidirectional},
			}, in.Mounts...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			in.Image = image.Config{Env: []string{"PATH=/bin", "LANG=C"}, User: "0", WorkingDir: "/work", Cmd: []string{"serve"}}
			in.CPUs = 1
			in.Mounts = runtimeMounts()
			setup(&in)
			spec, err := Spec(in)
			if err != nil {
				t.Fatal(err)
			}
			if spec.Linux.Seccomp != nil {
				// Its content is the seccomp package's to test.
				spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: spec.Linux.Seccomp.DefaultAction}
			}
			got, err := json.MarshalIndent(spec, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("differs from %s:\n%s", path, firstDifference(string(got), string(want)))
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return "one is longer"
}

func TestCommandAndArguments(t *testing.T) {
	for _, tt := range []struct {
		name                           string
		entrypoint, cmd, command, args []string
		want, problem                  string
	}{
		{name: "the image's own", entrypoint: []string{"/e"}, cmd: []string{"c"}, want: "/e c"},
		{name: "args replace CMD", entrypoint: []string{"/e"}, cmd: []string{"c"}, args: []string{"a"}, want: "/e a"},
		{name: "command replaces both", entrypoint: []string{"/e"}, cmd: []string{"c"}, command: []string{"/k"}, want: "/k"},
		{name: "command and args", entrypoint: []string{"/e"}, cmd: []string{"c"}, command: []string{"/k"}, args: []string{"a", "b"}, want: "/k a b"},
		{name: "args alone in an image without entry point", cmd: []string{"c"}, args: []string{"a"}, want: "a"},
		{name: "variables", command: []string{"/$(N)"}, args: []string{"$(N)", "$(M)", "$$(N)", "$(PATH)"}, want: "/n n $(M) $(N) $(PATH)"},
		{name: "the image's are not expanded", entrypoint: []string{"$(N)"}, want: "$(N)"},
		{name: "nothing to run", problem: "no command specified"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			in.Image = image.Config{Entrypoint: tt.entrypoint, Cmd: tt.cmd, Env: []string{"PATH=/bin"}}
			in.Container.Command, in.Container.Args = tt.command, tt.args
			in.Container.Env = []v1.EnvVar{{Name: "N", Value: "n"}}
			spec, err := Spec(in)
			wantError(t, err, ReasonCreate, tt.problem)
			if err == nil && strings.Join(spec.Process.Args, " ") != tt.want {
				t.Errorf("got %q, want %s", spec.Process.Args, tt.want)
			}
		})
	}
}

func TestWhatEveryContainersEnvironmentHas(t *testing.T) {
	for _, tt := range []struct {
		name  string
		image []string
		env   []v1.EnvVar
		tty   bool
		want  []string
	}{
		{"when nobody says anything", nil, nil, false, []string{"HOSTNAME=web", "PATH=" + defaultPath, "HOME=/"}},
		{"with a terminal", nil, nil, true, []string{"HOSTNAME=web", "PATH=" + defaultPath, "TERM=xterm", "HOME=/"}},
		{"the image's order, the pod's values, then new ones", []string{"PATH=/bin", "A=1", "HOME=/h"}, []v1.EnvVar{{Name: "B", Value: "b"}, {Name: "A", Value: "2"}},
			false, []string{"PATH=/bin", "A=2", "HOME=/h", "B=b", "HOSTNAME=web"}},
		{"the pod may set them all", nil, []v1.EnvVar{
			{Name: "HOSTNAME", Value: "h"}, {Name: "PATH", Value: "p"}, {Name: "TERM", Value: "vt100"}, {Name: "HOME", Value: "/o"}}, true,
			[]string{"HOSTNAME=h", "PATH=p", "TERM=vt100", "HOME=/o"}},
		{"a variable of the image without value", []string{"BARE", "PATH="}, nil, false,
			[]string{"BARE=", "PATH=", "HOSTNAME=web", "HOME=/"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			in.Image.Env, in.Container.Env, in.Container.TTY = tt.image, tt.env, tt.tty
			spec, err := Spec(in)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(spec.Process.Env, tt.want) {
				t.Errorf("got  %q\nwant %q", spec.Process.Env, tt.want)
			}
			if spec.Process.Terminal != tt.tty {
				t.Errorf("terminal: got %v", spec.Process.Terminal)
			}
		})
	}
}

func TestWorkingDirectory(t *testing.T) {
	for _, tt := range []struct{ image, own, want string }{
		{"", "", "/"}, {"/i", "", "/i"}, {"/i", "/o", "/o"}, {"rel", "", "/rel"}, {"", "o/../p", "/o/../p"},
	} {
		in := input()
		in.Image.WorkingDir, in.Container.WorkingDir = tt.image, tt.own
		spec, err := Spec(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := spec.Process.Cwd; got != tt.want {
			t.Errorf("%+v: got %s", tt, got)
		}
	}
}

func TestMounts(t *testing.T) {
	defaults := "/proc /dev /dev/pts /dev/mqueue /sys /sys/fs/cgroup"
	for _, tt := range []struct {
		name   string
		mounts []Mount
		want   string // destinations, binds with their labels and options but rbind
	}{
		{"none", nil, defaults},
		{"the runtime's files", runtimeMounts(), defaults + " /etc/hosts=hosts,rprivate,rw /dev/termination-log=termination-log,rprivate,rw" +
			" /etc/hostname=hostname,rprivate,rw /etc/resolv.conf=resolv.conf,rprivate,rw /dev/shm=shm,rprivate,rw"},
		{"parents before children, otherwise in order", []Mount{
			{Destination: "/a/b/c", Source: "0"}, {Destination: "/z", Source: "1"}, {Destination: "/a", Source: "2"}, {Destination: "/a/b/", Source: "3"},
		}, defaults + " /z=1,rprivate,rw /a=2,rprivate,rw /a/b=3,rprivate,rw /a/b/c=0,rprivate,rw"},
		{"a relative path is meant from the root", []Mount{{Destination: "data", Source: "0"}}, defaults + " /data=0,rprivate,rw"},
		{"own files take the place of the runtime's", append([]Mount{
			{Destination: "/etc/hosts", Source: "mine"}, {Destination: "/dev/shm/", Source: "my-shm"},
			{Destination: "/etc/hostname", Source: "h"}, {Destination: "/etc/resolv.conf", Source: "r"}, {Destination: "/dev/termination-log", Source: "t"},
		}, runtimeMounts()...), defaults + " /etc/hosts=mine,rprivate,rw /dev/shm=my-shm,rprivate,rw" +
			" /etc/hostname=h,rprivate,rw /etc/resolv.conf=r,rprivate,rw /dev/termination-log=t,rprivate,rw"},
		{"a mount takes the place of a file system", []Mount{{Destination: "/sys/fs/cgroup", Source: "0"}, {Destination: "/dev/mqueue", Source: "1"}},
			"/proc /dev /dev/pts /sys /dev/mqueue=1,rprivate,rw /sys/fs/cgroup=0,rprivate,rw"},
		{"a mount at /dev replaces everything there", append([]Mount{{Destination: "/dev", Source: "0"}}, Mount{Destination: "/dev/shm", Source: "shm", Default: true}),
			"/proc /sys /sys/fs/cgroup /dev=0,rprivate,rw"},
		{"read-only and propagation", []Mount{
			{Destination: "/a", Source: "0", ReadOnly: true},
			{Destination: "/b", Source: "1", ReadOnly: true, RecursiveReadOnly: true},
			{Destination: "/c", Source: "2", Propagation: v1.MountPropagationHostToContainer},
			{Destination: "/d", Source: "3", Propagation: v1.MountPropagationBidirectional},
			{Destination: "/e", Source: "4", Propagation: v1.MountPropagationNone},
		}, defaults + " /a=0,rprivate,ro /b=1,rprivate,rro /c=2,rslave,rw /d=3,rshared,rw /e=4,rprivate,rw"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			in.Mounts = tt.mounts
			spec, err := Spec(in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range spec.Mounts {
				text := m.Destination
				if m.Type == "bind" {
					if m.Options[0] != "rbind" {
						t.Errorf("%s: options %q", m.Destination, m.Options)
					}
					text += "=" + m.Source + "," + strings.Join(m.Options[1:], ",")
				}
				got = append(got, text)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, " "), tt.want)
			}
		})
	}
}

func TestAMountAtTheRootIsMadeFirst(t *testing.T) {
	in := input()
	in.Mounts = []Mount{{Destination: "/a", Source: "0"}, {Destination: "/", Source: "1"}}
	spec, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	binds := spec.Mounts[len(spec.Mounts)-2:]
	if binds[0].Source != "1" || binds[1].Source != "0" {
		t.Errorf("got %v", binds)
	}
}

func TestReadOnlyRootReachesTheRuntimesFiles(t *testing.T) {
	in := input()
	in.Container.SecurityContext = &v1.SecurityContext{ReadOnlyRootFilesystem: ptr(true)}
	in.Mounts = append([]Mount{{Destination: "/data", Source: "0"}}, runtimeMounts()...)
	spec, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	if !spec.Root.Readonly {
		t.Error("the root is writable")
	}
	for _, m := range spec.Mounts {
		if m.Type != "bind" {
			continue
		}
		want := m.Destination == "/etc/hostname" || m.Destination == "/etc/resolv.conf"
		if got := slices.Contains(m.Options, "ro"); got != want {
			t.Errorf("%s: read-only %v, want %v", m.Destination, got, want)
		}
	}
}

func TestAMountAtDevLeavesNoDevicesToMake(t *testing.T) {
	in := input()
	in.Mounts = []Mount{{Destination: "/dev/", Source: "0"}}
	spec, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Linux.Devices) != 0 {
		t.Errorf("got %v", spec.Linux.Devices)
	}
}

func TestNamespaces(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup func(in *Input)
		want  string
	}{
		{"default", func(*Input) {}, "mount pid ipc=sandbox network=sandbox uts=sandbox cgroup"},
		{"shared processes", func(in *Input) { in.Pod.Spec.ShareProcessNamespace = ptr(true) },
			"mount pid=sandbox ipc=sandbox network=sandbox uts=sandbox cgroup"},
		{"hostPID", func(in *Input) { in.Pod.Spec.HostPID = true }, "mount ipc=sandbox network=sandbox uts=sandbox cgroup"},
		{"hostNetwork takes the name along", func(in *Input) { in.Pod.Spec.HostNetwork = true }, "mount pid ipc=sandbox cgroup"},
		{"hostIPC", func(in *Input) { in.Pod.Spec.HostIPC = true }, "mount pid network=sandbox uts=sandbox cgroup"},
		{"hostUsers false", func(in *Input) { in.Pod.Spec.HostUsers = ptr(false) }, "mount pid ipc=sandbox network=sandbox uts=sandbox user=sandbox cgroup"},
		{"privileged", func(in *Input) { in.Container.SecurityContext = &v1.SecurityContext{Privileged: ptr(true)} },
			"mount pid ipc=sandbox network=sandbox uts=sandbox"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			tt.setup(&in)
			spec, err := Spec(in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range spec.Linux.Namespaces {
				text := string(n.Type)
				if n.Path != "" {
					text += "=" + n.Path
				}
				got = append(got, text)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, " "), tt.want)
			}
		})
	}
}

func TestSpecChangesNothingInItsInput(t *testing.T) {
	in := input()
	in.Image = image.Config{Entrypoint: make([]string, 1, 8), Cmd: []string{"c"}, Env: []string{"A=1"}}
	in.Image.Entrypoint[0] = "/e"
	in.Container.Command = nil
	in.Mounts = append([]Mount{{Destination: "/a/b", Source: "0"}, {Destination: "/a", Source: "1"}}, runtimeMounts()...)
	before := in.Pod.DeepCopy()
	a, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Image.Cmd = []string{"d"}
	if _, err := Spec(in); err != nil {
		t.Fatal(err)
	}
	if a.Process.Args[1] != "c" {
		t.Errorf("a second spec changed the first: %q", a.Process.Args)
	}
	if in.Mounts[0].Source != "0" || !slices.Equal(in.Capabilities, knownCapabilities()) {
		t.Error("the input's lists were reordered")
	}
	if got, want := in.Pod.String(), before.String(); got != want {
		t.Errorf("the pod was changed:\n%s\n%s", got, want)
	}
}

func BenchmarkSpec(b *testing.B) {
	in := input()
	in.Mounts = runtimeMounts()
	for b.Loop() {
		if _, err := Spec(in); err != nil {
			b.Fatal(err)
		}
	}
}
