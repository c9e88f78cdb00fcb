package pod

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Difference is what has to be done to a pod because its manifest changed: of each
// field the least that makes it take effect. The zero value: nothing differs.
type Difference struct {
	// Shown are fields that ask nothing of a pod that runs: labels and
	// annotations, and what counts from the next start of a container only.
	Shown []FieldChange `json:"shown,omitempty"`
	// Images are of containers, which are restarted if they run.
	Images []FieldChange `json:"images,omitempty"`
	// Resources are changed in the running control groups, or by a restart of the
	// container where its resizePolicy says so.
	Resources []FieldChange `json:"resources,omitempty"`
	// Recreate are fields that only a new pod can have.
	Recreate []FieldChange `json:"recreate,omitempty"`
}

// FieldChange is one field that differs.
type FieldChange struct {
	Path string `json:"path"` // spec.containers[0].image
	// Container is the name of the container that the field belongs to, if any.
	Container string `json:"container,omitempty"`
	// Before and After are the values as JSON, strings without quotes; empty
	// where there is none.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Why says why a field that could be changed in a running pod cannot be here.
	Why string `json:"why,omitempty"`
}

// None says that nothing differs.
func (c Difference) None() bool {
	return len(c.Shown)+len(c.Images)+len(c.Resources)+len(c.Recreate) == 0
}

// ofSpec says that the spec differs.
func (c Difference) ofSpec() bool {
	return len(c.Images)+len(c.Resources)+len(c.Recreate) > 0 ||
		slices.ContainsFunc(c.Shown, func(f FieldChange) bool { return strings.HasPrefix(f.Path, "spec.") })
}

// InPlace says that a pod which goes on has something to do.
func (c Difference) InPlace() bool { return len(c.Images)+len(c.Resources) > 0 && len(c.Recreate) == 0 }

// Compare says what b asks of a pod that runs as a: two manifests of one name.
func Compare(a, b Desired) Difference {
	var c Difference
	for _, m := range []struct {
		path          string
		before, after map[string]string
	}{
		{"metadata.labels", a.Pod.Labels, b.Pod.Labels},
		{"metadata.annotations", a.Pod.Annotations, b.Pod.Annotations},
	} {
		differences(m.path, asTree(m.before), asTree(m.after), func(f FieldChange) { c.Shown = append(c.Shown, f) })
	}
	if a.SpecHash != "" && a.SpecHash == b.SpecHash || equality.Semantic.DeepEqual(a.Pod.Spec, b.Pod.Spec) {
		return c
	}
	differences("spec", asTree(a.Pod.Spec), asTree(b.Pod.Spec), func(f FieldChange) { c.sort(b.Pod, f) })
	if before, after := QOSClass(a.Pod), QOSClass(b.Pod); before != after {
		for _, f := range c.Resources {
			f.Why = fmt.Sprintf("the pod's QoS class would change from %s to %s", before, after)
			c.Recreate = append(c.Recreate, f)
		}
		c.Resources = nil
	}
	return c
}

var (
	containerField = regexp.MustCompile(`^spec\.(containers|initContainers)\[(\d+)\]\.(.*)$`)
	resizable      = regexp.MustCompile(`^resources(\.(limits|requests)(\.(cpu|memory))?)?$`)
	// laterFields of a container count when it starts the next time.
	laterFields = regexp.MustCompile(`^(imagePullPolicy|resizePolicy)\b`)
	// quietFields have no meaning on one node, or are looked at when they matter.
	quietFields = regexp.MustCompile(`^spec\.(nodeSelector|affinity|tolerations|topologySpreadConstraints|schedulerName|preemptionPolicy|activeDeadlineSeconds)\b`)
)

