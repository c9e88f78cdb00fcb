package declared

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestNobodyConnectsToAPodWithoutANode(t *testing.T) {
	w := newWorld(t)
	w.do("POST", podsPath, plainPod("web", "  schedulingGates: [{name: example.com/open}]"))
	for _, what := range []string{"exec?command=ls", "attach", "portforward", "proxy/", "log"} {
		if got := w.do("GET", podsPath+"/web/"+what, ""); got.code != 400 || !strings.Contains(string(got.body), "pod web does not have a host assigned") {
			t.Errorf("%s: %d %s", what, got.code, got.body)
		}
	}
}

// Source: Kubernetes, the registry of pods, which looks at spec.containers alone for a
// container that is not named.
func TestARequestWithoutAContainerMeansTheOnlyRegularOne(t *testing.T) {
	var p v1.Pod
	p.Name = "web"
	p.Spec.InitContainers = []v1.Container{{Name: "fetch"}}
	p.Spec.Containers = []v1.Container{{Name: "app"}}
	for _, test := range []struct{ asked, want, refused string }{
		{"", "app", ""},
		{"fetch", "fetch", ""},
		{"nobody", "", "container nobody is not valid for pod web"},
	} {
		got, err := connectTo(&p, test.asked)
		if got != test.want || (err == nil) != (test.refused == "") || err != nil && err.Error() != test.refused {
			t.Errorf("%q: got %q, %v; want %q, %q", test.asked, got, err, test.want, test.refused)
		}
	}
	p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "proxy"})
	const want = "a container name must be specified for pod web, choose one of: [fetch app proxy]"
	if _, err := connectTo(&p, ""); err == nil || err.Error() != want {
		t.Errorf("of two: %v; want %s", err, want)
	}
}
