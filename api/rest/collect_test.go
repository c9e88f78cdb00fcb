package rest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/objects"
)

// family is a server whose collector runs, and what a test needs to tell who owns whom.
type family struct {
	*testing.T
	s *Server

	mu     sync.Mutex
	events []string // guarded by mu
}

func newFamily(t *testing.T, change func(*Config)) *family {
	f := &family{T: t}
	f.s = newServer(t, func(c *Config) {
		c.DeclaredIn = func(o objects.Object) string { return o.GetAnnotations()["file"] }
		c.Event = func(e *v1.Event) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, fmt.Sprintf("%s/%s %s %s", e.Namespace, e.InvolvedObject.Name, e.Reason, e.Message))
		}
		if change != nil {
			change(c)
		}
	})
	run(t, f.s)
	return f
}

// path is where an object is: NAME is a ConfigMap, KIND/NAME one of another kind.
func (f *family) path(object string) string {
	if kind, name, other := strings.Cut(object, "/"); other {
		switch kind {
		case "persistentvolumes", "namespaces":
			return "/api/v1/" + kind + "/" + name
		}
		return "/api/v1/namespaces/default/" + kind + "/" + name
	}
	return configMapsPath + "/" + object
}

// owner is a reference to an object; more is more of it, as JSON.
func (f *family) owner(object, more string) string {
	f.Helper()
	r := do(f, f.s, "GET", f.path(object), nil).want(f, 200)
	return fmt.Sprintf(`{"apiVersion":"v1","kind":%q,"name":%q,"uid":%q%s}`, r.at("kind"), r.at("metadata.name"), r.at("metadata.uid"), more)
}

const blocks = `,"blockOwnerDeletion":true`

// make creates an object with references to its owners, in order.
func (f *family) make(object string, owners ...string) {
	f.Helper()
	path := f.path(object)
	at := strings.LastIndex(path, "/")
	do(f, f.s, "POST", path[:at], fmt.Sprintf(`{"metadata":{"name":%q,"ownerReferences":[%s]}}`, path[at+1:], strings.Join(owners, ","))).want(f, 201)
	synctest.Wait()
}

// patch changes an object's metadata, by a merge patch.
func (f *family) patch(object, metadata string) {
	f.Helper()
	do(f, f.s, "PATCH", f.path(object), `{"metadata":`+metadata+`}`, "Content-Type", "application/merge-patch+json").want(f, 200)
	synctest.Wait()
}

// remove deletes an object, by options in the body.
func (f *family) remove(object, options string) reply {
	f.Helper()
	r := do(f, f.s, "DELETE", f.path(object), options)
	synctest.Wait()
	return r
}

// there checks which of the objects are there: all but those that begin with "-".
func (f *family) there(objects ...string) {
	f.Helper()
	for _, o := range objects {
		want := 200
		if strings.HasPrefix(o, "-") {
			o, want = o[1:], 404
		}
		if r := do(f, f.s, "GET", f.path(o), nil); r.code != want {
			f.Errorf("%s: code %d, want %d: %s", o, r.code, want, r.body)
		}
	}
}

// names checks the owners of an object by name.
func (f *family) names(object string, owners ...string) {
	f.Helper()
	r := do(f, f.s, "GET", f.path(object), nil).want(f, 200)
	for i, name := range append(owners, "-") {
		if got := r.at(fmt.Sprintf("metadata.ownerReferences.%d.name", i)); got != name {
			f.Errorf("%s: owner %d is %s, want %s", object, i, got, name)
		}
	}
}

func inFamily(t *testing.T, f func(*family)) {
	synctest.Test(t, func(t *testing.T) { f(newFamily(t, nil)) })
}

func TestBackgroundDeletionTakesDependentsAfterTheOwner(t *testing.T) {
	for _, options := range []string{"", `{}`, `{"propagationPolicy":"Background"}`, `{"orphanDependents":false}`} {
		inFamily(t, func(f *family) {
			f.make("top")
			f.make("middle", f.owner("top", blocks))
			f.make("secrets/bottom", f.owner("middle", ""))
			f.make("other")
			f.there("top", "middle", "secrets/bottom")
			if r := f.remove("top", options); r.at("status") != "Success" {
				t.Errorf("%s: the owner waits: %s", options, r.body)
			}
			f.there("-top", "-middle", "-secrets/bottom", "other")
		})
	}
}

