package rest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"

	"podd/api/objects"
)

// What every namespace has of itself.
const (
	rootCAConfigMap       = "kube-root-ca.crt"
	defaultServiceAccount = "default"
)

// KubernetesService is the Service of the API itself, in the namespace default.
const KubernetesService = "kubernetes"

// What failed in a namespace is tried again after this.
const namespaceRetry = 5 * time.Second

var (
	namespaceResource = schema.GroupResource{Resource: "namespaces"}

	// builtinNamespaces exist from the start; the first three cannot be deleted.
	builtinNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, v1.NamespaceNodeLease}
)

func namespaceKey(name string) objects.Key {
	return objects.Key{Resource: namespaceResource, Name: name}
}

// mayCreateIn tells whether a new object may come into a namespace.
func (s *Server) mayCreateIn(k *Kind, namespace, name string) error {
	if !k.Namespaced {
		return nil
	}
	o, found := s.Store.Get(namespaceKey(namespace))
	if !found {
		return apierrors.NewNotFound(namespaceResource, namespace)
	}
	if o.GetDeletionTimestamp() == nil {
		return nil
	}
	err := apierrors.NewForbidden(k.GroupResource(), name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: v1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", namespace), Field: "metadata.namespace",
	})
	return err
}

// stillExists is asked after a new object was stored: its namespace may have
// begun to go in between, and then the object goes too. A namespace that is
// Active now has not yet been looked through.
func (s *Server) stillExists(k *Kind, o objects.Object) error {
	err := s.mayCreateIn(k, o.GetNamespace(), o.GetName())
	if err != nil {
		_, removeErr := s.put(k.key(o.GetNamespace(), o.GetName()), func(old objects.Object) (objects.Object, error) {
			if old == nil || old.GetUID() != o.GetUID() {
				return old, nil
			}
			return nil, nil
		})
		err = errors.Join(err, removeErr)
	}
	return err
}

// ensureBuiltinNamespaces makes those that exist from the start.
func (s *Server) ensureBuiltinNamespaces() error {
	for _, name := range builtinNamespaces {
		if err := s.EnsureNamespace(name); err != nil {
			return err
		}
	}
	return nil
}

// EnsureNamespace makes a namespace that exists by itself, if it is not there.
func (s *Server) EnsureNamespace(name string) error {
	k := s.stored(namespaceResource)
	_, err := s.put(namespaceKey(name), func(old objects.Object) (objects.Object, error) {
		if old != nil {
			return old, nil
		}
		n := &v1.Namespace{ObjectMeta: newMeta("", name)}
		k.Default(n)
		k.PrepareCreate(n)
		return n, nil
	})
	return err
}

// newMeta is the metadata of an object that the server makes by itself.
func newMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: uuid.NewUUID(), CreationTimestamp: metav1.Now().Rfc3339Copy()}
}

// Run keeps every namespace as it must be, until ctx ends: what each has of
// itself appears again when it was deleted, and a namespace that is being
// deleted goes once everything in it is gone. It deletes the objects whose owners
// are gone, and lets those go that wait for what they own. rootCA is what pods trust the API
// by, as PEM; nil: namespaces have no kube-root-ca.crt.
func (s *Server) Run(ctx context.Context, rootCA []byte) error {
	if err := s.ensureBuiltinNamespaces(); err != nil {
		return err
	}
	// A change of any kind can be what a namespace or an owner waited for.
	wake, wakeCollector := make(chan struct{}, 1), make(chan struct{}, 1)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, res := range append(s.collectable(), eventResource) {
		watchers.Go(func() {
			s.notify(ctx, res, func(events []objects.Event) {
				if events == nil || slices.ContainsFunc(events, s.concernsNamespaces) {
					rouse(wake)
				}
				if events == nil || slices.ContainsFunc(events, concernsOwners) {
					rouse(wakeCollector)
				}
			})
		})
	}
	watchers.Go(func() { s.collectAll(ctx, wakeCollector) })
	for {
		again := time.Duration(math.MaxInt64)
		namespaces, _ := s.Store.List(namespaceResource, "")
		for _, n := range namespaces {
			if err := s.keepNamespace(n.(*v1.Namespace), rootCA); err != nil {
				s.Log.Error(err, "Cannot keep namespace as it must be", "namespace", n.GetName())
				again = namespaceRetry
			}
		}
		select {
		case <-wake:
		case <-time.After(again):
		case <-ctx.Done():
			return nil
		}
	}
}

