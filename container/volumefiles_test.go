package container

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// filesText lists files as "path=content mode", sorted.
func filesText(files map[string]File) string {
	var all []string
	for path, f := range files {
		all = append(all, fmt.Sprintf("%s=%s %o", path, f.Data, f.Mode))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func local(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }

func TestFilesOfVolumes(t *testing.T) {
	in := input()
	in.Pod.Labels = map[string]string{"tier": "front", "app": `a "b"`}
	in.Pod.Annotations = map[string]string{"note": "two\nlines"}
	in.Pod.Spec.Containers[0].Resources = v1.ResourceRequirements{Limits: v1.ResourceList{"cpu": resource.MustParse("1500m")}}
	in.Objects = objects{
		maps: map[string]*v1.ConfigMap{
			"shop/m": {Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {'x'}}},
			"else/e": {Data: map[string]string{"a": "1"}},
		},
		secrets: map[string]*v1.Secret{"shop/s": {Data: map[string][]byte{"a": []byte("hidden"), "p": []byte("pass")}}},
	}
	field := func(path, field string) v1.DownwardAPIVolumeFile {
		return v1.DownwardAPIVolumeFile{Path: path, FieldRef: &v1.ObjectFieldSelector{FieldPath: field}}
	}
	yes, mode, own := true, int32(0o640), int32(0o400)
	for name, c := range map[string]struct {
		source v1.VolumeSource
		want   string // files, or an error
	}{
		"every key of a ConfigMap, binary ones too": {
			v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("m")}},
			"a=1 644, b=2 644, bin=x 644"},
		"listed keys only, with modes of their own": {
			v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("m"), DefaultMode: &mode,
				Items: []v1.KeyToPath{{Key: "a", Path: "x/y", Mode: &own}, {Key: "b", Path: "b"}}}},
			"b=2 640, x/y=1 400"},
		"a missing ConfigMap":                  {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("n")}}, `configmap "n" not found`},
		"a ConfigMap of another namespace":     {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("e")}}, `configmap "e" not found`},
		"a missing ConfigMap that is optional": {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("n"), Optional: &yes, Items: []v1.KeyToPath{{Key: "a", Path: "a"}}}}, ""},
		"a missing key":                        {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("m"), Items: []v1.KeyToPath{{Key: "c", Path: "c"}}}}, "references non-existent config key: c"},
		"a missing key of an optional one":     {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("m"), Optional: &yes, Items: []v1.KeyToPath{{Key: "c", Path: "c"}, {Key: "a", Path: "a"}}}}, "a=1 644"},
		"a Secret":                             {v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: &own}}, "a=hidden 400, p=pass 400"},
		"a missing Secret":                     {v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "n"}}, `secret "n" not found`},
		"a missing key of a Secret":            {v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", Items: []v1.KeyToPath{{Key: "c", Path: "c"}}}}, "references non-existent secret key: c"},
		"labels and annotations, a line for each": {
			v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
				field("l", "metadata.labels"), field("a", "metadata.annotations"), field("one", "metadata.labels['tier']"), field("uid", "metadata.uid")}}},
			`a=note="two\nlines" 644, l=app="a \"b\""` + "\n" + `tier="front" 644, one=front 644, uid=uid-1 644`},
		"resources of a container, rounded up": {
			v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
				{Path: "cpu", Mode: &own, ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "app", Resource: "limits.cpu"}},
				{Path: "mem", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "app", Resource: "limits.memory", Divisor: resource.MustParse("1Gi")}}}}},
			"cpu=2 400, mem=8 644"},
		"several sources, the later one wins": {
			v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []v1.VolumeProjection{
				{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: local("m")}},
				{Secret: &v1.SecretProjection{LocalObjectReference: local("s")}},
				{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{field("b", "metadata.name")}}},
				{Secret: &v1.SecretProjection{LocalObjectReference: local("n"), Optional: &yes}}}}},
			"a=hidden 640, b=web 640, bin=x 640, p=pass 640"},
		"every source that is missing": {
			v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
				{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: local("x")}},
				{Secret: &v1.SecretProjection{LocalObjectReference: local("y")}}}}},
			`[configmap "x" not found, secret "y" not found]`},
		"another kind": {v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := VolumeFiles(in, v1.Volume{Name: "v", VolumeSource: c.source})
			got := filesText(files)
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
