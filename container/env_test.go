package container

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

// input is a pod with one container that asks for nothing.
func input() Input {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "uid-1"},
		Spec: v1.PodSpec{
			SecurityContext: &v1.PodSecurityContext{},
			Containers:      []v1.Container{{Name: "app", Image: "app:1", Command: []string{"/app"}}},
		},
	}
	return Input{
		Pod: pod, Container: &pod.Spec.Containers[0],
		PodIPs:   []netip.Addr{netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00::5")},
		HostIPs:  []netip.Addr{netip.MustParseAddr("192.0.2.7")},
		NodeName: "node1", Hostname: "web",
		NodeCPUMilli: 3500, NodeMemoryBytes: 8 << 30, NodeEphemeralBytes: 100 << 30,
		Capabilities: knownCapabilities(),
		Kernel:       [2]int{6, 1}, Arch: "amd64",
	}
}

// objects are ConfigMaps and Secrets of any namespace.
type objects struct {
	maps    map[string]*v1.ConfigMap
	secrets map[string]*v1.Secret
}

func (o objects) ConfigMap(namespace, name string) (*v1.ConfigMap, bool) {
	m, ok := o.maps[namespace+"/"+name]
	return m, ok
}

func (o objects) Secret(namespace, name string) (*v1.Secret, bool) {
	s, ok := o.secrets[namespace+"/"+name]
	return s, ok
}

// wantError checks a ConfigError's reason and words.
func wantError(t *testing.T, err error, reason, message string) {
	t.Helper()
	var e *ConfigError
	switch {
	case message == "":
		if err != nil {
			t.Fatalf("got %v, want no error", err)
		}
	case !errors.As(err, &e):
		t.Fatalf("got %v, want a ConfigError: %s", err, message)
	case e.Reason != reason || e.Error() != message:
		t.Fatalf("got %s: %s\nwant %s: %s", e.Reason, e, reason, message)
	}
}

