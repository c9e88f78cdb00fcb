package declared

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/objects"
	"podd/api/podlogs"
	"podd/logs"
	"podd/pod"
)

func (w *world) remove(key objects.Key, options *metav1.DeleteOptions) error {
	return w.server.Delete(key, options)
}

func TestAPodOfTheAPIRunsAndSurvivesTheAgent(t *testing.T) {
	w := newWorld(t)
	made := w.as(w.do("POST", podsPath, plainPod("web", "")), 201)
	if made.UID == "" || made.Generation != 1 || made.Status.Phase != v1.PodPending || made.Spec.NodeName != "node" ||
		made.Spec.ServiceAccountName != "default" || conditionOf(made, v1.PodScheduled) != "True" {
		t.Fatalf("made as %+v", made)
	}
	if read := w.pod("web"); read.UID != made.UID {
		t.Error("a read after the write does not see it")
	}
	running := w.ready("web")
	if running.UID != made.UID || running.Status.ContainerStatuses[0].State.Running == nil || running.Status.ObservedGeneration != 1 ||
		!running.CreationTimestamp.Equal(&made.CreationTimestamp) || len(running.Annotations) > 0 {
		t.Errorf("runs as %+v", running)
	}
	w.killAgent()
	w.startAgent()
	again := w.ready("web")
	if again.UID != made.UID || again.Status.ContainerStatuses[0].RestartCount != 0 || len(w.keptPods()) != 1 {
		t.Errorf("after a restart of the agent: %+v", again)
	}
	w.refused(w.do("POST", podsPath, plainPod("web", "")), 409, "AlreadyExists")
	w.refused(w.do("POST", podsPath, plainPod("bad", "  restartPolicy: Sometimes")), 422, `spec.restartPolicy: Invalid value: \"Sometimes\"`)
	if kept := w.keptPods(); len(kept) != 1 {
		t.Errorf("what was refused is kept: %v", kept)
	}
}

func TestADeletedPodShowsHowLongItHasAndGoes(t *testing.T) {
	w := newWorld(t)
	w.kernel.Deafen("app")
	w.do("POST", podsPath, plainPod("web", "  terminationGracePeriodSeconds: 3600"))
	uid := w.ready("web").UID
	deleted := w.as(w.do("DELETE", podsPath+"/web", nil), 200)
	if deleted.DeletionTimestamp == nil || *deleted.DeletionGracePeriodSeconds != 3600 || deleted.Generation != 2 {
		t.Errorf("deleted as %+v", deleted.ObjectMeta)
	}
	w.killAgent() // the end goes on
	w.startAgent()
	w.until("it is not ready any more", func() bool { return conditionOf(w.pod("web"), v1.PodReady) == "False PodTerminating" })
	w.refused(w.do("POST", podsPath, plainPod("web", "")), 409, "AlreadyExists")
	shorter := w.as(w.do("DELETE", podsPath+"/web?gracePeriodSeconds=2", nil), 200)
	if *shorter.DeletionGracePeriodSeconds != 2 {
		t.Errorf("shortened to %+v", shorter.ObjectMeta)
	}
	w.gone("web")
	if kept := w.keptPods(); len(kept) > 0 {
		t.Errorf("kept: %v", kept)
	}
	w.do("POST", podsPath, plainPod("web", ""))
	if p := w.ready("web"); p.UID == uid {
		t.Error("another pod has the UID of the one before")
	}
}

func TestAPodDeletedWithoutGraceIsGoneAtOnce(t *testing.T) {
	w := newWorld(t)
	w.kernel.Deafen("app")
	w.do("POST", podsPath, plainPod("web", "  terminationGracePeriodSeconds: 3600"))
	before := w.ready("web")
	order := &ordered{Runner: w.keeper.Runner, file: filepath.Join(w.objects, "pods/default/web.yaml")}
	w.keeper.Runner = order
	if r := w.do("DELETE", podsPath+"/web?gracePeriodSeconds=0", nil); r.code != 200 {
		t.Fatalf("%d %s", r.code, r.body)
	}
	if !order.kept {
		t.Error("it was not ended, or before its file said that it was deleted")
	}
	if p := w.pod("web"); p != nil {
		t.Errorf("still there: %+v", p.ObjectMeta)
	}
	// Another one of its name starts once nothing is left of it.
	made := w.as(w.do("POST", podsPath, plainPod("web", "")), 201)
	w.until("the new one runs", func() bool {
		p := w.pod("web")
		return p.UID == made.UID && isReady(p)
	})
	if strings.Contains(w.kernel.State(), string(before.UID)) {
		t.Error("the one before still runs")
	}
}