func TestAnOwnerThatGoesLaterKeepsItsDependentsUntilThen(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.make("child", f.owner("top", ""))
		f.patch("top", `{"finalizers":["example.com/hold"]}`)
		f.remove("top", "")
		f.there("top", "child")
		f.patch("top", `{"finalizers":null}`)
		f.there("-top", "-child")
	})
}

func TestForegroundDeletionTakesDependentsFirst(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.make("blocks", f.owner("top", blocks))
		f.make("hangs", f.owner("top", blocks))
		f.make("ignored", f.owner("top", ""))
		for _, name := range []string{"hangs", "ignored"} {
			f.patch(name, `{"finalizers":["example.com/hold"]}`)
		}
		f.remove("top", `{"propagationPolicy":"Foreground"}`).want(t, 202, "metadata.finalizers", `["foregroundDeletion"]`)
		f.there("top", "-blocks", "hangs", "ignored")
		f.patch("hangs", `{"finalizers":null}`) // the other does not block
		f.there("-top", "-hangs", "ignored")
		f.patch("ignored", `{"finalizers":null}`)
		f.there("-ignored")
	})
}

// As the finalizer kubernetes.io/pvc-protection has it on a cluster.
func TestAClaimThatIsDeletedStaysForItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, func(c *Config) {
			c.Kinds = append(c.Kinds, Kind{Resource: Served("", "pods"), New: func() objects.Object { return &v1.Pod{} }})
		})
		run(t, s)
		const claims, pods = "/api/v1/namespaces/default/persistentvolumeclaims", "/api/v1/namespaces/default/pods"
		for _, name := range []string{"used", "free", "other"} {
			do(t, s, "POST", claims, `{"metadata":{"name":"`+name+`"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`).want(t, 201)
		}
		pod := func(name, claim, phase string) {
			t.Helper()
			do(t, s, "POST", pods, `{"metadata":{"name":"`+name+`"},"spec":{"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"`+claim+`"}}]},"status":{"phase":"`+phase+`"}}`).want(t, 201)
		}
		pod("a", "used", "Running")
		pod("b", "used", "Running")
		pod("c", "other", "Running")
		pod("d", "free", "Succeeded")
		for _, name := range []string{"used", "free"} {
			do(t, s, "DELETE", claims+"/"+name, nil).want(t, 200)
		}
		synctest.Wait()
		do(t, s, "GET", claims+"/free", nil).want(t, 404)
		if left := do(t, s, "GET", claims+"/used", nil).want(t, 200); left.at("metadata.deletionTimestamp") == "-" {
			t.Errorf("it does not go: %s", left.body)
		}
		do(t, s, "DELETE", pods+"/a", nil).want(t, 200)
		synctest.Wait()
		do(t, s, "GET", claims+"/used", nil).want(t, 200)
		do(t, s, "PATCH", pods+"/b", `{"status":{"phase":"Failed"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
		synctest.Wait()
		do(t, s, "GET", claims+"/used", nil).want(t, 404)
		do(t, s, "DELETE", claims, nil).want(t, 200)
		synctest.Wait()
		do(t, s, "GET", claims+"/other", nil).want(t, 200)
		do(t, s, "DELETE", pods+"/c", nil).want(t, 200)
		synctest.Wait()
		do(t, s, "GET", claims, nil).want(t, 200, "items", "[]")
	})
}

// As the finalizer kubernetes.io/pv-protection has it on a cluster.
func TestAVolumeThatIsDeletedStaysForItsClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, nil)
		run(t, s)
		const path = "/api/v1/persistentvolumes"
		phase := func(name, phase string) {
			t.Helper()
			do(t, s, "PATCH", path+"/"+name+"/status", `{"status":{"phase":"`+phase+`"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
		}
		for _, name := range []string{"bound", "free"} {
			do(t, s, "POST", path, `{"metadata":{"name":"`+name+`"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/x"}}}`).want(t, 201)
		}
		phase("bound", "Bound")
		phase("free", "Available")
		do(t, s, "DELETE", path, nil).want(t, 200)
		synctest.Wait()
		do(t, s, "GET", path+"/free", nil).want(t, 404)
		if left := do(t, s, "GET", path+"/bound", nil).want(t, 200); left.at("metadata.deletionTimestamp") == "-" {
			t.Errorf("it does not go: %s", left.body)
		}
		phase("bound", "Released")
		synctest.Wait()
		do(t, s, "GET", path+"/bound", nil).want(t, 404)
	})
}

