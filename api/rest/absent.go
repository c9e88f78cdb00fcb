package rest

import (
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// absentKinds are kinds of which there are none, and which discovery does not name.
// Clients of clusters list them whatever discovery says (`kubectl cluster-info dump`,
// the set-up of Kubernetes' end-to-end suite), and are answered with what is true.
var absentKinds = map[schema.GroupVersionResource]string{
	{Version: "v1", Resource: "replicationcontrollers"}:      "ReplicationController",
	{Group: "apps", Version: "v1", Resource: "daemonsets"}:   "DaemonSet",
	{Group: "apps", Version: "v1", Resource: "deployments"}:  "Deployment",
	{Group: "apps", Version: "v1", Resource: "replicasets"}:  "ReplicaSet",
	{Group: "apps", Version: "v1", Resource: "statefulsets"}: "StatefulSet",
	// kubectl apply looks here for a kind that it does not know.
	{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}: "CustomResourceDefinition",
}

// absent returns the kind of which a request lists what there is, where there is
// none; "" otherwise.
func (c *call) absent() string {
	if c.Name != "" || c.r.Method != http.MethodGet || boolArg(c.args, "watch") {
		return ""
	}
	return absentKinds[schema.GroupVersionResource{Group: c.Group, Version: c.Version, Resource: c.Resource}]
}

// listNone answers with an empty list.
func (c *call) listNone() error {
	c.Verb = "list"
	if c.s.Allowed != nil {
		if err := c.s.Allowed(c.ctx, c.Request); err != nil {
			return err
		}
	}
	_, version := c.s.Store.List(schema.GroupResource{Group: c.Group, Resource: c.Resource}, c.Namespace)
	return c.write(http.StatusOK, struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`
		Items           []any `json:"items"`
	}{
		TypeMeta: metav1.TypeMeta{Kind: c.absent() + "List", APIVersion: strings.TrimPrefix(c.Group+"/"+c.Version, "/")},
		ListMeta: listMeta{version: version}.meta(), Items: []any{},
	})
}
