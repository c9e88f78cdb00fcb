package declared

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/objects"
)

// The world has no node of its own.
func (w *world) addNode() {
	w.Helper()
	if _, err := w.store.Update(objects.Key{Resource: nodeResource, Name: "node"}, func(objects.Object) (objects.Object, error) {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "node-uid"}}, nil
	}); err != nil {
		w.Fatal(err)
	}
}

const mapsPath = "/api/v1/namespaces/default/configmaps"

// owner is a reference to what a path shows; blocks says that it waits.
func (w *world) owner(path string, blocks bool) string {
	w.Helper()
	o := &v1.ConfigMap{} // enough of any kind
	if err := jsonInto(w.do("GET", path, nil).body, o); err != nil {
		w.Fatal(err)
	}
	return fmt.Sprintf("{apiVersion: v1, kind: %s, name: %s, uid: %s, blockOwnerDeletion: %v}", o.Kind, o.Name, o.UID, blocks)
}

func (w *world) there(path string) bool { return w.do("GET", path, nil).code == 200 }

func ownedPod(name, owner, more string) string {
	return strings.Replace(plainPod(name, more), "metadata: {name: "+name, "metadata: {ownerReferences: ["+owner+"], name: "+name, 1)
}

func TestPodsGoWithTheirOwners(t *testing.T) {
	w := newWorld(t)
	w.addNode()
	w.kernel.Deafen("app")
	w.do("POST", podsPath, plainPod("top", "  terminationGracePeriodSeconds: 3600"))
	w.ready("top")
	if r := w.do("POST", podsPath, ownedPod("child", w.owner(podsPath+"/top", true), "  terminationGracePeriodSeconds: 3600")); r.code != 201 || len(r.warnings) > 0 {
		t.Fatalf("%d %s, warnings %q", r.code, r.body, r.warnings)
	}
	w.ready("child")
	top := w.as(w.do("DELETE", podsPath+"/top?propagationPolicy=Foreground", nil), 202)
	if *top.DeletionGracePeriodSeconds != 3600 || len(top.Finalizers) != 1 {
		t.Errorf("deleted as %+v", top.ObjectMeta)
	}
	w.as(w.do("DELETE", podsPath+"/top?propagationPolicy=Background", nil), 200)
	if p := w.pod("top"); len(p.Finalizers) != 1 {
		t.Errorf("a deletion under way got another policy: %+v", p.ObjectMeta)
	}
	w.until("the child is told to end", func() bool { return w.pod("child").DeletionTimestamp != nil })
	w.as(w.do("DELETE", podsPath+"/top?gracePeriodSeconds=1", nil), 200)
	w.until("nothing is left of the owner", func() bool { return *w.pod("top").DeletionGracePeriodSeconds == 0 })
	if w.pod("child") == nil {
		t.Error("the child went at once")
	}
	w.do("DELETE", podsPath+"/child?gracePeriodSeconds=0", nil)
	w.gone("child")
	w.gone("top")
}

func TestAnOrphanedPodGoesOnUntouched(t *testing.T) {
	w := newWorld(t)
	w.addNode()
	w.do("POST", mapsPath, "metadata: {name: top}")
	w.do("POST", podsPath, ownedPod("child", w.owner(mapsPath+"/top", true), ""))
	before := w.ready("child")
	w.do("DELETE", mapsPath+"/top?propagationPolicy=Orphan", nil)
	w.until("the owner is gone", func() bool { return !w.there(mapsPath + "/top") })
	w.killAgent()
	w.startAgent()
	w.addNode()
	after := w.ready("child")
	if len(after.OwnerReferences) > 0 || after.Generation != 1 || after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("it is %+v\nit was %+v", after, before)
	}
}

// The UID of what a file declares is the same after a restart, so what it owns stays.
func TestDependentsOfFilesSurviveTheAgent(t *testing.T) {
	w := newWorld(t)
	w.addNode()
	w.file("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: top}\n---\n"+plainPod("web", ""))
	w.until("the file is read", func() bool { return w.there(mapsPath + "/top") })
	w.ready("web")
	for name, owner := range map[string]string{"of-map": mapsPath + "/top", "of-pod": podsPath + "/web", "of-node": "/api/v1/nodes/node"} {
		w.do("POST", mapsPath, fmt.Sprintf("metadata: {name: %s, ownerReferences: [%s]}", name, w.owner(owner, false)))
	}
	w.killAgent()
	w.startAgent()
	w.addNode()
	w.do("POST", mapsPath, "metadata: {name: lost, ownerReferences: [{apiVersion: v1, kind: Pod, name: x, uid: x}]}")
	w.until("the collector is at work", func() bool { return !w.there(mapsPath + "/lost") })
	for _, name := range []string{"of-map", "of-pod", "of-node"} {
		if !w.there(mapsPath + "/" + name) {
			t.Errorf("%s was collected", name)
		}
	}
	w.file("a.yaml", "")
	for _, name := range []string{"of-map", "of-pod"} {
		w.until(name+" is collected", func() bool { return !w.there(mapsPath + "/" + name) })
	}
	if !w.there(mapsPath + "/of-node") {
		t.Error("what the node owns was collected")
	}
}
