package node

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"podd/api/objects"
	"podd/api/rest"
)

// group is where figures of use are served.
const group = "metrics.k8s.io"

// DeepCopyObject makes NodeMetrics an object.
func (m *NodeMetrics) DeepCopyObject() runtime.Object {
	c := *m
	m.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Usage = m.Usage.DeepCopy()
	return &c
}

// DeepCopyObject makes PodMetrics an object.
func (m *PodMetrics) DeepCopyObject() runtime.Object {
	c := *m
	m.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Containers = make([]ContainerMetrics, len(m.Containers))
	for i, of := range m.Containers {
		c.Containers[i] = ContainerMetrics{Name: of.Name, Usage: of.Usage.DeepCopy()}
	}
	return &c
}

// Kinds serve what a meter measures, as metrics.k8s.io does.
func Kinds(m *Meter) []rest.Kind {
	nodes, pods := rest.Served(group, "nodes"), rest.Served(group, "pods")
	return []rest.Kind{
		{
			Resource: nodes,
			New:      func() objects.Object { return &NodeMetrics{} },
			Source: &rest.Source{
				List: func(ctx context.Context, _ string) ([]objects.Object, error) {
					u, err := m.Usage(ctx)
					if err != nil {
						return nil, err
					}
					return []objects.Object{&u.Node}, nil
				},
				Get: func(ctx context.Context, _, name string) (objects.Object, error) {
					u, err := m.Usage(ctx)
					if err == nil && name != u.Node.Name {
						err = apierrors.NewNotFound(nodes.GroupResource(), name)
					}
					return &u.Node, err
				},
			},
		},
		{
			Resource: pods,
			New:      func() objects.Object { return &PodMetrics{} },
			Source: &rest.Source{
				List: func(ctx context.Context, namespace string) ([]objects.Object, error) {
					u, err := m.Usage(ctx)
					if err != nil {
						return nil, err
					}
					all := []objects.Object{}
					for i := range u.Pods {
						if namespace == "" || u.Pods[i].Namespace == namespace {
							all = append(all, &u.Pods[i])
						}
					}
					return all, nil
				},
				Get: func(ctx context.Context, namespace, name string) (objects.Object, error) {
					u, err := m.Usage(ctx)
					if err != nil {
						return nil, err
					}
					for i := range u.Pods {
						if u.Pods[i].Namespace == namespace && u.Pods[i].Name == name {
							return &u.Pods[i], nil
						}
					}
					return nil, apierrors.NewNotFound(pods.GroupResource(), name)
				},
			},
		},
	}
}