// As on a cluster, the last that is seen of a pod says when it was deleted, also where
// it goes at once.
func TestAPodThatGoesAtOnceIsShownAsDeletedFirst(t *testing.T) {
	w := newWorld(t)
	w.do("POST", podsPath, plainPod("running", ""))
	w.ready("running")
	w.do("POST", podsPath, plainPod("waits", "  schedulingGates: [{name: example.com/gate}]"))
	for name, query := range map[string]string{"running": "?gracePeriodSeconds=0", "waits": ""} {
		changes, err := w.store.Watch(t.Context(), podResource, "default", w.store.Version())
		if err != nil {
			t.Fatal(err)
		}
		before := w.pod(name)
		deleted := w.as(w.do("DELETE", podsPath+"/"+name+query, nil), 200)
		check := func(what string, m metav1.ObjectMeta) {
			t.Helper()
			if m.DeletionTimestamp == nil || m.DeletionGracePeriodSeconds == nil || *m.DeletionGracePeriodSeconds != 0 || m.Generation != before.Generation+1 {
				t.Errorf("%s: %s: %+v", name, what, m)
			}
		}
		check("answer", deleted.ObjectMeta)
		var seen []string
		for len(seen) == 0 || seen[len(seen)-1] != "DELETED" {
			events, err := changes.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if p := e.Object.(*v1.Pod); p.Name == name && (e.Type == "DELETED" || p.DeletionTimestamp != nil) {
					seen = append(seen, string(e.Type))
					check(string(e.Type), p.ObjectMeta)
				}
			}
		}
		if len(seen) < 2 || seen[0] != "MODIFIED" {
			t.Errorf("%s: seen: %v", name, seen)
		}
	}
	if kept := w.keptPods(); len(kept) > 0 {
		t.Errorf("kept: %v", kept)
	}
}

func TestFinalizersKeepAPodOfWhichNothingRuns(t *testing.T) {
	w := newWorld(t)
	text := strings.Replace(plainPod("web", ""), "{name: web}", "{name: web, finalizers: [example.com/wait]}", 1)
	w.as(w.do("POST", podsPath, text), 201)
	w.ready("web")
	w.as(w.do("DELETE", podsPath+"/web?gracePeriodSeconds=1", nil), 200)
	ended := func() bool {
		p := w.pod("web")
		return p != nil && *p.DeletionGracePeriodSeconds == 0 && p.Status.ContainerStatuses[0].State.Terminated != nil
	}
	w.until("its last state is shown", ended)
	w.killAgent()
	w.startAgent()
	w.until("its last state is shown again", ended)
	if state := w.kernel.State(); state != "" {
		t.Errorf("runs: %s", state)
	}
	p := w.pod("web")
	p.Finalizers = nil
	if r := w.do("PUT", podsPath+"/web", p); r.code != 200 {
		t.Fatalf("%d %s", r.code, r.body)
	}
	if w.pod("web") != nil || len(w.keptPods()) > 0 {
		t.Errorf("still there without its finalizer: %v", w.keptPods())
	}
}

func TestAFinishedPodStaysUntilItIsDeleted(t *testing.T) {
	w := newWorld(t)
	w.kernel.Lives("app", 0, 0)
	w.do("POST", podsPath, plainPod("job", "  restartPolicy: Never"))
	w.until("it succeeded", func() bool { return w.pod("job").Status.Phase == v1.PodSucceeded })
	w.killAgent()
	w.startAgent()
	w.until("it succeeded", func() bool { return w.pod("job").Status.Phase == v1.PodSucceeded })
	w.do("DELETE", podsPath+"/job", nil)
	if w.pod("job") != nil {
		t.Error("it does not go at once")
	}
}

