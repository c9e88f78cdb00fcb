package declared

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
	"podd/api/podlogs"
	"podd/api/rest"
	"podd/api/stream"
	"podd/pod"
	"podd/pod/manifest"
)

// Kind is the kind Pod as package rest serves it, but for what needs a connection into
// the pod. remove deletes an object as DELETE does; it is called later than this.
func (k *Keeper) Kind(logs podlogs.Config, remove func(objects.Key, *metav1.DeleteOptions) error) rest.Kind {
	return rest.Kind{
		Resource:      rest.Served("", "pods"),
		New:           func() objects.Object { return &v1.Pod{} },
		Default:       func(o objects.Object) { defaultPod(asPod(o)) },
		PrepareCreate: func(o objects.Object) { newPod(asPod(o)) },
		Validate: func(o objects.Object) field.ErrorList {
			if k.ofFile(o) {
				return nil // nothing of it is changed anyway
			}
			return k.mistakes(asPod(o))
		},
		ValidateUpdate: func(o, old objects.Object) field.ErrorList {
			if DeclaredIn(old) != "" {
				return nil
			}
			return checkPodUpdate(asPod(o), asPod(old))
		},
		Warnings:            k.warnings,
		Admit:               k.admit,
		SetStatus:           func(dst, src objects.Object) { asPod(dst).Status = asPod(src).Status },
		Generations:         true,
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Serial:              &k.scheduling,
		Grace:               func(o objects.Object, asked *int64) int64 { return graceOf(asPod(o), asked) },
		Fields: map[string]func(objects.Object) string{
			"spec.nodeName":            func(o objects.Object) string { return asPod(o).Spec.NodeName },
			"spec.restartPolicy":       func(o objects.Object) string { return string(asPod(o).Spec.RestartPolicy) },
			"spec.schedulerName":       func(o objects.Object) string { return asPod(o).Spec.SchedulerName },
			"spec.serviceAccountName":  func(o objects.Object) string { return asPod(o).Spec.ServiceAccountName },
			"spec.hostNetwork":         func(o objects.Object) string { return fmt.Sprint(asPod(o).Spec.HostNetwork) },
			"status.phase":             func(o objects.Object) string { return string(asPod(o).Status.Phase) },
			"status.podIP":             func(o objects.Object) string { return asPod(o).Status.PodIP },
			"status.nominatedNodeName": func(o objects.Object) string { return asPod(o).Status.NominatedNodeName },
		},
		Sub: map[string]*rest.Subresource{
			"status":              {Merge: mergeStatus},
			"ephemeralcontainers": {Merge: mergeEphemeral, Validate: k.validateEphemeral},
			"resize":              {Merge: mergeResources, Validate: k.validateResize},
			"binding":             {New: func() runtime.Object { return &v1.Binding{} }, Call: k.callBinding},
			"eviction": {New: func() runtime.Object { return &policyv1.Eviction{} },
				Call: func(ctx context.Context, o objects.Object, body runtime.Object, dryRun bool) (runtime.Object, error) {
					return k.evict(ctx, asPod(o), body.(*policyv1.Eviction), dryRun, remove)
				}},
			"log": {Handler: func(w http.ResponseWriter, r *http.Request, o objects.Object) { serveLog(w, r, asPod(o), logs) }},
		},
	}
}

func asPod(o objects.Object) *v1.Pod {
	p, _ := o.(*v1.Pod)
	return p
}

// Kept are the kinds whose objects are kept as files: pods, and those of the kinds that
// are stored, but events.
func Kept(kinds []rest.Kind) []KeptKind {
	pods := rest.Served("", "pods")
	kept := []KeptKind{{pods.GroupResource(), pods.GroupVersionKind(), func() objects.Object { return &v1.Pod{} }}}
	for _, k := range kinds {
		if k.View == nil && k.Source == nil && k.Plural != "events" && k.GroupResource() != podResource {
			kept = append(kept, KeptKind{k.GroupResource(), k.GroupVersionKind(), k.New})
		}
	}
	return kept
}

// ofFile says that the object in the place of o is declared by a file.
func (k *Keeper) ofFile(o objects.Object) bool {
	stored, found := k.Store.Get(podKey(keyOf(asPod(o))))
	return found && DeclaredIn(stored) != ""
}

// mistakes are what the loader finds, and of a pod that nobody made yet what an API
// server adds to that.
func (k *Keeper) mistakes(p *v1.Pod) field.ErrorList {
	var errs field.ErrorList
	if stored, found := k.Store.Get(podKey(keyOf(p))); !found || stored.GetUID() != p.UID {
		errs = checkNewPod(p, k.Node)
	}
	parsed, err := parsePod(p)
	if err != nil {
		return append(errs, field.InternalError(nil, err))
	}
	return append(errs, fieldErrors(p, parsed.Problems)...)
}

// warnings name what a new pod gives without effect.
func (k *Keeper) warnings(o, old objects.Object) []string {
	if o == nil || old != nil {
		return nil
	}
	parsed, err := parsePod(asPod(o))
	if err != nil {
		return nil
	}
	parsed.Problems = slices.DeleteFunc(parsed.Problems, func(problem manifest.Problem) bool { return hasEffect(asPod(o), problem.Field) })
	return warnings(parsed.Problems)
}

