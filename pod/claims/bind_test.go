package claims

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// claim and volume are objects of class "disk" unless changed.
func claim(name, size string, change ...func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
	class := "disk"
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.PersistentVolumeClaimSpec{
		AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, StorageClassName: &class,
		Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)}},
	}}
	for _, f := range change {
		f(c)
	}
	return c
}

func volume(name, size string, change ...func(*v1.PersistentVolume)) *v1.PersistentVolume {
	v := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Spec: v1.PersistentVolumeSpec{
		AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, StorageClassName: "disk",
		Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)},
		PersistentVolumeSource: v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/srv/" + name}},
	}}
	for _, f := range change {
		f(v)
	}
	return v
}

func class(name string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}
func noClass(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }
func named(volume string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeName = volume }
}
func selecting(name string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"name": name}}
	}
}
func modes(m ...v1.PersistentVolumeAccessMode) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Spec.AccessModes = m }
}
func vmodes(m ...v1.PersistentVolumeAccessMode) func(*v1.PersistentVolume) {
	return func(v *v1.PersistentVolume) { v.Spec.AccessModes = m }
}
func vclass(name string) func(*v1.PersistentVolume) {
	return func(v *v1.PersistentVolume) { v.Spec.StorageClassName = name }
}
func reserved(claim string) func(*v1.PersistentVolume) {
	return func(v *v1.PersistentVolume) {
		v.Spec.ClaimRef = &v1.ObjectReference{Namespace: "default", Name: claim}
	}
}
func at(key string, op v1.NodeSelectorOperator, values ...string) func(*v1.PersistentVolume) {
	return func(v *v1.PersistentVolume) {
		if v.Spec.NodeAffinity == nil {
			v.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{}}
		}
		r := v.Spec.NodeAffinity.Required
		r.NodeSelectorTerms = append(r.NodeSelectorTerms, v1.NodeSelectorTerm{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}})
	}
}

type (
	pvcs = []*v1.PersistentVolumeClaim
	pvs  = []*v1.PersistentVolume
)

func input(c pvcs, v pvs, kept []Binding) Input {
	return Input{Claims: c, Volumes: v, Kept: kept, Complete: true, Dir: "/claims", Now: start,
		Node: Node{Name: "here", Labels: map[string]string{v1.LabelHostname: "here", "disks": "3"}}}
}

// told is the outcome as text: each claim with its volume or why it has none, each
// volume with its phase.
func told(b Bound) string {
	var lines []string
	for _, c := range b.Claims() {
		line := fmt.Sprintf("%s %s", c.Name, c.Status.Phase)
		if c.Spec.VolumeName != "" && c.Status.Phase == v1.ClaimBound {
			line += " " + c.Spec.VolumeName
		}
		for _, cond := range c.Status.Conditions {
			line += ": " + cond.Message
		}
		lines = append(lines, line)
	}
	for _, v := range b.Volumes() {
		if v.Status.Phase != v1.VolumeBound {
			lines = append(lines, fmt.Sprintf("(%s %s)", v.Name, v.Status.Phase))
		}
	}
	return strings.Join(lines, "\n")
}

