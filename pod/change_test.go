package pod

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// resources gives requests of cpu and memory, and limits where they are not empty.
func resources(cpu, memory, cpuLimit string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}
	for _, q := range []struct {
		list v1.ResourceList
		name v1.ResourceName
		text string
	}{{r.Requests, v1.ResourceCPU, cpu}, {r.Requests, v1.ResourceMemory, memory}, {r.Limits, v1.ResourceCPU, cpuLimit}} {
		if q.text != "" {
			q.list[q.name] = resource.MustParse(q.text)
		}
	}
	return r
}

// A changed file does the least that covers all changes.
func TestCompareFindsTheLeast(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1.Pod)
		want   string // "kind path before → after", one a line
	}{
		"nothing": {func(*v1.Pod) {}, ""},
		"a label and an annotation": {func(p *v1.Pod) {
			p.Labels = map[string]string{"tier": "two"}
			p.Annotations = map[string]string{"note": "x"}
		}, "shown metadata.annotations  → {\"note\":\"x\"}\nshown metadata.labels.tier one → two"},
		"an image": {func(p *v1.Pod) { p.Spec.Containers[0].Image = "app:2" }, "image spec.containers[0].image app → app:2"},
		"the image of an init container": {func(p *v1.Pod) { p.Spec.InitContainers[0].Image = "init:2" },
			"image spec.initContainers[0].image init → init:2"},
		"an image with the pull policy that it implies": {func(p *v1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "app:latest", v1.PullAlways
		}, "image spec.containers[0].image app → app:latest\nshown spec.containers[0].imagePullPolicy  → Always"},
		"the same quantity written otherwise": {func(p *v1.Pod) { p.Spec.Containers[0].Resources = resources("0.1", "", "") }, ""},
		"a request":                           {func(p *v1.Pod) { p.Spec.Containers[0].Resources = resources("200m", "", "") }, "resize spec.containers[0].resources.requests.cpu 100m → 200m"},
		"a limit added": {func(p *v1.Pod) { p.Spec.Containers[0].Resources = resources("100m", "", "1") },
			`resize spec.containers[0].resources.limits  → {"cpu":"1"}`},
		"no resources any more": {func(p *v1.Pod) { p.Spec.Containers[0].Resources = v1.ResourceRequirements{} },
			"recreate spec.containers[0].resources.requests {\"cpu\":\"100m\"} →  because the pod's QoS class would change from Burstable to BestEffort"},
		"another resource": {func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("100m"), "ephemeral-storage": resource.MustParse("1Gi")}
		}, "recreate spec.containers[0].resources.requests.ephemeral-storage  → 1Gi"},
		"limits of another resource": {func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Limits = v1.ResourceList{"ephemeral-storage": resource.MustParse("1Gi")}
		}, `recreate spec.containers[0].resources.limits  → {"ephemeral-storage":"1Gi"}`},
		"a resize policy": {func(p *v1.Pod) {
			p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: v1.RestartContainer}}
		}, `shown spec.containers[0].resizePolicy  → [{"resourceName":"cpu","restartPolicy":"RestartContainer"}]`},
		"tolerations": {func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}} },
			`shown spec.tolerations  → [{"operator":"Exists"}]`},
		"a deadline": {func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(5)) }, "shown spec.activeDeadlineSeconds  → 5"},
		"what is running beside it": {func(p *v1.Pod) {
			p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debugger"}}}
		}, ""},
		"a variable": {func(p *v1.Pod) { p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "A", Value: "b"}} },
			`recreate spec.containers[0].env  → [{"name":"A","value":"b"}]`},
		"a mount": {func(p *v1.Pod) { p.Spec.Containers[0].VolumeMounts[0].ReadOnly = false },
			"recreate spec.containers[0].volumeMounts[0].readOnly true → "},
		"one container more": {func(p *v1.Pod) { p.Spec.InitContainers = nil }, `recreate spec.initContainers [{"image":"init","name":"init","resources":{}}] → `},
		"another name and another image": {func(p *v1.Pod) { p.Spec.Containers[0].Name, p.Spec.Containers[0].Image = "other", "other" },
			"image spec.containers[0].image app → other\nrecreate spec.containers[0].name app → other"},
		"the grace period": {func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(5)) },
			"recreate spec.terminationGracePeriodSeconds  → 5"},
	} {
		t.Run(name, func(t *testing.T) {
			before := webPod()
			before.Labels = map[string]string{"tier": "one"}
			before.Spec.InitContainers = []v1.Container{{Name: "init", Image: "init"}}
			after := before.DeepCopy()
			c.change(after)
			d := Compare(Desired{Pod: before}, Desired{Pod: after})
			var got []string
			for _, kind := range []struct {
				name string
				all  []FieldChange
			}{{"shown", d.Shown}, {"image", d.Images}, {"resize", d.Resources}, {"recreate", d.Recreate}} {
				for _, f := range kind.all {
					line := fmt.Sprintf("%s %s %s → %s", kind.name, f.Path, f.Before, f.After)
					if f.Why != "" {
						line += " because " + f.Why
					}
					got = append(got, line)
				}
			}
			slices.Sort(got)
			if text := strings.Join(got, "\n"); text != c.want {
				t.Errorf("got\n%s\nwant\n%s", text, c.want)
			}
			if d.None() != (c.want == "") {
				t.Errorf("None is %v", d.None())
			}
		})
	}
}

