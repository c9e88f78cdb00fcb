package rest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/objects"
)

// run keeps the namespaces of s for the time of a test.
func run(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, []byte("PEM")); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	synctest.Wait()
}

func TestANamespaceHasWhatPodsNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, nil)
		run(t, s)
		for _, namespace := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
			do(t, s, "GET", "/api/v1/namespaces/"+namespace+"/serviceaccounts/default", nil).want(t, 200)
			do(t, s, "GET", "/api/v1/namespaces/"+namespace+"/configmaps/kube-root-ca.crt", nil).want(t, 200, "data.ca~crt", "PEM")
		}
		do(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"name":"new"}}`).want(t, 201, "status.phase", "Active")
		synctest.Wait()
		const inside = "/api/v1/namespaces/new"
		do(t, s, "GET", inside+"/serviceaccounts/default", nil).want(t, 200)
		do(t, s, "GET", inside+"/configmaps/kube-root-ca.crt", nil).want(t, 200, "data.ca~crt", "PEM")

		do(t, s, "DELETE", inside+"/configmaps/kube-root-ca.crt", nil).want(t, 200)
		do(t, s, "DELETE", inside+"/serviceaccounts/default", nil).want(t, 200)
		synctest.Wait()
		do(t, s, "GET", inside+"/configmaps/kube-root-ca.crt", nil).want(t, 200, "data.ca~crt", "PEM")
		do(t, s, "GET", inside+"/serviceaccounts/default", nil).want(t, 200)
		do(t, s, "PATCH", inside+"/configmaps/kube-root-ca.crt", `{"data":{"ca.crt":"other"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
		synctest.Wait()
		do(t, s, "GET", inside+"/configmaps/kube-root-ca.crt", nil).want(t, 200, "data.ca~crt", "PEM")
	})
}

// kubectl delete services --all takes it too, and clients end without it.
func TestTheServiceKubernetesComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, nil)
		if err := s.EnsureKubernetesService(6443); err != nil {
			t.Fatal(err)
		}
		run(t, s)
		const path = "/api/v1/namespaces/default/services"
		want := []string{"spec.clusterIP", "10.96.0.1", "spec.ports.0.targetPort", "6443", "spec.selector", "-"}
		do(t, s, "DELETE", path, nil).want(t, 200)
		synctest.Wait()
		do(t, s, "GET", path+"/kubernetes", nil).want(t, 200, want...)
		do(t, s, "PATCH", path+"/kubernetes", `{"spec":{"selector":{"a":"b"}}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
		synctest.Wait()
		do(t, s, "GET", path+"/kubernetes", nil).want(t, 200, want...)
	})
}

func TestANamespaceGoesWithEverythingInIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, nil)
		run(t, s)
		const inside = "/api/v1/namespaces/new"
		do(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"name":"new"}}`).want(t, 201)
		do(t, s, "POST", inside+"/configmaps", configMapNamed("one")).want(t, 201)
		do(t, s, "POST", inside+"/secrets", `{"metadata":{"name":"held","finalizers":["example.com/hold"]}}`).want(t, 201)
		do(t, s, "DELETE", inside, nil).want(t, 200, "kind", "Namespace", "status.phase", "Terminating")
		synctest.Wait()
		do(t, s, "GET", inside+"/configmaps", nil).want(t, 200, "items", "[]")
		do(t, s, "GET", inside, nil).want(t, 200, "status.phase", "Terminating", "spec.finalizers", `["kubernetes"]`)
		refused := do(t, s, "POST", inside+"/configmaps", configMapNamed("late"))
		refused.wantStatus(t, 403, "Forbidden", `configmaps "late" is forbidden: unable to create new content in namespace new because it is being terminated`)
		refused.want(t, 403, "details.causes.0.reason", "NamespaceTerminating", "details.causes.0.field", "metadata.namespace")
		do(t, s, "DELETE", inside, nil).want(t, 200, "status.phase", "Terminating")

		do(t, s, "PATCH", inside+"/secrets/held", `{"metadata":{"finalizers":null}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
		synctest.Wait()
		do(t, s, "GET", inside, nil).wantStatus(t, 404, "NotFound", `namespaces "new" not found`)
		do(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"name":"new"}}`).want(t, 201)
	})
}

func TestWhatHoldsANamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, nil)
		run(t, s)
		for _, name := range []string{"default", "kube-system", "kube-public"} {
			do(t, s, "DELETE", "/api/v1/namespaces/"+name, nil).wantStatus(t, 403, "Forbidden", `namespaces "`+name+`" is forbidden: this namespace may not be deleted`)
		}
		do(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a","finalizers":["example.com/hold"]},"spec":{"finalizers":["example.com/mine"]}}`).
			want(t, 201, "spec.finalizers", `["example.com/mine","kubernetes"]`)
		do(t, s, "DELETE", "/api/v1/namespaces/a", nil).want(t, 200)
		synctest.Wait()
		do(t, s, "GET", "/api/v1/namespaces/a", nil).want(t, 200, "spec.finalizers", `["example.com/mine"]`)
		do(t, s, "PUT", "/api/v1/namespaces/a/finalize", `{"metadata":{"name":"a"},"spec":{"finalizers":[]}}`).want(t, 200, "spec.finalizers", "-", "metadata.finalizers", "-")
		do(t, s, "GET", "/api/v1/namespaces/a", nil).wantStatus(t, 404, "NotFound", "")
	})
}