func TestAPodOfAFileIsReadAndNotChanged(t *testing.T) {
	w := newWorld(t)
	w.file("web.yaml", plainPod("web", "  terminationGracePeriodSeconds: 1\n  readinessGates: [{conditionType: example.com/open}]")+
		"\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n")
	w.until("it runs", func() bool { p := w.pod("web"); return p != nil && conditionOf(p, v1.ContainersReady) == "True" })
	p := w.pod("web")
	at := w.manifests + "/web.yaml:1"
	if p.Annotations["podd/declared-in"] != at || p.UID == "" || p.ResourceVersion == "" {
		t.Errorf("shown as %+v", p.ObjectMeta)
	}
	labelled := p.DeepCopy()
	labelled.Labels = map[string]string{"a": "b"}
	w.refused(w.do("PUT", podsPath+"/web", labelled), 403, "it is declared in "+at+" and can only be changed there")
	w.as(w.do("PUT", podsPath+"/web", w.pod("web")), 200) // as it is
	const settings = "/api/v1/namespaces/default/configmaps/settings"
	w.until("its ConfigMap is there", func() bool { return w.do("GET", settings, nil).code == 200 })
	w.refused(w.do("DELETE", settings, nil), 403, "and can only be deleted there")

	// The namespace that a file uses is there, and stays.
	w.file("shop.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: prices, namespace: shop}\n")
	w.until("its namespace is there", func() bool { return w.do("GET", "/api/v1/namespaces/shop/configmaps/prices", nil).code == 200 })
	w.as(w.do("GET", "/api/v1/namespaces/shop", nil), 200)
	w.refused(w.do("DELETE", "/api/v1/namespaces/shop", nil), 403, "configmaps prices in it is declared in "+w.manifests+"/shop.yaml:1")

	// Its readiness gate opens, it gets a container more, and other resources.
	p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: "example.com/open", Status: "True"})
	p = w.as(w.do("PUT", podsPath+"/web/status", p), 200)
	w.ready("web")
	p = w.pod("web")
	p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug", Image: "busybox:1"}}}
	w.as(w.do("PUT", podsPath+"/web/ephemeralcontainers", p), 200)
	w.until("the container more runs", func() bool {
		s := w.pod("web").Status.EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Running != nil
	})

	// Deleted, it comes back as another one.
	uid := p.UID
	r := w.do("DELETE", podsPath+"/web?gracePeriodSeconds=1", nil)
	if len(r.warnings) != 1 || !strings.Contains(r.warnings[0], "declared in "+at+" and starts again") {
		t.Errorf("warned of %q", r.warnings)
	}
	w.until("another one runs", func() bool {
		p := w.pod("web")
		return p != nil && p.UID != uid && conditionOf(p, v1.ContainersReady) == "True" && len(p.Spec.EphemeralContainers) == 0
	})
	uid = w.pod("web").UID
	w.kernel.Deafen("app") // its end takes a while
	w.do("DELETE", podsPath+"/web?gracePeriodSeconds=0", nil)
	w.until("another one runs", func() bool {
		p := w.pod("web")
		if p != nil && p.UID == uid {
			t.Fatal("a pod that was deleted at once is shown again")
		}
		return p != nil
	})
	w.file("web.yaml", "")
	w.gone("web")
	w.until("its ConfigMap is gone", func() bool { return w.do("GET", settings, nil).code == 404 })
}

// A file's pod too counts its deletion, and its status has seen it.
func TestADeletedPodOfAFileCountsItsDeletion(t *testing.T) {
	w := newWorld(t)
	w.kernel.Deafen("app")
	w.file("web.yaml", plainPod("web", "  terminationGracePeriodSeconds: 3600"))
	before := w.ready("web")
	deleted := w.as(w.do("DELETE", podsPath+"/web", nil), 200)
	if deleted.Generation != before.Generation+1 {
		t.Errorf("generation %d, it was %d", deleted.Generation, before.Generation)
	}
	w.until("its status has seen that", func() bool {
		p := w.pod("web")
		if p.Generation != deleted.Generation {
			t.Fatalf("generation %d, want %d", p.Generation, deleted.Generation)
		}
		for _, c := range p.Status.Conditions {
			if c.ObservedGeneration != p.Status.ObservedGeneration {
				t.Errorf("%s has seen generation %d, the status %d", c.Type, c.ObservedGeneration, p.Status.ObservedGeneration)
			}
		}
		return p.Status.ObservedGeneration == deleted.Generation
	})
	w.do("DELETE", podsPath+"/web?gracePeriodSeconds=0", nil)
	w.until("another one is there", func() bool { p := w.pod("web"); return p != nil && p.UID != before.UID && p.Generation == 1 })
}