func TestForegroundDeletionGoesDown(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.make("middle", f.owner("top", blocks))
		f.make("bottom", f.owner("middle", blocks))
		f.patch("bottom", `{"finalizers":["example.com/hold"]}`)
		f.remove("top", `{"propagationPolicy":"Foreground"}`)
		f.there("top", "middle", "bottom")
		if got := do(f, f.s, "GET", f.path("middle"), nil).at("metadata.finalizers"); got != `["foregroundDeletion"]` {
			t.Errorf("finalizers of the middle one: %s", got)
		}
		f.patch("bottom", `{"finalizers":null}`)
		f.there("-top", "-middle", "-bottom")
	})
}

func TestOwnersInACircleCanBeDeleted(t *testing.T) {
	for _, policy := range []string{"Foreground", "Background"} {
		inFamily(t, func(f *family) {
			f.make("a")
			f.make("b", f.owner("a", blocks))
			f.patch("a", `{"ownerReferences":[`+f.owner("b", blocks)+`]}`)
			f.there("a", "b")
			f.remove("a", `{"propagationPolicy":"`+policy+`"}`)
			f.there("-a", "-b")
		})
	}
}

func TestOrphansStay(t *testing.T) {
	for _, options := range []string{`{"propagationPolicy":"Orphan"}`, `{"orphanDependents":true}`} {
		inFamily(t, func(f *family) {
			f.make("top")
			f.make("other")
			f.make("child", f.owner("top", blocks), f.owner("other", ""))
			f.remove("top", options).want(t, 200, "metadata.finalizers", `["orphan"]`)
			f.there("-top", "child")
			f.names("child", "other")
		})
	}
}

func TestTheFinalizerOfAnObjectIsItsPolicy(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.patch("top", `{"finalizers":["orphan"]}`)
		f.make("child", f.owner("top", ""))
		f.remove("top", "")
		f.there("-top", "child")
	})
}

// A deletion that waits for dependents can be made one that does not.
func TestALaterDeletionChangesThePolicy(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.make("child", f.owner("top", blocks))
		f.patch("child", `{"finalizers":["example.com/hold"]}`)
		f.remove("top", `{"propagationPolicy":"Foreground"}`)
		f.there("top")
		f.remove("top", "") // says nothing of dependents
		f.there("top")
		f.remove("top", `{"propagationPolicy":"Background"}`)
		f.there("-top", "child")
	})
}

func TestPoliciesOfADeletionAreChecked(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.remove("top", `{"propagationPolicy":"Sideways"}`).wantStatus(t, 422, "Invalid", "Sideways")
		f.remove("top", `{"propagationPolicy":"Orphan","orphanDependents":true}`).wantStatus(t, 422, "Invalid", "orphanDependents and deletionPropagation cannot be both set")
		f.there("top")
		do(t, f.s, "DELETE", f.path("top")+"?propagationPolicy=Foreground&dryRun=All", nil).want(t, 202, "metadata.finalizers", `["foregroundDeletion"]`)
		f.there("top")
		if got := do(t, f.s, "GET", f.path("top"), nil).at("metadata.deletionTimestamp"); got != "-" {
			t.Errorf("a dry run deleted: %s", got)
		}
	})
}

func TestDeleteCollectionPropagates(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.patch("top", `{"labels":{"a":"b"}}`)
		f.make("child", f.owner("top", blocks))
		do(t, f.s, "DELETE", configMapsPath+"?labelSelector=a%3Db&propagationPolicy=Orphan", nil).want(t, 200)
		synctest.Wait()
		f.there("-top", "child")
		f.names("child")
	})
}