func TestClaimsAreBoundAsKubernetesBindsThem(t *testing.T) {
	for _, test := range []struct {
		name    string
		claims  pvcs
		volumes pvs
		want    string
	}{
		{"the smallest volume that is large enough", pvcs{claim("a", "2Gi")},
			pvs{volume("big", "10Gi"), volume("fits", "3Gi"), volume("small", "1Gi")}, "a Bound fits\n(big Available)\n(small Available)"},
		{"one claim for each volume", pvcs{claim("b", "1Gi"), claim("a", "1Gi")}, pvs{volume("one", "1Gi")},
			`a Bound one` + "\n" + `b Pending: no persistent volume fits this claim: volume "one": already bound to claim default/a`},
		{"the claim that names a volume comes first", pvcs{claim("a", "1Gi"), claim("b", "1Gi", named("one"))}, pvs{volume("one", "1Gi")},
			`a Pending: no persistent volume fits this claim: volume "one": already bound to claim default/b` + "\nb Bound one"},
		{"the volume that names a claim is kept for it", pvcs{claim("a", "1Gi"), claim("b", "1Gi")}, pvs{volume("one", "1Gi", reserved("b"))},
			`a Pending: no persistent volume fits this claim: volume "one": already bound to claim default/b` + "\nb Bound one"},
		{"the volume that names the claim goes before a smaller one, and needs neither class nor labels",
			pvcs{claim("a", "1Gi", selecting("x"))}, pvs{volume("own", "5Gi", reserved("a"), vclass("other")), volume("x", "1Gi")}, "a Bound own\n(x Available)"},
		{"also while that is not there", pvcs{claim("a", "1Gi")}, pvs{volume("one", "1Gi", reserved("b"))},
			`a Pending: no persistent volume fits this claim: volume "one": kept for claim default/b by its claimRef` + "\n(one Available)"},
		{"by labels", pvcs{claim("a", "1Gi", selecting("two"))}, pvs{volume("one", "1Gi"), volume("two", "2Gi")}, "a Bound two\n(one Available)"},
		{"no label fits", pvcs{claim("a", "1Gi", selecting("three"))}, pvs{volume("one", "1Gi")},
			`a Pending: no persistent volume fits this claim: volume "one": not selected by its labels` + "\n(one Available)"},
		{"only volumes with all access modes", pvcs{claim("a", "1Gi", modes(v1.ReadWriteMany))},
			pvs{volume("one", "1Gi"), volume("many", "2Gi", vmodes(v1.ReadWriteOnce, v1.ReadWriteMany))}, "a Bound many\n(one Available)"},
		{"those with the fewest access modes first", pvcs{claim("a", "1Gi")},
			pvs{volume("many", "1Gi", vmodes(v1.ReadWriteOnce, v1.ReadWriteMany)), volume("one", "2Gi")}, "a Bound one\n(many Available)"},
		{"another class", pvcs{claim("a", "1Gi", class("gold"))}, pvs{volume("one", "1Gi")},
			`a Pending: there is no persistent volume of class "gold"; directories are made for claims without a class and of class podd or podd-delete` + "\n(one Available)"},
		{"a named volume of another class", pvcs{claim("a", "1Gi", class("gold"), named("one"))}, pvs{volume("one", "1Gi")},
			`a Pending: cannot bind to requested volume "one": storageClassName does not match` + "\n(one Available)"},
		{"a named volume that is too small", pvcs{claim("a", "2Gi", named("one"))}, pvs{volume("one", "1Gi")},
			`a Pending: cannot bind to requested volume "one": too small, 1Gi of 2Gi` + "\n(one Available)"},
		{"a named volume that is not there", pvcs{claim("a", "2Gi", named("one"))}, nil, `a Pending: volume "one" not found`},
		{"no class takes a volume without one", pvcs{claim("a", "1Gi", noClass)}, pvs{volume("one", "1Gi", vclass(""))}, "a Bound one"},
		{"no class and no volume: a directory", pvcs{claim("a", "1Gi", noClass)}, pvs{volume("one", "1Gi")}, "a Bound MADE\n(one Available)"},
		{"our class", pvcs{claim("a", "1Gi", class(ClassDelete))}, nil, "a Bound MADE"},
		{"the empty class gets no directory", pvcs{claim("a", "1Gi", class(""))}, nil,
			`a Pending: no persistent volumes available for this claim and no storage class is set: with storageClassName "" no directory is made`},
		{"a selector gets no directory", pvcs{claim("a", "1Gi", noClass, selecting("x"))}, nil,
			"a Pending: no persistent volume fits this claim, and no directory is made for a claim with a selector"},
		{"of this node", pvcs{claim("a", "1Gi")}, pvs{volume("there", "1Gi", at(v1.LabelHostname, "In", "there")), volume("here", "2Gi", at(v1.LabelHostname, "In", "there"), at(v1.LabelHostname, "In", "here"))},
			"a Bound here\n(there Available)"},
		{"of other nodes only", pvcs{claim("a", "1Gi")}, pvs{volume("there", "1Gi", at(v1.LabelHostname, "In", "there", "far"))},
			`a Pending: no persistent volume fits this claim: volume "there": its nodeAffinity is for other nodes: kubernetes.io/hostname In there, far (this node has "here")` + "\n(there Available)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := strings.ReplaceAll(test.want, "MADE", madeName(Key{Namespace: "default", Name: "a"}))
			if got := told(Bind(input(test.claims, test.volumes, nil))); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestNodeAffinityOfVolumes(t *testing.T) {
	for _, test := range []struct {
		key    string
		op     v1.NodeSelectorOperator
		values []string
		fits   bool
	}{
		{v1.LabelHostname, "In", []string{"x", "here"}, true}, {v1.LabelHostname, "NotIn", []string{"here"}, false},
		{"absent", "In", []string{""}, false}, {"absent", "NotIn", []string{"x"}, true},
		{"disks", "Exists", nil, true}, {"absent", "Exists", nil, false}, {"absent", "DoesNotExist", nil, true}, {"disks", "DoesNotExist", nil, false},
		{"disks", "Gt", []string{"2"}, true}, {"disks", "Gt", []string{"3"}, false}, {"disks", "Lt", []string{"4"}, true}, {"absent", "Lt", []string{"4"}, false},
	} {
		b := Bind(input(pvcs{claim("a", "1Gi")}, pvs{volume("one", "1Gi", at(test.key, test.op, test.values...))}, nil))
		if c, _ := b.Claim(Key{Namespace: "default", Name: "a"}); (c.Volume != nil) != test.fits {
			t.Errorf("%s %s %v: %s %s", test.key, test.op, test.values, c.Phase, c.Message)
		}
	}
}

func TestABindingLasts(t *testing.T) {
	a, one := claim("a", "1Gi"), volume("one", "1Gi")
	first := Bind(input(pvcs{a}, pvs{one}, nil))
	for _, test := range []struct {
		name    string
		claims  pvcs
		volumes pvs
		want    string
	}{
		{"a smaller volume and another claim come", pvcs{claim("0", "1Gi", named("one")), a}, pvs{one, volume("0", "1Gi")},
			`0 Pending: cannot bind to requested volume "one": already bound to claim default/a` + "\na Bound one\n(0 Available)"},
		{"the claim asks for more", pvcs{claim("a", "5Gi")}, pvs{one}, "a Bound one: its volume has 1Gi of the 5Gi that it asks for by now"},
		{"the claim changes class", pvcs{claim("a", "1Gi", class("gold"))}, pvs{one}, "a Bound one: its volume is of another class than it asks for by now"},
		{"the claim names another volume", pvcs{claim("a", "1Gi", named("two"))}, pvs{one, volume("two", "1Gi")}, `a Bound one: bound to volume "one" before it named "two"` + "\n(two Available)"},
		{"the volume goes", pvcs{a}, pvs{volume("two", "1Gi")}, `a Lost: bound to volume "one", which is not there any more` + "\n(two Available)"},
		{"the claim goes, and another comes", pvcs{claim("b", "1Gi")}, pvs{one},
			`b Pending: no persistent volume fits this claim: volume "one": already bound to claim default/a` + "\n(one Released)"},
		{"the claim goes, and the volume is given to another", pvcs{claim("b", "1Gi")}, pvs{volume("one", "1Gi", reserved("b"))}, "b Bound one"},
		{"both go", nil, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := Bind(input(test.claims, test.volumes, first.Bindings))
			if got := told(b); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
			// What comes back finds what it had.
			back := Bind(input(pvcs{a}, pvs{one, volume("0", "1Gi")}, b.Bindings))
			if c, _ := back.Claim(keyOf(a)); test.name != "the claim goes, and the volume is given to another" && test.name != "both go" && (c.Volume != one) {
				t.Errorf("afterwards: %s", told(back))
			}
		})
	}
	unsure := input(nil, nil, first.Bindings)
	unsure.Complete = false
	if b := Bind(unsure); len(b.Bindings) != 1 || b.Bindings[0].Released != nil {
		t.Errorf("what is out of reach counts as removed: %+v", b.Bindings)
	}
	unsure.Volumes, unsure.Removed = pvs{one}, func(k Key) bool { return k == keyOf(a) }
	if b := Bind(unsure); len(b.Bindings) != 1 || b.Bindings[0].Released == nil {
		t.Errorf("what was removed on purpose counts as out of reach: %+v", b.Bindings)
	}
}

func TestDirectoriesAreMadeForTheFirstPod(t *testing.T) {
	in := input(pvcs{claim("a", "1Gi", noClass)}, nil, nil)
	in.Used = func(Key) bool { return false }
	if got, want := told(Bind(in)), "a Pending: waiting for first consumer to be created before binding"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	in.Used = func(k Key) bool { return k.Name == "a" }
	b := Bind(in)
	v := b.Volumes()[0]
	if v.Spec.Local.Path != "/claims/default/a" || v.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimRetain ||
		v.Spec.StorageClassName != ClassRetain || v.Status.Phase != v1.VolumeBound {
		t.Errorf("made: %+v", v)
	}
	in.Kept, in.Claims = b.Bindings, pvcs{claim("a", "3Gi", noClass)}
	b = Bind(in)
	if size := b.Volumes()[0].Spec.Capacity[v1.ResourceStorage]; size.String() != "3Gi" {
		t.Errorf("a directory grows with its claim: %s", size.String())
	}
	if again := Bind(Input{Claims: in.Claims, Kept: b.Bindings, Complete: true, Node: in.Node}); again.Bindings[0].Made != b.Bindings[0].Made {
		t.Error("nothing changed, and it is another volume")
	}
}

func TestOnlyDataOfARemovedClaimWhoseClassSaysSoIsDeleted(t *testing.T) {
	claims := pvcs{claim("kept", "1Gi", noClass), claim("gone", "1Gi", class(ClassDelete)), claim("used", "1Gi", class(ClassDelete)),
		claim("there", "1Gi", class(ClassDelete)), claim("document", "1Gi")}
	one := volume("one", "1Gi", func(v *v1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimDelete })
	b := Bind(input(claims, pvs{one}, nil))
	b = Bind(input(claims[3:4], pvs{one}, b.Bindings))
	used := func(k Key) bool { return k.Name == "used" }
	if _, due, next := Reclaimable(b.Bindings, used, start); len(due) != 0 || !next.Equal(start.Add(ReclaimDelay)) {
		t.Errorf("at once: %v, next %s", due, next)
	}
	rest, due, _ := Reclaimable(b.Bindings, used, start.Add(ReclaimDelay))
	if len(due) != 1 || due[0].Claim.Name != "gone" || len(rest) != 4 {
		t.Errorf("due: %v", due)
	}
	if got := told(b.With(rest)); strings.Count(got, "Released") != 3 {
		t.Errorf("afterwards:\n%s", got)
	}
	// A claim that comes back in time keeps its data.
	b = Bind(input(claims, pvs{one}, b.Bindings))
	if _, due, next := Reclaimable(b.Bindings, used, start.Add(time.Hour)); len(due) != 0 || !next.IsZero() {
		t.Errorf("came back: %v, next %s", due, next)
	}
}