// sort puts one difference where it belongs.
func (c *Difference) sort(after *v1.Pod, f FieldChange) {
	if strings.HasPrefix(f.Path, "spec.ephemeralContainers") {
		return // they are the running pod's own
	}
	if quietFields.MatchString(f.Path) {
		c.Shown = append(c.Shown, f)
		return
	}
	m := containerField.FindStringSubmatch(f.Path)
	if m == nil {
		c.Recreate = append(c.Recreate, f)
		return
	}
	f.Container = nameAt(after, m[1], m[2])
	switch field := m[3]; {
	case field == "image":
		c.Images = append(c.Images, f)
	case resizable.MatchString(field):
		c.resources(f)
	case laterFields.MatchString(field):
		c.Shown = append(c.Shown, f)
	default:
		c.Recreate = append(c.Recreate, f)
	}
}

// resources takes a difference that may be of all of a container's resources.
func (c *Difference) resources(f FieldChange) {
	for _, text := range []string{f.Before, f.After} {
		var all struct {
			Claims json.RawMessage `json:"claims"`
		}
		if strings.HasPrefix(text, "{") && (json.Unmarshal([]byte(text), &all) != nil || all.Claims != nil ||
			slices.ContainsFunc([]string{"ephemeral-storage", "hugepages"}, func(s string) bool { return strings.Contains(text, s) })) {
			c.Recreate = append(c.Recreate, f)
			return
		}
	}
	c.Resources = append(c.Resources, f)
}

// nameAt is the name of the container at an index of one of the two lists.
func nameAt(p *v1.Pod, list, index string) string {
	containers := p.Spec.Containers
	if list == "initContainers" {
		containers = p.Spec.InitContainers
	}
	var i int
	if _, err := fmt.Sscanf(index, "%d", &i); err != nil || i >= len(containers) {
		return ""
	}
	return containers[i].Name
}

// asTree is v as maps, slices and scalars, nil where it is empty.
func asTree(v any) any {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("pod: what was read from a manifest cannot be written: %v", err))
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		panic(fmt.Sprintf("pod: what was written of a manifest cannot be read: %v", err))
	}
	return tree
}

// differences calls differs for each part that differs, in the order of names:
// the smallest part that both have, the list where its length differs.
func differences(path string, a, b any, differs func(FieldChange)) {
	if equality.Semantic.DeepEqual(a, b) {
		return
	}
	switch a := a.(type) {
	case map[string]any:
		b, same := b.(map[string]any)
		if !same {
			break
		}
		names := map[string]bool{}
		for name := range a {
			names[name] = true
		}
		for name := range b {
			names[name] = true
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			differences(path+"."+name, a[name], b[name], differs)
		}
		return
	case []any:
		b, same := b.([]any)
		if !same || len(a) != len(b) {
			break
		}
		for i := range a {
			differences(fmt.Sprintf("%s[%d]", path, i), a[i], b[i], differs)
		}
		return
	}
	differs(FieldChange{Path: path, Before: asText(a), After: asText(b)})
}

// asText is a part of a tree for people.
func asText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("pod: part of a manifest cannot be written: %v", err)) // it came from JSON
	}
	return string(data)
}

// containersOf are the containers that changes are about, each once.
func containersOf(changes []FieldChange) []string {
	var all []string
	for _, f := range changes {
		if !slices.Contains(all, f.Container) {
			all = append(all, f.Container)
		}
	}
	return all
}

// Changed says that the pod goes on with another manifest, of which these
// containers' images and resources differ.
type Changed struct {
	At
	Images    []string
	Resources []string
	// Fields are the differences, for whoever asks why.
	Fields []FieldChange
}

// changed forgets what was known of images that are no longer wanted, and how
// often containers had exited that are different ones now: the kubelet's back-off
// key has name, image and resources.
func changed(o Observed, f Changed) Observed {
	for _, name := range f.Images {
		c := o.Containers[name]
		c.Image, c.Backoff, c.Retry = Image{}, Backoff{}, Retry{}
		o = o.with(name, c)
	}
	for _, name := range f.Resources {
		c := o.Containers[name]
		c.Backoff, c.Retry = Backoff{}, Retry{}
		o = o.with(name, c)
	}
	if len(f.Resources) > 0 {
		o.Resize = Resize{Busy: o.Resize.Busy}
	}
	return o
}