// An upgrade that defaults more fields restarts nothing.
func TestCompareOfSpecsThatWereWrittenAlike(t *testing.T) {
	after := webPod()
	after.Spec.Containers[0].Image = "docker.io/library/app:latest"
	after.Spec.DNSPolicy = v1.DNSClusterFirst
	if d := Compare(Desired{Pod: webPod(), SpecHash: "a"}, Desired{Pod: after, SpecHash: "a"}); !d.None() {
		t.Errorf("got %+v; want nothing", d)
	}
	if d := Compare(Desired{Pod: webPod(), SpecHash: "a"}, Desired{Pod: after, SpecHash: "b"}); len(d.Recreate) != 1 || len(d.Images) != 1 {
		t.Errorf("got %+v; want dnsPolicy and an image", d)
	}
}

// A record of an agent that did not know of changes is of what its manifest says.
func TestOldRecordsWereMadeOfTheirManifest(t *testing.T) {
	d, o := runningPod()
	o = assumeMade(o, d.Pod)
	if m := o.Containers["app"].Made; m.Image != "app" || m.Ref != "example.com/app:1" || m.Resources.Requests.Cpu().String() != "100m" {
		t.Errorf("made of %+v", m)
	}
	after := d.Pod.DeepCopy()
	after.Spec.Containers[0].Image = "app:2"
	o = Apply(o, Changed{At: At{at(20)}, Images: []string{"app"}})
	plan := Decide(Desired{Key: d.Key, Pod: after}, o, at(20))
	if got := names(plan); !strings.Contains(got, "EnsureImage") {
		t.Errorf("got %s; want the new image", got)
	}
}

// While a resize is refused, the status shows what holds and what was asked for.
func TestStatusOfARefusedResize(t *testing.T) {
	d, o := runningPod()
	o = assumeMade(o, d.Pod)
	after := d.Pod.DeepCopy()
	after.Spec.Containers[0].Resources = resources("200m", "", "1")
	d.Pod = after
	o = Apply(o, Changed{At: At{at(20)}, Resources: []string{"app"}})
	o = Apply(o, ResizeFailed{At: At{at(21)}, Message: "cannot decrease memory limits"})
	p := Status(d, o, testNode, nil, at(22))
	c := p.Status.ContainerStatuses[0]
	if got := c.Resources.Requests.Cpu().String() + " " + c.AllocatedResources.Cpu().String(); got != "100m 200m" || len(c.Resources.Limits) > 0 {
		t.Errorf("requests held and allocated are %s, limits %v", got, c.Resources.Limits)
	}
	if got := condition(p.Status.Conditions, v1.PodResizeInProgress); got == nil || got.Reason != "Error" || got.Message != "cannot decrease memory limits" {
		t.Errorf("condition %+v", got)
	}
	shown := p.Status.Conditions
	o = Apply(o, Resized{At: At{at(23)}, ResizePod: ResizePod{After: resourcesOf(after), Containers: map[string]string{"app": "c1"}}})
	p = Status(d, o, testNode, shown, at(24))
	if got := condition(p.Status.Conditions, v1.PodResizeInProgress); got != nil {
		t.Errorf("condition %+v after the resize", got)
	}
	if got := p.Status.ContainerStatuses[0].Resources.Limits.Cpu().String(); got != "1" {
		t.Errorf("limit %s after the resize", got)
	}
}