func TestExpansion(t *testing.T) {
	values := map[string]string{"A": "1", "EMPTY": "", "NESTED": "$(A)", "A B": "blank"}
	for text, want := range map[string]string{
		"":                "",
		"plain":           "plain",
		"$(A)":            "1",
		"x$(A)y$(A)z":     "x1y1z",
		"$(EMPTY)":        "",
		"$(UNKNOWN)":      "$(UNKNOWN)",
		"$$(A)":           "$(A)",
		"$$$(A)":          "$1",
		"$$":              "$",
		"$":               "$",
		"$A":              "$A",
		"$(A":             "$(A",
		"$($(A)":          "$($(A)",
		"$(NESTED)":       "$(A)",
		"$()":             "$()",
		"$(A B)":          "blank",
		"50$":             "50$",
		"${A} `id` $(A)!": "${A} `id` 1!",
	} {
		got := expand(text, func(name string) (string, bool) { v, ok := values[name]; return v, ok })
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	isTrue := ptr(true)
	for _, tt := range []struct {
		name  string
		setup func(in *Input)
		want  []string
	}{
		{"values see what came before, not what comes after", func(in *Input) {
			in.Container.Env = []v1.EnvVar{
				{Name: "A", Value: "$(B)"}, {Name: "B", Value: "b"}, {Name: "C", Value: "$(A)-$(B)"},
			}
		}, []string{"A=$(B)", "B=b", "C=$(B)-b"}},
		{"the image's variables take no part in expansion", func(in *Input) {
			in.Image.Env = []string{"PATH=/bin"}
			in.Container.Env = []v1.EnvVar{{Name: "P", Value: "$(PATH)"}}
		}, []string{"P=$(PATH)"}},
		{"a later variable of the same name wins, and may use the earlier", func(in *Input) {
			in.Container.Env = []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "x"}, {Name: "A", Value: "$(A)2"}}
		}, []string{"A=12", "B=x"}},
		{"a variable set to nothing is set", func(in *Input) {
			in.Container.Env = []v1.EnvVar{{Name: "A"}, {Name: "B", Value: "[$(A)]"}}
		}, []string{"A=", "B=[]"}},
		{"envFrom comes first, with prefix, later sources win", func(in *Input) {
			in.Objects = objects{
				maps: map[string]*v1.ConfigMap{"shop/m": {
					Data: map[string]string{"k": "map", "z": "$(k)"}, BinaryData: map[string][]byte{"b": {1}}}},
				secrets: map[string]*v1.Secret{"shop/s": {Data: map[string][]byte{"k": []byte("secret")}}},
			}
			in.Container.EnvFrom = []v1.EnvFromSource{
				{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "m"}}},
				{Prefix: "P_", SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "s"}}},
			}
			in.Container.Env = []v1.EnvVar{{Name: "A", Value: "$(P_k)"}}
		}, []string{"P_k=secret", "P_z=$(k)", "A=secret"}},
		{"optional objects and keys are left out", func(in *Input) {
			in.Objects = objects{maps: map[string]*v1.ConfigMap{"shop/m": {}}}
			none := v1.LocalObjectReference{Name: "none"}
			in.Container.EnvFrom = []v1.EnvFromSource{
				{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: none, Optional: isTrue}},
				{SecretRef: &v1.SecretEnvSource{LocalObjectReference: none, Optional: isTrue}},
			}
			in.Container.Env = []v1.EnvVar{
				{Name: "A", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{
					LocalObjectReference: v1.LocalObjectReference{Name: "m"}, Key: "k", Optional: isTrue}}},
				{Name: "B", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{
					LocalObjectReference: none, Key: "k", Optional: isTrue}}},
				{Name: "C", ValueFrom: &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "p", Key: "k", Optional: isTrue}}},
			}
		}, []string{}},
		{"keys of objects are taken as they are", func(in *Input) {
			in.Objects = objects{
				maps:    map[string]*v1.ConfigMap{"shop/m": {Data: map[string]string{"k": "$(X)"}}},
				secrets: map[string]*v1.Secret{"shop/s": {Data: map[string][]byte{"k": []byte("pw")}}},
			}
			in.Container.Env = []v1.EnvVar{
				{Name: "X", Value: "x"},
				{Name: "A", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{
					LocalObjectReference: v1.LocalObjectReference{Name: "m"}, Key: "k"}}},
				{Name: "B", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{
					LocalObjectReference: v1.LocalObjectReference{Name: "s"}, Key: "k"}}},
			}
		}, []string{"X=x", "A=$(X)", "B=pw"}},
		{"variables from a file", func(in *Input) {
			in.EnvFile = func(volume, path string) ([]byte, error) {
				if volume != "v" || path != "dir/env" {
					return nil, fs.ErrNotExist
				}
				return []byte("# made by init\n\nA='1'\nB='two\nlines'\nC= \n"), nil
			}
			for _, key := range []string{"A", "B", "C"} {
				in.Container.Env = append(in.Container.Env, v1.EnvVar{Name: "F" + key, ValueFrom: &v1.EnvVarSource{
					FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "dir/env", Key: key}}})
			}
		}, []string{"FA=1", "FB=two\nlines", "FC="}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			tt.setup(&in)
			got, err := Env(in)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestFieldsInTheEnvironment(t *testing.T) {
	in := input()
	in.Pod.Labels = map[string]string{"tier": "front"}
	in.Pod.Annotations = map[string]string{"example.com/a['b": "odd"}
	in.Pod.Spec.ServiceAccountName = "robot"
	for path, want := range map[string]string{
		"metadata.name":                            "web",
		"metadata.namespace":                       "shop",
		"metadata.uid":                             "uid-1",
		"metadata.labels['tier']":                  "front",
		"metadata.labels['none']":                  "",
		"metadata.annotations['example.com/a['b']": "odd",
		"spec.nodeName":                            "node1",
		"spec.serviceAccountName":                  "robot",
		"status.podIP":                             "10.244.0.5",
		"status.podIPs":                            "10.244.0.5,fd00::5",
		"status.hostIP":                            "192.0.2.7",
		"status.hostIPs":                           "192.0.2.7",
	} {
		in.Container.Env = []v1.EnvVar{{Name: "V", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}}}
		got, err := Env(in)
		if err != nil || got[0] != "V="+want {
			t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
		}
	}
	in.PodIPs = nil
	in.Container.Env[0].ValueFrom.FieldRef.FieldPath = "status.podIP"
	if got, err := Env(in); err != nil || got[0] != "V=" {
		t.Errorf("podIP before there is one: got %q, %v", got, err)
	}
}