// hasEffect says of a field without meaning in a file that it has one in the API, which
// finds pods their place and keeps what finalizers hold.
func hasEffect(p *v1.Pod, path string) bool {
	switch path {
	case "metadata.finalizers", "spec.nodeName", "spec.nodeSelector", "spec.schedulerName", "spec.tolerations":
		return true
	case "spec.priority": // it follows from the class
		return p.Spec.PriorityClassName != ""
	case "spec.affinity":
		return p.Spec.Affinity.PodAffinity == nil && p.Spec.Affinity.PodAntiAffinity == nil
	}
	return strings.HasPrefix(path, "spec.readinessGates[") // clients write the conditions
}

// admit asks what depends on other objects, and finds a pod its place.
func (k *Keeper) admit(_ context.Context, o, old objects.Object) error {
	p, was := asPod(o), asPod(old)
	switch {
	case p == nil:
	case was == nil:
		return k.AdmitPod(p)
	case schedulable(p) && DeclaredIn(was) == "":
		k.place(p) // perhaps its last gate was lifted
	}
	return nil
}

// mergeStatus takes what a client says of a pod's status. Of one that has its place
// these are the conditions that are not the agent's own: the rest is the agent's to say.
func mergeStatus(o, old objects.Object) (objects.Object, error) {
	p, was := asPod(o), asPod(old)
	merged := was.DeepCopy()
	merged.ObjectMeta = *p.ObjectMeta.DeepCopy()
	merged.OwnerReferences = was.OwnerReferences
	if merged.Spec.NodeName == "" {
		merged.Status = *p.Status.DeepCopy()
	} else {
		merged.Status.Conditions = pod.WithConditions(was.Status.Conditions, p.Status.Conditions)
	}
	return merged, nil
}

func mergeEphemeral(o, old objects.Object) (objects.Object, error) {
	return withEphemeral(asPod(o), asPod(old)), nil
}

func (k *Keeper) validateEphemeral(o, old objects.Object) field.ErrorList {
	if errs := checkEphemeral(asPod(o), asPod(old)); len(errs) > 0 {
		return errs
	}
	return k.mistakes(asPod(o))
}

func mergeResources(o, old objects.Object) (objects.Object, error) {
	return withResources(asPod(o), asPod(old)), nil
}

func (k *Keeper) validateResize(o, old objects.Object) field.ErrorList {
	if errs := checkResize(asPod(o), asPod(old)); len(errs) > 0 {
		return errs
	}
	return k.mistakes(asPod(o))
}

func (k *Keeper) callBinding(_ context.Context, o objects.Object, body runtime.Object, dryRun bool) (runtime.Object, error) {
	if !dryRun {
		if err := k.bind(asPod(o), body.(*v1.Binding).Target); err != nil {
			return nil, err
		}
	}
	return succeeded(), nil
}

func succeeded() *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess, Code: http.StatusCreated}
}

// evict deletes a pod, as an eviction does where no disruption budget is in the way.
func (k *Keeper) evict(ctx context.Context, p *v1.Pod, e *policyv1.Eviction, dryRun bool, remove func(objects.Key, *metav1.DeleteOptions) error) (runtime.Object, error) {
	if e.Name != "" && e.Name != p.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	options := e.DeleteOptions
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	if c := options.Preconditions; c != nil && c.UID != nil && *c.UID != p.UID {
		return nil, apierrors.NewConflict(podResource, p.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *c.UID, p.UID)) //nolint:staticcheck // Kubernetes' words
	}
	if file := DeclaredIn(p); file != "" {
		rest.Warn(ctx, comesBack(p, file))
	}
	if len(options.DryRun) == 0 {
		if err := k.disrupt(p, "EvictionByEvictionAPI", "Eviction API: evicting"); err != nil {
			return nil, err
		}
	}
	if err := remove(podKey(keyOf(p)), options); err != nil {
		return nil, err
	}
	return succeeded(), nil
}

// disrupt says in a pod's status why it is about to end.
// Source: Kubernetes docs, "Disruptions", pod disruption conditions.
func (k *Keeper) disrupt(p *v1.Pod, reason, message string) error {
	_, err := k.Store.Update(podKey(keyOf(p)), func(old objects.Object) (objects.Object, error) {
		was, _ := old.(*v1.Pod)
		if was == nil || was.UID != p.UID {
			return nil, apierrors.NewNotFound(podResource, p.Name)
		}
		is := was.DeepCopy()
		setCondition(is, v1.DisruptionTarget, v1.ConditionTrue, reason, message)
		if err := k.Persist(was, is); err != nil && !errors.Is(err, pod.ErrNotFound) {
			return nil, err
		}
		return is, nil
	})
	return err
}

// serveLog serves the log of one of a pod's containers.
func serveLog(w http.ResponseWriter, r *http.Request, p *v1.Pod, logs podlogs.Config) {
	container, err := connectTo(p, r.URL.Query().Get("container"))
	if err != nil {
		rest.Fail(r.Context(), err)
		return
	}
	read, err := logs.Open(p, container, r.URL.Query())
	if err != nil {
		rest.Fail(r.Context(), apierrors.NewBadRequest(err.Error()))
		return
	}
	stream.Log(w, r, read)
}

// AdmitRequest is [Keeper.Admit] as package rest asks it.
func (k *Keeper) AdmitRequest(ctx context.Context, q rest.Request, o, old objects.Object) error {
	resource := schema.GroupResource{Group: q.Group, Resource: q.Resource}
	return k.Admit(resource, q.Subresource, o, old, func(text string) { rest.Warn(ctx, text) })
}