func TestWhoseOwnerDoesNotExistIsCollected(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.make("absent", `{"apiVersion":"v1","kind":"ConfigMap","name":"nobody","uid":"x"}`)
		f.make("successor", `{"apiVersion":"v1","kind":"ConfigMap","name":"top","uid":"of one before"}`)
		f.make("half", `{"apiVersion":"v1","kind":"ConfigMap","name":"nobody","uid":"x"}`, f.owner("top", ""))
		f.there("-absent", "-successor", "half")
		f.names("half", "top")
	})
}

// Nobody knows whether an owner of a kind that is not served is there.
func TestWhoseOwnersKindIsNotServedStays(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("of", `{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"nobody","uid":"x"}`)
		f.make("also", `{"apiVersion":"v2","kind":"ConfigMap","name":"nobody","uid":"x"}`, `{"apiVersion":"v1","kind":"ConfigMap","name":"nobody","uid":"y"}`)
		f.there("of", "also")
	})
}

func TestAnOwnerInAnotherNamespaceIsNone(t *testing.T) {
	inFamily(t, func(f *family) {
		const elsewhere = "/api/v1/namespaces/kube-public/configmaps"
		do(t, f.s, "POST", elsewhere, configMapNamed("top")).want(t, 201)
		uid := do(t, f.s, "GET", elsewhere+"/top", nil).at("metadata.uid")
		f.make("child", `{"apiVersion":"v1","kind":"ConfigMap","name":"top","uid":"`+uid+`"}`)
		f.there("-child")
		want := `default/child OwnerRefInvalidNamespace ownerRef [v1/ConfigMap, namespace: default, name: top, uid: ` + uid + `] does not exist in namespace "default"`
		if len(f.events) != 1 || f.events[0] != want {
			t.Errorf("events %q, want %q", f.events, want)
		}
	})
}

// What has no namespace cannot be owned by what has one: it stays, and that is told once.
func TestAClusterScopedDependentOfANamespacedOwnerStays(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		do(t, f.s, "POST", "/api/v1/persistentvolumes", `{"metadata":{"name":"disk","ownerReferences":[`+f.owner("top", "")+`]},
			"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/x"}}}`).want(t, 201)
		synctest.Wait()
		f.remove("top", "")
		f.there("persistentvolumes/disk")
		if len(f.events) != 1 || !strings.HasPrefix(f.events[0], `default/disk OwnerRefInvalidNamespace ownerRef [v1/ConfigMap, namespace: , name: top, uid: `) {
			t.Errorf("events %q", f.events)
		}
	})
}

func TestAClusterScopedOwnerHasDependentsEverywhere(t *testing.T) {
	inFamily(t, func(f *family) {
		do(t, f.s, "POST", "/api/v1/persistentvolumes", `{"metadata":{"name":"disk"},
			"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/x"}}}`).want(t, 201)
		f.make("child", f.owner("persistentvolumes/disk", blocks))
		f.there("child")
		f.remove("persistentvolumes/disk", `{"propagationPolicy":"Foreground"}`)
		f.there("-persistentvolumes/disk", "-child")
	})
}

// declare shows an object of a file's; its namespace is default.
func (f *family) declare(name, uid string, owners ...metav1.OwnerReference) {
	f.Helper()
	c := &v1.ConfigMap{ObjectMeta: newMeta("default", name)}
	c.UID, c.Annotations, c.OwnerReferences = types.UID(uid), map[string]string{"file": "web.yaml:7"}, owners
	if _, err := f.s.Store.Update(f.s.stored(configMaps).key("default", name), func(objects.Object) (objects.Object, error) { return c, nil }); err != nil {
		f.Fatal(err)
	}
	synctest.Wait()
}

func TestWhatAFileDeclaresIsNotCollected(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		uid := do(t, f.s, "GET", f.path("top"), nil).at("metadata.uid")
		f.declare("declared", "u", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "top", UID: types.UID(uid), BlockOwnerDeletion: new(true)})
		f.make("child", f.owner("declared", ""))
		f.remove("top", `{"propagationPolicy":"Foreground"}`) // waits for no file
		f.there("-top", "declared", "child")
	})
}