func TestResourcesInTheEnvironment(t *testing.T) {
	in := input()
	in.Container.Resources = v1.ResourceRequirements{
		Requests: list("cpu", "250m", "memory", "100Mi"),
		Limits:   list("cpu", "1500m", "memory", "1000000001"),
	}
	in.Pod.Spec.InitContainers = []v1.Container{{Name: "other", Resources: v1.ResourceRequirements{Limits: list("memory", "1Gi")}}}
	for _, tt := range []struct{ container, name, divisor, want string }{
		{"", "limits.cpu", "", "2"},
		{"", "limits.cpu", "1m", "1500"},
		{"", "requests.cpu", "1", "1"},
		{"", "requests.memory", "1Mi", "100"},
		{"", "limits.memory", "1M", "1001"},
		{"", "limits.ephemeral-storage", "1Gi", "100"},
		{"", "requests.ephemeral-storage", "", "0"},
		{"", "requests.hugepages-2Mi", "", "0"},
		{"other", "limits.memory", "1Mi", "1024"},
		{"other", "limits.cpu", "1m", "3500"},
		{"other", "requests.cpu", "1m", "0"},
	} {
		ref := &v1.ResourceFieldSelector{ContainerName: tt.container, Resource: tt.name}
		if tt.divisor != "" {
			ref.Divisor = resource.MustParse(tt.divisor)
		}
		in.Container.Env = []v1.EnvVar{{Name: "V", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: ref}}}
		got, err := Env(in)
		if err != nil || got[0] != "V="+tt.want {
			t.Errorf("%+v: got %q, %v", tt, got, err)
		}
	}
	in.Pod.Spec.Resources = &v1.ResourceRequirements{Limits: list("cpu", "3")}
	in.Container.Env = []v1.EnvVar{{Name: "V", ValueFrom: &v1.EnvVarSource{
		ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "other", Resource: "limits.cpu"}}}}
	if got, err := Env(in); err != nil || got[0] != "V=3" {
		t.Errorf("the pod's own limit: got %q, %v", got, err)
	}
}

// list makes a ResourceList of name, quantity pairs.
func list(pairs ...string) v1.ResourceList {
	l := v1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func TestEnvironmentErrors(t *testing.T) {
	ref := v1.LocalObjectReference{Name: "x"}
	from := func(s v1.EnvVarSource) func(in *Input) {
		return func(in *Input) { in.Container.Env = []v1.EnvVar{{Name: "V", ValueFrom: &s}} }
	}
	for _, tt := range []struct {
		name  string
		setup func(in *Input)
		want  string
	}{
		{"no such ConfigMap", from(v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "k"}}),
			`configmap "x" not found`},
		{"no such Secret", from(v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: ref, Key: "k"}}),
			`secret "x" not found`},
		{"no such key in a ConfigMap", func(in *Input) {
			in.Objects = objects{maps: map[string]*v1.ConfigMap{"shop/x": {}}}
			from(v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "k"}})(in)
		}, "couldn't find key k in ConfigMap shop/x"},
		{"no such key in a Secret", func(in *Input) {
			in.Objects = objects{secrets: map[string]*v1.Secret{"shop/x": {}}}
			from(v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: ref, Key: "k"}})(in)
		}, "couldn't find key k in Secret shop/x"},
		{"no such ConfigMap for envFrom", func(in *Input) {
			in.Container.EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: ref}}}
		}, `configmap "x" not found`},
		{"a field that env does not offer", from(v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}),
			"unsupported fieldPath: metadata.labels"},
		{"a resource that env does not offer", from(v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.gpu"}}),
			"unsupported container resource : limits.gpu"},
		{"another container that is none", from(v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "y", Resource: "limits.cpu"}}),
			"container y not found"},
		{"a file that is missing", from(v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "p", Key: "k"}}),
			`cannot read environment file "p" of volume "v": file does not exist`},
		{"a key that the file lacks", func(in *Input) {
			in.EnvFile = func(string, string) ([]byte, error) { return []byte("A='1'\n"), nil }
			from(v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "p", Key: "k"}})(in)
		}, `environment variable key "k" not found in file "p"`},
		{"a file that is malformed", func(in *Input) {
			in.EnvFile = func(string, string) ([]byte, error) { return []byte("A='1'\nk=2\n"), nil }
			from(v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "p", Key: "A"}})(in)
		}, `environment file "p" of volume "v": line 2: the value of k must be in single quotes`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			tt.setup(&in)
			_, err := Env(in)
			wantError(t, err, ReasonConfig, tt.want)
			_, err = Spec(in)
			wantError(t, err, ReasonConfig, tt.want)
		})
	}
}