// rouse wakes who waits, or will wait next.
func rouse(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// notify hands on the changes of a resource, and nil where some may have been missed.
// It is started by Run and ends with ctx.
func (s *Server) notify(ctx context.Context, res schema.GroupResource, changed func([]objects.Event)) {
	for {
		changes, err := s.Store.Watch(ctx, res, "", s.Store.Version())
		if err != nil {
			return
		}
		changed(nil) // what happened before the watch began was not seen
		for {
			events, err := changes.Next(ctx)
			if errors.Is(err, objects.ErrTooOld) {
				break
			} else if err != nil {
				return
			}
			changed(events)
		}
	}
}

// concernsNamespaces tells whether a change can make something to do for
// [Server.Run]: a namespace's own, and anything that vanishes.
func (s *Server) concernsNamespaces(e objects.Event) bool {
	if _, ok := e.Object.(*v1.Namespace); ok {
		return true
	}
	return e.Object.GetNamespace() != "" && (e.Type == watch.Deleted || e.Object.GetName() == rootCAConfigMap || e.Object.GetName() == KubernetesService)
}

// namespacedResources are those that lie in namespaces and are stored.
func (s *Server) namespacedResources() (all []schema.GroupResource) {
	for i := range s.Kinds {
		if k := &s.Kinds[i]; k.Namespaced && k.View == nil && k.Source == nil {
			all = append(all, k.GroupResource())
		}
	}
	return all
}

// keepNamespace does what there is to do for one namespace.
func (s *Server) keepNamespace(n *v1.Namespace, rootCA []byte) error {
	if n.DeletionTimestamp != nil {
		return s.emptyNamespace(n)
	}
	if port := s.apiPort.Load(); port != nil && n.Name == metav1.NamespaceDefault {
		if err := s.EnsureKubernetesService(*port); err != nil {
			return err
		}
	}
	account := func() objects.Object { return &v1.ServiceAccount{ObjectMeta: newMeta(n.Name, defaultServiceAccount)} }
	if err := s.keep(schema.GroupResource{Resource: "serviceaccounts"}, n.Name, defaultServiceAccount, account, nil); err != nil || rootCA == nil {
		return err
	}
	wanted := map[string]string{"ca.crt": string(rootCA)}
	ca := func() objects.Object {
		m := newMeta(n.Name, rootCAConfigMap)
		m.Annotations = map[string]string{"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
			"No other usage is guaranteed across distributions of Kubernetes clusters."}
		return &v1.ConfigMap{ObjectMeta: m, Data: wanted}
	}
	return s.keep(schema.GroupResource{Resource: "configmaps"}, n.Name, rootCAConfigMap, ca, func(o objects.Object) objects.Object {
		if o.(*v1.ConfigMap).Data["ca.crt"] == string(rootCA) {
			return o
		}
		o = o.DeepCopyObject().(objects.Object)
		o.(*v1.ConfigMap).Data = wanted
		return o
	})
}

// keep makes an object that is not there, and mends one that is.
func (s *Server) keep(res schema.GroupResource, namespace, name string, fresh func() objects.Object, mend func(objects.Object) objects.Object) error {
	k := s.stored(res)
	if k == nil {
		return nil
	}
	created := false
	o, err := s.put(k.key(namespace, name), func(old objects.Object) (objects.Object, error) {
		switch {
		case old == nil:
			created = true
			return fresh(), nil
		case mend != nil:
			return mend(old), nil
		}
		return old, nil
	})
	if err != nil || !created {
		return err
	}
	if err := s.stillExists(k, o); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return err
	}
	return nil
}

// emptyNamespace begins the deletion of everything in a namespace, and lets it
// go when there is nothing left.
func (s *Server) emptyNamespace(n *v1.Namespace) error {
	left := false
	var failed error
	for _, res := range s.namespacedResources() {
		k := s.stored(res)
		inside, _ := s.Store.List(res, n.Name)
		for _, o := range inside {
			if s.DeclaredIn(o) != "" { // it came meanwhile; its file decides
				left = true
				continue
			}
			_, gone, err := s.delete(k, k.key(n.Name, o.GetName()), &metav1.DeleteOptions{}, nil)
			if err != nil && !apierrors.IsNotFound(err) {
				failed = errors.Join(failed, err)
			}
			left = left || !gone && !apierrors.IsNotFound(err)
		}
	}
	if left || failed != nil {
		return failed
	}
	k := s.stored(namespaceResource)
	_, err := s.put(namespaceKey(n.Name), func(old objects.Object) (objects.Object, error) {
		if old == nil || old.GetUID() != n.UID || old.GetDeletionTimestamp() == nil {
			return old, nil
		}
		o := old.DeepCopyObject().(*v1.Namespace)
		o.Spec.Finalizers = slices.DeleteFunc(o.Spec.Finalizers, func(f v1.FinalizerName) bool { return f == v1.FinalizerKubernetes })
		if k.unfinalized(o) {
			return nil, nil
		}
		return o, nil
	})
	return err
}