func TestTheDependentsOfWhatAFileDeclared(t *testing.T) {
	inFamily(t, func(f *family) {
		f.declare("declared", "u")
		f.make("child", f.owner("declared", blocks))
		r := f.remove("declared", `{"propagationPolicy":"Foreground"}`)
		if warnings := strings.Join(r.header.Values("Warning"), "\n"); !strings.Contains(warnings, "web.yaml:7") || !strings.Contains(warnings, "in the background") {
			t.Errorf("warnings %q", warnings)
		}
		f.there("-declared", "-child")

		f.declare("declared", "v")
		f.make("child", f.owner("declared", blocks))
		f.remove("declared", `{"propagationPolicy":"Orphan"}`)
		f.there("-declared", "child")
		f.names("child")
	})
}

// A file's object takes the place of the API's of its name, which is still kept.
func TestAnOwnerThatAFileHidesIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hidden objects.Object
		var failure error
		f := newFamily(t, func(c *Config) { c.Hidden = func(objects.Key) (objects.Object, error) { return hidden, failure } })
		f.make("top")
		f.make("child", f.owner("top", ""))
		hidden, _ = f.s.Store.Get(f.s.stored(configMaps).key("default", "top"))
		f.declare("top", "of the file")
		f.there("child")
		hidden, failure = nil, fmt.Errorf("disk gone")
		f.declare("top", "of another file")
		f.there("child")
		failure = nil
		f.declare("top", "of a third file")
		f.there("-child")
	})
}

// Before everything is back that was there, nobody is missed.
func TestNothingIsCollectedBeforeTheStoreIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settled := make(chan struct{})
		f := newFamily(t, func(c *Config) {
			c.Settled = func(ctx context.Context) error {
				select {
				case <-settled:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
		f.make("child", `{"apiVersion":"v1","kind":"ConfigMap","name":"nobody","uid":"x"}`)
		time.Sleep(time.Hour)
		f.there("child")
		close(settled)
		synctest.Wait()
		f.there("-child")
	})
}

func TestWhatCannotBeCollectedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		full := true
		f := newFamily(t, func(c *Config) {
			c.Persist = func(_, o objects.Object) error {
				mu.Lock()
				defer mu.Unlock()
				if o == nil && full {
					return fmt.Errorf("disk full")
				}
				return nil
			}
		})
		f.make("child", `{"apiVersion":"v1","kind":"ConfigMap","name":"nobody","uid":"x"}`)
		f.there("child")
		mu.Lock()
		full = false
		mu.Unlock()
		time.Sleep(namespaceRetry + time.Second)
		synctest.Wait()
		f.there("-child")
	})
}

// An object that gets an owner between two looks at it stays.
func TestAnObjectThatGetsAnOwnerMeanwhileStays(t *testing.T) {
	inFamily(t, func(f *family) {
		f.make("top")
		f.make("child", f.owner("top", ""))
		m := member{f.s.stored(configMaps).New(), f.s.stored(configMaps)}
		if o, found := f.s.Store.Get(f.s.stored(configMaps).key("default", "child")); found {
			m.Object = o.DeepCopyObject().(objects.Object)
		}
		refs := m.GetOwnerReferences()
		refs[0].UID = "of one that is gone"
		m.SetOwnerReferences(refs)
		if err := (&collector{Server: f.s}).deleteOwned(m, &metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		f.there("child")
	})
}

// What only changes what it says costs the collector nothing.
func TestStatusesDoNotWakeTheCollector(t *testing.T) {
	owned := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", OwnerReferences: []metav1.OwnerReference{{UID: "x"}}}}
	ready := owned.DeepCopy()
	ready.Status.Phase = v1.PodRunning
	orphan := owned.DeepCopy()
	orphan.OwnerReferences = nil
	for _, c := range []struct {
		what string
		e    objects.Event
		want bool
	}{
		{"another status", objects.Event{Type: "MODIFIED", Object: ready, Old: owned}, false},
		{"a new object without owners", objects.Event{Type: "ADDED", Object: orphan}, false},
		{"a new object with one", objects.Event{Type: "ADDED", Object: owned}, true},
		{"an owner less", objects.Event{Type: "MODIFIED", Object: orphan, Old: owned}, true},
		{"an object that is gone", objects.Event{Type: "DELETED", Object: orphan, Old: orphan}, true},
		{"an event that is gone", objects.Event{Type: "DELETED", Object: &v1.Event{}, Old: &v1.Event{}}, false},
	} {
		if got := concernsOwners(c.e); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
