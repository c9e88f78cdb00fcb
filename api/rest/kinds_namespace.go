package rest

import (
	"context"
	"errors"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
)

func namespaceKind() Kind {
	return Kind{
		Resource:            Served("", "namespaces"),
		New:                 func() objects.Object { return &v1.Namespace{} },
		Name:                validation.ValidateNamespaceName,
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Fields: map[string]func(objects.Object) string{
			"status.phase": typedResult(func(n *v1.Namespace) string { return string(n.Status.Phase) }),
		},
		Default: typed(func(n *v1.Namespace) {
			if n.Labels == nil {
				n.Labels = map[string]string{}
			}
			n.Labels[v1.LabelMetadataName] = n.Name
		}),
		PrepareCreate: typed(func(n *v1.Namespace) {
			n.Status = v1.NamespaceStatus{Phase: v1.NamespaceActive}
			if !slices.Contains(n.Spec.Finalizers, v1.FinalizerKubernetes) {
				n.Spec.Finalizers = append(n.Spec.Finalizers, v1.FinalizerKubernetes)
			}
		}),
		PrepareUpdate: func(o, old objects.Object) {
			o.(*v1.Namespace).Spec = *old.(*v1.Namespace).Spec.DeepCopy() // only finalize changes it
		},
		Validate: typedResult(func(n *v1.Namespace) (errs field.ErrorList) {
			for i, f := range n.Spec.Finalizers {
				at := field.NewPath("spec", "finalizers").Index(i)
				errs = append(errs, validation.ValidateFinalizerName(string(f), at)...)
				if !strings.Contains(string(f), "/") && f != v1.FinalizerKubernetes {
					errs = append(errs, field.Invalid(at, f, "name is neither a standard finalizer name nor is it fully qualified"))
				}
			}
			return errs
		}),
		Admit: func(_ context.Context, o, old objects.Object) error {
			if o == nil && slices.Contains(builtinNamespaces[:3], old.GetName()) {
				return apierrors.NewForbidden(namespaceResource, old.GetName(), errors.New("this namespace may not be deleted"))
			}
			return nil
		},
		SetStatus: func(dst, src objects.Object) {
			dst.(*v1.Namespace).Status = src.(*v1.Namespace).Status
		},
		PrepareDelete: typed(func(n *v1.Namespace) {
			n.Status.Phase = v1.NamespaceTerminating
			n.DeletionGracePeriodSeconds = nil
		}),
		Remains: typedResult(func(n *v1.Namespace) bool { return len(n.Spec.Finalizers) > 0 }),
		Sub: map[string]*Subresource{
			"finalize": {Merge: func(o, old objects.Object) (objects.Object, error) {
				merged := old.DeepCopyObject().(*v1.Namespace)
				merged.ObjectMeta, merged.Spec.Finalizers = *metaOf(o), o.(*v1.Namespace).Spec.Finalizers
				return merged, nil
			}},
		},
	}
}