func TestEnvFiles(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		found      bool
		problem    string
	}{
		{"K='v'", "v", true, ""},
		{"A='1\n2'\nK='v'\n", "v", true, ""},
		{"  # K='no'\n\t\nK='v'\nK='later'\n", "v", true, ""},
		{"  K='v' # comment\n", "v", true, ""},
		{"K=\n", "", true, ""},
		{"K= 'v'\n", "", true, ""},
		{"K=''", "", true, ""},
		{"A='K=1'\n", "", false, ""},
		{"", "", false, ""},
		{"K", "", false, "line 1: expected NAME='value'"},
		{"A='x\ny'\n\nno\nK='v'", "", false, "line 4: expected NAME='value'"},
		{"K ='v'", "", false, "line 1: expected a name and no blank before ="},
		{"='v'", "", false, "line 1: expected a name and no blank before ="},
		{"K='v", "", false, "line 1: the value of K has no closing quote"},
		{`K="v"`, "", false, "line 1: the value of K must be in single quotes"},
	} {
		got, found, err := envFileValue(tt.text, "K")
		if got != tt.want || found != tt.found || fmt.Sprint(err) != cmpOr(tt.problem, "<nil>") {
			t.Errorf("%q: got %q, %v, %v; want %q, %v, %v", tt.text, got, found, err, tt.want, tt.found, tt.problem)
		}
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestProbeCommandsSeeEnvAsWritten(t *testing.T) {
	c := &v1.Container{Env: []v1.EnvVar{
		{Name: "A", Value: "1"},
		{Name: "B", Value: "$(A)"},
		{Name: "F", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
	}}
	got := ExpandProbeCommand(c, []string{"check", "$(A)", "$(B)", "[$(F)]", "$(U)", "$$(A)"})
	if want := []string{"check", "1", "$(A)", "[]", "$(U)", "$(A)"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSubPathExpr(t *testing.T) {
	env := []string{"POD=web", "EMPTY=", "EQ=a=b"}
	for _, tt := range []struct{ expr, want, problem string }{
		{"plain", "plain", ""},
		{"logs/$(POD)", "logs/web", ""},
		{"$(EQ)", "a=b", ""},
		{"$$(POD)", "$(POD)", ""},
		{"$(EMPTY)/$(NONE)/$(POD)", "", "missing value for EMPTY, NONE"},
	} {
		got, err := ExpandSubPath(tt.expr, env)
		wantError(t, err, ReasonConfig, tt.problem)
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.expr, got, tt.want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("a$(A)$$(B)$(", "value$(A)")
	f.Fuzz(func(t *testing.T, text, value string) {
		if got := expand(text, func(string) (string, bool) { return "", false }); strings.ReplaceAll(text, "$$", "$") != got && !strings.Contains(text, "$(") {
			t.Errorf("%q without variables became %q", text, got)
		}
		if got := expand("$("+"X"+")", func(string) (string, bool) { return value, true }); got != value {
			t.Errorf("a value came back as %q, not %q", got, value)
		}
		if !strings.Contains(text, "$") && expand(text, nil) != text {
			t.Errorf("%q has nothing to expand", text)
		}
		expand(text, func(string) (string, bool) { return value, true })
	})
}

func FuzzEnvFile(f *testing.F) {
	f.Add("# c\nA='1'\nB='x\ny'\n", "B")
	f.Fuzz(func(t *testing.T, text, key string) {
		value, found, err := envFileValue(text, key)
		if err != nil || !found {
			return
		}
		if strings.Contains(value, "'") || !strings.Contains(text, key+"=") {
			t.Errorf("%q has no %s=%q", text, key, value)
		}
		if again, ok, err := envFileValue(key+"='"+value+"'", key); again != value || !ok || err != nil {
			t.Errorf("%s=%q written back reads %q, %v, %v", key, value, again, ok, err)
		}
	})
}