// Made is what a container's newest attempt was made of, as far as that can
// differ from the manifest while the pod goes on.
type Made struct {
	Image string `json:"image,omitempty"` // as the manifest named it; empty: not known
	Ref   string `json:"ref,omitempty"`   // as the status shows it
	ID    string `json:"id,omitempty"`
	// Resources are what its control group holds.
	Resources v1.ResourceRequirements `json:"resources,omitzero"`
	// User is who the main process began as, StopSignal the image's own; both are
	// known once it runs.
	User       *v1.LinuxContainerUser `json:"user,omitempty"`
	StopSignal v1.Signal              `json:"stopSignal,omitempty"`
}

// made notes what a sandbox or an attempt that is begun is made of.
func made(o Observed, f Begun) Observed {
	if f.Pod == nil {
		return o
	}
	switch a := f.Action.(type) {
	case EnsureSandbox:
		o.Sandbox.Resources, o.Resize = resourcesOf(f.Pod), Resize{}
	case StartContainer:
		for _, want := range append(allContainers(f.Pod), ephemeralContainers(f.Pod)...) {
			if want.Name == a.Container {
				c := o.Containers[a.Container]
				c.Made = Made{Image: want.Image, Ref: c.Image.Ref, ID: c.Image.ID, Resources: want.Resources}
				return o.with(a.Container, c)
			}
		}
	}
	return o
}

// assumeMade fills in what a record of an older agent does not tell: containers
// were made of the manifest that it holds.
func assumeMade(o Observed, pod *v1.Pod) Observed {
	for _, c := range allContainers(pod) {
		state := o.Containers[c.Name]
		if state.Made.Image == "" && (state.Running != nil || state.Starting != nil) {
			state.Made = Made{Image: c.Image, Ref: state.Image.Ref, ID: state.Image.ID, Resources: c.Resources}
			o = o.with(c.Name, state)
		}
	}
	if o.Sandbox.Phase == SandboxRunning && o.Sandbox.Resources == nil {
		o.Sandbox.Resources = resourcesOf(pod)
	}
	return o
}

// replace ends a running container that another image, or resources that only a
// new process can have, were chosen for, and says whether it does. The new image is
// there before the old process ends. An init container goes on and is made anew when
// it runs again.
func (p *planner) replace(c *v1.Container) bool {
	state := p.o.Containers[c.Name]
	if p.isInit(c) && !isSidecar(c) {
		return false
	}
	if stop := state.Running.Stop; stop != nil {
		if stop.Reason != StopChanged {
			return false
		}
	} else if !state.definitionChanged(c) && !restartsToResize(c, state) || !p.ensureImage(c) {
		return false
	}
	p.why = StopChanged
	p.stopAlone(c.Name, podGrace(p.pod))
	p.why = ""
	return true
}

func (p *planner) isInit(c *v1.Container) bool {
	return slices.ContainsFunc(p.pod.Spec.InitContainers, func(i v1.Container) bool { return i.Name == c.Name })
}

// definitionChanged says whether the newest attempt is of another image than wanted.
func (c Container) definitionChanged(want *v1.Container) bool {
	return c.Made.Image != "" && c.Made.Image != want.Image
}

// changedMessage is the kubelet's reason for the restart of a container that
// has changed.
func changedMessage(pod *v1.Pod, o Observed, name string) string {
	for _, c := range allContainers(pod) {
		switch {
		case c.Name != name:
		case !o.Containers[name].definitionChanged(c):
			return fmt.Sprintf("Container %s resize requires restart", name)
		case isSidecar(c):
			return fmt.Sprintf("Init container %s definition changed", name)
		}
	}
	return fmt.Sprintf("Container %s definition changed, will be restarted", name)
}
