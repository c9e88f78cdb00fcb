package node

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/api/objects"
	"podd/api/rest"
)

// Proxy is the subresource proxy of the node of that name: what the kubelet's port
// serves, without going through the port.
func Proxy(kubelet http.Handler, name string, port int) *rest.Subresource {
	return &rest.Subresource{Handler: func(w http.ResponseWriter, r *http.Request, _ objects.Object) {
		q := rest.RequestOf(r.Context())
		if !meansKubelet(q.Name, name, port) {
			rest.Fail(r.Context(), apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q: expected %s or https:%s:%d, the kubelet's port", q.Name, name, name, port)))
			return
		}
		path, err := url.PathUnescape("/" + q.Tail)
		if err != nil {
			rest.Fail(r.Context(), apierrors.NewBadRequest(err.Error()))
			return
		}
		to := r.Clone(r.Context())
		to.URL.Path, to.URL.RawPath = path, "/"+q.Tail
		kubelet.ServeHTTP(w, to)
	}}
}

// meansKubelet says whether NAME, NAME:PORT or https:NAME:PORT is a node's kubelet.
func meansKubelet(asked, name string, port int) bool {
	parts := strings.Split(asked, ":")
	if len(parts) == 3 && (parts[0] == "https" || parts[0] == "") {
		parts = parts[1:]
	}
	return len(parts) < 3 && parts[0] == name && (len(parts) == 1 || parts[1] == "" || parts[1] == strconv.Itoa(port))
}