// Whoever asks learns from an evicted pod why it ends, and nothing of the one before from
// the pod of a file that starts again.
func TestAnEvictedPodIsADisruptionsTarget(t *testing.T) {
	w := newWorld(t)
	w.kernel.Deafen("app")
	w.file("web.yaml", plainPod("file", "  terminationGracePeriodSeconds: 3600"))
	w.do("POST", podsPath, plainPod("api", "  terminationGracePeriodSeconds: 3600"))
	w.do("POST", podsPath, plainPod("waits", "  schedulingGates: [{name: example.com/gate}]\n  terminationGracePeriodSeconds: 3600"))
	for _, name := range []string{"file", "api"} {
		before := w.ready(name)
		evict := func(query, more string) reply {
			return w.do("POST", podsPath+"/"+name+"/eviction"+query, `{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "`+name+`"}`+more+`}`)
		}
		evict("?dryRun=All", "")
		evict("", `, "deleteOptions": {"preconditions": {"uid": "another"}}`)
		if p := w.pod(name); conditionOf(p, v1.DisruptionTarget) != "" || p.DeletionTimestamp != nil {
			t.Errorf("%s: not evicted, but %+v", name, p)
		}
		if r := evict("", ""); r.code != 201 {
			t.Fatalf("%s: %d %s", name, r.code, r.body)
		}
		w.until(name+" ends and is no longer ready", func() bool {
			p := w.pod(name)
			if got := conditionOf(p, v1.DisruptionTarget); got != "True EvictionByEvictionAPI" {
				t.Fatalf("%s: condition %q", name, got)
			}
			return p.DeletionTimestamp != nil && conditionOf(p, v1.PodReady) == "False PodTerminating"
		})
		for _, c := range w.pod(name).Status.Conditions {
			if c.Type == v1.DisruptionTarget && (c.Message != "Eviction API: evicting" || c.LastTransitionTime.IsZero() || c.ObservedGeneration != before.Generation) {
				t.Errorf("%s: %+v", name, c)
			}
		}
		w.do("DELETE", podsPath+"/"+name+"?gracePeriodSeconds=0", nil)
	}
	w.until("another one is there", func() bool { return isReady(w.pod("file")) })
	if got := conditionOf(w.pod("file"), v1.DisruptionTarget); got != "" {
		t.Errorf("the pod that came back has the condition %s", got)
	}
	// One that never had a place goes at once.
	if r := w.do("POST", podsPath+"/waits/eviction", `{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "waits"}}`); r.code != 201 || w.pod("waits") != nil {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestAFileHidesWhatTheAPIMade(t *testing.T) {
	w := newWorld(t)
	made := w.as(w.do("POST", podsPath, plainPod("web", "")), 201)
	const maps = "/api/v1/namespaces/default/configmaps"
	w.do("POST", maps, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: api}\n")
	w.ready("web")
	w.file("web.yaml", strings.Replace(plainPod("web", ""), "app:1", "file:1", 1)+
		"\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: file}\n")
	w.until("the file's is shown", func() bool {
		return w.pod("web") != nil && w.pod("web").Spec.Containers[0].Image == "file:1" && strings.Contains(string(w.do("GET", maps+"/settings", nil).body), `"a":"file"`)
	})
	w.file("web.yaml", "")
	w.until("the API's is back", func() bool {
		p := w.pod("web")
		return p != nil && p.Spec.Containers[0].Image == "app:1" && p.UID == made.UID && isReady(p) && DeclaredIn(p) == "" &&
			strings.Contains(string(w.do("GET", maps+"/settings", nil).body), `"a":"api"`)
	})
}

func TestAPodWithoutAPlaceGetsOne(t *testing.T) {
	w := newWorld(t)
	const port = "  hostNetwork: true\n"
	ported := func(name string) string {
		return strings.Replace(plainPod(name, port), `image: "app:1"`, `image: "app:1", ports: [{containerPort: 80}]`, 1)
	}
	w.as(w.do("POST", podsPath, ported("first")), 201)
	second := w.as(w.do("POST", podsPath, ported("second")), 201)
	if second.Spec.NodeName != "" || conditionOf(second, v1.PodScheduled) != "False Unschedulable" {
		t.Errorf("the second is %+v %+v", second.Spec.NodeName, second.Status)
	}
	gated := w.as(w.do("POST", podsPath, plainPod("gated", "  schedulingGates: [{name: example.com/later}]")), 201)
	if conditionOf(gated, v1.PodScheduled) != "False SchedulingGated" {
		t.Errorf("the gated is %+v", gated.Status)
	}
	told := func(name, want string) {
		w.until("the scheduler tells of "+name, func() bool { return w.schedulerEvents(name) == want })
	}
	told("first", "Scheduled: Successfully assigned default/first to node")
	told("second", "FailedScheduling: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.")
	told("gated", "FailedScheduling: Scheduling is blocked due to non-empty scheduling gates")
	w.ready("first")
	w.killAgent()
	w.startAgent()
	w.do("DELETE", podsPath+"/first?gracePeriodSeconds=1", nil)
	if p := w.ready("second"); p.UID != second.UID || p.Spec.NodeName != "node" {
		t.Errorf("the second runs as %+v", p)
	}
	gated = w.pod("gated")
	gated.Spec.SchedulingGates = nil
	w.as(w.do("PUT", podsPath+"/gated", gated), 200)
	w.ready("gated")
	told("gated", "FailedScheduling: Scheduling is blocked due to non-empty scheduling gates, Scheduled: Successfully assigned default/gated to node")
	w.as(w.do("POST", podsPath, plainPod("other", "  schedulerName: mine")), 201)
	if r := w.do("POST", podsPath+"/other/binding", `{"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "other"}, "target": {"kind": "Node", "name": "node"}}`); r.code != 201 {
		t.Errorf("bound: %d %s", r.code, r.body)
	}
	w.ready("other")
	w.do("POST", podsPath, plainPod("never", "  schedulerName: mine"))
	w.do("DELETE", podsPath+"/never", nil)
	if w.pod("never") != nil {
		t.Error("a pod that has no place does not go at once")
	}
}

func TestAPodIsChangedWithinItsRules(t *testing.T) {
	w := newWorld(t)
	w.as(w.do("POST", podsPath, strings.Replace(plainPod("web", ""), `image: "app:1"`, `image: "app:1", resources: {requests: {cpu: 100m}}`, 1)), 201)
	p := w.ready("web")
	p.Spec.Containers[0].Image = "app:2"
	if p = w.as(w.do("PUT", podsPath+"/web", p), 200); p.Generation != 2 {
		t.Errorf("generation %d", p.Generation)
	}
	w.until("the container runs the other image", func() bool {
		p = w.pod("web")
		c := p.Status.ContainerStatuses[0]
		return c.RestartCount == 1 && c.Image == "app:2" && p.Status.ObservedGeneration == 2 && isReady(p)
	})
	stale := p.DeepCopy()
	p.Labels = map[string]string{"a": "b"}
	w.as(w.do("PUT", podsPath+"/web", p), 200)
	w.refused(w.do("PUT", podsPath+"/web", stale), 409, "the object has been modified")
	p = w.pod("web")
	p.Spec.Containers[0].Command = []string{"sleep"}
	w.refused(w.do("PUT", podsPath+"/web", p), 422, "pod updates may not change fields other than")

	p = w.pod("web")
	p.Spec.Containers[0].Resources.Requests["cpu"] = *p.Spec.Containers[0].Resources.Requests.Cpu()
	p.Spec.Containers[0].Resources.Requests[v1.ResourceMemory] = *p.Spec.Containers[0].Resources.Requests.Cpu()
	p = w.as(w.do("PUT", podsPath+"/web/resize", p), 200)
	w.until("the control groups follow", func() bool {
		now := w.pod("web")
		return now.Status.ObservedGeneration == p.Generation && len(now.Status.ContainerStatuses[0].Resources.Requests) == 2 && conditionOf(now, v1.PodResizeInProgress) == ""
	})
	p = w.pod("web")
	p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug", Image: "busybox:1"}}}
	w.as(w.do("PUT", podsPath+"/web/ephemeralcontainers", p), 200)
	w.until("the container more runs", func() bool {
		s := w.pod("web").Status.EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Running != nil
	})
	w.refused(w.do("PUT", podsPath+"/web/ephemeralcontainers", `{"metadata": {"name": "web"}}`), 422, "may not be removed")
	if p := w.ready("web"); p.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("restarted: %+v", p.Status.ContainerStatuses[0])
	}
	if r := w.do("POST", podsPath+"/web/eviction", `{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}, "deleteOptions": {"gracePeriodSeconds": 1}}`); r.code != 201 {
		t.Errorf("evicted: %d %s", r.code, r.body)
	}
	w.gone("web")
}

func TestEventsOfPodsAreShown(t *testing.T) {
	w := newWorld(t)
	w.as(w.do("POST", podsPath, plainPod("web", "")), 201)
	p := w.ready("web")
	var list v1.EventList
	w.until("its events are there", func() bool {
		r := w.do("GET", "/api/v1/namespaces/default/events?fieldSelector=involvedObject.uid="+string(p.UID), nil)
		list = v1.EventList{}
		if err := jsonInto(r.body, &list); err != nil {
			t.Fatal(err)
		}
		var reasons []string
		for _, e := range list.Items {
			reasons = append(reasons, e.Reason)
		}
		return slices.Contains(reasons, "Created") && slices.Contains(reasons, "Started")
	})
	for _, e := range list.Items {
		if e.UID == "" || e.ResourceVersion == "" || e.InvolvedObject.Name != "web" {
			t.Errorf("event %+v", e)
		}
	}
	w.keeper.forgetEvents(list.Items[0].LastTimestamp.Add(2 * eventsLast))
	if r := w.do("GET", "/api/v1/namespaces/default/events", nil); strings.Contains(string(r.body), "Started") {
		t.Errorf("left after two hours: %s", r.body)
	}
}

func TestOfTooManyEventsTheNewestAreShown(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	const more = 3
	for i := range eventsMost + more { // the later its name, the older
		key := objects.Key{Resource: eventResource, Namespace: "default", Name: fmt.Sprintf("e%05d", i)}
		at := metav1.NewTime(now.Add(-time.Duration(i) * time.Millisecond))
		if _, err := w.keeper.Store.Update(key, func(objects.Object) (objects.Object, error) {
			return &v1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, LastTimestamp: at}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.keeper.forgetEvents(now)
	left, _ := w.keeper.Store.List(eventResource, "default")
	if last := left[len(left)-1].GetName(); len(left) != eventsMost || last != fmt.Sprintf("e%05d", eventsMost-1) {
		t.Errorf("%d events are left, the oldest is %s", len(left), last)
	}
}

func TestDeleteCollectionAndNamespacesTakePodsWithThem(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		text := strings.Replace(plainPod(fmt.Sprintf("p%d", i), ""), "{name:", "{labels: {set: \""+fmt.Sprint(i/2)+"\"}, name:", 1)
		w.as(w.do("POST", podsPath, text), 201)
	}
	w.ready("p0")
	if r := w.do("DELETE", podsPath+"?labelSelector=set%3D0&gracePeriodSeconds=1", nil); r.code != 200 || !strings.Contains(string(r.body), `"kind":"PodList"`) {
		t.Errorf("%d %s", r.code, r.body)
	}
	w.gone("p0")
	w.gone("p1")
	w.ready("p2")
	if r := w.do("POST", "/api/v1/namespaces", "apiVersion: v1\nkind: Namespace\nmetadata: {name: more}\n"); r.code != 201 {
		t.Fatalf("%s", r.body)
	}
	in := "/api/v1/namespaces/more/pods"
	w.as(w.do("POST", in, plainPod("inside", "  terminationGracePeriodSeconds: 1")), 201)
	w.do("DELETE", "/api/v1/namespaces/more", nil)
	w.until("the namespace is gone", func() bool { return w.do("GET", "/api/v1/namespaces/more", nil).code == 404 })
	w.refused(w.do("POST", in, plainPod("late", "")), 404, `namespaces \"more\" not found`)
	if kept := w.keptPods(); len(kept) != 1 {
		t.Errorf("kept: %v", kept)
	}
}

func TestAdmissionOfAPod(t *testing.T) {
	w := newWorld(t)
	for _, handler := range []string{"podd", "kata"} {
		if r := w.do("POST", "/apis/node.k8s.io/v1/runtimeclasses", fmt.Sprintf("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: %s}\nhandler: %s\noverhead: {podFixed: {cpu: 10m}}\n", handler, handler)); r.code != 201 {
			t.Fatalf("%s", r.body)
		}
	}
	for _, test := range []struct {
		more string
		code int
		text string
	}{
		{"  serviceAccountName: nobody", 403, `error looking up service account default/nobody: serviceaccount \"nobody\" not found`},
		{"  priorityClassName: high", 403, "no PriorityClass with name high was found"},
		{"  priority: 7", 403, "the integer value of priority (7) must not be provided in pod spec"},
		{"  runtimeClassName: fast", 403, `RuntimeClass \"fast\" not found`},
		{"  runtimeClassName: kata", 403, `has the handler \"kata\"; this node has`},
		{"  overhead: {cpu: 10m}", 403, "Pod Overhead set without corresponding RuntimeClass"},
		{"  nodeName: elsewhere", 422, "there is one node here, node"},
		{"  ephemeralContainers: [{name: debug, image: \"a:1\"}]", 422, "cannot be set on create"},
		{"  runtimeClassName: podd\n  priorityClassName: system-node-critical", 201, `"overhead":{"cpu":"10m"}`},
	} {
		r := w.do("POST", podsPath, plainPod("web", test.more))
		w.refused(r, test.code, test.text)
	}
	if r := w.do("POST", podsPath, plainPod("tolerant", "  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]")); r.code != 201 || len(r.warnings) != 1 {
		t.Errorf("%d, warned of %q", r.code, r.warnings)
	}
	w.refused(w.do("POST", "/api/v1/namespaces/default/serviceaccounts", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot}\nimagePullSecrets: [{name: registry}]\n"), 201, "")
	for more, want := range map[string]string{"": "registry", "\n  imagePullSecrets: [{name: own}]": "own"} {
		p := w.as(w.do("POST", podsPath, plainPod("of-"+want, "  serviceAccountName: robot"+more)), 201)
		if secrets := p.Spec.ImagePullSecrets; len(secrets) != 1 || secrets[0].Name != want {
			t.Errorf("a pod of an account with a secret for images has %v, want %s", secrets, want)
		}
	}
	generated := w.as(w.do("POST", podsPath, strings.Replace(plainPod("x", ""), "{name: x}", "{generateName: job-}", 1)), 201)
	if !strings.HasPrefix(generated.Name, "job-") || len(generated.Name) != 9 {
		t.Errorf("named %q", generated.Name)
	}
	claimed := strings.Replace(plainPod("claimed", ""), "{name: claimed}", "{name: claimed, annotations: {podd/declared-in: \"/etc/passwd:1\"}}", 1)
	if r := w.do("POST", podsPath, claimed); r.code != 201 || len(r.warnings) != 1 || DeclaredIn(w.pod("claimed")) != "" {
		t.Errorf("a client declared a pod to be a file's: %d %q", r.code, r.warnings)
	}
}

func TestClaimsAreBoundWhoeverMadeThem(t *testing.T) {
	w := newWorld(t)
	const claimsPath = "/api/v1/namespaces/default/persistentvolumeclaims"
	claim := func(name string) string {
		return "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + name + "}\nspec:\n  accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n"
	}
	if r := w.do("POST", claimsPath, claim("api")); r.code != 201 {
		t.Fatalf("%s", r.body)
	}
	w.file("claim.yaml", claim("file"))
	for _, name := range []string{"api", "file"} {
		w.as(w.do("POST", podsPath, plainPod("uses-"+name, "  volumes: [{name: data, persistentVolumeClaim: {claimName: "+name+"}}]")), 201)
		var c v1.PersistentVolumeClaim
		w.until(name+" is bound", func() bool {
			c = v1.PersistentVolumeClaim{}
			r := w.do("GET", claimsPath+"/"+name, nil)
			return r.code == 200 && jsonInto(r.body, &c) == nil && c.Status.Phase == v1.ClaimBound
		})
		if in := DeclaredIn(&c); c.UID == "" || (in != "") != (name == "file") {
			t.Errorf("shown as %+v", c.ObjectMeta)
		}
		volume := "/api/v1/persistentvolumes/" + c.Spec.VolumeName
		w.until("its volume is shown", func() bool { return w.do("GET", volume, nil).code == 200 })
		w.refused(w.do("DELETE", volume, nil), 403, "it is declared in claim default/"+name)
	}
	w.do("DELETE", podsPath+"/uses-api?gracePeriodSeconds=0", nil)
	if r := w.do("DELETE", claimsPath+"/api", nil); r.code != 200 {
		t.Errorf("%d %s", r.code, r.body)
	}
	w.until("the claim is gone", func() bool { return w.do("GET", claimsPath+"/api", nil).code == 404 })
	w.refused(w.do("DELETE", claimsPath+"/file", nil), 403, "and can only be deleted there")
}

func TestLogsAndWhatLeadsIntoAPod(t *testing.T) {
	w := newWorld(t)
	w.kernel.Lives("done", 0, 0)
	two := strings.Replace(plainPod("web", "  restartPolicy: Never"), `containers: [`, `containers: [{name: done, image: "done:1"}, `, 1)
	w.as(w.do("POST", podsPath, two), 201)
	w.until("it runs", func() bool {
		p := w.pod("web")
		return isRunning(p, "app") && !isRunning(p, "done")
	})
	p := w.pod("web")
	dir := logs.Dir(w.logs(), "default", "web", string(p.UID), "app")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0.log"), []byte("2026-01-02T03:04:05Z stdout F one\n2026-01-02T03:04:06Z stderr F two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := w.do("GET", podsPath+"/web/log?container=app&tailLines=1", nil); r.code != 200 || string(r.body) != "two\n" {
		t.Errorf("log: %d %q", r.code, r.body)
	}
	w.refused(w.do("GET", podsPath+"/web/log", nil), 400, "a container name must be specified for pod web, choose one of: [done app]")
	w.refused(w.do("GET", podsPath+"/web/log?container=app&previous=true", nil), 400, `previous terminated container \"app\" in pod \"web\" not found`)
	w.refused(w.do("GET", podsPath+"/web/log?container=app&tailLines=x", nil), 400, "tailLines")
	w.refused(w.do("GET", podsPath+"/web/log?container=nobody", nil), 400, "container nobody is not valid for pod web")
	w.refused(w.do("POST", podsPath+"/web/exec?container=app", nil), 400, "you must specify at least one command")
	w.refused(w.do("POST", podsPath+"/web/exec?container=done&command=ls", nil), 400, `container not found (\"done\")`)
	w.refused(w.do("POST", podsPath+"/web/attach?container=done", nil), 400, `container not found (\"done\")`)
	w.refused(w.do("POST", podsPath+"/none/portforward", nil), 404, `pods \"none\" not found`)
}

func isRunning(p *v1.Pod, container string) bool {
	status := podlogs.StatusOf(p, container)
	return status != nil && status.State.Running != nil
}

func TestAPodWhoseFileCannotBeReadGoesOnAndIsShown(t *testing.T) {
	w := newWorld(t)
	made := w.as(w.do("POST", podsPath, plainPod("web", "")), 201)
	w.as(w.do("POST", podsPath, plainPod("other", "")), 201)
	w.ready("web")
	w.ready("other")
	w.killAgent()
	file := filepath.Join(w.objects, "pods/default/web.yaml")
	if err := os.WriteFile(file, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.objects, "pods/default/other.yaml")); err != nil {
		t.Fatal(err)
	}
	w.startAgent()
	if p := w.ready("web"); p.UID != made.UID || p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("runs as %+v", p)
	}
	if w.pod("other") != nil {
		t.Error("what was removed is shown")
	}
	w.do("DELETE", podsPath+"/web?gracePeriodSeconds=1", nil)
	w.gone("web")
	if _, err := os.Stat(file); err == nil {
		t.Error("its file is left")
	}
}

// schedulerEvents lists what the scheduler tells of a pod, the earliest first.
func (w *world) schedulerEvents(name string) string {
	w.Helper()
	stored, _ := w.store.List(eventResource, "default")
	var events []*v1.Event
	for _, o := range stored {
		if e := o.(*v1.Event); e.Source.Component == "default-scheduler" && e.InvolvedObject.Name == name {
			events = append(events, e)
		}
	}
	slices.SortFunc(events, func(a, b *v1.Event) int { return a.FirstTimestamp.Compare(b.FirstTimestamp.Time) })
	var lines []string
	for _, e := range events {
		lines = append(lines, e.Reason+": "+e.Message)
	}
	return strings.Join(lines, ", ")
}

// ordered sees that what ends at once was kept as deleted before.
type ordered struct {
	Runner
	file string
	kept bool
}

func (o *ordered) End(ctx context.Context, key pod.Key, uid types.UID, grace time.Duration) error {
	text, _ := os.ReadFile(o.file)
	o.kept = grace == 0 && strings.Contains(string(text), "deletionGracePeriodSeconds: 0")
	return o.Runner.End(ctx, key, uid, grace)
}