// What a file declares in a namespace that is going is not fought over: the
// namespace waits for the file.
func TestTheEndOfANamespaceWaitsForFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, func(c *Config) {
			c.DeclaredIn = func(o objects.Object) string { return o.GetAnnotations()["file"] }
		})
		run(t, s)
		mirror := func(o objects.Object) {
			t.Helper()
			if _, err := s.Store.Update(s.stored(configMaps).key("a", "web"), func(objects.Object) (objects.Object, error) { return o, nil }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if err := s.EnsureNamespace("a"); err != nil {
			t.Fatal(err)
		}
		do(t, s, "POST", "/api/v1/namespaces/a/secrets", `{"metadata":{"name":"held","finalizers":["example.com/hold"]}}`).want(t, 201)
		do(t, s, "DELETE", "/api/v1/namespaces/a", nil).want(t, 200)
		declared := &v1.ConfigMap{ObjectMeta: newMeta("a", "web")}
		declared.Annotations = map[string]string{"file": "web.yaml:7"}
		mirror(declared)
		do(t, s, "PATCH", "/api/v1/namespaces/a/secrets/held", `{"metadata":{"finalizers":null}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
		synctest.Wait()
		do(t, s, "GET", "/api/v1/namespaces/a", nil).want(t, 200, "status.phase", "Terminating")
		do(t, s, "GET", "/api/v1/namespaces/a/configmaps/web", nil).want(t, 200)
		mirror(nil)
		do(t, s, "GET", "/api/v1/namespaces/a", nil).wantStatus(t, 404, "NotFound", "")
	})
}

// A change that cannot be persisted is tried again.
func TestANamespaceThatCannotBeEmptiedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, nil)
		var mu sync.Mutex
		full := false
		s.Persist = func(_, o objects.Object) error {
			mu.Lock()
			defer mu.Unlock()
			if _, isConfigMap := o.(*v1.ConfigMap); o == nil && full && !isConfigMap {
				return fmt.Errorf("disk full")
			}
			return nil
		}
		run(t, s)
		do(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"name":"new"}}`).want(t, 201)
		synctest.Wait()
		mu.Lock()
		full = true
		mu.Unlock()
		do(t, s, "DELETE", "/api/v1/namespaces/new", nil).want(t, 200)
		synctest.Wait()
		do(t, s, "GET", "/api/v1/namespaces/new", nil).want(t, 200, "status.phase", "Terminating")
		mu.Lock()
		full = false
		mu.Unlock()
		time.Sleep(namespaceRetry + time.Second)
		synctest.Wait()
		do(t, s, "GET", "/api/v1/namespaces/new", nil).wantStatus(t, 404, "NotFound", "")
	})
}

// A namespace can go between the check of a new object and its storing.
func TestACreationThatIsOvertakenLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, nil)
		const inside = "/api/v1/namespaces/new"
		s.Persist = func(old, o objects.Object) error {
			if o != nil && old == nil && o.GetName() == "late" {
				do(t, s, "DELETE", inside, nil).want(t, 200)
				synctest.Wait()
				do(t, s, "GET", inside, nil).wantStatus(t, 404, "NotFound", "")
			}
			return nil
		}
		run(t, s)
		do(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"name":"new"}}`).want(t, 201)
		do(t, s, "POST", inside+"/configmaps", configMapNamed("late")).wantStatus(t, 404, "NotFound", `namespaces "new" not found`)
		if left, _ := s.Store.List(configMaps, "new"); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// However creations and the deletion of their namespace meet, nothing stays in
// a namespace that is gone.
func TestNothingIsCreatedInANamespaceThatIsGone(t *testing.T) {
	s := newServer(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = s.Run(ctx, nil) })
	defer all.Wait()
	defer cancel()
	for round := range 20 {
		namespace := fmt.Sprint("n", round)
		do(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"name":"`+namespace+`"}}`).want(t, 201)
		gone, _ := s.Store.Watch(t.Context(), namespaceResource, "", s.Store.Version())
		var creators sync.WaitGroup
		for i := range 4 {
			creators.Go(func() {
				for n := 0; ; n++ {
					r := do(t, s, "POST", "/api/v1/namespaces/"+namespace+"/configmaps", configMapNamed(fmt.Sprintf("c%d-%d", i, n)))
					if r.code != 201 {
						return
					}
				}
			})
		}
		do(t, s, "DELETE", "/api/v1/namespaces/"+namespace, nil).want(t, 200)
		creators.Wait()
		for {
			if _, found := s.Store.Get(namespaceKey(namespace)); !found {
				break
			}
			if _, err := gone.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if left, _ := s.Store.List(schema.GroupResource{Resource: "configmaps"}, namespace); len(left) != 0 {
			t.Fatalf("left in %s: %d ConfigMaps", namespace, len(left))
		}
	}
}
